"""A strict little HTTP/1.1 reader over a blocking socket, used for both directions.

It accepts only what RFC 9112 lets a sender generate: CRLF, token names, one framing field, no chunk
extensions. What the proxy emits must pass it, so every exchange of every test checks the form of the proxy's
messages as well."""

import json
import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class Malformed(AssertionError):
    """The peer sent something that HTTP/1.1 does not allow it to send."""


class Cut(Exception):
    """The peer closed or reset the connection in the middle of a message, or before it."""

    def __init__(self, received: bytes = b"", reply: "Reply | None" = None) -> None:
        super().__init__(received[:200], reply)
        self.received = received
        """Bytes of the unfinished part."""
        self.reply = reply
        """The reply that was cut, when its head was complete."""


@dataclass
class Fields:
    """Header or trailer fields in order, names in their own case."""

    items: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """Values of every field called `name`, in order; names compare without case."""
        return [value for key, value in self.items if key.lower() == name.lower()]

    def one(self, name: str) -> str:
        """The value of the only field called `name`."""
        values = self.all(name)
        assert len(values) == 1, f"expected one {name}, got {values} in {self.items}"
        return values[0]

    def tokens(self, name: str) -> list[str]:
        """Lower-case members of the comma-separated lists called `name`."""
        return [part.strip().lower() for value in self.all(name) for part in value.split(",") if part.strip()]

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))


@dataclass
class Reply:
    """A response as it came over the wire."""

    status: int
    minor: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=Fields)
    interim: list["Reply"] = field(default_factory=list)
    """The 1xx responses before it."""
    head: bytes = b""

    def document(self) -> dict[str, Any]:
        """The body, which is a JSON object."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Stream:
    """Exact reads from a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()

    def fill(self) -> bool:
        """Wait for more bytes; false at the end, which a reset is as well."""
        try:
            data = self.sock.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLZeroReturnError):
            return False
        self.buffer += data
        return bool(data)

    def take(self, count: int) -> bytes:
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def exactly(self, count: int) -> bytes:
        """`count` bytes, or `Cut`."""
        while len(self.buffer) < count:
            if not self.fill():
                raise Cut(self.take(len(self.buffer)))
        return self.take(count)

    def until(self, mark: bytes) -> bytes:
        """Bytes before `mark`, which is taken too, or `Cut`."""
        searched = 0
        while True:
            found = self.buffer.find(mark, searched)
            if found >= 0:
                taken = self.take(found)
                self.take(len(mark))
                return taken
            searched = max(0, len(self.buffer) - len(mark) + 1)
            if not self.fill():
                raise Cut(self.take(len(self.buffer)))

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while self.fill():
            pass
        return self.take(len(self.buffer))


def parse_fields(lines: list[bytes]) -> Fields:
    """Header or trailer lines without their CRLF."""
    fields = Fields()
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise Malformed(f"field line {line[:200]!r}")
        fields.items.append((match[1].decode("latin-1"), match[2].decode("latin-1")))
    return fields


def parse_status(head: bytes) -> Reply:
    """A response head without its empty line."""
    first, *lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise Malformed(f"status line {first[:200]!r}")
    return Reply(status=int(match[2]), minor=int(match[1]), fields=parse_fields(lines), head=head)


def parse_request(head: bytes) -> tuple[str, str, int, Fields]:
    """Method, target, minor version and fields of a request head without its empty line."""
    first, *lines = head.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise Malformed(f"request line {first[:200]!r}")
    return match[1].decode(), match[2].decode("latin-1"), int(match[3]), parse_fields(lines)


def framing(fields: Fields) -> int | None:
    """Length of the body by Content-Length, −1 for chunked, `None` when no field tells."""
    lengths, codings = fields.all("content-length"), fields.all("transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise Malformed(f"more than one framing field: {fields.items}")
    if codings:
        if codings[0].lower() != "chunked":
            raise Malformed(f"transfer coding {codings[0]!r}")
        return -1
    if lengths:
        if not lengths[0].isascii() or not lengths[0].isdigit():
            raise Malformed(f"content-length {lengths[0]!r}")
        return int(lengths[0])
    return None


def read_chunked(stream: Stream, body: bytearray) -> Fields:
    """Append the chunks to `body` as they come and return the trailers."""
    while True:
        line = stream.until(b"\r\n")
        if not _CHUNK_SIZE.fullmatch(line):
            raise Malformed(f"chunk size {line[:100]!r}")
        size = int(line, 16)
        if size == 0:
            break
        body += stream.exactly(size)
        if stream.exactly(2) != b"\r\n":
            raise Malformed("no CRLF after a chunk")
    lines = []
    while line := stream.until(b"\r\n"):
        lines.append(line)
    return parse_fields(lines)


def read_reply(stream: Stream, method: str = "GET") -> Reply:
    """One final response to `method`, or `Cut` with what there was of it."""
    interim: list[Reply] = []
    while True:
        reply = parse_status(stream.until(b"\r\n\r\n"))
        if reply.status >= 200 or reply.status == 101:
            break
        if "content-length" in reply.fields or "transfer-encoding" in reply.fields:
            raise Malformed(f"an interim response with framing: {reply.head!r}")
        interim.append(reply)
    reply.interim = interim
    length = framing(reply.fields)
    if reply.status in (101, 204) and length is not None:
        raise Malformed(f"{reply.status} with framing: {reply.head!r}")
    if reply.minor == 0 and length == -1:
        raise Malformed("chunked in HTTP/1.0")
    if method == "HEAD" or reply.status in (101, 204, 304):
        return reply
    body = bytearray()
    try:
        if length == -1:
            reply.trailers = read_chunked(stream, body)
        elif length is None:
            body += stream.rest()
        else:
            body += stream.exactly(length)
    except Cut as cut:
        reply.body = bytes(body) + cut.received
        raise Cut(cut.received, reply) from None
    reply.body = bytes(body)
    return reply


def chunked(body: bytes, size: int = 16384, trailers: bytes = b"") -> bytes:
    """`body` in chunks of `size` bytes, with trailer lines (each ending in CRLF)."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailers + b"\r\n"
