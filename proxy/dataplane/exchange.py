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
from proxy.dataplane.compose import (
    compose_interim,
    compose_reply,
    compose_request,
    compose_switch,
    frame_reply,
)
from proxy.dataplane.framing import BadBody, BodyReader
from proxy.dataplane.headers import HEAD_END
from proxy.dataplane.reply_head import ReplyHead, check_partial_reply, parse_reply
from proxy.dataplane.request_head import RequestHead
from proxy.dataplane.responses import CONTINUE, fixed_answer, refusal, render
from proxy.dataplane.tunnel import Tunnel
from proxy.dataplane.upload import Upload
from proxy.errors import DownstreamError, ExchangeError, Reason, RoutingError, UpstreamError
from proxy.model import NO_FACTS, Outcome
from proxy.policy.path import routing_path
from proxy.policy.route import CompiledRoute
from proxy.scoreboard import E_CONNECT_FAILURES
from proxy.snapshot import RedirectSpec, RespondSpec

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

# A client that announces a body and sends none takes no endpoint for this long. Most send it with the head; one that
# waits for an early answer still gets it.
BODY_WAIT_S = 0.2
# Body bytes taken from a client while its connection to the endpoint is being made.
CONNECT_BUFFER_BYTES = 64 * 1024
# Interim replies (1xx) accepted in one exchange; endless ones would hold it for ever.
MAX_INTERIM = 64
# RFC 9110 9.2.2. A request with one of these may be sent again when its connection died before it was answered.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"QUERY"))


