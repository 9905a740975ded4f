"""The same endpoint for the same key, and for the same client, over real connections."""

import threading
from collections.abc import Iterator

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import OK, Exchange, Origin
from support.wait import wait_for
from support.wire import Reply

HASHES = {
    "by-header": {"header": "X-Dataset-Id"},
    "by-query": {"query": "dataset"},
    "by-cookie": {"cookie": "dataset"},
    "by-path": {"path": True},
    "by-client": {"client_address": True},
    "by-any": {"header": "X-Dataset-Id", "query": "dataset", "cookie": "dataset"},
}
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@pytest.fixture(scope="module")
def endpoints() -> Iterator[list[Origin]]:
    origins = [Origin() for _ in range(4)]
    yield origins
    for origin in origins:
        origin.stop()
        assert origin.faults == []


def config(endpoints: list[Origin]) -> settings.Config:
    addresses = [one.address for one in endpoints]
    bounded = [{"address": address, "max_connections": 1} for address in addresses]
    clusters = [
        settings.cluster(name, *addresses, balancer="consistent_hashing", hash=keys)
        for name, keys in HASHES.items()
    ]
    sticky = {"cookie": "hp", "secret": "s3cret"}
    clusters += [
        settings.cluster("sticky", *addresses, sticky=sticky),
        settings.cluster("other", *addresses, sticky=sticky),
        settings.cluster("full", *bounded, sticky=sticky),
        settings.cluster(
            "hashed", *addresses, balancer="consistent_hashing", hash={"path": True}, sticky=sticky
        ),
        settings.cluster("fewer", *addresses[:1], sticky=sticky),
        settings.cluster("fast", *addresses, balancer="least_response_time"),
        settings.cluster("two", *addresses, balancer="p2c"),
    ]
    return {
        "listeners": [settings.listener(), settings.listener("trusting", trusted_proxies=["127.0.0.0/8"])],
        "clusters": clusters,
        "routes": [settings.route(one["name"], path_prefix="/" + one["name"]) for one in clusters],
        # Exact counts: workers see each other's loads a few milliseconds late.
        "workers": 1,
    }


@pytest.fixture(scope="module")
def balanced(module_daemon: StartDaemon, endpoints: list[Origin]) -> Iterator[Daemon]:
    daemon = module_daemon(config(endpoints))
    yield daemon
    daemon.stop()


@pytest.fixture
def client(balanced: Daemon, connect: OpenClient) -> Client:
    return connect(balanced)


def who(client: Client, endpoints: list[Origin], target: str, *lines: str) -> int:
    """Which endpoint got one request."""
    path = target.split("?")[0]
    before = [len(one.seen(path)) for one in endpoints]
    assert client.get(target, *lines).status == 200
    gone = [len(one.seen(path)) - count for one, count in zip(endpoints, before, strict=True)]
    assert sum(gone) == 1
    return gone.index(1)


def owners(client: Client, endpoints: list[Origin], requests: list[tuple[str, ...]]) -> list[int]:
    """Who gets each of `requests`, three times over the same."""
    rounds = [[who(client, endpoints, *one) for one in requests] for _ in range(3)]
    assert rounds[0] == rounds[1] == rounds[2]
    return rounds[0]


# With 24 keys for four endpoints one is left out with odds of 4·0.75^24 = 0.4 % in general; these keys are fixed, but
# ports are not. So no more is asked than that keys spread at all: all to one has odds of 4^-23.


@pytest.mark.parametrize("name", ["by-header", "by-any"])
def test_hash_on_a_header(client: Client, endpoints: list[Origin], path: str, name: str) -> None:
    requests = [(f"/{name}{path}", f"x-dataset-id: set-{number}") for number in range(24)]
    assert len(set(owners(client, endpoints, requests))) > 1


@pytest.mark.parametrize("name", ["by-query", "by-any"])
def test_hash_on_a_query_parameter(client: Client, endpoints: list[Origin], path: str, name: str) -> None:
    requests = [(f"/{name}{path}?v=2&dataset=set-{number}",) for number in range(24)]
    assert len(set(owners(client, endpoints, requests))) > 1


@pytest.mark.parametrize("name", ["by-cookie", "by-any"])
def test_hash_on_a_cookie(client: Client, endpoints: list[Origin], path: str, name: str) -> None:
    requests = [(f"/{name}{path}", f"Cookie: a=b; dataset=set-{number}") for number in range(24)]
    assert len(set(owners(client, endpoints, requests))) > 1
    assert all(
        "dataset=" in one.fields.one("cookie") for each in endpoints for one in each.seen(f"/{name}{path}")
    )


def test_hash_on_the_path(client: Client, endpoints: list[Origin], path: str) -> None:
    requests = [(f"/by-path{path}/{number}",) for number in range(24)]
    found = owners(client, endpoints, requests)
    assert len(set(found)) > 1
    # The query is not part of it, and neither is how the path was written.
    assert who(client, endpoints, f"/by-path{path}/0?x=1") == found[0]
    assert who(client, endpoints, f"/by-path{path}/%30") == found[0]


