"""The requests of a cluster that wait in this worker, and whose turn it is over all workers.

Who waits is written in the cluster's row: how many, and the rank of the first. Whoever releases a permit and sees there
that another worker's first has waited longer than its own sends that worker a message instead of taking the permit
itself, and says which one it was. A message that is lost costs a tick: each worker with somebody waiting looks for
itself every `TICK_S`. A worker that told another leaves it that long to take what is free, and no longer, so nobody
waits for somebody who cannot use it.

A waiter is told from the loop, never from inside a call of its own: `on_admitted` may dispatch, fail, release and queue
again without any of that happening within something else.
"""

from collections.abc import Collection
from math import inf
from typing import Protocol

from proxy.endpoint import Lease
from proxy.errors import Reason, RoutingError
from proxy.holding import Holding
from proxy.model import RequestFacts
from proxy.policy.admission import (
    PendingQueue,
    QueueParams,
    Refused,
    Ticket,
    predicted_wait_s,
    retry_after_s,
)
from proxy.scoreboard import (
    K_PENDING,
    K_QUEUE_LEFT,
    K_QUEUE_REFUSED,
    K_QUEUE_TIMED_OUT,
    K_QUEUE_WAIT_US,
    K_QUEUED,
    K_WANT_SINCE_MS,
)
from proxy.surroundings import Peers, Surroundings

# Seconds between two looks of whoever waits.
TICK_S = 0.02


class Waiter(Protocol):
    """A request that waits for an endpoint."""

    @property
    def facts(self) -> RequestFacts:
        """What a picker may know of it."""
        ...

    @property
    def failed(self) -> Collection[str]:
        """Ids of endpoints that it may not get."""
        ...

    @property
    def may_try(self) -> bool:
        """Whether it may be the trial of an open circuit."""
        ...

    def has_left(self, *, now: float) -> bool:
        """Whether the client is gone, asked when it would get an endpoint: then it gets none, and `on_left`."""
        ...

    def on_admitted(self, lease: Lease) -> None:
        """It has an endpoint."""
        ...

    def on_left(self) -> None:
        """It is out of the queue because its client is gone."""
        ...

    def on_refused(self, error: RoutingError) -> None:
        """It is out of the queue without one. If another has its place it is told in the next turn, perhaps after its
        client left."""
        ...


class Source(Protocol):
    """Where endpoints come from: the cluster."""

    def try_acquire(self, waiter: Waiter, *, now: float) -> Lease | None:
        """An endpoint for the request that waits; `None` = there is none for it now."""
        ...

    def permits(self) -> int:
        """How many requests may be in flight at once at all usable endpoints together."""
        ...

    def room(self, *, now: float) -> int:
        """How many more may be, over all workers, at this moment."""
        ...

    def hopeless(self, waiter: Waiter, deadline: float, *, now: float) -> RoutingError | None:
        """Why the request has nothing to wait for until `deadline`; `None` = it has."""
        ...


