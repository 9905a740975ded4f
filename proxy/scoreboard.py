"""The ledger of gauges and counters: single-writer rows of 64-bit words in shared memory, summed by whoever reads.

Each process writes only its own rows, with plain `+=` on a `memoryview` of 64-bit words, so there are no locks and the
request path pays about 75 ns a count; only the words of rate limits belong to all. Control reads the rows for metrics
and status at no cost to the workers. Gauges and counters are apart: a dead worker's gauges are cleared while its
counters stay, so that no counter goes down.

The memory is a memfd that the parent makes and every process inherits; pages that nobody writes cost nothing. An
aligned word is written and read whole, but the order between two words is not kept: what is longer than a word
travels by mailbox. Layout, in words:

    header      HEADER_WORDS      what the memory is: a mismatch is refused
    parent      PARENT_WORDS      written by the parent
    processes   SLOT_WORDS each   one row per worker slot, written by the parent
    control     CONTROL_WORDS     written by control
    standings   STANDING_WORDS each   one row per endpoint slot, written by control
    scalings    SCALING_WORDS each   one row per cluster slot, written by control
    rates       RATE_WORDS        `policy.rate_limit.RateTable`, which all workers write
    workers     one part per worker slot, written by the worker in it (by the parent when it is dead):
                WORKER_WORDS for itself, then ENDPOINT_WORDS for each endpoint slot, then CLUSTER_WORDS for each cluster
                slot
"""

import mmap
import os
import sys
from collections.abc import Sequence
from hashlib import blake2b

from proxy.columns import (
    LATENCY_BOUNDS_S,
    METHODS,
    STATUS_COLUMNS,
    STATUS_LABELS,
)
from proxy.errors import ProxyError, Reason
from proxy.policy.failures import FailureKind
from proxy.policy.ignored import Ignored
from proxy.policy.rate_limit import TABLE_WORDS

# Words of the header.
H_MAGIC = 0
H_LAYOUT = 1
H_WORKERS = 2
H_ENDPOINTS = 3
H_CLUSTERS = 4
HEADER_WORDS = 8
MAGIC = int.from_bytes(b"homeport", "big")

# Words of the parent. Times are of the monotonic clock, which all processes of a host share.
P_PID = 0
P_STATE = 1
P_GENERATION = 2
P_WANTED_WORKERS = 3
P_USED_SLOTS = 4
P_STARTED_MS = 5
P_REEXECS = 6
P_CONTROL_PID = 7
P_CONTROL_STARTED_MS = 8
P_CONTROL_STARTS = 9
P_CONTROL_STUCK = 10
P_CONTROL_EXIT = 11
P_DEADLY = 12
"""Key functions that ran when a worker ended, by the number that `W_FUNCTION` had; the latest first."""
MAX_DEADLY = 4
PARENT_WORDS = 16
assert P_DEADLY + MAX_DEADLY <= PARENT_WORDS

# Words of a process in a worker slot.
S_PID = 0
S_STATE = 1
S_STARTED_MS = 2
S_STARTS = 3
S_STUCK = 4
S_EXIT = 5
SLOT_WORDS = 8

# Words of control.
C_HEARTBEAT_MS = 0
C_ENDPOINT_SLOTS = 1
C_DNS_LOOKUPS = 2
C_DNS_FAILURES = 3
C_CERTIFICATES_FAILING = 4
C_CERTIFICATE_RELOADS = 5
C_RELOAD_REFUSED_LAST = 6
C_RELOADED_AT = 7
C_RELOADS_APPLIED = 8
C_RELOADS_UNCHANGED = 9
C_RELOADS_REFUSED = 10
C_RELOADS_PENDING = 11
C_STANDINGS = 12
"""Grows with each change in the rows of standings, after it: one word to look at instead of one per endpoint."""
C_CLUSTER_SLOTS = 13
C_RESULTS_DROPPED = 14
C_ENGINE_FAILING = 15
"""1 = the Docker Engine failed several times in a row and is left alone for now."""
C_DISCOVERY = 16
"""`DISCOVERY_WORDS` for each of `DISCOVERY_KINDS`, see `discovery_word`."""
DISCOVERY_KINDS = ("docker", "dns", "file")
D_FAILING = 0
"""Sources that cannot be asked now."""
D_ANSWERS = 1
D_FAILURES = 2
DISCOVERY_WORDS = 3
RELOAD_WORDS = {
    "applied": C_RELOADS_APPLIED,
    "unchanged": C_RELOADS_UNCHANGED,
    "refused": C_RELOADS_REFUSED,
    "pending": C_RELOADS_PENDING,
}
CONTROL_WORDS = 64

