"""Which endpoint a request goes to, among those that may have it.

Three parts compose. Membership is the caller's: it passes the candidates that are usable and below their
limits, as one list per pick. A *load measure* says how loaded a candidate is. A *picker* says how to choose.
A new measure does not touch a picker, and a new picker is one more class; `balancer` puts them together.

Pickers are generic over the candidate, so a caller gets its own type back, and assume nothing of the list: it
may change from pick to pick.
"""

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import inf
from random import Random
from typing import Generic, Protocol, TypeVar

from proxy.model import RequestFacts
from proxy.policy.hashring import HashRing, key_point


class Candidate(Protocol):
    """What pickers look at."""

    @property
    def id(self) -> str:
        """Stable from pick to pick."""
        ...

    @property
    def weight(self) -> int:
        """Share of traffic relative to the others, ≥ 1."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests that the candidate works on now, ≥ 0."""
        ...


class TimedCandidate(Candidate, Protocol):
    """What `response_time_per_weight` looks at besides."""

    @property
    def response_s(self) -> float:
        """Expected seconds until it answers a request, > 0."""
        ...


C = TypeVar("C", bound=Candidate)

Load = Callable[[C, RequestFacts], float]
"""How loaded a candidate is for a request: less is better, in the same unit for all."""


class Picker(Protocol[C]):
    """A way to choose."""

    def pick(self, candidates: Sequence[C], facts: RequestFacts) -> C | None:
        """One of `candidates`, `None` when there are none. Changes the picker's state, never the
        candidates."""
        ...


def connections_per_weight(candidate: Candidate, facts: RequestFacts) -> float:
    """Load as requests in flight per unit of weight."""
    return candidate.in_flight / candidate.weight


def response_time_per_weight(candidate: TimedCandidate, facts: RequestFacts) -> float:
    """Load as the time until a further request is answered, per unit of weight: 0.2 s each with 3 in flight and
    weight 2 is 0.2 · (3 + 1) / 2 = 0.4 s. Source: Finagle's `PeakEwma.scala`, "cost"."""
    return candidate.response_s * (candidate.in_flight + 1) / candidate.weight


