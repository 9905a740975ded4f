"""Ejection of endpoints that are worse than the rest. Times are seconds."""

from math import log
from random import Random

import pytest

from proxy.policy.outlier import (
    Ejected,
    OutlierDetector,
    OutlierParams,
    Returned,
    Sample,
    failures_beyond,
    slowness_beyond,
    timed_sample,
)

EXACT = OutlierParams(jitter_percent=0)


def detector(size, params=EXACT):
    made = OutlierDetector(params, Random(1))
    made.update("abcdefghij"[:size])
    return made


def served(requests, failures=0, seconds=0.1):
    """So many answers that all took `seconds`."""
    return Sample(requests, failures, requests, requests * log(seconds), requests * log(seconds) ** 2)


def swept(made, now=0, usable="abcdefghij"):
    return made.sweep([one for one in usable if one in made._records], now=now)


def fail(made, one, times=5):
    return [made.on_failure(one) for _ in range(times)]


@pytest.mark.parametrize("size", range(2, 11))
def test_a_row_of_failures(size):
    made = detector(size)
    assert fail(made, "b") == [False, False, False, False, True]
    assert swept(made) == [Ejected("b", 30, "5 failures in a row", 1)]
    assert swept(made, 29.9) == []
    assert swept(made, 30) == [Returned("b")]
    assert made.ejected() == {}


def test_a_success_ends_the_row():
    made = detector(3)
    fail(made, "b", 4)
    made.on_success("b")
    assert fail(made, "b", 4) == [False] * 4
    assert swept(made) == []


@pytest.mark.parametrize("size", range(2, 11))
def test_partial_failure(size):
    """A third of one endpoint's requests fail; the rest are well. No row of failures ever shows it."""
    made = detector(size)
    for one in "abcdefghij"[:size]:
        made.record(one, served(60, failures=20 if one == "b" else 0), now=0)
    assert swept(made) == [Ejected("b", 30, "33% of 60 requests failed, 0% elsewhere", 1)]


@pytest.mark.parametrize("size", range(2, 11))
def test_slowness(size):
    made = detector(size)
    for one in "abcdefghij"[:size]:
        made.record(one, served(20, seconds=0.5 if one == "b" else 0.1), now=0)
    assert swept(made) == [Ejected("b", 30, "takes about 0.5 s, 5 times as long as the rest", 1)]


@pytest.mark.parametrize("size", range(2, 11))
@pytest.mark.parametrize("failures", [0, 10, 20])
def test_when_all_are_alike_nobody_goes(size, failures):
    made = detector(size)
    for one in "abcdefghij"[:size]:
        made.record(one, served(20, failures=failures), now=0)
    assert swept(made) == []


@pytest.mark.parametrize(
    ("own", "rest", "expected"),
    [
        ((10, 5), (20, 0), 0.5),
        ((10, 3), (20, 0), None),  # may be luck
        ((100, 30), (200, 0), 0.3),
        ((9, 9), (200, 0), None),  # too few to judge
        ((200, 200), (9, 0), None),  # too few to compare with
        ((1000, 150), (1000, 0), None),  # no luck, but too little
        ((100, 50), (100, 40), None),
        ((100, 80), (100, 40), 0.4),
        ((100, 0), (100, 100), None),
    ],
)
def test_failures_beyond_the_rest(own, rest, expected):
    assert failures_beyond(*own, *rest, EXACT) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("own", "rest", "expected"),
    [
        ((10, 0, 0), (20, -40, 80), 7.389),  # e²
        ((10, 0, 40), (20, -40, 160), None),  # logarithms spread by 2: may be luck
        ((100, 0, 400), (200, -400, 1600), 7.389),  # no longer, with ten times as many
        ((9, 0, 0), (20, -40, 80), None),
        ((10, 0, 0), (9, -18, 36), None),
        ((10, -30, 90), (20, -80, 320), None),  # e times as long is less than 3
        ((10, -40, 160), (20, -120, 720), None),  # 18 ms beside 2.5 ms is nothing to act upon
        ((10, 0, 0), (20, 40, 80), None),
    ],
)
def test_slowness_beyond_the_rest(own, rest, expected):
    assert slowness_beyond(own, rest, EXACT) == (
        None if expected is None else pytest.approx(expected, rel=1e-3)
    )


