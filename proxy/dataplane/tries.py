"""What a request goes through that the first endpoint did not answer: the queue, failures, pauses, other endpoints.

Most requests need none of it, so it is made when it is needed. It knows its exchange and is known by it; `end` breaks
that cycle, so that neither has to wait for the garbage collector.
"""

import asyncio
from math import inf
from typing import TYPE_CHECKING

from proxy.cluster import Cluster
from proxy.endpoint import Lease
from proxy.errors import ExchangeError, Reason, RoutingError, UpstreamError
from proxy.model import Outcome, RequestFacts
from proxy.policy.admission import Ticket, urgency_of
from proxy.policy.failures import FailureKind, kind_of_reason
from proxy.policy.retry import FailedTry, NoRetry, RetriedRequest, RetryBudget, backoff_s, why_not
from proxy.scoreboard import E_RETRIES, K_RETRIES, K_RETRIES_OVER_BUDGET, K_RETRYING
from proxy.waiting import Waiter

if TYPE_CHECKING:
    from proxy.dataplane.delivery import Delivery
    from proxy.dataplane.exchange import Exchange
    from proxy.dataplane.reply_head import ReplyHead


# Seconds between two looks whether the budget has room.
ROOM_LOOK_S = 0.01
# Seconds that a request waits in the queue before FIN from its client is taken as its end. A client that only closes
# its sending side does that with its request as a rule; one that gives up does it later, and others want its place.
LEFT_AFTER_S = 0.05


