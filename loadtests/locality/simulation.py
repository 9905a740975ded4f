"""A trace run through a policy in virtual time: no sockets, no proxies, a second for what takes a minute.

    samples = simulate(trace, LeastConnections)
    figures(trace, samples).p99_s

A policy is made for each run from the `World` and then asked and told; `now` is in seconds from the start of the trace:

    choose(request, now=…) -> endpoint    where to send it. Called once for each request, and once more for each request
                                          that is lost because its endpoint dies
    on_done(request, endpoint, reply, now=…)   how that ended: exactly once for each `choose`
    on_fleet(endpoints, now=…)            the endpoints that can be chosen from now on, also before the first request

What a proxy cannot know is in `World.endpoints`, for policies that know everything and for nobody else. All delays of
the network are zero, and a death is known at once.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Protocol

from loadtests.locality.figures import Sample
from loadtests.locality.physics import Endpoint, Visit, fleet
from loadtests.locality.trace import SPECIAL, Request, Trace


@dataclass(frozen=True, slots=True)
class Reply:
    """How a request ended at an endpoint."""

    took_s: float
    """Since it was sent there."""
    is_hit: bool
    """What `X-Data-Cache` says; False when it failed."""
    is_failed: bool


@dataclass(frozen=True, slots=True)
class World:
    """What a policy is made from."""

    trace: Trace
    endpoints: list[Endpoint]
    """The endpoints themselves, by number."""
    rng: Random
    """For policies with chance."""


class Policy(Protocol):
    """What is simulated; see the module."""

    def choose(self, request: Request, *, now: float) -> int:
        """The endpoint for it."""

    def on_done(self, request: Request, endpoint: int, reply: Reply, *, now: float) -> None:
        """It ended."""

    def on_fleet(self, endpoints: tuple[int, ...], *, now: float) -> None:
        """These are there now."""


def simulate(trace: Trace, make: Callable[[World], Policy]) -> list[Sample]:
    """Every request of `trace` to its end; in the order in which they end."""
    return _Run(trace, make).run()


class _Run:
    def __init__(self, trace: Trace, make: Callable[[World], Policy]) -> None:
        self._trace = trace
        self._endpoints = fleet(trace.scenario)
        self._policy = make(World(trace, self._endpoints, Random(trace.seed)))
        self._pending: dict[int, dict[int, tuple[Request, float, Visit]]] = {
            number: {} for number in range(trace.scenario.endpoints)
        }
        """By endpoint and request, with the time at which it was sent there."""
        self._ends: list[tuple[float, int, int, Request]] = []
        """A heap: time, a number against ties, endpoint, request."""
        self._numbers = count()
        self._samples: list[Sample] = []

    def run(self) -> list[Sample]:
        self._policy.on_fleet(self._trace.scenario.first_fleet(), now=0.0)
        has_changed = False
        for request in self._trace.requests():
            if not has_changed and request.due >= self._trace.change_at:
                self._end_until(self._trace.change_at)
                self._change(self._trace.change_at)
                has_changed = True
            self._end_until(request.due)
            self._send(request, request.due)
        self._end_until(float("inf"))
        return self._samples

    def _send(self, request: Request, now: float) -> None:
        endpoint = self._policy.choose(request, now=now)
        visit = self._endpoints[endpoint].admit(request.dataset, now=now)
        self._pending[endpoint][request.number] = request, now, visit
        heapq.heappush(self._ends, (visit.end, next(self._numbers), endpoint, request))

    def _end_until(self, limit: float) -> None:
        while self._ends and self._ends[0][0] <= limit:
            now, _, endpoint, request = heapq.heappop(self._ends)
            if (pending := self._pending[endpoint].pop(request.number, None)) is None:
                continue  # it died there
            _, sent_at, visit = pending
            self._samples.append(Sample(request.due, now - request.due, visit.is_hit))
            self._policy.on_done(
                request, endpoint, Reply(now - sent_at, visit.is_hit, is_failed=False), now=now
            )

    def _change(self, now: float) -> None:
        scenario = self._trace.scenario
        if scenario.first_fleet() == scenario.last_fleet():
            return
        self._policy.on_fleet(scenario.last_fleet(), now=now)
        if SPECIAL in scenario.last_fleet():
            return
        lost, self._pending[SPECIAL] = self._pending[SPECIAL], {}
        for request, sent_at, _ in lost.values():
            self._policy.on_done(request, SPECIAL, Reply(now - sent_at, False, is_failed=True), now=now)
        for request, _, _ in lost.values():
            self._send(request, now)
