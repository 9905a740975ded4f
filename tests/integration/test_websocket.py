"""WebSocket through the proxy, with an independent implementation at both ends; and Upgrade at its edges."""

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import OK, Exchange, Origin
from support.wait import LIMIT_S
from support.wire import Reply
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket
from websockets.sync.server import Server, ServerConnection, serve

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def serve_messages(connection: ServerConnection) -> None:
    """Echo; on `close CODE REASON` close so, on `stream N` send N messages."""
    try:
        for message in connection:
            words = message.split() if isinstance(message, str) else []
            if words[:1] == ["close"]:
                connection.close(int(words[1]), " ".join(words[2:]))
            elif words[:1] == ["stream"]:
                for number in range(int(words[1])):
                    connection.send(f"{number}")
            else:
                connection.send(message)
    except ConnectionClosed:
        pass


def refuse(connection: ServerConnection, incoming: Request) -> Response | None:
    """403 for paths that end in `forbidden`."""
    if incoming.path.endswith("forbidden"):
        return connection.respond(HTTPStatus.FORBIDDEN, "not you\n")
    return None


@pytest.fixture(scope="module")
def websocket_server() -> Iterator[Server]:
    with serve(
        serve_messages,
        "127.0.0.1",
        0,
        process_request=refuse,
        max_size=None,
        select_subprotocol=lambda connection, offered: "chat" if "chat" in offered else None,
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def relaying(module_daemon: StartDaemon, websocket_server: Server, shared_origin: Origin) -> Iterator[Daemon]:
    port = websocket_server.socket.getsockname()[1]
    daemon = module_daemon(
        {
            "listeners": [settings.listener()],
            "clusters": [
                settings.cluster("websocket", f"127.0.0.1:{port}"),
                settings.cluster("origin", shared_origin.address),
                settings.cluster("idle", shared_origin.address, timeouts={"tunnel": "500ms"}),
            ],
            "routes": [
                settings.route("websocket", path_prefix="/ws"),
                settings.route("idle", path_prefix="/idle"),
                settings.route("origin", path_prefix="/"),
            ],
        }
    )
    yield daemon
    daemon.stop()


def websocket(daemon: Daemon, path: str = "/ws", **options: object) -> ClientConnection:
    host, port = daemon.address()
    return connect_websocket(f"ws://{host}:{port}{path}", max_size=None, proxy=None, **options)


@pytest.fixture
def client(relaying: Daemon, connect: OpenClient) -> Client:
    return connect(relaying)


def test_text(relaying: Daemon) -> None:
    """RFC 6455: text goes there and back."""
    with websocket(relaying) as connection:
        for message in ("hello", "", "grüße €", "x" * 70_000):
            connection.send(message)
            assert connection.recv(LIMIT_S) == message


def test_binary(relaying: Daemon) -> None:
    """A binary message of 1 MiB arrives byte for byte."""
    message = random.Random(1).randbytes(1 << 20)
    with websocket(relaying) as connection:
        connection.send(message)
        assert connection.recv(LIMIT_S) == message


def test_fragmented(relaying: Daemon) -> None:
    """RFC 6455 5.4: fragments are the ends' business."""
    parts = [bytes([number]) * 10_000 for number in range(20)]
    with websocket(relaying) as connection:
        connection.send(iter(parts))
        assert connection.recv(LIMIT_S) == b"".join(parts)


def test_ping(relaying: Daemon) -> None:
    """RFC 6455 5.5.2: a ping is answered by the other end."""
    with websocket(relaying) as connection:
        assert connection.ping(b"payload").wait(LIMIT_S)


def test_many_messages(relaying: Daemon) -> None:
    """The server may send without being asked each time."""
    with websocket(relaying) as connection:
        connection.send("stream 2000")
        assert [connection.recv(LIMIT_S) for _ in range(2000)] == [str(number) for number in range(2000)]


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4321])
def test_closed_by_server(relaying: Daemon, code: int) -> None:
    """RFC 6455 7: the server's close code and reason reach the client."""
    with websocket(relaying) as connection:
        connection.send(f"close {code} so long")
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(LIMIT_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "so long")


def test_closed_by_client(relaying: Daemon) -> None:
    """The closing handshake works from the client's side."""
    with websocket(relaying) as connection:
        connection.close(4000, "enough")
    assert connection.close_code == 4000
    assert connection.close_reason == "enough"


def test_subprotocol(relaying: Daemon) -> None:
    """RFC 6455 4.2.2: the negotiated subprotocol comes through."""
    with websocket(relaying, subprotocols=["other", "chat"]) as connection:
        assert connection.subprotocol == "chat"


def test_refused_by_server(relaying: Daemon) -> None:
    """An upgrade that the endpoint refuses reaches the client as the plain answer that it is."""
    with pytest.raises(InvalidStatus) as refused, websocket(relaying, "/ws/forbidden"):
        pass
    assert refused.value.response.status_code == 403
    assert refused.value.response.body == b"not you\n"


