"""The life of a client's connection: keep-alive, pipelining, early replies, clients that go away or
half-close."""

import socket
import threading

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import StartDaemon
from support.origin import OK, Exchange, Origin
from support.wait import wait_for
from support.wire import Cut, chunked

UPLOAD = "Content-Length: 50000000"


def test_keep_alive(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 9.3: an HTTP/1.1 connection stays open unless somebody says otherwise."""
    for _ in range(20):
        reply = client.get(path)
        assert reply.status == 200
        assert "close" not in reply.fields.tokens("connection")
    assert len(origin.seen(path)) == 20


def test_upstream_connection_reused(client: Client, origin: Origin, path: str) -> None:
    """Requests one after the other share a connection to the endpoint."""
    for _ in range(10):
        client.get(path)
    assert len({one.connection for one in origin.seen(path)}) == 1


def test_upstream_pool_switched_off(client: Client, origin: Origin, path: str) -> None:
    """`pool.max_idle: 0` is a fresh connection for every request."""
    for _ in range(3):
        client.get("/unpooled" + path)
    assert len({one.connection for one in origin.seen("/unpooled" + path)}) == 3


@pytest.mark.parametrize("line", ["Connection: close", "connection: Close", "Connection: foo, close"])
def test_close_asked(client: Client, path: str, line: str) -> None:
    """RFC 9112 9.6: the client asks for the end after this reply, gets told, and gets it."""
    reply = client.get(path, line)
    assert (reply.status, reply.body) == (200, b"ok")
    assert "close" in reply.fields.tokens("connection")
    client.assert_closed()


def test_nothing_after_close(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 9.6: requests behind one with `Connection: close` are not processed."""
    client.send(request("GET", path, "Connection: close") + request("GET", path + "-second"))
    assert client.reply().status == 200
    client.assert_closed()
    assert origin.seen(path + "-second") == []


def test_http10_closes(client: Client, path: str) -> None:
    """RFC 9112 9.3: HTTP/1.0 ends the connection by default."""
    assert client.ask("GET", path, minor=0).body == b"ok"
    client.assert_closed()


def test_http10_without_host(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 3.2: only HTTP/1.1 requires Host."""
    assert client.ask("GET", path, host=None, minor=0).status == 200


def test_http10_keep_alive(client: Client, path: str) -> None:
    """RFC 9112 C.2.2: an HTTP/1.0 client may ask for persistence, and must be told if it gets it."""
    for _ in range(3):
        reply = client.ask("GET", path, "Connection: keep-alive", minor=0)
        assert reply.body == b"ok"
        if "keep-alive" not in reply.fields.tokens("connection"):
            client.assert_closed()
            return
    assert client.ask("GET", path, minor=0).body == b"ok"
    client.assert_closed()


def test_endpoint_close_is_its_own(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.6.1: an endpoint's `Connection: close` ends its connection, not the client's."""

    def handler(exchange: Exchange) -> None:
        exchange.reply(200, b"ok", "Connection: close")
        exchange.sock.close()

    origin.on(path, handler)
    for _ in range(3):
        reply = client.get(path)
        assert reply.body == b"ok"
        assert "close" not in reply.fields.tokens("connection")
    assert len({one.connection for one in origin.seen(path)}) == 3


def test_pipelined(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 9.3.2: 200 requests at once, answered in order."""
    origin.on(path, lambda one: one.reply(200, one.target.encode()))
    client.send(b"".join(request("GET", f"{path}?{number}") for number in range(200)))
    assert [client.reply().body for _ in range(200)] == [f"{path}?{number}".encode() for number in range(200)]


def test_pipelined_bodies(client: Client, origin: Origin, path: str) -> None:
    """The same with bodies of every kind in between."""
    origin.on(path, lambda one: one.reply(200, bytes(one.body)))
    expected, raw = [], b""
    for number in range(200):
        body = str(number).encode() * (number * 7 % 300)
        if number % 3 == 0:
            raw += request("POST", path, body=body)
        elif number % 3 == 1:
            raw += request("PUT", path, "Transfer-Encoding: chunked") + chunked(body, 50, b"X-Sum: 1\r\n")
        else:
            raw, body = raw + request("GET", path), b""
        expected.append(body)
    sender = threading.Thread(target=client.send, args=(raw,))
    sender.start()
    assert [client.reply().body for _ in range(200)] == expected
    sender.join()


def test_pipelined_beyond_what_is_kept(client: Client, origin: Origin, path: str) -> None:
    """More waiting bytes than `pipelined_bytes` pause reading; nothing is lost."""
    origin.on(path, lambda one: one.reply(200, one.fields.one("x-number").encode()))
    raw = b"".join(
        request("GET", path, f"X-Number: {number}", "X-Pad: " + "p" * 3000) for number in range(150)
    )
    sender = threading.Thread(target=client.send, args=(raw,))
    sender.start()
    assert [client.reply().body for _ in range(150)] == [str(number).encode() for number in range(150)]
    sender.join()


def test_pipelined_cut_anywhere(client: Client, origin: Origin, path: str) -> None:
    """Where reads happen to be cut changes nothing."""
    raw = request("POST", path, body=b"abc") + request("GET", path) + request("HEAD", path)
    for position in range(1, len(raw), 17):
        client.send(raw[:position])
        client.send(raw[position:])
        assert [client.reply(method).status for method in ("POST", "GET", "HEAD")] == [200, 200, 200]


def test_pipelined_with_a_local_answer(client: Client, path: str) -> None:
    """Replies that need no endpoint wait for their turn."""
    client.send(request("GET", path) + request("GET", "/refused" + path) + request("GET", path))
    assert [client.reply().status for _ in range(3)] == [200, 502, 200]


def early_413(exchange: Exchange) -> None:
    exchange.reply(413, b"big", "Connection: close")
    exchange.sock.shutdown(1)  # reads nothing, and lets the proxy read what was sent
    exchange.wait_gone()


def test_early_reply(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 9.5: an answer during the upload reaches the client at once; then the connection is closed."""
    origin.on(path, early_413, early=True)
    client.send(request("POST", path, UPLOAD) + b"x" * 65536)
    reply = client.reply()
    assert (reply.status, reply.body) == (413, b"big")
    assert "close" in reply.fields.tokens("connection")
    client.assert_closed()


def test_early_reply_while_sending(client: Client, origin: Origin, path: str) -> None:
    """The same while the client is busy sending: the reply is not lost with the reset."""
    origin.on(path, early_413, early=True)
    sender = threading.Thread(target=client.send, args=(request("POST", path, UPLOAD) + b"x" * 20_000_000,))
    sender.start()
    assert client.reply().status == 413
    sender.join()


def test_early_reply_is_no_end_for_others(client: Client, origin: Origin, path: str) -> None:
    """What is left of the body is never read as a request, by us or on a pooled connection."""

    def handler(exchange: Exchange) -> None:
        exchange.reply(200, b"early")
        exchange.wait_gone()

    origin.on(path, handler, early=True)
    hidden = request("GET", path + "-hidden")
    client.send(request("POST", path, f"Content-Length: {len(hidden) + 1}"))
    assert client.reply().body == b"early"
    client.send(hidden)
    client.assert_closed()
    assert origin.seen(path + "-hidden") == []


def watch_for_end(exchange: Exchange) -> None:
    """Report when the proxy gives the request up."""
    exchange.wait_gone()
    exchange.events.put("gone")


def trickle(exchange: Exchange) -> None:
    """Send a reply that takes long, and report when the proxy gives up."""
    exchange.sock.settimeout(0.05)
    try:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin")
        while True:
            try:
                if not exchange.stream.fill():
                    break
            except TimeoutError:
                exchange.send(b".")
    except ConnectionError:
        pass
    exchange.events.put("gone")


LEAVE = {"close": Client.close, "reset": Client.reset}


@pytest.mark.parametrize("how", LEAVE)
def test_client_gone_during_reply(client: Client, origin: Origin, path: str, how: str) -> None:
    """A client that leaves during the reply: the endpoint's connection is closed within seconds."""
    origin.on(path, trickle)
    client.send(request("GET", path))
    client.stream.until(b"begin")
    LEAVE[how](client)
    assert origin.only(path).events.get(timeout=6) == "gone"


@pytest.mark.parametrize("how", LEAVE)
def test_client_gone_before_reply(client: Client, origin: Origin, path: str, how: str) -> None:
    """A client that leaves before the reply: the endpoint's work is cancelled within seconds. A close looks
    like a half-close at first, but what is sent to it comes back as a reset."""
    origin.on(path, watch_for_end)
    client.send(request("GET", path))
    exchange = origin.only(path)
    LEAVE[how](client)
    assert exchange.events.get(timeout=6) == "gone"


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("framing", [UPLOAD, "Transfer-Encoding: chunked"])
def test_client_gone_during_upload(client: Client, origin: Origin, path: str, framing: str, how: str) -> None:
    """RFC 9112 8: a body that ends early never reaches the endpoint as complete."""
    client.send(request("POST", path, framing) + b"400\r\n" + b"x" * 1024 + b"\r\n")
    exchange = origin.only(path)
    wait_for(lambda: len(exchange.body) >= 1024, "the first kilobyte")
    LEAVE[how](client)
    wait_for(lambda: exchange.sock.fileno() < 0, "the endpoint's connection to end", 6)
    assert not exchange.complete


def test_client_gone_while_paused(client: Client, origin: Origin, path: str) -> None:
    """A client that resets while so many bytes of it wait that reading is paused is found all the same."""
    origin.on(path, watch_for_end)
    client.send(request("GET", path))
    exchange = origin.only(path)
    client.sock.settimeout(1)
    try:
        client.send(b"".join(request("GET", path + "-more", "X-Pad: " + "p" * 4000) for _ in range(4000)))
    except TimeoutError:
        pass  # as it should be: the proxy reads no more
    client.reset()
    assert exchange.events.get(timeout=6) == "gone"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_half_close_after_request(client: Client, origin: Origin, path: str, method: str) -> None:
    """A client that half-closes after a complete request still gets its reply, then the end."""

    def handler(exchange: Exchange) -> None:
        exchange.events.get(timeout=15)
        exchange.reply(200, b"z" * 300_000)

    origin.on(path, handler)
    client.send(request(method, path, body=b"abc" if method == "POST" else None))
    client.half_close()
    origin.only(path).events.put("go")
    assert client.reply().body == b"z" * 300_000
    client.assert_closed()


def test_half_close_after_pipeline(client: Client, origin: Origin, path: str) -> None:
    """The same for several complete requests."""
    client.send(request("GET", path) * 5)
    client.half_close()
    assert [client.reply().status for _ in range(5)] == [200] * 5
    client.assert_closed()


@pytest.mark.parametrize(
    "raw", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
def test_half_close_in_body(client: Client, origin: Origin, path: str, raw: bytes) -> None:
    """A client that half-closes in the middle of a body is gone."""
    client.send(f"POST {path} HTTP/1.1\r\nHost: t.test\r\n".encode() + raw)
    client.half_close()
    try:
        assert client.reply().status == 400
    except Cut:
        pass
    for exchange in origin.seen(path):
        wait_for(lambda one=exchange: one.sock.fileno() < 0, "the endpoint's connection to end", 6)
        assert not exchange.complete


def test_one_connection_does_not_hold_up_another(client: Client, origin: Origin, path: str) -> None:
    """A request that waits for its endpoint keeps nobody else waiting."""

    def handler(exchange: Exchange) -> None:
        exchange.events.get(timeout=15)
        exchange.send(OK)

    origin.on(path, handler)
    client.send(request("GET", path))
    exchange = origin.only(path)
    with Client(client.address) as other:
        assert other.get("/").status == 200
    exchange.events.put("go")
    assert client.reply().status == 200


TINY_CHUNKS = b"1\r\na\r\n" * 20_000


@pytest.mark.parametrize("side", ["upload", "reply"])
def test_tiny_chunks_hold_up_nobody(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str, side: str
) -> None:
    """While somebody sends chunks of one byte as fast as they are taken, others get their answers in between."""
    daemon = start_daemon({**settings.simple(origin.address), "workers": 1})
    taken = 0

    def take(sock: socket.socket) -> None:
        nonlocal taken
        while data := sock.recv(1 << 20):
            taken += len(data)

    def flood(sock: socket.socket) -> None:
        try:
            while True:
                sock.sendall(TINY_CHUNKS)
        except OSError:
            pass  # told to end

    def handler(exchange: Exchange) -> None:
        if side == "upload":
            take(exchange.sock)
        else:
            exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            flood(exchange.sock)

    origin.on(path, handler, early=True)
    client, other = connect(daemon), connect(daemon)
    client.assert_open("/")
    other.send(request("POST", path, "Transfer-Encoding: chunked"))
    thread = threading.Thread(target=flood if side == "upload" else take, args=(other.sock,))
    thread.start()
    wait_for(lambda: taken > 1 << 20, "the flood")
    meanwhile = []
    for _ in range(5):
        before = taken
        client.assert_open("/")
        meanwhile.append(taken - before)
    other.sock.shutdown(socket.SHUT_RDWR)
    thread.join()
    # Without a rest the loop reads 32 times in a row, which is 8 MiB.
    assert sorted(meanwhile)[2] < 3 << 20, meanwhile
    daemon.stop()
