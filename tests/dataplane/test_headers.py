"""Picking fields out of heads, leaving fields out, and which trailers may pass."""

import pytest

from proxy.dataplane.headers import drop_fields, field_pattern, find_field, safe_trailers

PATTERN = field_pattern(("te", "trailer", "trailer-x", "upgrade"), ("content-length", "x-forwarded-"))


def names(*lines):
    head = b"get / http/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    return [(match[1], match[2]) for match in PATTERN.finditer(head)]


def test_field_pattern():
    """Whole names only; a name that ends in `-` stands for all it begins; aliases with `_` and `.`."""
    assert names(b"te: a", b"trailer:b", b"trailer-x:\t c ", b"upgrade:") == [
        (b"te", b"a"), (b"trailer", b"b"), (b"trailer-x", b"c "), (b"upgrade", b""),
    ]  # fmt: skip
    assert names(b"x-forwarded-for: a", b"x_forwarded.b: c", b"x-forwarded-: d") == [
        (b"x-forwarded-for", b"a"), (b"x_forwarded.b", b"c"), (b"x-forwarded-", b"d"),
    ]  # fmt: skip
    assert names(b"content_length: 1", b"content.length: 2", b"content-length: 3") == [
        (b"content_length", b"1"), (b"content.length", b"2"), (b"content-length", b"3"),
    ]  # fmt: skip
    assert (
        names(b"t: a", b"tee: b", b"trailers: c", b"trailer-y: d", b"x-te: e", b"x-forwarded: f", b"a: te: b")
        == []
    )
    assert PATTERN.search(b"te: a") is None  # the first line is no field


def test_find_field():
    raw = b"GET / HTTP/1.1\r\nA: One\t\r\nBA: no\r\na:two\r\nB:\r\n\r\n"
    low = raw.lower()
    assert find_field(raw, low, b"a") == b"One, two"
    assert find_field(raw, low, b"b") == b""
    assert find_field(raw, low, b"c") is None
    assert find_field(raw, low, b"get / http/1.1\r\na") is None


@pytest.mark.parametrize(
    ("piece", "left"),
    [
        (b"", b""),
        (b"\r\nA: 1", b"\r\nA: 1"),
        (b"\r\nX: 1", b""),
        (b"\r\nx: 1\r\nA: X\r\nX:\r\nXA: 1\r\nY: 2\r\nB: 3", b"\r\nA: X\r\nXA: 1\r\nB: 3"),
    ],
)
def test_drop_fields(piece, left):
    assert drop_fields(piece, {b"x", b"y"}) == left
    assert drop_fields(piece, frozenset()) == piece


@pytest.mark.parametrize(
    "line", [b"X-Checksum: a b \t", b"x:", b"Grpc-Status: 0", b"Server-Timing: \xe9", b"ETag: a"]
)
def test_trailer_passes(line):
    assert safe_trailers([line]) == [line]


FORBIDDEN = [
    "Content-Length", "Transfer-Encoding", "Host", "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Upgrade",
    "Trailer", "Content-Type", "Content-Encoding", "Content-Range", "Authorization", "Cookie", "Set-Cookie", "Expect",
    "Cache-Control", "Range", "If-Match", "Location", "Date", "Vary", "Via", "Forwarded", "X-Forwarded-For",
    "X-Forwarded-", "X-Real-IP", "X-Request-Id", "X_Forwarded_For", "content_length", "Transfer.Encoding", "x.real.ip",
    "HTTP2-Settings", "Proxy-Authorization", "WWW-Authenticate", "Max-Forwards", "Age", "Expires", "Retry-After",
]  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_trailer_left_out(name):
    """RFC 9110 6.5.1: nothing that frames, routes, authenticates or identifies comes after the body."""
    assert safe_trailers([f"{name}: 1".encode(), b"X-A: 1", f"{name.swapcase()}:".encode()]) == [b"X-A: 1"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"a",
        b": a",
        b"a : b",
        b" a: b",
        b"a\t: b",
        b"a: b\r",
        b"a: b\nc: d",
        b"a: \x00",
        b"a: \x7f",
        b"\xe9: b",
        b"a b: c",
    ],
)
def test_trailer_refused(line):
    with pytest.raises(ValueError, match="malformed trailer"):
        safe_trailers([b"X-A: 1", line])
