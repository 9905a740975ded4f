"""Every limit: the right refusal, the connection closed where it must be, and what is below the limit
served."""

import json
import socket
from collections.abc import Iterator

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.client import connect as connect_socket
from support.daemon import Daemon, StartDaemon
from support.origin import OK, Exchange, Origin
from support.wait import wait_for
from support.wire import Cut, chunked

LIMITS = {
    "request_line_bytes": 512,
    "header_bytes": "4KiB",
    "header_count": 20,
    "body_bytes": 10_000,
    "requests_per_connection": 5,
}


@pytest.fixture(scope="module")
def tight(module_daemon: StartDaemon, shared_origin: Origin) -> Iterator[Daemon]:
    """A daemon with small limits."""
    daemon = module_daemon(settings.simple(shared_origin.address, limits=LIMITS))
    yield daemon
    daemon.stop()


@pytest.fixture
def limited(tight: Daemon, connect: OpenClient) -> Client:
    return connect(tight)


def assert_refused(client: Client, origin: Origin, path: str, status: int) -> None:
    """The answer, as JSON, then the end; nothing at the endpoint."""
    reply = client.reply()
    assert reply.status == status
    assert json.loads(reply.body)
    assert "close" in reply.fields.tokens("connection")
    client.assert_closed()
    assert not any(one.complete for one in origin.seen(path))


def test_request_line(limited: Client, origin: Origin, path: str) -> None:
    """RFC 9112 3: a request line above `request_line_bytes` is 414."""
    limited.send(request("GET", path + "?" + "q" * 600))
    assert_refused(limited, origin, path, 414)


def test_request_line_without_end(limited: Client, origin: Origin, path: str) -> None:
    """The refusal does not wait for the end of the line."""
    limited.send(f"GET {path}?".encode() + b"q" * 2000)
    assert_refused(limited, origin, path, 414)


def test_request_line_below(limited: Client, path: str) -> None:
    """A line below the limit is served."""
    assert limited.get(path + "?" + "q" * 300).status == 200


def test_header_bytes(limited: Client, origin: Origin, path: str) -> None:
    """RFC 6585 5: a head above `header_bytes` is 431."""
    limited.send(request("GET", path, "X-Big: " + "b" * 5000))
    assert_refused(limited, origin, path, 431)


def test_header_bytes_without_end(limited: Client, origin: Origin, path: str) -> None:
    """The refusal does not wait for the end of the head."""
    limited.send(f"GET {path} HTTP/1.1\r\nHost: t.test\r\nX-Big: ".encode() + b"b" * 9000)
    assert_refused(limited, origin, path, 431)


def test_header_bytes_in_small_pieces(limited: Client, origin: Origin, path: str) -> None:
    """Bytes are counted where they arrive, however they are cut."""
    limited.send(f"GET {path} HTTP/1.1\r\nHost: t.test\r\n".encode())
    for number in range(15):
        limited.send(f"X-{number}: ".encode() + b"b" * 400 + b"\r\n")
    assert_refused(limited, origin, path, 431)


def test_header_count(limited: Client, origin: Origin, path: str) -> None:
    """RFC 6585 5: more fields than `header_count` are 431, however small."""
    limited.send(request("GET", path, *(f"X-{number}: 1" for number in range(21))))
    assert_refused(limited, origin, path, 431)


def test_header_below(limited: Client, path: str) -> None:
    """A head below both limits is served."""
    assert limited.get(path, *(f"X-{number}: {'b' * 150}" for number in range(18))).status == 200


@pytest.mark.parametrize("count", [200, 5000])
def test_many_fields_by_default(client: Client, origin: Origin, path: str, count: int) -> None:
    """The defaults refuse what no client sends."""
    client.send(request("GET", path, *(f"X-{number}: 1" for number in range(count))))
    assert_refused(client, origin, path, 431)


def test_large_head_by_default(client: Client, origin: Origin, path: str) -> None:
    """A field of 200 kB is refused by default."""
    client.send(request("GET", path, "X-Big: " + "b" * 200_000))
    assert_refused(client, origin, path, 431)


def test_pipelined_heads_are_counted_each(tight: Daemon, connect: OpenClient, path: str) -> None:
    """The limit is for one head, not for what arrives together."""
    client = connect(tight)
    client.send(request("GET", path, "X-Pad: " + "p" * 3000) * 4)
    assert [client.reply().status for _ in range(4)] == [200] * 4


def test_body_by_length(limited: Client, origin: Origin, path: str) -> None:
    """RFC 9110 15.5.14: a Content-Length above `body_bytes` is 413 before a byte of the body."""
    limited.send(request("POST", path, "Content-Length: 10001"))
    assert_refused(limited, origin, path, 413)
    assert origin.seen(path) == []


def test_body_by_length_expected(limited: Client, origin: Origin, path: str) -> None:
    """With `Expect: 100-continue` the answer is 413 instead of 100."""
    limited.send(request("POST", path, "Expect: 100-continue", "Content-Length: 10001"))
    assert_refused(limited, origin, path, 413)


def test_body_chunked(limited: Client, origin: Origin, path: str) -> None:
    """A chunked body is refused when it grows above the limit; the endpoint never gets it as complete."""
    limited.send(request("POST", path, "Transfer-Encoding: chunked") + chunked(b"x" * 20_000, 1000))
    assert_refused(limited, origin, path, 413)
    for exchange in origin.seen(path):
        wait_for(lambda one=exchange: one.sock.fileno() < 0, "the endpoint's connection to end")
        assert not exchange.complete


