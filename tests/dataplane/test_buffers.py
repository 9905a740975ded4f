"""Looks at thousands of connections: in pieces, seldom while little waits, and the worst are cut first."""

import logging
from collections import deque

import pytest

from proxy.dataplane.buffers import LOOK_S, PAUSE_S, PIECE, BufferBudget
from proxy.dataplane.pieces import Pieces
from proxy.errors import Reason
from proxy.scoreboard import W_BUFFERED_BYTES, WORKER_WORDS


class Loop:
    """Turned by hand."""

    def __init__(self):
        self.calls = deque()
        self.pauses = []

    def call_soon(self, call):
        self.call_later(0.0, call)

    def call_later(self, pause_s, call):
        self.pauses.append(pause_s)
        self.calls.append(call)

    def turn(self):
        self.calls.popleft()()

    def run(self):
        while self.calls:
            self.turn()


class Connection:
    asked = 0

    def __init__(self, waiting):
        self.waiting = waiting
        self.is_cut = False

    @property
    def buffered_bytes(self):
        Connection.asked += 1
        return 0 if self.is_cut else self.waiting

    def abort(self, reason):
        assert reason is Reason.OVER_BUFFER_BUDGET
        self.is_cut = True


@pytest.fixture
def loop():
    return Loop()


class Watched:
    """A budget over connections with so many bytes each."""

    def __init__(self, loop, *waiting):
        self.row = [0] * WORKER_WORDS
        self.connections = {Connection(one): None for one in waiting}
        self.budget = BufferBudget(loop, self.row, self.connections)

    @property
    def cut(self):
        return [one.waiting for one in self.connections if one.is_cut]

    def looks_at(self, limit, now):
        """How many it asks in one tick, before the loop turns."""
        before = Connection.asked
        self.budget.tick(limit, now)
        return Connection.asked - before


def test_never_many_at_a_time(loop):
    watched = Watched(loop, *[1] * 2500)
    assert watched.looks_at(10_000, 1.0) == PIECE
    while loop.calls:
        before = Connection.asked
        loop.turn()
        assert Connection.asked - before <= PIECE
    assert watched.row[W_BUFFERED_BYTES] == 2500
    assert set(loop.pauses) == {PAUSE_S}


def test_seldom_while_little_waits(loop):
    watched = Watched(loop, 10)
    assert watched.looks_at(100, 1.0) == 1
    assert watched.looks_at(100, 1.0 + 0.9 * LOOK_S) == 0
    assert watched.looks_at(100, 1.0 + LOOK_S) == 1
    watched.budget.on_blocked(66)
    assert watched.looks_at(100, 1.1 + LOOK_S) == 1
    assert watched.looks_at(100, 1.2 + LOOK_S) == 0


def test_often_when_much_does(loop):
    watched = Watched(loop, 76)
    assert [watched.looks_at(100, 1.0 + 0.1 * tick) for tick in range(4)] == [1] * 4
    assert [watched.looks_at(0, 1.5 + 0.1 * tick) for tick in range(4)] == [0] * 4  # there is no limit


def test_one_look_at_a_time(loop):
    watched = Watched(loop, *[1] * 3 * PIECE)
    assert watched.looks_at(1, 1.0) == PIECE
    assert watched.looks_at(1, 9.0) == 0
    loop.run()
    assert watched.looks_at(1, 9.0) == PIECE


def test_the_worst_go_first(loop):
    watched = Watched(loop, 30, 10, 50, 40, 20)
    watched.budget.tick(60, 1.0)
    assert watched.cut == [50, 40]
    assert watched.row[W_BUFFERED_BYTES] == 60
    watched.budget.tick(60, 1.1)
    assert watched.cut == [50, 40]


def test_at_once_when_the_budget_may_be_used_up(loop):
    watched = Watched(loop, *range(2 * PIECE))
    watched.budget.on_blocked(101)
    watched.budget.tick(100, 1.0)
    loop.run()
    assert set(loop.pauses) == {0.0}
    assert sum(one.buffered_bytes for one in watched.connections) <= 100
    assert min(watched.cut) > max(one.buffered_bytes for one in watched.connections)


def test_an_error_ends_the_work_and_is_logged(loop, caplog):
    def act(piece):
        assert 1 not in piece, "no"

    pieces = Pieces(loop, [0, 1, 2], act, size=1)
    pieces.begin()
    assert not pieces.is_over
    with caplog.at_level(logging.ERROR):
        loop.run()
    assert pieces.is_over and "internal error after Pieces(1 of 3)" in caplog.text


def test_nothing_to_do(loop):
    ended = []
    pieces = Pieces(loop, [], lambda piece: None, size=1, on_end=lambda: ended.append(True))
    pieces.begin()
    assert pieces.is_over and ended == [True] and not loop.calls
