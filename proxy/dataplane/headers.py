"""Heads of requests and replies: validated as a whole, scanned for what matters, the rest passed on as bytes.

Two views must agree before anything is forwarded. llhttp (strict, through httptools) refuses what is malformed: bare CR
or LF, folded lines, space before a colon, control bytes, ambiguous lengths. Then one regular expression picks out the
few fields that the framing, the hop-by-hop rules and the forwarded identity need, and everything between them is kept
as slices of the original bytes. A callback per field would cost about 2 µs more for twelve fields and give nothing.

Rules kept here, with their sources: RFC 9112 (3 request line, 3.2 target and Host, 6 framing), RFC 9110 (7.6.1
Connection, 6.5.1 trailers), and the smuggling cases that llhttp leaves to its user.
"""

import re
from collections.abc import Iterable
from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser, HttpResponseParser
from httptools.parser.errors import HttpParserError, HttpParserInvalidMethodError

from proxy.errors import DownstreamError, Reason, UpstreamError

HEAD_END = b"\r\n\r\n"

# Fields of a request that are taken out and dealt with here; every other field passes untouched. The names with `_`
# are those that CGI-like endpoints fold onto the real ones; `.` likewise for some frameworks.
_IDENTITY = ("x-forwarded-", "x-real-ip", "x-request-id")
_ALIASED = ("content-length", "transfer-encoding", "x-real-ip", "x-request-id")
_HOP = ("connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade")
_REQUEST_NAMES = (
    *_HOP,
    "proxy-authorization",
    "http2-settings",
    "host",
    "content-length",
    "expect",
    "forwarded",
    *_IDENTITY,
)
_REPLY_NAMES = (*_HOP, "proxy-authenticate", "content-length", "date")


def _alternatives(names: Iterable[str]) -> str:
    """A regular expression for one of `names` as a tree, so that a wrong letter ends the attempt at once."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for letter in name:
            node = node.setdefault(letter, {})
        node[""] = {}

    def render(node: dict[str, Any]) -> str:
        parts = [
            (letter if letter.startswith("[") else re.escape(letter)) + render(rest)
            for letter, rest in sorted(node.items())
            if letter
        ]
        if not parts:
            return ""
        text = "|".join(parts)
        return f"(?:{text}){'?' if '' in node else ''}" if len(parts) > 1 or "" in node else text

    return render(tree)


def _field_pattern(names: Iterable[str], aliases: Iterable[str] = ()) -> re.Pattern[bytes]:
    """Lines of a lower-cased head whose field is one of `names`; a name ending in `-` stands for all it begins."""
    exact = [name for name in names if not name.endswith("-")]
    alternatives = [_alternatives(exact)]
    alternatives += [name.replace("-", "[-_.]") + r"[!#-'*+.^_`|~0-9a-z-]*" for name in names if name.endswith("-")]
    alternatives += [name.replace("-", "[-_.]") for name in aliases]
    return re.compile(rb"\n(" + "|".join(alternatives).encode() + rb"):[ \t]*+([^\r]*+)")


_REQUEST_FIELDS = _field_pattern(_REQUEST_NAMES, _ALIASED)
_REPLY_FIELDS = _field_pattern(_REPLY_NAMES)
_GRPC = re.compile(rb"\ncontent-type:[ \t]*application/grpc(?!-web)")
_TARGET = re.compile(rb"[!\"$-~]+")  # visible ASCII without `#` (RFC 9112 3.2)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r\n")
_AUTHORITY = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"  # RFC 3986 3.2.2, no userinfo
)
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_TRAILER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*")
_DIGITS = re.compile(rb"[0-9]{1,18}")

# Fields that must not arrive as trailers (RFC 9110 6.5.1): framing, routing, authentication, request modifiers,
# response control and content format; and those that we set.
_NO_TRAILER = frozenset(
    name.encode()
    for name in (
        *_HOP,
        *(f"proxy-{word}" for word in ("authenticate", "authorization", "authentication-info")),
        *("host", "content-length", "content-type", "content-encoding", "content-range", "trailer", "expect"),
        *("authorization", "authentication-info", "www-authenticate", "cookie", "set-cookie", "max-forwards"),
        *("cache-control", "pragma", "range", "if-match", "if-none-match", "if-modified-since"),
        *("if-unmodified-since", "if-range", "age", "date", "expires", "location", "retry-after", "vary"),
        *("warning", "via", "forwarded", "http2-settings"),
    )
)


class _Sink:
    """Notes that llhttp saw a whole head."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False

    def on_headers_complete(self) -> None:
        self.complete = True


