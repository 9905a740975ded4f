"""Pauses between starts, and when an instance is given up. Times are seconds."""

import pytest

from proxy.policy.replacing import Patience, ReplacementParams, Starts

PARAMS = ReplacementParams()


def test_pauses_double_up_to_the_longest():
    starts, now, pauses = Starts(PARAMS), 0.0, []
    for _ in range(12):
        pauses.append(starts.on_failed(now=now))
        now += 1000
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert repr(starts) == "Starts(12 failed in a row, next at 11300)"


def test_a_thousand_failures_are_no_overflow():
    starts = Starts(PARAMS)
    assert [starts.on_failed(now=number * 1000.0) for number in range(2000)][-1] == 300


def test_no_storm():
    """An image that never gets healthy: a start at a time, whatever the target, and ever fewer."""
    starts = Starts(PARAMS)
    assert starts.allowed(0, now=0) is None
    begun, starting_until = 0, None
    for now in range(3600):
        if starting_until is not None and now >= starting_until:
            starts.on_failed(now=now)
            starting_until = None
        if starting_until is None and starts.allowed(0, now=now) != 0:
            begun, starting_until = begun + 1, now + 5
    assert begun < 22


def test_those_that_were_started_together_fail_as_one():
    starts = Starts(PARAMS)
    assert [starts.on_failed(now=now) for now in (10, 10, 10.5)] == [1, 1, 0.5]
    assert starts.failed == 1


def test_after_the_pause_one_start_at_a_time():
    starts = Starts(PARAMS)
    starts.on_failed(now=0)
    assert starts.next_at() == 1
    assert [starts.allowed(0, now=now) for now in (0, 0.9, 1)] == [0, 0, 1]
    assert starts.allowed(1, now=5) == 0
    starts.on_settled()
    assert starts.allowed(7, now=5) is None


def test_an_accident_is_replaced_at_once():
    starts = Starts(PARAMS)
    assert starts.on_death(60, now=0) == 0
    assert starts.allowed(0, now=0) is None


def test_healthy_for_a_moment_is_a_failed_start():
    """A service that answers its first check and then dies would otherwise be started for ever."""
    starts = Starts(PARAMS)
    assert [starts.on_death(5, now=now) for now in (0, 10, 20)] == [1, 2, 4]


def test_an_accident_waits_for_a_pause_that_others_caused():
    starts = Starts(PARAMS)
    starts.on_failed(now=0)
    starts.on_failed(now=10)
    assert starts.on_death(600, now=11) == 1


def test_changed_parameters():
    starts = Starts(PARAMS)
    starts.on_failed(now=0)
    starts.change(ReplacementParams(first_pause_s=10))
    assert starts.next_at() == 1
    assert starts.on_failed(now=5) == 20


def test_an_instance_is_waited_for_as_long_as_its_grace():
    patience = Patience(PARAMS)
    patience.on_unhealthy(now=0)
    patience.on_unhealthy(now=10)
    assert patience.why_replace(now=14.9) is None
    assert patience.why_replace(now=15) == "not healthy for 15 s"
    patience.on_healthy()
    assert patience.why_replace(now=100) is None


def test_the_engine_restarts_in_place_first():
    patience = Patience(PARAMS)
    patience.on_restart(now=0)
    assert patience.why_replace(now=3) is None
    patience.on_healthy()
    assert patience.why_replace(now=60) is None


@pytest.mark.parametrize(
    ("times", "reason"), [((0, 100, 200), "3 restarts in 200 s"), ((0, 100, 300), None), ((0, 100), None)]
)
def test_too_many_restarts_in_place(times, reason):
    """Healthy in between, so the grace alone would never end it."""
    patience = Patience(PARAMS)
    for now in times:
        patience.on_restart(now=now)
        patience.on_healthy()
    assert patience.why_replace(now=times[-1]) == reason
    assert repr(patience) == f"Patience(ill since None, {len(times)} restarts)"
