"""Traces are fixed by scenario, seed and rate, and have the properties that their scenarios name."""

from collections import Counter
from statistics import median

import pytest

from loadtests.locality.trace import BY_NAME, SCENARIOS, SPECIAL, Trace, datasets

SHIFT, FLAT = BY_NAME["shift"], BY_NAME["flat"]


def trace_of(scenario, seed=1, rate=200.0, seconds=32.0, warm_up_s=8.0):
    return Trace(scenario, seed, rate, seconds, warm_up_s)


def keys_of(trace):
    return [request.key for request in trace.requests()]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_trace_is_the_same_every_time(scenario):
    trace = trace_of(scenario)
    assert list(trace.requests()) == list(trace.requests())


def test_seeds_differ_in_everything():
    one, two = (list(trace_of(SHIFT, seed).requests()) for seed in (1, 2))
    assert one[0].due != two[0].due
    assert one[0].dataset.name.startswith("set-1-")
    assert two[0].dataset.name.startswith("set-2-")
    assert {each.size_bytes for each in datasets(SHIFT, 1)}.isdisjoint(
        each.size_bytes for each in datasets(SHIFT, 2)
    )


def test_a_rate_changes_times_alone():
    slow, fast = (list(trace_of(FLAT, rate=rate).requests()) for rate in (100.0, 200.0))
    for one, two in zip(slow, fast, strict=False):
        assert one.key == two.key
        assert one.due == pytest.approx(2 * two.due)


def test_arrivals_have_their_rate_and_stay_within_the_time():
    requests = list(trace_of(FLAT).requests())
    # A Poisson count of 8000 stays within five deviations (of 89).
    assert len(requests) == pytest.approx(8000, abs=450)
    assert [request.number for request in requests] == list(range(len(requests)))
    assert 0.0 < requests[0].due
    assert requests[-1].due < 40.0


def test_popularity_is_zipf_and_shifts_half_way():
    trace = trace_of(SHIFT, rate=1000.0)
    before = Counter(r.key for r in trace.requests() if r.due < trace.change_at)
    after = Counter(r.key for r in trace.requests() if r.due >= trace.change_at)
    # The first of 400 ranks has 1 / H(400) = 0.152 of all, the second half of that.
    (first, most), (_, second) = before.most_common(2)
    assert most / before.total() == pytest.approx(0.152, abs=0.015)
    assert second / before.total() == pytest.approx(0.076, abs=0.012)
    assert after.most_common(1)[0][0] != first


def test_flat_popularity_is_flat():
    counts = Counter(keys_of(trace_of(FLAT, rate=1000.0)))
    assert len(counts) == 400
    assert max(counts.values()) < 2 * median(counts.values())


def test_sizes_and_service_times_are_as_told():
    known = [each for seed in range(20) for each in datasets(FLAT, seed)]
    assert median(each.size_bytes for each in known) == pytest.approx(39.8e6, rel=0.05)
    assert all(0.010 <= each.service_s <= 0.040 for each in known)


def test_fleets():
    everybody = set(range(8))
    assert set(FLAT.first_fleet()) == set(FLAT.last_fleet()) == everybody
    assert set(BY_NAME["dies"].last_fleet()) == everybody - {SPECIAL}
    assert set(BY_NAME["joins"].first_fleet()) == everybody - {SPECIAL}
    assert BY_NAME["slow"].slowness_of(SPECIAL) == 3.0
    assert BY_NAME["slow"].slowness_of(SPECIAL + 1) == 1.0
