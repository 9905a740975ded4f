"""The largest value of a window. Times are seconds."""

from proxy.policy.largest import RollingLargest


def test_the_example():
    largest = RollingLargest(10)
    added = [(0, 5), (4, 3), (8, 2), (10, 1), (14, 1)]
    assert [largest.add(value, now) for now, value in added] == [5, 5, 5, 3, 2]
    assert repr(largest) == "RollingLargest(2 in 10 s)"


def test_a_window_that_became_shorter():
    largest = RollingLargest(100)
    largest.add(9, 0)
    largest.window_s = 10
    assert largest.add(1, 20) == 1


def test_the_last_value_is_always_in_it():
    assert RollingLargest(0).add(4, 0) == 4
