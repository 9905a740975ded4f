"""The head of a request: validated, its target and framing understood, the rest kept as it came.

Rules kept here, with their sources: RFC 9112 (3 request line, 3.2 target and Host, 6 framing), RFC 9110 (7.6.1
Connection, 10.1.1 Expect), and the smuggling cases that llhttp leaves to its user.
"""

import ipaddress
import re

from httptools import HttpParserUpgrade, HttpRequestParser
from httptools.parser.errors import HttpParserError, HttpParserInvalidMethodError

from proxy.dataplane.headers import HOP_NAMES, HeadSink, drop_fields, field_pattern, find_field, parse_length
from proxy.dataplane.request_faults import REQUEST_LINE, method_fault, request_fault, request_line_fault
from proxy.errors import DownstreamError, Reason

# Fields that are taken out and dealt with here; every other field passes untouched. The aliased ones are also matched
# with `_` or `.` for `-`: CGI-like endpoints and some frameworks fold such names onto the real ones.
_FIELDS = field_pattern(
    [
        *(name for name in HOP_NAMES if name != "transfer-encoding"),
        *("proxy-authorization", "http2-settings", "host", "expect", "forwarded"),
        "proxy",  # CGI turns it into the environment's HTTP_PROXY (CVE-2016-5385)
    ],
    aliased=[
        *("content-length", "transfer-encoding", "x-forwarded-", "x-real-ip", "x-request-id"),
        *("client-cert", "client-cert-chain"),
    ],
)
_GRPC = re.compile(rb"\ncontent-type:[ \t]*application/grpc(?!-web)")
# Nearly all targets are in origin form, with or without a query.
_ORIGIN_LINE = re.compile(
    rb"([!#-'*+.^_`|~0-9A-Za-z-]+) ((/[!\"$->@-~]*+)(\?[!\"$-~]*+)?) HTTP/1\.([01])\r\n"
)
_LATER_MINOR = re.compile(rb"[^ \r\n]+ [^ \r\n]+ HTTP/1\.[2-9](?=\r|\Z)")
# RFC 3986 3.2 without user information; a port is at most 65535, and may begin with zeros.
_AUTHORITY = re.compile(
    rb"(?:(?:[A-Za-z0-9._~!$&'()*+;=-]++|%[0-9A-Fa-f]{2})++|\[([0-9A-Fa-f:.]++)\])"
    rb"(?::0*+(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])?)?"
)
# A tunnel to anywhere is not offered; a trace would reflect credentials (RFC 9110 9.3.8).
_REFUSED_METHODS = (b"CONNECT", b"TRACE")
# RFC 9110 9.2.2. A request with one of these may be sent again when its connection died before it was answered.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"QUERY"))
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")

# One for all: it is asked before the next head is parsed, and a new one would cost as much as a field.
_SINK = HeadSink()


class RequestHead:
    """What the request path needs to know of a request's head."""

    __slots__ = (
        "authority", "chunked", "expect", "forwarded", "has_body", "host", "is_for_us", "keep_alive", "kept",
        "length", "low", "method", "minor", "path", "query", "raw", "raw_target", "request_id", "target", "upgrade",
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
        self.is_for_us = False
        """An OPTIONS that may pass no further proxy: to be answered here."""
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


def check_partial_request(data: bytes) -> None:
    """Raise `DownstreamError` when `data`, the beginning of a head, can no longer become a valid one."""
    if data != b"\r":
        _check_start(data)
    data = _as_known_version(data)
    _validate(data, partial=True)
    line_end = data.find(b"\n")
    if line_end >= 0 and not REQUEST_LINE.match(data):
        raise DownstreamError(request_line_fault(data[:line_end].rstrip(b"\r")))


def _as_known_version(data: bytes) -> bytes:
    """A later minor version of HTTP/1 is taken as 1.1, the latest that is spoken here (RFC 9110 2.5)."""
    match = _LATER_MINOR.match(data)
    return data[: match.end() - 1] + b"1" + data[match.end() :] if match is not None else data


def _is_authority(value: bytes) -> bool:
    match = _AUTHORITY.fullmatch(value)
    if match is None:
        return False
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1].decode())
        except ValueError:
            return False
    return True


def _check_start(data: bytes) -> None:
    """Refuse what llhttp passes over: any mixture of CR and LF, which would become part of the method."""
    if data.startswith((b"\r", b"\n")):
        raise DownstreamError(Reason.BAD_REQUEST_LINE)


def _validate(data: bytes, *, partial: bool = False) -> None:
    sink = _SINK
    sink.complete = False
    try:
        HttpRequestParser(sink).feed_data(data)
    except HttpParserUpgrade:
        return  # llhttp stops here for Upgrade and CONNECT, which we decide on ourselves
    except HttpParserInvalidMethodError:
        raise DownstreamError(method_fault(data)) from None
    except HttpParserError as error:
        raise DownstreamError(request_fault(data, str(error))) from None
    if not sink.complete and not partial:
        raise DownstreamError(method_fault(data) if data.startswith(b"PRI ") else Reason.BAD_REQUEST)


