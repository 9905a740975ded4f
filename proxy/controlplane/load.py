"""What the requests of a cluster are at, from what workers count: the samples that the scaler decides by.

Nothing is asked of the workers: all of it is in the scoreboard already. How much work a request is is seen from the
time that it took, over the last minute. An instance that has more than it works on at once lets requests wait inside
it, and that time is no work: at twice as many as slots, half of it.
"""

from collections.abc import Iterable, Mapping, Sequence

from proxy.policy.admission import DEFAULT_URGENCY
from proxy.policy.balancer import goes_by_data
from proxy.policy.deploying import Answers
from proxy.policy.failures import FailureKind
from proxy.policy.window import RollingSums
from proxy.policy.wishes import Load
from proxy.scoreboard import (
    E_CONNECTS,
    E_FAILURE_KINDS,
    E_IN_FLIGHT,
    E_LATENCY,
    E_LATENCY_SUM_US,
    E_REQUESTS,
    E_REUSED,
    E_WORK_US,
    K_PENDING,
    K_QUEUE_LEFT,
    K_QUEUE_REFUSED,
    K_QUEUE_TIMED_OUT,
    K_QUEUED,
    K_WANT_SINCE_MS,
    Scoreboard,
)
from proxy.snapshot import ClusterSpec, EndpointSpec

WINDOW_S = 60.0
"""Seconds over which the time of a request is averaged."""

# An answer 429 is no failure of the version that gives it.
_FAILED = [
    E_FAILURE_KINDS + index for index, kind in enumerate(FailureKind) if kind is not FailureKind.RATE_LIMITED
]

_TURNED_AWAY = (K_QUEUE_REFUSED, K_QUEUE_TIMED_OUT, K_QUEUE_LEFT)


