"""What one endpoint is known to do: its line, its charge, its odds of failure."""

import math

import pytest

from proxy.policy.pace import LEAST_S, UNKNOWN_S
from proxy.policy.site import FIRST_BANDWIDTH, LEAST_SUCCESS, Placement, Site, Terms


def site_of(slots=2, cache_bytes=0.0, bandwidth=0.0):
    site = Site()
    site.update(slots=slots, cache_bytes=cache_bytes, bandwidth_bytes_per_s=bandwidth)
    return site


def sent(site, in_flight, now, transfer_s=0.0, service_s=1.0, wait_s=0.0):
    placement = Placement(site, in_flight, (), b"", Terms(wait_s, transfer_s, 9.0, 9.0, service_s))
    site.on_sent(placement, now=now)
    return placement


# ---------------------------------------------------------------------- what is given


def test_nothing_given():
    site = site_of(slots=0)
    assert site.s_per_byte == 1.0 / FIRST_BANDWIDTH
    assert not site.is_speed_given
    assert site.service_s(b"") == site.service_s(b"etl") == UNKNOWN_S
    assert repr(site) == (
        "Site(Pace(0.030000 s, 4 slots), Holdings(0 keys, 0 of 0 bytes), 100000000 bytes/s, 0.000000 s)"
    )


def test_everything_given_and_taken_back():
    site = site_of(slots=3, cache_bytes=1e9, bandwidth=5e6)
    assert (site.pace.slots, site.holdings.capacity_bytes) == (3, 1e9)
    assert site.s_per_byte == 2e-7
    assert site.is_speed_given
    site.update(slots=0, cache_bytes=0, bandwidth_bytes_per_s=0.0)
    assert site.s_per_byte == 2e-7  # the best guess
    assert not site.is_speed_given
    assert site.holdings.capacity_bytes == 0.0


def test_service_of_a_processing_type():
    site = site_of()
    site.pace.service_s = 0.2
    site.classes[b"etl"] = 3.0
    assert site.service_s(b"etl") == pytest.approx(0.6)
    assert site.service_s(b"other") == 0.2
    assert site.service_s(b"") == 0.2


# ---------------------------------------------------------------------- charge and line


def test_the_charge_is_work_and_transfer():
    """Not the wait, which is the others' work, nor what others lose."""
    site = site_of()
    placement = sent(site, 0, now=1, transfer_s=0.5, service_s=0.25, wait_s=7.0)
    assert placement.charge_s == site.work_s == 0.75
    assert placement.work_s == 0.0
    assert repr(placement) == (
        "Placement(Terms(wait_s=7.0, transfer_s=0.5, crowding_s=9.0, eviction_s=9.0, service_s=0.25), "
        "0 keys, 0 missing)"
    )
    second = sent(site, 1, now=2)
    assert second.work_s == 0.75
    assert site.work_s == 1.75
    site.on_ended(placement, now=3)
    assert site.work_s == 1.0
    site.on_ended(second, now=4)
    assert site.work_s == 0.0


def test_charges_of_any_size_leave_nothing():
    """1 and 2^60 in floats of 53 bits: 1 is lost when it is added, and missing when it is taken away."""
    site = site_of()
    site.on_others(3.0, 0, now=0)
    placements = [
        sent(site, others, now=1, transfer_s=size) for others, size in enumerate([2.0**60, 1.0, 0.1])
    ]
    site.on_ended(placements[0], now=2)
    assert 0.0 <= site.work_s < 10.0
    site.on_ended(placements[1], now=2)
    assert site.work_s >= 0.0
    site.on_ended(placements[2], now=2)
    assert site.work_s == 3.0


def test_who_finds_a_slot_has_it_at_once():
    site = site_of(slots=2)
    first, second = sent(site, 0, now=0), sent(site, 1, now=0)
    assert (first.started_at, second.started_at) == (0, 0)
    assert not first.has_waited and not second.has_waited
    site.on_ended(first, now=0)
    site.on_ended(second, now=0)
    assert site.work_s == 0.0


def test_the_line():
    """Two slots and five requests: the third starts when one has ended, the fourth after two, the fifth after three."""
    site = site_of(slots=2)
    one, two, three, four, five = (sent(site, others, now=others) for others in range(5))
    assert [each.started_at for each in (one, two, three, four, five)] == [0, 1, None, None, None]
    assert [each.has_waited for each in (one, two, three, four, five)] == [False, False, True, True, True]
    site.on_ended(two, now=10)
    assert (three.started_at, four.started_at) == (10, None)
    site.on_others(0.0, 2, now=12)  # in another worker, both at once
    assert (four.started_at, five.started_at) == (12, 12)
    site.on_ended(one, now=13)
    site.on_ended(three, now=14)
    assert not site._line


