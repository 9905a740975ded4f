"""Which endpoint a request goes to, among those that may have it.

Three parts compose. Membership is the caller's: it passes the candidates that are usable and below their
limits, as one list per pick. A *load measure* says how loaded a candidate is. A *picker* says how to choose.
A new measure does not touch a picker, and a new picker is one more class and one more line in `_MAKERS`.

Pickers are generic over the candidate, so a caller gets its own type back, and assume nothing of the list: it
may change from pick to pick.
"""

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from proxy.model import RequestFacts


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


def _least_connections(rng: Random) -> Picker[Any]:
    # As nginx's least_conn: equals take turns by weight, so weights hold at low load too.
    return LeastLoaded(connections_per_weight, ties=SmoothWeightedRoundRobin())


_MAKERS: dict[str, Callable[[Random], Picker[Any]]] = {
    "round_robin": lambda rng: RoundRobin(),
    "weighted_round_robin": lambda rng: SmoothWeightedRoundRobin(),
    "least_connections": _least_connections,
    "random": RandomPick,
}

BALANCERS: tuple[str, ...] = tuple(_MAKERS)
"""The names that `make_picker` knows, as the configuration has them."""


def make_picker(name: str, rng: Random) -> Picker[C]:
    """A new picker of the kind `name`. Raises `ValueError` for a name that is not in `BALANCERS`."""
    try:
        maker = _MAKERS[name]
    except KeyError:
        raise ValueError(f"balancer {name!r} is unknown, expected one of {', '.join(BALANCERS)}") from None
    return maker(rng)
