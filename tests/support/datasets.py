"""A data service: says what it holds, fetches what it does not, and loses it all when it starts anew."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class DataService:
    """At `127.0.0.1:port`, from when it is made until `stop`; `start` starts it again, with an empty cache."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.holds: set[str] = set()
        self.asked: list[tuple[str, bool]] = []
        """Key of each request for data, and whether it was there."""
        self.says: list[tuple[str, str]] = []
        """Further fields of answers to those."""
        self.residency: Any = None
        """The document, or the text, at /residency; `None` = what it holds."""
        self.residency_status = 200
        self.polls = 0
        self._port = 0
        self.start()

    def start(self) -> None:
        self.holds = set()
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def misses(self) -> int:
        return sum(not is_hit for _, is_hit in self.asked)

    def answer(self, key: str) -> list[tuple[str, str]]:
        """The fields of an answer about `key`."""
        is_hit = key in self.holds
        self.holds.add(key)
        self.asked.append((key, is_hit))
        return [("X-Data-Cache", "hit" if is_hit else "miss"), *self.says]

    def document(self) -> bytes:
        """What is at /residency."""
        self.polls += 1
        if isinstance(self.residency, bytes):
            return self.residency
        held = [{"key": key, "bytes": 1000} for key in sorted(self.holds)]
        return json.dumps({"resident": held} if self.residency is None else self.residency).encode()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """A process that ends takes its connections with it."""
        self.socket.close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: DataService

    def do_GET(self) -> None:
        service, status, fields = self.service, 200, []
        if self.path == "/residency":
            status, body = service.residency_status, service.document()
        else:
            body = service.name.encode()
            key = self.headers.get("X-Dataset-Id")
            fields = service.answer(key) if key else []
        self.send_response(status)
        for name, value in [*fields, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass
