"""How requests spread over a cluster's endpoints, over real connections."""

from collections.abc import Iterator

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import OK, Exchange, Origin
from support.wait import wait_for

NAMES = ["round_robin", "weighted_round_robin", "least_connections", "random"]
BY_LOAD = ["least_connections", "random"]
"""Their endpoints have equal weights here, the others' have `WEIGHTS`."""
WEIGHTS = [3, 2, 1]


@pytest.fixture(scope="module")
def endpoints() -> Iterator[list[Origin]]:
    origins = [Origin(), Origin("::1"), Origin()]
    yield origins
    for origin in origins:
        origin.stop()
        assert origin.faults == []


@pytest.fixture(scope="module")
def balanced(module_daemon: StartDaemon, endpoints: list[Origin]) -> Iterator[Daemon]:
    members = [
        {"address": one.address, "weight": weight} for one, weight in zip(endpoints, WEIGHTS, strict=True)
    ]
    equal = [{**member, "weight": 1} for member in members]
    bounded = [{**member, "max_connections": 1} for member in members]
    daemon = module_daemon(
        {
            "listeners": [settings.listener()],
            "clusters": [
                settings.cluster(name, *(equal if name in BY_LOAD else members), balancer=name)
                for name in NAMES
            ]
            + [settings.cluster("bounded", *bounded)],
            "routes": [settings.route(name, path_prefix="/" + name) for name in [*NAMES, "bounded"]],
        }
    )
    yield daemon
    daemon.stop()


@pytest.fixture
def client(balanced: Daemon, connect: OpenClient) -> Client:
    return connect(balanced)


def spread(client: Client, endpoints: list[Origin], target: str, count: int) -> list[int]:
    """How many of `count` requests, one after the other, each endpoint got."""
    for _ in range(count):
        assert client.get(target).status == 200
    counts = [len(one.seen(target)) for one in endpoints]
    assert sum(counts) == count
    return counts


def test_round_robin(client: Client, endpoints: list[Origin], path: str) -> None:
    """One after the other, weights ignored."""
    assert spread(client, endpoints, "/round_robin" + path, 60) == [20, 20, 20]


def test_weighted_round_robin(client: Client, endpoints: list[Origin], path: str) -> None:
    """Exactly in proportion to the weights over whole turns."""
    assert spread(client, endpoints, "/weighted_round_robin" + path, 60) == [30, 20, 10]


def test_random(client: Client, endpoints: list[Origin], path: str) -> None:
    """300 requests, expected 100 each with a deviation of 8.2; 50 to 150 fails less than once in 10^8."""
    assert all(50 <= count <= 150 for count in spread(client, endpoints, "/random" + path, 300))


def held(exchange: Exchange) -> None:
    """Answer when the test says so."""
    exchange.events.get(timeout=15)
    exchange.send(OK)


def test_least_connections(balanced: Daemon, connect: OpenClient, endpoints: list[Origin], path: str) -> None:
    """Requests in flight count: six at once go two by two."""
    target = "/least_connections" + path
    for one in endpoints:
        one.on(target, held)
    clients = [connect(balanced) for _ in range(6)]
    for number, client in enumerate(clients, 1):
        client.send(request("GET", target))
        # Each must be in flight before the next is picked.
        _wait_in_flight(endpoints, target, number)
    assert [len(one.seen(target)) for one in endpoints] == [2, 2, 2]
    for one in endpoints:
        for exchange in one.seen(target):
            exchange.events.put("go")
    assert [client.reply().status for client in clients] == [200] * 6


def _wait_in_flight(endpoints: list[Origin], target: str, count: int) -> None:
    wait_for(lambda: sum(len(one.seen(target)) for one in endpoints) == count, f"{count} requests in flight")


def test_full_endpoints_are_passed_over(
    balanced: Daemon, connect: OpenClient, endpoints: list[Origin], path: str
) -> None:
    """`max_connections` at one endpoint sends requests to the others; when all are full it is 503."""
    target = "/bounded" + path
    for one in endpoints:
        one.on(target, held)
    clients = [connect(balanced) for _ in range(3)]
    for number, client in enumerate(clients, 1):
        client.send(request("GET", target))
        _wait_in_flight(endpoints, target, number)
    assert [len(one.seen(target)) for one in endpoints] == [1, 1, 1]
    assert connect(balanced).get(target).status == 503
    for one in endpoints:
        one.only(target).events.put("go")
    assert [client.reply().status for client in clients] == [200] * 3