class RequestHead:
    """What the request path needs to know of a request's head."""

    __slots__ = (
        "authority", "chunked", "expect", "forwarded", "has_body", "host", "keep_alive", "kept", "length", "low",
        "method", "minor", "path", "query", "raw", "raw_target", "request_id", "target", "upgrade",
    )  # fmt: skip

    def __init__(self, raw: bytes, low: bytes, method: bytes, target: bytes, minor: int) -> None:
        self.raw = raw
        self.low = low
        """The head in lower case, same positions."""
        self.method = method
        self.raw_target = target
        self.target = target
        """As it will be forwarded: origin form, or `*`."""
        self.minor = minor
        """1 for HTTP/1.1, 0 for HTTP/1.0."""
        self.path = target
        """The target without its query, raw."""
        self.query = b""
        """The query with its `?`, or empty."""
        self.host = b""
        """Value of Host, or the authority of an absolute target; empty only for HTTP/1.0 without Host."""
        self.authority = b""
        """The authority of an absolute target, which replaces Host (RFC 9112 3.2.2)."""
        self.length = -1
        """Content-Length, or -1 when there is none."""
        self.chunked = False
        self.has_body = False
        self.keep_alive = minor == 1
        self.expect = False
        """The client waits for 100 (Continue)."""
        self.upgrade = b""
        """The token to relay, lower case; empty when this is an ordinary request."""
        self.request_id = b""
        """The client's X-Request-Id when it is acceptable."""
        self.forwarded: list[tuple[bytes, bytes]] | None = None
        """Identity fields the client sent: (lower-case name, value), aliases left out."""
        self.kept: list[bytes] = []
        """Slices of the head that pass on unchanged, each beginning with CRLF or empty."""

    def field(self, name: bytes) -> bytes | None:
        """Value of the field with lower-case `name`, several joined by `, `; `None` when absent."""
        return find_field(self.raw, self.low, name)


def find_field(raw: bytes, low: bytes, name: bytes) -> bytes | None:
    """Value of a field in a head, several joined by `, ` (RFC 9110 5.3); `None` when absent."""
    mark = b"\r\n" + name + b":"
    found = []
    start = low.find(mark)
    while start >= 0:
        start += len(mark)
        end = low.find(b"\r\n", start)
        found.append(raw[start:end].strip(b" \t"))
        start = low.find(mark, end)
    return b", ".join(found) if found else None


def check_partial_request(data: bytes) -> None:
    """Raise `DownstreamError` when `data`, the beginning of a head, can no longer become a valid one."""
    _validate_request(data, partial=True)


def _validate_request(data: bytes, *, partial: bool = False) -> None:
    sink = _Sink()
    try:
        HttpRequestParser(sink).feed_data(data)
    except HttpParserUpgrade:
        return  # llhttp stops here for Upgrade and CONNECT, which we decide on ourselves
    except HttpParserInvalidMethodError:
        raise DownstreamError(_method_fault(data)) from None
    except HttpParserError as error:
        raise DownstreamError(_request_fault(data, str(error))) from None
    if not sink.complete and not partial:
        raise DownstreamError(_method_fault(data) if data.startswith(b"PRI ") else Reason.BAD_REQUEST)


