"""What the connections of one worker share, and the tick that watches over them.

There are no timer objects per request. Each client connection carries one deadline; the tick, ten times a second, looks
at those with an exchange in progress. Idle connections are kept in the order in which they became idle, so that only
the oldest need a look.
"""

import asyncio
import logging
import random
import select
from collections.abc import Sequence
from email.utils import formatdate
from typing import TYPE_CHECKING

from proxy.answer_words import latency_index, request_index
from proxy.clock import Clock
from proxy.cluster import Cluster
from proxy.dataplane.buffers import BufferBudget
from proxy.dataplane.choice import NO_CHOICE, choice_of
from proxy.dataplane.key_functions import KeyFunctions
from proxy.dataplane.outbox import Outbox
from proxy.dataplane.pieces import Pieces
from proxy.dataplane.pool import Pool
from proxy.dataplane.tls import TlsContexts
from proxy.endpoint import Endpoint
from proxy.errors import REASON_INDEX, Reason
from proxy.model import NO_FACTS, Outcome
from proxy.policy.rate_limit import RateTable
from proxy.scoreboard import (
    E_LATENCY_SUM_US,
    E_RECEIVED_BYTES,
    E_SENT_BYTES,
    W_EVICTED_IDLE,
    W_EXCHANGES,
    W_HEARTBEAT_MS,
    W_LOG_DROPPED,
    W_RECEIVED_BYTES,
    W_REFUSALS,
    W_REQUESTS,
    W_SENT_BYTES,
    W_TUNNELS,
    Row,
)
from proxy.table import Table
from proxy.telemetry.access_log import AccessLog

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.exchange import Exchange
    from proxy.dataplane.listener import Listener
    from proxy.dataplane.tries import Tries

_log = logging.getLogger(__name__)

# Deadlines are kept to this many seconds.
TICK_S = 0.1
# Connections whose deadlines are looked at in one piece: 0.2 to 0.5 ms.
LOOKS_AT_ONCE = 1024
# Deadlines that are seen to at once: a look at a client that does not read takes 8 µs, and they often fall together.
DUE_AT_ONCE = 32
# Seconds between two looks for clients that left while we did not read from them.
WATCH_S = 1.0
# Idle connections are told apart from those about to send by this long a silence once a drain has begun.
DRAIN_IDLE_S = 0.5


