"""Heads as they go out, in full: literals of what an endpoint and a client receive."""

import pytest

from proxy.dataplane.compose import (
    compose_interim,
    compose_reply,
    compose_request,
    compose_switch,
    frame_reply,
)
from proxy.dataplane.framing import ChunkedBody, EofBody, LengthBody
from proxy.dataplane.reply_head import parse_reply
from proxy.dataplane.request_head import parse_request
from proxy.policy.route import CompiledRoute
from proxy.snapshot import HeaderEdits, MatchSpec, RewriteSpec, RouteSpec, SplitSpec

IDENTITY = b"\r\nX-Forwarded-For: 192.0.2.1"
DATE = b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT"


def route(**rewrite):
    return CompiledRoute(RouteSpec("r", MatchSpec(), SplitSpec((("c", 1),)), RewriteSpec(**rewrite)), 0)


PLAIN = route()


def request(fields=b"", line=b"GET / HTTP/1.1", host=b"Host: t.test\r\n"):
    return parse_request(line + b"\r\n" + host + fields + b"\r\n", 100, frozenset({"websocket"}))


def reply(fields=b"", line=b"HTTP/1.1 200 OK"):
    return parse_reply(line + b"\r\n" + fields + b"\r\n", 100)


def sent(head, by=PLAIN):
    """The request as the endpoint gets it, without the lines that are always there (RFC 9110 7.6.3: Via names the
    version that the client spoke)."""
    raw = compose_request(head, by, identity=IDENTITY, request_id=b"id-1", local_authority=b"127.0.0.1:80")
    end = IDENTITY + b"\r\nVia: 1.%d homeport\r\nX-Request-Id: id-1\r\n\r\n" % head.minor
    assert raw.endswith(end)
    return raw.removesuffix(end)


def answered(head, by=PLAIN, *, framing=b"", minor=1, keep_alive=True):
    """The reply's head as the client gets it."""
    return b"".join(
        compose_reply(head, by, framing=framing, date_line=DATE, minor=minor, keep_alive=keep_alive)
    )


