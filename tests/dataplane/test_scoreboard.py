"""The layout of the scoreboard: no two counters share a word, and sums are sums."""

import os

import pytest

from proxy import scoreboard
from proxy.answer_words import latency_index, request_index
from proxy.columns import LATENCY_BOUNDS_S, METHODS, STATUS_COLUMNS, STATUS_LABELS
from proxy.errors import REASON_INDEX, Reason
from proxy.scoreboard import (
    E_LATENCY,
    E_LATENCY_SUM_US,
    E_REQUESTS,
    ENDPOINT_GAUGES,
    ENDPOINT_WORDS,
    MAX_LISTENERS,
    W_LISTENERS,
    W_REFUSALS,
    WORKER_GAUGES,
    WORKER_WORDS,
    Scoreboard,
)


def words(prefix):
    names = {name: value for name, value in vars(scoreboard).items() if name.startswith(prefix)}
    assert len(set(names.values())) == len(names)
    return names


def test_words_of_a_worker():
    assert sorted(words("W_").values())[-2:] == [W_REFUSALS, W_LISTENERS]
    assert W_REFUSALS + len(Reason) <= W_LISTENERS
    assert W_LISTENERS + 2 * MAX_LISTENERS == WORKER_WORDS
    assert sorted(REASON_INDEX.values()) == list(range(len(Reason)))
    gauges = {
        "W_HEARTBEAT_MS",
        "W_CONNECTIONS",
        "W_TUNNELS",
        "W_BUFFERED_BYTES",
        "W_GENERATION",
        "W_EXCHANGES",
        "W_ACCEPTING",
        "W_FUNCTION",
    }
    assert {name for name, word in words("W_").items() if word < WORKER_GAUGES} == gauges


def test_words_of_an_endpoint():
    assert {name for name, word in words("E_").items() if word < ENDPOINT_GAUGES} == {
        "E_IN_FLIGHT", "E_CONNECTIONS", "E_IDLE", "E_WORK_US",
    }  # fmt: skip
    assert E_LATENCY > E_LATENCY_SUM_US
    buckets = {latency_index(bound) for bound in LATENCY_BOUNDS_S} | {latency_index(1e9)}
    assert buckets == set(range(E_LATENCY, E_REQUESTS))
    used = {request_index(method.encode(), status) for method in METHODS for status in range(1000)}
    assert min(used) >= E_REQUESTS
    assert max(used) < ENDPOINT_WORDS


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [(0.0, 1e-4), (1e-4, 1e-4), (1.1e-4, 2e-4), (0.003, 5e-3), (1.0, 1.0), (1.5, 2.0), (500.0, 500.0)],
)
def test_latency_bucket(seconds, bound):
    """A bucket counts what is at most its bound."""
    assert LATENCY_BOUNDS_S[latency_index(seconds) - E_LATENCY] == pytest.approx(bound)


def test_latency_beyond():
    assert latency_index(500.1) == E_LATENCY + len(LATENCY_BOUNDS_S)


@pytest.mark.parametrize(
    ("method", "status", "column", "label"),
    [
        (b"GET", 200, "GET", "200"),
        (b"POST", 499, "POST", "499"),
        (b"PROPFIND", 207, "OTHER", "207"),
        (b"get", 200, "OTHER", "200"),
        (b"GET", 299, "GET", "2xx"),
        (b"GET", 418, "GET", "418"),
        (b"GET", 599, "GET", "5xx"),
        (b"GET", 100, "GET", "other"),
        (b"GET", 999, "GET", "other"),
    ],
)
def test_request_column(method, status, column, label):
    row, place = divmod(request_index(method, status) - E_REQUESTS, STATUS_COLUMNS)
    assert (METHODS[row], STATUS_LABELS[place]) == (column, label)


