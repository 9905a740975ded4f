"""What the words of the scoreboard mean: rows decoded to named values, and quantiles out of a histogram.

Metrics and the status documents both read through here, so they cannot disagree. Reading takes no lock: words
of one row may be of slightly different moments, which a reader of counters must expect anyway.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proxy import scoreboard as sb
from proxy.columns import LATENCY_BOUNDS_S, METHODS, STATUS_COLUMNS, STATUS_LABELS
from proxy.errors import REASON_INDEX
from proxy.scoreboard import Scoreboard


@dataclass(frozen=True, slots=True)
class WorkerReading:
    """One worker's row, or the sum of several. Bytes and counts are of the clients' side."""

    generation: int
    """Of the snapshot it serves from; in a sum the lowest, which is the one that all have applied."""
    connections: int
    tunnels: int
    exchanges: int
    """Requests in progress."""
    buffered_bytes: int
    """Bytes that wait in memory for slow readers."""
    accepted_total: int
    requests_total: int
    received_bytes_total: int
    sent_bytes_total: int
    accept_errors_total: int
    evicted_idle_total: int
    """Idle client connections closed to make room."""
    access_log_dropped_total: int
    messages_dropped_total: int
    """Messages to other processes whose mailboxes had no room."""
    refusals_total: Mapping[str, int]
    """By `Reason.code`; each reason has an entry."""


def read_worker(board: Scoreboard, worker: int) -> WorkerReading:
    """The row of worker number `worker`."""
    return _worker_reading(board.worker_row(worker).tolist())


def read_totals(board: Scoreboard) -> WorkerReading:
    """The sum over all workers."""
    rows = [board.worker_row(worker).tolist() for worker in board.used_workers]
    total = [sum(words) for words in zip(*rows, strict=True)] if rows else [0] * sb.WORKER_WORDS
    total[sb.W_GENERATION] = min((row[sb.W_GENERATION] for row in rows if row[sb.W_GENERATION]), default=0)
    return _worker_reading(total)


def _worker_reading(words: Sequence[int]) -> WorkerReading:
    return WorkerReading(
        generation=words[sb.W_GENERATION],
        connections=words[sb.W_CONNECTIONS],
        tunnels=words[sb.W_TUNNELS],
        exchanges=words[sb.W_EXCHANGES],
        buffered_bytes=words[sb.W_BUFFERED_BYTES],
        accepted_total=words[sb.W_ACCEPTED],
        requests_total=words[sb.W_REQUESTS],
        received_bytes_total=words[sb.W_RECEIVED_BYTES],
        sent_bytes_total=words[sb.W_SENT_BYTES],
        accept_errors_total=words[sb.W_ACCEPT_ERRORS],
        evicted_idle_total=words[sb.W_EVICTED_IDLE],
        access_log_dropped_total=words[sb.W_LOG_DROPPED],
        messages_dropped_total=words[sb.W_MESSAGES_DROPPED],
        refusals_total={reason.code: words[sb.W_REFUSALS + index] for reason, index in REASON_INDEX.items()},
    )


@dataclass(frozen=True, slots=True)
class EndpointReading:
    """The words of one endpoint, or of several, summed over all workers."""

    in_flight: int
    connections: int
    """Open, those in use and the idle ones."""
    idle: int
    connects_total: int
    connect_failures_total: int
    reused_total: int
    retries_total: int
    failures_total: int
    failure_kinds: tuple[int, ...]
    """Failed tries, one number for each `FailureKind`."""
    trials_total: int
    """Requests that tried an open circuit."""
    cancelled_total: int
    sent_bytes_total: int
    received_bytes_total: int
    latency_sum_s: float
    latency_counts: tuple[int, ...]
    """Answers per bucket, not cumulative: one for each of `LATENCY_BOUNDS_S` and one above the last."""
    requests: tuple[int, ...]
    """Answers, `STATUS_COLUMNS` for each of `METHODS`."""

    def answered(self) -> list[tuple[str, str, int]]:
        """(method, status label, count) of each pair that occurred."""
        found = []
        for column, count in enumerate(self.requests):
            if count:
                method, status = divmod(column, STATUS_COLUMNS)
                found.append((METHODS[method], STATUS_LABELS[status], count))
        return found

    def by_class(self) -> dict[str, int]:
        """Answers by status class: `1xx` to `5xx` and `other`, each with an entry."""
        counts = dict.fromkeys(("1xx", "2xx", "3xx", "4xx", "5xx", "other"), 0)
        for _, status, count in self.answered():
            counts[status if status == "other" else f"{status[0]}xx"] += count
        return counts

    def quantile_s(self, ratio: float) -> float | None:
        """Estimated latency below which `ratio` (0–1) of the answers stayed; `None` without answers."""
        return quantile(LATENCY_BOUNDS_S, self.latency_counts, ratio)


def read_endpoints(board: Scoreboard, slots: Iterable[int]) -> EndpointReading:
    """The words of the endpoints in `slots` as one: of a single endpoint, or the sum of a cluster's."""
    rows = [board.endpoint_sum(slot) for slot in slots]
    words = [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * sb.ENDPOINT_WORDS
    return EndpointReading(
        in_flight=words[sb.E_IN_FLIGHT],
        connections=words[sb.E_CONNECTIONS],
        idle=words[sb.E_IDLE],
        connects_total=words[sb.E_CONNECTS],
        connect_failures_total=words[sb.E_CONNECT_FAILURES],
        reused_total=words[sb.E_REUSED],
        retries_total=words[sb.E_RETRIES],
        failures_total=words[sb.E_FAILURES],
        failure_kinds=tuple(words[sb.E_FAILURE_KINDS : sb.E_LATENCY_SUM_US]),
        trials_total=words[sb.E_TRIALS],
        cancelled_total=words[sb.E_CANCELLED],
        sent_bytes_total=words[sb.E_SENT_BYTES],
        received_bytes_total=words[sb.E_RECEIVED_BYTES],
        latency_sum_s=words[sb.E_LATENCY_SUM_US] / 1e6,
        latency_counts=tuple(words[sb.E_LATENCY : sb.E_REQUESTS]),
        requests=tuple(words[sb.E_REQUESTS : sb.ENDPOINT_WORDS]),
    )


def quantile(bounds: Sequence[float], counts: Sequence[int], ratio: float) -> float | None:
    """The value below which `ratio` (0–1) of the counted values lie, or `None` when nothing was counted.

    `counts[i]` values are in (bounds[i-1], bounds[i]], the last one above all bounds. Values are taken as
    spread evenly in their bucket, as Prometheus' `histogram_quantile` does; above the last bound the last
    bound is all that is known. Example: bounds (1, 2), counts (4, 4, 0), ratio 0.75 asks for the 6th of 8,
    half way into (1, 2]: 1.5.
    """
    total = sum(counts)
    if total == 0:
        return None
    rank = ratio * total
    below = 0
    for index, bound in enumerate(bounds):
        if counts[index] and below + counts[index] >= rank:
            lower = bounds[index - 1] if index else 0.0
            return lower + (bound - lower) * max(rank - below, 0.0) / counts[index]
        below += counts[index]
    return bounds[-1]