class Exchange:
    """A request, the endpoint chosen for it, and the reply on its way back."""

    __slots__ = (
        "_awaits_continue", "_downstream", "_ends_by_close", "_interim", "_plane", "_reply_body", "_reply_buffer",
        "_reply_keep_alive", "_table", "_upload", "attempt", "cluster", "connected_at", "first_byte_at", "head",
        "keep_alive", "received_bytes", "request_id", "route", "sent_bytes", "started", "state", "status",
    )  # fmt: skip

    def __init__(self, downstream: "Downstream", plane: "Plane", head: RequestHead, now: float) -> None:
        self._downstream = downstream
        self._plane = plane
        self._table = plane.table
        self.head = head
        self.state = _ROUTING
        self.started = now
        self.request_id = head.request_id or plane.new_request_id()
        self.keep_alive = head.keep_alive
        """Whether the client's connection may carry another request after this one."""
        self.route: CompiledRoute | None = None
        self.cluster: Cluster | None = None
        self.attempt: Attempt | None = None
        self._upload: Upload | None = None
        """The body that is still to come; `None` when all of it has."""
        self._reply_buffer = b""
        self._reply_body: BodyReader | None = None
        self._reply_keep_alive = False
        self._ends_by_close = False
        """The end of the client's connection will be the end of the reply (HTTP/1.0)."""
        self._awaits_continue = False
        """Expect was passed on, and the endpoint has not said 100."""
        self._interim = 0
        self.status = 0
        self.connected_at = 0.0
        self.first_byte_at = 0.0
        self.received_bytes = 0
        """Payload received from the client."""
        self.sent_bytes = 0
        """Bytes written to the client."""

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
            self._find_route()
            route = self.route
            assert route is not None
            action = route.action
            if isinstance(action, RespondSpec | RedirectSpec):
                self._answer(route, action)
                return
            if head.is_for_us:
                self._respond(204, b"", [])
                self._end(Outcome.LOCAL, None)
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

    def _find_route(self) -> None:
        head = self.head
        listener = self._downstream.listener.name
        host = self._downstream.identity.host_key(head.host)
        path = routing_path(head.path)
        routes = self._table.routes
        self.route = routes.match(listener, host, path, head.method, head.field)
        if self.route is None:
            miss = routes.miss(listener, host, path, head.field)
            raise RoutingError(miss.reason, miss.allow)

    def _take_body(self, data: bytes) -> bytes:
        """What of `data` goes to the endpoint; what is left belongs to later requests. Raises `DownstreamError`."""
        upload = self._upload
        assert upload is not None
        out = upload.feed(data)
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
        self._awaits_continue = head.expect
        lease = cluster.acquire(NO_FACTS)
        sent = compose_request(
            head,
            route,
            identity=downstream.identity.lines(head),
            request_id=self.request_id,
            local_authority=downstream.local_authority,
        )
        pool = self._plane.pool_of(lease.endpoint, cluster)
        self.attempt = attempt = Attempt(lease, pool, sent + body if body else sent)
        timeouts = cluster.spec.timeouts
        if timeouts.total_s:
            downstream.total_deadline = self.started + timeouts.total_s
        if attempt.begin(self):
            self._after_sent(self.started)
        else:
            self._set_deadline(timeouts.connect_s, Reason.CONNECT_TIMEOUT)

    def on_connected(self, upstream: "Upstream") -> None:
        """The connection asked for is there."""
        attempt = self.attempt
        if self.state is not _DISPATCHED or attempt is None:
            upstream.close()
            return
        attempt.send(upstream, self)
        self._after_sent(self._plane.monotonic())
        if not upstream.is_blocked:
            self._downstream.resume()

    def on_connect_failed(self, error: ExchangeError) -> None:
        """The endpoint could not be reached."""
        if self.state is _DISPATCHED:
            self.fail(error)

    def _after_sent(self, now: float) -> None:
        self.connected_at = now
        if self._upload is not None:
            self._upload.restart(now)
        assert self.attempt is not None and self.attempt.upstream is not None
        if not self.attempt.upstream.is_blocked:
            self._restore_deadline(now)

    def _restore_deadline(self, now: float) -> None:
        """Set the deadline that the state DISPATCHED calls for."""
        assert self.attempt is not None and self.cluster is not None
        if self.attempt.upstream is None:
            self._set_deadline(self.cluster.spec.timeouts.connect_s, Reason.CONNECT_TIMEOUT)
        elif self._upload is None:
            self._await_reply(now)
        else:
            self._await_body()

    def _set_deadline(self, timeout_s: float, reason: Reason) -> None:
        """Let `reason` end the present step in `timeout_s` from now; 0 = never."""
        deadline = self._plane.monotonic() + timeout_s if timeout_s else 0.0
        self._downstream.set_deadline(deadline, reason)

    def _await_reply(self, since: float) -> None:
        """The whole request is sent: the endpoint's time runs from `since`."""
        assert self.cluster is not None
        timeout = self.cluster.spec.timeouts.response_s
        self._downstream.set_deadline(since + timeout if timeout else 0.0, Reason.RESPONSE_TIMEOUT)

    def _await_body(self) -> None:
        if self.head.expect:
            # The client waits for the endpoint's word, so it is the endpoint's time that runs.
            self._await_reply(self._plane.monotonic())
        else:
            self._set_deadline(self._table.timeouts.body_s, Reason.BODY_TIMEOUT)

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
        upstream.write(out)
        if upstream.is_blocked:
            return
        if self.state is _DISPATCHED:
            self._after_body_piece()
        elif self.state is _REPLYING and not self._downstream.is_blocked:
            self._await_more()

    def _after_body_piece(self) -> None:
        upload = self._upload
        now = self._plane.monotonic()
        if upload is None:
            self._await_reply(now)
        elif upload.is_dripping(now):
            self.fail(DownstreamError(Reason.BODY_TIMEOUT))
        else:
            # The client has not waited for the endpoint's word.
            self.head.expect = False
            self._await_body()

    # ------------------------------------------------------------------ the reply

    def on_reply_data(self, data: bytes) -> None:
        """Bytes from the endpoint."""
        if self.state is _REPLYING:
            self._relay_reply(data)
        elif self.state is _DISPATCHED:
            try:
                self._read_reply_head(data)
            except UpstreamError as error:
                self.fail(error)

    def _read_reply_head(self, data: bytes) -> None:
        """Collect the head of the reply, passing on interim ones. Raises `UpstreamError`."""
        if self._reply_buffer:
            data = self._reply_buffer + data
            self._reply_buffer = b""
        elif not self.first_byte_at:
            self.first_byte_at = self._plane.monotonic()
        limits = self._table.limits
        while data:
            end = data.find(HEAD_END) + 4
            if end < 4:
                check_partial_reply(data)
                end = len(data)
                self._reply_buffer = data
            if end > limits.header_bytes:
                raise UpstreamError(Reason.REPLY_HEADER_TOO_LARGE)
            if self._reply_buffer:
                return
            head = parse_reply(data[:end], limits.header_count)
            data = data[end:]
            if head.status >= 200:
                self._begin_reply(head, data)
                return
            if head.status == 101:
                self._begin_tunnel(head, data)
                return
            self._relay_interim(head)

    def _relay_interim(self, head: ReplyHead) -> None:
        """Pass a 1xx on (RFC 9110 15.2), but never to HTTP/1.0."""
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise UpstreamError(Reason.BAD_REPLY)
        if self.head.minor == 1:
            self._write(compose_interim(head))
        if head.status == 100:
            self._awaits_continue = False
            if self._upload is not None:
                self._upload.restart(self._plane.monotonic())
                self.head.expect = False
                self._await_body()

    def _begin_reply(self, head: ReplyHead, rest: bytes) -> None:
        """Send the final head, with what is here of the body in the same write."""
        request = self.head
        self.state = _REPLYING
        self.status = head.status
        assert self.attempt is not None
        self.attempt.forget_request()
        if self._upload is not None or request.upgrade or self._downstream.must_close:
            self.keep_alive = False
        body, framing, can_continue = frame_reply(request, head, self._table.limits.header_bytes)
        # A body where there can be none, or an upload that was refused but sent all the same, may still come, and
        # would be taken for the next exchange's.
        is_suspect = body is None and (head.chunked or (head.status == 204 and head.length > 0))
        self._reply_keep_alive = head.keep_alive and not is_suspect and not self._awaits_continue
        if not can_continue:
            self.keep_alive = False
            self._ends_by_close = True
        route = self.route
        assert route is not None
        parts = compose_reply(
            head,
            route,
            framing=framing,
            date_line=self._plane.date_line,
            minor=request.minor,
            keep_alive=self.keep_alive,
        )
        self._reply_body = body
        if body is None:
            self._write(b"".join(parts))
            self._complete_reply(rest)
        else:
            self._relay_reply(rest, parts)

    def _relay_reply(self, data: bytes, before: list[bytes] | None = None) -> None:
        """Pass on a piece of the reply's body, after the pieces of its head if these are still `before` it."""
        body = self._reply_body
        assert body is not None
        try:
            out = body.feed(data)
        except BadBody:
            if before:
                self._write(b"".join(before))
            self.fail(UpstreamError(Reason.BAD_REPLY))
            return
        if before:
            before.append(out)
            out = b"".join(before)
        self._write(out)
        if body.done:
            self._complete_reply(body.extra)
        elif self._downstream.is_blocked:
            # It may have become so before there was an endpoint to stop reading from.
            self.on_downstream_blocked()
        else:
            self._await_more()

    def _write(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        self._downstream.write(data)

    def _await_more(self) -> None:
        assert self.cluster is not None
        self._set_deadline(self.cluster.spec.timeouts.idle_s, Reason.IDLE_TIMEOUT)

    def on_reply_eof(self) -> bool:
        """The endpoint will send no more."""
        if self.state is _REPLYING:
            assert self._reply_body is not None
            out = self._reply_body.on_eof()
            if out is None:
                self.fail(UpstreamError(Reason.REPLY_CUT))
            else:
                self._reply_keep_alive = False
                self._write(out)
                self._complete_reply(b"")
        elif self.state is _DISPATCHED:
            self._on_unanswered(
                UpstreamError(Reason.BAD_REPLY if self._reply_buffer else Reason.UPSTREAM_CLOSED)
            )
        return False

    def on_upstream_lost(self, error: Exception | None) -> None:
        """The connection to the endpoint is gone without a proper end."""
        if self.state is _DISPATCHED:
            self._on_unanswered(UpstreamError(Reason.UPSTREAM_RESET if error else Reason.UPSTREAM_CLOSED))
        else:
            self.fail(UpstreamError(Reason.REPLY_CUT))

    def _on_unanswered(self, error: UpstreamError) -> None:
        """The connection ended before a reply: send the request once more if that is safe (RFC 9110 9.2.2)."""
        assert self.attempt is not None and self.cluster is not None
        is_safe = self._upload is None and not self.first_byte_at and self.head.method in IDEMPOTENT
        if is_safe and self.attempt.repeat(self):
            self._set_deadline(self.cluster.spec.timeouts.connect_s, Reason.CONNECT_TIMEOUT)
        else:
            self.fail(error)

    def _complete_reply(self, extra: bytes) -> None:
        """The reply is complete: give the endpoint's connection back, unless it cannot be used again."""
        assert self.attempt is not None
        if self._reply_keep_alive and not extra and self._upload is None and not self.head.upgrade:
            self.attempt.give_back(self._plane.monotonic())
        self._end(Outcome.OK, None)

    def _begin_tunnel(self, head: ReplyHead, rest: bytes) -> None:
        """Relay a 101 to our own Upgrade; any other is an error (RFC 9110 15.2.2)."""
        attempt, cluster = self.attempt, self.cluster
        if not self.head.upgrade or head.upgrade.lower() != self.head.upgrade:
            raise UpstreamError(Reason.BAD_REPLY)
        assert attempt is not None and attempt.upstream is not None and cluster is not None
        upstream = attempt.upstream
        self.state = _SWITCHED
        self.status = 101
        self.keep_alive = False
        attempt.forget_request()
        downstream = self._downstream
        downstream.total_deadline = 0.0
        tunnel = Tunnel(self, downstream, upstream, self._plane, cluster.spec.timeouts.tunnel_s)
        upstream.relay = tunnel
        downstream.relay = tunnel
        self._write(compose_switch(head) + rest)
        early = downstream.release_held()
        if early:
            tunnel.on_request_data(early)
        if downstream.is_half_closed:
            tunnel.on_client_eof()

    def on_tunnel_end(self, reason: Reason | None) -> None:
        """Both sides of the tunnel have ended, or one was lost."""
        self._end(Outcome.OK, reason, reset=reason is not None and reason is not Reason.IDLE_TIMEOUT)

    # ------------------------------------------------------------------ backpressure

    def on_downstream_blocked(self) -> None:
        """The client does not take what was written: read no more from the endpoint."""
        if self.attempt is not None and self.attempt.upstream is not None:
            self.attempt.upstream.pause()

    def on_downstream_writable(self) -> None:
        """The client has taken everything."""
        if self.attempt is not None and self.attempt.upstream is not None:
            self.attempt.upstream.resume()
        if self.state is _REPLYING:
            self._await_more()
        elif self.state is _DISPATCHED:
            self._restore_deadline(self._plane.monotonic())

    def on_upstream_blocked(self) -> None:
        """The endpoint does not take what was written: read no more from the client."""
        self._downstream.pause()
        if self._upload is not None:
            self._upload.on_blocked(self._plane.monotonic())
        if self.state is _DISPATCHED:
            assert self.cluster is not None
            self._set_deadline(self.cluster.spec.timeouts.idle_s, Reason.IDLE_TIMEOUT)

    def on_upstream_writable(self) -> None:
        """The endpoint has taken everything."""
        if self._upload is not None:
            self._upload.on_writable(self._plane.monotonic())
        self._downstream.resume()
        if self.state is _DISPATCHED:
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
            self.keep_alive = False
            self._end(Outcome.CLIENT_GONE, Reason.CLIENT_GONE)
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
            self._write(CONTINUE)

    def abort(self, reason: Reason) -> None:
        """Give up at once and cut the client's connection."""
        if self.state is not _DONE:
            self._end(Outcome.CLIENT_GONE, reason, reset=True)

    def fail(self, error: ExchangeError) -> None:
        """End the exchange for `error`: with a response if the reply has not begun, else by cutting the connection."""
        reason = error.reason
        if self.state is _DONE:
            return
        outcome = Outcome.UPSTREAM_FAILED if isinstance(error, UpstreamError) else Outcome.REFUSED
        if reason.status == 499:
            outcome = Outcome.CLIENT_GONE
        if self.state is _REPLYING or reason.status == 499:
            # The end of the connection shows that this reply is not complete. A reset shows it too, where the end
            # would look like the reply's own, but can destroy earlier replies that are still on their way.
            self.keep_alive = False
            self._end(outcome, reason, reset=self._ends_by_close or reason.status == 499)
            return
        if isinstance(error, DownstreamError):
            # Whoever sends one malformed request may mean something else by its end than we do.
            self.keep_alive = False
        fields = [(b"Allow", error.allow)] if isinstance(error, RoutingError) and error.allow else []
        self._respond(reason.status, *refusal(reason, self.request_id, fields))
        self._end(outcome, reason)

    def _answer(self, route: CompiledRoute, action: RespondSpec | RedirectSpec) -> None:
        """A fixed response or a redirect of the configuration."""
        head = self.head
        if isinstance(action, RespondSpec):
            body, fields = fixed_answer(action)
        else:
            location = route.redirect_location(
                self._downstream.identity.scheme, head.host, head.path, head.query
            )
            body, fields = b"", [(b"Location", location)]
        self._respond(action.status, body, fields)
        self._end(Outcome.LOCAL, None)

    def _respond(self, status: int, body: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        """Answer ourselves; what is left of the request is not read."""
        self.status = status
        if self._upload is not None or self.head.upgrade or self._downstream.must_close:
            self.keep_alive = False
        response = render(
            status,
            body=body,
            fields=[*fields, (b"X-Request-Id", self.request_id)],
            date_line=self._plane.date_line,
            keep_alive=self.keep_alive,
            minor=self.head.minor,
            with_body=self.head.method != b"HEAD",
        )
        self._write(response)

    def _end(self, outcome: Outcome, reason: Reason | None, *, reset: bool = False) -> None:
        """Leave the exchange for good: release the lease, record it, hand the client's connection on."""
        self.state = _DONE
        if self.attempt is not None:
            self.attempt.end(outcome)
        downstream = self._downstream
        self._plane.record(self, downstream, outcome, reason)
        is_cut = self._reply_body is not None and not self._reply_body.done
        downstream.on_exchange_end(
            keep_alive=self.keep_alive and not reset,
            reset=reset,
            # A client that wished to go on may have sent its next request.
            unread=self.is_receiving or is_cut or self.head.keep_alive,
        )
