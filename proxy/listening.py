"""Listening sockets: one per bind address, made or inherited by the parent, and shared by all workers.

Standard library only: the parent imports this.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence

from proxy.model import Address, TcpAddress, UnixAddress

BACKLOG = 4096
# Unsent bytes that the kernel keeps for a client (tcp(7)). Without it a stalled reader costs up to 4 MB of kernel
# memory, with it 86 KB; throughput of a fast reader does not change.
NOTSENT_LOWAT_BYTES = 64 * 1024

# Longest wait for "does anybody listen there?"; a Unix connect is immediate unless the backlog is full.
_PROBE_S = 1.0


def bind_socket(bind: Address, *, overlapping: Sequence[socket.socket] = ()) -> socket.socket:
    """A listening, non-blocking socket on `bind`, with the options that accepted connections inherit.

    A Unix socket's file that nobody listens on any more is replaced. The address may overlap those of `overlapping`,
    our own sockets, as 0.0.0.0:80 and 127.0.0.1:80 do. Raises `OSError`.
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
            if overlapping:
                _allow_overlap([sock, *overlapping], True)
            sock.bind((bind.host, bind.port))
        sock.setblocking(False)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        _allow_overlap(overlapping, False)
    if overlapping:
        _allow_overlap([sock], False)
    return sock


def _allow_overlap(sockets: Iterable[socket.socket], is_allowed: bool) -> None:
    """The kernel lets listening sockets overlap when all of them say so while the last is bound (socket(7),
    SO_REUSEPORT). Only for that moment: for good it would let a second daemon share the port by mistake."""
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_allowed)


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
    raise OSError(errno.EADDRINUSE, "in use: another process listens there", path)


def bound_address(sock: socket.socket) -> Address:
    """Where `sock` is bound, with the port that was free."""
    name = sock.getsockname()
    return TcpAddress(name[0], name[1]) if isinstance(name, tuple) else UnixAddress(name)


class ListeningSockets:
    """The open listening sockets by what they were asked for.

    Sockets that somebody else bound, the service manager, are used for listeners on their address and kept while there
    is none: he goes on listening, and nobody else can have the address.
    """

    def __init__(self, inherited: Iterable[socket.socket] = ()) -> None:
        self._open: dict[str, socket.socket] = {}
        self._inherited = set(inherited)
        self._spare = list(self._inherited)

    def __repr__(self) -> str:
        return f"ListeningSockets({', '.join(self._open)})"

    def describe(self) -> list[tuple[str, int, bool]]:
        """Key (empty when none uses it), descriptor, and whether it was inherited, of each socket."""
        keyed = [*self._open.items(), *(("", sock) for sock in self._spare)]
        return [(key, sock.fileno(), sock in self._inherited) for key, sock in keyed]

    def restore(self, key: str, sock: socket.socket, *, is_inherited: bool) -> None:
        """Take over a socket that was described so before a re-exec."""
        if is_inherited:
            self._inherited.add(sock)
        if key:
            self._open[key] = sock
        else:
            self._spare.append(sock)

    def update(self, wanted: Mapping[str, Address]) -> list[socket.socket]:
        """Have a socket for each of `wanted`, in its order, and close those that are not wanted any more.

        All or nothing: raises `BindFailed` when one cannot be had, and then nothing has changed.
        """
        made: dict[str, socket.socket] = {}
        for key, bind in wanted.items():
            if key not in self._open:
                try:
                    made[key] = self._take_spare(bind) or self._bind(bind, wanted)
                except OSError as error:
                    for sock in made.values():
                        self._drop(sock)
                    raise BindFailed(key, error) from error
        for key in [key for key in self._open if key not in wanted]:
            self._drop(self._open.pop(key))
        self._open |= made
        return [self._open[key] for key in wanted]

    def close(self) -> None:
        """Close all."""
        for sock in self._open.values():
            self._drop(sock)
        for sock in self._spare:
            sock.close()
        self._open.clear()
        self._spare.clear()
        self._inherited.clear()

    def _take_spare(self, bind: Address) -> socket.socket | None:
        for sock in self._spare:
            if bound_address(sock) == bind:
                self._spare.remove(sock)
                sock.setblocking(False)
                if isinstance(bind, TcpAddress):
                    _set_options(sock)
                return sock
        return None

    def _bind(self, bind: Address, wanted: Mapping[str, Address]) -> socket.socket:
        try:
            return bind_socket(bind)
        except OSError as error:
            leaving = [sock for key, sock in self._open.items() if key not in wanted]
            overlapping = [sock for sock in leaving if _has_port_of(sock, bind)]
            if error.errno != errno.EADDRINUSE or not overlapping:
                raise
        return bind_socket(bind, overlapping=overlapping)

    def _drop(self, sock: socket.socket) -> None:
        if sock in self._inherited:
            self._spare.append(sock)
        else:
            _close(sock)


def _has_port_of(sock: socket.socket, bind: Address) -> bool:
    bound = bound_address(sock)
    return isinstance(bound, TcpAddress) and isinstance(bind, TcpAddress) and bound.port == bind.port


class BindFailed(Exception):
    """The address of `key` cannot be bound."""

    def __init__(self, key: str, error: OSError) -> None:
        super().__init__(key, error)
        self.key = key
        self.why = error.strerror or str(error)

    def __str__(self) -> str:
        return f"{self.key}: {self.why}"


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