def test_one_long_query_is_no_slow_endpoint():
    """Nine of 0.1 s and one of 20 s: the mean is 2.1 s, but typical are 0.17 s."""
    made = detector(2)
    made.record("a", served(10), now=0)
    made.record("b", served(9), now=0)
    made.record("b", served(1, seconds=20), now=0)
    assert swept(made) == []


@pytest.mark.parametrize(("size", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (9, 4), (10, 5)])
def test_never_more_than_the_share(size, most):
    made = detector(size)
    for one in "abcdefghij"[:size]:
        made.record(one, served(100, failures=100 if one in "abcdefghij"[:most] else 0), now=0)
        if one in "abcdefghij"[: most + 1]:
            fail(made, one)
    assert len(swept(made)) == most == len(made.ejected())


@pytest.mark.parametrize(("percent", "size", "most"), [(10, 2, 1), (10, 9, 1), (0, 9, 0), (100, 5, 4)])
def test_other_shares(percent, size, most):
    made = detector(size, OutlierParams(max_ejected_percent=percent))
    for one in "abcdefghij"[: size - 1]:
        made.record(one, served(100, failures=100), now=0)
    made.record("abcdefghij"[size - 1], served(1000), now=0)
    assert len(swept(made)) == most


@pytest.mark.parametrize("size", range(2, 11))
def test_nobody_goes_for_a_row_that_all_have(size):
    made = detector(size)
    for _ in range(5):
        for one in "abcdefghij"[:size]:
            made.on_failure(one)
            assert swept(made) == []
    made.on_success("b")
    assert len(swept(made)) == (1 if size <= 3 else 0), "most others still fail"
    for one in "abcdefghij"[1:size]:
        made.on_success(one)
    assert [one.endpoint_id for one in swept(made)] == (["a"] if size > 3 else [])


def test_two_of_three_may_fail_together():
    made = detector(3)
    fail(made, "a")
    fail(made, "b")
    assert [one.endpoint_id for one in swept(made)] == ["b"]


def test_who_gets_nothing_is_no_example():
    """c is drained: that it has no failures says nothing. But an open circuit says why there are no more of them."""
    made = detector(3)
    fail(made, "a")
    fail(made, "b", 3)
    assert swept(made, usable="ab") == []
    assert swept(made, usable="a") == []
    assert [one.endpoint_id for one in swept(made, usable="abc")] == ["a"]


def test_the_worst_go_first():
    made = detector(6, OutlierParams(max_ejected_percent=34, jitter_percent=0))
    for one, failures, seconds in [("a", 0, 0.1), ("b", 40, 0.1), ("c", 0, 2), ("d", 20, 0.1), ("e", 0, 0.1)]:
        made.record(one, served(40, failures, seconds), now=0)
    assert [one.endpoint_id for one in swept(made)] == ["b", "d"]
    made = detector(6, OutlierParams(max_ejected_percent=34, jitter_percent=0))
    made.record("a", served(40), now=0)
    made.record("b", served(40, 40), now=0)
    fail(made, "f")
    assert [one.endpoint_id for one in swept(made)] == ["f", "b"]


def test_the_last_that_can_be_used_stays():
    made = detector(4)
    fail(made, "a")
    assert swept(made, usable="a") == []  # b, c and d are drained, down, or have open circuits
    assert swept(made, usable="cd") == []  # a's circuit opened: that is enough
    assert [one.endpoint_id for one in swept(made, usable="ab")] == ["a"]


def test_ejections_get_longer_and_are_forgotten():
    made = detector(3)
    now, lasted = 0.0, []
    for pause_s in [0, 1, 29, 31, 0, 300]:
        now += pause_s
        fail(made, "a")
        (change,) = swept(made, now)
        lasted.append(change.until - now)
        now = change.until
        assert swept(made, now) == [Returned("a")]
    # 31 s of good behaviour forget one; 300 s all.
    assert lasted == [30, 60, 90, 90, 120, 30]