def test_many_at_once(relaying: Daemon) -> None:
    """Twenty WebSockets at once stay apart, and plain requests go on beside them."""
    with ExitStack() as stack:
        connections = [stack.enter_context(websocket(relaying)) for _ in range(20)]
        for number, connection in enumerate(connections):
            connection.send(f"mine {number}")
        assert [one.recv(LIMIT_S) for one in connections] == [f"mine {number}" for number in range(20)]
        with Client(relaying.address()) as client:
            assert client.get("/").status == 200


def tunnel(exchange: Exchange) -> None:
    """Switch, then send back every byte, until the end."""
    exchange.send(SWITCHING)
    exchange.send(bytes(exchange.stream.take(len(exchange.stream.buffer))))
    while exchange.stream.fill():
        exchange.send(bytes(exchange.stream.take(len(exchange.stream.buffer))))
    exchange.events.put("gone")


def test_fields_of_the_handshake(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.8: Upgrade and Connection are made anew for the next hop, forwarded fields are added."""
    origin.on(path, tunnel, early=True)
    reply = client.get(path, *UPGRADE[1:], "Connection: keep-alive, Upgrade, X-Drop", "X-Drop: 1")
    assert reply.status == 101
    assert reply.fields.one("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert reply.fields.tokens("upgrade") == ["websocket"]
    assert "upgrade" in reply.fields.tokens("connection")
    fields = origin.only(path).fields
    assert fields.tokens("upgrade") == ["websocket"]
    assert "upgrade" in fields.tokens("connection")
    assert "x-drop" not in fields
    assert fields.one("x-forwarded-for") == "127.0.0.1"
    client.send(b"raw \0 bytes")
    assert client.stream.exactly(11) == b"raw \0 bytes"


def test_upgrade_in_capitals(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.8: protocol names compare without case."""
    origin.on(path, tunnel, early=True)
    assert client.get(path, "Connection: UPGRADE", "Upgrade: WebSocket", *UPGRADE[2:]).status == 101


def test_early_bytes_after_101(client: Client, origin: Origin, path: str) -> None:
    """Bytes that the client sends behind the head arrive once the endpoint has switched; none is lost."""
    origin.on(path, tunnel, early=True)
    client.send(request("GET", path, *UPGRADE) + b"early bytes")
    assert client.reply().status == 101
    assert client.stream.exactly(11) == b"early bytes"


def test_early_bytes_wait_for_101(client: Client, origin: Origin, path: str) -> None:
    """CVE-2026-2833: nothing behind the head is passed on before the endpoint's 101."""

    def handler(exchange: Exchange) -> None:
        # The second request below went over the same worker after these bytes; had they been passed on, they
        # were here.
        exchange.events.get(timeout=LIMIT_S)
        exchange.sock.settimeout(0.2)
        try:
            exchange.stream.fill()
        except TimeoutError:
            pass
        early = bytes(exchange.stream.buffer)
        exchange.sock.settimeout(LIMIT_S)
        exchange.reply(403, early)
        exchange.wait_gone()

    origin.on(path, handler, early=True)
    client.send(request("GET", path, *UPGRADE) + request("GET", path + "-hidden", "X-Hidden: 1"))
    exchange = origin.only(path)
    with Client(client.address) as other:
        assert other.get("/").status == 200
    exchange.events.put("go")
    reply = client.reply()
    assert (reply.status, reply.body) == (403, b"")
    client.assert_closed()
    assert origin.seen(path + "-hidden") == []


@pytest.mark.parametrize("status", [200, 403, 426, 503])
def test_no_101(client: Client, origin: Origin, path: str, status: int) -> None:
    """An answer other than 101 ends the client's connection, and the endpoint's is not pooled."""

    def handler(exchange: Exchange) -> None:
        exchange.reply(status, b"no")
        exchange.wait_gone()
        exchange.events.put("gone")

    origin.on(path, handler)
    reply = client.get(path, *UPGRADE)
    assert (reply.status, reply.body) == (status, b"no")
    client.assert_closed()
    assert origin.only(path).events.get(timeout=6) == "gone"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=["to-another", "to-none"],
)
def test_wrong_101(client: Client, origin: Origin, path: str, answer: bytes) -> None:
    """RFC 9110 7.8: a switch to a protocol that was not offered is a malformed reply."""
    origin.on(path, answer, early=True)
    reply = client.get(path, *UPGRADE)
    assert reply.status == 502


