"""Both directions after a 101: bytes as they come, with backpressure, until both sides have ended.

A side that sends FIN is passed on as FIN; the other may still have something to say. A side that is lost takes the
other with it, but not what it had said in full: when an endpoint has ended its side and then refuses what the client
says, the client still gets the rest.
"""

from typing import TYPE_CHECKING

from proxy.dataplane.wire import Wire
from proxy.errors import Reason

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.exchange import Exchange
    from proxy.dataplane.plane import Plane
    from proxy.dataplane.upstream import Upstream


class Tunnel:
    """The relay that takes an exchange's place once its upgrade is agreed."""

    __slots__ = (
        "_client_has_ended", "_downstream", "_endpoint_has_ended", "_exchange", "_idle_s", "_is_over", "_plane",
        "_upstream",
    )  # fmt: skip

    is_receiving = True

    def __init__(
        self,
        exchange: "Exchange",
        downstream: "Downstream",
        upstream: "Upstream",
        plane: "Plane",
        idle_s: float,
    ) -> None:
        self._exchange = exchange
        self._downstream = downstream
        self._upstream = upstream
        self._plane = plane
        self._idle_s = idle_s
        self._client_has_ended = False
        self._endpoint_has_ended = False
        self._is_over = False

    def begin(self) -> None:
        """Take over both connections, with what the client has sent ahead."""
        downstream = self._downstream
        downstream.relay = self._upstream.relay = self
        downstream.total_deadline = 0.0
        self._plane.tunnels += 1
        self._touch()
        early = downstream.release_held()
        if early:
            self.on_request_data(early)
        if downstream.is_half_closed:
            self.on_client_eof()

    def __repr__(self) -> str:
        return f"Tunnel({self._exchange!r})"

    @property
    def buffered_bytes(self) -> int:
        return self._upstream.wire.buffered_bytes

    def _touch(self) -> None:
        if self._downstream.wire.is_blocked:
            return  # it is watched as a slow client
        deadline = self._plane.monotonic() + self._idle_s if self._idle_s else 0.0
        self._downstream.set_deadline(deadline, Reason.IDLE_TIMEOUT)

    def on_request_data(self, data: bytes) -> None:
        self._exchange.received_bytes += len(data)
        self._upstream.wire.write(data)
        self._touch()

    def on_reply_data(self, data: bytes) -> None:
        self._exchange.reply.write(data)
        self._touch()

    def on_client_eof(self) -> bool:
        self._client_has_ended = True
        return self._pass_eof(self._upstream.wire)

    def on_reply_eof(self) -> bool:
        self._endpoint_has_ended = True
        return self._pass_eof(self._downstream.wire)

    def _pass_eof(self, wire: Wire) -> bool:
        """One side has ended: tell the other, which may go on, unless it has ended too or cannot be told (TLS)."""
        both = self._client_has_ended and self._endpoint_has_ended
        if not both and wire.write_eof():
            return True
        self._end(None)
        return False

    def on_client_gone(self) -> None:
        self._end(None)

    def on_upstream_lost(self, error: Exception | None) -> None:
        self._end(None if error is None or self._endpoint_has_ended else Reason.UPSTREAM_RESET)

    def on_downstream_blocked(self) -> None:
        self._upstream.wire.pause()

    def on_downstream_writable(self) -> None:
        self._upstream.wire.resume()
        self._touch()

    def on_upstream_blocked(self) -> None:
        self._downstream.pause()

    def on_upstream_writable(self) -> None:
        self._downstream.resume()
        self._touch()

    def on_deadline(self, reason: Reason) -> None:
        self._end(reason)

    def probe_client(self) -> None:
        """There is nothing to ask with: the bytes are not ours."""

    def abort(self, reason: Reason) -> None:
        self._end(reason)

    def _end(self, reason: Reason | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._plane.tunnels -= 1
            if reason is None:
                self._upstream.close_when_sent()
            self._exchange.on_tunnel_end(reason)
