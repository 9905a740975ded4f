"""The benchmark of containers: its figures from literal records, and a short run where there is an engine."""

import json
import shutil

import pytest
from rich.progress import Progress

from loadtests.containers import by_hand
from loadtests.containers.__main__ import SCENARIOS, chosen, parse, run_all
from loadtests.containers.engine import Engine
from loadtests.containers.fleet import QUICK, Seen
from loadtests.faults.records import Record, Records
from loadtests.peers.processes import ChildError

VICTIM = "a" * 64


def seen(gets, posts=()):
    found = Seen()
    found.began = 10.0
    found.gets, found.posts = Records(gets), Records(posts)
    return found


def answer(arrived, endpoint=VICTIM[:12], status=200):
    return Record(arrived - 0.001, arrived + 0.01, status, endpoint, arrived, "")


def test_the_last_new_request_is_the_victims():
    told = seen([answer(9.0), answer(10.02), answer(10.5, "b" * 12)], [answer(10.04)])
    assert told.last_at(VICTIM) == pytest.approx(0.04)
    assert seen([answer(9.0)]).last_at(VICTIM) == 0.0


def test_a_stop_is_met_when_nothing_fails_and_nothing_new_comes_late():
    good = by_hand.outcome(by_hand.STOP, seen([answer(10.02)], [answer(10.04)]), VICTIM, 1.5)
    assert good.is_met and good.figures["last_new_request_ms"] == pytest.approx(40.0)
    late = by_hand.outcome(by_hand.STOP, seen([answer(10.2)]), VICTIM, 1.5)
    assert [target.is_met for target in late.targets] == [True, True, False]
    lost = by_hand.outcome(
        by_hand.STOP, seen([answer(10.0, status=502)], [answer(10.0, status=502)]), VICTIM, 1.5
    )
    assert [target.is_met for target in lost.targets] == [False, False, True]


def test_what_a_kill_cuts_and_cannot_be_retried_is_told():
    told = by_hand.outcome(by_hand.KILL, seen([answer(10.0)], [answer(10.0, status=502)]), VICTIM, 1.5)
    assert told.is_met and told.figures["failed_posts"] == 1
    assert "1 failure of 1 POSTs" in told.saw


def test_scenarios_are_chosen_by_words():
    assert chosen([]) == list(SCENARIOS)
    assert [one.name for one in chosen(["stop"])] == ["docker stop"]
    assert parse(["--only", "deploy", "--quick"]).quick
    with pytest.raises(SystemExit):
        parse(["--only", "nothing of that name"])


def test_without_an_engine_a_row_says_so(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with Progress(disable=True) as progress:
        (outcome,) = run_all(chosen(["stop"]), QUICK, progress)
    assert not outcome.is_met
    assert outcome.targets[0].measured.startswith("no Docker Engine answers at tcp://127.0.0.1:1: ")


@pytest.mark.docker
def test_a_short_run():
    """What is counted must be right on any machine; what is timed is for a quiet one."""
    try:
        Engine()
    except ChildError as error:
        pytest.skip(str(error))
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    with Progress(disable=True) as progress:
        outcomes = list(run_all(chosen(["stop", "rm -f"]), QUICK, progress))
    assert len(outcomes) == 2
    missed = [
        target for one in outcomes for target in one.targets if not target.is_met and not target.is_timing
    ]
    assert not missed
    assert json.dumps([one.figures for one in outcomes])
