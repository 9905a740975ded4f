"""Bodies: by length, chunked, and up to the end of the connection.

A reader takes what arrives and returns what goes out, already framed for the other side. Payload is counted, never
parsed: bytes of a body by length pass as they came, and a chunked body passes in the pieces it came in as long as its
framing is plain; chunk extensions are dropped and trailers filtered. What is sent on is exactly what was validated
here, byte by byte, which is what RFC 9112 6 asks of an intermediary.

Chunk syntax is RFC 9112 7.1, strictly: CRLF alone ends a line, a size is 1 to 16 hexadecimal digits, data ends in
CRLF. Laxness here is what request smuggling lives on (Go CVE-2025-22871, Kestrel CVE-2025-55315).
"""

import re
from enum import Enum
from typing import Protocol

from proxy.dataplane.headers import safe_trailers

# Bytes of extensions dropped from one body; more is an attack on the parser (Go CVE-2023-39326), not a message.
MAX_EXTENSION_BYTES = 4096
_MAX_SIZE_DIGITS = 16

# Space is allowed before an extension (RFC 9112 7.1.1), nowhere else.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*+;[\t -~\x80-\xff]*+)?\r\n")
_SIZE_LINE_SO_FAR = re.compile(rb"[0-9A-Fa-f]{0,16}\r?|[0-9A-Fa-f]{1,16}[ \t]*+(?:;[\t -~\x80-\xff]*+\r?)?")
# A larger size is no size but an attempt to make somebody's 64-bit arithmetic overflow.
MAX_CHUNK_BYTES = 1 << 60
# Chunks in one piece that take about a millisecond.
LABORIOUS_CHUNKS = 2000
# Trailers of one body, those that are not passed on included; as many as Envoy takes header fields.
MAX_TRAILERS = 100
_NO_LINE = re.compile(rb"[^\t -~\x80-\xff\r]|\r.", re.DOTALL)
LAST_CHUNK = b"0\r\n\r\n"


class BadBody(ValueError):
    """The framing of a body is malformed."""


class BodyReader(Protocol):
    """One body on its way through."""

    done: bool
    """The whole body has been seen."""
    extra: bytes
    """What followed the body in the piece that completed it."""
    payload_bytes: int
    """Payload seen so far."""

    @property
    def is_laborious(self) -> bool:
        """Whether the last piece took so long that others should have their turn before the next."""
        ...

    def feed(self, data: bytes) -> bytes:
        """What of `data` goes out, framed for the other side; may be empty. Raises `BadBody`."""
        ...

    def on_eof(self) -> bytes | None:
        """The connection ended: what is still to go out, or `None` when the body is incomplete."""
        ...


class LengthBody:
    """A body of `length` bytes, passed on as it comes."""

    __slots__ = ("_left", "done", "extra", "payload_bytes")

    is_laborious = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.extra = b""
        self.payload_bytes = 0

    def feed(self, data: bytes) -> bytes:
        size = len(data)
        left = self._left
        if size < left:
            self._left = left - size
            self.payload_bytes += size
            return data
        self._left = 0
        self.done = True
        self.payload_bytes += left
        if size > left:
            self.extra = data[left:]
            return data[:left]
        return data

    def on_eof(self) -> bytes | None:
        return b"" if self.done else None


class EofBody:
    """A reply that ends with its connection: passed on in chunks, or as it comes to a client of HTTP/1.0."""

    __slots__ = ("_chunked", "done", "extra", "payload_bytes")

    is_laborious = False

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked
        self.done = False
        self.extra = b""
        self.payload_bytes = 0

    def feed(self, data: bytes) -> bytes:
        self.payload_bytes += len(data)
        if not self._chunked or not data:
            return data
        return b"%x\r\n%b\r\n" % (len(data), data)

    def on_eof(self) -> bytes | None:
        self.done = True
        return LAST_CHUNK if self._chunked else b""


class _Part(Enum):
    """What the next byte of a chunked body belongs to."""

    SIZE = "size"
    DATA = "data"
    DATA_END = "data_end"
    TRAILERS = "trailers"


# Bound once: an attribute of an enum costs a lookup through its metaclass.
_SIZE = _Part.SIZE
_DATA = _Part.DATA
_DATA_END = _Part.DATA_END
_TRAILERS = _Part.TRAILERS


