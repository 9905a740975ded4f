"""Permits by kernel locks: several owners, in this process and in others that are killed."""

import mmap
import os
import random
import signal
import subprocess
import sys
from collections import Counter

import pytest
from support.wait import wait_for

from proxy.permits import LOCK_FILES, MAX_LOOKS, LockFiles, WorkerLocks


@pytest.fixture
def files():
    made = LockFiles()
    yield made
    made.close()


@pytest.fixture
def workers(files):
    made = [WorkerLocks(files.fds, worker) for worker in range(3)]
    yield made
    for each in made:
        each.close()


def take(one, limit, count):
    return [one.take(limit) for _ in range(count)]


def test_no_more_than_the_limit_over_all_workers(workers):
    a, b, c = (each.of(5).permits for each in workers)
    taken = [*take(a, 5, 2), *take(b, 5, 2), *take(c, 5, 2)]
    assert sorted(taken) == [-1, 0, 1, 2, 3, 4]
    a.give(taken[0])
    assert (b.take(5), c.take(5), a.take(5)) == (taken[0], -1, -1)
    assert (len(a), len(b), len(c)) == (1, 3, 1)


def test_a_worker_does_not_get_what_it_has(workers):
    """The kernel would let it: a lock of one's own is no conflict."""
    a = workers[0].of(5).permits
    assert sorted(take(a, 4, 6)) == [-1, -1, 0, 1, 2, 3]
    with pytest.raises(KeyError):
        a.give(7)


def test_endpoints_and_trials_are_apart(workers):
    """Those of slots that share a file too."""
    a, b, _ = workers
    kept = [each.of(slot) for each in (a, b) for slot in (0, LOCK_FILES, 2 * LOCK_FILES)]
    assert len(set(kept)) == 6
    for slot in (0, LOCK_FILES, 2 * LOCK_FILES):
        assert (a.of(slot).permits.take(1), a.of(slot).trials.take(1)) == (0, 0)
        assert (b.of(slot).permits.take(1), b.of(slot).trials.take(1)) == (-1, -1)
    a.of(0).trials.give(0)
    assert (b.of(0).trials.take(1), b.of(0).permits.take(1)) == (0, -1)
    assert a.of(7) is a.of(7)


def test_locks_of_endpoints_that_are_gone_take_no_memory(workers):
    """Endpoints come and go for as long as the daemon runs."""
    for slot in range(1000):
        workers[0].of(slot)
    assert repr(workers[0]) == "WorkerLocks(0 endpoints)"


def test_limits_change(workers):
    """Lowered, no byte above is taken any more; raised, there are more."""
    a, b, _ = (each.of(5).permits for each in workers)
    held = take(a, 10, 10)
    for number in (8, 2):
        a.give(number)
    assert (a.take(4), b.take(4)) == (2, -1)
    a.give(9)
    assert (b.take(4), a.take(4)) == (-1, -1)
    assert sorted(take(b, 11, 4)) == [-1, 8, 9, 10]
    assert sorted(held) == list(range(10))


def test_low_bytes_first_of_those_it_had(workers):
    """So what a worker holds stays together, and the kernel's list short."""
    a = workers[0].of(5).permits
    assert take(a, 100, 10) == list(range(10))
    for number in (7, 1, 4):
        a.give(number)
    assert take(a, 100, 4) == [1, 4, 7, 10]


def test_workers_begin_apart(workers):
    assert [each.of(5).permits.take(100) for each in workers] == [0, 61, 23]


def test_the_others_say_what_they_gave_back(workers):
    a, b, _ = (each.of(5).permits for each in workers)
    take(a, 4, 4)
    assert b.take(4) == -1
    a.give(2)
    b.expect(2)
    b.expect(2)
    b.expect(1)  # is taken again
    assert (b.take(4), b.take(4)) == (2, -1)


def test_a_search_that_ends_early_goes_on(workers):
    """Every second byte of 2000 is another's: one that is free is found in the end, with a bound on each search."""
    a, b, _ = (each.of(5).permits for each in workers)
    assert sorted(take(a, 2000, 2000)) == list(range(2000))
    for number in range(0, 2000, 2):
        a.give(number)
    assert -1 not in take(b, 2000, 999)
    (free,) = set(range(0, 2000, 2)) - b._held
    looks = [b.take(2000) for _ in range(1000 // MAX_LOOKS + 1)]
    assert sorted(set(looks)) == [-1, free]


def test_who_closes_lets_go(workers):
    a, b, _ = workers
    assert len(take(a.of(5).permits, 3, 3)) == 3
    assert b.of(5).permits.take(3) == -1
    a.close()
    assert sorted(take(b.of(5).permits, 3, 3)) == [0, 1, 2]


_CHILD = """
import mmap, random, sys
from proxy.permits import WorkerLocks
worker, limit = int(sys.argv[1]), int(sys.argv[2])
board = mmap.mmap(int(sys.argv[3]), limit)
permits = WorkerLocks([int(fd) for fd in sys.argv[4].split(",")], worker).of(5).permits
rng, mine = random.Random(worker), []
print("begun", flush=True)
while True:
    if mine and rng.random() < 0.5:
        number = mine.pop(rng.randrange(len(mine)))
        board[number] = 0
        permits.give(number)
    elif (number := permits.take(limit)) >= 0:
        if board[number]:
            print("twice", number, board[number], flush=True)
        board[number] = worker + 1
        mine.append(number)
"""


def test_a_storm_with_deaths(files):
    """Four processes take and give as fast as they can, and one after the other is killed. No byte ever has two
    holders; what the dead held is free at once, and nothing else is."""
    limit = 40
    memory = os.memfd_create("holders")
    os.ftruncate(memory, limit)
    board = mmap.mmap(memory, limit)
    arguments = [str(limit), str(memory), ",".join(map(str, files.fds))]
    rng = random.Random(7)
    children = {}
    watcher = WorkerLocks(files.fds, 31)
    permits = watcher.of(5).permits

    def start(worker):
        command = [sys.executable, "-c", _CHILD, str(worker), *arguments]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(memory, *files.fds))
        assert child.stdout.readline() == "begun\n"
        children[worker] = child

    def kill(worker):
        """The others stand still meanwhile, so that nobody takes a byte whose mark is still the dead one's."""
        for child in children.values():
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        child = children.pop(worker)
        child.kill()
        said = child.communicate(timeout=30)[0]
        for number in range(limit):
            if board[number] == worker + 1:
                board[number] = 0
        for other in children.values():
            other.send_signal(signal.SIGCONT)
        return said

    said = ""
    try:
        for worker in range(4):
            start(worker)
        for _ in range(12):
            seen = Counter()
            wait_for(lambda seen=seen: seen.update(board[:]) or len(seen) > 3)
            worker = rng.randrange(4)
            said += kill(worker)
            start(worker)
    finally:
        for worker in list(children):
            said += kill(worker)
        board.close()
        os.close(memory)
    assert said == ""
    assert sorted(take(permits, limit, limit + 1)) == [-1, *range(limit)]
    watcher.close()
