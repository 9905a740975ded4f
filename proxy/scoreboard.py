"""The ledger of gauges and counters: single-writer rows of 64-bit words, summed by whoever reads.

Each worker writes only its own rows, with plain `+=` on a `memoryview` of 64-bit words, so there are no locks and the
request path pays about 75 ns a count. Control reads the rows for metrics and status at no cost to the workers. Gauges
and counters are apart: a dead worker's gauges can be cleared while its counters stay, so that no counter goes down.

Layout, in words, of one worker's part: `WORKER_WORDS` for the worker, then `ENDPOINT_WORDS` for each endpoint slot.
"""

import mmap
from bisect import bisect_left
from collections.abc import Sequence

from proxy.errors import Reason

# The methods that have a column of their own; all others count as OTHER.
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "OTHER")
METHOD_INDEX: dict[bytes, int] = {name.encode(): index for index, name in enumerate(METHODS)}
OTHER_METHOD = METHODS.index("OTHER")

# The statuses with a column of their own (the registered ones in use); others count under their class, `2xx` to `5xx`.
STATUSES = (
    101, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 307, 308,
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423,
    424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
)  # fmt: skip
STATUS_LABELS = tuple(str(status) for status in STATUSES) + ("2xx", "3xx", "4xx", "5xx", "other")
STATUS_COLUMNS = 64
assert len(STATUS_LABELS) <= STATUS_COLUMNS
STATUS_INDEX: dict[int, int] = {status: index for index, status in enumerate(STATUSES)}
for _status in range(1000):
    if _status not in STATUS_INDEX:
        _label = f"{_status // 100}xx" if 200 <= _status <= 599 else "other"
        STATUS_INDEX[_status] = STATUS_LABELS.index(_label)

# Upper bounds of the latency histogram's buckets in seconds: 1, 2, 5 per decade from 100 µs to 500 s. An answer from
# memory takes well under a millisecond, a heavy query minutes; the ratio of 2 to 2.5 bounds a quantile's error.
LATENCY_BOUNDS_S = tuple(
    mantissa * 10.0**exponent for exponent in range(-4, 3) for mantissa in (1.0, 2.0, 5.0)
)

# Words of a worker's own row. Gauges first.
W_HEARTBEAT_MS = 0
W_CONNECTIONS = 1
W_TUNNELS = 2
W_BUFFERED_BYTES = 3
W_GENERATION = 4
W_EXCHANGES = 5
WORKER_GAUGES = 8
W_ACCEPTED = 8
W_REQUESTS = 9
W_RECEIVED_BYTES = 10
W_SENT_BYTES = 11
W_ACCEPT_ERRORS = 12
W_LOG_DROPPED = 13
W_EVICTED_IDLE = 14
W_REFUSALS = 16
WORKER_WORDS = 64
assert W_REFUSALS + len(Reason) <= WORKER_WORDS

# Words of an endpoint's row. Gauges first.
E_IN_FLIGHT = 0
E_CONNECTIONS = 1
E_IDLE = 2
ENDPOINT_GAUGES = 8
E_CONNECTS = 8
E_CONNECT_FAILURES = 9
E_REUSED = 10
E_RETRIES = 11
E_FAILURES = 12
E_CANCELLED = 13
E_SENT_BYTES = 14
E_RECEIVED_BYTES = 15
E_LATENCY_SUM_US = 16
E_LATENCY = 17
E_REQUESTS = E_LATENCY + len(LATENCY_BOUNDS_S) + 1
ENDPOINT_WORDS = E_REQUESTS + len(METHODS) * STATUS_COLUMNS
MAX_ENDPOINTS = 1024


def latency_index(seconds: float) -> int:
    """Word of an endpoint's row that counts an answer which took `seconds`."""
    return E_LATENCY + bisect_left(LATENCY_BOUNDS_S, seconds)


def request_index(method: bytes, status: int) -> int:
    """Word of an endpoint's row that counts answers with `status` (0–999) to `method`."""
    return _REQUEST_WORDS.get(method, _OTHER_WORDS)[status]


# By method and status, worked out once: the request path asks for each answer.
_REQUEST_WORDS = {
    method: tuple(E_REQUESTS + index * STATUS_COLUMNS + STATUS_INDEX[status] for status in range(1000))
    for method, index in METHOD_INDEX.items()
}
_OTHER_WORDS = _REQUEST_WORDS[METHODS[OTHER_METHOD].encode()]


Row = memoryview
"""64-bit signed words; index with the constants of this module."""


class Scoreboard:
    """Rows for `workers` workers with `endpoints` endpoint slots each, all zero at first."""

    def __init__(self, workers: int = 1, endpoints: int = MAX_ENDPOINTS) -> None:
        self.workers = workers
        self.endpoints = endpoints
        self._words_per_worker = WORKER_WORDS + endpoints * ENDPOINT_WORDS
        # Anonymous memory: a page that no endpoint uses costs nothing.
        self._memory = mmap.mmap(-1, workers * self._words_per_worker * 8)
        self._words = memoryview(self._memory).cast("q")

    def worker_row(self, worker: int) -> Row:
        """The words of worker number `worker` (from 0)."""
        start = worker * self._words_per_worker
        return self._words[start : start + WORKER_WORDS]

    def endpoint_row(self, worker: int, slot: int) -> Row:
        """The words of the endpoint in `slot` (from 0) as seen by `worker`."""
        start = worker * self._words_per_worker + WORKER_WORDS + slot * ENDPOINT_WORDS
        return self._words[start : start + ENDPOINT_WORDS]

    def live_workers(self) -> list[int]:
        """Numbers of the workers that run: a heartbeat is a gauge, which is cleared when its worker ends."""
        step = self._words_per_worker
        return [worker for worker in range(self.workers) if self._words[worker * step + W_HEARTBEAT_MS]]

    def endpoint_words(self, word: int, workers: Sequence[int], slots: Sequence[int]) -> list[int]:
        """`word` of each of the endpoints in `slots`, summed over `workers`."""
        words = self._words
        sums = [0] * len(slots)
        for worker in workers:
            start = worker * self._words_per_worker + WORKER_WORDS + word
            found = [words[start + slot * ENDPOINT_WORDS] for slot in slots]
            sums = found if len(workers) == 1 else [a + b for a, b in zip(sums, found, strict=True)]
        return sums

    def worker_sum(self, word: int) -> int:
        """Sum of `word` over all workers."""
        step = self._words_per_worker
        return sum(self._words[worker * step + word] for worker in range(self.workers))

    def endpoint_sum(self, slot: int) -> list[int]:
        """An endpoint's words summed over all workers."""
        total = self.endpoint_row(0, slot).tolist()
        for worker in range(1, self.workers):
            total = [a + b for a, b in zip(total, self.endpoint_row(worker, slot).tolist(), strict=True)]
        return total

    def clear_endpoint(self, slot: int) -> None:
        """Zero an endpoint's words in every worker's part, before the slot serves another endpoint."""
        for worker in range(self.workers):
            row = self.endpoint_row(worker, slot)
            row[:] = memoryview(bytes(len(row) * 8)).cast("q")
