"""A request on its way to an endpoint: what is sent of it, its lease, its connection, and how often it was tried.

It belongs to an exchange, and does not know it: a reference back would make a cycle of every exchange, which only the
garbage collector could free. What was sent is kept until the answer begins, as far as it is small enough, so that it
can be sent again: on a fresh connection, when a reused one was lost, or to another endpoint. The endpoint's connection
is given back only after a complete exchange; in every other case it is closed, because what may still come on it
belongs to nobody.
"""

import asyncio
from typing import TYPE_CHECKING

from proxy.cluster import Cluster
from proxy.dataplane.compose import compose_request
from proxy.dataplane.facts import facts_of
from proxy.dataplane.headers import drop_fields
from proxy.dataplane.reply_head import ReplyHead
from proxy.dataplane.upstream import Upstream
from proxy.endpoint import Endpoint, Lease
from proxy.model import NO_FACTS, Outcome, RequestFacts
from proxy.policy.data_reply import DATA_FIELDS, data_reply
from proxy.policy.failures import FailureKind, kind_of_status, retry_after_s
from proxy.policy.route import CompiledRoute
from proxy.scoreboard import E_RETRIES

if TYPE_CHECKING:
    from proxy.dataplane.exchange import Exchange
    from proxy.dataplane.pool import Pool
    from proxy.dataplane.tries import Tries