class Tries:
    """The search for an endpoint for one exchange; a waiter in its cluster's queue."""

    __slots__ = (
        "_cluster", "_delivery", "_exchange", "_owed", "_pause", "_plane", "_room_until", "_ticket", "_token", "count",
        "facts", "failed", "queue_s", "queued_at", "why_not",
    )  # fmt: skip

    def __init__(self, exchange: "Exchange", cluster: Cluster, delivery: "Delivery") -> None:
        self._exchange: Exchange | None = exchange
        self._cluster = cluster
        self._delivery = delivery
        self._plane = exchange.plane
        self.facts: RequestFacts = delivery.facts
        """What an endpoint is chosen by."""
        self.count = 1
        """Endpoints that were asked, or are about to be; those on trial do not count."""
        self.failed: list[str] = []
        """Ids of those that failed it."""
        self._pause: asyncio.TimerHandle | None = None
        """Before the next try."""
        self._owed: Reason | None = None
        """What the client is told if the budget has no room for the next try until `_room_until`."""
        self._room_until = 0.0
        self._ticket: Ticket[Waiter] | None = None
        """The place in the cluster's queue."""
        self.queued_at = 0.0
        """When it last began to wait there; 0 = it has not."""
        self.queue_s = 0.0
        """Seconds that it waited there."""
        self._token: RetryBudget | None = None
        """The budget that the present try was taken from."""
        self.why_not: NoRetry | None = None
        """Why there was no further try; `None` = it needed none."""

    def __repr__(self) -> str:
        return f"Tries({self.count}, failed={self.failed}, {self._ticket!r})"

    @property
    def may_try(self) -> bool:
        """Whether it may go to an endpoint that is on trial."""
        return self._delivery.may_try

    # ------------------------------------------------------------------ the queue

    def enqueue(self, now: float) -> None:
        """Wait until an endpoint of the cluster is free. Raises `RoutingError` when the queue does not let it."""
        exchange = self._exchange
        assert exchange is not None and exchange.route is not None
        route = exchange.route
        urgency = route.priority.urgency
        if route.priority.from_client and (field := exchange.head.field(b"priority")) is not None:
            urgency = urgency_of(field, urgency)
        deadline = exchange.downstream.total_deadline or inf
        self._ticket = self._cluster.enqueue(self, urgency, deadline, now=now)
        self.queued_at = now
        self._plane.queued[self] = None
        exchange.wait()

    @property
    def is_unheard(self) -> bool:
        """Whether the client may be gone without the loop telling of it now."""
        exchange = self._exchange
        return exchange is not None and (
            exchange.downstream.is_half_closed or exchange.downstream.wire.is_paused
        )

    def has_left(self, *, now: float) -> bool:
        """Whether the client ended its connection, or at least its side of it, and the request has waited for long
        enough for that to mean that it is gone."""
        exchange = self._exchange
        return exchange is None or (
            now - self.queued_at >= LEFT_AFTER_S and exchange.downstream.has_sent_end()
        )

    def look(self) -> None:
        """Leave the queue if the client is gone."""
        if self._ticket is None or self._exchange is None:
            return
        if self.has_left(now=self._plane.monotonic()):
            self._exchange.abort(Reason.CLIENT_GONE)

    def on_left(self) -> None:
        """The client is gone, and somebody else has its turn."""
        self._leave_queue(self._plane.monotonic())
        assert self._exchange is not None
        self._exchange.abort(Reason.CLIENT_GONE)

    def on_admitted(self, lease: Lease) -> None:
        """An endpoint became free."""
        now = self._plane.monotonic()
        self._leave_queue(now)
        assert self._exchange is not None
        self._exchange.deliver(lease, now)

    def on_refused(self, error: RoutingError) -> None:
        """The queue gives the request up."""
        if self._exchange is None:
            return  # somebody had its place, and its client left in the same turn of the loop
        self._leave_queue(self._plane.monotonic())
        self._exchange.fail(error)

    def _leave_queue(self, now: float) -> None:
        self._ticket = None
        self._plane.queued.pop(self, None)
        self.queue_s += now - self.queued_at

    # ------------------------------------------------------------------ another try

    def try_again(
        self,
        kind: FailureKind,
        status: int = 0,
        *,
        reason: Reason | None = None,
        keeps: bool = False,
        now: float,
    ) -> bool:
        """Ask another endpoint after a pause, if that is allowed and there is one, because of `kind`: of an answer with
        `status`, or, when there was none, of `reason`. `keeps` = the failed one's connection can be used again.

        Without an answer to pass on there is no hurry: when the budget has no room at this moment, the pause goes on
        until it has, for up to `max_backoff_s`. An endpoint that stops fails many requests in one tick.
        """
        self._give_back()
        cluster, exchange, delivery = self._cluster, self._exchange, self._delivery
        assert exchange is not None
        is_trial = delivery.is_trial and kind in cluster.spec.breaker.failures
        why = self._why_not(exchange, kind, status, is_trial, now)
        if why is NoRetry.BUDGET and reason is not None and cluster.budget.has_credit(now):
            self._owed, self._room_until = reason, now + cluster.spec.retry.max_backoff_s
            why = None
        self.why_not = why
        if why is not None:
            cluster.row[K_RETRIES_OVER_BUDGET] += why is NoRetry.BUDGET
            return False
        pause_s = 0.0 if is_trial else backoff_s(cluster.spec.retry, self.count, self._plane.rng)
        if self._owed is None:
            self._begin_retry(is_trial)
        if keeps:
            delivery.give_back(now)
        delivery.end_try(Outcome.UPSTREAM_FAILED, kind, now=now)
        self._pause = self._plane.loop.call_later(pause_s, self._on_pause_end)
        exchange.reply.restart()
        exchange.wait()
        return True

    def _begin_retry(self, is_trial: bool) -> None:
        """Count a retry, for which a token was taken unless it follows a trial."""
        cluster, delivery = self._cluster, self._delivery
        cluster.row[K_RETRIES] += 1
        assert delivery.endpoint is not None
        delivery.endpoint.row[E_RETRIES] += 1
        if is_trial:
            delivery.may_try = False  # once is enough
        else:
            cluster.row[K_RETRYING] += 1
            self._token = cluster.budget
            self.count += 1

    def _why_not(
        self, exchange: "Exchange", kind: FailureKind, status: int, is_trial: bool, now: float
    ) -> NoRetry | None:
        delivery, cluster = self._delivery, self._cluster
        assert delivery.endpoint is not None
        failed = FailedTry(kind, status, is_sent=delivery.connections > 0, is_trial=is_trial)
        why = _refusal(exchange, cluster, delivery, failed, self.count, now)
        if why is None:
            self.failed.append(delivery.endpoint.id)
            if not cluster.is_hopeful(self.failed):
                why = NoRetry.NO_OTHER_ENDPOINT
            elif not is_trial and not cluster.budget.try_take(cluster.active, now=now):
                why = NoRetry.BUDGET
        return why

    def _on_pause_end(self) -> None:
        self._pause = None
        exchange = self._exchange
        assert exchange is not None
        now = self._plane.monotonic()
        if self._owed is not None and not self._has_found_room(self._owed, exchange, now):
            return
        try:
            exchange.find_endpoint(now)
        except ExchangeError as error:
            exchange.fail(error)

    def _has_found_room(self, reason: Reason, exchange: "Exchange", now: float) -> bool:
        """Whether the budget lets the retry begin that waits for room; if not, it waits on, or fails for `reason`."""
        cluster = self._cluster
        if cluster.budget.try_take(cluster.active, now=now):
            self._owed = None
            self._begin_retry(is_trial=False)
            return True
        if now < self._room_until:
            self._pause = self._plane.loop.call_later(ROOM_LOOK_S, self._on_pause_end)
        else:
            cluster.row[K_RETRIES_OVER_BUDGET] += 1
            self.why_not = NoRetry.BUDGET
            exchange.fail(UpstreamError(reason))
        return False

    def _give_back(self) -> None:
        if self._token is not None:
            self._cluster.row[K_RETRYING] -= 1
            self._token.give_back()
            self._token = None

    # ------------------------------------------------------------------ the end

    def end(self, now: float) -> None:
        """The exchange is over, whatever became of it."""
        self._give_back()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._ticket is not None:
            self._cluster.leave(self._ticket, now=now)
            self._leave_queue(now)
        self._exchange = None


