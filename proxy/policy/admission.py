"""Who waits when every endpoint is busy, in which order, and who is better refused at once. Pure.

A request that finds no permit waits at the proxy, not at an endpoint, and goes to whichever endpoint frees up first,
one that was started meanwhile included (late binding: nobody is stuck behind one slow endpoint). The queue is short
on purpose: whoever would wait past its deadline is told so at its arrival, by Little's law, rather than after waiting
for nothing. Sources: Cho et al., "Overload Control for µs-scale RPCs with Breakwater" (OSDI '20); "Handling Overload"
in Google's "Site Reliability Engineering". The opposite is the collapse where every answer comes after its client left.

Order: each request has a rank, the time of its arrival plus `ageing_s` for each step of urgency below the most urgent;
the smallest rank goes first. Requests of one urgency are served in the order of arrival, and more urgent ones overtake,
but only those that came at most (difference of urgency) · `ageing_s` before them: an endless stream of urgent requests
delays a humble one by 7 · `ageing_s` and no more, since after that everything that arrives ranks behind it. The same
rank decides who gives way when the queue is full. So whoever may claim to be urgent can delay the others by that bound,
and, by filling the queue, have those who came less than that before him refused; the configuration says whose claim
counts. A fair share among clients of one urgency is not its business: that is the rate limit's.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from heapq import merge
from itertools import chain, islice
from math import ceil, exp, inf
from typing import Generic, TypeVar

URGENCIES = 8
"""0 (most urgent) to 7, as in RFC 9218 4.1."""
DEFAULT_URGENCY = 3
"""RFC 9218 4.1."""


@dataclass(frozen=True, slots=True)
class QueueParams:
    """How many requests wait for an endpoint of a cluster, and how long."""

    max_pending: int = 1024
    """Requests that wait at once, over all workers. 0 = nobody waits: busy is 503 at once. Large ones cost memory and
    are cut short by the predicted wait anyway."""
    timeout_s: float = 10.0
    """Seconds that a request may wait, from its arrival; then 503. Also what the predicted wait is compared with."""
    ageing_s: float = 1.0
    """Seconds by which each step of urgency goes first. 0 = urgency does not matter; an hour = urgent ones always go
    first, and the others may starve."""


def urgency_of(field: bytes, default: int = DEFAULT_URGENCY) -> int:
    """The urgency in the value of a Priority field (RFC 9218): `u=1, i` is 1; `default` when there is no valid one."""
    urgency = default
    for member in field.split(b","):
        key, _, value = member.partition(b";")[0].strip(b" \t").partition(b"=")
        if key == b"u" and len(value) == 1 and value in b"01234567":
            urgency = int(value)  # the last of several counts (RFC 8941 3.2)
    return urgency


T = TypeVar("T")


class Ticket(Generic[T]):
    """A place in the queue."""

    __slots__ = ("deadline", "is_waiting", "owner", "rank", "since", "urgency")

    def __init__(self, owner: T, urgency: int, rank: float, deadline: float, since: float = 0.0) -> None:
        self.owner = owner
        """Who waits; the caller's own."""
        self.urgency = urgency
        self.rank = rank
        """Who goes first: the smallest. Comparable over all queues of a cluster; what workers tell each other."""
        self.deadline = deadline
        self.since = since
        """When it joined the queue."""
        self.is_waiting = True
        """Still in the queue."""

    def __repr__(self) -> str:
        return f"Ticket({self.owner!r}, rank={self.rank:g}, deadline={self.deadline:g})"