def test_one_that_gives_up_before_its_turn():
    site = site_of(slots=1)
    first, second, third = (sent(site, others, now=1) for others in range(3))
    site.on_ended(second, now=2)
    assert list(site._line) == [third]  # whose turn it is after two ends, whoever's they are
    site.on_ended(first, now=3)
    assert third.started_at == 3
    site.on_ended(third, now=4)
    assert not site._line
    assert site.work_s == 0.0


def test_slots_that_change_while_some_wait():
    """Those in line keep the turn that they were given."""
    site = site_of(slots=1)
    placements = [sent(site, others, now=0) for others in range(6)]
    site.pace.limit(4)
    placements.append(sent(site, 6, now=0))
    for placement in placements:
        site.on_ended(placement, now=1)
    assert not site._line
    assert site.work_s == 0.0
    assert sent(site, 0, now=2).started_at == 2


def test_other_workers():
    """What they say replaces what they said before; of ends only those that are new count."""
    site = site_of(slots=1)
    first, second, third = (sent(site, others, now=0) for others in range(3))
    site.on_others(5.0, 100, now=1)  # they have been there for long
    assert site.work_s == 8.0
    assert (second.started_at, third.started_at) == (1, 1)
    fourth = sent(site, 3, now=1)
    site.on_others(2.0, 102, now=2)
    assert site.work_s == 6.0
    assert fourth.started_at is None
    site.on_others(1.5, 7, now=3)  # one of them was replaced
    assert fourth.started_at is None
    site.on_others(0.0, 8, now=4)
    assert fourth.started_at == 4
    for placement in (first, second, third, fourth):
        site.on_ended(placement, now=5)
    site.on_others(0.0, 8, now=6)
    assert site.work_s == 0.0


@pytest.mark.parametrize(
    ("others", "sent_at", "turn_at", "answered_at", "expected"),
    [
        (0, 0.0, None, 3.0, 3.0),  # had its slot all the time
        (1, 2.0, 5.0, 9.0, 4.0),
        (1, 0.0, 0.0, 4.0, 4.0),
        (1, 2.0, 9.0, 9.0, LEAST_S),
    ],
)
def test_how_long_it_had_a_slot(others, sent_at, turn_at, answered_at, expected):
    site = site_of(slots=1)
    for number in range(others):
        sent(site, number, now=sent_at)
    placement = sent(site, others, now=sent_at)
    if turn_at is not None:
        site.on_others(0.0, 1, now=turn_at)
    assert placement.worked_s(answered_at - sent_at, now=answered_at) == pytest.approx(expected)


def test_an_answer_before_its_turn_goes_by_the_wait_foretold():
    site = site_of(slots=1)
    sent(site, 0, now=1)
    placement = sent(site, 1, now=1, wait_s=2.0)
    assert placement.started_at is None
    assert placement.worked_s(5.0, now=6.0) == 3.0
    assert placement.worked_s(1.0, now=2.0) == LEAST_S


def test_time_that_goes_backwards():
    site = site_of(slots=1)
    placement = sent(site, 0, now=10)
    assert placement.worked_s(4.0, now=5) == LEAST_S
    site.on_ended(placement, now=3)
    assert site.work_s == 0.0


# ---------------------------------------------------------------------- failures


def test_all_is_well_at_first():
    site = site_of()
    assert site.success(0) == 1.0
    site.on_outcome(False, now=1)
    assert site.success(1) == 1.0


def test_failures():
    """30 % of what is left each time: 0.7, 0.49, 0.343."""
    site = site_of()
    assert not site.is_failing
    for expected in (0.7, 0.49, 0.343):
        site.on_outcome(True, now=5)
        assert site.success(5) == pytest.approx(expected)
    assert site.is_failing
    site.on_outcome(False, now=5)  # 0.657 · 0.9
    assert site.success(5) == pytest.approx(1 - 0.657 * 0.9)


def test_failures_are_forgotten():
    """Half of it after 10·ln 2 = 6.93 s."""
    site = site_of()
    site.on_outcome(True, now=100)
    assert site.success(100 + 10 * math.log(2)) == pytest.approx(0.85)
    assert site.success(1e9) == 1.0


def test_odds_have_a_floor():
    site = site_of()
    for _ in range(100):
        site.on_outcome(True, now=0)
    assert site.success(0) == LEAST_SUCCESS


def test_what_is_nearly_forgotten_is_forgotten():
    site = site_of()
    site.on_outcome(True, now=0)
    assert site.success(58) < 1.0
    site.on_outcome(False, now=58)  # 0.3·e^-5.8·0.9 = 0.00082
    assert site.success(58) == 1.0


def test_failures_and_time_that_goes_backwards():
    site = site_of()
    site.on_outcome(True, now=10)
    assert site.success(3) == pytest.approx(0.7)
    site.on_outcome(True, now=3)
    assert site.success(10) == pytest.approx(0.49)
    assert site.success(20) == pytest.approx(1 - 0.51 / math.e)
