"""The body of a request on its way to the endpoint: its framing, its limit, and how fast it comes."""

from proxy.dataplane.framing import BadBody, ChunkedBody, LengthBody
from proxy.dataplane.request_head import RequestHead
from proxy.errors import DownstreamError, Reason
from proxy.snapshot import Limits


class Upload:
    """A body that is still to come, in full or in part."""

    __slots__ = ("_began", "_blocked_at", "_blocked_s", "_limits", "_payload_before", "_reader", "is_awaited")

    def __init__(self, head: RequestHead, limits: Limits, now: float) -> None:
        self._reader: ChunkedBody | LengthBody = (
            ChunkedBody(keep_chunks=True, trailer_bytes=limits.header_bytes)
            if head.chunked
            else LengthBody(head.length)
        )
        self._limits = limits
        self.is_awaited = not head.expect
        """Whether it is the client's turn; otherwise it waits for the endpoint's word (100)."""
        self._began = now
        self._payload_before = 0
        self._blocked_at = 0.0
        self._blocked_s = 0.0

    @property
    def is_done(self) -> bool:
        """Whether all of the body was seen."""
        return self._reader.done

    @property
    def is_laborious(self) -> bool:
        """Whether the last piece took long."""
        return self._reader.is_laborious

    @property
    def extra(self) -> bytes:
        """What followed the body in the piece that completed it: the next request."""
        return self._reader.extra

    @property
    def payload_bytes(self) -> int:
        """Payload seen so far."""
        return self._reader.payload_bytes

    def feed(self, data: bytes) -> bytes:
        """What of `data` goes to the endpoint. Raises `DownstreamError` (BAD_CHUNK, BODY_TOO_LARGE)."""
        reader = self._reader
        try:
            out = reader.feed(data)
        except BadBody:
            raise DownstreamError(Reason.BAD_CHUNK) from None
        limit = self._limits.body_bytes
        if limit and reader.payload_bytes > limit:
            raise DownstreamError(Reason.BODY_TOO_LARGE)
        return out

    def restart(self, now: float) -> None:
        """The client may send from now on: what it waited for before is not held against it."""
        self._began = now
        self._blocked_s = 0.0
        self._payload_before = self._reader.payload_bytes

    def on_blocked(self, now: float) -> None:
        """The endpoint does not take what was sent: this time is not held against the client."""
        self._blocked_at = now

    def on_writable(self, now: float) -> None:
        self._blocked_s += now - self._blocked_at

    def is_dripping(self, now: float) -> bool:
        """Whether the client is below the minimum rate, after the grace."""
        elapsed = now - self._began - self._blocked_s
        limits = self._limits
        return (
            elapsed > limits.min_rate_grace_s
            and self._reader.payload_bytes - self._payload_before < limits.min_rate_bytes_per_s * elapsed
        )
