"""An endpoint that holds data: slots, a line in front of them, and a cache. Pure; the stand-in service and the
simulation both run on it, so that they are the same by construction.

Requests are worked on in the order in which they come, `slots` at a time. One whose data are not in the cache fetches
them first, in its slot, and the least recently used data leave the cache when there is no room. One that starts while
its data are still on their way waits for the rest and counts as a hit, since nothing more is moved.

First come, first served makes the future of a request certain the moment it arrives: it starts when the earliest slot
is free, and finds the cache as those before it have left it. So `admit` tells at once when it ends; no event is needed.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass

from loadtests.locality.trace import Dataset, Scenario


@dataclass(frozen=True, slots=True)
class Visit:
    """A request at an endpoint; times are on the clock of `now`."""

    start: float
    """When it got a slot."""
    end: float
    """When its answer was ready."""
    is_hit: bool


class Endpoint:
    """One endpoint. `slowness` multiplies every fetch and every service time."""

    __slots__ = ("_free_at", "_held", "_used_bytes", "_cache_bytes", "_bandwidth", "_slowness")

    def __init__(self, scenario: Scenario, slowness: float = 1.0) -> None:
        self._free_at = [0.0] * scenario.slots  # a heap
        self._held: OrderedDict[Dataset, float] = OrderedDict()  # with the time at which it is all there
        self._used_bytes = 0
        self._cache_bytes = scenario.cache_bytes
        self._bandwidth = scenario.bandwidth_bytes_per_s
        self._slowness = slowness

    def holds(self, wanted: Dataset) -> bool:
        """Whether a request that comes now will find its data in the cache."""
        return wanted in self._held

    def foresee(self, wanted: Dataset, *, now: float) -> Visit:
        """What `admit` would say; changes nothing."""
        start = max(now, self._free_at[0])
        there_at = self._held.get(wanted)
        ready = start + self.fetch_s(wanted) if there_at is None else max(start, there_at)
        return Visit(start, ready + wanted.service_s * self._slowness, there_at is not None)

    def admit(self, wanted: Dataset, *, now: float) -> Visit:
        """Takes a request. `now` never goes back."""
        visit = self.foresee(wanted, now=now)
        heapq.heapreplace(self._free_at, visit.end)
        if visit.is_hit:
            self._held.move_to_end(wanted)
            return visit
        for gone in self.victims(wanted):
            del self._held[gone]
            self._used_bytes -= gone.size_bytes
        if wanted.size_bytes <= self._cache_bytes:
            self._held[wanted] = visit.start + self.fetch_s(wanted)
            self._used_bytes += wanted.size_bytes
        return visit

    def victims(self, wanted: Dataset) -> list[Dataset]:
        """What leaves the cache when `wanted`, which is not in it, gets in. Nothing when it is larger than the whole
        cache: it passes through."""
        excess = self._used_bytes + wanted.size_bytes - self._cache_bytes
        gone: list[Dataset] = []
        if wanted.size_bytes > self._cache_bytes:
            return gone
        for held in self._held:
            if excess <= 0:
                break
            gone.append(held)
            excess -= held.size_bytes
        return gone

    def fetch_s(self, wanted: Dataset) -> float:
        """Seconds that a miss takes longer than a hit."""
        return wanted.size_bytes / self._bandwidth * self._slowness


def fleet(scenario: Scenario) -> list[Endpoint]:
    """All endpoints, those that join later too."""
    return [Endpoint(scenario, scenario.slowness_of(number)) for number in range(scenario.endpoints)]
