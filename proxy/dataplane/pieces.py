"""Work on thousands of connections, a few of them at a time, with whatever else there is to do in between.

A request meets the loop four times on its way, so what keeps the loop for ten milliseconds is added to its time up to
four times over; a hundred pieces of a tenth of a millisecond are not noticed.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Pieces(Generic[T]):
    """Calls `act` with up to `size` of `items` at once, then with the next ones, `pause_s` later (0 = in the loop's
    next turn), and at the end `on_end`. The first piece is done by `begin`. An error of `act` or `on_end` is logged and
    ends it."""

    __slots__ = ("_act", "_done", "_items", "_loop", "_on_end", "_pause_s", "_size", "is_over")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        items: Sequence[T],
        act: Callable[[Sequence[T]], None],
        *,
        size: int,
        pause_s: float = 0.0,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._items = items
        self._act = act
        self._size = size
        self._pause_s = pause_s
        self._on_end = on_end
        self._done = 0
        self.is_over = False

    def __repr__(self) -> str:
        return f"Pieces({self._done} of {len(self._items)})"

    def begin(self) -> None:
        """Do the first piece, and have the others done."""
        try:
            self._act(self._items[self._done : self._done + self._size])
            self._done += self._size
            if self._done < len(self._items):
                self._go_on()
                return
            if self._on_end is not None:
                self._on_end()
        except Exception:
            _log.exception("internal error after %r", self)
        self.is_over = True

    def _go_on(self) -> None:
        if self._pause_s:
            self._loop.call_later(self._pause_s, self.begin)
        else:
            self._loop.call_soon(self.begin)
