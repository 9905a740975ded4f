"""Connections to one endpoint: idle ones to be used again, and new ones.

The connection used last is used next: with LIFO order the surplus grows old and is closed, and the one in use is the
least likely to have been closed by the endpoint meanwhile.
"""

import asyncio
import errno
import logging
from collections.abc import Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        "_blocked",
        "_contexts",
        "_idle",
        "_loop",
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
        if worn or is_stale or len(idle) >= params.max_idle:
            upstream.close()
            return
        upstream.idle_since = now
        idle.append(upstream)
        self.endpoint.row[E_IDLE] += 1

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
        row = self.endpoint.row
        row[E_CONNECTS] += 1
        upstream = Upstream(self)
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
        except TlsError as error:
            row[E_CONNECT_FAILURES] += 1
            exchange.fail(UpstreamError(error.reason))
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