def test_the_longest_ejection():
    made = detector(3, OutlierParams(base_ejection_s=100, max_ejection_s=250, jitter_percent=0))
    now = 0.0
    for expected in [100, 200, 250, 250]:
        fail(made, "a")
        (change,) = swept(made, now)
        assert change.until - now == expected
        now = change.until
        swept(made, now)


def test_jitter_only_lengthens():
    """50 ejections of 30 s with up to a tenth more; all in one half of the range has odds of 1e-15."""
    lasted = []
    for seed in range(50):
        made = OutlierDetector(OutlierParams(), Random(seed))
        made.update("ab")
        fail(made, "a")
        (change,) = swept(made)
        lasted.append(change.until)
    assert 30 <= min(lasted) < 31.5 < max(lasted) < 33


def test_who_comes_back_begins_anew():
    made = detector(2)
    made.record("a", served(100, 100), now=0)
    made.record("b", served(100), now=0)
    assert len(swept(made)) == 1
    made.record("a", served(100, 100), now=29)  # stragglers from before count for nothing
    assert not made.on_failure("a")
    made.record("b", served(100), now=29)
    assert swept(made, 30) == [Returned("a")]
    assert swept(made, 31) == []


def test_forgiven():
    made = detector(2)
    made.record("a", served(100, 100), now=0)
    made.record("b", served(100), now=0)
    fail(made, "a")
    made.forgive("a")
    assert swept(made) == []


def test_membership():
    made = detector(4)
    fail(made, "a")
    fail(made, "b")
    assert len(swept(made)) == 2
    made.update("abx")
    assert repr(made) == "OutlierDetector(3 endpoints, ejected ['a', 'b'])"
    assert swept(made, 1) == [Returned("a")]  # two of three are too many
    made.update("b")
    assert swept(made, 2) == [Returned("b")]
    made.update("")
    assert swept(made, 3) == []


def test_strangers_are_ignored():
    made = detector(2)
    made.record("x", served(5), now=0)
    made.on_success("x")
    made.forgive("x")
    assert not made.on_failure("x")


def test_switched_off():
    off = OutlierParams(consecutive_failures=0, failure_percent=100, latency_factor=0)
    made = detector(2, off)
    assert fail(made, "a", 50) == [False] * 50
    made.record("a", served(100, 100, seconds=9), now=0)
    made.record("b", served(100), now=0)
    assert swept(made) == []


def test_times_from_a_histogram():
    """Bounds 1, 4, 16: the middles are 0.707, 2, 8 and 22.6."""
    sample = timed_sample(9, 2, [1, 4, 16], [1, 2, 0, 1])
    logs = [log(0.5**0.5), log(2), log(2), log(16 * 2**0.5)]
    assert (sample.requests, sample.failures, sample.answers) == (9, 2, 4)
    assert sample.log_sum == pytest.approx(sum(logs))
    assert sample.log_square_sum == pytest.approx(sum(value**2 for value in logs))


def test_other_parameters_keep_what_is_known():
    made = detector(3)
    fail(made, "a")
    until = swept(made, 0)[0].until
    fail(made, "b", 2)
    made.record("c", served(50, 50), now=1)
    made.change(OutlierParams(jitter_percent=0, consecutive_failures=3, window_s=5))
    assert made.ejected() == {"a": until}
    assert fail(made, "b", 1) == [True]
    assert made._records["c"].window.sums_at(1)[0] == 0, "a window of another length begins anew"


def test_an_ejection_goes_on():
    made = detector(2)
    made.resume("a", strikes=2, ends_at=20.0, is_out=True)
    assert swept(made, 19) == [] and made.ejected() == {"a": 20.0}
    assert swept(made, 20) == [Returned("a")]
    fail(made, "a")
    (change,) = swept(made, 21)
    assert (change.until, change.strikes) == (21 + 90, 3)


def test_what_is_remembered_of_one_that_is_back():
    made = detector(2)
    made.resume("a", strikes=2, ends_at=20.0, is_out=False)
    fail(made, "a")
    (change,) = swept(made, 20 + 31)  # one is forgotten
    assert (change.until, change.strikes) == (51 + 60, 2)
