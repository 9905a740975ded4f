import pytest

from proxy.policy.ewma import PeakEwma
from proxy.policy.response_time import UNKNOWN_S, estimate, failure_time, typical


def known(value, now=0):
    average = PeakEwma()
    average.add(value, now)
    return average


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], UNKNOWN_S),
        ([0.2], 0.2),
        ([0.4, 0.2], 0.2),
        ([9, 0.1, 0.2], 0.2),  # one that hangs is no measure for the others
        ([9, 0.1, 0.2, 0.3], 0.2),
    ],
)
def test_typical(values, expected):
    averages = [*map(known, values), PeakEwma()]
    assert typical(averages, now=0) == expected


def test_a_cold_endpoint_is_taken_for_a_typical_one():
    assert estimate(PeakEwma(), 0.2, now=5) == 0.2


def test_a_slow_endpoint_is_forgiven():
    """1 s where 10 ms are typical: as good as the others after 10·ln(100) = 46 s, tried first after 10·ln(200) = 53."""
    slow = known(1.0)
    assert estimate(slow, 0.010, now=0) == 1.0
    assert estimate(slow, 0.010, now=46) > 0.010 > estimate(slow, 0.010, now=47)
    assert estimate(slow, 0.010, now=54) == estimate(slow, 0.010, now=1000) == 0.005


def test_after_a_long_silence():
    averages = [known(1.0), known(0.1)]
    assert typical(averages, now=1e6) == 1e-6
    assert estimate(averages[0], typical(averages, now=1e6), now=1e6) == 5e-7


@pytest.mark.parametrize(
    ("waited", "typical_s", "expected"), [(0.01, 0.2, 5), (0.01, 60, 600), (300, 0.2, 300), (0, 0, 5)]
)
def test_a_failure_is_slow(waited, typical_s, expected):
    assert failure_time(waited, typical_s) == expected
