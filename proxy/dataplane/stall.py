"""Whether a client that does not take its answer is slow or gone for good, and when to ask one that sent FIN.

A client that closed and one that only ended its sending side look the same until something is sent to it.
"""

import fcntl
import struct
import termios

from proxy.snapshot import Limits

# Seconds between two looks at a client that does not read.
STALL_CHECK_S = 1.0
# A client that sent FIN is first asked whether it is still there after this many seconds, then half as often each time.
FIRST_PROBE_S = 1.0


def unsent_bytes(fd: int) -> int:
    """Bytes in the kernel that the peer has not acknowledged yet (SIOCOUTQ of tcp(7))."""
    answer: tuple[int] = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))
    return answer[0]


class Stall:
    """How a client takes what waits for it, from the moment it could not take it at once."""

    __slots__ = ("_began", "_first", "_last", "_progress_at")

    def __init__(self, now: float, waiting: int) -> None:
        self._began = self._progress_at = now
        self._first = self._last = waiting

    def is_hopeless(self, waiting: int, timeout_s: float, limits: Limits, *, now: float) -> bool:
        """Whether nothing was taken for `timeout_s` (0 = no limit), or less than the minimum rate asks for."""
        if waiting < self._last:
            self._last = waiting
            self._progress_at = now
        elapsed = now - self._began
        too_slow = self._first - waiting < limits.min_rate_bytes_per_s * elapsed
        return (0.0 < timeout_s <= now - self._progress_at) or (
            elapsed > limits.min_rate_grace_s and too_slow
        )


class ProbeTimes:
    """When to ask a client that sent FIN whether it is still there."""

    __slots__ = ("_at", "_gap_s")

    def __init__(self, now: float) -> None:
        self._gap_s = FIRST_PROBE_S
        self._at = now + FIRST_PROBE_S

    def is_due(self, now: float) -> bool:
        """Whether to ask now; if so, the next time is twice as long away."""
        if now < self._at:
            return False
        self._gap_s *= 2
        self._at = now + self._gap_s
        return True