def test_hash_on_the_client(
    balanced: Daemon, connect: OpenClient, endpoints: list[Origin], path: str
) -> None:
    target = "/by-client" + path
    one = {who(connect(balanced), endpoints, target, f"X-Forwarded-For: 10.0.0.{n}") for n in range(12)}
    assert len(one) == 1  # this listener trusts nobody, and all come from 127.0.0.1
    client = connect(balanced, "trusting")
    requests = [(target, f"X-Forwarded-For: 10.0.0.{number}") for number in range(24)]
    assert len(set(owners(client, endpoints, requests))) > 1


def test_without_a_key_the_least_loaded(client: Client, endpoints: list[Origin], path: str) -> None:
    """Who are idle take turns."""
    assert [who(client, endpoints, "/by-header" + path) for _ in range(4)] in (
        [(start + step) % 4 for step in range(4)] for start in range(4)
    )


def test_all_workers_and_daemons_choose_alike(
    start_daemon: StartDaemon, balanced: Daemon, connect: OpenClient, endpoints: list[Origin], path: str
) -> None:
    """Eight connections to a daemon of three workers; one worker would get all of them once in 3^7 times."""
    other = start_daemon({**config(endpoints), "workers": 3})
    requests = [("/by-header" + path, f"X-Dataset-Id: set-{number}") for number in range(24)]
    expected = owners(connect(balanced), endpoints, requests)
    cookie = set_cookie(connect(balanced).get("/sticky" + path)).split(";")[0]
    first = [len(one.seen("/sticky" + path)) for one in endpoints].index(1)
    for _ in range(8):
        client = connect(other)
        assert [who(client, endpoints, *one) for one in requests] == expected
        assert who(client, endpoints, "/sticky" + path, f"Cookie: {cookie}") == first
    other.stop()


def test_a_hot_key_overflows(
    balanced: Daemon, connect: OpenClient, endpoints: list[Origin], path: str
) -> None:
    """Eight requests for one key that stay: m = 1 … 8 and the bound is 1.25·m/4, so nobody has more than 3."""
    target = "/by-header" + path

    def held(exchange: Exchange) -> None:
        exchange.events.get(timeout=15)
        exchange.send(OK)

    for one in endpoints:
        one.on(target, held)
    clients = [connect(balanced) for _ in range(8)]
    for number, client in enumerate(clients, 1):
        client.send(request("GET", target, "X-Dataset-Id: hot"))
        wait_for(
            lambda count=number: sum(len(one.seen(target)) for one in endpoints) == count, "the next request"
        )
    assert max(len(one.seen(target)) for one in endpoints) <= 3
    for one in endpoints:
        for exchange in one.seen(target):
            exchange.events.put("go")
    assert [client.reply().status for client in clients] == [200] * 8


# --- Stickiness


def set_cookie(reply: Reply) -> str:
    assert reply.status == 200
    assert reply.fields.tokens("cache-control") == ["private"]
    return reply.fields.one("set-cookie")


def plain(reply: Reply) -> bool:
    """Whether the reply sets nothing."""
    return reply.status == 200 and "set-cookie" not in reply.fields and "cache-control" not in reply.fields


@pytest.mark.parametrize("name", ["sticky", "hashed"])
def test_a_client_stays(client: Client, endpoints: list[Origin], path: str, name: str) -> None:
    target = f"/{name}{path}"
    cookie = set_cookie(client.get(target))
    value, _, attributes = cookie.partition("; ")
    assert value.startswith("hp=") and len(value) == 25
    assert attributes == "Path=/; HttpOnly; SameSite=Lax"
    assert not any(part in value for part in ("127", endpoints[0].address))
    first = [len(one.seen(target)) for one in endpoints].index(1)
    for _ in range(8):
        assert plain(client.get(target, f"Cookie: a=1; {value}; b=2"))
    assert len(endpoints[first].seen(target)) == 9
    # The endpoint does not see it.
    assert [one.fields.one("cookie") for one in endpoints[first].seen(target)[1:]] == ["a=1; b=2"] * 8
    assert plain(client.get(target, f"Cookie: {value}"))
    assert "cookie" not in endpoints[first].seen(target)[-1].fields


@pytest.mark.parametrize("value", ["", "x", "A" * 22, "127.0.0.1:80", '"'])
def test_a_forged_cookie_is_replaced(client: Client, endpoints: list[Origin], path: str, value: str) -> None:
    target = "/sticky" + path
    for _ in range(4):
        assert set_cookie(client.get(target, f"Cookie: hp={value}")).startswith("hp=")
    assert [len(one.seen(target)) for one in endpoints] == [1, 1, 1, 1]
    assert not any("cookie" in one.fields for each in endpoints for one in each.seen(target))


