"""Connections to one endpoint: idle ones to be used again, and new ones.

The connection used last is used next: with LIFO order the surplus grows old and is closed, and the one in use is the
least likely to have been closed by the endpoint meanwhile.

To an endpoint with `max_connections` there are no more over all workers, idle ones included. A request that finds all
places taken waits for an idle connection of this worker, or for another worker to close one, see `connections`.
"""

import asyncio
import errno
import logging
from collections.abc import Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.connections import ConnectionLimit
from proxy.dataplane.outbox import Outbox
from proxy.dataplane.tls import TlsContexts, TlsFailure, TlsTransport
from proxy.dataplane.upstream import Upstream
from proxy.endpoint import Endpoint
from proxy.errors import Reason, RoutingError, UpstreamError
from proxy.model import UnixAddress
from proxy.scoreboard import E_CONNECT_FAILURES, E_CONNECTIONS, E_CONNECTS, E_IDLE, E_REUSED
from proxy.snapshot import ClusterSpec, ClusterTlsSpec
from proxy.tasks import spawn

if TYPE_CHECKING:
    from proxy.dataplane.exchange import Exchange

_log = logging.getLogger(__name__)

# Clients that do not take their answers, up to which their memory does not matter: 64 at 0.7 MB each.
MANY_BLOCKED = 64
# Seconds between two looks for a place, when nobody says that there is one.
LOOK_S = 0.005
# Seconds after which a connection is made without a place: a worker that stands still closes no idle one. The request's
# own permit holds in any case.
PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Security:
    """What TLS to an endpoint must come to."""

    tls: ClusterTlsSpec
    server_name: str


class TlsError(Exception):
    """The endpoint was reached, but not by TLS."""

    def __init__(self, failure: TlsFailure) -> None:
        super().__init__(failure)
        self.reason = Reason.CERTIFICATE_INVALID if failure is TlsFailure.CERTIFICATE else Reason.TLS_FAILED

    def __str__(self) -> str:
        return self.reason.text


