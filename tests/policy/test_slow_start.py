"""The weight ramp. Times are seconds."""

import pytest

from proxy.policy.slow_start import SlowStartParams, odds, ramp


@pytest.mark.parametrize(
    ("aggression", "age_s", "expected"),
    [
        (1, -5, 0.1),
        (1, 0, 0.1),
        (1, 4, 0.1),
        (1, 10, 0.25),
        (1, 39, 0.975),
        (1, 40, 1),
        (1, 1000, 1),
        (2, 10, 0.5),
        (0.5, 20, 0.25),
    ],
)
def test_ramp(aggression, age_s, expected):
    params = SlowStartParams(window_s=40, min_percent=10, aggression=aggression)
    assert ramp(params, age_s) == pytest.approx(expected)


@pytest.mark.parametrize("params", [SlowStartParams(window_s=0), SlowStartParams(min_percent=100)])
@pytest.mark.parametrize("age_s", [-0.001, 0])
def test_off(params, age_s):
    """Also for an endpoint that came back in the next millisecond, which is what a rounded time may say."""
    assert ramp(params, age_s) == 1


def test_never_falls():
    shares = [ramp(SlowStartParams(), age_s) for age_s in range(60)]
    assert shares == sorted(shares)
    assert (shares[0], shares[30]) == (0.1, 1)


@pytest.mark.parametrize(
    ("ages_s", "usable", "expected"),
    [([3, 15], 3, [0.1, 0.5]), ([3, 15], 2, [0.2, 1.0]), ([0, 0], 2, [1.0, 1.0]), ([0], 2, [0.1])],
)
def test_odds(ages_s, usable, expected):
    """Of a pick; at a cold start nobody is held back."""
    assert odds(SlowStartParams(), ages_s, usable) == pytest.approx(expected)