RATE_WORDS = TABLE_WORDS

# Words of an endpoint's standing, which control alone writes: what workers go by, and what control counts.
X_CIRCUIT = 0
"""`policy.breaker.Circuit`."""
X_MARKS = 1
"""`policy.standing.Marks`."""
X_DRAINED = 2
"""`BY_OPERATOR`, which is kept here for the next control, and `BY_SOURCE`."""
BY_OPERATOR = 1
BY_SOURCE = 2
"""Who found it says that it ends."""
X_LOAD_PERMILLE = 3
"""How busy the service says it is, plus one; 0 = it does not say."""
X_CHECK_BY_MS = 4
"""When the first check of one that is not checked yet is over at the latest, on the monotonic clock."""
STANDING_GAUGES = 5
X_OPENINGS = 5
X_EJECTIONS = 6
X_CHECKS = 7
X_CHECKS_FAILED = 8
X_RESIDENCY_ASKED = 9
"""Questions what data it holds."""
X_RESIDENCY_FAILED = 10
X_EJECTED_MS = 11
"""When its last ejection ends, or ended, on the monotonic clock; for the next control, like the next one."""
X_STRIKES = 12
"""Ejections up to that one that were not forgotten: the next one is as many times as long, and once more."""
STANDING_WORDS = 16

# Words of a cluster's scaler, which control alone writes: what the next control goes on from, and what it has counted.
Z_TARGET = 0
"""Instances there should be, plus one; 0 = nothing was decided."""
Z_PINNED = 1
"""What somebody set it to by hand, plus one; 0 = the load decides."""
Z_SERVING = 2
Z_STARTING = 3
Z_GOING = 4
"""Instances that drain, end, or are removed."""
Z_GROWN = 8
Z_SHRUNK = 9
Z_STARTS = 10
Z_STARTS_FAILED = 11
Z_COLD_STARTS = 12
"""Starts of a first instance while requests waited for it."""
Z_WAITED = 13
"""Requests that joined the queue while no instance served."""
Z_INSTANCE_MS = 14
"""Milliseconds that instances have existed, all together: what it costs."""
Z_HALTED = 15
"""Version of which the deployment was called off, without its last bit; 0 = none. Not a count."""
SCALING_WORDS = 16

# Words of a worker's own row. Gauges first.
W_HEARTBEAT_MS = 0
W_CONNECTIONS = 1
W_TUNNELS = 2
W_BUFFERED_BYTES = 3
W_GENERATION = 4
W_EXCHANGES = 5
W_ACCEPTING = 6
W_FUNCTION = 7
"""The key function that runs now (`dataplane.key_functions`), as a number; 0 = none does."""
WORKER_GAUGES = 8
W_ACCEPTED = 8
W_REQUESTS = 9
W_RECEIVED_BYTES = 10
W_SENT_BYTES = 11
W_ACCEPT_ERRORS = 12
W_LOG_DROPPED = 13
W_EVICTED_IDLE = 14
W_MESSAGES_DROPPED = 15
W_REFUSALS = 16
W_LISTENERS = 64
"""Gauges too: two words for each listener, see `listener_counts`."""
assert W_REFUSALS + len(Reason) <= W_LISTENERS
MAX_LISTENERS = 64
"""Listeners of a worker whose connections are counted apart; among them those that are closed and have some left."""
WORKER_WORDS = W_LISTENERS + 2 * MAX_LISTENERS

