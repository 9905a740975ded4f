"""Malformed, ambiguous and unsupported requests: the right status, a short JSON reason, the connection
closed, and nothing of them at an endpoint."""

import json

import pytest
from support.client import Client, request
from support.origin import Origin
from support.wait import wait_for
from support.wire import Cut, Reply

HOST = "Host: t.test\r\n"
SMUGGLED = "GET <path>/smuggled HTTP/1.1\r\nHost: t.test\r\n\r\n"


def case(name: str, raw: str, *statuses: int) -> object:
    return pytest.param(raw, set(statuses or (400,)), id=name)


def post(fields: str, body: str = "") -> str:
    return f"POST <path> HTTP/1.1\r\n{HOST}{fields}\r\n{body}"


def get(fields: str, host: str = HOST) -> str:
    return f"GET <path> HTTP/1.1\r\n{host}{fields}\r\n"


def assert_refusal(client: Client, reply: Reply) -> None:
    """A short JSON body that names the reason and no internals, on a connection that ends with it."""
    assert reply.fields.one("content-type").startswith("application/json")
    assert isinstance(json.loads(reply.body), dict)
    assert len(reply.body) < 512
    assert "close" in reply.fields.tokens("connection")
    client.assert_closed()


def refused(client: Client, raw: str, path: str, statuses: set[int]) -> Reply:
    """Send `raw` with `<path>` for the path, followed by a request that must never be taken for one."""
    client.send((raw + SMUGGLED).replace("<path>", path).encode("latin-1"))
    reply = client.reply()
    assert reply.status in statuses, reply.head
    assert_refusal(client, reply)
    return reply


