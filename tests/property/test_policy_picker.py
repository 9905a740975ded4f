"""Pickers: exact shares, and always one of the candidates."""

from collections import Counter
from random import Random
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import NO_FACTS
from proxy.policy.picker import BALANCERS, RoundRobin, SmoothWeightedRoundRobin, make_picker

endpoints = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=6).map(
    lambda rows: [
        SimpleNamespace(id=str(number), weight=weight, in_flight=in_flight)
        for number, (weight, in_flight) in enumerate(rows)
    ]
)


@settings(deadline=None)
@given(endpoints, st.integers(1, 3))
def test_smooth_weighted_round_robin_gives_exact_shares(candidates, cycles):
    picker = SmoothWeightedRoundRobin()
    total = sum(candidate.weight for candidate in candidates)
    for _ in range(cycles):
        counts = Counter(picker.pick(candidates, NO_FACTS).id for _ in range(total))
        assert counts == {candidate.id: candidate.weight for candidate in candidates}


@settings(deadline=None)
@given(endpoints, st.lists(st.integers(1, 63), max_size=200))
def test_smooth_weighted_round_robin_stays_bounded_when_the_list_changes(candidates, masks):
    picker = SmoothWeightedRoundRobin()
    total = sum(candidate.weight for candidate in candidates)
    for mask in masks:
        picker.pick([c for number, c in enumerate(candidates) if mask >> number & 1], NO_FACTS)
        assert sum(picker._current.values()) == 0
        assert all(abs(value) <= len(candidates) * total for value in picker._current.values())


@settings(deadline=None)
@given(endpoints)
def test_round_robin_gives_equal_shares(candidates):
    picker = RoundRobin()
    counts = Counter(picker.pick(candidates, NO_FACTS).id for _ in range(3 * len(candidates)))
    assert set(counts.values()) == {3}


@settings(deadline=None)
@given(st.sampled_from(BALANCERS), endpoints, st.lists(st.integers(0, 63), max_size=30), st.integers())
def test_picks_one_of_the_candidates(name, candidates, masks, seed):
    picker = make_picker(name, Random(seed))
    for mask in masks:
        now = [c for number, c in enumerate(candidates) if mask >> number & 1]
        picked = picker.pick(now, NO_FACTS)
        assert picked in now if now else picked is None
        if name == "least_connections" and now:
            assert picked.in_flight / picked.weight == min(c.in_flight / c.weight for c in now)
