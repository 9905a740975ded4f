"""Permits, connections and trials of endpoints, exact over all workers, as locks that the kernel keeps.

`max_connections: n` is n bytes of a file, and a request in flight holds a write lock on one of them; n more are held by
open connections, and as many trials of an open circuit as may be at once are bytes of the same file. Nobody can hold a
byte that another holds, the locks of a worker that dies are free at that moment, and those of old workers go on
counting while new ones serve beside them. So there is nothing that could be lost, doubled or would have to be counted
again; accounts of permits that travel between workers in messages need epochs, acknowledgements and audits for that. A
lock and its release take 1.6 µs together.

The locks are open file description locks (fcntl(2), Linux 3.15): they belong to what `open` made, not to the process.
A descriptor that was inherited or sent shares the locks of its origin, so each worker opens the files anew by
/proc/self/fd. The kernel keeps the locks of a file in a list, in which neighbours of one owner are one entry, and
looks through it with every call: 800 entries make a lock and its release 10 µs. That is why there are several files,
and why a worker takes the lowest of the bytes that it had before, and begins its search at a place of its own.

Standard library only: the parent imports this.
"""

import fcntl
import os
import struct
from collections.abc import Sequence
from heapq import heappop, heappush
from weakref import WeakValueDictionary

# Files over which the endpoints are spread by their slots, at a descriptor each in every process.
LOCK_FILES = 8
# Bytes of an endpoint: permits from the first on, connections from a quarter on, trials from the middle on. A file of
# memory has none of them; locks may be beyond its end.
_REGION = 1 << 32
_CONNECTIONS_AT = 1 << 30
_TRIALS_AT = 1 << 31
MAX_PERMITS = _CONNECTIONS_AT
# Bytes of which the owner is asked in one search, 0.7 µs each. What was not found goes on being looked for at the next
# search; a byte that nobody finds at once costs a request a moment of waiting.
MAX_LOOKS = 256
# Bytes this worker had, and that others have now, after which it is no use to try more of them.
_MAX_MISSES = 4
# Bytes to be tried first, beyond which what others say is not remembered.
_MAX_EXPECTED = 64
# Parts of a circle by the golden ratio: any number of workers begin far from each other.
_GOLDEN = 0.6180339887

# struct flock of 64-bit Linux: type, whence, start, length, process (0 for these locks).
_FLOCK = struct.Struct("hhqqi4x")


class LockFiles:
    """The files, as the parent keeps them for its workers."""

    def __init__(self, fds: Sequence[int] = ()) -> None:
        """Those behind `fds`, from before a re-exec, or new ones."""
        self.fds = tuple(fds) or tuple(os.memfd_create("homeport-locks") for _ in range(LOCK_FILES))
        """Close-on-exec unless passed on."""

    def __repr__(self) -> str:
        return f"LockFiles({len(self.fds)})"

    def close(self) -> None:
        """Close them; who opened them anew keeps its locks."""
        for fd in self.fds:
            os.close(fd)


class Bytes:
    """A range of bytes of which up to `limit` are held at once over all workers: permits, connections, or trials.

    One object for each range and worker: for the kernel whoever opened the file may lock again what it has.
    """

    __slots__ = ("_base", "_fd", "_freed", "_held", "_next", "_start_ratio")

    def __init__(self, fd: int, base: int, start_ratio: float) -> None:
        self._fd = fd
        self._base = base
        self._start_ratio = start_ratio
        self._held: set[int] = set()
        self._freed: list[int] = []
        """A heap of bytes that are likely to be free."""
        self._next = -1
        """Where the search goes on."""

    def __repr__(self) -> str:
        return f"Bytes({sorted(self._held)})"

    def __len__(self) -> int:
        """How many this worker holds."""
        return len(self._held)

    def take(self, limit: int) -> int:
        """The number of a byte below `limit` that is held from now on; -1 = none was found."""
        freed, held = self._freed, self._held
        misses = 0
        while freed and misses < _MAX_MISSES:
            number = heappop(freed)
            if number >= limit:
                freed.clear()
            elif number not in held:
                if self._lock(number):
                    held.add(number)
                    return number
                misses += 1
        freed.clear()
        return self._search(min(limit, MAX_PERMITS))

    def give(self, number: int) -> None:
        """Give back what `take` gave, once."""
        self._held.remove(number)
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._flock(fcntl.F_UNLCK, number))
        heappush(self._freed, number)

    def expect(self, number: int) -> None:
        """Try this one first: another worker has just given it back."""
        if len(self._freed) < _MAX_EXPECTED:
            heappush(self._freed, number)

    def _search(self, limit: int) -> int:
        held = self._held
        at = self._next if 0 <= self._next < limit else int(limit * self._start_ratio)
        left, looks = limit, MAX_LOOKS
        while left > 0 and looks:
            if at >= limit:
                at = 0
            if at in held:
                end = at + 1
            else:
                looks -= 1
                end = self._taken_until(at)
                if end == at:
                    if self._lock(at):
                        held.add(at)
                        self._next = at + 1
                        return at
                    end = at + 1  # taken between the two calls
            left -= end - at
            at = end
        self._next = at
        return -1

    def _taken_until(self, number: int) -> int:
        """The first byte behind the other worker's lock on `number`; `number` itself when there is none."""
        asked = self._flock(fcntl.F_WRLCK, number)
        kind, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked))
        return number if kind == fcntl.F_UNLCK else int(start + length - self._base)

    def _lock(self, number: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._flock(fcntl.F_WRLCK, number))
        except OSError:  # another's, or the kernel has no memory for it
            return False
        return True

    def _flock(self, kind: int, number: int) -> bytes:
        return _FLOCK.pack(kind, 0, self._base + number, 1, 0)


class EndpointLocks:
    """The locks of one endpoint, as one worker has them."""

    __slots__ = ("__weakref__", "connections", "permits", "trials")

    def __init__(self, fd: int, base: int, start_ratio: float) -> None:
        self.permits = Bytes(fd, base, start_ratio)
        self.connections = Bytes(fd, base + _CONNECTIONS_AT, start_ratio)
        self.trials = Bytes(fd, base + _TRIALS_AT, 0.0)

    def __repr__(self) -> str:
        return f"EndpointLocks(permits={self.permits!r}, trials={self.trials!r})"


class WorkerLocks:
    """The locks of one worker."""

    __slots__ = ("_endpoints", "_files", "_start_ratio")

    def __init__(self, fds: Sequence[int], worker: int) -> None:
        """Open the files behind `fds` anew for the worker in slot `worker`; `fds` stay the caller's. Raises
        `OSError`."""
        self._files = [os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC) for fd in fds]
        self._start_ratio = worker * _GOLDEN % 1.0
        self._endpoints: WeakValueDictionary[int, EndpointLocks] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"WorkerLocks({len(self._endpoints)} endpoints)"

    def of(self, slot: int) -> EndpointLocks:
        """The locks of the endpoint in `slot`; the same object for as long as anybody has it."""
        locks = self._endpoints.get(slot)
        if locks is None:
            fd = self._files[slot % len(self._files)]
            locks = self._endpoints[slot] = EndpointLocks(fd, slot * _REGION, self._start_ratio)
        return locks

    def close(self) -> None:
        """Let go of everything."""
        for fd in self._files:
            os.close(fd)
        self._files.clear()