def test_a_cookie_of_another_cluster_is_replaced(client: Client, path: str) -> None:
    value = set_cookie(client.get("/sticky" + path)).split(";")[0]
    assert not set_cookie(client.get("/other" + path, f"Cookie: {value}")).startswith(value)


def test_who_is_gone_is_replaced(
    client: Client, endpoints: list[Origin], start_daemon: StartDaemon, connect: OpenClient, path: str
) -> None:
    """A daemon whose cluster has lost the endpoint."""
    target = "/sticky" + path
    values = [set_cookie(client.get(target)).split(";")[0] for _ in range(4)]
    assert len(set(values)) == 4
    smaller = config(endpoints)
    next(one for one in smaller["clusters"] if one["name"] == "sticky")["endpoints"].pop()
    other = start_daemon(smaller)
    replies = [connect(other).get(target, f"Cookie: {value}") for value in values]
    assert sorted(plain(reply) for reply in replies) == [False, True, True, True]
    other.stop()


def test_who_is_full_is_replaced(
    balanced: Daemon, connect: OpenClient, endpoints: list[Origin], path: str
) -> None:
    target = "/full" + path
    client = connect(balanced)
    value = set_cookie(client.get(target)).split(";")[0]
    at = [len(one.seen(target)) for one in endpoints].index(1)

    def held(exchange: Exchange) -> None:
        exchange.events.get(timeout=15)
        exchange.send(OK)

    endpoints[at].on(target, held)
    waiting = connect(balanced).send(request("GET", target, f"Cookie: {value}"))
    held_one = endpoints[at].wait_seen(target, 2)[1]
    assert not set_cookie(client.get(target, f"Cookie: {value}")).startswith(value)
    held_one.events.put("go")
    assert plain(waiting.reply())


def test_set_on_every_kind_of_reply(client: Client, endpoints: list[Origin], path: str) -> None:
    """Without a body, chunked, to HEAD, to HTTP/1.0, and beside the endpoint's own fields."""
    target = "/sticky" + path
    for one in endpoints:
        one.on(target, b"HTTP/1.1 204 No Content\r\nSet-Cookie: own=1\r\nCache-Control: public\r\n\r\n")
    reply = client.get(target)
    assert [value.split("=")[0] for value in reply.fields.all("set-cookie")] == ["own", "hp"]
    assert reply.fields.tokens("cache-control") == ["public", "private"]
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    for one in endpoints:
        one.on(target, chunked)
    assert set_cookie(client.get(target)).startswith("hp=")
    for one in endpoints:
        one.on(target, OK)
    assert set_cookie(client.ask("HEAD", target))
    assert set_cookie(client.ask("GET", target, minor=0))


def test_set_on_an_upgrade(client: Client, endpoints: list[Origin], path: str) -> None:
    for one in endpoints:
        one.on("/sticky" + path, SWITCHING)
    client.send(request("GET", "/sticky" + path, "Connection: Upgrade", "Upgrade: websocket"))
    head = client.stream.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101") and b"\r\nSet-Cookie: hp=" in head


def test_answers_of_our_own_set_nothing(
    start_daemon: StartDaemon, connect: OpenClient, blackhole: str
) -> None:
    sticky = {"cookie": "hp"}
    config = settings.simple()
    config["clusters"] = [settings.cluster("origin", blackhole, sticky=sticky, timeouts={"connect": "100ms"})]
    daemon = start_daemon(config)
    reply = connect(daemon).get("/")
    assert reply.status == 504
    assert "set-cookie" not in reply.fields
    daemon.stop()


# --- Response times


def test_a_slow_endpoint_gets_less(client: Client, endpoints: list[Origin], path: str) -> None:
    """One takes 0.2 s: after the first time it is shunned for longer than this test takes, 10·ln(200 ms / 0.5 ms) s."""
    target = "/fast" + path

    def slow(exchange: Exchange) -> None:
        threading.Event().wait(0.2)
        exchange.send(OK)

    endpoints[2].on(target, slow)
    for _ in range(60):
        assert client.get(target).status == 200
    assert len(endpoints[2].seen(target)) <= 1


def test_an_endpoint_that_fails_fast_gets_less(client: Client, endpoints: list[Origin], path: str) -> None:
    target = "/fast" + path
    for _ in range(8):
        client.get(target)
    endpoints[1].on(target, b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    before = len(endpoints[1].seen(target))
    assert {client.get(target).status for _ in range(60)} == {200}  # another endpoint is asked instead
    assert len(endpoints[1].seen(target)) - before <= 1


def test_p2c(client: Client, endpoints: list[Origin], path: str) -> None:
    """400 requests, one after the other: expected 100 each with a deviation of 8.7; 50 to 150 fails less than once in
    10^7."""
    target = "/two" + path
    for _ in range(400):
        assert client.get(target).status == 200
    assert all(50 <= len(one.seen(target)) <= 150 for one in endpoints)