def _refusal(
    exchange: "Exchange", cluster: Cluster, delivery: "Delivery", failed: FailedTry, count: int, now: float
) -> NoRetry | None:
    """Why the request is not tried again after `failed`, the last of `count` tries; `None` = it may be."""
    head, deadline = exchange.head, exchange.downstream.total_deadline
    has_key = head.field(b"idempotency-key") is not None
    return why_not(
        cluster.spec.retry,
        RetriedRequest(head.method, has_key, delivery.is_kept),
        failed,
        tries=count,
        remaining_s=deadline - now if deadline else inf,
    )


def per_try_s(exchange: "Exchange", now: float) -> float:
    """Seconds that the present endpoint has to begin its answer before another is asked; 0 = none will be, so it has as
    long as the cluster lets it."""
    delivery, cluster = exchange.delivery, exchange.cluster
    assert delivery is not None and cluster is not None
    limit_s = cluster.spec.retry.per_try_timeout_s
    if limit_s:
        count = delivery.tries.count if delivery.tries is not None else 1
        failed = FailedTry(FailureKind.TIMEOUT, is_trial=delivery.is_trial)
        if _refusal(exchange, cluster, delivery, failed, count, now) is not None:
            return 0.0
    return limit_s


def tries_of(exchange: "Exchange") -> Tries:
    """The search for an endpoint for `exchange`, which begins if there is none yet."""
    delivery, cluster = exchange.delivery, exchange.cluster
    assert delivery is not None and cluster is not None
    if delivery.tries is None:
        delivery.tries = Tries(exchange, cluster, delivery)
    return delivery.tries


def is_failure_retried(exchange: "Exchange", reason: Reason) -> bool:
    """Whether the request goes to another endpoint because this one failed it."""
    kind = kind_of_reason(reason)
    now = exchange.plane.monotonic()
    return kind is not None and tries_of(exchange).try_again(kind, reason=reason, now=now)


def is_answer_retried(exchange: "Exchange", head: "ReplyHead", kind: FailureKind | None, now: float) -> bool:
    """Whether the request goes to another endpoint because of this answer, which the client then does not get."""
    cluster = exchange.cluster
    assert cluster is not None
    assert exchange.delivery is not None
    # Of a trial every answer that says that the circuit is to stay open.
    is_failed_trial = exchange.delivery.is_trial and kind in cluster.spec.breaker.failures
    if head.status not in cluster.spec.retry.on.statuses and not is_failed_trial:
        return False
    is_all_here = head.length == len(exchange.reply.rest) and head.keep_alive and not exchange.is_receiving
    return tries_of(exchange).try_again(kind or FailureKind.STATUS, head.status, keeps=is_all_here, now=now)