@pytest.mark.parametrize("size", [0, 9_999, 10_000])
def test_body_below(tight: Daemon, connect: OpenClient, origin: Origin, path: str, size: int) -> None:
    """A body of exactly the limit is served, by length and in chunks."""
    client = connect(tight)
    assert client.ask("POST", path, body=b"x" * size).status == 200
    client.send(request("POST", path, "Transfer-Encoding: chunked") + chunked(b"x" * size, 999))
    assert client.reply().status == 200


def test_requests_per_connection(limited: Client, path: str) -> None:
    """The last allowed request says `Connection: close`, and means it."""
    for number in range(5):
        reply = limited.get(path)
        assert reply.status == 200
        assert ("close" in reply.fields.tokens("connection")) == (number == 4)
    limited.assert_closed()


def test_requests_per_connection_pipelined(limited: Client, origin: Origin, path: str) -> None:
    """Requests beyond the limit that were already sent are not processed."""
    limited.send(request("GET", path) * 8)
    assert [limited.reply().status for _ in range(5)] == [200] * 5
    limited.assert_closed()
    assert len(origin.seen(path)) == 5


def test_reply_head(tight: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """The limits on a head hold for replies too: 502."""
    origin.on(path, lambda one: one.reply(200, b"", "X-Big: " + "b" * 5000))
    assert connect(tight).get(path).status == 502
    origin.on(path, lambda one: one.reply(200, b"", *(f"X-{number}: 1" for number in range(25))))
    assert connect(tight).get(path).status == 502


def held(exchange: Exchange) -> None:
    """Answer when the test says so."""
    exchange.events.get(timeout=15)
    exchange.send(OK)


def test_endpoint_connections(client: Client, origin: Origin, path: str) -> None:
    """`max_connections` reached at every endpoint is 503; a request that ends makes room."""
    target = "/bounded" + path
    origin.on(target, held)
    with Client(client.address) as first:
        first.send(request("GET", target))
        exchange = origin.only(target)
        reply = client.get(target)
        assert reply.status == 503
        assert json.loads(reply.body)
        exchange.events.put("go")
        assert first.reply().status == 200
    origin.on(target, OK)
    assert client.get(target).status == 200


def test_endpoint_connections_freed_by_a_client_that_left(client: Client, origin: Origin, path: str) -> None:
    """A cancelled request releases its place."""
    target = "/bounded" + path
    origin.on(target, held)
    with Client(client.address) as first:
        first.send(request("GET", target))
        exchange = origin.only(target)
        first.reset()
    origin.on(target, OK)
    wait_for(lambda: client.get(target).status == 200, "the place of the client that left")
    exchange.events.put("go")


@pytest.fixture(scope="module")
def few(module_daemon: StartDaemon, shared_origin: Origin) -> Iterator[Daemon]:
    """A daemon with few client connections."""
    config = settings.simple(shared_origin.address, limits={"connections": 6, "connections_per_client": 4})
    config["clusters"][0]["pool"] = {"max_requests": 2}
    daemon = module_daemon(config)
    yield daemon
    daemon.stop()


def is_served(daemon: Daemon, source: str, opened: list[socket.socket]) -> bool:
    """Whether a new connection from `source` gets a 200; it stays open in `opened` if so."""
    sock = socket.socket()
    sock.bind((source, 0))
    sock.settimeout(1.0)
    try:
        sock.connect(daemon.address())
        sock.sendall(request("GET", "/"))
        if sock.recv(65536).startswith(b"HTTP/1.1 200"):
            opened.append(sock)
            return True
    except (TimeoutError, ConnectionError):
        pass
    sock.close()
    return False


def test_client_connections(few: Daemon) -> None:
    """`connections_per_client` and `connections`: those beyond are not served, those within stay, room is
    found again."""
    opened: list[socket.socket] = []
    try:
        assert [is_served(few, "127.0.0.1", opened) for _ in range(4)] == [True] * 4
        assert not is_served(few, "127.0.0.1", opened)
        assert [is_served(few, "127.0.0.2", opened) for _ in range(2)] == [True] * 2
        assert not is_served(few, "127.0.0.2", opened)
        opened[0].sendall(request("GET", "/"))
        assert opened[0].recv(65536).startswith(b"HTTP/1.1 200")
    finally:
        for sock in opened:
            sock.close()
    kept: list[socket.socket] = []
    wait_for(lambda: is_served(few, "127.0.0.1", kept), "room for a new connection")
    kept[0].close()


def test_pool_max_requests(few: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """`pool.max_requests`: an upstream connection is left after so many requests."""

    def ask() -> bool:
        try:
            with Client(few.address()) as client:
                return [client.get(path).status for _ in range(5)] == [200] * 5
        except (Cut, ConnectionError):
            return False  # still counted against the connections of the test before

    wait_for(ask)
    used = [one.connection for one in origin.seen(path)][-4:]
    assert all(used.count(one) <= 2 for one in used)


def test_slow_start_of_many(daemon: Daemon) -> None:
    """Many connections that say nothing keep nobody from being served."""
    idle = [connect_socket(daemon.address()) for _ in range(300)]
    try:
        with Client(daemon.address()) as client:
            assert client.get("/").status == 200
    finally:
        for sock in idle:
            sock.close()
