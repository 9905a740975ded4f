"""When a client that does not take its answer is given up, with time as plain numbers."""

import socket

from proxy.dataplane.stall import ProbeTimes, Stall, unsent_bytes
from proxy.snapshot import Limits

LIMITS = Limits(min_rate_bytes_per_s=100, min_rate_grace_s=10.0)
ANY_RATE = Limits(min_rate_bytes_per_s=0, min_rate_grace_s=10.0)


def verdicts(looks, *, timeout_s, limits):
    """What `looks`, pairs of seconds and bytes that still wait, say one after the other."""
    stall = Stall(0.0, 10_000)
    return [stall.is_hopeless(waiting, timeout_s, limits, now=now) for now, waiting in looks]


def test_takes_nothing():
    looks = [(1.0, 10_000), (4.9, 10_000), (5.0, 10_000)]
    assert verdicts(looks, timeout_s=5.0, limits=ANY_RATE) == [False, False, True]


def test_progress_starts_the_timeout_again():
    looks = [(4.0, 9_999), (8.9, 9_999), (9.0, 9_999)]
    assert verdicts(looks, timeout_s=5.0, limits=ANY_RATE) == [False, False, True]


def test_no_timeout():
    assert verdicts([(1e9, 10_000)], timeout_s=0.0, limits=ANY_RATE) == [False]


def test_rate():
    """After the grace, 100 bytes for each second since it began."""
    looks = [(10.0, 10_000), (10.5, 10_000)]
    assert verdicts(looks, timeout_s=0.0, limits=LIMITS) == [False, True]
    looks = [(11.0, 8_900), (20.0, 8_000), (20.5, 8_000)]
    assert verdicts(looks, timeout_s=0.0, limits=LIMITS) == [False, False, True]


def test_both():
    assert verdicts([(5.0, 10_000)], timeout_s=5.0, limits=LIMITS) == [True]


def test_more_may_wait():
    """What was written meanwhile is no progress, nor does it harm a client that reads on."""
    looks = [(4.0, 12_000), (5.0, 12_000)]
    assert verdicts(looks, timeout_s=5.0, limits=ANY_RATE) == [False, True]


def test_unsent_bytes():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unsent_bytes(ours.fileno()) == 0
        ours.send(b"x" * 1000)
        assert unsent_bytes(ours.fileno()) > 0
        theirs.recv(1000)
        assert unsent_bytes(ours.fileno()) == 0


def test_probes_grow_rare():
    """One second after the FIN, then 2, 4, 8 after the last: at 1, 3, 7 and 15."""
    times = ProbeTimes(0.0)
    assert [now for now in range(20) if times.is_due(now)] == [1, 3, 7, 15]
