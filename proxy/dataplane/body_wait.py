"""Requests whose body has to come first, before an endpoint is taken for them.

A client that announces a body and sends none would hold an endpoint for nothing, so its first bytes are waited for, a
little. And where the names of a request's data are in its body, all of it is waited for, if it is not too large.
"""

from typing import TYPE_CHECKING

import orjson

from proxy.cluster import Cluster
from proxy.dataplane.framing import BadBody, ChunkedBody
from proxy.dataplane.request_head import RequestHead
from proxy.dataplane.responses import CONTINUE
from proxy.dataplane.upload import Upload
from proxy.errors import DownstreamError, Reason
from proxy.policy.data_key import NO_DOCUMENT
from proxy.policy.ignored import Ignored
from proxy.policy.route import CompiledRoute

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.exchange import Exchange

# A client that announces a body and sends none takes no endpoint for this long. Most send it with the head; one that
# waits for an early answer still gets it.
FIRST_BYTES_S = 0.2


class BodyWait:
    """What has come of a body that is waited for."""

    __slots__ = ("_body_s", "_downstream", "_held", "_limit_bytes")

    def __init__(self, downstream: "Downstream", limit_bytes: int, body: bytes, body_s: float) -> None:
        self._downstream = downstream
        self._limit_bytes = limit_bytes
        """Payload beyond which the rest is not waited for; 0 = any piece will do."""
        self._held = bytearray(body)
        self._body_s = body_s
        """Seconds that the client may take for a piece; 0 = any."""

    def __repr__(self) -> str:
        return f"BodyWait({len(self._held)} bytes, {self._limit_bytes})"

    @property
    def buffered_bytes(self) -> int:
        """Bytes held."""
        return len(self._held)

    @property
    def is_for_all(self) -> bool:
        """Whether all of the body is waited for, if it is not too large."""
        return self._limit_bytes > 0

    def await_piece(self, now: float) -> None:
        """Give the client its time for the next piece."""
        wait_s = self._body_s if self.is_for_all else FIRST_BYTES_S
        self._downstream.set_deadline(now + wait_s if wait_s else 0.0, Reason.BODY_TIMEOUT)

    def add(self, piece: bytes, upload: Upload | None, now: float) -> bytes | None:
        """Take a piece of the body, of which `upload` is still to come. What is here, when that is enough; `None` when
        more is waited for. Raises `DownstreamError` when it comes too slowly."""
        self._held += piece
        if upload is None or not self.is_for_all or upload.payload_bytes > self._limit_bytes:
            return bytes(self._held)
        if upload.is_dripping(now):
            raise DownstreamError(Reason.BODY_TIMEOUT)
        self.await_piece(now)
        return None


def wait_for_body(exchange: "Exchange", upload: Upload, body: bytes, body_s: float) -> BodyWait | None:
    """Wait for what must come first of a body that is not all here; `body` is, and `body_s` what clients may take for a
    piece. `None` = nothing must."""
    head, cluster, route = exchange.head, exchange.cluster, exchange.route
    assert cluster is not None and route is not None
    limit = limit_bytes(cluster, route)
    if max(head.length, upload.payload_bytes) > limit:
        limit = 0
    if not limit and (body or head.expect):
        return None
    if head.expect:
        # It must be told to go on by us: an endpoint that is not picked yet cannot.
        head.expect = False
        upload.is_awaited = True
        exchange.reply.write(CONTINUE)
    wait = BodyWait(exchange.downstream, limit, body, body_s)
    wait.await_piece(exchange.started)
    return wait


def limit_bytes(cluster: Cluster, route: CompiledRoute) -> int:
    """Up to how many bytes of payload bodies are looked at; 0 = they are not."""
    return route.data.max_body_bytes if cluster.sees_data and route.data is not None else 0


def read_document(head: RequestHead, body: bytes, cluster: Cluster) -> tuple[object, int]:
    """The JSON document that is the complete `body`, framed as `head` says, and the bytes of it."""
    if head.chunked:
        # Its trailers have been let pass, or not, already.
        chunks = ChunkedBody(keep_chunks=False, trailer_bytes=len(body))
        try:
            body = chunks.feed(body)
        except BadBody:
            body = b""
    try:
        return orjson.loads(body), len(body)
    except orjson.JSONDecodeError:
        cluster.on_ignored(Ignored.BODY)
        return NO_DOCUMENT, 0