FRAMING = [
    case("two-lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd")),
    case("same-length-twice", post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc")),
    case("length-list", post("Content-Length: 3, 3\r\n", "abc")),
    case("length-signed", post("Content-Length: +3\r\n", "abc")),
    case("length-negative", post("Content-Length: -1\r\n")),
    case("length-hex", post("Content-Length: 0x3\r\n", "abc")),
    case("length-spaced", post("Content-Length: 1 3\r\n", "abc")),
    case("length-empty", post("Content-Length: \r\n")),
    case("length-words", post("Content-Length: 3abc\r\n", "abc")),
    case("length-huge", post("Content-Length: 99999999999999999999999\r\n", "abc")),
    case("length-and-chunked", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
    case("chunked-and-length", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
    case("chunked-twice", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), 400, 501),
    case("chunked-in-two-fields", post("Transfer-Encoding: chunked\r\n" * 2, "0\r\n\r\n"), 400, 501),
    case("gzip-chunked", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501),
    case("chunked-not-last", post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), 400, 501),
    case("coding-identity", post("Transfer-Encoding: identity\r\n", "0\r\n\r\n"), 400, 501),
    case("coding-unknown", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 400, 501),
    case("coding-empty", post("Transfer-Encoding: \r\n", "0\r\n\r\n"), 400, 501),
    case("coding-with-control", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), 400, 501),
    case("coding-folded", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n")),
    case("coding-in-http10", f"POST <path> HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
]


@pytest.mark.parametrize(("raw", "statuses"), FRAMING)
def test_framing(client: Client, origin: Origin, path: str, raw: str, statuses: set[int]) -> None:
    """RFC 9112 6.1–6.3, CWE-444: anything but one plain length or exactly `chunked` is refused."""
    refused(client, raw, path, statuses)
    assert origin.seen(path) == []
    assert origin.seen(path + "/smuggled") == []


SYNTAX = [
    case("bare-lf", f"GET <path> HTTP/1.1\n{HOST}\r\n"),
    case("bare-lf-after-field", get("X-A: 1\n")),
    case("bare-lf-ends-head", f"GET <path> HTTP/1.1\r\nHost: t.test\n\n{SMUGGLED}"),
    case("bare-cr-in-value", get("X-A: a\rb\r\n")),
    case("bare-cr-line-end", get("X-A: a\rX-B: b\r\n")),
    case("obs-fold", get("X-A: a\r\n b\r\n")),
    case("fold-before-first-field", f"GET <path> HTTP/1.1\r\n X-A: 1\r\n{HOST}\r\n"),
    case("space-before-colon", get("X-A : a\r\n")),
    case("tab-before-colon", get("X-A\t: a\r\n")),
    case("empty-name", get(": a\r\n")),
    case("name-with-space", get("X A: a\r\n")),
    case("name-with-slash", get("X/A: a\r\n")),
    case("name-non-ascii", get("X-\xe9: a\r\n")),
    case("no-colon", get("X-A\r\n")),
    case("nul-in-value", get("X-A: a\0b\r\n")),
    case("control-in-value", get("X-A: a\x01b\r\n")),
    case("del-in-value", get("X-A: a\x7fb\r\n")),
    case("nul-in-name", get("X\0A: a\r\n")),
    case("no-version", "GET <path>\r\n\r\n"),
    case("http09-with-fields", f"GET <path>\r\n{HOST}\r\n"),
    case("version-lower-case", f"GET <path> http/1.1\r\n{HOST}\r\n"),
    case("version-long", f"GET <path> HTTP/1.10\r\n{HOST}\r\n", 400, 505),
    case("version-two", f"GET <path> HTTP/2.0\r\n{HOST}\r\n", 400, 505),
    case("version-nine", f"GET <path> HTTP/9.9\r\n{HOST}\r\n", 400, 505),
    case("no-target", f"GET HTTP/1.1\r\n{HOST}\r\n"),
    case("two-targets", f"GET <path> <path> HTTP/1.1\r\n{HOST}\r\n"),
    case("tab-separator", f"GET\t<path> HTTP/1.1\r\n{HOST}\r\n", 400, 501),
    case("control-in-target", f"GET <path>\x01 HTTP/1.1\r\n{HOST}\r\n"),
    case("nul-in-target", f"GET <path>\0 HTTP/1.1\r\n{HOST}\r\n"),
    case("del-in-target", f"GET <path>\x7f HTTP/1.1\r\n{HOST}\r\n"),
    case("raw-non-ascii-target", f"GET <path>\xe9 HTTP/1.1\r\n{HOST}\r\n"),
    case("raw-non-ascii-query", f"GET <path>?\xe9 HTTP/1.1\r\n{HOST}\r\n"),
    case("fragment", f"GET <path>#x HTTP/1.1\r\n{HOST}\r\n"),
    case("fragment-in-query", f"GET <path>?a#x HTTP/1.1\r\n{HOST}\r\n"),
    case("target-without-slash", f"GET x<path> HTTP/1.1\r\n{HOST}\r\n"),
    case("asterisk-for-get", f"GET * HTTP/1.1\r\n{HOST}\r\n"),
    case("authority-for-get", f"GET t.test:80 HTTP/1.1\r\n{HOST}\r\n"),
    case("method-with-control", f"G\x01ET <path> HTTP/1.1\r\n{HOST}\r\n", 400, 501),
    case("method-lower-case", f"get <path> HTTP/1.1\r\n{HOST}\r\n", 400, 501),
    case("not-http", "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400, 501),
]


@pytest.mark.parametrize(("raw", "statuses"), SYNTAX)
def test_syntax(client: Client, origin: Origin, path: str, raw: str, statuses: set[int]) -> None:
    """RFC 9112 2.2, 3, 5: CRLF only, token names, no controls, one of the four forms of target."""
    refused(client, raw, path, statuses)
    assert origin.seen(path) == []


HOSTS = [
    case("missing", get("", host="")),
    case("twice", get("", host="Host: t.test\r\nHost: t.test\r\n")),
    case("two-different", get("", host="Host: t.test\r\nHost: other.test\r\n")),
    case("empty", get("", host="Host: \r\n")),
    case("space", get("", host="Host: t.test other.test\r\n")),
    case("userinfo", get("", host="Host: user@t.test\r\n")),
    case("path", get("", host="Host: t.test/path\r\n")),
    case("comma", get("", host="Host: t.test, other.test\r\n")),
    case("query", get("", host="Host: t.test?x\r\n")),
    case("fragment", get("", host="Host: t.test#x\r\n")),
    case("two-ports", get("", host="Host: t.test:80:80\r\n")),
    case("port-not-a-number", get("", host="Host: t.test:http\r\n")),
    case("port-out-of-range", get("", host="Host: t.test:65536\r\n")),
    case("percent-without-digits", get("", host="Host: t%zz.test\r\n")),
    case("open-bracket", get("", host="Host: [::1\r\n")),
    case("only-a-port", get("", host="Host: :80\r\n")),
    case("non-ascii", get("", host="Host: t\xe9st\r\n")),
    case("bad-in-absolute-form", f"GET http://user@t.test<path> HTTP/1.1\r\n{HOST}\r\n"),
    case("empty-in-absolute-form", f"GET http://<path> HTTP/1.1\r\n{HOST}\r\n"),
    case("missing-in-absolute-form", "GET http://t.test<path> HTTP/1.1\r\n\r\n"),
]


@pytest.mark.parametrize(("raw", "statuses"), HOSTS)
def test_host(client: Client, origin: Origin, path: str, raw: str, statuses: set[int]) -> None:
    """RFC 9112 3.2: exactly one valid Host in every HTTP/1.1 request, also with an absolute-form target."""
    refused(client, raw, path, statuses)
    assert origin.seen(path) == []


PATHS = [
    "/%2fx",
    "/%2Fx",
    "/x%5cy",
    "/x%5Cy",
    "/x%00y",
    "/..",
    "/../x",
    "/x/../../y",
    "/x/%2e%2e/%2E./y",
    "/./../x",
]


@pytest.mark.parametrize("target", PATHS)
def test_ambiguous_path(client: Client, origin: Origin, target: str) -> None:
    """Encoded separators and NUL, and dot segments that climb above the root, are 400."""
    refused(client, f"GET {target} HTTP/1.1\r\n{HOST}\r\n", "", {400})
    assert not [one for one in origin.seen() if one.target == target]


CHUNKS = [
    case("size-words", "zz\r\nhello\r\n0\r\n\r\n"),
    case("size-empty", "\r\nhello\r\n0\r\n\r\n"),
    case("size-0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    case("size-negative", "-5\r\nhello\r\n0\r\n\r\n"),
    case("size-signed", "+5\r\nhello\r\n0\r\n\r\n"),
    case("size-space-after", "5 \r\nhello\r\n0\r\n\r\n"),
    case("size-overflows", "fffffffffffffffb\r\nhello\r\n0\r\n\r\n"),
    case("size-out-of-range", "1000000000000001\r\nhello\r\n0\r\n\r\n"),
    case("size-space-before", " 5\r\nhello\r\n0\r\n\r\n"),
    case("size-underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    case("size-too-long", "1" * 17 + "\r\nhello\r\n0\r\n\r\n"),
    case("size-bare-lf", "5\nhello\r\n0\r\n\r\n"),
    case("size-bare-cr", "5\rhello\r\n0\r\n\r\n"),
    case("extension-bare-lf", "5;a\nhello\r\n0\r\n\r\n"),
    case("extension-control", "5;a\x01b\r\nhello\r\n0\r\n\r\n"),
    case("extension-too-long", "5;" + "a" * 20000 + "\r\nhello\r\n0\r\n\r\n"),
    case("data-too-long", "5\r\nhelloX\r\n0\r\n\r\n"),
    case("data-without-crlf", "5\r\nhello0\r\n\r\n"),
    case("data-bare-lf", "5\r\nhello\n0\r\n\r\n"),
    case("last-chunk-bare-lf", "5\r\nhello\r\n0\n\r\n"),
    case("trailer-space-before-colon", "5\r\nhello\r\n0\r\nX-A : b\r\n\r\n"),
    case("trailer-control", "5\r\nhello\r\n0\r\nX-A: a\0b\r\n\r\n"),
    case("trailer-fold", "5\r\nhello\r\n0\r\nX-A: a\r\n b\r\n\r\n"),
    case("trailer-bare-lf", "5\r\nhello\r\n0\r\nX-A: a\n\r\n"),
]


@pytest.mark.parametrize(("raw", "statuses"), CHUNKS)
def test_chunks(client: Client, origin: Origin, path: str, raw: str, statuses: set[int]) -> None:
    """RFC 9112 7.1, CVE-2025-22871, CVE-2025-55315: a bad chunk ends the exchange; no endpoint gets it as
    complete."""
    refused(client, post("Transfer-Encoding: chunked\r\n", raw), path, statuses)
    for exchange in origin.seen(path):
        wait_for(lambda one=exchange: one.sock.fileno() < 0, "the endpoint's connection to end")
        assert not exchange.complete
    assert origin.seen(path + "/smuggled") == []


def test_unknown_method(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 9.1: a method nobody knows is 501."""
    refused(client, f"FOO <path> HTTP/1.1\r\n{HOST}\r\n", path, {501})
    assert origin.seen(path) == []


@pytest.mark.parametrize("fields", ["", "Proxy-Authorization: Basic YTpi\r\n"])
def test_connect(client: Client, origin: Origin, fields: str) -> None:
    """CVE-2026-71324: CONNECT makes no tunnel."""
    refused(client, f"CONNECT t.test:443 HTTP/1.1\r\nHost: t.test:443\r\n{fields}\r\n", "", {501})
    assert not [one for one in origin.seen() if one.method == "CONNECT"]


def test_trace(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 9.3.8, 15.6.2: TRACE is a method that nobody here implements."""
    refused(client, f"TRACE <path> HTTP/1.1\r\n{HOST}Max-Forwards: 0\r\n\r\n", path, {501})
    assert origin.seen(path) == []


@pytest.mark.parametrize("line", ["GET /x\r\n", "GET /x\n", "GET\r\n"])
def test_no_request_line(client: Client, line: str) -> None:
    """HTTP/0.9 and other first lines that are complete but no request line: nothing more is waited for."""
    client.send(line.encode())
    reply = client.reply()
    assert reply.status == 400
    assert_refusal(client, reply)


def test_http2_preface(client: Client) -> None:
    """HTTP/2 is refused with an answer that an HTTP/1.1 reader understands and that says why."""
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    reply = client.reply()
    assert reply.status in (400, 505)
    assert b"HTTP/2" in reply.body
    assert_refusal(client, reply)


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "Application/gRPC"])
def test_grpc(client: Client, origin: Origin, path: str, kind: str) -> None:
    """gRPC cannot work over HTTP/1.1 (no bidirectional framing): refused with a reason, not half-relayed."""
    client.send(request("POST", path, f"Content-Type: {kind}", "TE: trailers", body=b"\0\0\0\0\0"))
    reply = client.reply()
    assert reply.status in (415, 501, 505)
    assert b"gRPC" in reply.body
    assert origin.seen(path) == []


UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_upgrade_with_body(client: Client, origin: Origin, path: str, method: str) -> None:
    """nghttpx ≤ 1.69: a body on a WebSocket upgrade is refused or framed as a body; it is never taken for a
    request, and never passed on raw."""
    hidden = request("GET", path + "/smuggled")
    reply = client.ask(method, path, *UPGRADE, body=hidden)
    assert reply.status in (200, 400)
    for exchange in origin.seen(path):
        assert "upgrade" not in exchange.fields
        assert exchange.body == hidden
    assert origin.seen(path + "/smuggled") == []


def test_refusal_after_good_requests(client: Client, origin: Origin, path: str) -> None:
    """A bad request in a pipeline is answered in its turn, and ends the connection."""
    good = request("GET", path)
    client.send(good + good + b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + good)
    assert [client.reply().status for _ in range(3)] == [200, 200, 400]
    client.assert_closed()
    assert len(origin.seen(path)) == 2


def test_refusal_to_head_has_no_body(client: Client) -> None:
    """RFC 9110 9.3.2: the answer to HEAD never has a body, a refusal either."""
    client.send(b"HEAD / HTTP/1.1\r\n\r\n")
    reply = client.reply("HEAD")
    assert reply.status == 400
    client.assert_closed()


def test_request_cut_in_head(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 8: a head that ends early is no request."""
    client.send(f"GET {path} HTTP/1.1\r\nHost: t.test\r\n".encode())
    client.half_close()
    try:
        assert client.reply().status in (400, 408)
    except Cut:
        pass
    client.assert_closed()
    assert origin.seen(path) == []


def test_nothing_sent(client: Client) -> None:
    """A client that connects and leaves gets no answer it did not ask for."""
    client.half_close()
    client.assert_closed()
