"""The body of a request: its framing, its limit and its rate, with time as plain numbers."""

import pytest

from proxy.dataplane.request_head import parse_request
from proxy.dataplane.upload import Upload
from proxy.errors import DownstreamError, Reason
from proxy.snapshot import Limits


def upload(fields, *, now=0.0, **limits):
    raw = b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n"
    return Upload(parse_request(raw, 100, frozenset()), Limits(**limits), now)


def by_length(size, **options):
    return upload(b"Content-Length: %d" % size, **options)


def in_chunks(**options):
    return upload(b"Transfer-Encoding: chunked", **options)


def test_by_length():
    body = by_length(5)
    assert body.feed(b"hel") == b"hel"
    assert (body.is_done, body.payload_bytes, body.extra) == (False, 3, b"")
    assert body.feed(b"loGET") == b"lo"
    assert (body.is_done, body.payload_bytes, body.extra) == (True, 5, b"GET")


def test_in_chunks():
    body = in_chunks()
    assert body.feed(b"5;x\r\nhello\r\n0\r\nX-A: 1\r\n\r\nGET") == b"5\r\nhello\r\n0\r\nX-A: 1\r\n\r\n"
    assert (body.is_done, body.payload_bytes, body.extra) == (True, 5, b"GET")


def refusal(body, data):
    with pytest.raises(DownstreamError) as caught:
        body.feed(data)
    return caught.value.reason


def test_bad_chunk():
    assert refusal(in_chunks(), b"5\nhello") is Reason.BAD_CHUNK
    assert refusal(in_chunks(header_bytes=8), b"0\r\nX-A: 1234\r\n\r\n") is Reason.BAD_CHUNK


def test_limit():
    """Payload counts, framing does not."""
    data = b"2;" + b"x" * 100 + b"\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    assert in_chunks(body_bytes=5).feed(data).endswith(b"0\r\n\r\n")
    assert refusal(in_chunks(body_bytes=4), data) is Reason.BODY_TOO_LARGE
    body = by_length(6, body_bytes=5)
    body.feed(b"12345")
    assert refusal(body, b"6") is Reason.BODY_TOO_LARGE


def test_rate():
    """Nothing is asked for within the grace; beyond it the average since the beginning."""
    body = by_length(10_000, now=100.0, min_rate_bytes_per_s=100, min_rate_grace_s=10.0)
    assert not body.is_dripping(110.0)
    assert body.is_dripping(110.5)
    body.feed(b"x" * 1100)
    assert not body.is_dripping(111.0)
    assert body.is_dripping(111.5)


def test_rate_without_the_endpoint():
    """Time in which the endpoint took nothing is not the client's."""
    body = by_length(10_000, min_rate_bytes_per_s=100, min_rate_grace_s=10.0)
    body.feed(b"x" * 1000)
    body.on_blocked(5.0)
    body.on_writable(25.0)
    assert not body.is_dripping(30.0)  # 10 s of its own
    assert body.is_dripping(31.0)
    body.on_blocked(31.0)
    body.on_writable(131.0)
    assert body.is_dripping(131.0)


def test_no_rate():
    body = in_chunks(min_rate_bytes_per_s=0, min_rate_grace_s=0.0)
    assert not body.is_dripping(1e9)
