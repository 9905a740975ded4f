"""Connections by listener in a worker's row."""

import pytest

from proxy.listener_counts import ListenerCount, connections_of
from proxy.scoreboard import MAX_LISTENERS, Scoreboard


@pytest.fixture
def row():
    return Scoreboard(workers=1, endpoints=1).worker_row(0)


def test_each_has_its_own(row):
    edge, side = ListenerCount(row, "edge"), ListenerCount(row, "side")
    for _ in range(3):
        edge.add(1)
    side.add(1)
    edge.add(-1)
    assert (connections_of(row, "edge"), connections_of(row, "side"), connections_of(row, "else")) == (
        2,
        1,
        0,
    )
    assert edge.connections == 2


def test_one_that_is_opened_again_under_its_name(row):
    """What is left of the first still counts."""
    first = ListenerCount(row, "edge")
    first.add(2)
    second = ListenerCount(row, "edge")
    second.add(1)
    assert connections_of(row, "edge") == 3
    first.add(-2)
    first.close()
    assert connections_of(row, "edge") == 1


def test_one_that_is_renamed(row):
    edge = ListenerCount(row, "edge")
    edge.add(2)
    edge.rename("front")
    edge.add(1)
    assert (connections_of(row, "edge"), connections_of(row, "front")) == (0, 3)


def test_pairs_are_used_again(row):
    for number in range(3 * MAX_LISTENERS):
        count = ListenerCount(row, str(number))
        count.add(1)
        count.add(-1)
        count.close()
    count = ListenerCount(row, "edge")
    count.add(1)
    assert (connections_of(row, "edge"), connections_of(row, "0")) == (1, 0)


def test_those_beyond_count_for_everybody(row):
    """Better that a drain waits for too many than for too few."""
    counts = [ListenerCount(row, str(number)) for number in range(MAX_LISTENERS + 1)]
    for count in counts:
        count.add(1)
    counts[-1].rename("last")
    assert connections_of(row, "0") == 1 + 2
    for count in counts[-2:]:
        count.add(-1)
        count.close()
    assert connections_of(row, "0") == 1


def test_a_dead_workers_are_gone():
    board = Scoreboard(workers=1, endpoints=1)
    ListenerCount(board.worker_row(0), "edge").add(1)
    board.clear_gauges(0)
    assert connections_of(board.worker_row(0), "edge") == 0
