"""The daemon's counts against the load generator's: what is allowed to differ, and a short run of the real thing."""

import dataclasses

import pytest

from loadtests.counts import Result, run

EXACT = Result(
    replies=1000, failed=3, kills=1, killed_connections=5, counted=1000, latencies=1000, received=1000, went_down=0
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"counted": 1003, "latencies": 1003, "received": 1003}, True),
        ({"received": 1004}, False),
        ({"counted": 995, "latencies": 996}, True),
        ({"counted": 994}, False),
        ({"went_down": 1}, False),
    ],
)
def test_what_was_in_flight_may_differ(changed, expected):
    assert dataclasses.replace(EXACT, **changed).is_exact is expected


def test_a_short_run():
    done = []
    result = run(requests=3000, kills=1, connections=8, on_progress=done.append)
    assert result.is_exact, result
    assert result.kills == 1 and 0 < result.killed_connections <= 8
    assert 3000 <= result.replies < 3100  # a batch of replies may come at once
    assert done
