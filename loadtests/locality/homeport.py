"""Homeport's own policy in the simulation: the one that workers run, with one worker's knowledge."""

from collections.abc import Callable
from dataclasses import dataclass, field

from loadtests.locality.simulation import Reply, World
from loadtests.locality.trace import Request
from proxy.model import RequestFacts
from proxy.policy.hashring import HashRing, ring_points
from proxy.policy.locality import Locality, LocalityParams
from proxy.policy.site import Placement, Site

NOTHING = LocalityParams()
REFRESH_S = 0.005
"""Between two looks at the loads; a worker's."""


@dataclass(eq=False)
class _Member:
    """An endpoint as a worker knows it."""

    number: int
    in_flight: int = 0
    site: Site = field(default_factory=Site)


class Homeport:
    """`data_locality_aware`, told nothing but the data key; with `params`, what they say; silent services do not say
    whether they held the data."""

    def __init__(self, world: World, params: LocalityParams = NOTHING, *, silent: bool = False) -> None:
        self._silent = silent
        self._members = [_Member(number) for number in range(world.trace.scenario.endpoints)]
        self.locality: Locality[_Member] = Locality(params, world.rng)
        self._params = params
        for member in self._members:
            member.site.update(
                slots=params.slots,
                cache_bytes=params.cache_bytes,
                bandwidth_bytes_per_s=params.bandwidth_bytes_per_s,
            )
        self._usable: tuple[_Member, ...] = ()
        self._open: dict[int, tuple[_Member, Placement]] = {}
        self._refresh_at = 0.0

    def on_fleet(self, endpoints: tuple[int, ...], *, now: float) -> None:
        self._usable = tuple(self._members[number] for number in endpoints)
        ring = HashRing(ring_points(tuple(str(one.number) for one in self._usable)), [1] * len(self._usable))
        self.locality.update(self._params, self._usable, ring)

    def choose(self, request: Request, *, now: float) -> int:
        locality = self.locality
        if now >= self._refresh_at:
            locality.refresh(self._usable)
            self._refresh_at = now + REFRESH_S
        facts = self.facts(request)
        member = locality.choose(self._usable, facts, now=now)
        assert member is not None
        self._open[request.number] = member, locality.place(member, facts, now=now)
        member.in_flight += 1
        return member.number

    def facts(self, request: Request) -> RequestFacts:
        """What it says of itself."""
        return RequestFacts(data_keys=(request.dataset.name.encode(),))

    def on_done(self, request: Request, endpoint: int, reply: Reply, *, now: float) -> None:
        member, placement = self._open.pop(request.number)
        member.in_flight -= 1
        if not reply.is_failed:
            self.locality.on_answer(placement, reply.took_s, None if self._silent else reply.is_hit, now=now)
        self.locality.on_end(placement, reply.is_failed, now=now)


def homeport(params: LocalityParams = NOTHING, *, silent: bool = False) -> Callable[[World], Homeport]:
    """A maker of the policy, for `simulate`."""
    return lambda world: Homeport(world, params, silent=silent)