class Refusal(Enum):
    """Why a request does not wait; the value is for the log."""

    FULL = "the queue is full"
    TOO_SLOW = "it would wait longer than it may"


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer 503 at once."""

    reason: Refusal
    retry_after_s: int
    """Value of Retry-After: when what waits now is predicted to be done, ≥ 1."""


@dataclass(frozen=True, slots=True)
class Admitted(Generic[T]):
    """It waits."""

    ticket: Ticket[T]
    displaced: Ticket[T] | None = None
    """Whose place it took: that one is out of the queue, and to be answered as `Refused` with FULL."""


# Seconds after which what a request took counts e⁻¹ = 37 %: some seconds of fast requests, the last one or two of those
# that take longer.
HELD_DECAY_S = 10.0


class ServiceTimes:
    """How long permits were held by requests that ended: a mean in which newer ones count more.

    It is known until newer ones come: a service whose requests take longer than any window is not forgotten between two
    of them.
    """

    __slots__ = ("at", "count", "total_s")

    def __init__(self, count: float = 0.0, total_s: float = 0.0, at: float = 0.0) -> None:
        self.count = count
        """Requests by their weights at `at`."""
        self.total_s = total_s
        """Seconds that they took, by the same weights."""
        self.at = at
        """When the last one ended."""

    def __repr__(self) -> str:
        return f"ServiceTimes({self.count:.6g} in {self.total_s:.6g} s at {self.at:.6g})"

    def add(self, held_s: float, *, now: float) -> None:
        """A permit was held for `held_s` seconds. Time that goes backwards counts as no time.

        1 s at 0 s, then 4 s at 10 s: a mean of (1·e⁻¹ + 4) / (e⁻¹ + 1) = 3.19 s.
        """
        weight = exp(min(self.at - now, 0.0) / HELD_DECAY_S)
        self.count = self.count * weight + 1.0
        self.total_s = self.total_s * weight + held_s
        self.at = max(self.at, now)

    def mean_s(self) -> float | None:
        """Seconds; `None` when none has ended."""
        return mean_held_s((self,))


def mean_held_s(parts: Iterable[ServiceTimes]) -> float | None:
    """The mean of several workers' requests, those that ended last counting most; `None` when none has ended."""
    known = [part for part in parts if part.count > 0.0]
    if not known:
        return None
    newest = max(part.at for part in known)
    weights = [exp((part.at - newest) / HELD_DECAY_S) for part in known]
    count = sum(part.count * weight for part, weight in zip(known, weights, strict=True))
    return sum(part.total_s * weight for part, weight in zip(known, weights, strict=True)) / count


def predicted_wait_s(ahead: float, permits: int, mean_s: float | None) -> float:
    """Seconds until a request gets a permit with `ahead` others before it, all `permits` being held for `mean_s` each.

    Little's law: permits/mean_s of them come free each second, and it takes ahead + 1. With 9 ahead, 5 permits and
    0.1 s it is 0.2 s. Without permits it is infinite. A time that is unknown (`None`) counts as 0: nobody is refused on
    a guess.
    """
    if permits <= 0:
        return inf
    return (ahead + 1.0) * (mean_s or 0.0) / permits


# The prediction is a mean, and waits behind n others spread by about 1/√n around it: a tenth more covers a hundred.
# Without it one in fifty of those who were let in at three times the capacity waited in vain.
CAUTION = 1.1


# Tickets that are looked at for one that takes the endpoint which is free. Few wait with conditions (a retry that must
# not go back, a tag that is required), so one is found at once as a rule; the bound is for when all do.
MAX_LOOK = 32


