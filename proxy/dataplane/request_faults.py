"""Why bytes are no acceptable request: what is too large, and what llhttp or a look at the request line refused."""

import re

from proxy.errors import DownstreamError, Reason
from proxy.snapshot import Limits

# RFC 9112 3; a target is visible ASCII without `#`.
REQUEST_LINE = re.compile(rb"([!#-'*+.^_`|~0-9A-Za-z-]+) ([!\"$-~]+) HTTP/1\.([01])\r\n")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")


def check_size(data: bytes, limits: Limits) -> None:
    """Raise `DownstreamError` when a head, or the beginning of one, is over a limit."""
    line_end = data.find(b"\r\n")
    if (line_end if line_end >= 0 else len(data)) > limits.request_line_bytes:
        raise DownstreamError(Reason.TARGET_TOO_LONG)
    if len(data) > limits.header_bytes:
        raise DownstreamError(Reason.HEADER_TOO_LARGE)
    if data.count(b"\n") - 2 > limits.header_count:
        raise DownstreamError(Reason.HEADER_TOO_LARGE)


def skip_empty_lines(data: bytes) -> bytes:
    """An empty line before a request is passed over (RFC 9112 2.2); a stream of them is no request."""
    if len(data) > 8 and not data[:8].strip(b"\r\n"):
        raise DownstreamError(Reason.BAD_REQUEST_LINE)
    while data.startswith(b"\r\n"):
        data = data[2:]
    return data


def method_fault(data: bytes) -> Reason:
    """501 for a well-formed method that nobody here knows, 400 for what is no method at all."""
    if data.startswith(b"PRI * HTTP/2"):
        return Reason.HTTP2_UNSUPPORTED
    return (
        Reason.METHOD_UNKNOWN
        if re.match(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} ", data)
        else Reason.BAD_REQUEST_LINE
    )


def request_fault(data: bytes, text: str) -> Reason:
    """The reason that comes nearest to llhttp's own words."""
    if data.startswith(b"PRI * HTTP/2"):
        return Reason.HTTP2_UNSUPPORTED
    line_end = data.find(b"\r\n")
    if line_end < 0 or not REQUEST_LINE.match(data):
        return request_line_fault(data[: line_end if line_end >= 0 else len(data)])
    lowered = text.lower()
    if "url" in lowered:
        return Reason.BAD_TARGET
    if "method" in lowered:  # one of llhttp's own that only RTSP has
        return Reason.METHOD_UNKNOWN
    if "content-length" in lowered or "transfer-encoding" in lowered:
        return Reason.BAD_FRAMING
    return Reason.BAD_HEADER


def request_line_fault(line: bytes) -> Reason:
    """What is wrong with a request line that llhttp may have let pass."""
    parts = line.split(b" ")
    if len(parts) != 3:
        return Reason.BAD_REQUEST_LINE
    if parts[2] in (b"HTTP/1.1", b"HTTP/1.0"):
        return Reason.BAD_TARGET
    return Reason.VERSION_UNSUPPORTED if _VERSION.fullmatch(parts[2]) else Reason.BAD_REQUEST_LINE