def test_h2c_upgrade_ignored(client: Client, origin: Origin, path: str) -> None:
    """h2c smuggling: `Upgrade: h2c` is left out and the request goes on without; so does its body."""
    lines = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    )
    for body in (None, b"with a body"):
        reply: Reply = client.ask("POST", path, *lines, body=body)
        assert (reply.status, reply.body) == (200, b"ok")
    for exchange in origin.wait_seen(path, 2):
        assert "upgrade" not in exchange.fields
        assert "http2-settings" not in exchange.fields
        assert "upgrade" not in exchange.fields.tokens("connection")
    assert origin.seen(path)[1].body == b"with a body"


def test_h2c_pipelined(client: Client, origin: Origin, path: str) -> None:
    """The parser stops at any `Connection: Upgrade`; what follows is still read."""
    lines = ("Connection: Upgrade", "Upgrade: h2c")
    client.send(
        request("POST", path, *lines, body=b"abc") + request("GET", path, *lines) + request("GET", path)
    )
    assert [client.reply().status for _ in range(3)] == [200] * 3
    assert [bytes(one.body) for one in origin.seen(path)] == [b"abc", b"", b""]


@pytest.mark.parametrize(
    "lines", [["Upgrade: websocket"], ["Connection: Upgrade"]], ids=["no-connection", "no-upgrade"]
)
def test_half_an_upgrade(client: Client, origin: Origin, path: str, lines: list[str]) -> None:
    """RFC 9110 7.8: Upgrade counts only when Connection names it; half of it is a plain request."""
    assert client.get(path, *lines).body == b"ok"
    assert "upgrade" not in origin.only(path).fields
    client.assert_open("/")


def test_upgrade_in_http10_ignored(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.8: Upgrade in an HTTP/1.0 request is ignored."""
    assert client.ask("GET", path, *UPGRADE, minor=0).body == b"ok"
    assert "upgrade" not in origin.only(path).fields


def test_tunnel_ends_with_the_client(client: Client, origin: Origin, path: str) -> None:
    """A client that leaves takes the endpoint's side with it."""
    origin.on(path, tunnel, early=True)
    assert client.get(path, *UPGRADE).status == 101
    client.reset()
    assert origin.only(path).events.get(timeout=6) == "gone"


def test_tunnel_ends_with_the_endpoint(client: Client, origin: Origin, path: str) -> None:
    """What the endpoint sent before it left still arrives, then the end."""

    def handler(exchange: Exchange) -> None:
        exchange.send(SWITCHING + b"last words")
        exchange.close()

    origin.on(path, handler, early=True)
    assert client.get(path, *UPGRADE).status == 101
    assert client.stream.rest() == b"last words"


def test_half_close_before_101(client: Client, origin: Origin, path: str) -> None:
    """A client that ends its side before the endpoint has switched: its bytes and its end go through the tunnel."""

    def handler(exchange: Exchange) -> None:
        exchange.events.get(timeout=LIMIT_S)
        exchange.send(SWITCHING)
        exchange.send(b"heard: " + exchange.stream.rest())
        exchange.close()

    origin.on(path, handler, early=True)
    client.send(request("GET", path, *UPGRADE) + b"all I say")
    client.half_close()
    exchange = origin.only(path)
    with Client(client.address) as other:
        assert other.get("/").status == 200
    exchange.events.put("go")
    assert client.reply().status == 101
    assert client.stream.rest() == b"heard: all I say"


def test_tunnel_is_idle(client: Client, origin: Origin, path: str) -> None:
    """`timeouts.tunnel` ends a tunnel in which nothing moves."""
    target = "/idle" + path
    origin.on(target, tunnel, early=True)
    assert client.get(target, *UPGRADE).status == 101
    client.assert_closed()
    assert origin.only(target).events.get(timeout=6) == "gone"


def test_upgrade_of_a_reused_connection(client: Client, origin: Origin, path: str) -> None:
    """An upgrade may come after plain requests on both sides' connections."""
    origin.on(path, tunnel, early=True)
    for _ in range(3):
        client.assert_open("/")
    assert client.get(path, *UPGRADE).status == 101
    client.send(b"ping")
    assert client.stream.exactly(4) == b"ping"
    with Client(client.address) as other:
        assert other.get("/").body == b"ok"


def test_tunnel_bulk(client: Client, origin: Origin, path: str) -> None:
    """8 MiB through a tunnel, both ways at once, byte for byte."""
    origin.on(path, tunnel, early=True)
    data = random.Random(2).randbytes(8 << 20)
    assert client.get(path, *UPGRADE).status == 101
    sender = threading.Thread(target=client.send, args=(data,))
    sender.start()
    assert client.stream.exactly(len(data)) == data
    sender.join()


def test_101_to_a_plain_answer_of_the_pool(client: Client, origin: Origin, path: str) -> None:
    """After a refused upgrade the next request of another client gets its own reply."""
    origin.on(path, OK)
    assert client.get(path, *UPGRADE).status == 200
    with Client(client.address) as other:
        assert other.get(path).body == b"ok"
