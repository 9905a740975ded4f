"""Precedence of states, their word, and the panic rule."""

from itertools import product

import pytest

from proxy.policy.breaker import Permission
from proxy.policy.health import HealthState
from proxy.policy.standing import (
    IN_USE,
    IN_USE_IN_PANIC,
    Marks,
    PanicParams,
    Standing,
    are_all_open,
    is_on_trial,
    is_panic,
    standing,
    unpack_marks,
)

READY, DOWN, NEW = HealthState.HEALTHY, HealthState.UNHEALTHY, HealthState.UNKNOWN


def named(marks, circuit=Permission.SEND, is_removed=False, now=100, check_by=101):
    return standing(marks, circuit, slow_start_s=30, now=now, check_by=check_by, is_removed=is_removed)


def test_precedence():
    """Each state hides those after it: taking the worst away, one after the other, uncovers the next."""
    worst = dict(is_drained=True, health=DOWN, is_ejected=True, since=90.0)
    seen = [
        named(Marks(**worst), Permission.REFUSE, is_removed=True),
        named(Marks(**worst), Permission.REFUSE),
    ]
    worst["is_drained"] = False
    seen.append(named(Marks(**worst), Permission.REFUSE))
    for change in (
        {"health": DOWN},
        {"health": NEW},
        {"health": NEW, "check_by": 100},
        {"health": READY},
        {"is_ejected": False},
        {"since": 0.0},
    ):
        check_by = change.pop("check_by", 101)
        worst |= change
        seen.append(named(Marks(**worst), check_by=check_by))
    assert seen == list(Standing)


@pytest.mark.parametrize(
    ("since", "now", "expected"),
    [
        (0, 5, Standing.READY),  # there since the start
        (90, 100, Standing.SLOW_START),
        (90, 119.9, Standing.SLOW_START),
        (90, 120, Standing.READY),
    ],
)
def test_slow_start_ends(since, now, expected):
    assert named(Marks(since=since), now=now) is expected


def test_a_trial_is_still_an_open_circuit():
    assert named(Marks(), Permission.TRIAL) is Standing.CIRCUIT_OPEN
    assert is_on_trial(Marks(is_ejected=True), Permission.TRIAL)
    assert not is_on_trial(Marks(), Permission.REFUSE)
    assert not is_on_trial(Marks(), Permission.SEND)
    assert not is_on_trial(Marks(is_drained=True), Permission.TRIAL)
    assert not is_on_trial(Marks(health=DOWN), Permission.TRIAL)


def test_words():
    assert Marks().pack() == 0
    for drained, health, ejected, since in product([False, True], HealthState, [False, True], [0.0, 12.345]):
        marks = Marks(drained, health, ejected, since)
        assert unpack_marks(marks.pack()) == marks
    assert 0 < Marks(True, DOWN, True, 1e30).pack() < 2**45


@pytest.mark.parametrize(
    ("standings", "below_percent", "expected"),
    [
        ("RR", 50, False),
        ("RU", 50, False),  # half is not below half
        ("UU", 50, True),
        ("RUU", 50, True),
        ("RRU", 50, False),
        ("RED", 50, False),  # who is drained is not missed
        ("SEE", 50, True),
        ("COO", 50, True),
        ("CCC", 50, False),  # the answer comes in seconds
        ("RRCCC", 50, False),
        ("UCC", 50, False),
        ("UUC", 50, True),
        ("NNN", 50, True),  # nobody will tell
        ("ROO", 50, True),
        ("", 50, False),
        ("DD", 50, False),
        ("UU", 0, False),
        ("RRRU", 100, True),
        ("RRRR", 100, False),
    ],
)
def test_panic(standings, below_percent, expected):
    letters = {
        "R": Standing.READY, "S": Standing.SLOW_START, "U": Standing.UNHEALTHY, "C": Standing.UNCHECKED,
        "N": Standing.OVERDUE, "E": Standing.EJECTED, "D": Standing.DRAINED, "O": Standing.CIRCUIT_OPEN,
    }  # fmt: skip
    assert is_panic([letters[letter] for letter in standings], PanicParams(below_percent)) is expected


def test_panic_overrides_guesses_alone():
    assert IN_USE_IN_PANIC - IN_USE == {Standing.UNHEALTHY, Standing.OVERDUE, Standing.EJECTED}
    assert {Standing.UNCHECKED, Standing.REMOVED, Standing.DRAINED, Standing.CIRCUIT_OPEN}.isdisjoint(
        IN_USE_IN_PANIC
    )


@pytest.mark.parametrize(
    ("standings", "expected"),
    [("", False), ("o", True), ("oo", True), ("ooD", True), ("D", False), ("ou", False), ("or", False)],
)
def test_all_open(standings, expected):
    letters = {
        "o": Standing.CIRCUIT_OPEN,
        "D": Standing.DRAINED,
        "u": Standing.UNHEALTHY,
        "r": Standing.READY,
    }
    assert are_all_open([letters[letter] for letter in standings]) is expected
