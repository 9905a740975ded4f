"""The load at which proxies are compared: the highest rate that the best of the other proxies bears.

    python -m loadtests.locality.calibration [SCENARIO…]

A rate is borne when nothing piles up: in a run from cold caches to the end, change and all, the p99 of the second half
is at most 1.15 times that of the first. Cold caches count, since the halves are alike then: one has to fill its caches,
one to fill them with something else. That is found in the simulation, where the other proxies are hashing with bounded
load as HAProxy and as Envoy do it and fewest connections, as the mean of many traces; it takes minutes, and
`trace.Scenario.rate` keeps what came out. With `--warm-up 0 --seconds 40 --rates 1` the real proxies tell their growth.
Where the number of endpoints changes, the smaller one is calibrated: no proxy can bear more than its endpoints do for
half of the time.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from statistics import geometric_mean

from loadtests.locality.figures import figures
from loadtests.locality.policies import BoundedHash, JumpingHash, LeastConnections
from loadtests.locality.simulation import Policy, World, simulate
from loadtests.locality.trace import BY_NAME, SCENARIOS, Change, Scenario, Trace

GROWTH_LIMIT = 1.15
SECONDS = 40.0
"""As long as a run and its warm-up are. In longer ones what has piled up is worked off before the end."""
SEEDS = range(1, 26)
"""Near the limit the growth of single traces differs by a quarter, the mean of so many by a twentieth."""
LOWEST = 100.0
STEP, PRECISION = 1.2, 1.02
"""Between the rates that are tried upwards, and between the rate found and one that is not borne."""

Make = Callable[[World], Policy]
OTHERS: tuple[Make, ...] = JumpingHash, BoundedHash, LeastConnections
"""The likely best first: the following are only looked at where they are better."""


def growth(scenario: Scenario, rate: float, make: Make) -> float:
    """The second half's p99 over the first's, mean of the seeds."""
    traces = [Trace(scenario, seed, rate, SECONDS, warm_up_s=0.0) for seed in SEEDS]
    return geometric_mean(figures(trace, simulate(trace, make)).growth for trace in traces)


def bearable_rate(scenario: Scenario) -> float:
    """Requests/s that the best of the other proxies bears; 0 when that is less than `LOWEST`."""
    if scenario.change is not Change.NONE:
        scenario = replace(scenario, endpoints=scenario.endpoints - 1, change=Change.NONE)
    rate = 0.0
    for make in OTHERS:
        rate = _highest(scenario, make, rate)
    return rate


def _highest(scenario: Scenario, make: Make, least: float) -> float:
    """Upwards from `least` to the first rate that is not borne, then by bisection."""

    def is_borne(rate: float) -> bool:
        return growth(scenario, rate, make) <= GROWTH_LIMIT

    low, high = least, max(LOWEST, least * PRECISION)
    while is_borne(high):
        low, high = high, high * STEP
    while low > least and high / low > PRECISION:
        middle = (low * high) ** 0.5
        if is_borne(middle):
            low = middle
        else:
            high = middle
    return low


def main() -> None:
    """Command line."""
    for scenario in [BY_NAME[name] for name in sys.argv[1:]] or SCENARIOS:
        print(f"{scenario.name}: {bearable_rate(scenario):.0f} requests/s", flush=True)


if __name__ == "__main__":
    main()
