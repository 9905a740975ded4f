"""Interim responses and Expect: 100-continue."""

import pytest
from support.client import Client, request
from support.origin import OK, Exchange, Origin

EXPECT = "Expect: 100-continue"


def test_interim_relayed(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 15.2: a proxy forwards 1xx responses, fields included, in order, before the final one."""
    origin.on(
        path,
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\n\r\n" + OK,
    )
    reply = client.get(path)
    assert (reply.status, reply.body) == (200, b"ok")
    assert [one.status for one in reply.interim] == [102, 103, 103]
    assert reply.interim[1].fields.one("link") == "</a.css>; rel=preload"
    client.assert_open("/")


def test_interim_before_the_final_one(client: Client, origin: Origin, path: str) -> None:
    """An interim response is not held back until the final one."""

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        exchange.events.get(timeout=15)
        exchange.send(OK)

    origin.on(path, handler)
    client.send(request("GET", path))
    assert client.stream.until(b"\r\n\r\n").startswith(b"HTTP/1.1 103 ")
    origin.only(path).events.put("go")
    assert client.reply().body == b"ok"


def test_interim_not_to_http10(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 15.2: no 1xx to an HTTP/1.0 client."""
    origin.on(path, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK)
    reply = client.ask("GET", path, minor=0)
    assert (reply.status, reply.body, reply.interim) == (200, b"ok", [])


def test_interim_hop_by_hop_removed(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.6.1 holds for interim responses too."""
    origin.on(
        path, b"HTTP/1.1 103 Early Hints\r\nConnection: X-Secret\r\nX-Secret: 1\r\nLink: </a>\r\n\r\n" + OK
    )
    (interim,) = client.get(path).interim
    assert "x-secret" not in interim.fields
    assert interim.fields.one("link") == "</a>"


def test_interim_flood_bounded(client: Client, origin: Origin, path: str) -> None:
    """Endless interim responses end the exchange; the next one is clean."""

    def handler(exchange: Exchange) -> None:
        for _ in range(50_000):
            exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 10)

    origin.on(path, handler)
    reply = client.send(request("GET", path)).reply_or_cut()
    assert reply is None or reply.status == 502
    client.close()
    with Client(client.address) as other:
        assert other.get("/").body == b"ok"


def test_unasked_101(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 15.2.2: switching protocols that nobody asked for is a malformed reply."""
    origin.on(
        path, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw"
    )
    reply = client.get(path)
    assert reply.status == 502
    assert b"raw" not in reply.body


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_expect_continue(client: Client, origin: Origin, path: str, framing: str) -> None:
    """RFC 9110 10.1.1: the client waits for 100 and gets it, then sends its body."""
    client.send(request("POST", path, EXPECT, framing))
    assert client.stream.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    client.send(b"hello" if "Length" in framing else b"5\r\nhello\r\n0\r\n\r\n")
    reply = client.reply()
    assert reply.status == 200
    assert not [one for one in reply.interim if one.status == 100]
    assert origin.only(path).body == b"hello"


def test_expect_continue_not_awaited(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 10.1.1: a client may send the body without waiting; 100 may then be left out."""
    client.send(request("POST", path, EXPECT, body=b"hello"))
    assert client.reply().status == 200
    assert origin.only(path).body == b"hello"
    client.assert_open("/")


def test_expect_continue_case(client: Client, path: str) -> None:
    """RFC 9110 10.1.1: the expectation compares without case."""
    client.send(request("POST", path, "Expect: 100-Continue", "Content-Length: 1"))
    assert client.stream.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    assert client.send(b"x").reply().status == 200


@pytest.mark.parametrize("status", [417, 401, 200, 307])
def test_expect_answered_finally(client: Client, origin: Origin, path: str, status: int) -> None:
    """RFC 9110 10.1.1: the endpoint answers instead of continuing. The client gets that; if it has not sent
    its body, the connection cannot be used again."""

    def handler(exchange: Exchange) -> None:
        exchange.reply(status, b"no", "Connection: close")
        exchange.wait_gone()

    origin.on(path, handler, early=True)
    client.send(request("POST", path, EXPECT, "Content-Length: 5"))
    reply = client.reply()
    assert (reply.status, reply.body) == (status, b"no")
    assert "close" in reply.fields.tokens("connection")
    client.assert_closed()


def test_unknown_expectation(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 10.1.1: an expectation that the proxy does not understand is 417."""
    reply = client.ask("POST", path, "Expect: 200-maybe", body=b"x")
    assert reply.status == 417
    assert origin.seen(path) == []


def test_expect_from_http10_ignored(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 10.1.1: an HTTP/1.0 client's 100-continue is ignored: no 1xx goes to it."""
    client.send(request("POST", path, EXPECT, body=b"hello", minor=0))
    reply = client.reply()
    assert (reply.status, reply.interim) == (200, [])
    assert origin.only(path).body == b"hello"


@pytest.mark.parametrize("lines", [[], ["Content-Length: 0"]], ids=["no-length", "length-0"])
def test_expect_without_body(client: Client, origin: Origin, path: str, lines: list[str]) -> None:
    """RFC 9110 10.1.1: without content there is nothing to wait for, and nothing to pass on."""
    reply = client.ask("POST", path, EXPECT, *lines)
    assert (reply.status, reply.interim) == (200, [])
    assert "expect" not in origin.only(path).fields
    client.assert_open("/")


@pytest.mark.parametrize("continues", [True, False])
def test_connection_after_expect(client: Client, origin: Origin, path: str, continues: bool) -> None:
    """RFC 9110 10.1.1: an endpoint that answers finally before any 100 may take what comes as a request, or not:
    its connection is not used again."""
    target = "/alone" + path

    def handler(exchange: Exchange) -> None:
        if exchange.method == "POST":
            if continues:
                exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            exchange.body += exchange.stream.exactly(5)
            exchange.complete = True
        exchange.send(OK)

    origin.on(target, handler, early=True)
    client.send(request("POST", target, EXPECT, body=b"hello"))
    assert client.reply().status == 200
    assert client.get(target).status == 200
    first, second = origin.seen(target)
    assert first.body == b"hello"
    assert (first.connection == second.connection) is continues
