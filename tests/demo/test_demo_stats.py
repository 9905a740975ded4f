"""Counting: quantiles within their tolerance, intervals that start anew, failures that are told apart."""

import pytest

from proxy.demo.stats import Latency, LatencyHistogram, LoadStats


def test_no_latency_has_no_quantile():
    assert LatencyHistogram().quantile(0.5) is None


@pytest.mark.parametrize(("ratio", "expected_s"), [(0.0, 0.001), (0.5, 0.5), (0.99, 0.99), (1.0, 1.0)])
def test_quantiles_are_off_by_half_a_bucket_at_most(ratio, expected_s):
    histogram = LatencyHistogram()
    for ms in range(1, 1001):
        histogram.add(ms / 1000)
    assert histogram.quantile(ratio) == pytest.approx(expected_s, rel=0.026)


@pytest.mark.parametrize(("seconds", "low_s", "high_s"), [(0.0, 9e-6, 11e-6), (1e6, 140, 180)])
def test_what_lies_outside_counts_at_the_ends(seconds, low_s, high_s):
    histogram = LatencyHistogram()
    histogram.add(seconds)
    assert low_s < histogram.quantile(0.5) < high_s


def test_a_tick_reports_its_interval_and_begins_a_new_one():
    stats = LoadStats(["query"], ["a", "b"], 1, now=10.0)
    for _ in range(4):
        stats.record_success("query", "a", 100, 0.01)
    stats.record_failure("query", "503")
    first = stats.tick(now=12.0)
    assert (first.elapsed_s, first.requests, first.failed, first.requests_per_s) == (2.0, 5, 1, 2.5)
    assert first.latency.p50_s == pytest.approx(0.01, rel=0.026)
    second = stats.tick(now=13.0)
    assert (second.requests, second.requests_per_s, second.latency) == (5, 0.0, Latency(None, None))
    assert second.endpoints == {"a": 4, "b": 0}


def test_the_summary_adds_up():
    stats = LoadStats(["query", "upload"], ["a"], 3, now=0.0)
    stats.record_success("query", "a", 100, 0.01)
    stats.record_success("upload", "stranger", 1000, 0.02)
    stats.record_failure("upload", "502 gone")
    stats.record_failure("upload", "502 gone")
    summary = stats.summary(now=4.0)
    assert (summary.requests, summary.failed, summary.verified_bytes, summary.clients) == (4, 2, 1100, 3)
    assert [(kind.kind, kind.requests, kind.failed) for kind in summary.kinds] == [
        ("query", 1, 0),
        ("upload", 3, 2),
    ]
    assert summary.endpoints == {"a": 1, "stranger": 1}
    assert summary.problems == (("upload: 502 gone", 2),)
    assert not summary.is_ok


def test_no_request_is_not_ok():
    assert not LoadStats(["query"], [], 1, now=0.0).summary(now=1.0).is_ok


def test_different_problems_are_kept_in_bounds():
    stats = LoadStats(["query"], [], 1, now=0.0)
    for number in range(1000):
        stats.record_failure("query", f"problem {number}")
    summary = stats.summary(now=1.0)
    assert len(summary.problems) == 21
    assert summary.problems[0] == ("other failures", 980)