class ChunkedBody:
    """A chunked body, passed on chunked (`keep_chunks`) or as bare payload.

    `trailer_bytes` bounds the trailer section.
    """

    __slots__ = (
        "_carry", "_extension_bytes", "_keep_chunks", "_left", "_out", "_part", "_trailer_bytes",
        "_trailer_count", "_trailers", "done", "extra", "is_laborious", "payload_bytes",
    )  # fmt: skip

    def __init__(self, *, keep_chunks: bool, trailer_bytes: int) -> None:
        self._keep_chunks = keep_chunks
        self._trailer_bytes = trailer_bytes
        self._trailer_count = 0
        self._trailers: list[bytes] = []
        self._part = _SIZE
        self._left = 0
        self._carry = b""
        """Bytes of a line that is not complete yet."""
        self._extension_bytes = 0
        self._out: list[bytes] = []
        self.is_laborious = False
        self.done = False
        self.extra = b""
        self.payload_bytes = 0

    def feed(self, data: bytes) -> bytes:
        if self._carry:
            data = self._carry + data
            self._carry = b""
        if self._part is _TRAILERS:
            return self._take_trailers(data, 0)
        return self._walk(data)

    def on_eof(self) -> bytes | None:
        return b"" if self.done else None

    def _walk(self, data: bytes) -> bytes:
        """Pass over the chunks in `data`; what lies between `sent` and `at` is validated and not yet put out."""
        out = self._out
        keep = self._keep_chunks
        size = len(data)
        sent = at = 0
        while at < size:
            if self._part is _DATA:
                taken = min(self._left, size - at)
                self._left -= taken
                self.payload_bytes += taken
                if not keep:
                    out.append(data[at : at + taken])
                at += taken
                if self._left:
                    break
                self._part = _DATA_END
            elif self._part is _DATA_END:
                end = data[at : at + 2]
                if end != b"\r\n":
                    if end and end != b"\r":
                        raise BadBody("chunk data does not end in CRLF")
                    break
                at += 2
                self._part = _SIZE
            else:
                at = self._skip_whole(data, at)
                line = _SIZE_LINE.match(data, at)
                if line is None:
                    if at == size:
                        break
                    self._check_partial_size(data, at)
                    break
                self._left = int(line[1], 16)
                if self._left > MAX_CHUNK_BYTES:
                    raise BadBody("chunk size is out of range")
                if line[2] is not None or self._left == 0:
                    # The line is not passed on as it came: put out what precedes it, then ours.
                    if keep:
                        out.append(data[sent:at])
                        if self._left:
                            out.append(b"%x\r\n" % self._left)
                    sent = line.end()
                    self._count_extension(line[2])
                at = line.end()
                if self._left == 0:
                    self._part = _TRAILERS
                    return self._take_trailers(data, at)
                self._part = _DATA
        self._carry = data[at:]
        if keep:
            out.append(data[sent:at])
        return self._flush()

    def _skip_whole(self, data: bytes, at: int) -> int:
        """Pass over the chunks from `at` on that are all here and plain; returns where the next begins. Most are, and
        a body of tiny ones costs a third of what a step for each part would."""
        out = None if self._keep_chunks else self._out
        payload = chunks = 0
        while True:
            line = _SIZE_LINE.match(data, at)
            if line is None or line[2] is not None:
                break
            size = int(line[1], 16)
            begin = line.end()
            end = begin + size
            if not size or data[end : end + 2] != b"\r\n":
                break
            payload += size
            chunks += 1
            if out is not None:
                out.append(data[begin:end])
            at = end + 2
        self.payload_bytes += payload
        self.is_laborious = chunks > LABORIOUS_CHUNKS
        return at

    def _flush(self) -> bytes:
        out = self._out
        if len(out) == 1:
            return out.pop()
        joined = b"".join(out)
        out.clear()
        return joined

    def _count_extension(self, extension: bytes | None) -> None:
        if extension is not None:
            self._extension_bytes += len(extension)
            if self._extension_bytes > MAX_EXTENSION_BYTES:
                raise BadBody("chunk extensions are too long")

    def _check_partial_size(self, data: bytes, at: int) -> None:
        rest = data[at : at + _MAX_SIZE_DIGITS + MAX_EXTENSION_BYTES + 2]
        if len(data) - at > len(rest) or not _SIZE_LINE_SO_FAR.fullmatch(rest):
            raise BadBody("malformed chunk size")

    def _take_trailers(self, data: bytes, at: int) -> bytes:
        """Read trailers from `at` on, each line once, and put out the end of the body after the empty line."""
        while (end := data.find(b"\r\n", at)) > at:
            self._take_trailer(data[at:end])
            at = end + 2
        if end < 0:
            rest = data[at:]
            if len(rest) > self._trailer_bytes:
                raise BadBody("trailers are too long")
            if _NO_LINE.search(rest):
                raise BadBody("malformed trailer")
            self._carry = rest
            return self._flush()
        if self._trailers and self._trailer_bytes < 2:
            raise BadBody("trailers are too long")
        if self._keep_chunks:
            self._out.append(b"\r\n".join([b"0", *self._trailers, b"\r\n"]) if self._trailers else LAST_CHUNK)
        self.done = True
        self.extra = data[end + 2 :]
        return self._flush()

    def _take_trailer(self, line: bytes) -> None:
        self._trailer_bytes -= len(line) + 2
        self._trailer_count += 1
        if self._trailer_bytes < 0 or self._trailer_count > MAX_TRAILERS:
            raise BadBody("trailers are too long")
        try:
            self._trailers += safe_trailers([line])
        except ValueError as error:
            raise BadBody(str(error)) from None