def _method_fault(data: bytes) -> Reason:
    """501 for a well-formed method that nobody here knows, 400 for what is no method at all."""
    if data.startswith(b"PRI * HTTP/2"):
        return Reason.HTTP2_UNSUPPORTED
    return Reason.METHOD_UNKNOWN if re.match(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} ", data) else Reason.BAD_REQUEST_LINE


def _request_fault(data: bytes, text: str) -> Reason:
    """The reason that comes nearest to llhttp's own words."""
    if data.startswith(b"PRI * HTTP/2"):
        return Reason.HTTP2_UNSUPPORTED
    line_end = data.find(b"\r\n")
    if line_end < 0 or "version" in text or "url" in text.lower():
        return _request_line_fault(data[: line_end if line_end >= 0 else len(data)])
    lowered = text.lower()
    if "content-length" in lowered or "transfer-encoding" in lowered:
        return Reason.BAD_FRAMING
    return Reason.BAD_HEADER


def _request_line_fault(line: bytes) -> Reason:
    if re.search(rb" HTTP/[0-9]\.[0-9]$", line) and not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
        return Reason.VERSION_UNSUPPORTED
    return Reason.BAD_REQUEST_LINE


def parse_request(raw: bytes, max_fields: int, upgrades: frozenset[str]) -> RequestHead:
    """Validate and scan `raw`, the head of a request from its first byte to the empty line that ends it.

    `upgrades` are the Upgrade tokens to relay, in lower case. Raises `DownstreamError` with the reason for the refusal.
    """
    if len(raw) > 4 * max_fields and raw.count(b"\n") - 2 > max_fields:
        raise DownstreamError(Reason.HEADER_TOO_LARGE)
    _validate_request(raw)
    parts = raw[: raw.index(b"\r\n")].split(b" ")
    if len(parts) != 3:
        raise DownstreamError(Reason.BAD_REQUEST_LINE)
    method, target, version = parts
    if version == b"HTTP/1.1":
        minor = 1
    elif version == b"HTTP/1.0":
        minor = 0
    else:
        raise DownstreamError(_request_line_fault(raw[: raw.index(b"\r\n")]))
    low = raw.lower()
    head = RequestHead(raw, low, method, target, minor)
    _scan_target(head)
    _scan_request_fields(head, upgrades)
    return head


def _scan_target(head: RequestHead) -> None:
    target = head.target
    if head.method == b"CONNECT" or head.method == b"TRACE":
        # A tunnel to anywhere is not offered; a trace would reflect credentials (RFC 9110 9.3.8).
        raise DownstreamError(Reason.METHOD_NOT_ALLOWED)
    if not _TARGET.fullmatch(target):
        raise DownstreamError(Reason.BAD_TARGET)
    if not target.startswith(b"/"):
        if target == b"*" and head.method == b"OPTIONS":
            return
        target = _origin_form(head, target)
    mark = target.find(b"?")
    if mark >= 0:
        head.path = target[:mark]
        head.query = target[mark:]