class Waiting:
    """The queue of one cluster in one worker."""

    __slots__ = (
        "_holding", "_is_awake", "_is_ticking", "_peers", "_queue", "_row", "_slot", "_source", "_surroundings",
        "_told_at", "size",
    )  # fmt: skip

    def __init__(
        self, source: Source, slot: int, surroundings: Surroundings, peers: Peers, holding: Holding
    ) -> None:
        self._source = source
        self._slot = slot
        self._surroundings = surroundings
        self._peers = peers
        self._row = surroundings.scoreboard.cluster_row(surroundings.worker, slot)
        self._queue: PendingQueue[Waiter] = PendingQueue(QueueParams())
        self._holding = holding
        self._is_awake = False
        """A pump is on its way."""
        self._is_ticking = False
        self._told_at = -inf
        """When another worker was last told that something is free for it."""
        self.size = 0
        """How many wait here."""

    def __repr__(self) -> str:
        return f"Waiting({self._queue!r})"

    def update(self, params: QueueParams) -> None:
        """Go on with what a snapshot says; what it changed may be what somebody waits for."""
        self._queue.update(params)
        if self.size:
            self.wake()

    def join(self, waiter: Waiter, urgency: int, deadline: float, *, now: float) -> Ticket[Waiter]:
        """Let a request wait until `deadline` (monotonic, `inf` = its own none). Raises `RoutingError`."""
        self._peers.look()
        answer = self._queue.offer(
            waiter,
            urgency,
            deadline=deadline,
            elsewhere=self._peers.waiting(self._slot, now),
            permits=self._source.permits(),
            mean_s=self._holding.mean_s(now=now),
            now=now,
        )
        if isinstance(answer, Refused):
            self._row[K_QUEUE_REFUSED] += 1
            raise RoutingError(Reason.OVERLOADED, retry_after_s=answer.retry_after_s)
        self._row[K_QUEUED] += 1
        displaced = answer.displaced
        if displaced is not None:
            self._row[K_QUEUE_REFUSED] += 1
            error = RoutingError(Reason.OVERLOADED, retry_after_s=self._retry_after_s(now))
            self._surroundings.soon(lambda: displaced.owner.on_refused(error))
        self._publish()
        self.wake()
        if not self._is_ticking:
            self._is_ticking = True
            self._surroundings.later(TICK_S, self._on_tick)
        return answer.ticket

    def leave(self, ticket: Ticket[Waiter], *, now: float) -> None:
        """The client is gone. Does nothing when the request does not wait any more."""
        if ticket.is_waiting:
            self._queue.leave(ticket)
            self._row[K_QUEUE_LEFT] += 1
            self._publish()

    def on_freed(self, endpoint: int, permit: int, *, now: float) -> None:
        """A permit of the endpoint in slot `endpoint` was given back."""
        elder = self._peers.elder(self._slot, self._rank_ms(), now)
        if elder >= 0:
            self._tell(elder, now, [endpoint, permit])
        elif self.size:
            self.wake()

    def on_told(self, teller: int, permit: list[int] | None, *, now: float) -> None:
        """The worker in slot `teller` left us something that is free; -1 = it was left to that one by us, and came
        back. What nobody here can use goes back, at once."""
        if teller < 0:
            self._pump(now, gives_way=False)
        elif not self._pump(now) and self._source.room(now=now) > 0:
            self._surroundings.posts.to_worker(teller, {"free": self._slot, "permit": permit, "from": -1})

    def wake(self) -> None:
        """Something may be free: see to it from the loop."""
        if not self._is_awake:
            self._is_awake = True
            self._surroundings.soon(self._on_wake)

    def tick(self, now: float) -> None:
        """Look for what nobody told: to be called every `TICK_S` while somebody waits."""
        self._peers.look()
        hopeless = self._source.hopeless
        doomed = [(one, hopeless(one.owner, one.deadline, now=now)) for one in self._queue]
        for ticket, error in doomed:
            if error is not None and ticket.is_waiting:
                self._queue.leave(ticket)
                self._publish()
                ticket.owner.on_refused(error)
        self._pump(now)

    def _on_tick(self) -> None:
        self._is_ticking = False
        try:
            self.tick(self._surroundings.monotonic())
        finally:
            if self.size and not self._is_ticking:
                self._is_ticking = True
                self._surroundings.later(TICK_S, self._on_tick)

    def _on_wake(self) -> None:
        self._is_awake = False
        self._pump(self._surroundings.monotonic())

    def _pump(self, now: float, *, gives_way: bool = True) -> int:
        """Late binding: whoever has its turn, among those who can use what is free. Returns how many got something."""
        for late in self._queue.expire(now=now):
            self._row[K_QUEUE_TIMED_OUT] += 1
            self._publish()
            late.owner.on_refused(RoutingError(Reason.QUEUE_TIMEOUT, retry_after_s=self._retry_after_s(now)))
        room = self._source.room(now=now) if self.size else 0
        admitted = 0
        while self.size and admitted < room and not (gives_way and self._gives_way(room - admitted, now)):
            ticket, lease = self._take_one(now)
            if ticket is None:
                break
            if lease is None:
                self._row[K_QUEUE_LEFT] += 1
                ticket.owner.on_left()
                continue
            self._row[K_QUEUE_WAIT_US] += int(max(now - ticket.since, 0.0) * 1e6)
            ticket.owner.on_admitted(lease)
            admitted += 1
            gives_way = True
        return admitted

    def _take_one(self, now: float) -> tuple[Ticket[Waiter] | None, Lease | None]:
        """Who is out of the queue, and what it got: nothing if its client is gone. `None` = nobody can be served."""
        lease: Lease | None = None

        def accepts(waiter: Waiter) -> bool:
            nonlocal lease
            if waiter.has_left(now=now):
                return True
            lease = self._source.try_acquire(waiter, now=now)
            return lease is not None

        ticket = self._queue.take(accepts, now=now)
        self._publish()  # also without one: some may have been found too late
        return ticket, lease

    def _gives_way(self, room: int, now: float) -> bool:
        """Whether what is free is left to another worker, where somebody waits for longer. There must be enough for
        all, or it was told before and has not taken it."""
        elder = self._peers.elder(self._slot, self._rank_ms(), now)
        if elder < 0 or room > self._peers.waiting(self._slot, now):
            return False
        # A little less than a tick: this may be the next one.
        if now - self._told_at >= 0.9 * TICK_S and self._told_at > -inf:
            self._told_at = -inf
            return False
        if self._told_at == -inf:
            self._tell(elder, now)
        return True

    def _tell(self, worker: int, now: float, permit: list[int] | None = None) -> None:
        """`permit` is the endpoint's slot and the number of what was given back."""
        body = {"free": self._slot, "permit": permit, "from": self._surroundings.worker}
        self._surroundings.posts.to_worker(worker, body)
        if self.size and self._told_at == -inf:
            self._told_at = now

    def _publish(self) -> None:
        """Say who waits. By differences: the cluster of before a removal may have the same row."""
        size = len(self._queue)
        self._row[K_PENDING] += size - self.size
        self.size = size
        self._row[K_WANT_SINCE_MS] = self._rank_ms() if size else 0
        if not size:
            self._told_at = -inf

    def _rank_ms(self) -> int:
        """The rank of the first here, later than any when nobody waits."""
        return max(int(self._queue.head_rank() * 1000.0), 1) if self.size else _NOBODY_MS

    def _retry_after_s(self, now: float) -> int:
        ahead = self.size + self._peers.waiting(self._slot, now)
        return retry_after_s(predicted_wait_s(ahead, self._source.permits(), self._holding.mean_s(now=now)))


_NOBODY_MS = 1 << 62
