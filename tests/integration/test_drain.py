"""SIGTERM and SIGINT: stop accepting, finish what is in flight, tell the others, exit 0; a second signal
forces."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import settings
from support.client import Client, request
from support.client import connect as connect_socket
from support.daemon import Daemon, StartDaemon
from support.origin import OK, Exchange, Origin
from support.wait import LIMIT_S, wait_for

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
BODY = b"z" * 300_000


def held(exchange: Exchange) -> None:
    """Begin the reply, and end it when the test says so."""
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY[:1000])
    exchange.events.get(timeout=2 * LIMIT_S)
    exchange.send(BODY[1000:])


def held_back(exchange: Exchange) -> None:
    """Answer when the test says so."""
    exchange.events.get(timeout=2 * LIMIT_S)
    exchange.send(OK)


def is_refused(daemon: Daemon) -> bool:
    """Whether new connections are refused, or closed without an answer."""
    try:
        sock = connect_socket(daemon.address())
    except ConnectionRefusedError:
        return True
    with sock:
        sock.settimeout(0.5)
        try:
            sock.sendall(request("GET", "/"))
            return sock.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


@pytest.fixture
def draining(start_daemon: StartDaemon, origin: Origin) -> Iterator[Daemon]:
    daemon = start_daemon(settings.simple(origin.address, drain_timeout="20s"))
    yield daemon
    daemon.assert_quiet()


def test_in_flight_finishes(draining: Daemon, origin: Origin, path: str) -> None:
    """Requests in flight get their whole reply; no new connection is taken; the exit code is 0."""
    origin.on(path, held)
    origin.on(path + "-late", held_back)
    with Client(draining.address()) as begun, Client(draining.address()) as waiting:
        begun.send(request("GET", path))
        waiting.send(request("GET", path + "-late"))
        exchanges = [origin.only(path), origin.only(path + "-late")]
        begun.stream.until(b"\r\n\r\n")
        draining.signal(signal.SIGTERM)
        wait_for(lambda: is_refused(draining), "new connections to be refused")
        for exchange in exchanges:
            exchange.events.put("go")
        assert begun.stream.exactly(len(BODY)) == BODY
        begun.assert_closed()
        reply = waiting.reply()
        assert reply.status == 200
        assert "close" in reply.fields.tokens("connection")
        waiting.assert_closed()
    assert draining.wait() == 0


def test_keep_alive_is_told(draining: Daemon, origin: Origin, path: str) -> None:
    """Idle connections are closed or told `Connection: close`; they never get an error."""
    origin.on(path, held_back)
    with Client(draining.address()) as busy, Client(draining.address()) as idle:
        idle.assert_open("/")
        busy.send(request("GET", path))
        exchange = origin.only(path)
        draining.signal(signal.SIGTERM)
        wait_for(lambda: is_refused(draining), "new connections to be refused")
        reply = idle.send(request("GET", "/")).reply_or_cut()
        if reply is not None:
            assert reply.status == 200
            assert "close" in reply.fields.tokens("connection")
        idle.assert_closed()
        exchange.events.put("go")
        assert busy.reply().status == 200
    assert draining.wait() == 0


def test_upload_in_flight_finishes(draining: Daemon, origin: Origin, path: str) -> None:
    """A request whose body is on its way may finish too."""
    with Client(draining.address()) as client:
        client.send(request("POST", path, "Content-Length: 6") + b"abc")
        exchange = origin.only(path)
        draining.signal(signal.SIGTERM)
        wait_for(lambda: is_refused(draining), "new connections to be refused")
        client.send(b"def")
        assert client.reply().status == 200
        assert exchange.body == b"abcdef"
    assert draining.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_daemon_ends_at_once(draining: Daemon, number: signal.Signals) -> None:
    """With nothing in flight there is nothing to wait for, idle connections included."""
    with Client(draining.address()) as idle:
        idle.assert_open("/")
        start = time.monotonic()
        draining.signal(number)
        assert draining.wait() == 0
        assert time.monotonic() - start < 10
        idle.assert_closed()


def test_second_signal_forces(draining: Daemon, origin: Origin, path: str) -> None:
    """A second SIGTERM ends it without waiting; what is cut looks cut."""
    origin.on(path, held)
    with Client(draining.address()) as client:
        client.send(request("GET", path))
        exchange = origin.only(path)
        client.stream.until(b"\r\n\r\n")
        draining.signal(signal.SIGTERM)
        wait_for(lambda: is_refused(draining), "new connections to be refused")
        assert draining.process.poll() is None
        draining.signal(signal.SIGTERM)
        draining.wait(5)
        assert len(client.stream.rest()) < len(BODY)
        exchange.events.put("go")


def test_drain_timeout(start_daemon: StartDaemon, origin: Origin, path: str) -> None:
    """`drain_timeout` bounds the wait, tunnels included; the exit code is still 0."""
    daemon = start_daemon(settings.simple(origin.address, drain_timeout="700ms"))
    origin.on(path, held)
    origin.on(path + "-tunnel", _switch, early=True)
    with Client(daemon.address()) as client, Client(daemon.address()) as tunnel:
        client.send(request("GET", path))
        exchange = origin.only(path)
        client.stream.until(b"\r\n\r\n")
        assert tunnel.get(path + "-tunnel", *UPGRADE).status == 101
        start = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(10) == 0
        assert time.monotonic() - start > 0.6
        assert len(client.stream.rest()) < len(BODY)
        tunnel.stream.rest()
        exchange.events.put("go")
    daemon.assert_quiet()


def _switch(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    exchange.wait_gone()


def test_not_ready_while_draining(draining: Daemon, origin: Origin, path: str) -> None:
    """A balancer in front is told to look elsewhere while the rest finishes."""
    origin.on(path, held_back)
    with Client(draining.address()) as client:
        client.send(request("GET", path))
        exchange = origin.only(path)
        draining.signal(signal.SIGTERM)

        def is_not_ready() -> bool:
            try:
                return draining.admin("/readyz")[0] == 503
            except OSError:
                return True

        wait_for(is_not_ready, "the admin API to be not ready")
        exchange.events.put("go")
        assert client.reply().status == 200
    assert draining.wait() == 0


def test_stale_unix_socket(start_daemon: StartDaemon, origin: Origin, tmp_path: Path) -> None:
    """The socket that a killed daemon left behind is no obstacle to the next; one that ends in order leaves
    none."""
    name = tmp_path / "listener.sock"
    config = settings.simple(origin.address)
    config["listeners"] = [{"name": "plain", "bind": f"unix:{name}"}]
    start_daemon(config).kill()
    second = start_daemon(config)
    with Client(str(name)) as client:
        client.assert_open("/")
    second.stop()
    assert not name.exists()
