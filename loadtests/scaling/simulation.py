"""A day run through a fleet whose size a scaler decides, in virtual time.

An instance is a number of slots, each of which works on one request. The proxy's queue binds late: whoever came first
gets the slot that is free first, on whichever instance, so an instance that becomes ready helps those who wait
already. An instance costs from the moment it is asked for until its last request is done; while it starts it serves
nothing, and then it is as good as the others. Nobody gives up: who would have been refused after `GIVE_UP_S` is
counted.

    outcome = Simulation(day, scaler, start_s=20).run()
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from heapq import heapify, heappush, heapreplace
from typing import Protocol

from loadtests.scaling.day import DAY_S, Day

SLOTS = 4
"""Of one instance."""
STEP_S = 1
"""Seconds between two looks at the fleet."""
GIVE_UP_S = 10.0
"""Wait after which Homeport's queue answers 503, by default."""


@dataclass(frozen=True, slots=True)
class View:
    """What a scaler may know."""

    ready: int
    starting: int
    draining: int
    in_flight: int
    """Requests in slots of instances that are ready."""
    queued: int
    queue_wait_s: float
    """Of the one that waits longest."""
    arrivals_per_s: float
    """Since the last look of this scaler."""
    service_s: float
    """Mean service time of the last minute or so."""
    cpu_percent: float
    """Mean of the ready instances since the last look of this scaler: 100 = all slots at work all the time."""


class FleetScaler(Protocol):
    """Decides the size of a fleet."""

    interval_s: int
    """Seconds between two decisions."""

    def size_at_first(self) -> int:
        """Instances that are ready when the day begins."""

    def size(self, view: View, now: float) -> int:
        """Instances there should be, starting ones included."""

    def on_started(self, took_s: float) -> None:
        """An instance became ready."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A day, in figures."""

    instance_hours: float
    p99_s: float
    p50_s: float
    mean_s: float
    waited: float
    """Share of the requests that waited at all, 0 to 1."""
    given_up: int
    """Requests that waited longer than `GIVE_UP_S`."""
    most: int
    """Instances at once."""
    changes: int
    """Decisions that changed the size."""
    starts: int


class Simulation:
    """One run; see the module."""

    def __init__(self, day: Day, scaler: FleetScaler, start_s: float) -> None:
        self._day = day
        self._scaler = scaler
        self._start_s = start_s
        self._next = 0
        """The first request that has no slot yet; those behind it that arrived are the queue."""
        self._slots: list[tuple[float, int]] = []
        """When each slot of the ready instances is free, and whose it is; a heap."""
        self._starting: deque[tuple[float, int]] = deque()
        """When they are ready, in order, and who."""
        self._born: dict[int, float] = {}
        """Ready and starting instances, and when they were asked for."""
        self._draining: list[float] = []
        """When their last requests are done."""
        self._cost_s = 0.0
        self._took: list[float] = []
        self._waited = self._given_up = self._most = self._changes = self._made = 0
        self._service_s = 0.0
        self._served_to = 0

    def run(self) -> Outcome:
        """The whole day."""
        scaler, day = self._scaler, self._day
        for _ in range(scaler.size_at_first()):
            self._be_ready(self._ask_for_one(0.0), 0.0)
        looked_at, looked_next, busy, slots = 0.0, 0, 0, 0
        for now in range(STEP_S, DAY_S + 1, STEP_S):
            self._advance(now)
            in_flight = self._in_flight(now)
            busy, slots = busy + in_flight, slots + len(self._slots)
            if now % scaler.interval_s:
                continue
            arrived = bisect_left(day.arrivals_s, now)
            queued = arrived - self._next
            view = View(
                ready=len(self._slots) // SLOTS,
                starting=len(self._starting),
                draining=sum(end > now for end in self._draining),
                in_flight=in_flight,
                queued=queued,
                queue_wait_s=now - day.arrivals_s[self._next] if queued else 0.0,
                arrivals_per_s=(arrived - looked_next) / (now - looked_at),
                service_s=self._mean_service_s(),
                cpu_percent=100.0 * busy / slots if slots else 0.0,
            )
            looked_at, looked_next, busy, slots = now, arrived, 0, 0
            self._resize(scaler.size(view, float(now)), float(now))
        return self._outcome()

    def _mean_service_s(self) -> float:
        """What Homeport's averages would say: of what was served since the last look, the older the less it counts."""
        served, self._served_to = self._day.services_s[self._served_to : self._next], self._next
        if served:
            weight = min(1.0, len(served) / 1000.0) if self._service_s else 1.0
            self._service_s += weight * (sum(served) / len(served) - self._service_s)
        return self._service_s

    def _advance(self, now: float) -> None:
        while self._starting and self._starting[0][0] <= now:
            ready_at, who = self._starting.popleft()
            self._serve(ready_at)
            self._be_ready(who, ready_at)
            self._scaler.on_started(ready_at - self._born[who])
        self._serve(now)

    def _serve(self, until: float) -> None:
        """Give slots to whoever can begin before `until`."""
        arrivals, services, slots, took = self._day.arrivals_s, self._day.services_s, self._slots, self._took
        number, count = self._next, len(arrivals)
        while number < count and slots:
            arrived = arrivals[number]
            free_at, who = slots[0]
            begin = arrived if arrived >= free_at else free_at
            if begin >= until:
                break
            end = begin + services[number]
            heapreplace(slots, (end, who))
            took.append(end - arrived)
            if begin > arrived:
                self._waited += 1
                self._given_up += begin - arrived > GIVE_UP_S
            number += 1
        self._next = number

    def _in_flight(self, now: float) -> int:
        return sum([free_at > now for free_at, _ in self._slots])

    def _ask_for_one(self, now: float) -> int:
        self._made += 1
        self._born[self._made] = now
        return self._made

    def _be_ready(self, who: int, now: float) -> None:
        for _ in range(SLOTS):
            heappush(self._slots, (now, who))

    def _resize(self, size: int, now: float) -> None:
        self._changes += size != len(self._born)
        while len(self._born) < size:
            self._starting.append((now + self._start_s, self._ask_for_one(now)))
        while len(self._born) > size:
            if self._starting:
                _, who = self._starting.pop()
                self._cost_s += now - self._born.pop(who)
            else:
                self._retire(now)
        self._most = max(self._most, len(self._born))

    def _retire(self, now: float) -> None:
        """The one that is done first."""
        last: dict[int, float] = {}
        for free_at, who in self._slots:
            last[who] = max(last.get(who, now), free_at)
        who = min(last, key=last.__getitem__)
        self._slots[:] = [slot for slot in self._slots if slot[1] != who]
        heapify(self._slots)
        self._draining = [end for end in self._draining if end > now] + [last[who]]
        self._cost_s += last[who] - self._born.pop(who)

    def _outcome(self) -> Outcome:
        self._cost_s += sum(DAY_S - born for born in self._born.values())
        took = sorted(self._took)
        return Outcome(
            instance_hours=self._cost_s / 3600.0,
            p99_s=took[int(0.99 * len(took))],
            p50_s=took[len(took) // 2],
            mean_s=sum(took) / len(took),
            waited=self._waited / len(took),
            given_up=self._given_up,
            most=self._most,
            changes=self._changes,
            starts=self._made,
        )
