"""A raw client: sends exact bytes, reads exact replies, closes, half-closes and resets."""

import errno
import socket
import ssl
import struct
from collections.abc import Callable

from support.wait import LIMIT_S
from support.wire import Cut, Reply, Stream, read_reply

Address = tuple[str, int] | str
"""`(host, port)`, or the path of a Unix socket."""

HOST = "t.test"


def request(
    method: str, target: str, *lines: str, body: bytes | None = None, host: str | None = HOST, minor: int = 1
) -> bytes:
    """A request with `lines` as further fields; `body` adds its Content-Length; `host=None` leaves Host
    out."""
    head = [f"{method} {target} HTTP/1.{minor}"]
    if host is not None:
        head.append(f"Host: {host}")
    head += lines
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def reset(sock: socket.socket) -> None:
    """Close with a RST instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def connect(address: Address, receive_buffer: int = 0) -> socket.socket:
    """A connected socket; `receive_buffer` > 0 bounds the kernel's part of what waits for us."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(LIMIT_S)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


class Client:
    """One connection to the proxy. Every read fails after `LIMIT_S`, so a hang is a failure."""

    def __init__(
        self,
        address: Address,
        receive_buffer: int = 0,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        before_tls: bytes = b"",
    ) -> None:
        """With `tls` the handshake is made at once, after the bytes `before_tls`."""
        self.address = address
        self.sock = connect(address, receive_buffer)
        if tls is not None:
            self.sock.sendall(before_tls)
            self.sock = tls.wrap_socket(self.sock, server_hostname=server_name)
        self.stream = Stream(self.sock)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(self, data: bytes) -> "Client":
        """Send all of `data`; a peer that is gone is not an error, reading will tell."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return self

    def reply(self, method: str = "GET") -> Reply:
        """The next final reply, or `Cut`."""
        return read_reply(self.stream, method)

    def ask(
        self,
        method: str,
        target: str,
        *lines: str,
        body: bytes | None = None,
        host: str | None = HOST,
        minor: int = 1,
    ) -> Reply:
        """Send one request and read its reply."""
        return self.send(request(method, target, *lines, body=body, host=host, minor=minor)).reply(method)

    def get(self, target: str, *lines: str, host: str | None = HOST) -> Reply:
        return self.ask("GET", target, *lines, host=host)

    def reply_or_cut(self, method: str = "GET") -> Reply | None:
        """The next reply, `None` when the connection ended before it was complete."""
        try:
            return self.reply(method)
        except Cut:
            return None

    def assert_closed(self) -> None:
        """The proxy closes the connection and sends nothing more."""
        rest = self.stream.rest()
        assert rest == b"", f"unexpected bytes before the end: {rest[:200]!r}"

    def assert_open(self, target: str) -> None:
        """The connection serves another request."""
        assert self.get(target).status == 200

    def is_cut(self) -> bool:
        """Whether the proxy closed or reset the connection, found without reading what waits."""
        state: int = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return state != 1  # TCP_ESTABLISHED

    def half_close(self) -> None:
        """Send FIN; a peer that is gone is not an error, reading will tell."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def reset(self) -> None:
        reset(self.sock)

    def close(self) -> None:
        self.sock.close()


OpenClient = Callable[..., Client]
"""`(daemon, listener="plain", **options)`: a client that is closed at the end of the test."""
