"""One attempt to have a request answered by an endpoint: its lease, its connection, and what was sent.

It belongs to an exchange, and does not know it: a reference back would make a cycle of every exchange, which only the
garbage collector could free. The endpoint's connection is given back only after a complete exchange; in every other
case it is closed, because what may still come on it belongs to nobody.
"""

import asyncio
from typing import TYPE_CHECKING

from proxy.dataplane.upstream import Upstream
from proxy.endpoint import Lease
from proxy.model import Outcome
from proxy.policy.failures import FailureKind
from proxy.scoreboard import E_RETRIES

if TYPE_CHECKING:
    from proxy.dataplane.exchange import Exchange
    from proxy.dataplane.pool import Pool


class Attempt:
    """A request on its way to the endpoint that was picked for it."""

    __slots__ = (
        "_connecting",
        "_pool",
        "_request",
        "connections",
        "endpoint",
        "is_reused",
        "lease",
        "upstream",
    )

    def __init__(self, lease: Lease, pool: "Pool", request: bytes) -> None:
        self.lease = lease
        """The pick, from now until the end."""
        self.endpoint = lease.endpoint
        """The endpoint that was picked."""
        self._pool = pool
        self._request = request
        """Head and first body bytes, until the reply begins: what a fresh connection would be given."""
        self._connecting: asyncio.Task[None] | None = None
        self.upstream: Upstream | None = None
        """The connection in use; `None` while there is none yet, or none any more."""
        self.is_reused = False
        """Whether the connection had served another exchange before."""
        self.connections = 0
        """Connections that the request was sent on."""

    def __repr__(self) -> str:
        return f"Attempt({self.endpoint!r}, {self.connections} connections)"

    @property
    def buffered_bytes(self) -> int:
        """Bytes held on their way to the endpoint."""
        waiting = self.upstream.wire.buffered_bytes if self.upstream is not None else 0
        return waiting + len(self._request)

    def begin(self, exchange: "Exchange", can_repeat: bool) -> bool:
        """Send the request on an idle connection; false when there is none and one is being made for `exchange`."""
        upstream = self._pool.take(not can_repeat)
        if upstream is None:
            self._connecting = self._pool.connect(exchange)
            return False
        self.is_reused = True
        self.send(upstream, exchange)
        return True

    def send(self, upstream: Upstream, exchange: "Exchange") -> None:
        """Send what is here of the request on `upstream`, whose events go to `exchange`."""
        self._connecting = None
        self.upstream = upstream
        self.connections += 1
        upstream.relay = exchange
        upstream.requests += 1
        upstream.wire.write(self._request)
        if not self.is_reused:
            # A fresh connection's loss is not repeated, so this is not needed any more.
            self._request = b""

    def add(self, body: bytes) -> int:
        """Take more of the body while there is no connection yet; returns the bytes that wait for one."""
        self._request += body
        return len(self._request)

    def forget_request(self) -> None:
        """It will not be sent again: more of the body went out than was kept."""
        self._request = b""

    def on_answer(self, status: int, *, now: float) -> None:
        """The head of the final reply, or a 101, is here."""
        self._request = b""
        if self.lease.times is not None:
            self.lease.on_answer(status, now=now)

    def repeat(self, exchange: "Exchange") -> bool:
        """Send the request once more, on a fresh connection, if the one that was lost had been used before.

        An endpoint may close an idle connection at any time, so such a loss says nothing about it (RFC 9112 9.3.1).
        Whether the request may be sent twice is the caller's to know.
        """
        if not self.is_reused or not self._request:
            return False
        self.is_reused = False
        self.endpoint.row[E_RETRIES] += 1
        self.drop()
        self._connecting = self._pool.connect(exchange)
        return True

    def give_back(self, now: float) -> None:
        """The exchange is complete: let others use the connection."""
        upstream = self.upstream
        if upstream is not None and upstream.wire.is_open and not upstream.wire.is_blocked:
            self.upstream = None
            upstream.relay = None
            if upstream.wire.is_paused:
                upstream.wire.resume()
            self._pool.put(upstream, now)

    def drop(self) -> None:
        """Close the connection, made or in the making."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            upstream.close()

    def end(self, outcome: Outcome, kind: FailureKind | None, *, now: float) -> None:
        """Drop what was not given back, and release the lease; `kind` is what the endpoint did wrong."""
        self.drop()
        self.lease.release(outcome, kind, now=now)
