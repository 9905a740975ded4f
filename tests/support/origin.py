"""A scripted origin: what it does with a path is a Python function that has the raw socket."""

import queue
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from support.wait import LIMIT_S, wait_for
from support.wire import Cut, Fields, Stream, framing, parse_request, read_chunked

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Exchange:
    """A request that the origin received, and the means to answer it."""

    def __init__(
        self, connection: int, number: int, head: bytes, sock: socket.socket, stream: Stream
    ) -> None:
        self.connection = connection
        """Which connection, from 1, over the life of the origin."""
        self.number = number
        """Which request of its connection, from 1."""
        self.head = head
        self.method, self.target, self.minor, self.fields = parse_request(head)
        self.sock = sock
        self.stream = stream
        self.body = bytearray()
        self.trailers = Fields()
        self.complete = False
        """The whole body arrived."""
        self.events: queue.Queue[str] = queue.Queue()
        """For handlers that report to their test."""

    @property
    def path(self) -> str:
        return self.target.split("?", 1)[0]

    def read_body(self) -> bytes:
        """Read what is left of the body; `Cut` when it ends early."""
        if self.complete:
            return bytes(self.body)
        length = framing(self.fields)
        if length and "100-continue" in self.fields.tokens("expect"):
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if length == -1:
            self.trailers = read_chunked(self.stream, self.body)
        elif length:
            while len(self.body) < length:
                if not self.stream.buffer and not self.stream.fill():
                    raise Cut(bytes(self.body))
                self.body += self.stream.take(length - len(self.body))
        self.complete = True
        return bytes(self.body)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, status: int = 200, body: bytes = b"", *lines: str) -> None:
        """A plain response by Content-Length."""
        head = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body)}", *lines]
        self.send("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)

    def close(self) -> None:
        """End the connection with a FIN, whatever waits to be read."""
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """End the connection with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_gone(self) -> bytes:
        """Wait until the proxy closes or resets the connection; what it still sent. `TimeoutError` if it
        stays."""
        return self.stream.rest()


Handler = Callable[[Exchange], None]


class Origin:
    """Listens on a free port (or a Unix socket) and answers by script; everything else gets `200 ok`.

    Of what is sent to a `narrow` one the kernel takes about 33 KB while it does not read, instead
    of some MB: its segments are small, from which the size of the sender's buffer follows.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        unix: Path | None = None,
        port: int = 0,
        name: str = "",
        *,
        narrow: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self._tls = tls
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._seen: list[Exchange] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.faults: list[str] = []
        """Requests that were not well-formed, and handlers that failed: a test's end asserts that there are
        none."""
        if unix is not None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(unix))
            self.address = f"unix:{unix}"
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.socket(family)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if narrow:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
                self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 400)
            self._listener.bind((host, port))
            self.port = self._listener.getsockname()[1]
            self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._listener.listen(512)
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def on(self, path: str, handler: Handler | bytes, *, early: bool = False) -> None:
        """Answer `path` (without query) by `handler`, or by exact bytes; `early` calls it before the body is
        read."""
        if isinstance(handler, bytes):
            data = handler
            self._handlers[path] = (lambda exchange: exchange.send(data), early)
        else:
            self._handlers[path] = (handler, early)

    def seen(self, path: str | None = None) -> list[Exchange]:
        """Requests for `path` so far, recorded when their head arrived."""
        with self._lock:
            return [one for one in self._seen if path is None or one.path == path]

    def wait_seen(self, path: str, count: int = 1) -> list[Exchange]:
        """The same, once there are `count`."""
        return wait_for(
            lambda: len(self.seen(path)) >= count and self.seen(path), f"{count} requests for {path}"
        )

    def only(self, path: str) -> Exchange:
        """The one request for `path`."""
        exchanges = self.wait_seen(path)
        assert len(exchanges) == 1, [one.head for one in exchanges]
        return exchanges[0]

    def stop(self) -> None:
        """Stop listening and drop every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT_S)
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for sock in left:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # already gone
        wait_for(lambda: not self._open, "origin's connections to end")

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with self._lock:
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock: socket.socket, connection: int) -> None:
        sock.settimeout(2 * LIMIT_S)
        try:
            if self._tls is not None:
                plain = sock
                sock = self._tls.wrap_socket(plain, server_side=True)
                with self._lock:
                    self._open.discard(plain)
                    self._open.add(sock)
            self._requests(sock, connection)
        except (Cut, OSError, queue.Empty):
            pass  # the proxy went away, which is its right, or the test did before its word to go on
        except Exception as error:
            self.faults.append(f"{type(error).__name__}: {error}")
        finally:
            sock.close()
            with self._lock:
                self._open.discard(sock)

    def _requests(self, sock: socket.socket, connection: int) -> None:
        stream = Stream(sock)
        number = 0
        while sock.fileno() >= 0:
            head = stream.until(b"\r\n\r\n")
            number += 1
            exchange = Exchange(connection, number, head, sock, stream)
            handler, early = self._handlers.get(exchange.path, (lambda one: one.send(OK), False))
            with self._lock:
                self._seen.append(exchange)
            if not early:
                exchange.read_body()
            handler(exchange)
            if sock.fileno() >= 0:
                exchange.read_body()
