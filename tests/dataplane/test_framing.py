"""Bodies: what goes out for what comes in, at every cut, and every malformed chunk."""

import pytest

from proxy.dataplane.framing import (
    LAST_CHUNK,
    MAX_CHUNK_BYTES,
    MAX_EXTENSION_BYTES,
    MAX_TRAILERS,
    BadBody,
    ChunkedBody,
    EofBody,
    LengthBody,
)

TRAILER_BYTES = 64


def chunked(keep=True):
    return ChunkedBody(keep_chunks=keep, trailer_bytes=TRAILER_BYTES)


def run(body, pieces):
    """What of `pieces` goes out; those after the end are later requests, as `extra` is."""
    out = b""
    for index, piece in enumerate(pieces):
        out += body.feed(piece)
        if body.done:
            return out, body.extra + b"".join(pieces[index + 1 :])
    return out, b""


def splits(data):
    """Each way to cut `data` in two, all single bytes, and whole."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def test_length():
    for pieces in splits(b"helloGET /"):
        body = LengthBody(5)
        assert run(body, pieces) == (b"hello", b"GET /")
        assert (body.done, body.payload_bytes) == (True, 5)
        assert body.on_eof() == b""


def test_length_incomplete():
    body = LengthBody(5)
    assert body.feed(b"hell") == b"hell"
    assert (body.done, body.extra, body.payload_bytes) == (False, b"", 4)
    assert body.on_eof() is None


def test_length_zero():
    body = LengthBody(0)
    assert body.done
    assert body.feed(b"GET") == b""
    assert body.extra == b"GET"
    assert body.on_eof() == b""


def test_eof():
    body = EofBody(chunked=True)
    assert body.feed(b"hello, this is it") == b"11\r\nhello, this is it\r\n"
    assert body.feed(b"") == b""
    assert not body.done
    assert body.on_eof() == LAST_CHUNK
    assert (body.done, body.payload_bytes, body.extra) == (True, 17, b"")


def test_eof_for_http10():
    body = EofBody(chunked=False)
    assert body.feed(b"hello") == b"hello"
    assert body.feed(b"") == b""
    assert body.on_eof() == b""
    assert (body.done, body.payload_bytes) == (True, 5)


VALID = [
    # As it came, what goes out in chunks, the payload.
    (b"0\r\n\r\n", b"0\r\n\r\n", b""),
    (b"000\r\n\r\n", b"0\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"5\r\nhello\r\n2\r\n, \r\n0\r\n\r\n", b"5\r\nhello\r\n2\r\n, \r\n0\r\n\r\n", b"hello, "),
    (b"a\r\n0123456789\r\n0\r\n\r\n", b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    (b"A\r\n0\r\n\r\n67890\r\n0\r\n\r\n", b"A\r\n0\r\n\r\n67890\r\n0\r\n\r\n", b"0\r\n\r\n67890"),
    (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"5;a=b\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b'1\r\na\r\n05;q="x";\xe9\r\nhello\r\n0;z\r\n\r\n', b"1\r\na\r\n5\r\nhello\r\n0\r\n\r\n", b"ahello"),
    (b"1;\r\na\r\n1;\r\nb\r\n0;\r\n\r\n", b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", b"ab"),
    (b"5 ;a=b\r\nhello\r\n0\t;z\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"1 \t ;\r\na\r\n1\t; b\r\nb\r\n0\r\n\r\n", b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", b"ab"),
    (b"1\r\na\r\n0\r\nX-A: 1\r\n\r\n", b"1\r\na\r\n0\r\nX-A: 1\r\n\r\n", b"a"),
    (b"1\r\na\r\n0\r\nX-A: 1\r\nHost: b\r\nx-b:\r\n\r\n", b"1\r\na\r\n0\r\nX-A: 1\r\nx-b:\r\n\r\n", b"a"),
    (b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\n\r\n", b""),
]  # fmt: skip


@pytest.mark.parametrize(("data", "out", "payload"), VALID)
@pytest.mark.parametrize("extra", [b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"0\r\n\r\n"])
def test_chunked(data, out, payload, extra):
    """RFC 9112 7.1: the same output, end and leftover wherever the bytes are cut."""
    for pieces in splits(data + extra):
        body = chunked()
        assert run(body, pieces) == (out, extra), pieces
        assert (body.done, body.payload_bytes, body.on_eof()) == (True, len(payload), b"")
        body = chunked(keep=False)
        assert run(body, pieces) == (payload, extra), pieces
        assert (body.done, body.payload_bytes) == (True, len(payload))


@pytest.mark.parametrize("data", [data for data, _, _ in VALID])
def test_chunked_incomplete(data):
    """Every beginning of a body is not its end."""
    for cut in range(len(data)):
        body = chunked()
        body.feed(data[:cut])
        assert not body.done
        assert body.on_eof() is None


BAD = [
    b"\r\n", b"z\r\n", b"-5\r\nhello\r\n", b"+5\r\nhello\r\n", b" 5\r\nhello\r\n", b"5 \r\nhello\r\n",
    b"0x5\r\nhello\r\n", b"5\t\r\nhello\r\n", b"5 a\r\nhello\r\n", b"5 \n;a\r\nhello\r\n",
    b" 5;a\r\nhello\r\n", b"5 \r;a\r\nhello\r\n", b"0 \r\n", b"0_5\r\nhello\r\n", b";a\r\n", b"5\nhello\r\n",
    b"5\rhello\r\n", b"5\r\rhello", b"5;a\nhello\r\n", b"5;a\rb\r\nhello\r\n", b"5;\x00\r\nhello\r\n",
    b"5;\x7f\r\nhello\r\n", b"5,a\r\nhello\r\n", b"5=a\r\nhello\r\n", b"12345678901234567\r\n",
    b"00000000000000005\r\nhello\r\n", b"\xb2\r\n", b"\xef\xbc\x95\r\nhello\r\n", b"5\r\nhelloX",
    b"5\r\nhello\n", b"5\r\nhello\rX", b"5\r\nhello\r\r", b"5\r\nhello0\r\n\r\n", b"5\r\nhello\r\n\r\n",
    b"5\r\nhello\r\n0\n\r\n", b"5\r\nhello\r\n0\r\nX-A : b\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX-A: a\x00b\r\n\r\n", b"0\r\nX-A: a\r\n b\r\n\r\n", b"0\r\nX-A: a\n\r\n",
    b"0\r\nX-A: a\rb\r\n\r\n", b"0\r\nX-A\r\n\r\n", b"0\r\n: a\r\n\r\n", b"0\r\n\n", b"0\r\n\rX",
    b"0\r\n X: a\r\n\r\n", b"0\r\nHost : a\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("data", BAD)
@pytest.mark.parametrize("before", [b"", b"1\r\na\r\n"])
def test_chunked_refused(data, before):
    """Go CVE-2025-22871, Kestrel CVE-2025-55315: CRLF alone ends a line, 1 to 16 plain digits are a size."""
    for pieces in splits(before + data):
        for keep in (True, False):
            body = chunked(keep)
            with pytest.raises(BadBody):
                run(body, [*pieces, b"\r\n\r\n"])
            assert not body.done


def test_bad_chunk_is_refused_early():
    """A line that can only be wrong is not waited for."""
    for data in (
        b"z",
        b"5 \r",
        b"5 a",
        b"5 \t\n",
        b" ",
        b"5;a\x01",
        b"1" * 17,
        b"5\r\nhelloX",
        b"0\r\nX-A : a\r\n",
        b"0\r\nX: \x00",
        b"0\r\nX: a\rb",
    ):
        with pytest.raises(BadBody):
            chunked().feed(data)


@pytest.mark.parametrize("size", [MAX_CHUNK_BYTES + 1, 1 << 63, (1 << 64) - 5, (1 << 64) - 1])
@pytest.mark.parametrize("form", [b"%x\r\n", b"%X\r\n", b"%x;a\r\n"])
def test_chunk_out_of_range(size, form):
    """Nothing real is that large: it is there to overflow somebody's arithmetic."""
    for keep in (True, False):
        for pieces in splits(form % size):
            with pytest.raises(BadBody, match="out of range"):
                run(chunked(keep), pieces)


