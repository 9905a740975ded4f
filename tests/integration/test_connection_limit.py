"""Connections to an endpoint with `max_connections`, idle ones included, over all workers."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import Origin
from support.wait import wait_for


class OneAtATime(HTTPServer):
    """Serves one connection until it is closed, as a service does that has a thread for each and one thread."""

    request_queue_size = 64


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def single() -> Iterator[str]:
    with OneAtATime(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def limited(address: str, limit: int) -> dict[str, object]:
    config = settings.simple(address, workers=2)
    config["clusters"] = [settings.cluster("origin", {"address": address, "max_connections": limit})]
    return config


def one_client_of_each(daemon: Daemon, connect: OpenClient) -> list[Client]:
    clients: dict[int, Client] = {}
    while len(clients) < 2:
        client = connect(daemon)
        clients.setdefault(daemon.worker_of(client.sock), client)
    return [*clients.values()]


def test_an_idle_connection_makes_room_for_another_worker(
    start_daemon: StartDaemon, connect: OpenClient, single: str
) -> None:
    """One request after another, by turns; each takes the place of the other's idle connection, at once."""
    daemon = start_daemon(limited(single, 1))
    clients = one_client_of_each(daemon, connect)
    began = time.monotonic()
    assert [client.get("/").status for _ in range(20) for client in clients] == [200] * 40
    assert time.monotonic() - began < 10
    daemon.stop()


class Counting:
    """Listens, and knows how many connections it had at once: an end that has come by then is read first."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.open: list[socket.socket] = []
        self.peak = self.accepted = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.open.append(sock)
                self.accepted += 1
                self.peak = max(self.peak, sum(not _has_ended(one) for one in self.open))
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            while data := sock.recv(65536):
                for _ in range(data.count(b"\r\n\r\n")):
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except OSError:
            pass
        with self._lock:
            self.open.remove(sock)
            sock.close()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _has_ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_never_more_connections_than_the_limit(start_daemon: StartDaemon, connect: OpenClient) -> None:
    """In use and idle together, also while both workers want all of them; and they are used again."""
    origin = Counting()
    daemon = start_daemon(limited(origin.address, 3))
    clients = [connect(daemon) for _ in range(12)]
    assert len({daemon.worker_of(client.sock) for client in clients}) == 2
    for _ in range(30):
        for client in clients:
            client.send(request("GET", "/"))
        assert [client.reply().status for client in clients] == [200] * 12
        assert clients[0].get("/").status == 200
    assert origin.peak <= 3
    assert origin.accepted < 30 * 12
    daemon.stop()
    origin.stop()


def test_a_lower_limit_closes_idle_connections(
    start_daemon: StartDaemon, connect: OpenClient, path: str
) -> None:
    origin = Origin()
    entered = threading.Barrier(5)
    origin.on(path, lambda exchange: (entered.wait(15), exchange.reply(200, b"ok"))[1])
    daemon = start_daemon(limited(origin.address, 4))
    clients = [connect(daemon).send(request("GET", path)) for _ in range(4)]
    entered.wait(15)
    assert [client.reply().status for client in clients] == [200] * 4
    daemon.config["clusters"][0]["endpoints"][0]["max_connections"] = 1
    daemon.rewrite()
    wait_for(lambda: len(origin._open) <= 1, "idle connections to be closed")
    assert [client.get("/").status for client in clients] == [200] * 4
    # The origin sees the end of a connection a moment after it saw the next one.
    wait_for(lambda: len(origin._open) <= 1, "the limit to hold")
    daemon.stop()
    origin.stop()
