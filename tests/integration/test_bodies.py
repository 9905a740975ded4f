"""Bodies in both directions arrive byte for byte, by length and chunked, with their trailers, or not at
all."""

import hashlib
import random
import socket
import threading

import pytest
from support.client import Client, request
from support.origin import Exchange, Handler, Origin
from support.wire import Reply, Stream, chunked, read_chunked

SIZES = [0, 1, 64 * 1024, 5 * 1024 * 1024]
FRAMINGS = ["length", "chunked"]
CHUNKED_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def content(size: int) -> bytes:
    """Bytes that differ everywhere, the same for the same size."""
    return random.Random(size).randbytes(size)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def send_body(
    client: Client, path: str, body: bytes, framing: str, *lines: str, trailers: bytes = b""
) -> None:
    """A POST by length or in chunks of uneven size."""
    if framing == "length":
        client.send(request("POST", path, *lines, body=body))
    else:
        client.send(
            request("POST", path, "Transfer-Encoding: chunked", *lines) + chunked(body, 40_009, trailers)
        )


def replying(body: bytes, framing: str) -> Handler:
    """An origin that answers `body` by length, in chunks, or up to the end of the connection."""

    def handler(exchange: Exchange) -> None:
        if framing == "length":
            exchange.reply(200, body)
        elif framing == "chunked":
            exchange.send(CHUNKED_OK + chunked(body, 40_009))
        else:
            exchange.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            exchange.sock.close()

    return handler


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", SIZES)
def test_upload(client: Client, origin: Origin, path: str, size: int, framing: str) -> None:
    """RFC 9112 6: a request's body reaches the endpoint whole."""
    send_body(client, path, content(size), framing)
    assert client.reply().status == 200
    assert digest(origin.only(path).body) == digest(content(size))
    client.assert_open("/")


@pytest.mark.parametrize("framing", [*FRAMINGS, "close"])
@pytest.mark.parametrize("size", SIZES)
def test_download(client: Client, origin: Origin, path: str, size: int, framing: str) -> None:
    """RFC 9112 6: a reply's body reaches the client whole; one that ends with the connection keeps ours
    open."""
    origin.on(path, replying(content(size), framing))
    assert digest(client.get(path).body) == digest(content(size))
    client.assert_open("/")


@pytest.mark.parametrize("framing", [*FRAMINGS, "close"])
def test_download_to_http10(client: Client, origin: Origin, path: str, framing: str) -> None:
    """RFC 9112 6.1: never chunked to an HTTP/1.0 client; what has no length ends with the connection."""
    origin.on(path, replying(content(70_000), framing))
    reply = client.ask("GET", path, minor=0)
    assert "transfer-encoding" not in reply.fields
    assert digest(reply.body) == digest(content(70_000))
    client.assert_closed()


def echo(exchange: Exchange) -> None:
    """Send each chunk back as soon as it came."""
    exchange.send(CHUNKED_OK)
    stream, out = exchange.stream, exchange.sock

    class Relay(bytearray):
        def __iadd__(self, data: bytes) -> "Relay":  # type: ignore[override, misc]
            out.sendall(b"%x\r\n%b\r\n" % (len(data), data))
            return self

    read_chunked(stream, Relay())
    exchange.complete = True
    exchange.send(b"0\r\n\r\n")


@pytest.mark.parametrize("size", SIZES)
def test_echo(client: Client, origin: Origin, path: str, size: int) -> None:
    """Both directions at once: the reply streams while the request is still being sent."""
    origin.on(path, echo, early=True)
    sender = threading.Thread(target=send_body, args=(client, path, content(size), "chunked"))
    sender.start()
    reply = client.reply()
    sender.join()
    assert digest(reply.body) == digest(content(size))
    if "close" not in reply.fields.tokens("connection"):  # which a reply during an upload may say
        client.assert_open("/")


def test_echo_answers_each_chunk(client: Client, origin: Origin, path: str) -> None:
    """Nothing is held back: a chunk comes back before the next one is sent."""
    origin.on(path, echo, early=True)
    client.send(request("POST", path, "Transfer-Encoding: chunked"))
    head = client.stream.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    for word in (b"one", b"three", b"seven"):
        client.send(b"%x\r\n%b\r\n" % (len(word), word))
        assert int(client.stream.until(b"\r\n"), 16) == len(word)
        assert client.stream.exactly(len(word) + 2) == word + b"\r\n"
    client.send(b"0\r\n\r\n")
    assert client.stream.exactly(5) == b"0\r\n\r\n"


