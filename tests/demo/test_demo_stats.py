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
    stats = LoadStats(now=10.0)
    for is_hit in (True, True, True, False):
        stats.record_success(is_hit, 0.01)
    stats.record_failure("503")
    first = stats.tick(now=12.0)
    assert (first.elapsed_s, first.requests, first.failed, first.requests_per_s) == (2.0, 5, 1, 2.5)
    assert first.hit_ratio == 0.75
    assert first.latency.p50_s == pytest.approx(0.01, rel=0.026)
    second = stats.tick(now=13.0)
    assert (second.requests, second.requests_per_s, second.latency) == (5, 0.0, Latency(None, None))
    assert second.hit_ratio is None


def test_the_summary_adds_up():
    stats = LoadStats(now=0.0)
    stats.begin("calm")
    stats.record_success(False, 0.01)
    stats.begin("never")
    stats.begin("burst")
    stats.record_success(True, 0.02)
    stats.record_failure("502 gone")
    stats.record_failure("502 gone")
    summary = stats.summary(now=4.0)
    assert (summary.elapsed_s, summary.requests, summary.failed, summary.hit_ratio) == (4.0, 4, 2, 0.5)
    assert [(one.phase, one.requests, one.failed, one.hit_ratio) for one in summary.phases] == [
        ("calm", 1, 0, 0.0),
        ("burst", 3, 2, 1.0),
    ]
    assert summary.problems == (("502 gone", 2),)
    assert not summary.is_ok


def test_no_request_is_not_ok():
    assert not LoadStats(now=0.0).summary(now=1.0).is_ok


def test_different_problems_are_kept_in_bounds():
    stats = LoadStats(now=0.0)
    for number in range(1000):
        stats.record_failure(f"problem {number}")
    summary = stats.summary(now=1.0)
    assert len(summary.problems) == 21
    assert summary.problems[0] == ("other failures", 980)
