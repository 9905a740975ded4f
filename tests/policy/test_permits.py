"""Permits: what a worker does with its own, and what control makes and takes back."""

import pytest

from proxy.policy.permits import (
    QUIET_STEPS,
    Orders,
    PermitAuditor,
    PermitRow,
    Pool,
    Shares,
    counts,
    may_give,
    share,
    spread,
    takings,
    whom_to_ask,
)


def row(held=0, used=0, owed=0, want=0, since=0):
    return PermitRow(held, used, owed, want, since)


def test_a_request_uses_a_permit():
    assert row(2, 1).taken() == row(2, 2)
    assert row(2, 2).taken() is None
    assert row(2, 2).released() == row(2, 1)
    assert row(2, 1).received(3) == row(5, 1)
    assert row(2, 1).given(1) == row(1, 1)


@pytest.mark.parametrize(
    ("before", "recalled", "after"),
    [
        (row(5, 2), 2, row(3, 2)),  # idle ones go at once
        (row(5, 2), 3, row(2, 2)),
        (row(5, 2), 4, row(2, 2, 1)),  # the fourth when it comes free
        (row(2, 2), 2, row(2, 2, 2)),
        (row(0, 0), 1, row(0, 0, 1)),
    ],
)
def test_recall(before, recalled, after):
    assert before.recalled(recalled) == after
    assert after.worth == before.worth - recalled


def test_debts_are_paid_first():
    assert row(3, 3, 2).released() == row(2, 2, 1)
    assert row(2, 2, 1).released() == row(1, 1)
    assert row(1, 1, 2).received(3) == row(2, 1)
    assert row(1, 1, 2).received(1) == row(1, 1, 1)
    assert row(1, 1, 1).idle == 0
    assert row(1, 1, 1).taken() is None


def test_a_new_process_has_the_permits_and_no_requests():
    assert row(5, 3, 0, 7, 9).restarted() == row(5)
    assert row(5, 5, 2, 1, 9).restarted() == row(3)


def test_nothing_is_given_that_is_not_idle():
    with pytest.raises(AssertionError):
        row(2, 1).given(2)
    with pytest.raises(AssertionError):
        row(2, 0).released()


@pytest.mark.parametrize(
    ("rows", "shares"),
    [
        ([row(1), row(), row()], Shares()),  # nobody waits: it stays
        ([row(1, 1), row(want=1)], Shares()),  # nothing is idle
        ([row(1, want=1, since=5), row(want=1, since=6)], Shares(1)),
        ([row(1, want=1, since=6), row(want=1, since=5)], Shares(0, ((1, 1),))),
        ([row(1), row(want=1, since=6), row(want=1, since=5)], Shares(0, ((2, 1),))),
        (
            [row(3, want=1, since=20), row(want=2, since=10), row(want=1, since=30)],
            Shares(1, ((1, 1), (2, 1))),
        ),
        (
            [row(4, want=1, since=20), row(want=2, since=10), row(want=1, since=30)],
            Shares(1, ((1, 2), (2, 1))),
        ),
        ([row(9), row(want=2, since=1)], Shares(0, ((1, 2),))),
        ([row(9, 0, want=3), row()], Shares(3)),
    ],
)
def test_sharing(rows, shares):
    assert share(dict(enumerate(rows)), 0, 4) == shares


def test_nothing_is_given_during_an_audit():
    rows = {0: row(3, want=1, since=9), 1: row(want=1, since=1)}
    assert share(rows, 0, 5) == Shares(1)
    assert share(rows, 0, 5, is_leaving=True) == Shares(1)


def test_who_leaves_keeps_nothing():
    rows = {0: row(5, 1), 1: row(4), 2: row(1), 3: row(2, want=1)}
    assert share(rows, 0, 0, is_leaving=True) == Shares(0, ((1, 1), (2, 1), (3, 2)))
    assert share({0: row(5)}, 0, 0, is_leaving=True) == Shares()


def test_whom_to_ask():
    assert whom_to_ask({0: row(), 1: row(2, 1), 2: row(5, 3), 3: row(9, 9)}, 0) == 2
    assert whom_to_ask({0: row(5), 1: row(2, 2), 2: row(2, 2, 1)}, 0) is None
    assert whom_to_ask({0: row()}, 0) is None


@pytest.mark.parametrize(
    ("count", "rows", "expected"),
    [
        (6, [row(), row(), row()], [(0, 2), (1, 2), (2, 2)]),
        (4, [row(2), row(), row(1)], [(1, 2), (2, 1), (0, 1)]),
        (1, [row(), row(9, 9, want=3)], [(1, 1)]),
        (0, [row()], []),
        (5, [], []),
    ],
)
def test_new_permits(count, rows, expected):
    assert spread(count, dict(enumerate(rows))) == expected


@pytest.mark.parametrize(
    ("count", "rows", "expected"),
    [
        (2, [row(4, 3), row(3, 0)], [(1, 2)]),
        (4, [row(4, 3), row(3, 0)], [(0, 1), (1, 3)]),
        (5, [row(4, 3), row(3, 0)], [(0, 2), (1, 3)]),
        (99, [row(4, 3), row(3, 3, 1)], [(0, 4), (1, 2)]),
        (1, [], []),
    ],
)
def test_permits_taken_back(count, rows, expected):
    assert takings(count, dict(enumerate(rows))) == expected


