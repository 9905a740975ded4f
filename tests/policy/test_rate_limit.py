"""Token buckets. Times are seconds."""

import pytest

from proxy.policy.rate_limit import RateLimiter, RateLimitParams, spend


@pytest.mark.parametrize(
    ("full_at", "now", "cost", "expected"),
    [
        (0, 0, 1, (100, 0)),
        (100, 0, 1, (200, 0)),
        (200, 0, 1, (300, 0)),
        (300, 0, 1, (300, 100)),
        (300, 60, 1, (300, 40)),
        (300, 100, 1, (400, 0)),
        (300, 5000, 1, (5100, 0)),
        (0, 0, 3, (300, 0)),
        (100, 0, 3, (100, 100)),
        (0, 0, 9, (900, 0)),  # dearer than the bucket: passes when it is full
        (1, 0, 9, (1, 1)),
    ],
)
def test_spend(full_at, now, cost, expected):
    assert spend(full_at, now, 100, 3, cost) == expected


def test_timeline():
    """10 a second with bursts of 3."""
    limiter = RateLimiter(RateLimitParams(requests=10, burst=3))
    waits = [limiter.take("a", now=now) for now in [5, 5, 5, 5, 5.1, 5.1, 6, 6, 6, 6]]
    assert waits == [0, 0, 0, pytest.approx(0.1), 0, pytest.approx(0.1), 0, 0, 0, pytest.approx(0.1)]


def test_keys_are_apart():
    limiter = RateLimiter(RateLimitParams(requests=1, burst=1))
    assert [limiter.take(key, now=0) for key in ("a", "b", "a", "b")] == [0, 0, 1, 1]


def test_no_drift():
    """At exactly the rate everything passes, and nothing more than the rate, after 100 000 requests as at first."""
    limiter = RateLimiter(RateLimitParams(requests=4, burst=1))
    passed = sum(limiter.take("a", now=tick / 40) == 0 for tick in range(100_000))
    assert passed == 100_000 / 10


def test_time_that_goes_backwards_gives_nothing():
    limiter = RateLimiter(RateLimitParams(requests=1, burst=1))
    assert limiter.take("a", now=100) == 0
    assert limiter.take("a", now=50) == 51


def test_keys_are_bounded():
    limiter = RateLimiter(RateLimitParams(requests=1, burst=1, max_keys=3))
    for key in "abc":
        limiter.take(key, now=0)
    assert limiter.take("a", now=0) == 1  # and a is the newest again
    limiter.take("d", now=0)
    assert repr(limiter) == "RateLimiter(3 keys)"
    assert limiter.forgotten_early == 1
    assert limiter.take("a", now=0) == 1
    assert limiter.take("b", now=0) == 0  # forgotten
    limiter.take("e", now=100)
    assert limiter.forgotten_early == 2  # c was; who went just now had a full bucket
