"""The accept gate of a worker: whether it is its turn to take a connection, by what all workers' rows say."""

from collections.abc import Callable

from proxy.policy.fairness import may_accept
from proxy.scoreboard import FRESH_MS, W_ACCEPTING, W_CONNECTIONS, W_HEARTBEAT_MS, Scoreboard

# A worker that is ahead leaves a connection to the others for this long: a busy one comes round within it, and to a
# client it is nothing.
PATIENCE_S = 0.01
# Seconds between two looks meanwhile.
LOOK_S = 0.001


class AcceptGate:
    """Compares the connections of the workers that share the listening sockets."""

    __slots__ = ("_asked_at", "_board", "_monotonic", "_number", "_since", "workers")

    def __init__(self, board: Scoreboard, number: int, monotonic: Callable[[], float]) -> None:
        self._board = board
        self._number = number
        self._monotonic = monotonic
        self._since = 0.0
        """Since when a connection is left to the others; 0 = none is."""
        self._asked_at = 0.0
        self.workers = 1
        """How many workers share the sockets."""

    def __repr__(self) -> str:
        return f"AcceptGate({self._number} of {self.workers})"

    @property
    def other_connections(self) -> int:
        """Client connections of the other workers, those included that drain."""
        board = self._board
        return sum(
            board.worker_row(each)[W_CONNECTIONS] for each in board.used_workers if each != self._number
        )

    def is_open(self) -> bool:
        """Whether this worker may take a connection now; to be asked while one waits."""
        if self.workers == 1 and len(self._board.used_workers) <= 1:
            return True
        now = self._monotonic()
        if may_accept(self._board.worker_row(self._number)[W_CONNECTIONS], self._others(now)):
            self._since = 0.0
            return True
        if not self._since or now - self._asked_at > PATIENCE_S:
            self._since = now  # another connection: the one left before was taken
        self._asked_at = now
        if now - self._since < PATIENCE_S:
            return False
        self._since = 0.0
        return True

    def _others(self, now: float) -> list[int]:
        """Connections of the other workers that take some; a stopped or dead one at 0 would stall all."""
        fresh_ms = int(now * 1000) - FRESH_MS
        board = self._board
        rows = [board.worker_row(each) for each in board.used_workers if each != self._number]
        return [row[W_CONNECTIONS] for row in rows if row[W_ACCEPTING] and row[W_HEARTBEAT_MS] >= fresh_ms]
