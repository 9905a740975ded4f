"""Slopes, and what is chance. Times are seconds."""

import pytest

from proxy.policy.trend import Trend


def trend(values, every=1, window=60):
    made = Trend(window)
    for number, value in enumerate(values):
        made.add(value, number * every)
    return made, (len(values) - 1) * every


@pytest.mark.parametrize(
    ("values", "rise"),
    [
        ([1, 2, 3, 4], 1.0),
        ([0, 0.5, 1.0, 1.5, 2.0], 0.5),
        ([4, 3, 2, 1], 0.0),
        ([2, 2, 2, 2], 0.0),
        ([1, 3, 1, 3], 0.0),
        ([1, 2, 3], 0.0),
        ([], 0.0),
    ],
)
def test_rise(values, rise):
    made, now = trend(values)
    assert made.rise_at(now) == pytest.approx(rise)


def test_what_is_older_than_the_window_says_nothing():
    made, now = trend([100, 90, 80, 1, 2, 3, 4, 5], window=5)
    assert made.rise_at(now) == pytest.approx(1.0)
    assert made.rise_at(now + 5) == 0.0


def test_it_keeps_at_most_a_value_for_each_60th_of_the_window():
    made, _ = trend(range(10_000), every=0.01)
    assert repr(made) == "Trend(60 values in 60 s)"


def test_time_that_goes_backwards_is_left_out():
    made, now = trend([1, 2, 3, 4])
    made.add(1000, now - 2)
    assert made.rise_at(now) == pytest.approx(1.0)