class Pool:
    """The connections of a worker to one endpoint."""

    __slots__ = (
        "_askers",
        "_blocked",
        "_contexts",
        "_idle",
        "_is_draining",
        "_limit",
        "_loop",
        "_seekers",
        "endpoint",
        "open",
        "outbox",
        "params",
        "security",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        spec: ClusterSpec,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        contexts: TlsContexts,
        blocked: Sized,
        limit: ConnectionLimit,
    ) -> None:
        self.endpoint = endpoint
        self.params = spec.pool
        self.security = self._wanted(spec)
        """What a connection must have to be used; `None` = plain text."""
        self.outbox = outbox
        self._contexts = contexts
        self._blocked = blocked
        """The client connections that do not take what was written."""
        self.open: set[Upstream] = set()
        """Every connection, idle or not."""
        self._idle: list[Upstream] = []
        self._loop = loop
        self._limit = limit
        self._seekers: list[asyncio.Future[None]] = []
        """Requests that wait for a place."""
        self._askers: list[int] = []
        """Workers to be told when a connection is closed."""
        self._is_draining = False

    def __repr__(self) -> str:
        return f"Pool({self.endpoint.id!r}, {len(self._idle)} idle of {len(self.open)})"

    def _wanted(self, spec: ClusterSpec) -> Security | None:
        return Security(spec.tls, self.endpoint.spec.server_name) if spec.tls is not None else None

    def update(self, spec: ClusterSpec, now: float) -> None:
        """Take over what a new snapshot says. Connections that were made under other terms are not used again."""
        self.params = spec.pool
        wanted = self._wanted(spec)
        if wanted != self.security:
            self.security = wanted
            self.close_idle(now)
        for upstream in [one for one in self._idle if not self._limit.may_keep(one.place)]:
            upstream.close()

    def drain(self) -> None:
        """Keep nothing idle that others may need: a worker that ends does not hear them ask."""
        self._is_draining = True
        if self._limit.is_set:
            for upstream in list(self._idle):
                upstream.close()

    @property
    def is_pressed(self) -> bool:
        """Whether so many clients do not take their answers that new connections must cost less memory."""
        return len(self._blocked) > MANY_BLOCKED

    def take(self, carefully: bool) -> Upstream | None:
        """An idle connection, or `None`. `carefully` = not one whose end has come and was only not noticed yet: what
        is sent on that is lost. The look costs a microsecond, so it is for requests that cannot be sent again."""
        idle = self._idle
        row = self.endpoint.row
        while idle:
            upstream = idle.pop()
            row[E_IDLE] -= 1
            if carefully and upstream.has_word():
                upstream.close()
            else:
                row[E_REUSED] += 1
                return upstream
        return None

    def put(self, upstream: Upstream, now: float) -> None:
        """Keep a connection whose exchange is complete, or close it."""
        params = self.params
        idle = self._idle
        worn = params.max_requests and upstream.requests >= params.max_requests
        # By identity: this is asked after every request.
        is_stale = upstream.security is not self.security or self.endpoint.is_removed
        may_keep = self._limit.may_keep(upstream.place) and not (self._is_draining and self._limit.is_set)
        if worn or is_stale or not may_keep or len(idle) >= params.max_idle:
            upstream.close()
            return
        upstream.idle_since = now
        idle.append(upstream)
        self.endpoint.row[E_IDLE] += 1
        self.wake()

    # Gauges are changed by one, never stored: an endpoint that leaves and comes back has two pools for a while, which
    # share the row.

    def add(self, upstream: Upstream) -> None:
        """Count a connection that is open."""
        self.open.add(upstream)
        self.endpoint.row[E_CONNECTIONS] += 1

    def remove(self, upstream: Upstream) -> None:
        """Forget a connection that is not open any more."""
        if upstream in self.open:
            self.open.remove(upstream)
            self.endpoint.row[E_CONNECTIONS] -= 1
        self._free(upstream)

    def _free(self, upstream: Upstream) -> None:
        """Give back the place of a connection that is being closed; the loop closes it in this turn."""
        if upstream.place >= 0:
            self._loop.call_soon(self._give, upstream.place)
            upstream.place = -1

    def _give(self, place: int) -> None:
        self._limit.give(place)
        if self._askers:
            self._limit.tell(self._askers.pop(0))
        else:
            self.wake()

    def wake(self) -> None:
        """There may be a place, or an idle connection, for a request that waits."""
        for seeker in self._seekers:
            if not seeker.done():
                _set(seeker)
                return

    def yield_idle(self, asker: int) -> None:
        """Close the connection that has been idle longest, if there is one, for the worker in slot `asker`."""
        if self._idle:
            self._askers.append(asker)
            self._idle[0].close()

    def discard(self, upstream: Upstream) -> None:
        """Forget an idle connection that ended."""
        if upstream in self._idle:
            self._idle.remove(upstream)
            self.endpoint.row[E_IDLE] -= 1

    def close_idle(self, before: float) -> None:
        """Close the connections that have been idle since `before` or longer."""
        idle = self._idle
        # The oldest are in front: what is put back goes to the end.
        while idle and idle[0].idle_since <= before:
            self.endpoint.row[E_IDLE] -= 1
            idle.pop(0).close()

    def connect(self, exchange: "Exchange") -> asyncio.Task[None]:
        """Open a connection for `exchange` and tell it how that went. Cancel the task to give up."""
        return spawn(self._connect(exchange), name=f"connect {self.endpoint.id}")

    async def _connect(self, exchange: "Exchange") -> None:
        place = -1
        if self._limit.is_set:
            found = await self._find_place()
            if isinstance(found, Upstream):
                exchange.on_connected(found)
                return
            place = found
        upstream = Upstream(self, place)
        try:
            await self._open(upstream, exchange)
        finally:
            if not upstream.wire.is_open:
                self._free(upstream)

    async def _find_place(self) -> Upstream | int:
        """A place for a new connection, -1 after `PATIENCE_S` without one; or an idle connection, if that comes
        first."""
        until = self._loop.time() + PATIENCE_S
        while True:
            upstream = self.take(carefully=True)
            if upstream is not None:
                return upstream
            place = self._limit.take()
            if place >= 0 or self._loop.time() >= until:
                return place
            self._limit.ask()
            seeker = self._loop.create_future()
            self._seekers.append(seeker)
            timer = self._loop.call_later(LOOK_S, _set, seeker)
            try:
                await seeker
            finally:
                timer.cancel()
                self._seekers.remove(seeker)

    async def _open(self, upstream: Upstream, exchange: "Exchange") -> None:
        row = self.endpoint.row
        row[E_CONNECTS] += 1
        try:
            if upstream.security is None:
                await self._reach(upstream)
            else:
                await self._reach_by_tls(upstream, upstream.security)
        except asyncio.CancelledError:
            # The loop closes a connection that was made already without telling it.
            upstream.wire.drop()
            self.remove(upstream)
            raise
        except TlsError as failure:
            row[E_CONNECT_FAILURES] += 1
            exchange.fail(UpstreamError(failure.reason))
            return
        except OSError as error:
            _log.debug("endpoint %s: %s", self.endpoint.id, error)
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # Not the endpoint's fault.
                exchange.fail(RoutingError(Reason.OUT_OF_DESCRIPTORS))
                return
            row[E_CONNECT_FAILURES] += 1
            exchange.fail(UpstreamError(Reason.CONNECT_FAILED))
            return
        exchange.on_connected(upstream)

    async def _reach(self, protocol: asyncio.Protocol) -> None:
        """Connect `protocol` to the endpoint. Raises `OSError`."""
        address = self.endpoint.spec.address
        if isinstance(address, UnixAddress):
            await self._loop.create_unix_connection(lambda: protocol, address.path)
        else:
            await self._loop.create_connection(lambda: protocol, address.host, address.port)

    async def _reach_by_tls(self, upstream: Upstream, security: Security) -> None:
        """Connect `upstream` to the endpoint by TLS. Raises `OSError` or `TlsError`."""
        outcome: asyncio.Future[TlsFailure | None] = self._loop.create_future()

        def on_handshake(failure: TlsFailure | None, _: bytes) -> None:
            if failure is None:
                upstream.connection_made(transport)
            if not outcome.done():
                outcome.set_result(failure)

        transport = TlsTransport(
            upstream,
            self._contexts.client(security.tls),
            self._loop,
            on_handshake,
            is_server=False,
            server_name=security.server_name or None,
        )
        await self._reach(transport)
        try:
            failure = await outcome
        except asyncio.CancelledError:
            transport.abort()
            raise
        if failure is not None:
            _log.debug("endpoint %s: %s", self.endpoint.id, failure.value)
            transport.abort()
            raise TlsError(failure)


def _set(seeker: "asyncio.Future[None]") -> None:
    if not seeker.done():
        seeker.set_result(None)
