"""Heads as they go out: framed and identified anew from their parsed form, everything else as it came.

Framing fields are never passed through, fields that end at this hop are gone already, and ours come after whatever
the sender's Connection field could name.
"""

from proxy.dataplane.forwarding import VIA_LINES
from proxy.dataplane.framing import BodyReader, ChunkedBody, EofBody, LengthBody
from proxy.dataplane.headers import HEAD_END, drop_fields
from proxy.dataplane.reply_head import ReplyHead
from proxy.dataplane.request_head import RequestHead
from proxy.policy.route import CompiledRoute

# By the minor version of the endpoint's reply.
_CLOSE_ENDS = tuple(via + b"\r\nConnection: close" + HEAD_END for via in VIA_LINES)
_KEEP_ALIVE_ENDS = tuple(via + b"\r\nConnection: keep-alive" + HEAD_END for via in VIA_LINES)
_PLAIN_ENDS = tuple(via + HEAD_END for via in VIA_LINES)
LENGTH_LINE = b"\r\nContent-Length: %d"
_CHUNKED_LINE = b"\r\nTransfer-Encoding: chunked"


def compose_request(
    head: RequestHead, route: CompiledRoute, identity: bytes, request_id: bytes, local_authority: bytes
) -> bytes:
    """The head for the endpoint. `identity` are the lines of `forwarding`; `local_authority` stands in for a Host
    that an HTTP/1.0 client left out."""
    kept = head.kept
    target = head.target
    if head.authority or not head.host:
        kept = [b"\r\nHost: " + (head.host or local_authority), *kept]
    if not route.is_plain:
        target, kept = _rewrite_request(head, route, kept)
    parts = [head.method, b" ", target, b" HTTP/1.1", *kept]
    if head.chunked:
        parts.append(_CHUNKED_LINE)
    elif head.length >= 0:
        parts.append(LENGTH_LINE % head.length)
    if head.expect:
        parts.append(b"\r\nExpect: 100-continue")
    if head.upgrade:
        parts.append(b"\r\nConnection: Upgrade\r\nUpgrade: " + head.upgrade)
    parts += (identity, VIA_LINES[head.minor], b"\r\nX-Request-Id: ", request_id, HEAD_END)
    return b"".join(parts)


def _rewrite_request(head: RequestHead, route: CompiledRoute, kept: list[bytes]) -> tuple[bytes, list[bytes]]:
    target = head.target if head.path == b"*" else route.rewrite_target(head.path, head.query)
    edits = route.request_edits
    removed = edits.removed | {b"host"} if route.host else edits.removed
    if removed:
        kept = [drop_fields(piece, removed) for piece in kept]
    if route.host:
        kept = [b"\r\nHost: " + route.host, *kept]
    return target, [*kept, edits.added]


def compose_reply(
    head: ReplyHead, route: CompiledRoute, framing: bytes, date_line: bytes, minor: int, keep_alive: bool
) -> list[bytes]:
    """The head for a client of HTTP/1.`minor`, in pieces. `framing` is the line that says how the body is framed;
    `date_line` is added when the endpoint sent no Date (RFC 9110 6.6.1)."""
    parts = [head.line, *head.kept, framing]
    needs_date = not head.has_date
    if not route.is_plain:
        edits = route.response_edits
        if edits.removed:
            parts[1:-1] = [drop_fields(piece, edits.removed) for piece in head.kept]
        parts.append(edits.added)
        needs_date = needs_date and b"date" not in edits.removed
    if needs_date:
        parts.append(date_line)
    if head.status == 426 and head.upgrade:
        # What it asks for must be named (RFC 9110 15.5.22).
        parts.append(b"\r\nConnection: Upgrade\r\nUpgrade: " + head.upgrade)
    if not keep_alive:
        parts.append(_CLOSE_ENDS[head.is_http11])
    else:
        parts.append((_PLAIN_ENDS if minor else _KEEP_ALIVE_ENDS)[head.is_http11])
    return parts


def compose_interim(head: ReplyHead) -> bytes:
    """A 1xx, passed on as it came but for the fields that end here."""
    return b"".join((head.line, *head.kept, HEAD_END))


def compose_switch(head: ReplyHead, added: bytes) -> bytes:
    """A 101 to our own Upgrade (RFC 9110 7.8), with the lines `added`."""
    upgrade = b"\r\nConnection: Upgrade\r\nUpgrade: " + head.upgrade
    return b"".join((head.line, *head.kept, added, upgrade, VIA_LINES[head.is_http11], HEAD_END))


def can_have_body(request: RequestHead, head: ReplyHead) -> bool:
    """Whether a reply's body follows its head (RFC 9112 6.3, rule 1; a 1xx is not asked about)."""
    return request.method != b"HEAD" and head.status != 304 and head.status != 204


def frame_reply(
    request: RequestHead, head: ReplyHead, trailer_bytes: int
) -> tuple[BodyReader | None, bytes, bool]:
    """How the body of a reply goes out: its reader (`None` = there is none), the line that says so to the client, and
    whether the client's connection can carry another reply after it (RFC 9112 6.3)."""
    line = b"" if head.length < 0 else LENGTH_LINE % head.length
    if head.status == 204:
        return None, b"", True  # never with a length, RFC 9110 8.6
    if not can_have_body(request, head):
        return None, line, True
    if head.length >= 0:
        return LengthBody(head.length), line, True
    if not request.minor:
        # HTTP/1.0 knows no chunks: the end of the connection ends the body.
        if head.chunked:
            return ChunkedBody(keep_chunks=False, trailer_bytes=trailer_bytes), b"", False
        return EofBody(chunked=False), b"", False
    if head.chunked:
        return ChunkedBody(keep_chunks=True, trailer_bytes=trailer_bytes), _CHUNKED_LINE, True
    return EofBody(chunked=True), _CHUNKED_LINE, True
