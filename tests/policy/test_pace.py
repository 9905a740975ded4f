"""Service times and slots, learned from times of answers as services with known slots would give them."""

import pytest

from proxy.policy.pace import (
    ENOUGH,
    FIRST_SLOTS,
    FIT_EARLY,
    FIT_EVERY,
    LEAST_S,
    MOST_IN_FLIGHT,
    SLOTS,
    UNKNOWN_S,
    Pace,
    wait_s,
)


@pytest.mark.parametrize(
    ("in_flight", "work_s", "slots", "expected"),
    [
        (0, 0.0, 1, 0.0),
        (3, 99.0, 4, 0.0),  # a slot is free, whatever the others do
        (4, 2.0, 4, 0.125),  # one of four has to end: 1/4 · 2/4
        (7, 2.8, 4, 0.4),
        (1, 3.0, 1, 3.0),
        (5, 3.0, 1, 3.0),
        (5, 0.0, 4, 0.0),
        (4, 2.0**50, 4, 2.0**46),
    ],
)
def test_wait(in_flight, work_s, slots, expected):
    assert wait_s(in_flight, work_s, slots) == pytest.approx(expected)


def fifo(pace, slots, service_s, loads, rounds=40):
    """Answers of an endpoint that works on `slots` at once, in order, and says nothing of waits."""
    for _ in range(rounds):
        for others in loads:
            work_s = others * service_s
            waited = wait_s(others, work_s, slots)
            if pace.add(waited + service_s, service_s, others, work_s):
                pace.fit([pace])


def sharing(pace, cores, service_s, loads, rounds=40):
    """Answers of an endpoint that shares its cores among all: n others make a request (n + 1) / cores times as long."""
    for _ in range(rounds):
        for others in loads:
            took_s = service_s * max(1.0, (others + 1) / cores)
            if pace.add(took_s, took_s, others, others * service_s):
                pace.fit([pace])


def test_nothing_is_known_at_first():
    pace = Pace()
    assert (pace.service_s, pace.slots, pace.is_known) == (UNKNOWN_S, FIRST_SLOTS, False)
    assert repr(pace) == "Pace(0.030000 s, 4 slots)"


def test_the_first_answer_counts():
    pace = Pace()
    assert pace.add(0.2, 0.2, 0, 0.0)
    pace.fit([])
    assert pace.is_known
    assert pace.service_s == pytest.approx(0.2)
    assert pace.slots == FIRST_SLOTS  # who was alone saw nothing of slots


def test_when_to_fit():
    pace = Pace()
    due = [number for number in range(1, 3 * FIT_EVERY + 1) if pace.add(0.1, 0.1, 0, 0.0)]
    assert due == [*FIT_EARLY, FIT_EVERY, 2 * FIT_EVERY, 3 * FIT_EVERY]


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("service_s", [0.0001, 0.02, 5.0])
def test_slots_of_an_endpoint_with_a_line(slots, service_s):
    pace = Pace()
    fifo(pace, slots, service_s, range(0, 3 * slots + 2))
    assert pace.slots == slots
    assert pace.service_s == pytest.approx(service_s)


@pytest.mark.parametrize("cores", [1, 2, 4, 8])
def test_slots_of_an_endpoint_that_shares_its_cores(cores):
    """The same number, up to the next one: with n others, (n + 1) / m service times are n - m + 1 waits of 1/m and one
    of work."""
    pace = Pace()
    sharing(pace, cores, 0.02, range(0, 3 * cores + 2))
    assert abs(SLOTS.index(pace.slots) - SLOTS.index(cores)) <= 1
    assert pace.service_s == pytest.approx(0.02, rel=0.01)


def test_slots_where_nobody_comes_without_a_line():
    """Always 8 to 12 others: the service time is then what is left of the times without the waits."""
    pace = Pace()
    fifo(pace, 2, 0.05, range(8, 13))
    assert pace.slots == 2
    assert pace.service_s == pytest.approx(0.05)


