"""How long permits of a cluster are held, over all workers, so that all of them predict the same wait.

Each worker writes what its own requests took, and which of those in flight is the youngest; each reads all. What is
known stays until newer requests end, also when the worker that wrote it is replaced.
"""

from proxy.endpoint import Hold
from proxy.policy.admission import ServiceTimes, mean_held_s
from proxy.scoreboard import K_HELD_AT_MS, K_HELD_COUNT, K_HELD_US, K_YOUNGEST_MS, Scoreboard

# A count in which newer requests weigh more is no whole number: the word is in millionths.
_COUNT_UNIT = 1e6


class Holding:
    """The permits of one cluster that this worker's requests hold, and what all workers know of such."""

    __slots__ = ("_board", "_held", "_row", "_slot", "_times")

    def __init__(self, board: Scoreboard, worker: int, slot: int) -> None:
        self._board = board
        self._slot = slot
        self._row = board.cluster_row(worker, slot)
        self._held: dict[Hold, None] = {}
        """Those in flight, in the order in which they began."""
        self._times = _times(*(self._row[word] for word in _WORDS))

    def __repr__(self) -> str:
        return f"Holding({len(self._held)} held, {self._times!r})"

    def begin(self, hold: Hold) -> None:
        """A request holds a permit."""
        self._held[hold] = None
        self._row[K_YOUNGEST_MS] = _ms(hold.since)

    def end(self, hold: Hold, *, now: float) -> None:
        """It does not any more."""
        del self._held[hold]
        youngest = next(reversed(self._held), None)
        row, times = self._row, self._times
        row[K_YOUNGEST_MS] = 0 if youngest is None else _ms(youngest.since)
        held_s = now - hold.since
        # One that was cut would have taken longer: it tells something only if it took long already.
        if hold.is_cut and held_s < (times.mean_s() or 0.0):
            return
        times.add(held_s, now=now)
        row[K_HELD_COUNT] = int(times.count * _COUNT_UNIT)
        row[K_HELD_US] = int(times.total_s * 1e6)
        row[K_HELD_AT_MS] = int(times.at * 1000.0)

    def mean_s(self, *, now: float) -> float | None:
        """Seconds that a permit is held: at least as long as each of those in flight has been held already. `None` when
        nothing is known."""
        board, workers = self._board, self._board.used_workers
        youngest_ms = max(board.cluster_words(K_YOUNGEST_MS, workers, self._slot), default=0)
        columns = [board.cluster_words(word, workers, self._slot) for word in _WORDS]
        mean_s = mean_held_s([_times(*words) for words in zip(*columns, strict=True)])
        if not youngest_ms:
            return mean_s
        return max(mean_s or 0.0, now - youngest_ms / 1000.0, 0.0)


_WORDS = (K_HELD_COUNT, K_HELD_US, K_HELD_AT_MS)


def _times(count: int, total_us: int, at_ms: int) -> ServiceTimes:
    return ServiceTimes(count / _COUNT_UNIT, total_us / 1e6, at_ms / 1000.0)


def _ms(since: float) -> int:
    return max(int(since * 1000.0), 1)
