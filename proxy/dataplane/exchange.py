"""One request and its reply: the machine of `states` between a client's connection and one to an endpoint.

The request's body flows from DISPATCHED on, also while the reply is already coming; when the reply is complete first,
reading stops and the client's connection closes after it (RFC 9112 9.6).
"""

from typing import TYPE_CHECKING

from proxy.cluster import Cluster
from proxy.dataplane.body_wait import BodyWait, wait_for_body
from proxy.dataplane.choice import explanation_line
from proxy.dataplane.deadlines import next_step
from proxy.dataplane.delivery import Delivery, begin_delivery
from proxy.dataplane.facts import check_rate, find_route
from proxy.dataplane.reply import Reply
from proxy.dataplane.reply_head import ReplyHead
from proxy.dataplane.request_head import IDEMPOTENT, RequestHead
from proxy.dataplane.responses import CONTINUE, Fields, local_answer, refusal
from proxy.dataplane.states import State
from proxy.dataplane.tries import is_answer_retried, is_failure_retried, per_try_s, tries_of
from proxy.dataplane.tunnel import Tunnel
from proxy.dataplane.upload import Upload
from proxy.endpoint import Lease
from proxy.errors import DownstreamError, ExchangeError, Reason, RoutingError, UpstreamError
from proxy.model import Outcome
from proxy.policy.failures import kind_of_reason
from proxy.policy.route import CompiledRoute
from proxy.scoreboard import E_CONNECT_FAILURES
from proxy.snapshot import SplitSpec

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.plane import Plane
    from proxy.dataplane.upstream import Upstream

# Bound once: an attribute of an enum costs a lookup through its metaclass, and the path asks often.
_ROUTING = State.ROUTING
_WAITING_BODY = State.WAITING_BODY
_WAITING = State.WAITING
_DISPATCHED = State.DISPATCHED
_REPLYING = State.REPLYING
_SWITCHED = State.SWITCHED
_DONE = State.DONE
_OK = Outcome.OK
_FAILED = Outcome.UPSTREAM_FAILED

# Body bytes taken from a client while its connection to the endpoint is being made.
CONNECT_BUFFER_BYTES = 64 * 1024