class LoadMeter:
    """The load of one cluster."""

    __slots__ = (
        "_answers",
        "_at",
        "_board",
        "_counted",
        "_queued_total",
        "_waiting",
        "_waiting_since",
        "request_s",
    )

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._counted: dict[str, tuple[int, int, int]] = {}
        """Of each endpoint at the last sample: requests sent, microseconds of answers, answers."""
        self._answers = RollingSums(4, WINDOW_S)
        self._at: float | None = None
        self._waiting = 0
        self._waiting_since: float | None = None
        self._queued_total = 0
        self.request_s = 0.0
        """Seconds of work of a request when there last were answers; 0 = there were none."""

    def __repr__(self) -> str:
        return f"LoadMeter({self.request_s:.6g} s a request)"

    def sample(
        self, cluster: ClusterSpec, endpoints: Sequence[EndpointSpec], slots: int, *, now: float
    ) -> Load | None:
        """The load of `endpoints`, which are of `cluster` and work on `slots` requests each, and of its queue; `None`
        while no worker runs, and at the first time, when there is nothing to compare with."""
        board, last_at, self._at = self._board, self._at, now
        if not board.live_workers():
            self._at = None
            return None
        rows, workers = [spec.slot for spec in endpoints], board.used_workers
        in_flight = sum(board.endpoint_words(E_IN_FLIGHT, workers, rows))
        sent = self._count(endpoints, in_flight, is_first=last_at is None, now=now)
        queued, turned_away = self._count_queue(cluster)
        wait_s = self._queue_wait_s(cluster, queued, now)
        if last_at is None or now <= last_at:
            return None
        self._learn(slots * len(endpoints), now)
        work_s = self.request_s * in_flight
        if goes_by_data(cluster):
            work_s = sum(board.endpoint_words(E_WORK_US, workers, rows)) / 1e6
        arrived = max(sent + turned_away, 0)
        return Load(
            in_flight=in_flight,
            queued=queued,
            work_s=work_s + self.request_s * queued,
            queue_wait_s=wait_s,
            arrivals_per_s=arrived / (now - last_at),
        )

    def _count(self, endpoints: Sequence[EndpointSpec], in_flight: int, *, is_first: bool, now: float) -> int:
        """Take in what the endpoints' rows say; returns how many requests were sent since the last time."""
        board, workers = self._board, self._board.used_workers
        rows = [spec.slot for spec in endpoints]
        sent = _sums(board, (E_CONNECTS, E_REUSED), rows)
        took_us = board.endpoint_words(E_LATENCY_SUM_US, workers, rows)
        answers = _sums(board, range(E_LATENCY, E_REQUESTS), rows)
        last, self._counted = self._counted, {}
        news = [0, 0, 0]
        for spec, *counts in zip(endpoints, sent, took_us, answers, strict=True):
            before = last.get(spec.id, tuple(counts) if is_first else (0, 0, 0))
            self._counted[spec.id] = (counts[0], counts[1], counts[2])
            news = [sum_ + max(count - old, 0) for sum_, count, old in zip(news, counts, before, strict=True)]
        self._answers.add((news[1] / 1e6, news[2], in_flight, 1.0), now)
        return news[0]

    def _count_queue(self, cluster: ClusterSpec) -> tuple[int, int]:
        """How many wait, and how many more came than were sent on since the last time."""
        board, workers = self._board, self._board.used_workers
        waiting = sum(board.cluster_words(K_PENDING, workers, cluster.slot))
        gone = sum(sum(board.cluster_words(word, workers, cluster.slot)) for word in _TURNED_AWAY)
        more = waiting + gone - self._waiting
        self._waiting = waiting + gone
        return waiting, more

    def in_flight(self, slots: Mapping[str, int]) -> dict[str, int]:
        """Requests and tunnels in flight at the endpoint in each of the rows `slots`."""
        counts = self._board.endpoint_words(E_IN_FLIGHT, self._board.used_workers, [*slots.values()])
        return dict(zip(slots, counts, strict=True))

    def answers(self, slots: Mapping[str, int]) -> dict[str, Answers]:
        """What requests to the endpoint in each of the rows `slots` came to."""
        board, workers, rows = self._board, self._board.used_workers, [*slots.values()]
        sent = _sums(board, (E_CONNECTS, E_REUSED), rows)
        failed = _sums(board, _FAILED, rows)
        took_us = board.endpoint_words(E_LATENCY_SUM_US, workers, rows)
        answered = _sums(board, range(E_LATENCY, E_REQUESTS), rows)
        return {
            own: Answers(sent, failed, took_us / 1e6, answered)
            for own, sent, failed, took_us, answered in zip(
                slots, sent, failed, took_us, answered, strict=True
            )
        }

    def is_waiting(self, cluster: ClusterSpec) -> bool:
        """Whether any request waits in the queue."""
        return any(self._board.cluster_words(K_PENDING, self._board.used_workers, cluster.slot))

    def newly_queued(self, cluster: ClusterSpec) -> int:
        """How many requests joined the queue since the last call."""
        total = sum(self._board.cluster_words(K_QUEUED, self._board.used_workers, cluster.slot))
        last, self._queued_total = self._queued_total, total
        return max(total - last, 0)

    def _queue_wait_s(self, cluster: ClusterSpec, queued: int, now: float) -> float:
        """How long the first has waited. Its rank says so if it is of the usual urgency; in any case it waits no longer
        than anybody does."""
        if not queued:
            self._waiting_since = None
            return 0.0
        if self._waiting_since is None:
            self._waiting_since = now
        ranks = self._board.cluster_words(K_WANT_SINCE_MS, self._board.used_workers, cluster.slot)
        first = min((rank for rank in ranks if rank), default=0) / 1000.0
        came_at = first - DEFAULT_URGENCY * cluster.queue.ageing_s
        return min(max(now - came_at, 0.0), now - self._waiting_since)

    def _learn(self, slots: int, now: float) -> None:
        """The time of a request in a slot. With 0.4 s for each, and 8 in flight in 4 slots: 0.2 s."""
        took_s, answers, in_flight, samples = self._answers.sums_at(now)
        if answers:
            crowd = max(in_flight / samples / slots, 1.0) if slots else 1.0
            self.request_s = took_s / answers / crowd


def _sums(board: Scoreboard, words: Iterable[int], rows: Sequence[int]) -> list[int]:
    """Some words of the endpoints in `rows`, each endpoint's added up over all workers."""
    found = [board.endpoint_words(word, board.used_workers, rows) for word in words]
    return [sum(column) for column in zip(*found, strict=True)]
