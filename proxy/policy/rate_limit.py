"""How many requests a client may send, by token bucket, counted over all workers. Pure.

Method: the generic cell rate algorithm (ITU-T I.371, as in `throttled` and nginx's `limit_req`): instead of a number of
tokens, which has to be topped up and drifts, each key has one time, when its bucket will be full again; a request moves
it on by one interval and is refused if that is more than a whole bucket ahead. The rule is one function of it.

So a key fits into one word, and the words into memory that all workers share: a client that spreads its requests over
connections to several workers gets no more than one that does not. Words are read and written whole but not together:
two workers that serve one client within the same microsecond may count one request for two. That is the price of having
no lock that somebody could die with.

The table has sets of `WAYS` words. A word holds a tag of its key's hash, and the time; a key that is not in its set
takes the place of the one whose bucket is full for longest, or soonest. Who can make up more keys than there is room
for within the time a bucket takes to fill is not stopped by this.
"""

from dataclasses import dataclass
from hashlib import blake2b

WAYS = 8
"""Words that are looked at for a key. Half full, one set in 50 has no room."""
TABLE_WORDS = 1 << 17
"""Clients remembered, of all routes together: 1 MiB."""

_US = 1_000_000
# 47 bits of microseconds are four years of uptime; 16 bits of tag take one key in 8 000 for another, in a full set.
_TIME_BITS = 47
_TIME_MASK = (1 << _TIME_BITS) - 1
_TAG_MASK = (1 << 16) - 1


@dataclass(frozen=True, slots=True)
class RateLimitParams:
    """How fast one client may send requests."""

    requests: float = 100.0
    """Requests allowed per `per_s`, above 0; up to 1 000 000 a second."""
    per_s: float = 1.0
    """Seconds, above 0."""
    burst: int = 100
    """Requests that may come at once after a rest, ≥ 1. 1 = evenly spaced only, which punishes browsers and batches."""


def spend(full_at: int, now: int, interval: int, burst: int) -> tuple[int, int]:
    """One request on a bucket that is full again at `full_at`: (when it is full afterwards, and 0); or, when it is
    refused, (`full_at` as it was, and how long until it would not be). All in the same unit of time.

    With an interval of 100 and a burst of 3: at 0 three pass (full at 100, 200, 300), the fourth waits for 100; at 100
    one more passes.
    """
    after = max(full_at, now) + interval
    wait = after - burst * interval - now
    return (after, 0) if wait <= 0 else (full_at, wait)


class RateTable:
    """The buckets of all limits, in `words` of shared memory: a multiple of `WAYS`, a power of two, all 0 at first."""

    __slots__ = ("_mask", "_words")

    def __init__(self, words: list[int] | memoryview) -> None:
        self._words = words
        self._mask = len(words) - WAYS

    def __repr__(self) -> str:
        return f"RateTable({len(self._words)} words)"

    def take(self, key: bytes, params: RateLimitParams, *, now: float) -> float:
        """Count a request of `key`: 0 = it may go; otherwise it may not, and these are the seconds until it might (for
        Retry-After, rounded up). A refused request costs nothing. Time that goes backwards is no time.

        A key has another bucket under another limit: who waits for an hour by one that is replaced need not."""
        interval_us = max(round(params.per_s * _US / params.requests), 1)
        named = b"%d %d %b" % (interval_us, params.burst, key)
        digest = int.from_bytes(blake2b(named, digest_size=8).digest(), "big")
        words = self._words
        first = digest >> 16 & self._mask & -WAYS
        tag = digest & _TAG_MASK
        found = words[first : first + WAYS]
        place, full_at = 0, 0
        oldest = _TIME_MASK
        for way, word in enumerate(found):
            time = word & _TIME_MASK
            if word >> _TIME_BITS == tag and time:
                place, full_at = way, time
                break
            if time < oldest:
                place, oldest = way, time
        now_us = int(now * _US)
        after, wait_us = spend(full_at, now_us, interval_us, params.burst)
        if not wait_us:
            words[first + place] = tag << _TIME_BITS | after & _TIME_MASK
        return wait_us / _US
