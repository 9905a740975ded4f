"""Ratios are against the best of the others, targets follow from them, and doubtful runs are told."""

from math import inf

import pytest

from loadtests.locality.__main__ import parse, settings
from loadtests.locality.figures import Figures
from loadtests.locality.report import notes, read_json, tables, write_json
from loadtests.locality.results import ORACLE, Cell, Results, Run, verdicts

CELL = Cell("shift", 1.0)


def run(p99_s, *, mean_s=0.1, hit_ratio=0.8, rate=100.0, seed=1, **more):
    return Run(seed, rate, Figures(1000, 0, hit_ratio, mean_s, 0.05, p99_s, 1.0, 1.0), **more)


@pytest.fixture
def results():
    return Results(
        versions={"homeport": "1", "haproxy-hash": "2", "envoy-ring": "3"},
        rates={"shift": 100.0},
        runs={
            CELL: {
                "homeport": [run(0.5), run(0.3), run(0.4)],
                "haproxy-hash": [run(1.0, mean_s=0.2, hit_ratio=0.7)],
                "envoy-ring": [run(1.2, mean_s=0.1, hit_ratio=0.9)],
                ORACLE: [run(0.1, hit_ratio=0.95)],
            }
        },
    )


def test_each_figure_has_its_own_best(results):
    assert results.best(CELL, "p99_s") == 1.0
    assert results.best(CELL, "mean_s") == 0.1
    assert results.best(CELL, "hit_ratio") == 0.9
    assert results.ratio(CELL, "homeport", "p99_s") == 0.4
    assert results.ratio(CELL, "homeport", "mean_s") == 1.0


def test_the_targets_of_the_default_scenario(results):
    p99, mean, hits, capacity, *decisions = verdicts(results)
    assert (p99.limit, p99.value, p99.is_met) == (0.6, 0.4, True)
    assert (mean.limit, mean.value, mean.is_met) == (0.75, 1.0, False)
    assert (hits.limit, hits.is_met) == (0.05, False)
    assert hits.value == pytest.approx(0.1)
    assert [verdict.is_met for verdict in (capacity, *decisions)] == [None] * 3, "not measured"
    results.decisions_us = {10: 9.0, 100: 13.0}
    assert [verdict.is_met for verdict in verdicts(results)[-2:]] == [True, False]


def test_what_was_written_is_gone_on_with(results, tmp_path):
    file, chosen = tmp_path / "all.json", settings(parse([]))
    results.runs[CELL]["envoy-ring"].append(run(inf, seed=2))
    results.missing.append("envoy-ring misses a trace")
    results.decisions_us = {10: 9.0}
    write_json(results, chosen, file)
    assert read_json(file, chosen) == results


def test_nothing_to_compare_with(results):
    results.runs[CELL] = {"homeport": [run(0.5)], ORACLE: [run(0.1)]}
    assert [verdict.is_met for verdict in verdicts(results)] == [None] * 6
    results.runs[CELL]["haproxy-hash"] = [run(inf)]
    assert results.ratio(CELL, "homeport", "p99_s") is None


def test_capacity_lies_between_the_steps(results):
    results.ladder = {
        Cell("shift", 0.5): {"homeport": [run(0.25, rate=50.0)], "haproxy-hash": [run(0.5, rate=50.0)]},
        Cell("shift", 1.0): {"homeport": [run(0.5, rate=100.0)], "haproxy-hash": [run(2.0, rate=100.0)]},
        Cell("shift", 1.5): {"homeport": [run(inf, rate=150.0)], "haproxy-hash": [run(8.0, rate=150.0)]},
    }
    assert results.capacity("haproxy-hash") == pytest.approx(75.0)
    assert results.capacity("homeport") == 100.0
    assert results.capacity("envoy-ring") is None
    assert verdicts(results)[3].value == pytest.approx(0.75)
    assert not any(results.is_beyond(name) for name in results.versions)
    del results.ladder[Cell("shift", 1.5)]
    assert results.is_beyond("homeport")
    assert verdicts(results)[3].value == pytest.approx(0.75), "more than that, which is enough to judge"
    del results.ladder[Cell("shift", 1.0)]
    assert verdicts(results)[3].value is None, "the other's is not known"


def test_doubts(results):
    assert results.problems() == []
    results.runs[CELL]["homeport"].append(run(0.4, busy=0.9, others=0.4, lag_s=0.03))
    busy, late = results.problems()
    assert "busy 90% of the time, 40% with other work" in busy
    assert "30 ms late" in late


def test_a_rate_that_nobody_bears(results):
    piled_up = Figures(1000, 0, 0.8, 0.1, 0.05, 1.0, 1.0, 1.2)
    results.runs[CELL]["haproxy-hash"] = [Run(1, 100.0, piled_up)]
    assert results.problems() == [], "one does"
    results.runs[CELL]["envoy-ring"] = [Run(1, 100.0, piled_up)]
    assert results.problems() == [
        "shift at 1: the p99 of every other proxy grew by 1.20 or more: none bears this rate"
    ]


def test_who_does_better_than_the_oracle(results):
    assert results.beaten() == []
    results.runs[CELL]["homeport"] = [run(0.05)]
    assert results.beaten() == ["homeport does better than the oracle: shift at 1, p99"]


def test_the_report_and_the_picture_take_it(results, tmp_path):
    assert [table.row_count for table in tables(results)] == [4, 6]
    assert any("homeport 1; haproxy-hash 2" in note for note in notes(results))
    picture = pytest.importorskip("loadtests.locality.picture", reason="matplotlib is not installed")
    picture.draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
