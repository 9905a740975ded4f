"""The accept gate: whose turn it is, with rows written by hand and a clock that stands."""

import pytest

from proxy.dataplane.gate import PATIENCE_S, AcceptGate
from proxy.scoreboard import FRESH_MS, W_ACCEPTING, W_CONNECTIONS, W_HEARTBEAT_MS, Scoreboard


class World:
    """Three worker slots; the gate is that of the first."""

    def __init__(self):
        self.board = Scoreboard(workers=3, endpoints=1)
        self.now = 100.0
        self.gate = AcceptGate(self.board, 0, lambda: self.now)
        self.gate.workers = 3

    def worker(self, number, connections, *, age_s=0.0, is_accepting=1):
        row = self.board.worker_row(number)
        row[W_CONNECTIONS], row[W_ACCEPTING] = connections, is_accepting
        row[W_HEARTBEAT_MS] = int((self.now - age_s) * 1000)


@pytest.fixture
def world():
    return World()


def test_the_one_with_fewest_takes_it(world):
    world.worker(0, 4)
    world.worker(1, 4)
    world.worker(2, 9)
    assert world.gate.is_open()
    world.worker(0, 5)
    assert not world.gate.is_open()


@pytest.mark.parametrize(
    "state",
    [
        {"age_s": FRESH_MS / 1000 + 0.1},  # stopped or stuck
        {"is_accepting": 0},  # drains
    ],
)
def test_who_takes_none_does_not_count(world, state):
    """A stopped worker at 0 would stall all others."""
    world.worker(0, 50)
    world.worker(1, 0, **state)
    world.worker(2, 50)
    assert world.gate.is_open()


def test_nobody_waits_for_ever(world):
    """The others may have less and not come: after a while it is taken anyway."""
    world.worker(0, 5)
    world.worker(1, 0)
    world.worker(2, 0)
    looks = 0
    while not world.gate.is_open():
        looks += 1
        world.now += 0.001
    assert looks == pytest.approx(PATIENCE_S / 0.001, abs=1)
    assert not world.gate.is_open(), "the patience is of one connection, not of all that follow"


def test_a_connection_that_another_took_ends_the_patience(world):
    world.worker(0, 5)
    world.worker(1, 0)
    assert not world.gate.is_open()
    world.now += 2 * PATIENCE_S  # nothing to accept for a while
    assert not world.gate.is_open()


def test_alone(world):
    board = Scoreboard(workers=1, endpoints=1)
    gate = AcceptGate(board, 0, lambda: 1.0)
    board.worker_row(0)[W_CONNECTIONS] = 1000
    assert gate.is_open()
    assert gate.other_connections == 0


def test_connections_of_others(world):
    world.worker(0, 5)
    world.worker(1, 3)
    world.worker(2, 4, is_accepting=0)
    assert world.gate.other_connections == 7
