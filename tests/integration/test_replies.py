"""Endpoints that misbehave: malformed replies are 502, cut ones are seen to be cut, and nobody else pays for
it."""

import json
import socket

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import OK, Exchange, Handler, Origin
from support.wait import wait_for

CLEAN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean"
HEAD = b"HTTP/1.1 200 OK\r\n"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


def assert_next_is_clean(client: Client, origin: Origin, path: str) -> None:
    """Others that ask now get their own reply and no leftover."""
    origin.on(path + "-next", CLEAN)
    for _ in range(3):
        with Client(client.address) as other:
            assert other.get(path + "-next").body == b"clean"


def send_and(after: str, data: bytes) -> Handler:
    """An origin that sends exact bytes and then closes, resets, or waits for the proxy to close."""

    def handler(exchange: Exchange) -> None:
        exchange.send(data)
        if after == "close":
            exchange.close()
        elif after == "reset":
            exchange.reset()
        else:
            exchange.wait_gone()
            exchange.events.put("gone")

    return handler


MALFORMED = {
    "two-lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 7\r\n\r\nokextra",
    "length-and-chunked": HEAD
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "length-words": HEAD + b"Content-Length: 2abc\r\n\r\nok",
    "length-negative": HEAD + b"Content-Length: -2\r\n\r\nok",
    "length-signed": HEAD + b"Content-Length: +2\r\n\r\nok",
    "length-list": HEAD + b"Content-Length: 2, 2\r\n\r\nok",
    "coding-unknown": HEAD + b"Transfer-Encoding: gzip\r\n\r\nxx",
    "coding-gzip-chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "coding-chunked-twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "coding-chunked-gzip": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\nxx",
    "coding-in-http10": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "status-words": b"HTTP/1.1 abc Nope\r\nContent-Length: 2\r\n\r\nok",
    "status-two-digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    "status-four-digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "status-below-100": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
    "version-two": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "version-09": b"hello, I am no HTTP\r\n\r\n",
    "not-http": b"\x16\x03\x01 not http at all\r\n\r\n",
    "another-protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nul-in-value": HEAD + b"X-A: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    "control-in-value": HEAD + b"X-A: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    "bare-cr-in-value": HEAD + b"X-A: a\rb\r\nContent-Length: 2\r\n\r\nok",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "obs-fold": HEAD + b"X-A: a\r\n folded\r\nContent-Length: 2\r\n\r\nok",
    "space-before-colon": HEAD + b"X-A : a\r\nContent-Length: 2\r\n\r\nok",
    "space-before-colon-of-length": HEAD + b"Content-Length : 2\r\n\r\nok",
    "empty-name": HEAD + b": a\r\nContent-Length: 2\r\n\r\nok",
    "name-with-space": HEAD + b"X A: a\r\nContent-Length: 2\r\n\r\nok",
    "no-colon": HEAD + b"X-A\r\nContent-Length: 2\r\n\r\nok",
    "one-mebibyte-field": HEAD + b"X-Big: " + b"b" * (1 << 20) + b"\r\nContent-Length: 2\r\n\r\nok",
    "five-thousand-fields": HEAD
    + b"".join(b"X-%d: 1\r\n" % n for n in range(5000))
    + b"Content-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_reply(client: Client, origin: Origin, path: str, name: str) -> None:
    """RFC 9112 4–6, 6.3: an invalid reply is 502; its connection is closed and never used again."""
    origin.on(path, send_and("wait", MALFORMED[name]))
    reply = client.send(request("GET", path)).reply()
    assert reply.status == 502
    assert isinstance(json.loads(reply.body), dict)
    assert origin.only(path).events.get(timeout=6) == "gone"
    client.assert_open("/")
    assert_next_is_clean(client, origin, path)


EXTRA = {
    "behind-length": HEAD + b"Content-Length: 2\r\n\r\nok",
    "behind-chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "behind-length-0": HEAD + b"Content-Length: 0\r\n\r\n",
    "behind-204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "behind-304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 51\r\n\r\n",
}


@pytest.mark.parametrize("extra", [POISON, b"\r\n", b"x"], ids=["reply", "empty-line", "byte"])
@pytest.mark.parametrize("name", EXTRA)
def test_extra_bytes(client: Client, origin: Origin, path: str, name: str, extra: bytes) -> None:
    """RFC 9112 6.3: what follows a complete reply is never a reply; it is delivered without it or refused."""
    origin.on(path, send_and("wait", EXTRA[name] + extra))
    reply = client.send(request("GET", path)).reply()
    assert reply.status in (200, 204, 304, 502)
    assert reply.status == 502 or reply.body in (b"ok", b"")
    assert origin.only(path).events.get(timeout=6) == "gone"
    client.assert_open("/")
    assert_next_is_clean(client, origin, path)


def test_extra_bytes_later(client: Client, origin: Origin, path: str) -> None:
    """Bytes that come while the connection is idle in the pool: closed, never taken for the next reply."""

    def handler(exchange: Exchange) -> None:
        exchange.send(OK)
        exchange.events.get(timeout=15)
        exchange.send(POISON)
        exchange.wait_gone()
        exchange.events.put("gone")

    origin.on(path, handler)
    assert client.get(path).body == b"ok"
    exchange = origin.only(path)
    exchange.events.put("go")
    wait_for(lambda: exchange.sock.fileno() < 0, "the poisoned connection to be closed", 6)
    assert_next_is_clean(client, origin, path)


def test_extra_bytes_after_head(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 9.3.2: an origin that sends a body to HEAD poisons nothing."""
    origin.on(path, HEAD + b"Content-Length: 47\r\n\r\n" + POISON)
    assert client.ask("HEAD", path).status in (200, 502)
    client.assert_open("/")
    assert_next_is_clean(client, origin, path)


def test_204_with_length(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 15.3.5: a 204 has no body; the framing it claims does not reach the client."""
    origin.on(path, b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil")
    reply = client.get(path)
    assert reply.status in (204, 502)
    assert client.get("/").body == b"ok"
    assert_next_is_clean(client, origin, path)


NO_BODY = {
    # Method, what the endpoint answers, whether its connection may be used again.
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", True),
    "204-length-0": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", True),
    "204-length-5": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", False),
    "204-chunked": ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    "304-length-5": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", False),
    "304-chunked": ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    "head-length-5": ("HEAD", HEAD + b"Content-Length: 5\r\n\r\n", True),
    "head-chunked": ("HEAD", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", False),
}


@pytest.mark.parametrize("name", NO_BODY)
def test_connection_after_no_body(client: Client, origin: Origin, path: str, name: str) -> None:
    """RFC 9112 6.3: where an endpoint announces a body that cannot be, one may still come: its connection is not used
    again, the client's goes on."""
    method, answer, reusable = NO_BODY[name]
    target = "/alone" + path
    origin.on(target, answer)
    for _ in range(2):
        assert client.ask(method, target).status == int(answer[9:12])
    first, second = origin.seen(target)
    assert (first.connection == second.connection) is reusable
    assert_next_is_clean(client, origin, path)


BEGINNINGS = {
    "by-length": HEAD + b"Content-Length: 100\r\n\r\n0123456789",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "in-chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n50\r\nhello",
    "in-chunk-size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5",
    "before-last-crlf": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "in-trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Checksum: a",
    "head-only": HEAD + b"Content-Length: 100\r\n\r\n",
}


@pytest.mark.parametrize("after", ["close", "reset"])
@pytest.mark.parametrize("minor", [1, 0])
@pytest.mark.parametrize("name", BEGINNINGS)
def test_cut_reply(client: Client, origin: Origin, path: str, name: str, minor: int, after: str) -> None:
    """RFC 9112 8: a reply that ends early is 502 or a cut connection, never a reply that looks complete."""
    origin.on(path, send_and(after, BEGINNINGS[name]))
    reply = client.send(request("POST", path, body=b"", minor=minor)).reply_or_cut()
    if minor == 1 or name in ("by-length", "head-only"):
        assert reply is None or reply.status == 502
    elif reply is not None and reply.status != 502:
        # HTTP/1.0 has no end mark but the end of the connection; a reset is the one way to tell.
        assert reply.body in (b"hello", b"")
    assert_next_is_clean(client, origin, path)


def read_to_end(client: Client) -> bytes:
    """Everything up to a FIN; a reset is an error, other than for `Stream`."""
    data = b""
    while piece := client.sock.recv(65536):
        data += piece
    return data


@pytest.mark.parametrize("after", ["close", "reset"])
@pytest.mark.parametrize("minor", [1, 0])
@pytest.mark.parametrize("name", BEGINNINGS)
def test_cut_reply_as_far_as_it_came(
    client: Client, origin: Origin, path: str, name: str, minor: int, after: str
) -> None:
    """RFC 9112 8: what came before the cut arrives, then a FIN; a reset only where the end of the connection would
    be the end of the reply."""

    def handler(exchange: Exchange) -> None:
        exchange.send(BEGINNINGS[name])
        exchange.events.get(timeout=15)
        if after == "close":
            exchange.close()
        else:
            exchange.reset()

    origin.on(path, handler)
    client.send(request("GET", path, minor=minor))
    head = client.stream.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    by_length = b"Content-Length" in BEGINNINGS[name]
    payload = b"0123456789" if name == "by-length" else b"" if name == "head-only" else b"hello"
    received = client.stream.until(payload) + payload if payload else b""
    origin.only(path).events.put("go")
    if minor == 0 and not by_length:
        with pytest.raises(ConnectionResetError):
            read_to_end(client)
        return
    received += bytes(client.stream.buffer) + read_to_end(client)
    assert received == payload if by_length else not received.endswith(b"0\r\n\r\n")


def test_cut_behind_a_whole_reply(daemon: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """A client that reads slowly gets the replies before the one that was cut, whole."""
    whole = bytes(range(256)) * 96
    origin.on(path, lambda one: one.reply(200, whole))

    def cut(exchange: Exchange) -> None:
        exchange.send(BEGINNINGS["by-length"])
        exchange.sock.shutdown(socket.SHUT_WR)
        exchange.wait_gone()
        exchange.events.put("gone")

    origin.on(path + "-cut", cut)
    client = connect(daemon, receive_buffer=4096)
    client.send(request("GET", path) + request("GET", path + "-cut"))
    assert origin.only(path + "-cut").events.get(timeout=15) == "gone"
    assert client.reply().body == whole
    assert client.stream.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert bytes(client.stream.buffer) + read_to_end(client) == b"0123456789"


def test_cut_close_delimited_by_reset(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 8: a reply without length that ends in a reset is incomplete."""

    def handler(exchange: Exchange) -> None:
        exchange.send(HEAD + b"\r\nbegin")
        exchange.events.get(timeout=15)
        exchange.reset()

    origin.on(path, handler)
    client.send(request("GET", path))
    head = client.stream.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    client.stream.until(b"begin")
    origin.only(path).events.put("go")
    assert not client.stream.rest().endswith(b"0\r\n\r\n")


BAD_CHUNKS = {
    "size-words": b"ZZ\r\nxx\r\n0\r\n\r\n",
    "size-negative": b"-1\r\nx\r\n0\r\n\r\n",
    "data-too-long": b"3\r\nabcd\r\n0\r\n\r\n",
    "data-bare-lf": b"3\r\nabc\n0\r\n\r\n",
    "size-bare-lf": b"3\nabc\r\n0\r\n\r\n",
    "trailer-with-nul": b"0\r\nX-Checksum: \x00\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunk(client: Client, origin: Origin, path: str, name: str) -> None:
    """RFC 9112 7.1: a reply whose chunks break is cut where they do."""
    origin.on(
        path, send_and("wait", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" + BAD_CHUNKS[name])
    )
    reply = client.send(request("GET", path)).reply_or_cut()
    assert reply is None or reply.status == 502
    assert origin.only(path).events.get(timeout=6) == "gone"
    assert_next_is_clean(client, origin, path)


BEFORE_A_BYTE = {"nothing": b"", "part-of-status-line": b"HTTP/1.1 20", "part-of-head": HEAD + b"Content-Le"}


@pytest.mark.parametrize("after", ["close", "reset"])
@pytest.mark.parametrize("name", BEFORE_A_BYTE)
def test_no_reply(client: Client, origin: Origin, path: str, name: str, after: str) -> None:
    """RFC 9110 15.6.3: an endpoint that ends before its head is complete is 502; a POST is sent once."""
    origin.on(path, send_and(after, BEFORE_A_BYTE[name]))
    reply = client.ask("POST", path, body=b"pay")
    assert reply.status == 502
    assert len(origin.seen(path)) == 1
    client.assert_open("/")


def test_no_reply_to_get_ends(client: Client, origin: Origin, path: str) -> None:
    """A GET that never gets an answer is not tried for ever."""
    origin.on(path, lambda one: one.close())
    assert client.get(path).status == 502
    assert len(origin.seen(path)) <= 5


@pytest.mark.parametrize("after", ["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_reused_connection_retried(
    client: Client, origin: Origin, path: str, method: str, after: str
) -> None:
    """RFC 9112 9.3.1: a reused connection that ends before the first byte: what is safe goes again, on a
    fresh one."""

    def handler(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        elif after == "close":
            exchange.close()
        else:
            exchange.reset()

    target = "/alone" + path
    origin.on(target, handler)
    assert client.get(target).status == 200
    assert client.ask(method, target).status == 200
    first, *others = origin.seen(target)
    assert others[-1].number == 1
    assert others[-1].connection != first.connection


@pytest.mark.parametrize("after", ["close", "reset"])
def test_post_not_retried(client: Client, origin: Origin, path: str, after: str) -> None:
    """RFC 9110 9.2.2: a POST that an endpoint has seen is never sent again."""
    target = "/alone" + path

    def handler(exchange: Exchange) -> None:
        if exchange.method == "GET":
            exchange.send(OK)
        elif after == "close":
            exchange.close()
        else:
            exchange.reset()

    origin.on(target, handler)
    assert client.get(target).status == 200
    assert client.ask("POST", target, body=b"pay").status == 502
    posts = [one for one in origin.seen(target) if one.method == "POST"]
    assert len(posts) == 1


def test_retry_after_a_byte_is_none(client: Client, origin: Origin, path: str) -> None:
    """Once a byte of an answer came nothing is sent again, a GET either."""
    target = "/alone" + path

    def handler(exchange: Exchange) -> None:
        first = len(origin.seen(target)) == 1
        exchange.send(OK if first else b"H")
        if not first:
            exchange.close()

    origin.on(target, handler)
    assert client.get(target).status == 200
    assert client.get(target).status == 502
    assert len(origin.seen(target)) == 2


@pytest.mark.parametrize("size", [3, 100_000])
def test_closed_while_nobody_looked(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str, size: int
) -> None:
    """RFC 9112 9.3.1: the end of an idle connection that came before a POST was sent, but is noticed after, costs
    nothing: the POST goes on another."""
    daemon = start_daemon(settings.simple(origin.address))
    origin.on(path, OK)
    client = connect(daemon)
    assert client.get(path).status == 200
    daemon.freeze()
    # The client's words come first, so that the daemon turns to them first.
    client.send(request("POST", path, body=b"x" * size))
    origin.seen(path)[0].sock.shutdown(socket.SHUT_RDWR)
    daemon.thaw()
    assert client.reply().status == 200
    first, second = origin.seen(path)
    assert second.connection != first.connection
    assert second.body == b"x" * size
    daemon.stop()


def test_closed_while_idle(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 9.3.1: connections that the endpoint closed while they were idle cost no request, POST
    included."""
    target = "/alone" + path

    def handler(exchange: Exchange) -> None:
        exchange.send(OK)
        exchange.close()

    origin.on(target, handler)
    for _ in range(10):
        assert client.ask("POST", target, body=b"x").status == 200
        wait_for(lambda: origin.seen(target)[-1].sock.fileno() < 0)
    assert len(origin.seen(target)) == 10


def test_refused_connection(client: Client, path: str) -> None:
    """RFC 9110 15.6.3: an endpoint that refuses connections is 502, at once, and the client's connection
    goes on."""
    for method in ("GET", "POST"):
        reply = client.ask(method, "/refused" + path, body=b"abc" if method == "POST" else None)
        assert reply.status == 502
        assert isinstance(json.loads(reply.body), dict)
    client.assert_open("/")