# Words of an endpoint's row. Gauges first.
E_IN_FLIGHT = 0
E_CONNECTIONS = 1
E_IDLE = 2
E_WORK_US = 3
"""Predicted work of the requests in flight (`policy.site.Placement`); only where data count."""
ENDPOINT_GAUGES = 8
E_CONNECTS = 8
E_CONNECT_FAILURES = 9
E_REUSED = 10
E_RETRIES = 11
E_FAILURES = 12
E_CANCELLED = 13
E_SENT_BYTES = 14
E_RECEIVED_BYTES = 15
E_TRIALS = 16
E_ENDED = 17
"""Requests that ended there, however; like the next four only where data count."""
E_DATA_HITS = 18
E_DATA_MISSES = 19
E_DATA_SURPRISES = 20
"""Misses of data that were believed to be there."""
E_DATA_MOVED_BYTES = 21
E_CACHE_BYTES = 22
"""How large its cache is believed to be; 0 = no end of it is known. Not a gauge: the next worker in the slot begins
with it."""
E_FAILURE_KINDS = 23
"""One word for each `policy.failures.FailureKind`, in their order."""
E_LATENCY_SUM_US = E_FAILURE_KINDS + len(FailureKind)
E_LATENCY = E_LATENCY_SUM_US + 1
E_REQUESTS = E_LATENCY + len(LATENCY_BOUNDS_S) + 1
ENDPOINT_WORDS = E_REQUESTS + len(METHODS) * STATUS_COLUMNS
MAX_ENDPOINTS = 1024

# Words of a cluster's row. Gauges first.
K_PENDING = 0
"""Requests that wait for an endpoint."""
K_WANT_SINCE_MS = 1
"""Rank of the first of them (`policy.admission.Ticket.rank`) in milliseconds; 0 = none waits."""
K_RETRYING = 2
K_DATA_KEYS = 3
"""Data keys that the worker knows."""
K_UNTRUSTED = 4
"""1 = predictions are worse than a plain model's, and data are left out of choices."""
K_YOUNGEST_MS = 5
"""Since when the youngest request in flight holds its permit; 0 = none does."""
CLUSTER_GAUGES = 8
K_QUEUED = 8
K_QUEUE_WAIT_US = 9
K_QUEUE_REFUSED = 10
K_QUEUE_TIMED_OUT = 11
K_QUEUE_LEFT = 12
K_RETRIES = 13
K_RETRIES_OVER_BUDGET = 14
K_PANIC_PICKS = 15
K_PREDICTIONS = 16
K_ERROR_US = 17
"""Sum of how far predictions of work and transfer were from what came."""
K_PLAIN_ERROR_US = 18
"""The same for a model that knows nothing of data."""
K_SHADOW_PICKS = 19
K_SHADOW_DIFFERS = 20
K_SHADOW_SAVED_US = 21
"""Predicted seconds by which the shadow's picks would have been done sooner, where they differ."""
K_SHADOW_LOST_US = 22
K_NEWS_SENT = 23
K_NEWS_DROPPED = 24
K_HELD_COUNT = 25
"""`policy.admission.ServiceTimes` of the requests that held permits: millionths, microseconds, milliseconds. Not
gauges: the next worker in the slot begins with them."""
K_HELD_US = 26
K_HELD_AT_MS = 27
K_IGNORED = 32
"""One word for each `policy.ignored.Ignored`, in their order."""
_IGNORED_WORDS = 16
assert len(Ignored) <= _IGNORED_WORDS
CLUSTER_WORDS = K_IGNORED + _IGNORED_WORDS
MAX_CLUSTERS = 1024

# Worker slots. Half are for workers that still drain while others have taken over, after a re-exec.
SLOTS = 32
MAX_WORKERS = SLOTS // 2

# What P_STATE says.
STATE_STARTING = 0
STATE_RUNNING = 1
STATE_DRAINING = 2

# What S_STATE says of a slot.
SLOT_EMPTY = 0
SLOT_SERVING = 1
SLOT_RETIRING = 2
SLOT_WAITING = 3
"""Its worker died; the next one starts after a pause."""

# A row whose heartbeat is older than this many milliseconds says nothing about now: two ticks of a worker.
FRESH_MS = 200


def discovery_word(kind: str, word: int) -> int:
    """Word of control's row with `word`, one of `D_…`, of the sources of a kind."""
    return C_DISCOVERY + DISCOVERY_KINDS.index(kind) * DISCOVERY_WORDS + word


Row = memoryview
"""64-bit signed words; index with the constants of this module."""


def _layout() -> int:
    """A number that changes with the meaning of any word, so that two versions never misread each other."""
    names = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, int)}
    order = [each.name for each in (*Reason, *FailureKind, *Ignored)]
    told = repr((sorted(names.items()), METHODS, STATUS_LABELS, LATENCY_BOUNDS_S, order))
    return int.from_bytes(blake2b(told.encode(), digest_size=7).digest(), "big")


class LayoutMismatch(ProxyError):
    """The memory was laid out by another version of Homeport."""


