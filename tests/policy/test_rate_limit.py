"""Token buckets. Times are seconds."""

from dataclasses import replace

import pytest

from proxy.policy.rate_limit import TABLE_WORDS, WAYS, RateLimitParams, RateTable, spend


@pytest.mark.parametrize(
    ("full_at", "now", "expected"),
    [
        (0, 0, (100, 0)),
        (100, 0, (200, 0)),
        (200, 0, (300, 0)),
        (300, 0, (300, 100)),
        (300, 60, (300, 40)),
        (300, 100, (400, 0)),
        (300, 5000, (5100, 0)),
    ],
)
def test_spend(full_at, now, expected):
    assert spend(full_at, now, 100, 3) == expected


def table(size=64):
    words = [0] * size
    return RateTable(words), words


def test_timeline():
    """10 a second with bursts of 3."""
    limits, _ = table()
    params = RateLimitParams(requests=10, burst=3)
    waits = [limits.take(b"a", params, now=now) for now in [5, 5, 5, 5, 5.1, 5.1, 6, 6, 6, 6]]
    assert waits == [0, 0, 0, pytest.approx(0.1), 0, pytest.approx(0.1), 0, 0, 0, pytest.approx(0.1)]


def test_keys_are_apart():
    limits, _ = table()
    params = RateLimitParams(requests=1, burst=1)
    assert [limits.take(key, params, now=1) for key in (b"a", b"b", b"a", b"b")] == [0, 0, 1, 1]


def test_workers_share_the_words():
    limits, words = table()
    params = RateLimitParams(requests=1, burst=2)
    other = RateTable(words)
    assert [each.take(b"a", params, now=1) for each in (limits, other, limits, other)] == [0, 0, 1, 1]


def test_no_drift():
    """At exactly the rate everything passes, and nothing more than the rate, after 100 000 requests as at first."""
    limits, _ = table()
    params = RateLimitParams(requests=4, burst=1)
    passed = sum(limits.take(b"a", params, now=1 + tick / 40) == 0 for tick in range(100_000))
    assert passed == 100_000 / 10


def test_time_that_goes_backwards_gives_nothing():
    limits, _ = table()
    params = RateLimitParams(requests=1, burst=1)
    assert limits.take(b"a", params, now=100) == 0
    assert limits.take(b"a", params, now=50) == 51


@pytest.mark.parametrize("changed", [{"requests": 100}, {"per_s": 1}, {"burst": 2}])
def test_a_changed_limit_begins_anew(changed):
    """What was refused for an hour by the one before goes at once by the new one; that one is not forgotten."""
    limits, _ = table()
    params = RateLimitParams(requests=1, per_s=3600, burst=1)
    assert [limits.take(b"a", params, now=5) for _ in range(2)] == [0, 3600]
    assert limits.take(b"a", replace(params, **changed), now=5) == 0
    assert limits.take(b"a", params, now=5) == 3600


def test_the_one_that_is_full_longest_gives_way():
    limits, words = table(WAYS)
    params = RateLimitParams(requests=1, per_s=100, burst=1)
    keys = [b"%d" % number for number in range(WAYS + 1)]
    for at, key in enumerate(keys):
        assert limits.take(key, params, now=1 + at) == 0
    assert len([word for word in words if word]) == WAYS
    assert limits.take(keys[-1], params, now=10) > 0
    assert limits.take(keys[1], params, now=10) > 0
    assert limits.take(keys[0], params, now=10) == 0  # forgotten


def test_many_clients_are_remembered():
    """As many as half the words: hardly any is forgotten."""
    limits, _ = table(TABLE_WORDS)
    params = RateLimitParams(requests=1, per_s=3600, burst=1)
    keys = [b"client %d" % number for number in range(TABLE_WORDS // 2)]
    assert sum(limits.take(key, params, now=1) > 0 for key in keys) < len(keys) / 1000  # taken for another
    assert (
        sum(limits.take(key, params, now=2) == 0 for key in keys) < len(keys) / 25
    )  # forgotten, and by that others
