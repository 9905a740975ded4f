"""When a process starts again, and which one hangs. Times are seconds; heartbeats milliseconds."""

import pytest

from proxy.policy.supervision import Pulse, PulseParams, RestartParams, Restarts


@pytest.mark.parametrize(
    ("lives", "pauses"),
    [
        ([9, 9, 9], [0, 0, 0]),
        ([9, 1, 1, 1, 1], [0, 0, 0.25, 0.5, 1]),
        ([0, 0, 0, 5, 0, 0], [0, 0.25, 0.5, 0, 0, 0.25]),
        ([0] * 12, [0, 0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]),
    ],
)
def test_pauses_between_starts(lives, pauses):
    restarts = Restarts()
    assert [restarts.on_death(life) for life in lives] == pauses


def test_pauses_of_other_parameters():
    restarts = Restarts(RestartParams(first_pause_s=2, max_pause_s=3, settled_after_s=100))
    assert [restarts.on_death(99) for _ in range(4)] == [0, 2, 3, 3]


def looks(pulse, seconds, beat_ms=None, burnt_s=lambda now: 0.0, is_stopped=False, start=0.0):
    """Asks every 0.1 s until `seconds`; the time at which it was found stuck, or `None`."""
    for tick in range(1, round((seconds - start) * 10) + 1):
        now = start + tick / 10
        beat = int(now * 1000) if beat_ms is None else beat_ms
        if pulse.is_stuck(beat, burnt_s=burnt_s(now), is_stopped=is_stopped, now=now):
            return now
    return None


def about(seconds):
    """Within one look."""
    return pytest.approx(seconds, abs=0.11)


def beaten(now=1.0):
    """A pulse whose last beat was at `now`."""
    pulse = Pulse(0.0)
    assert looks(pulse, now) is None
    return pulse


def test_a_process_that_beats_is_alive():
    assert looks(Pulse(0.0), 60.0, burnt_s=lambda now: now) is None


def test_an_endless_loop_is_stuck_soon():
    """It burns CPU all the time and never comes round."""
    assert looks(beaten(), 9.0, 1000, burnt_s=lambda now: now, start=1.0) == about(1.5)


def test_a_stopped_process_is_stuck_soon():
    assert looks(beaten(), 9.0, 1000, is_stopped=True, start=1.0) == about(1.3)


def test_a_process_that_gets_no_cpu_is_given_time():
    """On a machine with more work than cores a healthy process may be silent; it is not killed for that."""
    starved = looks(beaten(), 19.0, 1000, burnt_s=lambda now: (now - 1.0) * 0.03, start=1.0)
    assert starved == about(11.0)


def test_a_look_that_came_late_proves_nothing():
    """Whoever asks was held up too: the whole machine may have been suspended."""
    pulse = beaten()
    assert not pulse.is_stuck(1000, burnt_s=1.0, is_stopped=True, now=11.0)
    assert looks(pulse, 20.0, 1000, is_stopped=True, start=11.0) == about(11.2)


def test_looks_that_always_come_late_find_it_in_the_end():
    """On a machine that is busy without an end each look may be late."""
    pulse = beaten()
    late = [pulse.is_stuck(1000, burnt_s=9.0, is_stopped=False, now=1.0 + 0.4 * look) for look in range(1, 9)]
    assert late == [False] * 3 + [True] * 5


def test_a_start_may_take_longer_than_a_beat():
    assert looks(Pulse(0.0), 29.0, 0, burnt_s=lambda now: now) is None
    assert looks(Pulse(0.0), 40.0, 0) == about(30.0)


def test_parameters():
    pulse = Pulse(0.0, PulseParams(silent_s=1.0, burnt_s=0.2, blocked_s=2.0, start_s=5.0))
    assert looks(pulse, 9.0, 0) == about(5.0)


def test_time_that_goes_backwards_kills_nobody():
    pulse = beaten(5.0)
    assert not pulse.is_stuck(5000, burnt_s=9.0, is_stopped=True, now=1.0)
