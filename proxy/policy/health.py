"""Whether an endpoint passes its active health checks, and when the next one is due. Pure; a prober does the checks.

Several checks in a row decide, so that one lost packet takes nobody out and one lucky answer brings nobody back
(HAProxy's rise and fall). The very first check decides alone, both ways: nothing is known before it that could be
doubted, and a fleet that just started should not wait for three intervals. Until then the endpoint is not used while
others are.

Once a check fails, checks come at the shorter interval until it is clear again (HAProxy's fastinter), or three checks
at 30 s would let a dead endpoint stand for a minute and a half. Every pause is a little random, so that many checks do
not meet: neither those of many endpoints, nor those of many proxies at one endpoint.

A service may say more than "well": a JSON object with `draining` (it wants no new requests) and `load`.
"""

import json
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from random import Random


@dataclass(frozen=True, slots=True)
class HealthParams:
    """How often an endpoint is checked and how many checks decide."""

    interval_s: float = 30.0
    """Seconds from the end of a check to the next while all is well. Short ones find failures sooner and cost the
    service; passive detection (circuit, outliers) finds most failures first."""
    unhealthy_interval_s: float = 5.0
    """The same while the endpoint is down, or may be. Shorter than `interval_s` as a rule; much longer ones keep a
    recovered endpoint out."""
    timeout_s: float = 5.0
    """Seconds until a check without an answer has failed."""
    unhealthy_after: int = 3
    """Failed checks in a row that take a healthy endpoint out, ≥ 1. 1 = a single lost check does."""
    healthy_after: int = 2
    """Passed checks in a row that bring it back, ≥ 1."""
    jitter_percent: float = 10.0
    """How much shorter or longer a pause is at random, 0 to 100. 0 lets all checks fall into step."""


class HealthState(Enum):
    """What is known of an endpoint's health."""

    UNKNOWN = "unknown"
    """Not checked yet."""
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class ServiceWord:
    """What a service said of itself in the answer to a check."""

    is_draining: bool = False
    """It finishes what it has and wants nothing new."""
    load: float | None = None
    """How busy it is: 0 = idle, 1 = full, more = overloaded; `None` = not said."""


NO_WORD = ServiceWord()

# A body beyond this is a page, not a word.
MAX_WORD_BYTES = 16 * 1024


def service_word(body: bytes) -> ServiceWord:
    """What the body of a passed check says: `{"draining": true, "load": 0.7}`. Anything else says nothing.

    A field that is of another type, or a load that is negative or no number, is as if it were not there.
    """
    if not body.lstrip()[:1] == b"{" or len(body) > MAX_WORD_BYTES:
        return NO_WORD
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return NO_WORD
    load = found.get("load")
    is_number = (
        isinstance(load, int | float) and not isinstance(load, bool) and 0 <= load <= 1e6 and isfinite(load)
    )
    return ServiceWord(found.get("draining") is True, float(load) if is_number else None)


class Health:
    """The checks of one endpoint."""

    __slots__ = ("_failures", "_next_at", "_params", "_passes", "_rng", "_starts_until", "state", "word")

    def __init__(self, params: HealthParams, rng: Random, *, now: float, starts_until: float = 0.0) -> None:
        """Failed checks say nothing before `starts_until`, as long as none has passed: it may still be starting."""
        self._params = params
        self._starts_until = starts_until
        self._rng = rng
        self._passes = 0
        self._failures = 0
        self._next_at = now
        self.state = HealthState.UNKNOWN
        self.word = NO_WORD
        """What it said of itself when last it passed a check; nothing is known once it fails one."""

    def __repr__(self) -> str:
        return f"Health({self.state.value}, {self._passes} passes, {self._failures} failures)"

    def next_at(self) -> float:
        """When the next check is due. The first is at once: the endpoint waits for it."""
        return self._next_at

    def record(self, passed: bool, word: ServiceWord = NO_WORD, *, now: float) -> bool:
        """Take in a check that ended `now`; true when the state changed."""
        before = self.state
        if passed:
            self._passes += 1
            self._failures = 0
            if before is HealthState.UNKNOWN or self._passes >= self._params.healthy_after:
                self.state = HealthState.HEALTHY
        else:
            self._failures += 1
            self._passes = 0
            if before is HealthState.UNKNOWN:
                is_down = now >= self._starts_until
            else:
                is_down = self._failures >= self._params.unhealthy_after
            if is_down:
                self.state = HealthState.UNHEALTHY
        self.word = word if passed else NO_WORD
        self._next_at = now + self._pause_s()
        return self.state is not before

    def update(self, params: HealthParams, *, now: float) -> None:
        """Go on with other parameters: what was learned stays, a check that is due sooner with them comes sooner."""
        self._params = params
        self._next_at = min(self._next_at, now + self._pause_s())

    def _pause_s(self) -> float:
        params = self._params
        is_well = self.state is HealthState.HEALTHY and not self._failures
        pause_s = params.interval_s if is_well else params.unhealthy_interval_s
        return pause_s * (1.0 + params.jitter_percent / 100.0 * (2.0 * self._rng.random() - 1.0))
