"""An origin that numbers what it receives, so that every reply can be traced to its request."""

import socket

from support.origin import Exchange, Origin
from support.wire import Stream


class NumberingOrigin(Origin):
    """Answers each request with its number, or by a script of exact bytes."""

    def __init__(self) -> None:
        self._scripts: dict[str, tuple[list[bytes], bool]] = {}
        super().__init__()

    def script(self, path: str, pieces: list[bytes], *, stay: bool) -> None:
        """Answer requests for `path` with `pieces`, sent one by one, and then close unless told to `stay`."""
        self._scripts[path] = pieces, stay

    def body_for(self, serial: int) -> bytes:
        """What request number `serial`, from 1, is answered with."""
        return f"{serial} {self.seen()[serial - 1].target}".encode("latin-1")

    def _requests(self, sock: socket.socket, connection: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = Stream(sock)
        number = 0
        while sock.fileno() >= 0:
            number += 1
            exchange = Exchange(connection, number, stream.until(b"\r\n\r\n"), sock, stream)
            with self._lock:
                self._seen.append(exchange)
                serial = len(self._seen)
            exchange.read_body()
            if exchange.path in self._scripts:
                self._play(exchange)
                continue
            body = self.body_for(serial)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX-Serial: {serial}\r\n\r\n"
            exchange.send(head.encode() + (b"" if exchange.method == "HEAD" else body))

    def _play(self, exchange: Exchange) -> None:
        pieces, stay = self._scripts[exchange.path]
        for piece in pieces:
            exchange.send(piece)
        if not stay:
            exchange.close()
