"""What a decision by data locality costs: CPU time of the policy alone, in this process.

Keys are asked for by Zipf 1.0, endpoints learn from each answer, and up to two requests an endpoint are under way.
Every batch of choices is timed, with the look at loads before it, and every batch of answers; means, so that what is
done now and then counts too. Measured (Python 3.11, a busy machine with two cores, one key): with 10 endpoints 4 to 5
µs for the choice and as much for the answer, with 100 endpoints 7 and 5 to 6.
"""

from bisect import bisect
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from statistics import fmean
from time import thread_time_ns

from proxy.model import RequestFacts
from proxy.policy.hashring import HashRing, ring_points
from proxy.policy.learning import LEARN_S
from proxy.policy.locality import Locality, LocalityParams
from proxy.policy.site import Placement, Site

KEYS = 400
IN_FLIGHT = 2
"""At each endpoint, at the end of a batch."""
WARM_UP = 4000
"""Decisions before those that count."""
SERVICE_S = 0.02
TRANSFER_S = 0.2


@dataclass(eq=False, slots=True)
class _Member:
    """An endpoint as a worker knows it."""

    in_flight: int = 0
    site: Site = field(default_factory=Site)


@dataclass(frozen=True, slots=True)
class Decision:
    """CPU time of one request, in microseconds."""

    endpoints: int
    choice_us: float
    """`choose` and `place`."""
    answer_us: float
    """`on_answer` and `on_end`."""


def measure(endpoints: int, decisions: int, *, with_tag: bool = False, seed: int = 1) -> Decision:
    """The costs with so many endpoints, of at least so many decisions; `with_tag` = requests require a tag that every
    other endpoint has, and others one that the rest has."""
    rng = Random(seed)
    members = tuple(_Member() for _ in range(endpoints))
    ring = HashRing(ring_points(tuple(map(str, range(endpoints)))), [1] * endpoints)
    locality: Locality[_Member] = Locality(LocalityParams(), rng)
    locality.update(locality.params, members, ring)
    shares = list(accumulate(1.0 / (rank + 1) for rank in range(KEYS)))
    tags = [frozenset({tag}) if with_tag else frozenset() for tag in ("a", "b")]
    for number, member in enumerate(members):
        member.site.tags = tags[number % 2]
    facts = [RequestFacts(data_keys=(b"set-%d" % key,), require=tags[key % 2]) for key in range(KEYS)]
    choices: list[float] = []
    answers: list[float] = []
    batch = IN_FLIGHT * endpoints
    now = 0.0
    for number in range(-(-WARM_UP // batch) + -(-decisions // batch)):
        asked = [facts[bisect(shares, rng.random() * shares[-1])] for _ in range(batch)]
        now += SERVICE_S + TRANSFER_S
        begun = thread_time_ns()
        locality.refresh(members)
        placed = [_decide(locality, members, each, now) for each in asked]
        decided = thread_time_ns()
        for member, placement in placed:
            now += LEARN_S  # late enough to be learned from
            _answer(locality, member, placement, now)
        if number * batch >= WARM_UP:
            choices.append((decided - begun) / batch / 1000)
            answers.append((thread_time_ns() - decided) / batch / 1000)
    return Decision(endpoints, fmean(choices), fmean(answers))


def _decide(
    locality: Locality[_Member], members: tuple[_Member, ...], facts: RequestFacts, now: float
) -> tuple[_Member, Placement]:
    member = locality.choose(members, facts, now=now)
    assert member is not None
    placement = locality.place(member, facts, now=now)
    member.in_flight += 1
    return member, placement


def _answer(locality: Locality[_Member], member: _Member, placement: Placement, now: float) -> None:
    member.in_flight -= 1
    took_s = SERVICE_S + TRANSFER_S * bool(placement.missing)
    locality.on_answer(placement, took_s, not placement.missing, now=now + took_s)
    locality.on_end(placement, False, now=now + took_s)