class PendingQueue(Generic[T]):
    """The requests of one cluster that wait in one worker."""

    __slots__ = ("_earliest", "_late", "_levels", "_params", "_size")

    def __init__(self, params: QueueParams) -> None:
        self._params = params
        self._levels: list[OrderedDict[Ticket[T], None]] = [OrderedDict() for _ in range(URGENCIES)]
        self._late: list[Ticket[T]] = []
        self._size = 0
        self._earliest = inf
        """No deadline is earlier."""

    def __repr__(self) -> str:
        return f"PendingQueue({self._size} waiting)"

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Ticket[T]]:
        """Who waits, by urgency. The queue may not change meanwhile."""
        return chain.from_iterable(self._levels)

    def update(self, params: QueueParams) -> None:
        """Go on with other parameters; who waits keeps its place and its deadline."""
        self._params = params

    def offer(
        self,
        owner: T,
        urgency: int = DEFAULT_URGENCY,
        *,
        deadline: float = inf,
        elsewhere: int = 0,
        permits: int,
        mean_s: float | None,
        now: float,
    ) -> Admitted[T] | Refused:
        """Let a request wait, or refuse it at once.

        `deadline` is the request's own, the queue's timeout counts in any case. `elsewhere` are those who wait for the
        same cluster in other workers; `mean_s` is how long a permit is held; `permits` are those of all endpoints that
        are usable, and of those that are about to be: with none there is nothing to wait for.
        """
        params = self._params
        rank = now + urgency * params.ageing_s
        deadline = min(deadline, now + params.timeout_s)
        wait_s = predicted_wait_s(self._ahead(rank, elsewhere), permits, mean_s)
        if now + CAUTION * wait_s > deadline:
            return Refused(Refusal.TOO_SLOW, retry_after_s(wait_s))
        displaced = None
        if self._size + elsewhere >= params.max_pending:
            displaced = self._last()
            if displaced is None or displaced.rank <= rank:
                return Refused(Refusal.FULL, retry_after_s(wait_s))
            self.leave(displaced)
        ticket = Ticket(owner, urgency, rank, deadline, now)
        self._levels[urgency][ticket] = None
        self._size += 1
        self._earliest = min(self._earliest, deadline)
        return Admitted(ticket, displaced)

    def take(self, accepts: Callable[[T], bool] | None = None, *, now: float) -> Ticket[T] | None:
        """A permit is free: take out whose turn it is. `accepts` says whether an owner can use that endpoint; `None`
        as an answer means that nobody who can was found near the head. Who is past its deadline has no turn."""
        while (ticket := self._first()) is not None:
            if ticket.deadline <= now:
                self.leave(ticket)
                self._late.append(ticket)
            elif accepts is None or accepts(ticket.owner):
                self.leave(ticket)
                return ticket
            else:
                return self._look_further(accepts, now)
        return None

    def leave(self, ticket: Ticket[T]) -> None:
        """Out of the queue, because the client left or for another reason. Does nothing when it is out already."""
        if ticket.is_waiting:
            ticket.is_waiting = False
            self._size -= 1
            del self._levels[ticket.urgency][ticket]

    def expire(self, *, now: float) -> list[Ticket[T]]:
        """Take out all whose deadline has come; each is handed out once. Costs nothing before `next_at`."""
        late, self._late = self._late, []
        if now >= self._earliest:
            waiting = [ticket for level in self._levels for ticket in level]
            over = [ticket for ticket in waiting if ticket.deadline <= now]
            for ticket in over:
                self.leave(ticket)
            self._earliest = min((ticket.deadline for ticket in waiting if ticket.is_waiting), default=inf)
            late += over
        return late

    def next_at(self) -> float:
        """When `expire` is to be called; may be early, never late. `inf` when nobody waits."""
        return -inf if self._late else self._earliest

    def head_rank(self) -> float:
        """The rank of whose turn it is; `inf` when nobody waits."""
        first = self._first()
        return inf if first is None else first.rank

    def _first(self) -> Ticket[T] | None:
        heads = [next(iter(level)) for level in self._levels if level]
        return min(heads, key=_rank) if heads else None

    def _last(self) -> Ticket[T] | None:
        tails = [next(reversed(level)) for level in self._levels if level]
        return max(tails, key=_rank) if tails else None

    def _look_further(self, accepts: Callable[[T], bool], now: float) -> Ticket[T] | None:
        for ticket in islice(merge(*self._levels, key=_rank), 1, MAX_LOOK):
            if ticket.deadline > now and accepts(ticket.owner):
                self.leave(ticket)
                return ticket
        return None

    def _ahead(self, rank: float, elsewhere: int) -> float:
        """How many go before one of that rank. An estimate: who waits in one level is taken as evenly spread between
        its first and last, and the other workers' queues as composed like this one."""
        ahead = 0.0
        for level in self._levels:
            if level:
                first, last = next(iter(level)).rank, next(reversed(level)).rank
                if last <= rank:
                    ahead += len(level)
                elif first < rank:
                    ahead += len(level) * (rank - first) / (last - first)
        return ahead + elsewhere * (ahead + 1.0) / (self._size + 1.0)


def _rank(ticket: Ticket[T]) -> float:
    return ticket.rank


def retry_after_s(wait_s: float) -> int:
    """Value of Retry-After for a predicted wait, ≥ 1."""
    return max(1, ceil(wait_s)) if wait_s < inf else 1