class Plane:
    """The data plane of one worker."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        rng: random.Random,
        row: Row,
        rates: RateTable,
        table: Table,
        access_log: AccessLog,
        tls: TlsContexts,
        functions: KeyFunctions,
    ) -> None:
        self.loop = loop
        self.outbox = Outbox(loop)
        self.monotonic = clock.monotonic
        self._wall = clock.wall
        self.rng = rng
        self.row = row
        self.rates = rates
        self.table = table
        """What to serve from. Read once per request; replaced as a whole."""
        self.tls = tls
        self.tls.apply(table.snapshot)
        self.functions = functions
        """Those that find data keys."""
        self.access_log = access_log
        self.active: dict[Downstream, None] = {}
        """Connections that have a deadline of their own."""
        self.idle: dict[Downstream, None] = {}
        """Connections between two requests, longest idle first."""
        self.blocked: dict[Downstream, None] = {}
        """Connections with bytes that wait for their client."""
        self.unwatched: dict[Downstream, None] = {}
        """Connections that are not read at present, or that sent FIN: their loss must be looked for."""
        self.queued: dict[Tries, None] = {}
        """Requests that wait in the queues of their clusters."""
        self.buffers = BufferBudget(loop, row, self.active)
        """What waits in all of them."""
        self.adopting = 0
        """Connections that were accepted and are not in `active` yet."""
        self.tunnels = 0
        self.exchanges = 0
        self.is_draining = False
        self.crowded_until = 0.0
        """Until then clients had to wait to be accepted, because there was no room."""
        self.date_line = b""
        self._drained: list[Listener] = []
        """Listeners that were closed, with connections left."""
        self._pools: dict[Endpoint, Pool] = {}
        self._request_prefix = b"%016x" % rng.getrandbits(64)
        self._request_count = rng.getrandbits(32)
        self._next_watch = 0.0
        self._next_second = 0.0
        self._drain_began = 0.0
        # The word goes on where this worker's predecessor, or the log before this one, left it.
        self._dropped_before = row[W_LOG_DROPPED]
        self._ticker: asyncio.TimerHandle | None = None
        self._looking: Pieces[Downstream] | None = None
        """The look for deadlines that have passed, or what follows from it."""
        self._due: list[Downstream] = []
        """Those that it found."""

    def __repr__(self) -> str:
        return f"Plane({len(self.active)} active, {len(self.idle)} idle, {self.table!r})"

    @property
    def connections(self) -> int:
        """Client connections at present."""
        return self.adopting + len(self.active) + len(self.idle)

    def new_request_id(self) -> bytes:
        """An identifier for a request that came without: 128 bits, random per process and counted within."""
        self._request_count += 1
        return b"%b%016x" % (self._request_prefix, self._request_count)

    def pool_of(self, endpoint: Endpoint, cluster: Cluster) -> Pool:
        """The connections to `endpoint`."""
        pool = self._pools.get(endpoint)
        if pool is None:
            pool = self._pools[endpoint] = Pool(
                endpoint, cluster.spec, self.loop, self.outbox, self.tls, self.blocked,
                cluster.connection_limit(endpoint),
            )  # fmt: skip
            if self.is_draining:
                pool.drain()
        return pool

    def pools_at(self, slot: int) -> list[Pool]:
        """The connections to the endpoint in `slot`: one pool, or two while an endpoint of before has some left."""
        return [pool for endpoint, pool in self._pools.items() if endpoint.spec.slot == slot]

    def apply(self, table: Table) -> None:
        """Serve from `table` from the next request on. Raises `ssl.SSLError` or `ValueError`, and then nothing has
        changed, for TLS material that cannot be used."""
        self.tls.apply(table.snapshot)
        self.table = table
        sink = table.snapshot.access_log.sink
        if sink != self.access_log.sink:
            self._dropped_before += self.access_log.dropped
            self.access_log.retire()
            self.access_log = AccessLog(sink)
        specs = {
            endpoint: cluster.spec for cluster in table.clusters.values() for endpoint in cluster.endpoints
        }
        now = self.monotonic()
        for endpoint, pool in list(self._pools.items()):
            if endpoint in specs:
                pool.update(specs[endpoint], now)
            else:
                pool.close_idle(now)
                if not pool.open:
                    del self._pools[endpoint]

    # ------------------------------------------------------------------ records

    def record(
        self,
        exchange: "Exchange",
        downstream: "Downstream",
        outcome: Outcome,
        reason: Reason | None,
        now: float,
    ) -> None:
        """Count an exchange that ended, and log it."""
        self.exchanges -= 1
        head, reply = exchange.head, exchange.reply
        received_bytes, sent_bytes = exchange.received_bytes, reply.sent_bytes
        row = self.row
        row[W_REQUESTS] += 1
        row[W_RECEIVED_BYTES] += received_bytes + len(head.raw)
        row[W_SENT_BYTES] += sent_bytes
        if reason is not None:
            row[W_REFUSALS + REASON_INDEX[reason]] += 1
        delivery = exchange.delivery
        if delivery is not None and delivery.endpoint is not None:
            # The endpoint's own time: without the queue, and without endpoints that failed before it.
            seconds = now - delivery.began
            row = delivery.endpoint.row
            status = reply.status or (reason.status if reason is not None else 0)
            row[request_index(head.method, status)] += 1
            if status != 101:  # how long a tunnel was open says nothing about the endpoint
                row[latency_index(seconds)] += 1
                row[E_LATENCY_SUM_US] += int(seconds * 1e6)
            if received_bytes:
                row[E_SENT_BYTES] += received_bytes
            row[E_RECEIVED_BYTES] += sent_bytes
        if self.access_log.enabled:
            self._log_exchange(exchange, downstream, outcome, reason, now)

    def record_refusal(
        self, downstream: "Downstream", reason: Reason, request: bytes, sent_bytes: int
    ) -> None:
        """Count and log a connection whose bytes never became a request."""
        row = self.row
        row[W_REFUSALS + REASON_INDEX[reason]] += 1
        row[W_REQUESTS] += sent_bytes > 0
        row[W_RECEIVED_BYTES] += len(request)
        row[W_SENT_BYTES] += sent_bytes
        if not self.access_log.enabled:
            return
        line = request[:2048].split(b"\r\n", 1)[0].split(b" ")
        method, target = (line[0], line[1]) if len(line) == 3 else (b"", b"")
        self.access_log.add(
            (
                self._wall(), b"", downstream.peer, downstream.listener.name, method, None, target, "",
                reason.status if sent_bytes else 0, reason, Outcome.REFUSED, None, None, None, 0, len(request),
                sent_bytes, None, None, 0.0, None, None, None, None, None, None, *NO_CHOICE,
            )
        )  # fmt: skip

    def _log_exchange(
        self,
        exchange: "Exchange",
        downstream: "Downstream",
        outcome: Outcome,
        reason: Reason | None,
        now: float,
    ) -> None:
        head, reply = exchange.head, exchange.reply
        started = exchange.started
        route, cluster, delivery = exchange.route, exchange.cluster, exchange.delivery
        endpoint = delivery.endpoint if delivery is not None else None
        tries = delivery.tries if delivery is not None else None
        facts = delivery.facts if delivery is not None else NO_FACTS
        self.access_log.add(
            (
                self._wall(), exchange.request_id, downstream.peer, downstream.listener.name, head.method,
                head.host or None, head.raw_target, "1.1" if head.minor else "1.0", reply.status, reason, outcome,
                route.name if route is not None else None, cluster.name if cluster is not None else None,
                endpoint.id if endpoint is not None else None,
                delivery.connections if delivery is not None else 0, exchange.received_bytes,
                reply.sent_bytes, exchange.connected_at - started if exchange.connected_at else None,
                reply.first_byte_at - started if reply.first_byte_at else None, now - started,
                tries.queue_s if tries is not None and tries.queued_at else None,
                b", ".join(facts.data_keys) or None, facts.size_bytes,
                head.field(b"user-agent"), head.field(b"x-forwarded-for"),
                tries.why_not.value if tries is not None and tries.why_not is not None else None,
                *(choice_of(delivery, cluster) if delivery is not None and cluster is not None else NO_CHOICE),
            )
        )  # fmt: skip

    # ------------------------------------------------------------------ the tick

    def start(self) -> None:
        """Begin to tick."""
        self._tick()

    def stop(self) -> None:
        """Stop ticking and drop every connection that is left."""
        if self._ticker is not None:
            self._ticker.cancel()
        for downstream in [*self.active, *self.idle]:
            downstream.abort(Reason.SHUTTING_DOWN)
        for pool in self._pools.values():
            for upstream in list(pool.open):
                upstream.close()
        self.access_log.flush()

    def begin_drain(self) -> None:
        """Answer with `Connection: close` from now on, and close connections that stay idle."""
        if not self.is_draining:
            self.is_draining = True
            self._drain_began = self.monotonic()
            for pool in self._pools.values():
                pool.drain()

    def drain_listener(self, listener: "Listener") -> None:
        """Answer with `Connection: close` on its connections from now on, and close those that stay idle."""
        listener.drained_at = self.monotonic()
        self._drained.append(listener)

    def _tick(self) -> None:
        self._ticker = self.loop.call_later(TICK_S, self._tick)
        now = self.monotonic()
        try:
            self._check_deadlines(now)
            self._close_idle(now)
            if self.queued:
                left = [one for one in self.queued if one.is_unheard and one.has_left(now=now)]
                Pieces(self.loop, left, self._end_left, size=DUE_AT_ONCE).begin()
            self.buffers.tick(self.table.limits.buffered_bytes, now)
            if self.unwatched and now >= self._next_watch:
                self._next_watch = now + WATCH_S
                self._watch(now)
            if now >= self._next_second:
                self._next_second = now + 1.0
                self._every_second(now)
            self._publish(now)
        except Exception:
            _log.exception("the tick failed")

    def _check_deadlines(self, now: float) -> None:
        if self._looking is None or self._looking.is_over:
            self._due = []
            self._looking = Pieces(
                self.loop, list(self.active), self._find_due, size=LOOKS_AT_ONCE, on_end=self._end_due
            )
            self._looking.begin()

    def _find_due(self, piece: "Sequence[Downstream]") -> None:
        now = self.monotonic()
        self._due += [d for d in piece if 0.0 < d.deadline <= now or 0.0 < d.total_deadline <= now]

    def _end_due(self) -> None:
        if self._due:
            self._looking = Pieces(self.loop, self._due, self._end_waits, size=DUE_AT_ONCE)
            self._looking.begin()

    def _end_waits(self, piece: "Sequence[Downstream]") -> None:
        now = self.monotonic()
        for downstream in piece:
            if downstream not in self.active:
                continue  # it was closed since, or is idle
            if not (0.0 < downstream.deadline <= now or 0.0 < downstream.total_deadline <= now):
                continue  # it has gone on
            try:
                downstream.on_deadline(now)
            except Exception:
                _log.exception("internal error on %r", downstream)
                downstream.abort(Reason.INTERNAL)

    def _close_idle(self, now: float) -> None:
        keep_alive = self.table.timeouts.keep_alive_s
        before = now - keep_alive if keep_alive else -1.0
        if self.is_draining and now >= self._drain_began + DRAIN_IDLE_S:
            before = max(before, now - DRAIN_IDLE_S)
        expired = []
        for downstream in self.idle:
            if downstream.idle_since > before:
                break
            expired.append(downstream)
        for downstream in expired:
            downstream.close()

    def _close_drained(self, now: float) -> None:
        """Close what is idle of listeners that were closed."""
        self._drained = [one for one in self._drained if one.connections]
        before = now - DRAIN_IDLE_S
        due = {one for one in self._drained if one.drained_at is not None and one.drained_at <= before}
        if due:
            idle = [one for one in self.idle if one.listener in due and one.idle_since <= before]
            Pieces(self.loop, idle, self._end_idle, size=DUE_AT_ONCE).begin()

    def _end_idle(self, piece: "Sequence[Downstream]") -> None:
        for downstream in piece:
            if downstream in self.idle:
                downstream.close()

    def _watch(self, now: float) -> None:
        """Find clients that are gone: a connection that is not read notices neither FIN nor reset."""
        poll = select.poll()
        by_fd = {}
        for downstream in list(self.unwatched):
            fd = downstream.watch_fd(now)
            if fd >= 0:
                by_fd[fd] = downstream
                poll.register(fd, 0)  # errors and hang-ups are always reported
        for fd, event in poll.poll(0):
            downstream = by_fd[fd]
            # When both sides have sent FIN, a hang-up says no more than that.
            if event & select.POLLERR or not downstream.wire.has_sent_eof:
                downstream.abort(Reason.CLIENT_GONE)

    def _end_left(self, piece: "Sequence[Tries]") -> None:
        """Let go of requests that waited for an endpoint, and whose clients are gone."""
        for tries in piece:
            tries.look()

    def _every_second(self, now: float) -> None:
        if self._drained:
            self._close_drained(now)
        self.date_line = b"\r\nDate: " + formatdate(self._wall(), usegmt=True).encode()
        for cluster in self.table.clusters.values():
            cluster.budget.fold(now)
        for endpoint, pool in list(self._pools.items()):
            if pool.params.idle_timeout_s:
                pool.close_idle(now - pool.params.idle_timeout_s)
            if endpoint.is_removed and not pool.open:
                del self._pools[endpoint]

    def _publish(self, now: float) -> None:
        row = self.row
        row[W_HEARTBEAT_MS] = int(now * 1000)
        row[W_EXCHANGES] = self.exchanges
        row[W_TUNNELS] = self.tunnels
        log = self.access_log
        if log.enabled:
            log.flush()
            row[W_LOG_DROPPED] = self._dropped_before + log.dropped

    def evict_idle(self, min_idle_s: float) -> bool:
        """Close the connection that has been idle longest, if that is `min_idle_s` or more, to make room."""
        for downstream in self.idle:
            if self.monotonic() - downstream.idle_since < min_idle_s:
                return False
            self.row[W_EVICTED_IDLE] += 1
            downstream.close()
            return True
        return False
