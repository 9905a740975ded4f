"""A day of load: when requests arrive and how long each takes, fixed in advance so that all scalers get the same.

Both shapes have a mean of `MEAN_RATE` and a peak of three times that:

- `smooth`: one hump, quiet nights (exp(k·cos), which is always above 0);
- `bursts`: an even base with bursts at random moments that rise within a minute, last a few and differ in height.

Requests arrive independently of each other at the rate of the moment; service times are lognormal, a few take ten
times as long as most.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, exp, log, pi
from random import Random

DAY_S = 86_400
PEAK_TO_MEAN = 3.0
MEAN_RATE = 28.0
"""Requests/s: 14 at work on average, 42 at the peak. Few enough for a run in seconds, many enough for fleets of 2 to
20."""
MEAN_SERVICE_S = 0.5
SIGMA = 0.8
"""Of the logarithms of service times: the 99th percentile is 4.7 times the mean."""
BUSIEST = 0.58
"""When the smooth day has its peak, as a share of the day: two in the afternoon."""
BURSTS = 24
RISE_S = 60
"""Seconds from the base to the height of a burst, and back."""
LASTS_S = (120, 600)
"""Seconds that a burst stays at its height, least and most."""


@dataclass(frozen=True, slots=True)
class Day:
    """The requests of a day, in order of arrival."""

    shape: str
    arrivals_s: Sequence[float]
    services_s: Sequence[float]
    peak_rate: float
    """The largest rate that lasts a minute, requests/s."""


def smooth(rng: Random) -> list[float]:
    """The rate of each second relative to the mean; the hump is solved for its peak."""
    low, high = 0.0, 10.0
    for _ in range(50):
        k = (low + high) / 2
        shape = [exp(k * (cos(2 * pi * (second / DAY_S - 0.58)) - 1.0)) for second in range(0, DAY_S, 60)]
        low, high = (k, high) if len(shape) / sum(shape) < PEAK_TO_MEAN else (low, k)
    return [PEAK_TO_MEAN * exp(k * (cos(2 * pi * (second / DAY_S - 0.58)) - 1.0)) for second in range(DAY_S)]


def bursts(rng: Random) -> list[float]:
    """The rate of each second relative to the mean: base + (peak - base)·height, with the base solved for the mean."""
    heights = [0.0] * DAY_S
    for number in range(BURSTS):
        begin, lasts = rng.randrange(DAY_S), rng.randint(*LASTS_S)
        height = 1.0 if number == 0 else rng.uniform(0.3, 1.0)
        for offset in range(lasts + 2 * RISE_S):
            share = min(1.0, (offset + 1) / RISE_S, (lasts + 2 * RISE_S - offset) / RISE_S)
            second = (begin + offset) % DAY_S
            heights[second] = max(heights[second], height * share)
    mean = sum(heights) / DAY_S
    base = (1.0 - PEAK_TO_MEAN * mean) / (1.0 - mean)
    return [base + (PEAK_TO_MEAN - base) * height for height in heights]


SHAPES = {"smooth": smooth, "bursts": bursts}


def day(shape: str, seed: int, mean_rate: float = MEAN_RATE) -> Day:
    """The day of this shape; the same for the same seed."""
    rng = Random(f"{shape} {seed}")
    relative = SHAPES[shape](rng)
    arrivals, services = array("d"), array("d")
    mu = log(MEAN_SERVICE_S) - SIGMA * SIGMA / 2
    at = 0.0
    while (at := at + rng.expovariate(mean_rate * relative[int(at)])) < DAY_S:
        arrivals.append(at)
        services.append(rng.lognormvariate(mu, SIGMA))
    return Day(shape, arrivals, services, mean_rate * PEAK_TO_MEAN)