@pytest.mark.parametrize("digits", [b"%016x" % MAX_CHUNK_BYTES, b"0FFFFFFFFFFFFFFF", b"0" * 15 + b"5"])
def test_sixteen_digits(digits):
    body = chunked()
    assert body.feed(digits + b"\r\nhell") == digits + b"\r\nhell"
    assert (body.done, body.payload_bytes) == (False, 4)


def extension(size):
    return b"1;" + b"a" * (size - 1) + b"\r\nx\r\n"


@pytest.mark.parametrize(
    "sizes", [[MAX_EXTENSION_BYTES], [MAX_EXTENSION_BYTES // 2] * 2, [1] * MAX_EXTENSION_BYTES]
)
def test_extension_limit(sizes):
    """Go CVE-2023-39326: extensions are counted over the whole body."""
    data = b"".join(map(extension, sizes))
    for step in (len(data), 1000, 7):
        body = chunked()
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        assert run(body, pieces)[0] == b"1\r\nx\r\n" * len(sizes)
        with pytest.raises(BadBody, match="extensions are too long"):
            body.feed(b"0;\r\n\r\n")


@pytest.mark.parametrize("step", [1 << 20, 100, 1])
def test_endless_extension(step):
    """Refused soon after the limit, though its line never ends."""
    body = chunked()
    with pytest.raises(BadBody):
        for at in range(0, MAX_EXTENSION_BYTES + 32, step):
            body.feed((b"1;" + b"a" * (MAX_EXTENSION_BYTES + 30))[at : at + step])


def test_trailer_limit():
    """The section up to its empty line fits into the limit, or is refused, however it comes."""
    fits = b"X: " + b"a" * (TRAILER_BYTES - 7) + b"\r\n\r\n"
    assert len(fits) == TRAILER_BYTES
    for pieces in splits(b"0\r\n" + fits):
        assert run(chunked(), pieces) == (b"0\r\n" + fits, b"")
    for pieces in splits(b"0\r\nX" + fits):
        with pytest.raises(BadBody, match="trailers are too long"):
            run(chunked(), pieces)
    with pytest.raises(BadBody, match="trailers are too long"):
        chunked().feed(b"0\r\nX: " + b"a" * TRAILER_BYTES)


def test_trailers_are_counted():
    """As many as header fields, whether they would be passed on or not."""
    trailers = b"".join(b"Age: %d\r\n" % number for number in range(MAX_TRAILERS))
    body = ChunkedBody(keep_chunks=True, trailer_bytes=100_000)
    assert (body.feed(b"0\r\n" + trailers + b"\r\n"), body.done) == (LAST_CHUNK, True)
    with pytest.raises(BadBody, match="trailers are too long"):
        ChunkedBody(keep_chunks=True, trailer_bytes=100_000).feed(b"0\r\n" + trailers + b"X: 1\r\n\r\n")


def test_output_is_not_held_back():
    """What was validated goes out with the call that brought it."""
    body = chunked()
    assert body.feed(b"5\r\nhel") == b"5\r\nhel"
    assert body.feed(b"lo") == b"lo"
    assert body.feed(b"\r") == b""
    assert body.feed(b"\n3") == b"\r\n"
    assert body.feed(b"\r\nabc\r\n0") == b"3\r\nabc\r\n"
    assert body.feed(b"\r\n") == b""
    assert body.feed(b"\r\nGET") == LAST_CHUNK
    assert body.extra == b"GET"


@pytest.mark.parametrize("keep_chunks", [True, False])
def test_many_tiny_chunks(keep_chunks):
    """Thousands of chunks in one piece pass as few do, and say that they were laborious; the next may be light."""
    body = ChunkedBody(keep_chunks=keep_chunks, trailer_bytes=100)
    many = b"1\r\na\r\n" * 5000
    assert body.feed(many) == (many if keep_chunks else b"a" * 5000)
    assert body.is_laborious
    assert body.feed(b"2\r\nbc\r\n") == (b"2\r\nbc\r\n" if keep_chunks else b"bc")
    assert not body.is_laborious
    assert body.payload_bytes == 5002
    with pytest.raises(BadBody):
        body.feed(b"1\r\na\r\n" * 10 + b"1\r\nab\r\n")