def parse_request(raw: bytes, max_fields: int, upgrades: frozenset[str]) -> RequestHead:
    """Validate and scan `raw`, the head of a request from its first byte to the empty line that ends it.

    `upgrades` are the Upgrade tokens to relay, in lower case. Raises `DownstreamError` with the reason for the refusal.
    """
    if len(raw) > 4 * max_fields and raw.count(b"\n") - 2 > max_fields:
        raise DownstreamError(Reason.HEADER_TOO_LARGE)
    line = _ORIGIN_LINE.match(raw)
    if line is None:
        _check_start(raw)
        raw = _as_known_version(raw)
        line = _ORIGIN_LINE.match(raw)
    _validate(raw)
    if line is not None:
        method, target, path, query, minor = line.groups()
        head = RequestHead(raw, raw.lower(), method, target, 1 if minor == b"1" else 0)
        head.path = path
        head.query = query or b""
    else:
        line = REQUEST_LINE.match(raw)
        if line is None:
            raise DownstreamError(request_line_fault(raw[: raw.index(b"\r\n")]))
        method, target, minor = line.groups()
        head = RequestHead(raw, raw.lower(), method, target, int(minor))
        _scan_target(head)
    if method in _REFUSED_METHODS:
        raise DownstreamError(Reason.METHOD_UNKNOWN)
    _scan_fields(head, line.end() - 2, upgrades)
    return head


def _scan_target(head: RequestHead) -> None:
    """Understand a target that is not in origin form (RFC 9112 3.2)."""
    target = head.target
    if head.method in _REFUSED_METHODS or (target == b"*" and head.method == b"OPTIONS"):
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
    if not _is_authority(head.authority):
        raise DownstreamError(Reason.BAD_TARGET)
    path = rest[end:]
    if head.method == b"OPTIONS" and not path:
        head.target = b"*"  # RFC 9112 3.2.4
    else:
        head.target = path if path.startswith(b"/") else b"/" + path
    head.path = head.target
    return head.target


def _scan_fields(head: RequestHead, at: int, upgrades: frozenset[str]) -> None:
    """Take out what matters from the fields, which begin with the CRLF at `at`, and keep the rest."""
    raw, low = head.raw, head.low
    kept = head.kept
    hosts = request_ids = 0
    connection = b""
    upgrade = b""
    for match in _FIELDS.finditer(low):
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
            request_ids += 1
            # Several, or one that could not be logged as it is, are replaced by ours.
            head.request_id = value if request_ids == 1 and _REQUEST_ID.fullmatch(value) else b""
        elif name.startswith((b"x-forwarded-", b"forwarded", b"x-real-ip", b"client-cert")):
            if head.forwarded is None:
                head.forwarded = []
            head.forwarded.append((name, raw[match.start(2) : end].rstrip(b" \t")))
        kept.append(raw[at : start - 1])
        at = end
    kept.append(raw[at:-4])
    _check_host(head, hosts)
    if head.method == b"OPTIONS":
        _take_max_forwards(head)
    if head.length > 0 or head.chunked:
        head.has_body = True
        if head.chunked and head.minor == 0:
            raise DownstreamError(Reason.BAD_FRAMING)
    else:
        head.expect = False  # there is nothing to wait with (RFC 9110 10.1.1)
    if head.method == b"POST" and _GRPC.search(low):
        raise DownstreamError(Reason.HTTP2_UNSUPPORTED)
    if connection and connection != b"keep-alive":
        _take_connection(head, connection, upgrade, upgrades)
    elif connection:
        head.keep_alive = True


def _check_host(head: RequestHead, hosts: int) -> None:
    """Exactly one valid Host (RFC 9112 3.2); HTTP/1.0 may leave it out."""
    if hosts > 1 or (hosts == 0 and head.minor == 1):
        raise DownstreamError(Reason.BAD_HOST)
    if hosts and not _is_authority(head.host):
        raise DownstreamError(Reason.BAD_HOST)
    if head.authority:
        head.host = head.authority


def _take_length(head: RequestHead, value: bytes) -> None:
    length = parse_length(value)
    if head.length >= 0 or head.chunked or length < 0:
        raise DownstreamError(Reason.BAD_FRAMING)
    head.length = length


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


def _take_max_forwards(head: RequestHead) -> None:
    """Count down how many proxies an OPTIONS may still pass (RFC 9110 7.6.2)."""
    value = head.field(b"max-forwards")
    if value is None:
        return
    if not value.isdigit() or len(value) > 9:
        raise DownstreamError(Reason.BAD_HEADER)
    head.is_for_us = int(value) == 0
    head.kept[:] = [drop_fields(piece, {b"max-forwards"}) for piece in head.kept]
    head.kept.append(b"\r\nMax-Forwards: %d" % max(int(value) - 1, 0))


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
