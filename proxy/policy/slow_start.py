"""How large a share of its requests an endpoint is given while it warms up. Pure.

An endpoint that just came, or came back, has empty caches and has not compiled its queries; given its full share at
once it answers slowly, or falls over again. So its share grows over a window. Source: Envoy's slow start
(`cluster.proto`, SlowStartConfig): `w · max(min, (t / window) ^ (1 / aggression))`. There it is the weight that
grows; here the odds of being among a pick's candidates, which is the same for every balancer, hashing included.

Only endpoints that join others are held back: at a cold start all are new, and the ramp is the same for all of them, so
nobody is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pow


@dataclass(frozen=True, slots=True)
class SlowStartParams:
    """How an endpoint's share grows after it came, or came back."""

    window_s: float = 30.0
    """Seconds until it has its full share. 0 = it has it at once; minutes suit caches that fill slowly, but during a
    rolling restart the endpoints that are not yet restarted then carry nearly everything."""
    min_percent: float = 10.0
    """The least it has of it, in percent, above 0: without any requests nothing warms up. 100 = no ramp."""
    aggression: float = 1.0
    """Bends the ramp: 1 = straight, 2 = half way after a quarter of the window, 0.5 = a quarter after half of it."""


def ramp(params: SlowStartParams, age_s: float) -> float:
    """The part of its share, `min_percent`/100 to 1, that an endpoint has `age_s` seconds after it became usable.

    With a window of 40 s, 10 % and an aggression of 1: at 0 s 0.1, at 10 s 0.25, at 40 s 1; with an aggression of 2 at
    10 s 0.5. An age below 0 counts as 0.
    """
    age_s = max(age_s, 0.0)
    if age_s >= params.window_s:
        return 1.0
    done = age_s / params.window_s
    return min(1.0, max(params.min_percent / 100.0, pow(done, 1.0 / params.aggression)))


def odds(params: SlowStartParams, ages_s: Sequence[float], usable: int) -> list[float]:
    """The odds, above 0 and up to 1, with which those in slow start, `ages_s` old, are each among the candidates of a
    pick from `usable` endpoints.

    3 and 15 s old among three, with the defaults: 0.1 and 0.5. When there are no others, the eldest is not held back,
    and the rest only as far as they are younger: 0.2 and 1.
    """
    shares = [ramp(params, age_s) for age_s in ages_s]
    most = max(shares, default=1.0) if len(shares) == usable else 1.0
    return [share / most for share in shares]