def test_more_in_flight_than_are_told_apart():
    pace = Pace()
    pace.add(1.0, 0.1, MOST_IN_FLIGHT - 1, 10.0)
    pace.add(1.0, 0.1, 100_000, 10.0)
    pace.fit([pace])
    assert pace._counts[-1] == pytest.approx(1.98)
    assert pace.slots in SLOTS


def test_a_slower_endpoint_is_known_as_such():
    """After 50 answers the old times weigh 0.98^50 = 36 %, after 200 less than 2 %."""
    pace = Pace()
    fifo(pace, 4, 0.01, [0], rounds=FIT_EVERY * 4)
    assert pace.service_s == pytest.approx(0.01)
    fifo(pace, 4, 0.1, [0], rounds=FIT_EVERY * 4)
    assert pace.service_s == pytest.approx(0.1, rel=0.02)


def test_times_that_go_backwards_count_as_none():
    pace = Pace()
    pace.add(-5.0, -5.0, 0, 0.0)
    pace.fit([pace])
    assert pace.service_s == LEAST_S


def test_huge_times():
    pace = Pace()
    for others in range(8):
        pace.add(2.0**50, 2.0**50, others, 2.0**50 * others)
    pace.fit([pace])
    assert pace.service_s == pytest.approx(2.0**50)
    assert pace.slots in SLOTS


# ---------------------------------------------------------------------- given slots


def test_given_slots_stay():
    pace = Pace(3)
    fifo(pace, 16, 0.02, range(0, 40))
    assert pace.slots == 3
    assert pace.service_s == pytest.approx(0.02)
    pace.limit(5)
    assert pace.slots == 5


def test_slots_that_are_no_longer_given_are_learned():
    pace = Pace(9)  # not a number that is tried
    pace.limit(0)
    assert pace.slots == 9
    fifo(pace, 2, 0.02, range(0, 10))
    assert pace.slots == 2


# ---------------------------------------------------------------------- the others


def test_one_that_saw_little_goes_by_what_the_others_saw():
    others = [Pace() for _ in range(3)]
    for number, pace in enumerate(others, 1):
        fifo(pace, 8, 0.01 * number, range(0, 24))
    fresh = Pace()
    fresh.add(0.5, 0.5, 0, 0.0)
    fresh.fit([*others, fresh])
    assert fresh.slots == 8
    assert fresh.service_s == 0.5  # its own


def test_others_that_nobody_knows_do_not_count():
    fresh = Pace()
    fresh.add(0.5, 0.5, 0, 0.0)
    fresh.fit([Pace(), Pace(), fresh])
    assert fresh.slots == FIRST_SLOTS


def test_one_that_is_different_is_met_half_way():
    """What three others with 8 slots saw weighs twice as much as what the one with 2 shows."""
    others = [Pace() for _ in range(3)]
    for pace in others:
        fifo(pace, 8, 0.01, range(0, 24))
    small = Pace()
    for _ in range(int(4 * ENOUGH)):
        for load in range(0, 24):
            work_s = load * 0.01
            if small.add(wait_s(load, work_s, 2) + 0.01, 0.01, load, work_s):
                small.fit([*others, small])
    assert 2 < small.slots < 8


def test_two_numbers_that_fit_alike_do_not_alternate():
    """A number of slots is given up for one that fits better by 2 %, not for any other."""
    pace = Pace()
    seen = set()
    for number in range(2000):
        others = number % 4
        took_s = 0.02 + (0.0001 if number % 3 else -0.0001)
        if pace.add(took_s, took_s, others, others * 0.02):
            pace.fit([pace])
            if number > 200:
                seen.add(pace.slots)
    assert len(seen) == 1


def test_an_endpoint_that_became_slow_under_load_is_seen_to_be():
    """It has had a line before every request ever since, so none shows its service time by itself."""
    pace = Pace(slots=4)
    fifo(pace, 4, 0.01, range(0, 8))
    assert pace.service_s == pytest.approx(0.01)
    fifo(pace, 4, 0.05, range(6, 12), rounds=400)
    assert pace.service_s == pytest.approx(0.05, rel=0.02)
