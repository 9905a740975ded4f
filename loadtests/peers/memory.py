"""What connections cost that do nothing: kept idle, or with a reply on its way that nobody reads."""

import contextlib
import http.client
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loadtests.peers.origin import SIZES
from loadtests.peers.processes import Child, kernel_tcp_bytes

REQUEST = b"GET /tiny HTTP/1.1\r\nHost: data.example\r\n\r\n"
LARGE_REQUEST = b"GET /8m HTTP/1.1\r\nHost: data.example\r\n\r\n"
WARM_UP_CONNECTIONS = 200
"""Opened first and not counted: they bring in code pages and first tables, which no further connection
costs."""
SPARE_DESCRIPTORS = 100
READER_BUFFER_BYTES = 4096
"""Receive buffer of a stalled reader: little of the reply may hide in the client's own socket."""
LIMIT_S = 20.0
SETTLE_LIMIT_S = 30.0
SETTLE_STEP_S = 0.5
SETTLED_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Held:
    """Memory that a number of connections took."""

    connections: int
    rss_bytes: int
    """Growth of the proxy's resident memory."""
    kernel_bytes: int
    """Growth of the kernel's TCP buffers, of both sides of the proxy and of both its neighbours. The kernel
    lets it come to the third number of net.ipv4.tcp_mem and no further, in all."""
    problems: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return self.rss_bytes + self.kernel_bytes


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, for children too, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def possible(connections: int) -> int:
    """At most `connections`, fewer where the limit of open files forbids them.

    A proxy needs two descriptors for a request, so a careful one takes half as many clients as it may have files
    open and closes idle ones beyond that.
    """
    most = raise_descriptor_limit() // 2 - WARM_UP_CONNECTIONS - SPARE_DESCRIPTORS
    return max(1, min(connections, most))


@contextlib.contextmanager
def _sockets() -> Iterator[list[socket.socket]]:
    """A list of sockets that are reset at the end: thousands in TIME_WAIT would use up the ports of the next
    proxy."""
    held: list[socket.socket] = []
    try:
        yield held
    finally:
        for sock in held:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()


def _connect(port: int, index: int, buffer_bytes: int | None = None) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(LIMIT_S)
    if buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    # Several source addresses: one has 28 000 ports, which other things here use as well.
    sock.bind((f"127.0.1.{1 + index % 8}", 0))
    sock.connect(("127.0.0.1", port))
    return sock


def _request_once(sock: socket.socket) -> None:
    sock.sendall(REQUEST)
    response = http.client.HTTPResponse(sock)
    response.begin()
    if response.status != 200 or response.read() != b"ok\n":
        raise OSError(f"wrong reply with status {response.status}")


def idle(proxy: Child, port: int, connections: int, step: Callable[[int], None]) -> Held:
    """Keep-alive connections that made one request each and stay open. `step` is told how many are open."""
    with _sockets() as held:
        try:
            for index in range(WARM_UP_CONNECTIONS):
                held.append(_connect(port, index))
                _request_once(held[-1])
            before = _settled(proxy)
            for index in range(connections):
                held.append(_connect(port, index))
                _request_once(held[-1])
                step(index)
            after = _settled(proxy)
        except (OSError, http.client.HTTPException) as error:
            return Held(connections, 0, 0, (f"connection {len(held)}: {error!r}",))
        gone = sum(map(_is_closed, held))
        found = (f"{gone} connections were closed",) if gone else ()
        return Held(connections, after[0] - before[0], after[1] - before[1], found)


def stalled(proxy: Child, port: int, connections: int, step: Callable[[int], None]) -> Held:
    """Readers that ask for 8 MB and read nothing; counted when memory has stopped growing."""
    with _sockets() as held:
        try:
            for _ in range(5):
                with _connect(port, 0) as sock:
                    _request_once(sock)
            before = _settled(proxy)
            for index in range(connections):
                held.append(_connect(port, index, READER_BUFFER_BYTES))
                held[-1].sendall(LARGE_REQUEST)
                step(index)
            after = _settled(proxy)
            wrong = sum(not _has_reply(sock) for sock in held)
        except OSError as error:
            return Held(connections, 0, 0, (f"connection {len(held)}: {error!r}",))
        found = (f"{wrong} readers have no reply of {SIZES['8m']} bytes",) if wrong else ()
        return Held(connections, after[0] - before[0], after[1] - before[1], found)


def _settled(proxy: Child) -> tuple[int, int]:
    """Resident and kernel bytes when neither has grown for two steps, or when the limit has passed."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    last, quiet = (proxy.rss_bytes(), kernel_tcp_bytes()), 0
    while quiet < 2 and time.monotonic() < deadline:
        time.sleep(SETTLE_STEP_S)
        current = proxy.rss_bytes(), kernel_tcp_bytes()
        quiet = quiet + 1 if abs(sum(current) - sum(last)) <= SETTLED_SHARE * sum(last) else 0
        last = current
    return last


def _is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _has_reply(sock: socket.socket) -> bool:
    """Whether the head of a 200 with the right length waits in the socket. Reads nothing."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        head = sock.recv(2048, socket.MSG_PEEK).lower()
        return head.startswith(b"http/1.1 200") and b"content-length: %d" % SIZES["8m"] in head
    return False
