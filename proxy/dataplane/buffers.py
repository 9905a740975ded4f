"""The budget for bytes that wait in a worker: when it is used up, the connections with the most are cut.

How much waits is known only by asking each connection, at 2 to 3 µs: 5 000 of them are asked a few at a time. Far below
the budget that happens once a second. What waits grows when a client does not take what is written to it, and it is
told of that; so a budget that fills up faster is noticed with the next tick.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from proxy.dataplane.pieces import Pieces
from proxy.errors import Reason
from proxy.scoreboard import W_BUFFERED_BYTES, Row

# Seconds between two looks at all connections while there is room.
LOOK_S = 1.0
# Above this share of the budget they are looked at with every tick.
PRESSED_SHARE = 0.75
# Connections that are asked in one piece: a third of a millisecond.
PIECE = 128
# Seconds between two pieces; none when the budget may be used up.
PAUSE_S = 0.002


class Holder(Protocol):
    """A connection that may hold bytes."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes held for its peers; 0 once it is closed."""
        ...

    def abort(self, reason: Reason) -> None:
        """Cut it at once."""
        ...


class BufferBudget:
    """Keeps what waits in one worker below a limit. `connections` are those that may hold anything."""

    def __init__(self, loop: asyncio.AbstractEventLoop, row: Row, connections: Iterable[Holder]) -> None:
        self._loop = loop
        self._row = row
        self._connections = connections
        self._found: list[tuple[int, Holder]] = []
        """What the present look has found so far."""
        self._look: Pieces[Holder] | None = None
        self._next_look = 0.0
        self._grown = 0
        """Bytes that came to wait since the last look began; some may be gone by now."""

    def __repr__(self) -> str:
        return f"BufferBudget({self._row[W_BUFFERED_BYTES]} bytes)"

    def on_blocked(self, waiting: int) -> None:
        """A client does not take what was written to it: so many bytes."""
        self._grown += waiting

    def tick(self, limit: int, now: float) -> None:
        """Look at all connections if it is time to; `limit` is the budget in bytes, 0 = none. Call it several times a
        second."""
        if self._look is not None and not self._look.is_over:
            return
        at_most = self._row[W_BUFFERED_BYTES] + self._grown
        if now < self._next_look and not 0 < limit * PRESSED_SHARE < at_most:
            return
        self._next_look = now + LOOK_S
        self._grown = 0
        self._found = []
        self._look = Pieces(
            self._loop,
            list(self._connections),
            self._ask,
            size=PIECE,
            pause_s=0.0 if 0 < limit < at_most else PAUSE_S,
            on_end=lambda: self._judge(limit),
        )
        self._look.begin()

    def _ask(self, piece: Sequence[Holder]) -> None:
        self._found += [(waiting, one) for one in piece if (waiting := one.buffered_bytes)]

    def _judge(self, limit: int) -> None:
        """All have been asked: cut those with the most until the rest is within the limit."""
        found, self._found = self._found, []
        total = sum([waiting for waiting, _ in found])
        if 0 < limit < total:
            found.sort(key=lambda one: one[0], reverse=True)
            for waiting, holder in found:
                holder.abort(Reason.OVER_BUFFER_BUDGET)
                total -= waiting
                if total <= limit:
                    break
        self._row[W_BUFFERED_BYTES] = total