def _origin_form(head: RequestHead, target: bytes) -> bytes:
    """Turn an absolute target into origin form and remember its authority (RFC 9112 3.2.2)."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise DownstreamError(Reason.BAD_TARGET)
    end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    head.authority = rest[:end]
    if not _AUTHORITY.fullmatch(head.authority):
        raise DownstreamError(Reason.BAD_TARGET)
    path = rest[end:]
    head.target = path if path.startswith(b"/") else b"/" + path
    head.path = head.target
    return head.target


def _scan_request_fields(head: RequestHead, upgrades: frozenset[str]) -> None:
    raw, low = head.raw, head.low
    kept = head.kept
    hosts = 0
    connection = b""
    upgrade = b""
    at = low.index(b"\n") - 1
    for match in _REQUEST_FIELDS.finditer(low):
        start, end = match.span()
        name = match[1]
        if name == b"host":
            head.host = raw[match.start(2) : end].rstrip(b" \t")
            hosts += 1
            if not head.authority:
                continue
        elif name == b"connection":
            connection = connection + b"," + match[2] if connection else match[2]
        elif name == b"content-length":
            _take_length(head, match[2])
        elif name == b"transfer-encoding":
            _take_coding(head, match[2])
        elif name == b"expect":
            _take_expect(head, match[2])
        elif name == b"upgrade":
            upgrade = upgrade + b"," + match[2] if upgrade else match[2]
        elif name == b"x-request-id":
            value = raw[match.start(2) : end].rstrip(b" \t")
            # A second one, or one that could not be logged as it is, is replaced by ours.
            head.request_id = b"" if head.request_id or not _REQUEST_ID.fullmatch(value) else value
        elif name.startswith((b"x-forwarded-", b"forwarded", b"x-real-ip")):
            if head.forwarded is None:
                head.forwarded = []
            head.forwarded.append((name, raw[match.start(2) : end].rstrip(b" \t")))
        kept.append(raw[at : start - 1])
        at = end
    kept.append(raw[at:-4])
    _check_host(head, hosts)
    if head.length > 0 or head.chunked:
        head.has_body = True
        if head.chunked and head.minor == 0:
            raise DownstreamError(Reason.BAD_FRAMING)
    if connection and connection != b"keep-alive":
        _take_connection(head, connection, upgrade, upgrades)
    elif connection:
        head.keep_alive = True
    if b"application/grpc" in low and _GRPC.search(low):
        raise DownstreamError(Reason.HTTP2_UNSUPPORTED)


def _check_host(head: RequestHead, hosts: int) -> None:
    """Exactly one valid Host (RFC 9112 3.2); HTTP/1.0 may leave it out."""
    if hosts > 1 or (hosts == 0 and head.minor == 1):
        raise DownstreamError(Reason.BAD_HOST)
    if hosts and not _AUTHORITY.fullmatch(head.host):
        raise DownstreamError(Reason.BAD_HOST)
    if head.authority:
        head.host = head.authority


def _take_length(head: RequestHead, value: bytes) -> None:
    value = value.rstrip(b" \t")
    if head.length >= 0 or head.chunked or not _DIGITS.fullmatch(value):
        raise DownstreamError(Reason.BAD_FRAMING)
    head.length = int(value)


def _take_coding(head: RequestHead, value: bytes) -> None:
    if head.chunked or head.length >= 0:
        raise DownstreamError(Reason.BAD_FRAMING)
    if value.rstrip(b" \t") != b"chunked":
        raise DownstreamError(Reason.CODING_UNKNOWN if value.endswith(b"chunked") else Reason.BAD_FRAMING)
    head.chunked = True


def _take_expect(head: RequestHead, value: bytes) -> None:
    if value.rstrip(b" \t") != b"100-continue":
        raise DownstreamError(Reason.EXPECTATION_FAILED)
    # An expectation of an HTTP/1.0 client is ignored (RFC 9110 10.1.1).
    head.expect = head.minor == 1


def _take_connection(head: RequestHead, connection: bytes, upgrade: bytes, upgrades: frozenset[str]) -> None:
    """Apply the tokens of Connection: persistence, Upgrade, and fields that end here (RFC 9110 7.6.1)."""
    tokens = {token.strip(b" \t") for token in connection.split(b",")}
    if b"close" in tokens:
        head.keep_alive = False
    elif b"keep-alive" in tokens:
        head.keep_alive = True
    if b"upgrade" in tokens and upgrade and head.minor == 1 and head.method == b"GET" and not head.has_body:
        offered = [token.strip(b" \t") for token in upgrade.split(b",")]
        head.upgrade = next((token for token in offered if token.decode("latin-1") in upgrades), b"")
    nominated = tokens - {b"close", b"keep-alive", b"upgrade", b"te", b"host", b""}
    if nominated:
        head.kept[:] = [drop_fields(piece, nominated) for piece in head.kept]


def drop_fields(piece: bytes, names: set[bytes] | frozenset[bytes]) -> bytes:
    """`piece`, lines that each begin with CRLF, without the fields whose lower-case name is in `names`."""
    lines = piece.split(b"\r\n")
    return b"\r\n".join([line for line in lines if line.partition(b":")[0].lower() not in names or not line])


class ReplyHead:
    """What the request path needs to know of a reply's head."""

    __slots__ = (
        "chunked",
        "has_date",
        "keep_alive",
        "kept",
        "length",
        "low",
        "minor",
        "raw",
        "reason",
        "status",
        "upgrade",
    )

    def __init__(self, raw: bytes, status: int, reason: bytes, minor: int) -> None:
        self.raw = raw
        self.low = raw.lower()
        self.status = status
        self.reason = reason
        self.minor = minor
        self.length = -1
        """Content-Length, or -1 when there is none."""
        self.chunked = False
        self.keep_alive = minor == 1
        self.has_date = False
        self.upgrade = b""
        self.kept: list[bytes] = []
        """Slices of the head that pass on unchanged, each beginning with CRLF or empty."""


