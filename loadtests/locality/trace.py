"""The work of a scenario, fixed in advance: who asks for what and when, how large it is, how long it takes.

The same scenario, seed and rate give the same trace in every process, so every proxy and every policy of the
simulation meets the same requests at the same times. Each kind of chance (sizes, arrivals, keys, popularity) has a
generator of its own: another rate changes how close together the requests are, not which they are.

Time 0 is the beginning of the warm-up, in which caches fill and proxies learn; samples count from `Trace.counted_from`.
What a scenario does half way it does in the middle of the time that counts.
"""

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import accumulate
from random import Random

SPECIAL = 3
"""The endpoint that is slow, dies or joins. Any would do."""


class Change(Enum):
    """What happens to endpoint `SPECIAL` half way."""

    NONE = auto()
    DIES = auto()
    JOINS = auto()


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the requests and the endpoints are like. The defaults keep about three quarters of the data in one of the
    caches: large enough for locality to pay, too small for everything."""

    name: str
    title: str
    rate: float = 300.0
    """Requests/s that the best of the other proxies bears, as `calibration` finds it."""
    zipf: float = 1.0
    """Exponent of popularity: the key of rank r is asked for in proportion to r^-zipf. 0 = all alike."""
    shifts: bool = False
    """Half way the ranks are dealt anew."""
    slowness: float = 1.0
    """How many times longer endpoint `SPECIAL` takes for everything."""
    change: Change = Change.NONE
    keys: int = 400
    endpoints: int = 8
    slots: int = 4
    """Requests that an endpoint works on at once; the others wait in line."""
    cache_bytes: int = 2_000_000_000
    """Of each endpoint."""
    bandwidth_bytes_per_s: float = 200e6
    """At which one request fetches data that the endpoint does not hold; others do not slow it down."""

    def first_fleet(self) -> tuple[int, ...]:
        """The endpoints that are there at the start."""
        return tuple(e for e in range(self.endpoints) if self.change is not Change.JOINS or e != SPECIAL)

    def last_fleet(self) -> tuple[int, ...]:
        """The endpoints that are there at the end."""
        return tuple(e for e in range(self.endpoints) if self.change is not Change.DIES or e != SPECIAL)

    def slowness_of(self, endpoint: int) -> float:
        """How many times longer than the others it takes."""
        return self.slowness if endpoint == SPECIAL else 1.0


SCENARIOS = (
    Scenario("shift", "Zipf 1.0, shifts half way", rate=388, shifts=True),
    Scenario("shift-1.1", "Zipf 1.1, shifts half way", rate=440, zipf=1.1, shifts=True),
    Scenario("flat", "flat popularity", rate=183, zipf=0.0),
    Scenario("slow", "one endpoint 3 × slower", rate=342, shifts=True, slowness=3.0),
    Scenario("dies", "one endpoint dies half way", rate=327, change=Change.DIES),
    Scenario("joins", "one endpoint joins half way", rate=327, change=Change.JOINS),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a data key stands for."""

    name: str
    """The key on the wire. Differs from seed to seed, so that hashing deals them out differently."""
    size_bytes: int
    service_s: float
    """Seconds of work on it once the data are there."""


def datasets(scenario: Scenario, seed: int) -> tuple[Dataset, ...]:
    """By key number. Sizes are lognormal with a median of 40 MB, service times uniform from 10 to 40 ms."""
    sizes, services = _chance(seed, "sizes"), _chance(seed, "services")
    return tuple(
        Dataset(f"set-{seed}-{key}", round(sizes.lognormvariate(17.5, 0.8)), services.uniform(0.010, 0.040))
        for key in range(scenario.keys)
    )


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    number: int
    """From 0, in order of arrival."""
    due: float
    """When it is sent, in seconds from the start of the trace."""
    key: int
    dataset: Dataset


@dataclass(frozen=True, slots=True)
class Trace:
    """All requests of a run: Poisson arrivals at `rate` per second for `warm_up_s` + `seconds`."""

    scenario: Scenario
    seed: int
    rate: float
    seconds: float
    """The time that counts."""
    warm_up_s: float

    @property
    def counted_from(self) -> float:
        """Requests that were due before do not count."""
        return self.warm_up_s

    @property
    def change_at(self) -> float:
        """When popularity shifts, or the endpoint dies or joins."""
        return self.warm_up_s + self.seconds / 2

    @property
    def end(self) -> float:
        """No request is due then or later."""
        return self.warm_up_s + self.seconds

    def requests(self) -> Iterator[Request]:
        """In order of arrival; the same at every call."""
        scenario = self.scenario
        known = datasets(scenario, self.seed)
        shares = list(accumulate((rank + 1) ** -scenario.zipf for rank in range(scenario.keys)))
        popularity = _chance(self.seed, "popularity")
        ranks = list(range(scenario.keys))
        popularity.shuffle(ranks)
        arrivals, draws = _chance(self.seed, "arrivals"), _chance(self.seed, "keys")
        due, number, has_shifted = arrivals.expovariate(self.rate), 0, not scenario.shifts
        while due < self.end:
            if due >= self.change_at and not has_shifted:
                popularity.shuffle(ranks)
                has_shifted = True
            # The sum may round up to the last share itself.
            key = ranks[min(bisect(shares, draws.random() * shares[-1]), scenario.keys - 1)]
            yield Request(number, due, key, known[key])
            due += arrivals.expovariate(self.rate)
            number += 1


def _chance(seed: int, purpose: str) -> Random:
    # Seeded by a text, which is hashed the same way in every process.
    return Random(f"{seed} {purpose}")