class RoundRobin(Generic[C]):
    """One after the other, whatever their weights."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def pick(self, candidates: Sequence[C], facts: RequestFacts) -> C | None:
        # The position goes on from where it wrapped. A counter taken modulo the length would fall into step
        # with lists that change: two endpoints, the first failing and each retry a pick among the rest, and
        # it would start with the failing one every time.
        index = self._next
        if index >= len(candidates):
            if not candidates:
                return None
            index = 0
        self._next = index + 1
        return candidates[index]


# Ids beyond twice the candidates that `SmoothWeightedRoundRobin` remembers. A candidate that is at its limit
# for a moment must keep its place, so absence alone is no reason to forget; the bound keeps replaced
# endpoints from piling up.
FORGET_SLACK = 64


class SmoothWeightedRoundRobin(Generic[C]):
    """Shares by weight, interleaved: weights 5, 1, 1 give `a a b a c a a`, not `a a a a a b c`.

    Source: nginx 1.3.1, "Upstream: smooth weighted round-robin balancing"
    (`ngx_http_upstream_round_robin.c`). Each pick adds its weight to everybody's current weight, takes the
    greatest (the first of equals), and takes the sum of all weights from the winner. For 5, 1, 1 the current
    weights after each pick are (-2 1 1) (-4 2 2) (1 -4 3) (-1 -3 4) (4 -2 -3) (2 -1 -2) (0 0 0). Over a cycle
    of the sum of the weights everybody gets exactly its weight.
    """

    __slots__ = ("_current",)

    def __init__(self) -> None:
        self._current: dict[str, int] = {}

    def pick(self, candidates: Sequence[C], facts: RequestFacts) -> C | None:
        current = self._current
        best: C | None = None
        best_weight = total = 0
        for candidate in candidates:
            weight = candidate.weight
            total += weight
            weight += current.get(candidate.id, 0)
            current[candidate.id] = weight
            if best is None or weight > best_weight:
                best = candidate
                best_weight = weight
        if best is not None:
            current[best.id] = best_weight - total
            if len(current) > 2 * len(candidates) + FORGET_SLACK:
                self._current = {candidate.id: current[candidate.id] for candidate in candidates}
        return best


class LeastLoaded(Generic[C]):
    """The least loaded; `ties` chooses among equals, or an idle cluster would use its first alone."""

    __slots__ = ("_load", "_ties")

    def __init__(self, load: Load[C], ties: Picker[C]) -> None:
        self._load = load
        self._ties = ties

    def pick(self, candidates: Sequence[C], facts: RequestFacts) -> C | None:
        loads = [self._load(candidate, facts) for candidate in candidates]
        if not loads:
            return None
        least = min(loads)
        tied = loads.count(least)
        if tied == 1:
            return candidates[loads.index(least)]
        if tied < len(loads):
            candidates = [c for c, load in zip(candidates, loads, strict=True) if load == least]
        return self._ties.pick(candidates, facts)


class RandomPick(Generic[C]):
    """Any candidate, with odds by weight."""

    __slots__ = ("_rng",)

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[C], facts: RequestFacts) -> C | None:
        if not candidates:
            return None
        bounds = list(accumulate([candidate.weight for candidate in candidates]))
        return candidates[bisect(bounds, self._rng.random() * bounds[-1], 0, len(bounds) - 1)]


class PowerOfTwo(Generic[C]):
    """The less loaded of two that are drawn at random; of equals either, with odds by weight.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001). Nearly as even as the least
    loaded of all, at the same cost for any number of candidates; and several processes that look at the same picture,
    a few milliseconds old, do not all take the same candidate.
    """

    __slots__ = ("_load", "_rng")

    def __init__(self, load: Load[C], rng: Random) -> None:
        self._load = load
        self._rng = rng

    def pick(self, candidates: Sequence[C], facts: RequestFacts) -> C | None:
        count = len(candidates)
        if count < 2:
            return candidates[0] if count else None
        draw = self._rng.random
        # Without a loop that draws until the two differ (Finagle's `P2CPick.scala`): the second is drawn from the
        # others, who close up where the first was taken out.
        first = int(draw() * count)
        second = int(draw() * (count - 1))
        if second >= first:
            second += 1
        one, other = candidates[first], candidates[second]
        load, other_load = self._load(one, facts), self._load(other, facts)
        if load == other_load:
            total = one.weight + other.weight
            return one if draw() * total < one.weight else other
        return one if load < other_load else other


# Members up to which every pick of `ConsistentHash` adds up all loads, 1 to 2 µs.
EXACT_MEMBERS = 64


class ConsistentHash(Generic[C]):
    """The owner of the request's key; when it has more than its share to do, the next on the ring that has not.

    Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (arXiv 1608.01350): with m
    requests in flight, this one counted, and a bound of (1 + ε), a member of weight w of a total W takes it while it
    has less than (1 + ε)·m·w/W. Somebody always has. With ε = 0.25, three members of equal weight and 5, 2 and 1 in
    flight, m = 9 and the bound is 3.75: the first takes no more, the second takes two.

    The ring is that of the full membership, so that a member's absence moves its own keys alone; those who are not
    among the candidates are passed over, and the bound is that of the candidates. A request without a key goes where
    `fallback` says, and so does one whose first `hashring.MAX_STEPS` owners cannot take it.

    Of candidates that are the same tuple as last time, as a caller passes while nothing changes, what was worked out is
    kept: who they are, and their weight.
    """

    __slots__ = (
        "_bound", "_candidates", "_fallback", "_members", "_present", "_recount_in", "_ring", "_total", "_weight",
    )  # fmt: skip

    def __init__(
        self, members: Sequence[C], ring: HashRing, *, bound: float | None, fallback: Picker[C]
    ) -> None:
        """`members` are those that `ring` was made from, in that order; `bound` is 1 + ε, `None` = none."""
        self._members = members
        self._ring = ring
        self._bound = bound
        self._fallback = fallback
        self._candidates: Sequence[C] = ()
        self._present: frozenset[str] | None = None
        """Ids of the candidates; `None` = all members."""
        self._weight = 0
        self._total = 0
        self._recount_in = 0

    def pick(self, candidates: Sequence[C], facts: RequestFacts) -> C | None:
        key = facts.hash_key
        if key is None or not candidates:
            return self._fallback.pick(candidates, facts)
        members = self._members
        if candidates is not self._candidates or not isinstance(candidates, tuple):
            self._meet(candidates)
        present = self._present
        share = self._share(candidates)
        for position in self._ring.owners(key_point(key)):
            member = members[position]
            if (present is None or member.id in present) and member.in_flight < share * member.weight:
                return member
        return self._fallback.pick(candidates, facts)

    def _meet(self, candidates: Sequence[C]) -> None:
        """Work out what is needed of candidates that are others than last time."""
        self._candidates = candidates
        # Candidates are members, so as many are all of them.
        is_all = len(candidates) == len(self._members)
        self._present = None if is_all else frozenset([candidate.id for candidate in candidates])
        self._weight = sum([candidate.weight for candidate in candidates])
        self._recount_in = 0

    def _share(self, candidates: Sequence[C]) -> float:
        """Requests in flight per unit of weight, at which a member takes no more."""
        if self._bound is None:
            return inf
        if self._recount_in > 0:
            # Of many members the sum is too dear for every pick. Between two recounts it only grows, by what is
            # picked: by a 64th of the number of members at most, whom that makes a little too welcome.
            self._recount_in -= 1
            self._total += 1
        else:
            self._recount_in = len(candidates) // EXACT_MEMBERS
            self._total = sum([candidate.in_flight for candidate in candidates])
        return self._bound * (self._total + 1) / self._weight
