"""Messages between the processes of one daemon: what is longer than a word of the scoreboard, and descriptors.

A channel is a pair of Unix sockets of type SOCK_SEQPACKET: whole messages, in order, kept by the kernel while either
end is open in any process, so what was sent outlives a reader that crashes. Messages are small JSON objects; what is
longer travels as a sealed memfd, whose descriptor goes with the message, as listening sockets do. Nobody ever waits
here: a full channel says so, and the sender tries again later.

Standard library only: the parent and the workers import this.
"""

import errno
import fcntl
import json
import os
import socket
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# The kernel passes at most this many descriptors with a message (SCM_MAX_FD in include/net/scm.h).
MAX_DESCRIPTORS = 253
# The longest message names the listeners: 128 with the longest names and paths make 44 KiB and take 130 descriptors.
MAX_MESSAGE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """What came: an object, and descriptors that now belong to the receiver."""

    body: dict[str, Any]
    fds: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors that nobody wants."""
        _close(self.fds)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


class Channel:
    """One end of a pair of sockets; non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    def __repr__(self) -> str:
        return f"Channel({self._sock.fileno()})"

    @classmethod
    def from_fd(cls, fd: int) -> "Channel":
        """The end that was inherited as descriptor `fd`, which now belongs to the channel."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd))

    def fileno(self) -> int:
        """The descriptor; readable when there is a message, or when nobody holds the other end any more."""
        return self._sock.fileno()

    def send(self, body: dict[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send a message with copies of `fds`; false when there is no room for it now, and then nothing was sent: the
        channel is full, or more descriptors are on their way than a process may have open.

        Raises `OSError` when the other end is closed, and `ValueError` for a message longer than `MAX_MESSAGE_BYTES`,
        of which the receiver would read only the beginning.
        """
        data = json.dumps(body).encode()
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(data)} bytes is longer than {MAX_MESSAGE_BYTES}")
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], control)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            return False
        return True

    def receive(self) -> Message | None:
        """The next message, `None` when there is none. Raises `EOFError` when the other end is closed, and `ValueError`
        for what is no JSON object, which is out of the way then."""
        received = self._receive()
        if received is None:
            return None
        data, fds = received
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            _close(fds)
            raise ValueError(f"no JSON object: {data[:100]!r}")
        return Message(body, fds)

    def clear(self) -> None:
        """Drop all that waits, whatever it is."""
        while (received := self._receive()) is not None:
            _close(received[1])

    def _receive(self) -> tuple[bytes, tuple[int, ...]] | None:
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
        try:
            data, control, _, _ = self._sock.recvmsg(MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except ConnectionResetError as error:
            raise EOFError("the other end is closed") from error
        if not data:
            raise EOFError("the other end is closed")
        fds = array("i")
        for level, kind, value in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
        return data, tuple(fds)

    def close(self) -> None:
        """Close this end."""
        self._sock.close()


class Posts:
    """The mailboxes of others, to write to. What has no room is not sent; what is sent waits there for whoever reads it
    next: whoever needs to know that a message arrived must be able to tell by other means."""

    def __init__(self, workers: Sequence[Channel], control: Channel | None = None) -> None:
        self._workers = workers
        self._control = control
        self.on_dropped: Callable[[], None] = lambda: None
        """Called for each message that is not sent."""

    def __repr__(self) -> str:
        return f"Posts({len(self._workers)} workers)"

    def to_worker(self, slot: int, body: dict[str, Any]) -> bool:
        """Write to the worker in `slot`; false when there is no room."""
        return self._send(self._workers[slot], body)

    def to_control(self, body: dict[str, Any]) -> bool:
        """Write to control; false when there is no room."""
        assert self._control is not None
        return self._send(self._control, body)

    def _send(self, channel: Channel, body: dict[str, Any]) -> bool:
        try:
            is_sent = channel.send(body)
        except OSError:
            is_sent = False
        if not is_sent:
            self.on_dropped()
        return is_sent


def posts_from(text: str, *, has_control: bool) -> Posts:
    """The mailboxes behind the inherited descriptors that the parent wrote as `text`: control's first, if it is among
    them, then the workers' by slot."""
    channels = [Channel.from_fd(int(fd)) for fd in text.split(",")]
    return Posts(channels[1:], channels[0]) if has_control else Posts(channels)


def channel_pair() -> tuple[Channel, Channel]:
    """Two connected ends."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(first), Channel(second)


_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def sealed(data: bytes, name: str) -> int:
    """A descriptor of a memory file that holds `data` and that nobody can change any more; `name` is for /proc."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def unsealed(fd: int) -> bytes:
    """What the memory file `fd` holds. The descriptor stays open; its position does not matter."""
    size = os.fstat(fd).st_size
    parts = []
    at = 0
    while at < size and (part := os.pread(fd, size - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
