"""Listening sockets: one per bind address, made or inherited by the parent, and shared by all workers.

Standard library only: the parent imports this.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping

from proxy.model import Address, TcpAddress, UnixAddress

BACKLOG = 4096
# Unsent bytes that the kernel keeps for a client (tcp(7)). Without it a stalled reader costs up to 4 MB of kernel
# memory, with it 86 KB; throughput of a fast reader does not change.
NOTSENT_LOWAT_BYTES = 64 * 1024

# Longest wait for "does anybody listen there?"; a Unix connect is immediate unless the backlog is full.
_PROBE_S = 1.0


def bind_socket(bind: Address) -> socket.socket:
    """A listening, non-blocking socket on `bind`, with the options that accepted connections inherit.

    A Unix socket's file that nobody listens on any more is replaced. Raises `OSError`.
    """
    if isinstance(bind, UnixAddress):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(bind, UnixAddress):
            remove_stale_socket(bind.path)
            sock.bind(bind.path)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _set_options(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((bind.host, bind.port))
        sock.setblocking(False)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)


def remove_stale_socket(path: str) -> None:
    """Remove a socket file that nobody listens on any more. Raises `OSError` when somebody does, or it is no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another process listens there", path)


def bound_address(sock: socket.socket) -> Address:
    """Where `sock` is bound, with the port that was free."""
    name = sock.getsockname()
    return TcpAddress(name[0], name[1]) if isinstance(name, tuple) else UnixAddress(name)


class ListeningSockets:
    """The open listening sockets by what they were asked for."""

    def __init__(self, inherited: Iterable[socket.socket] = ()) -> None:
        """`inherited` are sockets that somebody else bound; each is used for the first listener on its address."""
        self._open: dict[str, socket.socket] = {}
        self._inherited = list(inherited)

    def __repr__(self) -> str:
        return f"ListeningSockets({', '.join(self._open)})"

    @property
    def by_key(self) -> Mapping[str, socket.socket]:
        """The sockets by key."""
        return self._open

    def restore(self, key: str, sock: socket.socket) -> None:
        """Take over a socket that was open under `key` before a re-exec."""
        self._open[key] = sock

    def update(self, wanted: Mapping[str, Address]) -> list[socket.socket]:
        """Have a socket for each of `wanted`, in its order, and close those that are not wanted any more.

        All or nothing: raises `BindFailed` when one cannot be had, and then nothing has changed.
        """
        made: dict[str, socket.socket] = {}
        for key, bind in wanted.items():
            if key not in self._open:
                try:
                    made[key] = self._take_inherited(bind) or bind_socket(bind)
                except OSError as error:
                    for sock in made.values():
                        _close(sock)
                    raise BindFailed(key, error) from error
        unwanted = [key for key in self._open if key not in wanted]
        for key in unwanted:
            _close(self._open.pop(key))
        self._open |= made
        return [self._open[key] for key in wanted]

    def close(self) -> None:
        """Close all."""
        for sock in [*self._open.values(), *self._inherited]:
            _close(sock)
        self._open.clear()
        self._inherited.clear()

    def _take_inherited(self, bind: Address) -> socket.socket | None:
        for sock in self._inherited:
            if bound_address(sock) == bind:
                self._inherited.remove(sock)
                sock.setblocking(False)
                if isinstance(bind, TcpAddress):
                    _set_options(sock)
                return sock
        return None


class BindFailed(Exception):
    """The address of `key` cannot be bound."""

    def __init__(self, key: str, error: OSError) -> None:
        super().__init__(key, error)
        self.key = key
        self.error = error

    def __str__(self) -> str:
        return f"{self.key}: {self.error.strerror or self.error}"


def _close(sock: socket.socket) -> None:
    """Close, and remove the file of a Unix socket: whoever connects to it would wait for nobody."""
    address = bound_address(sock)
    sock.close()
    if isinstance(address, UnixAddress) and address.path and not address.path.startswith("\0"):
        try:
            os.unlink(address.path)
        except OSError:
            pass  # somebody was tidier, or the directory is read-only by now


def encode_address(address: Address) -> list[str | int]:
    """`address` as JSON has it in messages."""
    return [address.path] if isinstance(address, UnixAddress) else [address.host, address.port]


def decode_address(encoded: list[str | int]) -> Address:
    """The address that `encode_address` encoded."""
    if len(encoded) == 1:
        return UnixAddress(str(encoded[0]))
    return TcpAddress(str(encoded[0]), int(encoded[1]))
