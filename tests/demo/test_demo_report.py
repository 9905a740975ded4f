"""What people read, from literal values."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from proxy.demo.report import (
    Outcome,
    Scene,
    happening_line,
    introduction,
    live_view,
    progress_line,
    summary_text,
)
from proxy.demo.stats import Latency, PhaseSummary, Progress, Summary
from proxy.demo.watching import Fleet, Happening, Instance

SCENE = Scene("http://127.0.0.1:8080", "http://127.0.0.1:9901", "/somewhere/homeport.yaml")
PROGRESS = Progress(3.0, 5200, 2, 1833.4, 0.75, Latency(0.00312, 0.0987))
FLEET = Fleet(
    desired=3,
    serving=1,
    instances=(
        Instance("a" * 64, "demo-data-1", "serving", "127.0.0.1:9001", 3, 5000, 0.75),
        Instance("b" * 64, "demo-data-2", "starting", "", 0, 0, None),
    ),
)
DEATH = Happening(100.0, "instance_died", "demo-data-3", "it was killed; soon again; its log:\nready")
SUMMARY = Summary(
    elapsed_s=24.4,
    phases=(
        PhaseSummary("calm", 1_300, 0, 0.8, Latency(0.035, 0.139)),
        PhaseSummary("burst", 14_700, 0, 0.66, Latency(0.064, 0.215)),
    ),
    problems=(),
    hit_ratio=0.68,
    latency=Latency(0.045, 0.195),
)
OUTCOME = Outcome(
    steps=((4.4, "3 instances instead of 2: why"), (19.5, "2 instances instead of 3: why not")),
    most_serving=3,
    first_new_s=1.6,
    killed="demo-data-1",
    killed_at_s=12.2,
    healed_s=2.5,
    missed=(),
)

GOOD = """\
Summary

  requests   16 000 in 24.4 s
  failed     0
  hit ratio  68 % of requests found their data where they were sent
  latency    p50 45 ms, p99 195 ms
  scaling    up to 3 instances; the first new one served 1.6 s after the burst began
      4.4 s  3 instances instead of 2: why
     19.5 s  2 instances instead of 3: why not
  healing    demo-data-1 was killed at 12.2 s; another served 2.5 s later

  load    requests   failed   hits     p50      p99
  calm       1 300        0   80 %   35 ms   139 ms
  burst     14 700        0   66 %   64 ms   215 ms

OK: no request failed."""


def test_summary_of_a_good_run():
    assert summary_text(SUMMARY, OUTCOME) == GOOD


def test_summary_of_a_bad_run_says_what_failed():
    calm = replace(SUMMARY.phases[0], failed=1_100)
    problems = (("502 gone", 1_099), ("x", 1))
    text = summary_text(replace(SUMMARY, phases=(calm, SUMMARY.phases[1]), problems=problems), OUTCOME)
    assert "  failed     1 100\n" in text
    assert "  What failed:\n    1 099 x 502 gone\n        1 x x\n" in text
    assert text.endswith("\nFAILED: 1 100 of 16 000 requests got no right answer.")


def test_summary_says_what_did_not_happen():
    outcome = replace(OUTCOME, healed_s=None, missed=("the killed instance was not replaced",))
    text = summary_text(SUMMARY, outcome)
    assert "demo-data-1 was killed at 12.2 s; not seen\n" in text
    assert text.endswith(
        "\n  the killed instance was not replaced\n"
        "FAILED: no request failed, but not everything happened that should."
    )


def test_summary_of_nothing_is_a_failure():
    empty = Summary(0.0, (), (), None, Latency(None, None))
    text = summary_text(empty, Outcome((), 2, None, "", 0.0, None, ()))
    assert "p50 -, p99 -" in text
    assert "2 instances at most, none of them new" in text
    assert "no instance was killed" in text
    assert text.endswith("FAILED: the load ended before any request was answered.")


def test_introduction_says_what_runs_and_how_to_try_it():
    text = introduction(SCENE)
    assert "proxy      http://127.0.0.1:8080\n" in text
    assert "admin API  http://127.0.0.1:9901\n" in text
    assert "config     /somewhere/homeport.yaml\n" in text
    assert "  curl -i 'http://127.0.0.1:8080/query?dataset=orders'\n" in text


def test_progress_line():
    assert progress_line("burst", PROGRESS, FLEET) == (
        "  3.0 s  burst       1 833 requests/s  p50  3.1 ms  p99   99 ms  hits  75 %"
        "  1 of 3 instances  2 failed"
    )


def test_what_happens_is_one_line_without_the_log():
    assert happening_line(2.0, DEATH) == "  2.0 s  > demo-data-3: died: it was killed; soon again"


def test_live_view_fits_a_small_terminal():
    out = StringIO()
    view = live_view("burst", PROGRESS, FLEET, [(2.0, DEATH), (2.5, replace(DEATH, text="x" * 200))])
    Console(file=out, width=80, force_terminal=True, color_system=None).print(view)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split("   ") == ["burst", "3 s", "3 instances wanted"]
    assert lines[2].split("   ") == [
        "1 833 requests/s",
        "p50 3.1 ms",
        "p99 99 ms",
        "hits 75 %",
        "5 200 in all",
        "2 failed",
    ]
    assert lines[4].startswith("demo-data-1  serving ") and lines[4].endswith("  5 000 answered  hits 75 %")
    assert lines[5].startswith("demo-data-2  starting ")
    assert lines[7].endswith("> demo-data-3: died: it was killed; soon again")
    assert lines[8].endswith("…")
