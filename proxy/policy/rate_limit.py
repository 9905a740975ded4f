"""How many requests a client may send, by token bucket. Pure.

Method: the generic cell rate algorithm (ITU-T I.371, as in `throttled` and nginx's `limit_req`): instead of a number of
tokens, which has to be topped up and drifts, each key has one time, when its bucket will be full again; a request moves
it on by one interval and is refused if that is more than a whole bucket ahead. Whole nanoseconds, so nothing is rounded
twice. A key costs one number, and the rule is one function of it.

Keys are bounded: the one unused for longest is forgotten, which gives it a full bucket. Who can make up more keys than
there is room for within the time a bucket takes to fill is not stopped by this; `forgotten_early` counts such losses.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from math import ceil

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RateLimitParams:
    """How fast one client may send requests."""

    requests: float = 100.0
    """Requests allowed per `per_s`, above 0. Each worker counts for itself."""
    per_s: float = 1.0
    """Seconds, above 0."""
    burst: int = 100
    """Requests that may come at once after a rest, ≥ 1. 1 = evenly spaced only, which punishes browsers and batches."""
    max_keys: int = 10_000
    """Clients remembered, ≥ 1; about 200 bytes each."""


def spend(full_at_ns: int, now_ns: int, interval_ns: int, burst: int, cost: int = 1) -> tuple[int, int]:
    """One request of `cost` tokens on a bucket that is full again at `full_at_ns`: (when it is full afterwards, and 0);
    or, when it is refused, (`full_at_ns` as it was, and the nanoseconds until it would not be).

    With an interval of 100 and a burst of 3: at 0 three pass (full at 100, 200, 300), the fourth waits for 100; at 100
    one more passes. A `cost` above `burst` waits for a full bucket and then passes.
    """
    after = max(full_at_ns, now_ns) + cost * interval_ns
    wait_ns = after - max(burst, cost) * interval_ns - now_ns
    return (after, 0) if wait_ns <= 0 else (full_at_ns, wait_ns)


class RateLimiter:
    """The buckets of one limit, by key: the client's address, or whatever the route names."""

    __slots__ = ("_full_at_ns", "_interval_ns", "_params", "forgotten_early")

    def __init__(self, params: RateLimitParams) -> None:
        self._params = params
        self._interval_ns = ceil(params.per_s * _NS / params.requests)
        self._full_at_ns: OrderedDict[Hashable, int] = OrderedDict()
        self.forgotten_early = 0
        """Keys that were forgotten before their bucket was full."""

    def __repr__(self) -> str:
        return f"RateLimiter({len(self._full_at_ns)} keys)"

    def take(self, key: Hashable, cost: int = 1, *, now: float) -> float:
        """Spend `cost` tokens of `key`: 0 = the request may go; otherwise it may not, and these are the seconds until
        it might (for Retry-After, rounded up). A refused request costs nothing. Time that goes backwards is no time."""
        now_ns = round(now * _NS)
        buckets = self._full_at_ns
        known = buckets.get(key)
        after, wait_ns = spend(
            now_ns if known is None else known, now_ns, self._interval_ns, self._params.burst, cost
        )
        buckets[key] = after
        if known is not None:
            buckets.move_to_end(key)
        elif len(buckets) > self._params.max_keys:
            _, full_at_ns = buckets.popitem(last=False)
            self.forgotten_early += full_at_ns > now_ns
        return wait_ns / _NS