class Delivery:
    """A request on its way to the endpoint that was picked for it."""

    __slots__ = (
        "_connecting", "_pool", "_request", "_room", "began", "connections", "endpoint", "facts", "is_kept",
        "is_reused", "kind", "lease", "may_try", "tries", "upstream",
    )  # fmt: skip

    def __init__(
        self, head: bytes, body: bytes, facts: RequestFacts, *, replay_bytes: int, can_repeat: bool
    ) -> None:
        self.facts = facts
        """What endpoints are chosen by."""
        self.endpoint: Endpoint | None = None
        """The one that was picked last."""
        self.began = 0.0
        """When it was."""
        self.tries: Tries | None = None
        """What it went through before; `None` = the first endpoint was free and has not failed."""
        self.lease: Lease | None = None
        """The last pick, also when it is released."""
        self._pool: Pool | None = None
        self._request = head + body if body else head
        """Head and body as far as they are here, until the answer begins or the body is too large to be kept."""
        self._room = replay_bytes - len(body)
        """Bytes of the body that may still be kept."""
        self.may_try = can_repeat and self._room >= 0
        """Whether it may go to an endpoint that is on trial: if that fails, it can be sent again."""
        self.is_kept = True
        """Whether all that came of the request is still here."""
        self._connecting: asyncio.Task[None] | None = None
        self.upstream: Upstream | None = None
        """The connection in use; `None` while there is none yet, or none any more."""
        self.is_reused = False
        """Whether the connection had served another exchange before."""
        self.connections = 0
        """Connections that the request was sent on."""
        self.kind: FailureKind | None = None
        """What the answer says against the endpoint."""

    def __repr__(self) -> str:
        return f"Delivery({self.endpoint!r}, {self.connections} connections)"

    @property
    def buffered_bytes(self) -> int:
        """Bytes held on their way to the endpoint."""
        waiting = self.upstream.wire.buffered_bytes if self.upstream is not None else 0
        return waiting + len(self._request)

    @property
    def is_blocked(self) -> bool:
        """Whether the endpoint does not take what was written."""
        return self.upstream is not None and self.upstream.wire.is_blocked

    @property
    def is_trial(self) -> bool:
        """Whether it shows if an open circuit may close, and has not yet."""
        return self.lease is not None and not self.lease.is_released and self.lease.is_trial

    def begin(self, lease: Lease, pool: "Pool", exchange: "Exchange", can_repeat: bool, now: float) -> bool:
        """Send the request to the endpoint of `lease`, on an idle connection; false when there is none and one is
        being made for `exchange`."""
        self.lease = lease
        self.endpoint = lease.endpoint
        self._pool = pool
        self.began = now
        upstream = pool.take(not can_repeat)
        if upstream is None:
            self._connecting = pool.connect(exchange)
            return False
        self.send(upstream, exchange)
        return True

    def send(self, upstream: Upstream, exchange: "Exchange") -> None:
        """Send what is here of the request on `upstream`, whose events go to `exchange`."""
        self._connecting = None
        self.upstream = upstream
        self.connections += 1
        self.is_reused = upstream.requests > 0
        upstream.relay = exchange
        upstream.requests += 1
        upstream.wire.write(self._request)
        if self._room < 0:
            self.forget_request()

    def add(self, body: bytes) -> int:
        """Take more of the body while there is no connection; returns the bytes that wait for one."""
        self._request += body
        self._room -= len(body)
        return len(self._request)

    def pass_on(self, body: bytes) -> None:
        """Send more of the body."""
        assert self.upstream is not None
        if self.is_kept:
            self._room -= len(body)
            if self._room >= 0:
                self._request += body
            else:
                self.forget_request()
        self.upstream.wire.write(body)

    def forget_request(self) -> None:
        """It cannot be sent again."""
        self.is_kept = False
        self._request = b""

    def failure_of(self, head: ReplyHead) -> FailureKind | None:
        """What a final reply from 400 on says against the endpoint; how long that asks to be left alone is noted."""
        kind = kind_of_status(head.status, has_retry_after=b"\nretry-after:" in head.low)
        if kind is FailureKind.RATE_LIMITED and self.lease is not None:
            self.lease.retry_after_s = retry_after_s(head.low)
        return kind

    def on_answer(self, head: ReplyHead, kind: FailureKind | None, cluster: Cluster, *, now: float) -> None:
        """The head of the final reply, or a 101, is here. What it says of data may be taken out of it."""
        self._request = b""
        self.kind = kind
        lease = self.lease
        assert lease is not None
        if lease.wants_data:
            said = data_reply(head, cluster.on_ignored)
            if said is not None:
                lease.on_data(said, now=now)
                if cluster.spec.strip_data_headers:
                    head.kept[:] = [drop_fields(piece, DATA_FIELDS) for piece in head.kept]
        if lease.is_watched:
            lease.on_answer(head.status, kind, now=now)

    def owes_answer(self, since: float) -> None:
        """The endpoint has had the whole request since then; 0 = it has not yet."""
        assert self.lease is not None
        self.lease.owed_since = since

    def repeat(self, exchange: "Exchange") -> bool:
        """Send the request once more, on a fresh connection, if the one that was lost had been used before.

        An endpoint may close an idle connection at any time, so such a loss says nothing about it (RFC 9112 9.3.1).
        Whether the request may be sent twice is the caller's to know.
        """
        if not self.is_reused or not self.is_kept:
            return False
        assert self.endpoint is not None and self._pool is not None
        self.endpoint.row[E_RETRIES] += 1
        self.drop()
        self._connecting = self._pool.connect(exchange)
        return True

    def give_back(self, now: float) -> None:
        """The exchange is complete: let others use the connection."""
        upstream = self.upstream
        if upstream is not None and upstream.wire.is_open and not upstream.wire.is_blocked:
            assert self._pool is not None
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

    def end_try(self, outcome: Outcome, kind: FailureKind | None, *, now: float) -> None:
        """Drop what was not given back, and release the lease, if there is one that is not."""
        self.drop()
        lease = self.lease
        if lease is not None and not lease.is_released:
            lease.release(outcome, kind, now=now)


def begin_delivery(exchange: "Exchange", cluster: Cluster, route: CompiledRoute, body: bytes) -> Delivery:
    """The request of `exchange`, with what is here of its body, as it goes out by `route`."""
    head, downstream = exchange.head, exchange.downstream
    identity = downstream.identity
    # First: the cluster's own cookie is taken out.
    facts = facts_of(exchange, cluster, route, body) if cluster.reads_request else NO_FACTS
    lines = identity.lines(head)
    sent = compose_request(head, route, lines, exchange.request_id, downstream.local_authority)
    replay_bytes = cluster.spec.retry.replay_bytes
    return Delivery(sent, body, facts, replay_bytes=replay_bytes, can_repeat=exchange.can_repeat)