class Exchange:
    """A request, the endpoint chosen for it, and the reply on its way back."""

    __slots__ = (
        "_body_wait", "_table", "_upload", "cluster", "connected_at", "delivery", "downstream", "head", "plane",
        "received_bytes", "reply", "request_id", "route", "started", "state",
    )  # fmt: skip

    def __init__(self, downstream: "Downstream", plane: "Plane", head: RequestHead, now: float) -> None:
        self.downstream = downstream
        self.plane = plane
        self._table = plane.table
        self.head = head
        self.state = _ROUTING
        self.started = now
        self.request_id = head.request_id or plane.new_request_id()
        self.route: CompiledRoute | None = None
        self.cluster: Cluster | None = None
        self.delivery: Delivery | None = None
        self._upload: Upload | None = None
        """The body that is still to come; `None` when all of it has."""
        self._body_wait: BodyWait | None = None
        """What has to come of it before an endpoint is picked."""
        self.reply = Reply(head, downstream)
        self.connected_at = 0.0
        self.received_bytes = 0
        """Payload received from the client."""

    def __repr__(self) -> str:
        return f"Exchange({self.head.method!r} {self.head.target!r}, {self.state.value}, {self.delivery!r})"

    @property
    def buffered_bytes(self) -> int:
        """Bytes held on their way to the endpoint."""
        holder = self.delivery or self._body_wait
        return holder.buffered_bytes if holder is not None else 0

    @property
    def is_receiving(self) -> bool:
        """Whether the client's next bytes belong to this request; otherwise they are the next one."""
        return self._upload is not None

    @property
    def can_repeat(self) -> bool:
        """Whether the request may be sent twice, and is still here to be."""
        return self._upload is None and self.head.method in IDEMPOTENT

    # ------------------------------------------------------------------ the request

    def begin(self, rest: bytes) -> None:
        """Route the request and send it on its way; `rest` is what arrived after its head."""
        head = self.head
        try:
            if head.has_body:
                body = self._begin_body(rest)
            else:
                body = b""
                if rest:
                    self.downstream.hold(rest)
            self.route = route = find_route(self._table.routes, head, self.downstream)
            if route.rate_limit is not None:
                check_rate(route.rate_limit, self)
            action = route.action
            if not isinstance(action, SplitSpec):
                scheme = self.downstream.identity.scheme
                self._answer(action.status, *local_answer(action, route, head, scheme), Outcome.LOCAL)
                return
            if head.is_for_us:
                self._answer(204, b"", [], Outcome.LOCAL)
                return
            self.cluster = self._table.clusters[route.choose_cluster(self.plane.rng)]
            if self._upload is not None:
                # Take no endpoint before there is something to send it: slow uploads would use them up.
                self._body_wait = wait_for_body(self, self._upload, body, self._table.timeouts.body_s)
                if self._body_wait is not None:
                    self.state = _WAITING_BODY
                    return
            self._dispatch(body, self.started)
        except ExchangeError as error:
            self.fail(error)

    def _begin_body(self, rest: bytes) -> bytes:
        limits = self._table.limits
        self._upload = Upload(self.head, limits, self.started)
        if limits.body_bytes and self.head.length > limits.body_bytes:
            raise DownstreamError(Reason.BODY_TOO_LARGE)
        return self._take_body(rest) if rest else b""

    def _take_body(self, data: bytes) -> bytes:
        """What of `data` goes to the endpoint; what is left belongs to later requests. Raises `DownstreamError`."""
        upload = self._upload
        assert upload is not None
        out = upload.feed(data)
        if upload.is_laborious:
            self.downstream.wire.rest(self.plane.loop)
        self.received_bytes = upload.payload_bytes
        if upload.is_done:
            self._upload = None
            if upload.extra:
                self.downstream.hold(upload.extra)
        return out

    def _dispatch(self, body: bytes, now: float) -> None:
        """Send the head, and what is here of the body, to an endpoint. Raises `RoutingError`."""
        assert self.cluster is not None and self.route is not None
        self._body_wait = None
        self.delivery = begin_delivery(self, self.cluster, self.route, body)
        self.cluster.budget.on_request()
        if total_s := self.cluster.spec.timeouts.total_s:
            self.downstream.total_deadline = self.started + total_s
        self.find_endpoint(now)

    def find_endpoint(self, now: float) -> None:
        """Send the request to an endpoint, or wait in the cluster's queue for one. Raises `RoutingError`."""
        cluster, delivery = self.cluster, self.delivery
        assert cluster is not None and delivery is not None
        failed = delivery.tries.failed if delivery.tries is not None else ()
        try:
            lease = cluster.acquire(delivery.facts, now=now, failed=failed, may_try=delivery.may_try)
        except RoutingError as error:
            if error.reason is not Reason.OVERLOADED:
                raise
            tries_of(self).enqueue(now)
        else:
            self.deliver(lease, now)

    def deliver(self, lease: Lease, now: float) -> None:
        """Send the request to the endpoint of `lease`."""
        delivery, cluster, downstream = self.delivery, self.cluster, self.downstream
        assert delivery is not None and cluster is not None
        self.state = _DISPATCHED
        if cluster.stickiness is not None:
            affinity, is_https = delivery.facts.affinity, downstream.identity.is_https(self.head)
            self.reply.added = cluster.stickiness.set_line(lease.endpoint, affinity, is_https=is_https)
        pool = self.plane.pool_of(lease.endpoint, cluster)
        if delivery.begin(lease, pool, self, self.can_repeat, now):
            self._after_sent(delivery, now)
            if delivery.tries is not None and not delivery.is_blocked:
                downstream.resume()
        else:
            self._set_deadline(self.plane.monotonic())

    def wait(self) -> None:
        """Do nothing until there is an endpoint; the client may leave."""
        self.state = _WAITING
        if not self.downstream.wire.is_blocked:
            self.downstream.set_deadline(0.0, Reason.CLIENT_GONE)

    def on_connected(self, upstream: "Upstream") -> None:
        """The connection asked for is there."""
        delivery = self.delivery
        if self.state is not _DISPATCHED or delivery is None:
            upstream.close()
            return
        delivery.send(upstream, self)
        self._after_sent(delivery, self.plane.monotonic())
        if not upstream.wire.is_blocked:
            self.downstream.resume()

    def _after_sent(self, delivery: Delivery, now: float) -> None:
        self.connected_at = now
        if self._upload is not None:
            self._upload.restart(now)
            delivery.owes_answer(0.0)
        self._set_deadline(now)

    def _set_deadline(self, now: float) -> None:
        """Give whoever has the next step in DISPATCHED or REPLYING its time, from `now` on."""
        downstream = self.downstream
        if downstream.wire.is_blocked:
            return  # it is watched as a slow client
        assert self.delivery is not None and self.cluster is not None
        upstream, upload, clients = self.delivery.upstream, self._upload, self._table.timeouts
        limit_s = per_try_s(self, now)
        timeout, reason = next_step(self.state, self.cluster.spec, limit_s, clients, upstream, upload)
        downstream.deadline = now + timeout if timeout else 0.0
        downstream.deadline_reason = reason

    def on_request_data(self, data: bytes) -> None:
        """More of the request's body."""
        try:
            out = self._take_body(data)
            if self._body_wait is not None:
                now = self.plane.monotonic()
                body = self._body_wait.add(out, self._upload, now)
                if body is not None:
                    self._dispatch(body, now)
                return
        except ExchangeError as error:
            self.fail(error)
            return
        delivery = self.delivery
        assert delivery is not None
        upstream = delivery.upstream
        if upstream is None:
            if delivery.add(out) > CONNECT_BUFFER_BYTES:
                self.downstream.pause()
            return
        delivery.pass_on(out)
        if not upstream.wire.is_blocked:
            self._after_body_piece()

    def _after_body_piece(self) -> None:
        """A piece of the body is on its way, or the endpoint has taken what waited for it."""
        upload, delivery = self._upload, self.delivery
        now = self.plane.monotonic()
        if upload is None and delivery is not None and self.state is _DISPATCHED:
            delivery.owes_answer(now)
        elif upload is not None and self.state is _DISPATCHED:
            if upload.is_dripping(now):
                self.fail(DownstreamError(Reason.BODY_TIMEOUT))
                return
            # The client has not waited for the endpoint's word.
            upload.is_awaited = True
        self._set_deadline(now)

    # ------------------------------------------------------------------ the reply

    def on_reply_data(self, data: bytes) -> None:
        """Bytes from the endpoint."""
        now = self.plane.monotonic()
        reply = self.reply
        try:
            if self.state is _REPLYING:
                delivery = self.delivery
                if reply.feed(data) and delivery is not None and delivery.upstream is not None:
                    delivery.upstream.wire.rest(self.plane.loop)
            elif self.state is _DISPATCHED:
                self._read_reply(data, now)
        except UpstreamError as error:
            self.fail(error)
            return
        if self.state is not _REPLYING:
            return
        if reply.is_complete:
            self._complete_reply(now)
        elif self.downstream.wire.is_blocked:
            # It may have become so before there was an endpoint to stop reading from.
            self.on_downstream_blocked()
        else:
            self._set_deadline(now)

    def _read_reply(self, data: bytes, now: float) -> None:
        """Read heads up to the final one. Raises `UpstreamError`."""
        reply, delivery, route, cluster = self.reply, self.delivery, self.route, self.cluster
        assert delivery is not None and route is not None and cluster is not None
        limits = self._table.limits
        head = reply.read_head(data, limits, now)
        if head is None:
            upload = self._upload
            if reply.has_continued and upload is not None and not upload.is_awaited:
                upload.restart(now)
                upload.is_awaited = True
                self._set_deadline(now)
            return
        kind = None
        if head.status >= 400:
            kind = delivery.failure_of(head)
            if is_answer_retried(self, head, kind, now):
                return
        delivery.on_answer(head, kind, cluster, now=now)
        if cluster.spec.explain_header:
            reply.added += explanation_line(delivery, cluster, head)
        if head.status == 101:
            self._begin_tunnel(head)
            return
        self.state = _REPLYING
        self._settle_keep_alive()
        reply.begin(head, route, self.plane.date_line, limits)

    def _settle_keep_alive(self) -> None:
        """No request follows on a connection with an unread one, a tunnel that came to nothing, or during a drain."""
        is_draining = self.plane.is_draining or self.downstream.listener.is_drained
        if self._upload is not None or self.head.upgrade or is_draining:
            self.reply.keep_alive = False

    def on_reply_eof(self) -> bool:
        """The endpoint will send no more."""
        if self.state is _REPLYING:
            try:
                self.reply.on_eof()
            except UpstreamError as error:
                self.fail(error)
            else:
                self._complete_reply(self.plane.monotonic())
        elif self.state is _DISPATCHED:
            reason = Reason.BAD_REPLY if self.reply.is_head_cut else Reason.UPSTREAM_CLOSED
            self._on_unanswered(UpstreamError(reason))
        return False

    def on_upstream_lost(self, error: Exception | None) -> None:
        """The connection to the endpoint is gone without a proper end."""
        if self.state is _DISPATCHED:
            self._on_unanswered(UpstreamError(Reason.UPSTREAM_RESET if error else Reason.UPSTREAM_CLOSED))
        else:
            self.fail(UpstreamError(Reason.REPLY_CUT))

    def _on_unanswered(self, error: UpstreamError) -> None:
        """The connection ended before a reply: send the request once more if that is safe (RFC 9110 9.2.2)."""
        assert self.delivery is not None
        if self.can_repeat and not self.reply.first_byte_at and self.delivery.repeat(self):
            self._set_deadline(self.plane.monotonic())
        else:
            self.fail(error)

    def _complete_reply(self, now: float) -> None:
        """The reply is complete: give the endpoint's connection back, unless it cannot be used again."""
        reply = self.reply
        assert self.delivery is not None
        if reply.upstream_keep_alive and not reply.rest and self._upload is None and not self.head.upgrade:
            self.delivery.give_back(now)
        self._end(_OK, None, now)

    def _begin_tunnel(self, head: ReplyHead) -> None:
        delivery, cluster = self.delivery, self.cluster
        assert delivery is not None and delivery.upstream is not None and cluster is not None
        self.reply.switch(head)
        self.state = _SWITCHED
        Tunnel(self, self.downstream, delivery.upstream, self.plane, cluster.spec.timeouts.tunnel_s).begin()

    def on_tunnel_end(self, reason: Reason | None) -> None:
        """Both sides of the tunnel have ended, or one was lost."""
        is_cut = reason is not None and reason is not Reason.IDLE_TIMEOUT
        self._end(_OK, reason, self.plane.monotonic(), reset=is_cut)

    # ------------------------------------------------------------------ backpressure

    def on_downstream_blocked(self) -> None:
        """The client does not take what was written: read no more from the endpoint."""
        if self.delivery is not None and self.delivery.upstream is not None:
            self.delivery.upstream.wire.pause()

    def on_downstream_writable(self) -> None:
        """The client has taken everything."""
        now = self.plane.monotonic()
        if self._body_wait is not None:
            self._body_wait.await_piece(now)
        elif self.state is _WAITING:
            self.wait()
        elif self.delivery is not None and self.state is not _DONE:
            if self.delivery.upstream is not None:
                self.delivery.upstream.wire.resume()
            self._set_deadline(now)

    def on_upstream_blocked(self) -> None:
        """The endpoint does not take what was written: read no more from the client."""
        now = self.plane.monotonic()
        self.downstream.pause()
        if self._upload is not None:
            self._upload.on_blocked(now)
        self._set_deadline(now)

    def on_upstream_writable(self) -> None:
        """The endpoint has taken everything."""
        if self._upload is not None:
            self._upload.on_writable(self.plane.monotonic())
        self.downstream.resume()
        self._after_body_piece()

    # ------------------------------------------------------------------ endings

    def on_client_eof(self) -> bool:
        """The client will send no more; it still gets its reply if its request is complete and need not wait long."""
        if self._upload is None:
            if self.delivery is not None and self.delivery.tries is not None:
                self.delivery.tries.look()
            return True
        if self.state is _REPLYING:
            self.on_client_gone()
        else:
            # Closed, not reset: earlier replies may still be on their way to it.
            self.reply.keep_alive = False
            self._end(Outcome.CLIENT_GONE, Reason.CLIENT_GONE, self.plane.monotonic())
        return False

    def on_client_gone(self) -> None:
        """The client's connection is lost: give up the work for it."""
        self.abort(Reason.CLIENT_GONE)

    def on_deadline(self, reason: Reason) -> None:
        """The time allowed for the present step is over."""
        if self._body_wait is not None and not self._body_wait.is_for_all:
            try:
                self._dispatch(b"", self.plane.monotonic())
            except ExchangeError as error:
                self.fail(error)
        elif reason.status < 500:
            self.fail(DownstreamError(reason))
        else:
            endpoint = self.delivery.endpoint if self.delivery is not None else None
            if reason is Reason.CONNECT_TIMEOUT and endpoint is not None:
                endpoint.row[E_CONNECT_FAILURES] += 1
            self.fail(UpstreamError(reason))

    def probe_client(self) -> None:
        """Ask a client that sent FIN whether it is still there, if the reply has not begun.

        It may only have closed its sending side. An interim 100 may be sent at any time before the reply (RFC 9110
        15.2.1), and every client of HTTP/1.1 passes over it; one that is gone resets."""
        if self.head.minor and (self.state is _DISPATCHED or self.state is _WAITING):
            self.reply.write(CONTINUE)

    def abort(self, reason: Reason) -> None:
        """Give up at once and cut the client's connection."""
        if self.state is not _DONE:
            self._end(Outcome.CLIENT_GONE, reason, self.plane.monotonic(), reset=True)

    def fail(self, error: ExchangeError) -> None:
        """End the exchange for `error`: with a response if the reply has not begun, else by cutting the connection."""
        reason, reply = error.reason, self.reply
        if self.state is _DONE:
            return
        is_upstream = isinstance(error, UpstreamError)
        if is_upstream and self.state is _DISPATCHED and is_failure_retried(self, reason):
            return
        outcome = _FAILED if is_upstream else Outcome.REFUSED
        if reason.status == 499:
            outcome = Outcome.CLIENT_GONE
        if self.state is _REPLYING or reason.status == 499:
            # The end of the connection shows that this reply is not complete. A reset shows it too, where the end
            # would look like the reply's own, but can destroy earlier replies that are still on their way.
            reply.keep_alive = False
            reset = reply.ends_by_close or reason.status == 499
            self._end(outcome, reason, self.plane.monotonic(), reset=reset)
            return
        if isinstance(error, DownstreamError):
            # Whoever sends one malformed request may mean something else by its end than we do.
            reply.keep_alive = False
        self._answer(reason.status, *refusal(error, self.request_id), outcome, reason)

    def _answer(
        self, status: int, body: bytes, fields: Fields, outcome: Outcome, reason: Reason | None = None
    ) -> None:
        """Answer ourselves; what is left of the request is not read."""
        self._settle_keep_alive()
        fields = [*fields, (b"X-Request-Id", self.request_id)]
        self.reply.respond(status, body, fields, date_line=self.plane.date_line)
        self._end(outcome, reason, self.plane.monotonic())

    def _end(self, outcome: Outcome, reason: Reason | None, now: float, *, reset: bool = False) -> None:
        """Leave the exchange for good: release the lease, record it, hand the client's connection on."""
        self.state = _DONE
        delivery = self.delivery
        if delivery is not None:
            if delivery.tries is not None:
                delivery.tries.end(now)
            kind = kind_of_reason(reason) if outcome is _FAILED and reason is not None else delivery.kind
            delivery.end_try(outcome, kind, now=now)
        self.plane.record(self, self.downstream, outcome, reason, now)
        self.reply.end(reset, self._upload is not None, now)