def test_body_in_small_pieces(client: Client, origin: Origin, path: str) -> None:
    """Cuts of the byte stream mean nothing, within chunk lines either."""
    raw = request("POST", path, "Transfer-Encoding: chunked") + chunked(b"hello, world", 5, b"X-Sum: 1\r\n")
    for position in range(len(raw)):
        client.send(raw[position : position + 1])
    assert client.reply().status == 200
    assert origin.only(path).body == b"hello, world"


def test_body_on_get(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 9.3.1: a body on GET is framed like any other, and never read as the next request."""
    hidden = request("GET", "/hidden-in-get")
    assert client.ask("GET", path, body=hidden).status == 200
    assert origin.only(path).body == hidden
    assert origin.seen("/hidden-in-get") == []
    client.assert_open("/")


def test_chunk_extensions_dropped(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 7.1.1: extensions are for one hop; the strict reader of the origin refuses any."""
    body = b'5;name=value;q="a b"\r\nhello\r\n1;x\r\n!\r\n0;last\r\n\r\n'
    client.send(request("POST", path, "Transfer-Encoding: chunked") + body)
    assert client.reply().status == 200
    assert origin.only(path).body == b"hello!"


def test_chunk_extensions_of_reply_dropped(client: Client, origin: Origin, path: str) -> None:
    """The same for the way back; here the client's reader is the strict one."""
    origin.on(path, CHUNKED_OK + b"5;name=value\r\nhello\r\n0;x=y\r\n\r\n")
    assert client.get(path).body == b"hello"


def test_chunk_size_spellings(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 7.1: hexadecimal in either case, leading zeros, up to 16 digits."""
    body = b"0000000000000005\r\nhello\r\n0A\r\n0123456789\r\nb\r\n01234567890\r\n000\r\n\r\n"
    client.send(request("POST", path, "Transfer-Encoding: Chunked") + body)
    assert client.reply().status == 200
    assert origin.only(path).body == b"hello012345678901234567890"


SAFE = b"X-Checksum: abc\r\nServer-Timing: db;dur=5\r\n"
UNSAFE = (
    b"Authorization: evil\r\n"
    b"Content-Length: 99\r\n"
    b"Host: evil.test\r\n"
    b"Transfer-Encoding: gzip\r\n"
    b"Cookie: a=evil\r\n"
    b"Connection: X-Checksum\r\n"
    b"TE: evil\r\n"
    b"Trailer: evil\r\n"
    b"Expect: evil\r\n"
    b"X-Forwarded-For: 203.0.113.9\r\n"
    b"Content-Encoding: evil\r\n"
    b"Content-Type: evil/evil\r\n"
    b"Content-Range: evil\r\n"
    b"Cache-Control: evil\r\n"
    b"Set-Cookie: evil\r\n"
    b"Forwarded: for=evil\r\n"
    b"X_Forwarded_For: evil\r\n"
    b"Via: evil\r\n"
    b"Upgrade: evil\r\n"
)


def test_request_trailers(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 6.5.1: trailers go on, except those that frame, route or authorise."""
    send_body(client, path, b"hello", "chunked", "Trailer: X-Checksum", trailers=SAFE + UNSAFE)
    assert client.reply().status == 200
    exchange = origin.only(path)
    assert exchange.body == b"hello"
    assert exchange.trailers.one("x-checksum") == "abc"
    assert {name.lower() for name, _ in exchange.trailers.items} <= {"x-checksum", "server-timing"}
    assert b"evil" not in exchange.head


def test_reply_trailers(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 6.5.1 for the way back."""
    origin.on(path, CHUNKED_OK + chunked(b"hello", trailers=SAFE + UNSAFE))
    reply = client.get(path, "TE: trailers")
    assert reply.body == b"hello"
    assert reply.trailers.one("x-checksum") == "abc"
    assert {name.lower() for name, _ in reply.trailers.items} <= {"x-checksum", "server-timing"}
    assert b"evil" not in reply.head
    client.assert_open("/")


def test_reply_trailers_to_http10(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 6.5.2: where there is no chunked coding, trailers are dropped and never become headers."""
    origin.on(path, CHUNKED_OK + chunked(b"hello", trailers=SAFE))
    reply = client.ask("GET", path, minor=0)
    assert reply.body == b"hello"
    assert b"abc" not in reply.head


@pytest.mark.parametrize("head", ["Content-Length: 1234", "Transfer-Encoding: chunked", "X-None: 1"])
def test_head(client: Client, origin: Origin, path: str, head: str) -> None:
    """RFC 9110 9.3.2: HEAD has no body, whatever the framing says, and the next exchange is not poisoned."""
    origin.on(path, f'HTTP/1.1 200 OK\r\n{head}\r\nETag: "x"\r\n\r\n'.encode())
    reply = client.ask("HEAD", path)
    assert reply.status == 200
    assert reply.fields.one("etag") == '"x"'
    if head.startswith("Content-Length"):
        assert reply.fields.one("content-length") == "1234"
    assert client.get("/").body == b"ok"


def test_head_pipelined_with_get(client: Client, origin: Origin, path: str) -> None:
    """Replies to HEAD and to GET on one connection never take each other's bytes."""
    origin.on(
        path,
        lambda one: one.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + b"hello" * (one.method == "GET")
        ),
    )
    client.send((request("HEAD", path) + request("GET", path)) * 5)
    for _ in range(5):
        assert client.reply("HEAD").fields.one("content-length") == "5"
        assert client.reply().body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
def test_no_content(client: Client, origin: Origin, path: str, status: int) -> None:
    """RFC 9110 15.3.5, 15.4.5: no body, no wait for one, the connection goes on."""
    length = "Content-Length: 1234\r\n" if status == 304 else ""
    origin.on(path, f'HTTP/1.1 {status} Scripted\r\n{length}ETag: "x"\r\n\r\n'.encode())
    reply = client.get(path, 'If-None-Match: "x"')
    assert reply.status == status
    assert reply.body == b""
    assert client.get("/").body == b"ok"


def test_205_and_empty_length(client: Client, origin: Origin, path: str) -> None:
    """A reply of length 0 is complete at its head."""
    origin.on(path, b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n")
    assert client.get(path).status == 205
    client.assert_open("/")


def test_unknown_status(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 15: a status nobody knows is passed on as it is."""
    origin.on(path, b"HTTP/1.1 599 Odd One\r\nContent-Length: 2\r\n\r\nok")
    reply = client.get(path)
    assert (reply.status, reply.body) == (599, b"ok")


def test_empty_reason(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 4: the reason phrase may be empty."""
    origin.on(path, b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok")
    assert client.get(path).body == b"ok"


def test_reply_by_http10_origin(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 2.3: the proxy speaks its own version; an HTTP/1.0 origin's connection is not kept."""

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
        exchange.sock.close()

    origin.on(path, handler)
    for _ in range(3):
        reply: Reply = client.get(path)
        assert (reply.minor, reply.body) == (1, b"ok")


def test_origin_that_sends_single_bytes(client: Client, origin: Origin, path: str) -> None:
    """Cuts of the origin's byte stream mean nothing either."""

    def handler(exchange: Exchange) -> None:
        for byte in CHUNKED_OK + chunked(b"hello, world", 5, b"X-Checksum: 1\r\n"):
            exchange.send(bytes([byte]))

    origin.on(path, handler)
    reply = client.get(path)
    assert (reply.body, reply.trailers.all("x-checksum")) == (b"hello, world", ["1"])


def test_clients_do_not_mix(client: Client, origin: Origin, path: str) -> None:
    """Concurrent bodies of many clients stay apart."""
    origin.on(path, lambda one: one.reply(200, bytes(one.body)))
    wrong: list[int] = []

    def work(number: int) -> None:
        body = bytes([number]) * (50_000 + number)
        with Client(client.address) as mine:
            for _ in range(5):
                if mine.ask("POST", path, body=body).body != body:
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_reader_is_strict() -> None:
    """The tests' own reader: `chunked` is what it accepts."""
    left, right = socket.socketpair()
    with left, right:
        left.sendall(chunked(b"abc" * 10, 7, b"X-A: b\r\n"))
        body = bytearray()
        trailers = read_chunked(Stream(right), body)
        assert (bytes(body), trailers.items) == (b"abc" * 10, [("X-A", "b")])