def test_tags():
    assert [may_give(epoch) for epoch in (0, 1, 2)] == [True, False, True]
    assert [counts(tag, 4) for tag in (2, 4, 6)] == [False, True, True]


def settled(limit=4, *rows):
    """An auditor that has made `limit` permits for pool 7, which the rows show."""
    auditor = PermitAuditor()
    assert auditor.step({}, epoch=0, acks=[]) == Orders(1)
    assert auditor.step({}, epoch=1, acks=[]) == Orders(2)
    workers = dict(enumerate(rows or [row(), row()]))
    auditor.step({7: Pool(limit, workers)}, epoch=2, acks=[2, 2])
    return auditor


def test_a_new_control_begins_with_an_audit():
    """It does not know what is under way: here two of four, which will not count any more."""
    auditor, pools = PermitAuditor(), {7: Pool(4, {0: row(2, 2), 1: row()})}
    assert auditor.step(pools, epoch=8, acks=[8, 8]) == Orders(9)
    assert auditor.step(pools, epoch=9, acks=[9, 8]) == Orders(9)  # not everybody has seen it
    assert auditor.step(pools, epoch=9, acks=[9, 9]) == Orders(10, [(7, 1, 1), (7, 0, 1)])
    assert repr(auditor) == "PermitAuditor(issued {7: 4})"


def test_an_interrupted_audit_is_finished():
    auditor, pools = PermitAuditor(), {7: Pool(4, {0: row(4, 1), 1: row(2)})}
    assert auditor.step(pools, epoch=9, acks=[9, 9]) == Orders(10, [], [(7, 0, 2)])
    assert auditor.step({7: Pool(4, {0: row(2, 1), 1: row(2)})}, epoch=10, acks=[]) == Orders(10)


def test_new_pools_and_limits_need_no_audit():
    auditor = settled(4, row(2), row(2))
    both = {7: Pool(6, {0: row(2), 1: row(2)}), 8: Pool(1, {0: row(), 1: row()})}
    assert auditor.step(both, epoch=2, acks=[2]) == Orders(2, [(7, 0, 1), (7, 1, 1), (8, 0, 1)])
    lowered = {7: Pool(3, {0: row(3, 3), 1: row(3, 1)}), 8: Pool(1, {0: row(1), 1: row()})}
    assert auditor.step(lowered, epoch=2, acks=[2]) == Orders(2, [], [(7, 0, 1), (7, 1, 2)])
    owing = {7: Pool(3, {0: row(3, 3, 1), 1: row(1, 1)}), 8: lowered[8]}
    for _ in range(9):  # what is owed is as good as gone
        assert auditor.step(owing, epoch=2, acks=[2]) == Orders(2)


def test_a_limit_that_is_raised_again_forgives_debts():
    """The recall may still lie in a mailbox: a permit made before it is counted could be one too many."""
    auditor = settled(4, row(2), row(2))
    busy = {0: row(2, 2), 1: row(2, 2)}
    assert auditor.step({7: Pool(3, busy)}, epoch=2, acks=[2]) == Orders(2, [], [(7, 0, 1)])
    assert auditor.step({7: Pool(5, busy)}, epoch=2, acks=[2]) == Orders(3)
    owing = {0: row(2, 2, 1), 1: row(2, 2)}
    assert auditor.step({7: Pool(5, owing)}, epoch=3, acks=[3]) == Orders(4, [(7, 0, 1), (7, 0, 1)])
    assert row(2, 2, 1).received(1).received(1) == row(3, 2)


def test_what_stays_lost_is_found():
    auditor = settled()
    lost = {7: Pool(4, {0: row(2), 1: row(1, 1)})}
    for _ in range(QUIET_STEPS):
        assert auditor.step(lost, epoch=2, acks=[2, 2]) == Orders(2)
    assert auditor.step(lost, epoch=2, acks=[2, 2]) == Orders(3)
    assert auditor.step(lost, epoch=3, acks=[3, 3]) == Orders(4, [(7, 1, 1)])


def test_what_is_under_way_is_not_lost():
    """Permits go to and fro between two busy workers: the rows never add up, and never stand still."""
    auditor = settled()
    for step in range(20):
        moving = {7: Pool(4, {0: row(1 + step % 2, 1), 1: row(2 - step % 2)})}
        assert auditor.step(moving, epoch=2, acks=[2]) == Orders(2)


def test_pools_that_are_gone_are_forgotten():
    auditor = settled()
    assert auditor.step({}, epoch=2, acks=[2]) == Orders(2)
    assert repr(auditor) == "PermitAuditor(issued {})"


def test_without_workers_there_is_nobody_to_give_to():
    auditor = settled(4)
    assert auditor.step({8: Pool(3, {})}, epoch=2, acks=[]) == Orders(2)
    assert auditor.step({8: Pool(3, {1: row()})}, epoch=2, acks=[]) == Orders(2, [(8, 1, 3)])
