"""What the client gets for one request: the endpoint's reply, or an answer of our own.

It reads the endpoint's heads, through interim ones, decides how the body is framed for the client, passes it on, and
knows what may become of both connections afterwards. Which endpoint it is, and whether its reply is wanted, is the
exchange's business.
"""

from typing import TYPE_CHECKING

from proxy.dataplane.compose import (
    LENGTH_LINE,
    can_have_body,
    compose_interim,
    compose_reply,
    compose_switch,
    frame_reply,
)
from proxy.dataplane.framing import BadBody, BodyReader
from proxy.dataplane.headers import HEAD_END
from proxy.dataplane.reply_head import ReplyHead, check_partial_reply, parse_reply
from proxy.dataplane.request_head import RequestHead
from proxy.dataplane.responses import Fields, render
from proxy.errors import Reason, UpstreamError
from proxy.policy.route import CompiledRoute
from proxy.snapshot import Limits

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream

# Interim replies (1xx) accepted in one exchange; endless ones would hold it for ever.
MAX_INTERIM = 64


class Reply:
    """The reply to one request."""

    __slots__ = (
        "_body", "_buffer", "_downstream", "_ends_by_close", "_interim", "_request", "added", "first_byte_at",
        "has_continued", "is_complete", "keep_alive", "rest", "sent_bytes", "status", "upstream_keep_alive",
    )  # fmt: skip

    def __init__(self, request: RequestHead, downstream: "Downstream") -> None:
        self._request = request
        self._downstream = downstream
        self.status = 0
        self.sent_bytes = 0
        """Bytes written to the client."""
        self.first_byte_at = 0.0
        """When the endpoint's first byte came; 0 = none has."""
        self.keep_alive = request.keep_alive
        """Whether the client's connection may carry another request after this one."""
        self.upstream_keep_alive = False
        """Whether the endpoint's connection may."""
        self.has_continued = False
        """The endpoint has said 100."""
        self.is_complete = False
        self.rest = b""
        """What followed a head that was read and is not begun; once the reply is complete, what followed that, which
        belongs to nobody."""
        self.added = b""
        """Lines that the endpoint's reply gets besides, each beginning with CRLF."""
        self._buffer = b""
        self._body: BodyReader | None = None
        self._ends_by_close = False
        self._interim = 0

    def write(self, data: bytes) -> None:
        """Send `data` to the client."""
        self.sent_bytes += len(data)
        self._downstream.wire.write(data)

    # ------------------------------------------------------------------ the endpoint's

    @property
    def is_head_cut(self) -> bool:
        """Whether a head has begun and not ended."""
        return self._buffer != b""

    @property
    def ends_by_close(self) -> bool:
        """Whether the end of the client's connection is the end of the reply (HTTP/1.0)."""
        return self._ends_by_close

    def read_head(self, data: bytes, limits: Limits, now: float) -> ReplyHead | None:
        """The final head, or a 101, with `rest` as what follows it; interim ones are passed on. `None` until it is all
        here. Raises `UpstreamError`."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        elif not self.first_byte_at:
            self.first_byte_at = now
        while data:
            end = data.find(HEAD_END) + 4
            if end < 4:
                check_partial_reply(data)
                end = len(data)
                self._buffer = data
            if end > limits.header_bytes:
                raise UpstreamError(Reason.REPLY_HEADER_TOO_LARGE)
            if self._buffer:
                return None
            head = parse_reply(data[:end], limits.header_count)
            data = data[end:]
            if head.status >= 200 or head.status == 101:
                self.rest = data
                return head
            self._pass_interim(head)
        return None

    def restart(self) -> None:
        """Another endpoint is asked: forget what this one has answered, which the client has not seen."""
        self.rest = self._buffer = b""
        self.first_byte_at = 0.0
        self.has_continued = False

    def _pass_interim(self, head: ReplyHead) -> None:
        """Pass a 1xx on (RFC 9110 15.2), but never to HTTP/1.0."""
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise UpstreamError(Reason.BAD_REPLY)
        if head.status == 100:
            self.has_continued = True
        if self._request.minor == 1:
            self.write(compose_interim(head))

    def begin(self, head: ReplyHead, route: CompiledRoute, date_line: bytes, limits: Limits) -> None:
        """Send the final head, with what is here of the body in the same write. Raises `UpstreamError(BAD_REPLY)`."""
        request, first = self._request, self.rest
        self.rest = b""
        self.status = head.status
        is_suspect = False
        if head.length == len(first) and can_have_body(request, head):
            # All of it is here, as of most small replies: there is nothing left to count.
            body, framing, can_continue = None, LENGTH_LINE % head.length, True
        else:
            body, framing, can_continue = frame_reply(request, head, limits.header_bytes)
            self._body = body
            if body is None:
                self.rest, first = first, b""
                # A body where there can be none may still come, and would be taken for the next exchange's. To HEAD
                # the length belongs, and every server sends it.
                is_suspect = head.chunked or (head.length > 0 and request.method != b"HEAD")
        if not can_continue:
            self.keep_alive = False
            self._ends_by_close = True
        # An endpoint that has not said 100 to an Expect may still wait for a body that will never come.
        has_ended = self.has_continued or not request.expect
        self.upstream_keep_alive = head.keep_alive and has_ended and not is_suspect
        parts = compose_reply(head, route, framing, date_line, request.minor, self.keep_alive)
        if self.added:
            parts.insert(-1, self.added)
        if body is not None:
            self._feed(body, first, parts)
            return
        self.is_complete = True
        parts.append(first)
        self.write(b"".join(parts))

    def feed(self, data: bytes) -> bool:
        """Pass on a piece of the body; true when it took so long that others should have their turn before the next.
        Raises `UpstreamError(BAD_REPLY)`."""
        body = self._body
        assert body is not None
        self._feed(body, data, [])
        return body.is_laborious

    def _feed(self, body: BodyReader, data: bytes, before: list[bytes]) -> None:
        try:
            out = body.feed(data)
        except BadBody:
            # The client sees how the reply began, and by the cut that it did not end.
            self.write(b"".join(before))
            raise UpstreamError(Reason.BAD_REPLY) from None
        if before:
            before.append(out)
            out = b"".join(before)
        if body.done:
            self.is_complete = True
            self.rest = body.extra
        self.write(out)

    def on_eof(self) -> None:
        """The endpoint has ended while the body was coming, which may be the body's end. Raises `UpstreamError`."""
        assert self._body is not None
        out = self._body.on_eof()
        if out is None:
            raise UpstreamError(Reason.REPLY_CUT)
        self.is_complete = True
        self.upstream_keep_alive = False
        self.write(out)

    def switch(self, head: ReplyHead) -> None:
        """Pass on a 101 and what follows it; it must be to our own Upgrade (RFC 9110 15.2.2), or `UpstreamError`."""
        upgrade = self._request.upgrade
        if not upgrade or head.upgrade.lower() != upgrade:
            raise UpstreamError(Reason.BAD_REPLY)
        self.status = 101
        self.keep_alive = False
        self._ends_by_close = True
        self.write(compose_switch(head, self.added) + self.rest)
        self.rest = b""

    # ------------------------------------------------------------------ our own

    def respond(self, status: int, body: bytes, fields: Fields, *, date_line: bytes) -> None:
        """Answer ourselves."""
        self.status = status
        request = self._request
        response = render(
            status,
            body=body,
            fields=fields,
            date_line=date_line,
            keep_alive=self.keep_alive,
            minor=request.minor,
            with_body=request.method != b"HEAD",
        )
        self.write(response)

    # ------------------------------------------------------------------ the end

    def end(self, reset: bool, is_receiving: bool, now: float) -> None:
        """Hand the client's connection on, or cut it (`reset`). `is_receiving` = the request has not ended."""
        downstream = self._downstream
        if reset:
            downstream.on_exchange_cut()
        elif self.keep_alive:
            downstream.on_exchange_end(now)
        else:
            is_cut = self._body is not None and not self.is_complete
            downstream.on_last_exchange_end(
                # A client that wished to go on may have sent its next request.
                unread=is_receiving or is_cut or self._request.keep_alive,
                ends_answer=is_cut or self._ends_by_close,
            )
