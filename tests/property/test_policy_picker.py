"""Pickers: exact shares, and always one of the candidates."""

from collections import Counter
from random import Random
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import NO_FACTS, RequestFacts
from proxy.policy.balancer import BALANCERS, balancer, make_picker
from proxy.policy.hashring import HashRing, key_point, ring_points
from proxy.policy.picker import (
    ConsistentHash,
    LeastLoaded,
    RoundRobin,
    SmoothWeightedRoundRobin,
    connections_per_weight,
)
from proxy.snapshot import ClusterSpec, HashSpec

endpoints = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=6).map(
    lambda rows: [
        SimpleNamespace(id=str(number), weight=weight, in_flight=in_flight, response_s=0.1 * weight)
        for number, (weight, in_flight) in enumerate(rows)
    ]
)


def points_of(members):
    return ring_points(tuple(member.id for member in members))


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
@given(
    st.sampled_from([name for name in BALANCERS if not balancer(name).sees_data]),
    endpoints,
    st.lists(st.integers(0, 63), max_size=30),
    st.integers(),
    st.none() | st.binary(max_size=8),
)
def test_picks_one_of_the_candidates(name, candidates, masks, seed, hash_key):
    spec = ClusterSpec("c", name, hash=HashSpec(path=True), ring=points_of(candidates))
    picker = make_picker(spec.balancer, spec, candidates, Random(seed))
    for mask in masks:
        now = [c for number, c in enumerate(candidates) if mask >> number & 1]
        picked = picker.pick(now, RequestFacts(hash_key=hash_key))
        assert picked in now if now else picked is None
        if name == "least_connections" and now:
            assert picked.in_flight / picked.weight == min(c.in_flight / c.weight for c in now)


@settings(deadline=None)
@given(
    endpoints,
    st.integers(101, 400),
    st.lists(
        st.tuples(st.sampled_from(["pick", "done"]), st.integers(0, 30), st.integers(1, 63)), max_size=60
    ),
)
def test_consistent_hash_keeps_loads_bounded(members, percent, steps):
    """Whoever gets a request has less than (1 + ε) · m · w / W of those in flight among the candidates, itself
    counted in m; and there always is somebody."""
    picker = ConsistentHash(
        members,
        HashRing(points_of(members), [member.weight for member in members]),
        bound=percent / 100,
        fallback=LeastLoaded(connections_per_weight, RoundRobin()),
    )
    for member in members:
        member.in_flight = 0
    for what, number, mask in steps:
        if what == "done":
            busy = [member for member in members if member.in_flight]
            if busy:
                busy[number % len(busy)].in_flight -= 1
            continue
        now = [member for position, member in enumerate(members) if mask >> position & 1] or members
        picked = picker.pick(now, RequestFacts(hash_key=b"%d" % number))
        total = sum(member.in_flight for member in now) + 1
        fair = percent / 100 * total * picked.weight / sum(member.weight for member in now)
        assert picked.in_flight < fair
        picked.in_flight += 1


weighted = st.dictionaries(
    st.text("abcdef0123456789.:", min_size=1, max_size=12), st.integers(1, 12), min_size=2, max_size=12
)


@settings(deadline=None)
@given(weighted, st.integers(0, 11))
def test_only_the_keys_of_who_leaves_move(weights, gone):
    """Whatever the weights, the others' order stays as it was, so not one key moves between them."""
    ids = list(weights)
    left = [member_id for member_id in ids if member_id != ids[gone % len(ids)]]
    before = HashRing(ring_points(tuple(ids)), [weights[each] for each in ids])
    after = HashRing(ring_points(tuple(left)), [weights[each] for each in left])
    for number in range(50):
        key = key_point(b"%d" % number)
        first = [ids[position] for position in before.owners(key)]
        still = next(member_id for member_id in first if member_id in left)
        assert left[next(after.owners(key))] == still
