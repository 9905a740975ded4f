"""Endpoints that get nothing for a while: requests or checks fail, they do worse than others, or somebody says so."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import settings
from support.client import Client, OpenClient
from support.daemon import Daemon, StartDaemon
from support.origin import Exchange, Origin
from support.wait import wait_for


@pytest.fixture
def pair() -> Iterator[tuple[Origin, Origin]]:
    origins = Origin(), Origin()
    yield origins
    for origin in origins:
        origin.stop()
        assert origin.faults == []


def started(start: StartDaemon, pair: tuple[Origin, Origin], **more: Any) -> Daemon:
    config = settings.simple(*(one.address for one in pair), workers=2)
    config["clusters"][0] |= more
    return start(config)


def standing(daemon: Daemon, origin: Origin) -> str:
    endpoints = json.loads(daemon.admin("/api/v1/clusters/origin")[1])["endpoints"]
    return str(next(one["standing"] for one in endpoints if one["address"] == origin.address))


def count(client: Client, origin: Origin, path: str, requests: int = 10) -> int:
    """How many of so many requests `origin` gets."""
    before = len(origin.seen(path))
    for _ in range(requests):
        client.get(path)
    return len(origin.seen(path)) - before


def failing(exchange: Exchange) -> None:
    exchange.reply(500, b"broken")


def test_an_open_circuit(
    start_daemon: StartDaemon, connect: OpenClient, pair: tuple[Origin, Origin], path: str
) -> None:
    """Failures seen by one worker keep requests of all workers away; trials, one at a time, bring it back."""
    bad, good = pair
    breaker = {"failure_threshold": 3, "recovery_timeout": "1s", "success_threshold": 2}
    daemon = started(start_daemon, pair, circuit_breaker=breaker)
    clients = [connect(daemon) for _ in range(6)]
    assert len({daemon.worker_of(client.sock) for client in clients}) == 2
    bad.on(path, failing)
    statuses = [clients[0].get(path).status for _ in range(6)]
    assert statuses.count(500) == 3
    wait_for(lambda: standing(daemon, bad) == "circuit open", "the circuit to open")
    seen = len(bad.seen(path))
    # A trial comes after a second; until then nothing does.
    assert seen == 3
    assert {client.get(path).status for client in clients} == {200}
    bad.on(path, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    wait_for(lambda: (clients[1].get(path), standing(daemon, bad) == "ready")[1], "it to come back")
    assert count(clients[2], bad, path) == 5
    assert [value for name, value in daemon.metrics().items() if "circuit_openings" in name and value] == [1]
    assert len(good.seen(path)) > 0
    daemon.stop()


def test_a_failed_check(
    start_daemon: StartDaemon, connect: OpenClient, pair: tuple[Origin, Origin], path: str
) -> None:
    bad, _ = pair
    check = {"path": "/health", "interval": "100ms", "unhealthy_interval": "100ms", "healthy_after": 1}
    daemon = started(start_daemon, pair, health_check={**check, "unhealthy_after": 2})
    client = connect(daemon)
    wait_for(lambda: standing(daemon, bad) == "ready", "the first check")
    assert count(client, bad, path) == 5
    bad.on("/health", failing)
    wait_for(lambda: standing(daemon, bad) == "unhealthy", "checks to fail")
    wait_for(lambda: count(client, bad, path, 4) == 0, "requests to stop")
    bad.on("/health", b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"draining": true}')
    wait_for(lambda: standing(daemon, bad) == "drained", "its word to be heeded")
    assert count(client, bad, path, 4) == 0
    bad.on("/health", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    wait_for(lambda: count(client, bad, path, 4) == 2, "requests to come again")
    daemon.stop()


def test_a_drain(
    start_daemon: StartDaemon, connect: OpenClient, pair: tuple[Origin, Origin], path: str
) -> None:
    bad, _ = pair
    daemon = started(start_daemon, pair)
    client = connect(daemon)
    url = f"/api/v1/endpoints/origin/{bad.address}"
    assert daemon.admin(f"{url}/drain", method="POST")[0] == 200
    wait_for(lambda: count(client, bad, path, 4) == 0, "requests to stop")
    assert standing(daemon, bad) == "drained"
    assert daemon.admin(f"{url}/undrain", method="POST")[0] == 200
    wait_for(lambda: count(client, bad, path, 4) == 2, "requests to come again")
    daemon.stop()


def test_an_outlier(
    start_daemon: StartDaemon, connect: OpenClient, pair: tuple[Origin, Origin], path: str
) -> None:
    """One of two fails every second request: no row of failures, and still worse than the other."""
    bad, _ = pair
    turns = iter(range(10**6))
    bad.on(path, lambda exchange: exchange.reply(500 if next(turns) % 2 else 200, b""))
    detection = {"interval": "200ms", "min_requests": 5, "base_ejection": "1m"}
    daemon = started(start_daemon, pair, outlier_detection=detection)
    client = connect(daemon)
    wait_for(lambda: (count(client, bad, path, 8), standing(daemon, bad) == "ejected")[1], "the ejection")
    wait_for(lambda: count(client, bad, path, 4) == 0, "requests to stop")
    daemon.stop()
