"""Rolling sums. Times are seconds."""

import pytest

from proxy.policy.window import RollingCount, RollingSums


def counted(*samples, window_s=10, buckets=5):
    count = RollingCount(window_s, buckets)
    for value, now in samples:
        count.add(value, now)
    return count


@pytest.mark.parametrize(
    ("samples", "at", "expected"),
    [
        ([], 5, 0),
        ([(1, 0), (1, 4), (1, 9)], 9, 3),
        ([(1, 0), (1, 4), (1, 9)], 10, 2),
        ([(1, 0), (1, 4), (1, 9)], 14, 1),
        ([(1, 0), (1, 4), (1, 9)], 18, 0),
        ([(1, 0), (1, 1000)], 1000, 1),  # a long silence empties it
        ([(1, 0), (1, 12)], 12, 1),  # the bucket of 0 to 2 s is used again
        ([(1, 0), (1, 9), (1, 12)], 12, 2),
        ([(2, -7), (3, -5)], -5, 5),  # the clock may begin anywhere
    ],
)
def test_timeline(samples, at, expected):
    assert counted(*samples).total_at(at) == expected


def test_reads_do_not_mutate():
    count = counted((1, 0))
    assert [count.total_at(100), count.total_at(0), count.total_at(100)] == [0, 1, 0]


def test_time_that_goes_backwards_is_no_time():
    count = counted((1, 100), (1, 50))
    assert [count.total_at(50), count.total_at(100), count.total_at(108)] == [2, 2, 2]
    assert count.total_at(110) == 0


def test_columns():
    sums = RollingSums(3, window_s=10, buckets=5)
    assert sums.sums_at(3) == [0, 0, 0]
    sums.add((1, 0.25, -1), 0)
    sums.add((1, 0.5, -1), 2)
    assert sums.sums_at(2) == [2, 0.75, -2]
    assert sums.sums_at(10) == [1, 0.5, -1]
    sums.clear()
    assert sums.sums_at(2) == [0, 0, 0]
    assert repr(sums) == "RollingSums(3 columns, 5 × 2 s)"


def test_no_drift():
    """Thousands of additions and expiries of 0.1 leave nothing behind; a running total would."""
    sums = RollingSums(1, window_s=10)
    for tenth in range(20_000):
        sums.add((0.1,), tenth / 10)
    assert sums.sums_at(1999.9)[0] == pytest.approx(10.0, abs=1e-9)
    assert sums.sums_at(4000) == [0]


def test_other_names():
    assert repr(RollingCount(1)) == "RollingCount(RollingSums(1 columns, 10 × 0.1 s))"
