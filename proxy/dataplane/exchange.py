"""One request and its reply: the state machine between a client connection and a connection to an endpoint.

    state         what is going on                          leaves by
    ------------  ----------------------------------------  -------------------------------------------------------
    ROUTING       the head is here, nothing was sent        begin: DISPATCHED, WAITING_BODY, or an answer of our own
    WAITING_BODY  a body is announced, none has come        on_request_data, on_deadline: DISPATCHED
    DISPATCHED    an endpoint is chosen; connecting, or     on_reply_data: REPLYING, SWITCHED
                  the request is on its way                 on_connect_failed, on_upstream_lost: again, or a 502
    REPLYING      the reply's head has gone to the client   on_reply_data, on_reply_eof: DONE
    SWITCHED      101 was relayed; a Tunnel has taken over  on_tunnel_end: DONE
    DONE          ended; whatever comes late is ignored

From any state: on_client_gone ends it as CLIENT_GONE, on_deadline with the reason of the deadline. Before REPLYING a
failure becomes a response; from then on it cuts the connection, so that no reply looks complete that is not.

The request's body flows from DISPATCHED on, also while the reply is already coming; when the reply is complete first,
reading stops and the client's connection closes after it (RFC 9112 9.6).
"""

from enum import Enum
from typing import TYPE_CHECKING

from proxy.cluster import Cluster
from proxy.dataplane.attempt import Attempt
from proxy.dataplane.compose import compose_request
from proxy.dataplane.facts import acquire_for
from proxy.dataplane.reply import Reply
from proxy.dataplane.reply_head import ReplyHead
from proxy.dataplane.request_head import IDEMPOTENT, RequestHead
from proxy.dataplane.responses import CONTINUE, Fields, local_answer, refusal
from proxy.dataplane.tunnel import Tunnel
from proxy.dataplane.upload import Upload
from proxy.errors import DownstreamError, ExchangeError, Reason, RoutingError, UpstreamError
from proxy.model import NO_FACTS, Outcome
from proxy.policy.failures import kind_of_reason, kind_of_status
from proxy.policy.path import routing_path
from proxy.policy.route import CompiledRoute
from proxy.scoreboard import E_CONNECT_FAILURES
from proxy.snapshot import SplitSpec

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.plane import Plane
    from proxy.dataplane.upstream import Upstream


class State(Enum):
    """Where an exchange stands; see the module's table."""

    ROUTING = "routing"
    WAITING_BODY = "waiting_body"
    DISPATCHED = "dispatched"
    REPLYING = "replying"
    SWITCHED = "switched"
    DONE = "done"


# Bound once: an attribute of an enum costs a lookup through its metaclass, and the path asks often.
_ROUTING = State.ROUTING
_WAITING_BODY = State.WAITING_BODY
_DISPATCHED = State.DISPATCHED
_REPLYING = State.REPLYING
_SWITCHED = State.SWITCHED
_DONE = State.DONE
_OK = Outcome.OK
_RESPONSE_TIMEOUT = Reason.RESPONSE_TIMEOUT

# A client that announces a body and sends none takes no endpoint for this long. Most send it with the head; one that
# waits for an early answer still gets it.
BODY_WAIT_S = 0.2
# Body bytes taken from a client while its connection to the endpoint is being made.
CONNECT_BUFFER_BYTES = 64 * 1024


