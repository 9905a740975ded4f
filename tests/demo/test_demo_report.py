"""What people read, from literal values."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from proxy.demo.report import Scene, introduction, live_view, progress_line, summary_text
from proxy.demo.stats import KindSummary, Latency, Progress, Summary

SCENE = Scene(
    proxy_url="http://127.0.0.1:8080",
    admin_url="http://127.0.0.1:9901",
    config_path="/somewhere/homeport.yaml",
    endpoints={"data-1": "127.0.0.1:9001", "data-2": "127.0.0.1:9002"},
)
PROGRESS = Progress(
    elapsed_s=3.0,
    requests=5200,
    failed=2,
    requests_per_s=1833.4,
    latency=Latency(0.00312, 0.0987),
    endpoints={"data-1": 3000, "data-2": 1000},
)
SUMMARY = Summary(
    elapsed_s=10.0,
    clients=8,
    kinds=(
        KindSummary("query", 12_000, 0, 1_100_000, Latency(0.0021, 0.0149)),
        KindSummary("download", 4_000, 0, 262_144_000, Latency(0.0332, 0.1874)),
    ),
    endpoints={"data-1": 12_000, "data-2": 4_000},
    problems=(),
    latency=Latency(0.0025, 0.1503),
)

GOOD = """\
Summary

  load       10.0 s, 8 clients, each waiting for its answer
  requests   16 000 (1 600/s)
  failed     0
  verified   251.0 MiB (25.1 MiB/s) against checksums
  latency    p50 2.50 ms, p99 150 ms
  proxy      http://127.0.0.1:8080
  admin API  http://127.0.0.1:9901

  request     count   failed    verified       p50       p99
  query      12 000        0     1.0 MiB   2.10 ms   14.9 ms
  download    4 000        0   250.0 MiB   33.2 ms    187 ms

  endpoint                answered    share
  data-1 127.0.0.1:9001     12 000   75.0 %
  data-2 127.0.0.1:9002      4 000   25.0 %

OK: no request failed and every checksum was right."""


def test_summary_of_a_good_run():
    assert summary_text(SUMMARY, SCENE) == GOOD


def test_summary_of_a_bad_run_says_what_failed():
    query = replace(SUMMARY.kinds[0], failed=1_500)
    bad = replace(
        SUMMARY, kinds=(query, SUMMARY.kinds[1]), problems=(("query: 502 gone", 1_499), ("query: x", 1))
    )
    text = summary_text(bad, SCENE)
    assert "  failed     1 500\n" in text
    assert "  What failed:\n    1 499 x query: 502 gone\n        1 x query: x\n" in text
    assert text.endswith("\nFAILED: 1 500 of 16 000 requests got no right answer.")


def test_summary_of_nothing_is_a_failure():
    empty = Summary(0.0, 8, (), {"data-1": 0, "data-2": 0}, (), Latency(None, None))
    text = summary_text(empty, SCENE)
    assert "p50 -, p99 -" in text
    assert text.endswith("FAILED: the load ended before any request was answered.")


def test_summary_lists_an_endpoint_it_did_not_start():
    strange = replace(SUMMARY, endpoints={"data-1": 1, "unknown": 1})
    assert "\n  unknown                        1   50.0 %\n" in summary_text(strange, SCENE)


def test_introduction_says_what_runs_and_how_to_try_it():
    text = introduction(SCENE, 10.0)
    assert "proxy      http://127.0.0.1:8080\n" in text
    assert "admin API  http://127.0.0.1:9901\n" in text
    assert "data-1 127.0.0.1:9001, data-2 127.0.0.1:9002\n" in text
    assert "config     /somewhere/homeport.yaml\n" in text
    assert "  curl -i 'http://127.0.0.1:8080/query?dataset=orders'\n" in text
    assert text.endswith("Load for 10 s; Ctrl-C ends it early.")


def test_progress_line():
    assert progress_line(PROGRESS) == (
        "   3 s   1 833 requests/s  p50  3.12 ms  p99  98.7 ms  data-1 75.0 %  data-2 25.0 %  2 failed"
    )


def test_live_view_fits_a_small_terminal():
    out = StringIO()
    Console(file=out, width=80, force_terminal=True, color_system=None).print(live_view(PROGRESS, 10.0))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith(" 3 of 10 s")
    assert lines[2].split("   ") == [
        "1 833 requests/s",
        "p50 3.12 ms",
        "p99 98.7 ms",
        "5 200 in all",
        "2 failed",
    ]
    assert lines[3].startswith("data-1 ") and lines[3].endswith("  3 000  75.0 %")