def test_rows_are_apart():
    """Each worker's and each endpoint's words are its own; sums go over the workers."""
    board = Scoreboard(workers=2, endpoints=3)
    rows = [board.worker_row(worker) for worker in range(2)]
    rows += [board.endpoint_row(worker, slot) for worker in range(2) for slot in range(3)]
    for number, row in enumerate(rows, 1):
        assert len(row) in (WORKER_WORDS, ENDPOINT_WORDS)
        for word in range(len(row)):
            row[word] = number
    for number, row in enumerate(rows, 1):
        assert set(row) == {number}
    assert board.endpoint_sum(0) == [3 + 6] * ENDPOINT_WORDS
    assert board.endpoint_sum(2) == [5 + 8] * ENDPOINT_WORDS


def test_clear_endpoint():
    board = Scoreboard(workers=2, endpoints=2)
    for worker in range(2):
        for slot in range(2):
            board.endpoint_row(worker, slot)[5] = 1 << 40
        board.worker_row(worker)[5] = 7
    board.clear_endpoint(0)
    assert board.endpoint_sum(0) == [0] * ENDPOINT_WORDS
    assert board.endpoint_sum(1)[5] == 2 << 40
    assert [board.worker_row(worker)[5] for worker in range(2)] == [7, 7]


def test_clear_gauges():
    """A dead worker's gauges go, its counters and everybody else's words stay."""
    board = Scoreboard(workers=2, endpoints=3)
    board.control_row[scoreboard.C_ENDPOINT_SLOTS] = 2
    for worker in range(2):
        for row in (board.worker_row(worker), *(board.endpoint_row(worker, slot) for slot in range(3))):
            row[0] = row[WORKER_GAUGES - 1] = row[WORKER_GAUGES] = 9
    board.clear_gauges(1)
    for row in (board.worker_row(1), board.endpoint_row(1, 0), board.endpoint_row(1, 1)):
        assert (row[0], row[WORKER_GAUGES - 1], row[WORKER_GAUGES]) == (0, 0, 9)
    for row in (board.worker_row(0), board.endpoint_row(0, 1), board.endpoint_row(1, 2)):
        assert (row[0], row[WORKER_GAUGES - 1], row[WORKER_GAUGES]) == (9, 9, 9)
    assert WORKER_GAUGES == ENDPOINT_GAUGES


def test_a_memory_is_shared_by_its_descriptor():
    """Whoever attaches sees the same words; a slot that was never used is not summed."""
    board = Scoreboard(workers=3, endpoints=2)
    board.parent_row[scoreboard.P_USED_SLOTS] = 2
    other = Scoreboard(fd=os.dup(board.fd))
    assert (other.workers, other.endpoints, other.used_workers) == (3, 2, range(2))
    parts = [board.parent_row, board.control_row, *(board.slot_row(each) for each in range(3))]
    same = [other.parent_row, other.control_row, *(other.slot_row(each) for each in range(3))]
    for number, row in enumerate(parts, 1):
        row[2] = number
    assert [row[2] for row in same] == [row[2] for row in parts] == [1, 2, 3, 4, 5]
    other.endpoint_row(1, 1)[E_LATENCY] = 3
    other.endpoint_row(2, 1)[E_LATENCY] = 5
    assert board.endpoint_sum(1)[E_LATENCY] == 3


@pytest.mark.parametrize("spoil", ["magic", "layout", "size", "empty"])
def test_a_memory_of_another_version_is_refused(spoil):
    board = Scoreboard(workers=1, endpoints=1)
    fd = os.dup(board.fd)
    if spoil == "empty":
        fd = os.memfd_create("empty")
    elif spoil == "size":
        os.ftruncate(fd, os.fstat(fd).st_size + 8)
    else:
        os.pwrite(fd, b"x", 8 * {"magic": scoreboard.H_MAGIC, "layout": scoreboard.H_LAYOUT}[spoil])
    with pytest.raises(scoreboard.LayoutMismatch):
        Scoreboard(fd=fd)
    os.close(fd)
