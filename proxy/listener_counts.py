"""How many connections each listener has, by its name, in a worker's row of the scoreboard.

A worker gives each of its listeners a pair of words: which listener it is, and how many connections came by it and are
open. A listener that is closed keeps its pair until the last of them has gone; one that comes under the same name has
another, and both count. So whoever reads needs nothing but a name, and no order of listeners that all agree on.
"""

from hashlib import blake2b

from proxy.scoreboard import MAX_LISTENERS, W_LISTENERS, Row

ANY = 1
"""In the last pair, which all share that find no other: those connections count for every name."""


_PAIRS = range(W_LISTENERS, W_LISTENERS + 2 * MAX_LISTENERS, 2)


class ListenerCount:
    """One listener's pair in the row of its worker."""

    __slots__ = ("_at", "_row", "connections")

    def __init__(self, row: Row, name: str) -> None:
        self._row = row
        self.connections = 0
        self._at = _PAIRS[-1]
        for at in _PAIRS[:-1]:
            if not row[at]:
                self._at = at
                row[at + 1] = 0
                row[at] = _mark(name)
                return
        row[self._at] = ANY

    def __repr__(self) -> str:
        return f"ListenerCount({self.connections})"

    def add(self, number: int) -> None:
        """One more connection, or one less."""
        self.connections += number
        self._row[self._at + 1] += number

    def rename(self, name: str) -> None:
        """The listener is called `name` from now on."""
        if self._row[self._at] != ANY:
            self._row[self._at] = _mark(name)

    def close(self) -> None:
        """There will be no more, and none is left."""
        if self._row[self._at] != ANY:
            self._row[self._at] = 0


def connections_of(row: Row, name: str) -> int:
    """Open connections that came by the listener called `name` to the worker of `row`."""
    marks = (_mark(name), ANY)
    return sum([row[at + 1] for at in _PAIRS if row[at] in marks])


def _mark(name: str) -> int:
    """A number above `ANY` that stands for `name`."""
    return int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "big") + ANY + 1
