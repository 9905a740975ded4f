"""The trials of `loadtests.processes`: failures are put down to the right process; a short run of the real thing."""

import argparse

from rich.console import Console

from loadtests.crowd import Tally
from loadtests.processes import FAULTS, as_table, chosen, run_all


def test_gaps_count_from_the_fault():
    tally = Tally()
    tally.on_reply(0.0, 1.0)
    tally.on_reply(8.9, 9.0)
    tally.watched_from = 10.0
    tally.on_reply(10.5, 10.75)
    tally.on_reply(10.5, 12.0)
    assert (tally.answered, tally.reply_gap_s, tally.slowest_s) == (4, 1.25, 1.5)


def test_failures_by_worker():
    tally = Tally()
    for worker in (7, 7, 8):
        tally.on_failure(worker)
        tally.on_closed(worker)
    assert tally.failed == tally.closed == {7: 2, 8: 1}


def test_faults_by_word():
    assert chosen([]) == list(FAULTS)
    assert [fault.name for fault in chosen(["killed", "re-exec"])] == [
        "worker killed (kill -9)",
        "control killed (kill -9)",
        "re-exec (SIGUSR2)",
    ]


def test_a_short_run():
    options = argparse.Namespace(rate=100.0, connections=4, websockets=3, only=["worker killed"])
    (outcome,) = run_all(options, lambda outcome: None)
    assert outcome.answered > 0
    assert outcome.failed_elsewhere == outcome.closed_elsewhere == 0
    assert outcome.failed <= 4 and outcome.closed > 0
    console = Console(width=120, record=True, quiet=True)
    console.print(as_table([outcome]))
