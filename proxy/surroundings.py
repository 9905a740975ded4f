"""What the clusters of one worker have around them: the other workers, control, the kernel's locks, and the loop."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from proxy.mailbox import Posts
from proxy.permits import WorkerLocks
from proxy.scoreboard import E_IN_FLIGHT, FRESH_MS, K_PENDING, K_WANT_SINCE_MS, W_HEARTBEAT_MS, Scoreboard


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Of the worker in slot `worker`."""

    scoreboard: Scoreboard
    worker: int
    posts: Posts
    locks: WorkerLocks
    rng: Random
    monotonic: Callable[[], float]
    soon: Callable[[Callable[[], None]], object]
    """Calls a function from the loop, soon (`loop.call_soon`)."""
    later: Callable[[float, Callable[[], None]], object]
    """Calls a function from the loop, after so many seconds (`loop.call_later`)."""


class Peers:
    """The other workers' words of the scoreboard."""

    __slots__ = ("_scoreboard", "_worker", "known")

    def __init__(self, scoreboard: Scoreboard, worker: int) -> None:
        self._scoreboard = scoreboard
        self._worker = worker
        self.known: list[int] = []
        """Numbers of the others that were alive at the last `look`."""

    def look(self) -> list[int]:
        """See who is alive."""
        self.known = [worker for worker in self._scoreboard.live_workers() if worker != self._worker]
        return self.known

    def in_flight(self, slots: list[int]) -> list[int]:
        """Requests that they have in flight at the endpoints in `slots`."""
        return self._scoreboard.endpoint_words(E_IN_FLIGHT, self.known, slots)

    def words(self, word: int, slots: list[int]) -> list[int]:
        """Sums of `word` of the endpoints in `slots`."""
        return self._scoreboard.endpoint_words(word, self.known, slots)

    def most(self, word: int, slot: int) -> int:
        """The greatest `word` of the endpoint in `slot` that any worker wrote: this one, others, or those before."""
        board = self._scoreboard
        return max([board.endpoint_row(worker, slot)[word] for worker in board.used_workers], default=0)

    def waiting(self, cluster: int, now: float) -> int:
        """Requests that wait there for an endpoint of the cluster in slot `cluster`. One that does not tick would have
        everybody wait for it, and does not count."""
        counts = self._scoreboard.cluster_words(K_PENDING, self.known, cluster)
        if not any(counts):
            return 0
        return sum(
            count
            for worker, count in zip(self.known, counts, strict=True)
            if count and self._is_fresh(worker, now)
        )

    def elder(self, cluster: int, rank_ms: int, now: float) -> int:
        """Who has the request that has waited longest there, if longer than one of `rank_ms`; -1 = nobody."""
        ranks = self._scoreboard.cluster_words(K_WANT_SINCE_MS, self.known, cluster)
        if not any(ranks):
            return -1
        found = [
            (rank, worker)
            for worker, rank in zip(self.known, ranks, strict=True)
            if 0 < rank < rank_ms and self._is_fresh(worker, now)
        ]
        return min(found)[1] if found else -1

    def _is_fresh(self, worker: int, now: float) -> bool:
        return now * 1000.0 - self._scoreboard.worker_row(worker)[W_HEARTBEAT_MS] < FRESH_MS
