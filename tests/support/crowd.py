"""Many clients of one daemon with several workers, each known by the worker that has its connection."""

from support.client import Client, request
from support.daemon import Daemon
from support.origin import Exchange

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def echo(exchange: Exchange) -> None:
    """An upgraded connection on which everything comes back."""
    exchange.send(SWITCHING)
    while exchange.stream.buffer or exchange.stream.fill():
        exchange.send(bytes(exchange.stream.take(len(exchange.stream.buffer))))


class Tunnel:
    """A client's end of an upgraded connection."""

    def __init__(self, daemon: Daemon) -> None:
        self.client = Client(daemon.address())
        self.client.send(request("GET", "/tunnel", *UPGRADE))
        assert b" 101 " in self.client.stream.until(b"\r\n\r\n")

    def is_alive(self) -> bool:
        self.client.send(b"ping")
        return bytes(self.client.stream.exactly(4)) == b"ping"


class Crowd:
    """Keep-alive connections and tunnels on both workers of a daemon."""

    def __init__(self, daemon: Daemon, clients: int = 8, tunnels: int = 4) -> None:
        self.daemon = daemon
        self.clients = [Client(daemon.address()) for _ in range(clients)]
        for client in self.clients:
            client.assert_open("/")
        self.tunnels = [Tunnel(daemon) for _ in range(tunnels)]
        self.worker = {one: daemon.worker_of(one.sock) for one in [*self.clients, *self._tunnel_clients]}

    @property
    def _tunnel_clients(self) -> list[Client]:
        return [tunnel.client for tunnel in self.tunnels]

    def assert_served(self, except_by: int = 0) -> int:
        """Those that are not with the worker `except_by` are served; how many requests that took."""
        served = [one for one in self.clients if self.worker[one] != except_by]
        for client in served:
            client.assert_open("/")
        assert all(one.is_alive() for one in self.tunnels if self.worker[one.client] != except_by)
        return len(served)

    def close(self) -> None:
        for client in [*self.clients, *self._tunnel_clients]:
            client.close()


def is_whole(daemon: Daemon) -> bool:
    try:
        status = daemon.status()
    except OSError:
        return False
    is_applied = status["applied_generation"] == status["generation"]
    return (
        is_applied and status["unready_reason"] is None and len(daemon.workers()) == status["workers_wanted"]
    )


def answered(daemon: Daemon) -> float:
    """Requests that endpoints answered, all in all."""
    return sum(
        value for name, value in daemon.metrics().items() if name.startswith("data_service_requests_total{")
    )