class Exchange:
    """A request, the endpoint chosen for it, and the reply on its way back."""

    __slots__ = (
        "_downstream", "_plane", "_table", "_upload", "attempt", "cluster", "connected_at", "head", "received_bytes",
        "reply", "request_id", "route", "started", "state",
    )  # fmt: skip

    def __init__(self, downstream: "Downstream", plane: "Plane", head: RequestHead, now: float) -> None:
        self._downstream = downstream
        self._plane = plane
        self._table = plane.table
        self.head = head
        self.state = _ROUTING
        self.started = now
        self.request_id = head.request_id or plane.new_request_id()
        self.route: CompiledRoute | None = None
        self.cluster: Cluster | None = None
        self.attempt: Attempt | None = None
        self._upload: Upload | None = None
        """The body that is still to come; `None` when all of it has."""
        self.reply = Reply(head, downstream)
        self.connected_at = 0.0
        self.received_bytes = 0
        """Payload received from the client."""

    def __repr__(self) -> str:
        return f"Exchange({self.head.method!r} {self.head.target!r}, {self.state.value}, {self.attempt!r})"

    @property
    def buffered_bytes(self) -> int:
        """Bytes held on their way to the endpoint."""
        return self.attempt.buffered_bytes if self.attempt is not None else 0

    @property
    def is_receiving(self) -> bool:
        """Whether the client's next bytes belong to this request; otherwise they are the next one."""
        return self._upload is not None

    @property
    def _can_repeat(self) -> bool:
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
                    self._downstream.hold(rest)
            self.route = route = self._find_route()
            action = route.action
            if not isinstance(action, SplitSpec):
                scheme = self._downstream.identity.scheme
                self._answer(action.status, *local_answer(action, route, head, scheme), Outcome.LOCAL)
                return
            if head.is_for_us:
                self._answer(204, b"", [], Outcome.LOCAL)
                return
            self.cluster = self._table.clusters[route.choose_cluster(self._plane.rng)]
            if self._upload is not None and not rest and not head.expect:
                # Take no endpoint before there is something to send it: slow uploads would use them up.
                self.state = _WAITING_BODY
                self._downstream.set_deadline(self.started + BODY_WAIT_S, Reason.BODY_TIMEOUT)
                return
            self._dispatch(body)
        except ExchangeError as error:
            self.fail(error)

    def _begin_body(self, rest: bytes) -> bytes:
        limits = self._table.limits
        self._upload = Upload(self.head, limits, self.started)
        if limits.body_bytes and self.head.length > limits.body_bytes:
            raise DownstreamError(Reason.BODY_TOO_LARGE)
        return self._take_body(rest) if rest else b""

    def _find_route(self) -> CompiledRoute:
        """The route for the request. Raises `RoutingError`."""
        head = self.head
        listener = self._downstream.listener.name
        host = self._downstream.identity.host_key(head.host)
        path = routing_path(head.path)
        routes = self._table.routes
        route = routes.match(listener, host, path, head.method, head.field)
        if route is None:
            miss = routes.miss(listener, host, path, head.field)
            raise RoutingError(miss.reason, miss.allow)
        return route

    def _take_body(self, data: bytes) -> bytes:
        """What of `data` goes to the endpoint; what is left belongs to later requests. Raises `DownstreamError`."""
        upload = self._upload
        assert upload is not None
        out = upload.feed(data)
        if upload.is_laborious:
            self._downstream.wire.rest(self._plane.loop)
        self.received_bytes = upload.payload_bytes
        if upload.is_done:
            self._upload = None
            if upload.extra:
                self._downstream.hold(upload.extra)
        return out

    def _dispatch(self, body: bytes) -> None:
        """Choose an endpoint and send it the head and what is here of the body. Raises `RoutingError`."""
        cluster, route = self.cluster, self.route
        assert cluster is not None and route is not None
        head, downstream = self.head, self._downstream
        self.state = _DISPATCHED
        if cluster.reads_request:
            lease, self.reply.added = acquire_for(cluster, head, downstream.identity, now=self.started)
        else:
            lease = cluster.acquire(NO_FACTS, now=self.started)
        identity = downstream.identity.lines(head)
        sent = compose_request(head, route, identity, self.request_id, downstream.local_authority)
        pool = self._plane.pool_of(lease.endpoint, cluster)
        self.attempt = attempt = Attempt(lease, pool, sent + body if body else sent)
        timeouts = cluster.spec.timeouts
        if timeouts.total_s:
            downstream.total_deadline = self.started + timeouts.total_s
        if attempt.begin(self, self._can_repeat):
            self._after_sent(attempt, self.started)
        else:
            self._set_deadline(self._plane.monotonic())

    def on_connected(self, upstream: "Upstream") -> None:
        """The connection asked for is there."""
        attempt = self.attempt
        if self.state is not _DISPATCHED or attempt is None:
            upstream.close()
            return
        attempt.send(upstream, self)
        self._after_sent(attempt, self._plane.monotonic())
        if not upstream.wire.is_blocked:
            self._downstream.resume()

    def on_connect_failed(self, error: ExchangeError) -> None:
        """The endpoint could not be reached."""
        if self.state is _DISPATCHED:
            self.fail(error)

    def _after_sent(self, attempt: Attempt, now: float) -> None:
        self.connected_at = now
        if self._upload is not None:
            self._upload.restart(now)
            attempt.lease.owed_since = 0.0
        self._set_deadline(now)

    def _set_deadline(self, now: float) -> None:
        """Give whoever has the next step in DISPATCHED or REPLYING its time, from `now` on."""
        downstream = self._downstream
        if downstream.wire.is_blocked:
            return  # it is watched as a slow client
        assert self.attempt is not None and self.cluster is not None
        timeouts = self.cluster.spec.timeouts
        upstream = self.attempt.upstream
        if upstream is None:
            timeout, reason = timeouts.connect_s, Reason.CONNECT_TIMEOUT
        elif self.state is _REPLYING or upstream.wire.is_blocked:
            timeout, reason = timeouts.idle_s, Reason.IDLE_TIMEOUT
        elif self._upload is None or not self._upload.is_awaited:
            timeout, reason = timeouts.response_s, _RESPONSE_TIMEOUT
        else:
            timeout, reason = self._table.timeouts.body_s, Reason.BODY_TIMEOUT
        downstream.deadline = now + timeout if timeout else 0.0
        downstream.deadline_reason = reason

    def on_request_data(self, data: bytes) -> None:
        """More of the request's body."""
        try:
            out = self._take_body(data)
            if self.state is _WAITING_BODY:
                self._dispatch(out)
                return
        except ExchangeError as error:
            self.fail(error)
            return
        attempt = self.attempt
        assert attempt is not None
        upstream = attempt.upstream
        if upstream is None:
            if attempt.add(out) > CONNECT_BUFFER_BYTES:
                self._downstream.pause()
            return
        attempt.forget_request()
        upstream.wire.write(out)
        if not upstream.wire.is_blocked:
            self._after_body_piece()

    def _after_body_piece(self) -> None:
        """A piece of the body is on its way, or the endpoint has taken what waited for it."""
        upload, attempt = self._upload, self.attempt
        now = self._plane.monotonic()
        if upload is None and attempt is not None and self.state is _DISPATCHED:
            attempt.lease.owed_since = now
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
        now = self._plane.monotonic()
        reply = self.reply
        try:
            if self.state is _REPLYING:
                attempt = self.attempt
                if reply.feed(data) and attempt is not None and attempt.upstream is not None:
                    attempt.upstream.wire.rest(self._plane.loop)
            elif self.state is _DISPATCHED:
                self._read_reply(data, now)
        except UpstreamError as error:
            self.fail(error)
            return
        if self.state is not _REPLYING:
            return
        if reply.is_complete:
            self._complete_reply(now)
        elif self._downstream.wire.is_blocked:
            # It may have become so before there was an endpoint to stop reading from.
            self.on_downstream_blocked()
        else:
            self._set_deadline(now)

    def _read_reply(self, data: bytes, now: float) -> None:
        """Read heads up to the final one. Raises `UpstreamError`."""
        reply, attempt, route = self.reply, self.attempt, self.route
        assert attempt is not None and route is not None
        limits = self._table.limits
        head = reply.read_head(data, limits, now)
        if head is None:
            upload = self._upload
            if reply.has_continued and upload is not None and not upload.is_awaited:
                upload.restart(now)
                upload.is_awaited = True
                self._set_deadline(now)
            return
        attempt.on_answer(head.status, now=now)
        if head.status == 101:
            self._begin_tunnel(head)
            return
        self.state = _REPLYING
        self._settle_keep_alive()
        reply.begin(head, route, self._plane.date_line, limits)

    def _settle_keep_alive(self) -> None:
        """No request follows on a connection with an unread one, a tunnel that came to nothing, or during a drain."""
        is_draining = self._plane.is_draining or self._downstream.listener.is_drained
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
                self._complete_reply(self._plane.monotonic())
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
        assert self.attempt is not None
        if self._can_repeat and not self.reply.first_byte_at and self.attempt.repeat(self):
            self._set_deadline(self._plane.monotonic())
        else:
            self.fail(error)

    def _complete_reply(self, now: float) -> None:
        """The reply is complete: give the endpoint's connection back, unless it cannot be used again."""
        reply = self.reply
        assert self.attempt is not None
        if reply.upstream_keep_alive and not reply.rest and self._upload is None and not self.head.upgrade:
            self.attempt.give_back(now)
        self._end(_OK, None, now)

    def _begin_tunnel(self, head: ReplyHead) -> None:
        attempt, cluster = self.attempt, self.cluster
        assert attempt is not None and attempt.upstream is not None and cluster is not None
        self.reply.switch(head)
        self.state = _SWITCHED
        idle_s = cluster.spec.timeouts.tunnel_s
        Tunnel(self, self._downstream, attempt.upstream, self._plane, idle_s).begin()

    def on_tunnel_end(self, reason: Reason | None) -> None:
        """Both sides of the tunnel have ended, or one was lost."""
        is_cut = reason is not None and reason is not Reason.IDLE_TIMEOUT
        self._end(_OK, reason, self._plane.monotonic(), reset=is_cut)

    # ------------------------------------------------------------------ backpressure

    def on_downstream_blocked(self) -> None:
        """The client does not take what was written: read no more from the endpoint."""
        if self.attempt is not None and self.attempt.upstream is not None:
            self.attempt.upstream.wire.pause()

    def on_downstream_writable(self) -> None:
        """The client has taken everything."""
        now = self._plane.monotonic()
        if self.state is _WAITING_BODY:
            self._downstream.set_deadline(now + BODY_WAIT_S, Reason.BODY_TIMEOUT)
        elif self.attempt is not None and self.state is not _DONE:
            if self.attempt.upstream is not None:
                self.attempt.upstream.wire.resume()
            self._set_deadline(now)

    def on_upstream_blocked(self) -> None:
        """The endpoint does not take what was written: read no more from the client."""
        now = self._plane.monotonic()
        self._downstream.pause()
        if self._upload is not None:
            self._upload.on_blocked(now)
        self._set_deadline(now)

    def on_upstream_writable(self) -> None:
        """The endpoint has taken everything."""
        if self._upload is not None:
            self._upload.on_writable(self._plane.monotonic())
        self._downstream.resume()
        self._after_body_piece()

    # ------------------------------------------------------------------ endings

    def on_client_eof(self) -> bool:
        """The client will send no more; it still gets its reply if its request is complete."""
        if self._upload is None:
            return True
        if self.state is _REPLYING:
            self.on_client_gone()
        else:
            # Closed, not reset: earlier replies may still be on their way to it.
            self.reply.keep_alive = False
            self._end(Outcome.CLIENT_GONE, Reason.CLIENT_GONE, self._plane.monotonic())
        return False

    def on_client_gone(self) -> None:
        """The client's connection is lost: give up the work for it."""
        self.abort(Reason.CLIENT_GONE)

    def on_deadline(self, reason: Reason) -> None:
        """The time allowed for the present step is over."""
        if self.state is _WAITING_BODY:
            try:
                self._dispatch(b"")
            except ExchangeError as error:
                self.fail(error)
        elif reason.status < 500:
            self.fail(DownstreamError(reason))
        else:
            if reason is Reason.CONNECT_TIMEOUT and self.attempt is not None:
                self.attempt.endpoint.row[E_CONNECT_FAILURES] += 1
            self.fail(UpstreamError(reason))

    def probe_client(self) -> None:
        """Ask a client that sent FIN whether it is still there, if the reply has not begun.

        A closed socket and a half-closed one look the same until something is sent. An interim 100 may be sent at any
        time before the reply (RFC 9110 15.2.1), and every client of HTTP/1.1 passes over it; a closed one resets.
        """
        if self.head.minor and self.state is _DISPATCHED:
            self.reply.write(CONTINUE)

    def abort(self, reason: Reason) -> None:
        """Give up at once and cut the client's connection."""
        if self.state is not _DONE:
            self._end(Outcome.CLIENT_GONE, reason, self._plane.monotonic(), reset=True)

    def fail(self, error: ExchangeError) -> None:
        """End the exchange for `error`: with a response if the reply has not begun, else by cutting the connection."""
        reason, reply = error.reason, self.reply
        if self.state is _DONE:
            return
        outcome = Outcome.UPSTREAM_FAILED if isinstance(error, UpstreamError) else Outcome.REFUSED
        if reason.status == 499:
            outcome = Outcome.CLIENT_GONE
        if self.state is _REPLYING or reason.status == 499:
            # The end of the connection shows that this reply is not complete. A reset shows it too, where the end
            # would look like the reply's own, but can destroy earlier replies that are still on their way.
            reply.keep_alive = False
            reset = reply.ends_by_close or reason.status == 499
            self._end(outcome, reason, self._plane.monotonic(), reset=reset)
            return
        if isinstance(error, DownstreamError):
            # Whoever sends one malformed request may mean something else by its end than we do.
            reply.keep_alive = False
        fields = [(b"Allow", error.allow)] if isinstance(error, RoutingError) and error.allow else []
        self._answer(reason.status, *refusal(reason, self.request_id, fields), outcome, reason)

    def _answer(
        self, status: int, body: bytes, fields: Fields, outcome: Outcome, reason: Reason | None = None
    ) -> None:
        """Answer ourselves; what is left of the request is not read."""
        self._settle_keep_alive()
        fields = [*fields, (b"X-Request-Id", self.request_id)]
        self.reply.respond(status, body, fields, date_line=self._plane.date_line)
        self._end(outcome, reason, self._plane.monotonic())

    def _end(self, outcome: Outcome, reason: Reason | None, now: float, *, reset: bool = False) -> None:
        """Leave the exchange for good: release the lease, record it, hand the client's connection on."""
        self.state = _DONE
        if self.attempt is not None:
            kind = None
            if outcome is Outcome.UPSTREAM_FAILED and reason is not None:
                kind = kind_of_reason(reason)
            elif outcome is _OK and self.reply.status >= 500:
                kind = kind_of_status(self.reply.status)
            self.attempt.end(outcome, kind, now=now)
        self._plane.record(self, self._downstream, outcome, reason, now)
        self.reply.end(reset, self._upload is not None, now)