class Scoreboard:
    """Rows for `workers` worker slots with `endpoints` endpoint and `clusters` cluster slots each, all zero at first.

    Makes a memory of its own, or attaches to the one that the descriptor `fd` names (and does not close it). Raises
    `LayoutMismatch` when that one is of another version.
    """

    def __init__(
        self,
        workers: int = 1,
        endpoints: int = MAX_ENDPOINTS,
        clusters: int = MAX_CLUSTERS,
        *,
        fd: int | None = None,
    ) -> None:
        if fd is not None:
            workers, endpoints, clusters = _read_header(fd)
        self.workers = workers
        self.endpoints = endpoints
        self.clusters = clusters
        self._clusters_after = WORKER_WORDS + endpoints * ENDPOINT_WORDS
        self._words_per_worker = self._clusters_after + clusters * CLUSTER_WORDS
        self._slots_at = HEADER_WORDS + PARENT_WORDS
        self._control_at = self._slots_at + workers * SLOT_WORDS
        self._standings_at = self._control_at + CONTROL_WORDS
        self._scalings_at = self._standings_at + endpoints * STANDING_WORDS
        self._rates_at = self._scalings_at + clusters * SCALING_WORDS
        self._workers_at = self._rates_at + RATE_WORDS
        size = (self._workers_at + workers * self._words_per_worker) * 8
        self.fd = os.memfd_create("homeport-scoreboard") if fd is None else fd
        """The memory; close-on-exec unless passed on."""
        if fd is None:
            os.ftruncate(self.fd, size)
        elif os.fstat(fd).st_size != size:
            raise LayoutMismatch("the scoreboard has another size than its header says")
        self._words = memoryview(mmap.mmap(self.fd, size)).cast("q")
        if fd is None:
            self._words[:5] = memoryview(_words(MAGIC, _layout(), workers, endpoints, clusters)).cast("q")
            self.parent_row[P_USED_SLOTS] = workers

    def __repr__(self) -> str:
        return f"Scoreboard({self.workers} workers, {self.endpoints} endpoints, {self.clusters} clusters)"

    @property
    def parent_row(self) -> Row:
        """The words of the parent."""
        return self._words[HEADER_WORDS : HEADER_WORDS + PARENT_WORDS]

    @property
    def control_row(self) -> Row:
        """The words of control."""
        return self._words[self._control_at : self._control_at + CONTROL_WORDS]

    @property
    def rates(self) -> Row:
        """The words of the rate limits, which any worker writes."""
        return self._words[self._rates_at : self._workers_at]

    @property
    def deadly(self) -> Row:
        """The `P_DEADLY` words."""
        return self.parent_row[P_DEADLY : P_DEADLY + MAX_DEADLY]

    def standing_row(self, slot: int) -> Row:
        """What control says of the endpoint in `slot` (from 0)."""
        start = self._standings_at + slot * STANDING_WORDS
        return self._words[start : start + STANDING_WORDS]

    def scaling_row(self, slot: int) -> Row:
        """What control says of the scaler of the cluster in cluster slot `slot` (from 0)."""
        start = self._scalings_at + slot * SCALING_WORDS
        return self._words[start : start + SCALING_WORDS]

    def slot_row(self, worker: int) -> Row:
        """What the parent says of the process in worker slot `worker` (from 0)."""
        start = self._slots_at + worker * SLOT_WORDS
        return self._words[start : start + SLOT_WORDS]

    def worker_row(self, worker: int) -> Row:
        """The words of the worker in slot `worker` (from 0)."""
        start = self._workers_at + worker * self._words_per_worker
        return self._words[start : start + WORKER_WORDS]

    def endpoint_row(self, worker: int, slot: int) -> Row:
        """The words of the endpoint in `slot` (from 0) as seen by the worker in slot `worker`."""
        start = self._workers_at + worker * self._words_per_worker + WORKER_WORDS + slot * ENDPOINT_WORDS
        return self._words[start : start + ENDPOINT_WORDS]

    def cluster_row(self, worker: int, slot: int) -> Row:
        """The words of the cluster in cluster slot `slot` (from 0) as seen by the worker in slot `worker`."""
        start = (
            self._workers_at + worker * self._words_per_worker + self._clusters_after + slot * CLUSTER_WORDS
        )
        return self._words[start : start + CLUSTER_WORDS]

    def live_workers(self) -> list[int]:
        """Numbers of the workers that run: a heartbeat is a gauge, which is cleared when its worker ends."""
        words, start, step = self._words, self._workers_at + W_HEARTBEAT_MS, self._words_per_worker
        return [worker for worker in self.used_workers if words[start + worker * step]]

    def endpoint_words(self, word: int, workers: Sequence[int], slots: Sequence[int]) -> list[int]:
        """`word` of each of the endpoints in `slots`, summed over `workers`."""
        words = self._words
        sums = [0] * len(slots)
        for worker in workers:
            start = self._workers_at + worker * self._words_per_worker + WORKER_WORDS + word
            found = [words[start + slot * ENDPOINT_WORDS] for slot in slots]
            sums = found if len(workers) == 1 else [a + b for a, b in zip(sums, found, strict=True)]
        return sums

    @property
    def used_workers(self) -> range:
        """The worker slots that have ever been in use; the others' pages are better not touched."""
        return range(self._words[HEADER_WORDS + P_USED_SLOTS])

    def endpoint_sum(self, slot: int) -> list[int]:
        """An endpoint's words summed over all workers."""
        total = [0] * ENDPOINT_WORDS
        for worker in self.used_workers:
            row = self.endpoint_row(worker, slot).tolist()
            total = [a + b for a, b in zip(total, row, strict=True)]
        return total

    def cluster_words(self, word: int, workers: Sequence[int], slot: int) -> list[int]:
        """`word` of the cluster in `slot`, of each of `workers`."""
        words, step = self._words, self._words_per_worker
        start = self._workers_at + self._clusters_after + slot * CLUSTER_WORDS + word
        return [words[start + worker * step] for worker in workers]

    def cluster_sum(self, slot: int) -> list[int]:
        """A cluster's words summed over all workers; of no meaning for `K_WANT_SINCE_MS`."""
        total = [0] * CLUSTER_WORDS
        for worker in self.used_workers:
            row = self.cluster_row(worker, slot).tolist()
            total = [a + b for a, b in zip(total, row, strict=True)]
        return total

    def clear_endpoint(self, slot: int) -> None:
        """Zero an endpoint's words in every part, before the slot serves another endpoint."""
        for worker in self.used_workers:
            _clear(self.endpoint_row(worker, slot))
        _clear(self.standing_row(slot))

    def clear_cluster(self, slot: int) -> None:
        """Zero a cluster's words in every part, before the slot serves another cluster."""
        for worker in self.used_workers:
            _clear(self.cluster_row(worker, slot))
        _clear(self.scaling_row(slot))

    def keep_function(self, worker: int) -> None:
        """Remember the key function in which a worker ended, if it did. For the parent, before gauges are cleared."""
        number, known = self.worker_row(worker)[W_FUNCTION], self.deadly.tolist()
        if number and number not in known:
            self.deadly[:] = memoryview(_words(number, *known[:-1])).cast("q")

    def clear_gauges(self, worker: int) -> None:
        """Zero what a dead worker said of the moment; what it counted stays."""
        _clear(self.worker_row(worker)[:WORKER_GAUGES])
        _clear(self.worker_row(worker)[W_LISTENERS:])
        # Rows beyond were never written: reading them would make their pages.
        for slot in range(min(self.control_row[C_ENDPOINT_SLOTS], self.endpoints)):
            _clear(self.endpoint_row(worker, slot)[:ENDPOINT_GAUGES])
        for slot in range(min(self.control_row[C_CLUSTER_SLOTS], self.clusters)):
            _clear(self.cluster_row(worker, slot)[:CLUSTER_GAUGES])


def _clear(row: Row) -> None:
    row[:] = memoryview(bytes(len(row) * 8)).cast("q")


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, sys.byteorder, signed=True) for value in values)


def _read_header(fd: int) -> tuple[int, int, int]:
    """Worker, endpoint and cluster slots of the memory `fd`. Raises `LayoutMismatch`."""
    words = memoryview(os.pread(fd, HEADER_WORDS * 8, 0)).cast("q")
    if len(words) < HEADER_WORDS or words[H_MAGIC] != MAGIC or words[H_LAYOUT] != _layout():
        raise LayoutMismatch("the scoreboard was laid out by another version")
    return words[H_WORKERS], words[H_ENDPOINTS], words[H_CLUSTERS]
