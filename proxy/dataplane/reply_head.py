"""The head of a reply: validated, its framing understood (RFC 9112 4, 6.3), the rest kept as it came."""

import re
from typing import NamedTuple

from httptools import HttpParserUpgrade, HttpResponseParser
from httptools.parser.errors import HttpParserError

from proxy.dataplane.headers import HOP_NAMES, HeadSink, drop_fields, field_pattern, parse_length
from proxy.errors import Reason, UpstreamError

_FIELDS = field_pattern((*HOP_NAMES, "proxy-authenticate", "content-length"))
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
# Status lines are few and come again and again; a service that makes them up fills this once and is read each time.
MAX_STATUS_LINES = 256

# One for all: it is asked before the next head is parsed.
_SINK = HeadSink()


class StatusLine(NamedTuple):
    """A status line, read."""

    status: int
    reason: bytes
    minor: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    line: bytes
    """The same for a client: always of HTTP/1.1, which is our own version (RFC 9110 2.5)."""


_status_lines: dict[bytes, StatusLine] = {}


class ReplyHead:
    """What the request path needs to know of a reply's head."""

    __slots__ = (
        "chunked",
        "has_date",
        "is_http11",
        "keep_alive",
        "kept",
        "length",
        "line",
        "low",
        "raw",
        "reason",
        "status",
        "upgrade",
    )

    def __init__(self, raw: bytes, status_line: StatusLine) -> None:
        self.raw = raw
        self.low = raw.lower()
        self.status, self.reason, minor, self.line = status_line
        self.length = -1
        """Content-Length, or -1 when there is none."""
        self.chunked = False
        self.is_http11 = minor == 1
        self.keep_alive = self.is_http11
        self.has_date = b"\ndate:" in self.low
        self.upgrade = b""
        self.kept: list[bytes] = []
        """Slices of the head that pass on unchanged, each beginning with CRLF or empty."""


def _as_known_version(data: bytes) -> bytes:
    """A later minor version of HTTP/1 is taken as 1.1, the latest that is spoken here (RFC 9110 2.5)."""
    if data.startswith(b"HTTP/1.") and b"2" <= data[7:8] <= b"9":
        return b"HTTP/1.1" + data[8:]
    return data


def check_partial_reply(data: bytes) -> None:
    """Raise `UpstreamError` when `data`, the beginning of a head, can no longer become a valid one."""
    data = _as_known_version(data)
    sink = HeadSink()
    try:
        HttpResponseParser(sink).feed_data(data)
    except (HttpParserError, HttpParserUpgrade):
        raise UpstreamError(Reason.BAD_REPLY) from None
    if sink.complete:
        # llhttp saw an end where RFC 9112 2.2 has none.
        raise UpstreamError(Reason.BAD_REPLY)


def parse_reply(raw: bytes, max_fields: int) -> ReplyHead:
    """Validate and scan `raw`, the head of a reply. Raises `UpstreamError` (BAD_REPLY, REPLY_HEADER_TOO_LARGE)."""
    # A field takes at least four bytes (`a:` and CRLF), so most heads need not be counted.
    if len(raw) > 4 * max_fields and raw.count(b"\n") - 2 > max_fields:
        raise UpstreamError(Reason.REPLY_HEADER_TOO_LARGE)
    if raw[7:8] != b"1":
        raw = _as_known_version(raw)
    sink = _SINK
    sink.complete = False
    try:
        HttpResponseParser(sink).feed_data(raw)
    except HttpParserUpgrade:
        sink.complete = True
    except HttpParserError:
        raise UpstreamError(Reason.BAD_REPLY) from None
    if not sink.complete:
        raise UpstreamError(Reason.BAD_REPLY)
    end = raw.index(b"\r\n")
    line = raw[:end]
    head = ReplyHead(raw, _status_lines.get(line) or _read_status_line(line))
    _scan_fields(head, end)
    return head


def _read_status_line(line: bytes) -> "StatusLine":
    """Read a status line that was not seen before, and remember it. Raises `UpstreamError(BAD_REPLY)`."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamError(Reason.BAD_REPLY)
    reason = match[3] or b""
    known = StatusLine(int(match[2]), reason, int(match[1]), b"HTTP/1.1 %b %b" % (match[2], reason))
    if len(_status_lines) < MAX_STATUS_LINES:
        _status_lines[line] = known
    return known


def _scan_fields(head: ReplyHead, at: int) -> None:
    raw, low = head.raw, head.low
    kept = head.kept
    connection = b""
    for match in _FIELDS.finditer(low):
        name = match[1]
        if name == b"content-length":
            if head.length >= 0:
                raise UpstreamError(Reason.BAD_REPLY)
            head.length = parse_length(match[2])
            if head.length < 0:
                raise UpstreamError(Reason.BAD_REPLY)
        elif name == b"connection":
            connection = connection + b"," + match[2] if connection else match[2]
        elif name == b"transfer-encoding":
            # RFC 9112 6.1: only with HTTP/1.1; we decode chunked alone, and once.
            if head.chunked or not head.is_http11 or match[2].rstrip(b" \t") != b"chunked":
                raise UpstreamError(Reason.BAD_REPLY)
            head.chunked = True
        elif name == b"upgrade":
            head.upgrade = match[2].rstrip(b" \t")
        start, end = match.span()
        kept.append(raw[at : start - 1])
        at = end
    kept.append(raw[at:-4])
    if head.chunked and head.length >= 0:
        raise UpstreamError(Reason.BAD_REPLY)
    if connection and connection != b"keep-alive":
        _take_connection(head, connection)
    elif connection:
        head.keep_alive = True


def _take_connection(head: ReplyHead, connection: bytes) -> None:
    """Apply the tokens of Connection: persistence, and fields that end here (RFC 9110 7.6.1)."""
    tokens = {token.strip(b" \t") for token in connection.split(b",")}
    head.keep_alive = b"close" not in tokens and (head.is_http11 or b"keep-alive" in tokens)
    nominated = tokens - {b"close", b"keep-alive", b"upgrade", b""}
    if nominated:
        head.kept[:] = [drop_fields(piece, nominated) for piece in head.kept]
        head.has_date = head.has_date and b"date" not in nominated