def parse_reply(raw: bytes, max_fields: int) -> ReplyHead:
    """Validate and scan `raw`, the head of a reply. Raises `UpstreamError` (BAD_REPLY, REPLY_HEADER_TOO_LARGE)."""
    # A field takes at least four bytes (`a:` and CRLF), so most heads need not be counted.
    if len(raw) > 4 * max_fields and raw.count(b"\n") - 2 > max_fields:
        raise UpstreamError(Reason.REPLY_HEADER_TOO_LARGE)
    sink = _Sink()
    try:
        HttpResponseParser(sink).feed_data(raw)
    except HttpParserUpgrade:
        sink.complete = True
    except HttpParserError:
        raise UpstreamError(Reason.BAD_REPLY) from None
    line = _STATUS_LINE.match(raw)
    if line is None or not sink.complete:
        raise UpstreamError(Reason.BAD_REPLY)
    head = ReplyHead(raw, int(line[2]), line[3] or b"", 1 if line[1] == b"1" else 0)
    _scan_reply_fields(head)
    return head


def _scan_reply_fields(head: ReplyHead) -> None:
    raw, low = head.raw, head.low
    kept = head.kept
    connection = b""
    at = low.index(b"\n") - 1
    for match in _REPLY_FIELDS.finditer(low):
        name = match[1]
        if name == b"date":
            head.has_date = True
            continue
        if name == b"content-length":
            value = match[2].rstrip(b" \t")
            if head.length >= 0 or not _DIGITS.fullmatch(value):
                raise UpstreamError(Reason.BAD_REPLY)
            head.length = int(value)
        elif name == b"connection":
            connection = connection + b"," + match[2] if connection else match[2]
        elif name == b"transfer-encoding":
            # RFC 9112 6.1: only with HTTP/1.1; we decode chunked alone, and once.
            if head.chunked or head.minor == 0 or match[2].rstrip(b" \t") != b"chunked":
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
    if connection:
        tokens = {token.strip(b" \t") for token in connection.split(b",")}
        head.keep_alive = b"close" not in tokens and (head.minor == 1 or b"keep-alive" in tokens)
        nominated = tokens - {b"close", b"keep-alive", b"upgrade", b""}
        if nominated:
            kept[:] = [drop_fields(piece, nominated) for piece in kept]


def safe_trailers(lines: list[bytes]) -> list[bytes]:
    """Those of a body's trailer lines that may pass. Raises `ValueError` for a line that is no field."""
    passed = []
    for line in lines:
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise ValueError("malformed trailer")
        name = match[1].lower().replace(b"_", b"-").replace(b".", b"-")
        if name not in _NO_TRAILER and not name.startswith((b"x-forwarded-", b"x-real-ip", b"x-request-id")):
            passed.append(line)
    return passed
