"""How much of its weight an endpoint is given while it warms up. Pure.

An endpoint that just came, or came back, has empty caches and has not compiled its queries; given its full share at
once it answers slowly, or falls over again. So its weight grows over a window. Source: Envoy's slow start
(`cluster.proto`, SlowStartConfig): `w · max(min, (t / window) ^ (1 / aggression))`.

Only endpoints that join others are held back: at a cold start all are new, and the ramp is the same for all of them, so
nobody is.
"""

from dataclasses import dataclass
from math import pow


@dataclass(frozen=True, slots=True)
class SlowStartParams:
    """How an endpoint's weight grows after it came, or came back."""

    window_s: float = 30.0
    """Seconds until it has its full weight. 0 = it has it at once; minutes suit caches that fill slowly, but during a
    rolling restart the endpoints that are not yet restarted then carry nearly everything."""
    min_percent: float = 10.0
    """The least share of its weight, in percent, above 0: without any requests nothing warms up. 100 = no ramp."""
    aggression: float = 1.0
    """Bends the ramp: 1 = straight, 2 = half way after a quarter of the window, 0.5 = a quarter after half of it."""


def ramp(params: SlowStartParams, age_s: float) -> float:
    """The share of its weight, `min_percent`/100 to 1, that an endpoint has `age_s` seconds after it became usable.

    With a window of 40 s, 10 % and an aggression of 1: at 0 s 0.1, at 10 s 0.25, at 40 s 1; with an aggression of 2 at
    10 s 0.5. An age below 0 counts as 0.
    """
    age_s = max(age_s, 0.0)
    if age_s >= params.window_s:
        return 1.0
    done = age_s / params.window_s
    return min(1.0, max(params.min_percent / 100.0, pow(done, 1.0 / params.aggression)))


def ramped_weight(weight: float, params: SlowStartParams, age_s: float) -> float:
    """The weight to balance by, above 0: `weight` (its configured one) times `ramp`."""
    return weight * ramp(params, age_s)
