"""Policies to compare with in the simulation: what the other proxies do, and some that know everything.

RoundRobin        each in turn
LeastConnections  fewest requests in flight
BoundedHash       the owner on a hash ring unless it has more than its share
Greedy            knows every cache, line and service time: the earliest end for this request
Foresight         the same, and what the choice costs those that come after, from the whole trace
"""

import math
from bisect import bisect
from hashlib import blake2b
from random import Random

from loadtests.locality.physics import Endpoint
from loadtests.locality.simulation import Reply, World
from loadtests.locality.trace import Dataset, Request

RING_POINTS = 100
"""On the ring for each endpoint. The shares then differ by about a tenth."""
EXCESS_PERCENT = 125
"""Of the mean requests in flight that an endpoint may have; what the proxies are configured with."""


class RoundRobin:
    """Each in turn."""

    def __init__(self, world: World) -> None:
        self._fleet: tuple[int, ...] = ()
        self._next = 0

    def on_fleet(self, endpoints: tuple[int, ...], *, now: float) -> None:
        self._fleet = endpoints

    def choose(self, request: Request, *, now: float) -> int:
        self._next += 1
        return self._fleet[self._next % len(self._fleet)]

    def on_done(self, request: Request, endpoint: int, reply: Reply, *, now: float) -> None:
        pass


class LeastConnections:
    """Fewest requests in flight; chance decides between equals."""

    def __init__(self, world: World) -> None:
        self._rng = world.rng
        self._in_flight = [0] * world.trace.scenario.endpoints
        self._fleet: tuple[int, ...] = ()

    def on_fleet(self, endpoints: tuple[int, ...], *, now: float) -> None:
        self._fleet = endpoints

    def choose(self, request: Request, *, now: float) -> int:
        chosen = min(self._fleet, key=lambda endpoint: (self._in_flight[endpoint], self._rng.random()))
        self._in_flight[chosen] += 1
        return chosen

    def on_done(self, request: Request, endpoint: int, reply: Reply, *, now: float) -> None:
        self._in_flight[endpoint] -= 1


class BoundedHash:
    """Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, arXiv 1608.01350) as HAProxy does it
    (`chash_server_is_eligible`): 125 % of all requests in flight, this one included and rounded up, are dealt out as
    places in whole numbers, the remainder to the last endpoints, at least one to each; the first endpoint on the ring
    that has a place is it."""

    def __init__(self, world: World) -> None:
        self._in_flight = [0] * world.trace.scenario.endpoints
        self._fleet: tuple[int, ...] = ()
        self._ring: list[tuple[int, int]] = []
        self._orders: dict[str, tuple[int, ...]] = {}

    def on_fleet(self, endpoints: tuple[int, ...], *, now: float) -> None:
        self._fleet = endpoints
        self._ring = sorted((_hash(f"{e} {point}"), e) for e in endpoints for point in range(RING_POINTS))
        self._orders = {}

    def choose(self, request: Request, *, now: float) -> int:
        places = -(-(sum(self._in_flight) + 1) * EXCESS_PERCENT // 100)
        if (order := self._orders.get(request.dataset.name)) is None:
            order = self._orders[request.dataset.name] = self._order(request.dataset.name)
        chosen = self._first_with_place(order, places)
        self._in_flight[chosen] += 1
        return chosen

    def on_done(self, request: Request, endpoint: int, reply: Reply, *, now: float) -> None:
        self._in_flight[endpoint] -= 1

    def _order(self, key: str) -> tuple[int, ...]:
        """The endpoints as the ring has them from the key on."""
        first = bisect(self._ring, (_hash(key), -1))
        around = self._ring[first:] + self._ring[:first]
        return tuple(dict.fromkeys(endpoint for _, endpoint in around))

    def _first_with_place(self, order: tuple[int, ...], places: int) -> int:
        each, left = divmod(places, len(self._fleet))
        with_extra = self._fleet[len(self._fleet) - left :]
        for endpoint in order:
            if self._in_flight[endpoint] < max(1, each + (endpoint in with_extra)):
                return endpoint
        return order[0]


class JumpingHash(BoundedHash):
    """The same as Envoy does it (`BoundedLoadHashingLoadBalancer`): an equal share of the places, rounded up, may be
    taken before the next one; then the key decides on an order at random (arXiv 1908.08762), so that what overflows is
    spread; when all are full, the one that is least over its share."""

    def _order(self, key: str) -> tuple[int, ...]:
        owner, *others = super()._order(key)
        Random(key).shuffle(others)
        return owner, *others

    def _first_with_place(self, order: tuple[int, ...], places: int) -> int:
        share = max(1, -(-places // len(self._fleet)))
        for endpoint in order:
            if self._in_flight[endpoint] <= share:
                return endpoint
        return min(order, key=lambda endpoint: self._in_flight[endpoint])


class Greedy:
    """The earliest end for this request, known exactly. Selfish: a fetch that wins a millisecond now costs the
    endpoint a slot and its cache a place."""

    def __init__(self, world: World) -> None:
        self._endpoints = world.endpoints
        self._fleet: tuple[int, ...] = ()

    def on_fleet(self, endpoints: tuple[int, ...], *, now: float) -> None:
        self._fleet = endpoints

    def choose(self, request: Request, *, now: float) -> int:
        return min(
            self._fleet,
            key=lambda endpoint: self._endpoints[endpoint].foresee(request.dataset, now=now).end,
        )

    def on_done(self, request: Request, endpoint: int, reply: Reply, *, now: float) -> None:
        pass


class Foresight(Greedy):
    """The earliest end, where a fetch costs those that come after `burden` times its length, and each of the data that
    it drives out of their last cache costs another fetch, the less the later it is asked for again."""

    horizon_s = 5.0
    """Data that are asked for again after this time count half. With 20 s the p99 in `shift` was 0.07 s longer."""

    def __init__(self, world: World, burden: float = 0.3) -> None:
        """`burden`: how long all others together wait for each second that a slot is taken, which grows with the load.
        0 = `Greedy`; between 0.1 and 1 it changed the p99 in `shift` and `flat` by less than a fifth."""
        super().__init__(world)
        self._burden = burden
        self._later: dict[str, list[float]] = {}
        for request in world.trace.requests():
            self._later.setdefault(request.dataset.name, []).append(request.due)

    def choose(self, request: Request, *, now: float) -> int:
        return min(self._fleet, key=lambda number: self._score(self._endpoints[number], request.dataset, now))

    def _score(self, endpoint: Endpoint, wanted: Dataset, now: float) -> float:
        visit = endpoint.foresee(wanted, now=now)
        if visit.is_hit:
            return visit.end
        driven_out = sum(self._loss(endpoint, gone, now) for gone in endpoint.victims(wanted))
        return visit.end + self._burden * (endpoint.fetch_s(wanted) + driven_out)

    def _loss(self, endpoint: Endpoint, gone: Dataset, now: float) -> float:
        """Seconds that somebody will fetch `gone` again."""
        if sum(self._endpoints[number].holds(gone) for number in self._fleet) > 1:
            return 0.0
        later = self._later[gone.name]
        following = bisect(later, now)
        if following == len(later):
            return 0.0
        return endpoint.fetch_s(gone) * math.exp2((now - later[following]) / self.horizon_s)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
