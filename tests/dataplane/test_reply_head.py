"""Reply heads: what is understood, what is kept byte for byte, and what is a 502."""

import pytest

from proxy.dataplane import reply_head
from proxy.dataplane.reply_head import MAX_STATUS_LINES, check_partial_reply, parse_reply
from proxy.errors import Reason, UpstreamError


def parse(fields=b"", *, line=b"HTTP/1.1 200 OK", max_fields=100):
    return parse_reply(line + b"\r\n" + fields + b"\r\n", max_fields)


def refused(fields=b"", **options):
    with pytest.raises(UpstreamError) as caught:
        parse(fields, **options)
    return caught.value.reason


@pytest.mark.parametrize(
    ("line", "status", "reason", "is_http11", "passed"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK", True, b"HTTP/1.1 200 OK"),
        (b"HTTP/1.0 404 Not Found", 404, b"Not Found", False, b"HTTP/1.1 404 Not Found"),
        (b"HTTP/1.1 204 ", 204, b"", True, b"HTTP/1.1 204 "),
        (b"HTTP/1.1 304", 304, b"", True, b"HTTP/1.1 304 "),
        (b"HTTP/1.1 100 Continue", 100, b"Continue", True, b"HTTP/1.1 100 Continue"),
        (b"HTTP/1.1 999 a\t\xe9 b ", 999, b"a\t\xe9 b ", True, b"HTTP/1.1 999 a\t\xe9 b "),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_status_line(line, status, reason, is_http11, passed, again):
    """RFC 9110 2.5: a client is told our own version; the same when the line was seen before."""
    if again:
        parse(line=line)
    head = parse(line=line)
    assert (head.status, head.reason, head.is_http11, head.line) == (status, reason, is_http11, passed)
    assert (head.length, head.chunked, head.has_date, head.upgrade) == (-1, False, False, b"")
    assert head.keep_alive is is_http11
    assert b"".join(head.kept) == b""


def test_more_status_lines_than_remembered():
    """An endpoint that makes up reasons is read all the same, and takes no memory."""
    for number in range(2 * MAX_STATUS_LINES):
        head = parse(line=b"HTTP/1.1 200 reason %d" % number)
        assert (head.status, head.line) == (200, b"HTTP/1.1 200 reason %d" % number)
    assert len(reply_head._status_lines) <= MAX_STATUS_LINES


STATUS_LINES = [
    b"", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 abc Nope", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK",
    b"HTTP/1.1 099 OK", b"HTTP/1.1 000 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1  200 OK",
    b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 200OK", b" HTTP/1.1 200 OK", b"\r\nHTTP/1.1 200 OK",
    b"\nHTTP/1.1 200 OK", b"\rHTTP/1.1 200 OK", b"http/1.1 200 OK", b"HTTP/1.10 200 OK", b"HTTP/2.0 200 OK",
    b"HTTP/0.9 200 OK", b"HTTP/11 200 OK", b"HTTP/1.1x 200 OK", b"HTTP/1.1 200 O\x00K",
    b"HTTP/1.1 200 O\x7fK", b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\nK", b"RTSP/1.0 200 OK", b"ICY 200 OK",
    b"SSH-2.0-OpenSSH_9.6", b"GET / HTTP/1.1", b"hello",
]  # fmt: skip


@pytest.mark.parametrize("minor", [b"2", b"9"])
def test_later_minor_version(minor):
    """RFC 9110 2.5: a minor version that is not known yet is taken as the latest that is, wherever the head is cut."""
    raw = b"HTTP/1.%b 200 OK\r\nContent-Length: 2\r\n\r\n" % minor
    head = parse_reply(raw, 100)
    assert (head.is_http11, head.keep_alive, head.length) == (True, True, 2)
    assert head.line == b"HTTP/1.1 200 OK"
    for end in range(1, len(raw)):
        check_partial_reply(raw[:end])


@pytest.mark.parametrize("line", STATUS_LINES)
def test_status_line_refused(line):
    """RFC 9112 4."""
    assert refused(line=line) is Reason.BAD_REPLY


FIELDS = [
    b"X-A : a\r\n", b": a\r\n", b"X A: a\r\n", b"X-A\r\n", b"X-\xe9: a\r\n", b"X-A: a\x00b\r\n",
    b"X-A: a\x01b\r\n", b"X-A: a\rb\r\n", b"X-A: a\nX-B: b\r\n", b"X-A: a\r\n b\r\n", b" X-A: a\r\n",
    b"X-A: a\x7fb\r\n", b"X-A: a\r\r\n", b"Content-Length: 2\r\nContent-Length: 7\r\n",
    b"Content-Length: 2\r\nContent-Length: 2\r\n", b"Content-Length: 2, 2\r\n", b"Content-Length: +2\r\n",
    b"Content-Length: -2\r\n", b"Content-Length: 0x2\r\n", b"Content-Length: 2a\r\n", b"Content-Length: \r\n",
    b"Content-Length: 1234567890123456789\r\n", b"Content-Length: 99999999999999999999999\r\n",
    b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: chunked, gzip\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: \r\n", b"Transfer-Encoding: xchunked\r\n",
]  # fmt: skip


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("status", [200, 204, 304, 101, 100])
def test_fields_refused(fields, status):
    """RFC 9112 5, 6.3: whatever could be read in two ways is a 502, also where no body follows."""
    line = b"HTTP/1.1 %d x" % status
    assert refused(fields, line=line) is Reason.BAD_REPLY
    assert refused(fields + b"Connection: Upgrade\r\nUpgrade: websocket\r\n", line=line) is Reason.BAD_REPLY


def test_coding_in_http10():
    assert refused(b"Transfer-Encoding: chunked\r\n", line=b"HTTP/1.0 200 OK") is Reason.BAD_REPLY


@pytest.mark.parametrize(
    ("fields", "length", "chunked"),
    [
        (b"content-LENGTH:\t0042 \r\n", 42, False),
        (b"Content-Length: 0\r\n", 0, False),
        (b"Content-Length: 123456789012345678\r\n", 123456789012345678, False),
        (b"Transfer-Encoding: Chunked \r\n", -1, True),
        (b"Content_Length: 5\r\n", -1, False),
    ],
)
def test_framing(fields, length, chunked):
    head = parse(fields)
    assert (head.length, head.chunked) == (length, chunked)


@pytest.mark.parametrize(
    ("minor", "fields", "keep_alive"),
    [
        (1, b"", True),
        (1, b"Connection: close\r\n", False),
        (1, b"connection: x, CLOSE\r\n", False),
        (1, b"Connection: keep-alive\r\n", True),
        (1, b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (0, b"", False),
        (0, b"Connection: keep-alive\r\n", True),
        (0, b"Connection: Keep-Alive, x\r\n", True),
        (0, b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive(minor, fields, keep_alive):
    assert parse(fields, line=b"HTTP/1.%d 200 OK" % minor).keep_alive is keep_alive


def test_kept_bytes():
    """Everything else passes exactly as it came; what ends at this hop does not (RFC 9110 7.6.1)."""
    head = parse(
        b"server:x\r\nConnection: keep-alive, X-Gone\r\nSet-Cookie: a=1\r\nX-Gone: 1\r\nKeep-Alive: timeout=5\r\n"
        b"set-cookie: b=2 \t\r\nDate: now\r\nx-gone: 2\r\nTransfer-Encoding: chunked\r\nProxy-Connection: a\r\n"
        b"TE: b\r\nProxy-Authenticate: c\r\nUpgrade: h2c\r\nX-Obs: \xe9\r\nTrailer: X-Sum\r\nX-Empty:\r\n"
    )
    assert b"".join(head.kept) == (
        b"\r\nserver:x\r\nSet-Cookie: a=1\r\nset-cookie: b=2 \t\r\nDate: now\r\nX-Obs: \xe9"
        b"\r\nTrailer: X-Sum\r\nX-Empty:"
    )
    assert (head.has_date, head.upgrade, head.chunked, head.keep_alive) == (True, b"h2c", True, True)


@pytest.mark.parametrize(
    ("fields", "has_date"),
    [
        (b"dAtE:\r\n", True),
        (b"X-Date: a\r\n", False),
        (b"Dat: e\r\n", False),
        (b"Date: a\r\nConnection: x-date\r\n", True),
        (b"Date: a\r\nConnection: close, Date\r\n", False),
    ],
)
def test_date(fields, has_date):
    """RFC 9110 6.6.1: one that Connection names away has to be replaced."""
    assert parse(fields).has_date is has_date


def test_field_limit():
    assert parse(b"a:\r\n" * 5, max_fields=5).status == 200
    assert refused(b"a:\r\n" * 6, max_fields=5) is Reason.REPLY_HEADER_TOO_LARGE


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n"])
def test_incomplete(raw):
    with pytest.raises(UpstreamError):
        parse_reply(raw, 100)