REQUESTS = [
    (request(), b"GET / HTTP/1.1\r\nHost: t.test"),
    (request(b"A: 1\r\na: 2\r\n"), b"GET / HTTP/1.1\r\nHost: t.test\r\nA: 1\r\na: 2"),
    (request(line=b"GET /a?b HTTP/1.0"), b"GET /a?b HTTP/1.1\r\nHost: t.test"),
    (request(line=b"GET / HTTP/1.0", host=b""), b"GET / HTTP/1.1\r\nHost: 127.0.0.1:80"),
    (
        request(b"A: 1\r\n", line=b"GET http://u.test:1/a?b HTTP/1.1"),
        b"GET /a?b HTTP/1.1\r\nHost: u.test:1\r\nA: 1",
    ),
    (
        request(line=b"GET http://u.test HTTP/1.0", host=b""),
        b"GET / HTTP/1.1\r\nHost: u.test",
    ),
    (request(line=b"OPTIONS * HTTP/1.1"), b"OPTIONS * HTTP/1.1\r\nHost: t.test"),
    (
        request(b"Content-Length: 007\r\nA: 1\r\n", line=b"POST / HTTP/1.1"),
        b"POST / HTTP/1.1\r\nHost: t.test\r\nA: 1\r\nContent-Length: 7",
    ),
    (
        request(b"Content-Length: 0\r\n", line=b"POST / HTTP/1.0"),
        b"POST / HTTP/1.1\r\nHost: t.test\r\nContent-Length: 0",
    ),
    (
        request(b"transfer-encoding: Chunked\r\nA: 1\r\n", line=b"PUT / HTTP/1.1"),
        b"PUT / HTTP/1.1\r\nHost: t.test\r\nA: 1\r\nTransfer-Encoding: chunked",
    ),
    (
        request(b"Expect: 100-continue\r\nContent-Length: 7\r\n", line=b"POST / HTTP/1.1"),
        b"POST / HTTP/1.1\r\nHost: t.test\r\nContent-Length: 7\r\nExpect: 100-continue",
    ),
    (
        request(b"Expect: 100-continue\r\nContent-Length: 7\r\n", line=b"POST / HTTP/1.0"),
        b"POST / HTTP/1.1\r\nHost: t.test\r\nContent-Length: 7",
    ),
    (
        request(b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", line=b"POST / HTTP/1.1"),
        b"POST / HTTP/1.1\r\nHost: t.test\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue",
    ),
    (
        request(b"Expect: 100-continue\r\nContent-Length: 0\r\n", line=b"POST / HTTP/1.1"),
        b"POST / HTTP/1.1\r\nHost: t.test\r\nContent-Length: 0",
    ),
    (request(b"Expect: 100-continue\r\nProxy: http://evil.test\r\n"), b"GET / HTTP/1.1\r\nHost: t.test"),
    (
        request(b"Max-Forwards: 3\r\nA: 1\r\n", line=b"OPTIONS / HTTP/1.1"),
        b"OPTIONS / HTTP/1.1\r\nHost: t.test\r\nA: 1\r\nMax-Forwards: 2",
    ),
    (
        request(b"connection: upgrade, x-a\r\nX-A: 1\r\nUpgrade: WebSocket, h2c\r\nSec-WebSocket-Key: k\r\n"),
        b"GET / HTTP/1.1\r\nHost: t.test\r\nSec-WebSocket-Key: k\r\nConnection: Upgrade\r\nUpgrade: websocket",
    ),
    (
        request(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n"),
        b"GET / HTTP/1.1\r\nHost: t.test",
    ),
    (
        request(
            b"X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6\r\nX_Real_IP: 6\r\nX-Request-Id: c\r\nVia: 1.1 a\r\n"
        ),
        b"GET / HTTP/1.1\r\nHost: t.test\r\nVia: 1.1 a",
    ),
]


@pytest.mark.parametrize(("head", "raw"), REQUESTS)
def test_request(head, raw):
    """RFC 9112 3.2.2, 6: target, Host and framing made anew, the rest as it came."""
    assert sent(head) == raw


@pytest.mark.parametrize(
    "names", [b"x-forwarded-for, via, x-request-id, host", b"X-Forwarded-For,Via,X-Request-Id"]
)
def test_ours_cannot_be_nominated(names):
    """httpd CVE-2022-31813: the client's Connection never takes away what we add."""
    head = request(b"Connection: %b\r\nVia: 1.1 a\r\n" % names)
    assert sent(head) == b"GET / HTTP/1.1\r\nHost: t.test"


REWRITES = [
    ({"strip_prefix": "/a"}, b"/a/b?c", b"/b?c", b"\r\nHost: t.test\r\nA: 1\r\nB: 2"),
    ({"strip_prefix": "/a", "prefix": "/x y"}, b"/a/b", b"/x%20y/b", b"\r\nHost: t.test\r\nA: 1\r\nB: 2"),
    ({"prefix": "/x"}, b"http://u.test/b?c", b"/x/b?c", b"\r\nHost: u.test\r\nA: 1\r\nB: 2"),
    ({"host": "h.test:1"}, b"/b", b"/b", b"\r\nHost: h.test:1\r\nA: 1\r\nB: 2"),
    ({"host": "h.test"}, b"http://u.test/b", b"/b", b"\r\nHost: h.test\r\nA: 1\r\nB: 2"),
    (
        {"request_headers": HeaderEdits(set=(("a", "9"), ("C", "3")), remove=("B",))},
        b"/b",
        b"/b",
        b"\r\nHost: t.test\r\na: 9\r\nC: 3",
    ),
]


@pytest.mark.parametrize(("rewrite", "target", "path", "fields"), REWRITES)
def test_request_rewritten(rewrite, target, path, fields):
    head = request(b"A: 1\r\nB: 2\r\n", line=b"GET " + target + b" HTTP/1.1")
    assert sent(head, route(**rewrite)) == b"GET " + path + b" HTTP/1.1" + fields


def test_asterisk_is_not_rewritten():
    head = request(line=b"OPTIONS * HTTP/1.1")
    assert sent(head, route(prefix="/x")).startswith(b"OPTIONS * HTTP/1.1\r\n")


def test_host_rewritten_for_http10():
    head = request(line=b"GET / HTTP/1.0", host=b"")
    assert sent(head, route(host="h.test")) == b"GET / HTTP/1.1\r\nHost: h.test"


VIA = b"\r\nVia: 1.1 homeport"


def test_reply():
    head = reply(b"A: 1\r\nConnection: close\r\nContent-Length: 5\r\n", line=b"HTTP/1.0 404 Nope")
    begin = b"HTTP/1.1 404 Nope\r\nA: 1\r\nContent-Length: 5" + DATE + b"\r\nVia: 1.0 homeport"
    length = b"\r\nContent-Length: 5"
    assert answered(head, framing=length) == begin + b"\r\n\r\n"
    close = b"\r\nConnection: close\r\n\r\n"
    assert answered(head, framing=length, keep_alive=False) == begin + close
    assert answered(head, framing=length, keep_alive=False, minor=0) == begin + close
    kept = b"\r\nConnection: keep-alive\r\n\r\n"
    assert answered(head, framing=length, minor=0) == begin + kept


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_via_of_reply(version):
    """RFC 9110 7.6.3: Via names the version that the endpoint spoke, whatever the client does."""
    head = reply(b"Via: 1.1 inner\r\n", line=b"HTTP/%b 200 OK" % version)
    begin = b"HTTP/1.1 200 OK\r\nVia: 1.1 inner" + DATE + b"\r\nVia: %b homeport" % version
    for minor in (0, 1):
        assert answered(head, minor=minor, keep_alive=False) == begin + b"\r\nConnection: close\r\n\r\n"
    assert answered(head) == begin + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "fields", "upgrade"),
    [
        (426, b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0"),
        (426, b"Upgrade: a, b\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: a, b"),
        (426, b"Connection: upgrade\r\n", b""),
        (400, b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\n", b""),
        (200, b"Upgrade: h2c\r\n", b""),
    ],
)
def test_upgrade_required(status, fields, upgrade):
    """RFC 9110 15.5.22: a 426 names what it asks for; other offers end at this hop."""
    head = reply(fields, line=b"HTTP/1.1 %d x" % status)
    begin = b"HTTP/1.1 %d x" % status + DATE + upgrade + VIA
    assert answered(head).lower() == (begin + b"\r\n\r\n").lower()
    close = b"\r\nConnection: close\r\n\r\n"
    assert answered(head, keep_alive=False).lower() == (begin + close).lower()


def test_reply_without_reason():
    assert answered(reply(line=b"HTTP/1.1 200")).startswith(b"HTTP/1.1 200 \r\n")


@pytest.mark.parametrize(
    ("fields", "edits", "expected"),
    [
        (b"", HeaderEdits(), DATE),
        (b"Date: a\r\n", HeaderEdits(), b"\r\nDate: a"),
        (b"Date: a\r\nConnection: date\r\n", HeaderEdits(), DATE),
        (b"Date: a\r\n", HeaderEdits(set=(("date", "b"),)), b"\r\ndate: b"),
        (b"", HeaderEdits(set=(("Date", "b"),)), b"\r\nDate: b"),
        (b"Date: a\r\n", HeaderEdits(remove=("Date",)), b""),
        (
            b"Server: s\r\nDate: a\r\nA: 1\r\n",
            HeaderEdits(remove=("server",), set=(("A", "2"),)),
            b"\r\nDate: a\r\nA: 2",
        ),
    ],
)
def test_reply_date_and_edits(fields, edits, expected):
    """RFC 9110 6.6.1: exactly one Date, unless the configuration wants none."""
    head = answered(reply(fields), route(response_headers=edits))
    assert head == b"HTTP/1.1 200 OK" + expected + VIA + b"\r\n\r\n"


def test_interim():
    """RFC 9110 15.2: without framing, and without the fields that end here."""
    head = reply(
        b"Link: </a>\r\nConnection: x\r\nX: 1\r\nContent-Length: 5\r\n", line=b"HTTP/1.1 103 Early Hints"
    )
    assert compose_interim(head) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def test_switch():
    head = reply(
        b"Sec-WebSocket-Accept: a\r\nconnection: Upgrade\r\nUpgrade: WebSocket\r\n", line=b"HTTP/1.1 101 Yes"
    )
    assert compose_switch(head, b"") == (
        b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: a\r\nConnection: Upgrade\r\nUpgrade: websocket"
        + VIA + b"\r\n\r\n"
    )  # fmt: skip


LENGTH = b"Content-Length: 5\r\n"
CODING = b"Transfer-Encoding: chunked\r\n"
LENGTH_LINE = b"\r\nContent-Length: 5"
CODING_LINE = b"\r\nTransfer-Encoding: chunked"

FRAMES = [
    # method, client's minor version, status, fields: reader, line, whether the connection goes on
    (b"GET", 1, 200, LENGTH, LengthBody, LENGTH_LINE, True),
    (b"GET", 1, 200, CODING, ChunkedBody, CODING_LINE, True),
    (b"GET", 1, 200, b"", EofBody, CODING_LINE, True),
    (b"GET", 1, 206, LENGTH, LengthBody, LENGTH_LINE, True),
    (b"GET", 0, 200, LENGTH, LengthBody, LENGTH_LINE, True),
    (b"GET", 0, 200, CODING, ChunkedBody, b"", False),
    (b"GET", 0, 200, b"", EofBody, b"", False),
    (b"HEAD", 1, 200, LENGTH, None, LENGTH_LINE, True),
    (b"HEAD", 1, 200, CODING, None, b"", True),
    (b"HEAD", 0, 200, b"", None, b"", True),
    (b"GET", 1, 304, LENGTH, None, LENGTH_LINE, True),
    (b"GET", 1, 304, CODING, None, b"", True),
    (b"GET", 1, 204, b"", None, b"", True),
    (b"GET", 1, 204, LENGTH, None, b"", True),
    (b"GET", 0, 204, CODING, None, b"", True),
    (b"HEAD", 1, 204, LENGTH, None, b"", True),
    (b"HEAD", 1, 304, LENGTH, None, LENGTH_LINE, True),
    (b"POST", 1, 205, b"Content-Length: 0\r\n", LengthBody, b"\r\nContent-Length: 0", True),
]


@pytest.mark.parametrize(("method", "minor", "status", "fields", "reader", "line", "goes_on"), FRAMES)
def test_frame_reply(method, minor, status, fields, reader, line, goes_on):
    """RFC 9112 6.3; 204 never has a length (RFC 9110 8.6)."""
    asked = request(line=b"%b / HTTP/1.%d" % (method, minor))
    body, framing, can_continue = frame_reply(asked, reply(fields, line=b"HTTP/1.1 %d x" % status), 100)
    assert (type(body) if body else None) is reader
    assert (framing, can_continue) == (line, goes_on)


def test_frame_reply_bodies():
    """Chunks are kept for HTTP/1.1, taken off for HTTP/1.0, made where the end of the connection was the end."""
    chunks = b"3\r\nabc\r\n0\r\nX-A: 1\r\n\r\n"
    for minor, raw in ((1, chunks), (0, b"abc")):
        body = frame_reply(request(line=b"GET / HTTP/1.%d" % minor), reply(CODING), 100)[0]
        assert body.feed(chunks) == raw
        assert body.done
    for minor, raw in ((1, b"3\r\nabc\r\n0\r\n\r\n"), (0, b"abc")):
        body = frame_reply(request(line=b"GET / HTTP/1.%d" % minor), reply(), 100)[0]
        assert body.feed(b"abc") + body.on_eof() == raw
