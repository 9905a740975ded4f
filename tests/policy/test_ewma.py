from math import exp

import pytest

from proxy.policy.ewma import PeakEwma


def timeline(*samples):
    average = PeakEwma(decay_s=10.0)
    for value, now in samples:
        average.add(value, now)
    return average


@pytest.mark.parametrize(
    ("samples", "at", "expected"),
    [
        ([], 5, 0.0),
        ([(0.3, 7)], 7, 0.3),
        ([(1.0, 0), (0.1, 10)], 10, 0.4311),  # 1·e⁻¹ + 0.1·(1 - e⁻¹)
        ([(1.0, 0), (0.1, 10), (2.0, 11)], 11, 2.0),  # a peak counts in full
        ([(1.0, 0), (0.1, 0)], 0, 1.0),  # no time has passed: the old value has all the weight
        ([(1.0, 0)], 10, 0.3679),
        ([(1.0, 0)], 30, 0.0498),
        ([(1.0, 0), (0.1, 10)], 20, 0.1586),
    ],
)
def test_timeline(samples, at, expected):
    assert timeline(*samples).value_at(at) == pytest.approx(expected, abs=1e-4)


def test_reads_do_not_mutate():
    average = timeline((1.0, 0))
    assert [average.value_at(10) for _ in range(3)] == [exp(-1)] * 3
    assert average.value_at(0) == 1.0
    assert repr(average) == "PeakEwma(1 at 0)"


def test_time_that_goes_backwards_is_ignored():
    average = timeline((1.0, 100), (0.5, 90))
    assert average.value_at(90) == 1.0
    assert average.value_at(110) == exp(-1)
    average.add(3.0, 95)
    assert average.value_at(100) == 3.0


def test_unknown():
    average = PeakEwma()
    assert not average.is_known
    assert repr(average) == "PeakEwma(unknown)"
    average.add(0.0, -5)
    assert average.is_known
    assert average.value_at(0) == 0.0
