"""How long an endpoint is expected to take until it answers, in seconds: what `least_response_time` compares.

The time is that from the end of the request, connecting included, to the head of the answer. Not to the end of the
answer: that is as late as the client is slow to read, which says nothing about the endpoint. Nor from the beginning of
the request, for the same reason.

Rules:
- An endpoint without a sample is given the median of the others. Never 0, which would send everything to an endpoint
  that just started until it answers; and not the mean, which one hanging endpoint could make so large that a new one
  gets nothing.
- A failure counts as a slow answer, or an endpoint that fails fast would attract all traffic (a "black hole"). Source:
  Linkerd's PenaltyPeakEwma.
- No estimate is below half the median. Estimates decay (`ewma`), and one that came near 0 would draw any number of
  requests at once to an endpoint that was slow when last seen; so it is tried again by one or two.
"""

from collections.abc import Sequence
from typing import Protocol

from proxy.model import Outcome
from proxy.policy.ewma import PeakEwma

# Seconds expected while nobody has answered yet. Linkerd's default; all are equal then, so any value would do that is
# not 0, with which the number of requests in flight would not count.
UNKNOWN_S = 0.030
# The least estimate, as a part of the median.
FLOOR_RATIO = 0.5
# A failure counts as at least this many seconds (Linkerd's base penalty), or this many times the median where answers
# take long: 10 times is tried again after 10 s · ln(20) = 30 s at the latest.
FAILURE_S = 5.0
FAILURE_RATIO = 10.0
# From this status on an answer is a failure: a 503 of a full queue, a 500 of a lost database are often the fastest.
FAILURE_STATUS = 500


class Timed(Protocol):
    """An endpoint whose response times are compared."""

    response: PeakEwma
    """Seconds to its answers."""
    response_s: float
    """The estimate, as of the last answer or projection."""


def typical(averages: Sequence[PeakEwma], *, now: float) -> float:
    """The median of the known averages, the lower one of two: 0.1, 0.2, 9 give 0.2. `UNKNOWN_S` when none is known.

    It is never 0: after a long silence it goes no lower than a microsecond.
    """
    values = sorted([average.value_at(now) for average in averages if average.is_known])
    return max(values[(len(values) - 1) // 2], 1e-6) if values else UNKNOWN_S


def estimate(average: PeakEwma, typical_s: float, *, now: float) -> float:
    """Expected seconds to an answer, > 0."""
    if not average.is_known:
        return typical_s
    return max(average.value_at(now), typical_s * FLOOR_RATIO)


def failure_time(waited_s: float, typical_s: float) -> float:
    """What a failure after `waited_s` counts as: 0.01 s where 0.2 s are typical as 5 s, where 60 s are as 600 s."""
    return max(waited_s, FAILURE_S, FAILURE_RATIO * typical_s)


class ResponseTimes:
    """What the answers of a cluster's endpoints say of them."""

    __slots__ = ("typical_s",)

    def __init__(self) -> None:
        self.typical_s = UNKNOWN_S
        """Seconds that an answer takes, as of the last projection."""

    def on_answer(self, endpoint: Timed, waited_s: float, status: int, *, now: float) -> None:
        """The head of an answer is here, `waited_s` after the end of the request."""
        failed = status >= FAILURE_STATUS
        self._learn(endpoint, failure_time(waited_s, self.typical_s) if failed else waited_s, now)

    def on_end(self, endpoint: Timed, waited_s: float, outcome: Outcome, *, now: float) -> None:
        """An exchange ended, `waited_s` after the end of the request if no answer had begun, else 0.

        The endpoint's failure counts as a slow answer. A client that left says only that the answer would have taken
        longer.
        """
        if outcome is Outcome.UPSTREAM_FAILED:
            self._learn(endpoint, failure_time(waited_s, self.typical_s), now)
        elif outcome is Outcome.CLIENT_GONE and waited_s > estimate(
            endpoint.response, self.typical_s, now=now
        ):
            self._learn(endpoint, waited_s, now)

    def project(self, endpoints: Sequence[Timed], *, now: float) -> None:
        """Bring all estimates to `now`."""
        self.typical_s = seconds = typical([endpoint.response for endpoint in endpoints], now=now)
        for endpoint in endpoints:
            endpoint.response_s = estimate(endpoint.response, seconds, now=now)

    def _learn(self, endpoint: Timed, seconds: float, now: float) -> None:
        endpoint.response.add(seconds, now)
        endpoint.response_s = estimate(endpoint.response, self.typical_s, now=now)
