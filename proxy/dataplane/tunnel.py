"""Both directions after a 101: bytes as they come, with backpressure, until both sides have ended.

A side that sends FIN is passed on as FIN; the other may still have something to say. A side that is lost takes the
other with it.
"""

from typing import TYPE_CHECKING

from proxy.errors import Reason

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.exchange import Exchange
    from proxy.dataplane.plane import Plane
    from proxy.dataplane.upstream import Upstream


class Tunnel:
    """The relay that takes an exchange's place once its upgrade is agreed."""

    __slots__ = ("_downstream", "_exchange", "_has_half_ended", "_idle_s", "_is_over", "_plane", "_upstream")

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
        self._has_half_ended = False
        self._is_over = False
        plane.tunnels += 1
        self._touch()

    def __repr__(self) -> str:
        return f"Tunnel({self._exchange!r})"

    @property
    def buffered_bytes(self) -> int:
        return self._upstream.buffered_bytes

    def _touch(self) -> None:
        if self._downstream.is_blocked:
            return  # it is watched as a slow client
        deadline = self._plane.monotonic() + self._idle_s if self._idle_s else 0.0
        self._downstream.set_deadline(deadline, Reason.IDLE_TIMEOUT)

    def on_request_data(self, data: bytes) -> None:
        self._exchange.received_bytes += len(data)
        self._upstream.write(data)
        self._touch()

    def on_reply_data(self, data: bytes) -> None:
        self._exchange.sent_bytes += len(data)
        self._downstream.write(data)
        self._touch()

    def on_client_eof(self) -> bool:
        if self._has_half_ended:
            self._end(None)
            return False
        self._has_half_ended = True
        self._upstream.write_eof()
        return True

    def on_reply_eof(self) -> bool:
        if self._has_half_ended:
            self._end(None)
            return False
        self._has_half_ended = True
        self._downstream.write_eof()
        return True

    def on_client_gone(self) -> None:
        self._end(None)

    def on_upstream_lost(self, error: Exception | None) -> None:
        self._end(None if error is None else Reason.UPSTREAM_RESET)

    def on_downstream_blocked(self) -> None:
        self._upstream.pause()

    def on_downstream_writable(self) -> None:
        self._upstream.resume()
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
