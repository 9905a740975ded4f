"""What Homeport answers itself: refusals with a short JSON body, fixed responses and redirects of the configuration."""

from collections.abc import Iterable

import orjson

from proxy.dataplane.request_head import RequestHead
from proxy.errors import ExchangeError, Reason, RoutingError
from proxy.policy.route import CompiledRoute
from proxy.snapshot import RedirectSpec, RespondSpec

Fields = list[tuple[bytes, bytes]]
"""Names and values of header fields."""

_PHRASES = {
    200: b"OK", 201: b"Created", 202: b"Accepted", 204: b"No Content", 301: b"Moved Permanently", 302: b"Found",
    303: b"See Other", 307: b"Temporary Redirect", 308: b"Permanent Redirect", 400: b"Bad Request",
    401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout",
    410: b"Gone", 413: b"Content Too Large", 414: b"URI Too Long", 417: b"Expectation Failed", 418: b"I'm a teapot",
    421: b"Misdirected Request", 429: b"Too Many Requests", 431: b"Request Header Fields Too Large",
    500: b"Internal Server Error", 501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def phrase_of(status: int) -> bytes:
    """The reason phrase of `status`; may be empty (RFC 9112 4)."""
    return _PHRASES.get(status, b"")


def render(
    status: int,
    *,
    body: bytes,
    fields: Iterable[tuple[bytes, bytes]],
    date_line: bytes,
    keep_alive: bool,
    minor: int,
    with_body: bool,
) -> bytes:
    """A whole response to a request of HTTP/1.`minor`. `date_line` is `\\r\\nDate: …`; `with_body` is false for the
    answer to HEAD."""
    parts = [b"HTTP/1.1 %d %b" % (status, phrase_of(status))]
    parts += [b"\r\n%b: %b" % field for field in fields]
    has_body = status != 204 and status != 304
    if has_body:
        parts.append(b"\r\nContent-Length: %d" % len(body))
    parts.append(date_line)
    if not keep_alive:
        parts.append(b"\r\nConnection: close")
    elif not minor:
        parts.append(b"\r\nConnection: keep-alive")
    parts.append(b"\r\n\r\n")
    if with_body and has_body:
        parts.append(body)
    return b"".join(parts)


def refusal(error: ExchangeError, request_id: bytes) -> tuple[bytes, Fields]:
    """Body and fields that tell a client why: the reason's code and text as JSON, never internals."""
    fields: Fields = [(b"Content-Type", b"application/json")]
    if isinstance(error, RoutingError):
        if error.allow:
            fields.append((b"Allow", error.allow))
        if error.retry_after_s:
            fields.append((b"Retry-After", b"%d" % error.retry_after_s))
    return _explanation(error.reason, str(error), request_id), fields


def _explanation(reason: Reason, text: str, request_id: bytes) -> bytes:
    return orjson.dumps(
        {
            "error": reason.code,
            "message": text,
            "status": reason.status,
            "request_id": request_id.decode("latin-1"),
        }
    )


def render_refusal(reason: Reason, request_id: bytes, *, date_line: bytes, with_body: bool) -> bytes:
    """A whole response to bytes that are no request; the connection closes after it."""
    return render(
        reason.status,
        body=_explanation(reason, reason.text, request_id),
        fields=[(b"Content-Type", b"application/json"), (b"X-Request-Id", request_id)],
        date_line=date_line,
        keep_alive=False,
        minor=1,
        with_body=with_body,
    )


def local_answer(
    action: RespondSpec | RedirectSpec, route: CompiledRoute, head: RequestHead, scheme: bytes
) -> tuple[bytes, Fields]:
    """Body and fields of a fixed response or a redirect of the configuration."""
    if isinstance(action, RespondSpec):
        return fixed_answer(action)
    return b"", [(b"Location", route.redirect_location(scheme, head.host, head.path, head.query))]


def fixed_answer(action: RespondSpec) -> tuple[bytes, Fields]:
    """Body and fields of a fixed response; plain text unless the configuration says what it is."""
    fields = [(name.encode(), value.encode()) for name, value in action.headers]
    if action.body and not any(name.lower() == b"content-type" for name, _ in fields):
        fields.append((b"Content-Type", b"text/plain; charset=utf-8"))
    return action.body, fields
