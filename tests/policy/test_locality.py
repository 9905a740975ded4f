"""The choice of an endpoint, in seconds added up by hand. Data come at 100 MB/s, 10 MB in 100 ms; work takes 20 ms."""

import gc
from dataclasses import dataclass, field
from random import Random

import pytest

from proxy.model import NO_FACTS, RequestFacts
from proxy.policy.data_key import MAX_KEYS
from proxy.policy.hashring import HashRing, key_point, ring_points
from proxy.policy.locality import (
    EVICTION,
    FEW,
    LEAST_KEYS,
    MOST_HOLDERS,
    OWNERS_KEPT,
    Forecast,
    Locality,
    LocalityParams,
)
from proxy.policy.residency import DataKey
from proxy.policy.site import Site, Terms

WORK_S = 0.02
NOTHING = LocalityParams()


@dataclass(eq=False)
class Member:
    name: str
    in_flight: int = 0
    site: Site = field(default_factory=Site)

    def __repr__(self):
        return self.name


class Low:
    """Chance that always draws the first."""

    def random(self):
        return 0.0


class Cluster:
    """Endpoints a, b, … with two slots each, and their locality."""

    def __init__(self, count, params=NOTHING, rng=None, slots=2, cache_bytes=0):
        self.members = tuple(Member(chr(ord("a") + number)) for number in range(count))
        for member in self.members:
            member.site.update(slots=slots, cache_bytes=cache_bytes, bandwidth_bytes_per_s=1e8)
            member.site.pace.service_s = WORK_S
            member.site.pace.is_known = True
        self.locality = Locality(params, rng or Random(1))
        self.update(params)

    def update(self, params=None, members=None):
        members = self.members if members is None else members
        names = tuple(member.name for member in members)
        ring = HashRing(ring_points(names), [1] * len(members)) if members else None
        self.locality.update(params or self.locality.params, members, ring)
        self.locality.refresh(members)

    def choose(self, facts, now=0.0, among=None):
        return self.locality.choose(self.members if among is None else among, facts, now=now)

    def place(self, member, facts, now=0.0):
        placement = self.locality.place(member, facts, now=now)
        member.in_flight += 1
        return placement

    def end(self, member, placement, now=0.0, took_s=None, is_hit=None, is_failed=False):
        member.in_flight -= 1
        if took_s is not None:
            self.locality.on_answer(placement, took_s, is_hit, now=now)
        self.locality.on_end(placement, is_failed, now=now)

    def hold(self, member, *keys, size=10_000_000, arrived=True):
        """It was sent requests for them, which are done."""
        for key in keys:
            facts = RequestFacts(data_keys=(key,), size_bytes=size)
            placement = self.place(member, facts)
            took_s = WORK_S + size / 1e8
            self.end(member, placement, now=took_s, took_s=took_s if arrived else None, is_hit=False)

    def busy(self, member, count, seconds=WORK_S):
        """Its requests in flight, each of `seconds`."""
        member.in_flight = count
        member.site.work_s = count * seconds

    def terms(self, member, facts, now=0.0):
        return self.locality.forecast(member, facts, now=now).terms

    def score(self, member, facts, now=0.0):
        return self.locality.forecast(member, facts, now=now).score_s(self.locality.learning.is_trusted)

    def owner(self, key):
        """The first on the ring."""
        return self.members[self.locality._owners(self.locality.residency.key(key_point(key)))[0]]


def asks(*keys, size=None, **more):
    return RequestFacts(data_keys=keys, size_bytes=size, **more)


# ---------------------------------------------------------------------- the terms


def test_an_idle_endpoint_without_the_data():
    cluster = Cluster(1)
    assert cluster.terms(cluster.members[0], asks(b"k", size=10_000_000)) == pytest.approx(
        Terms(wait_s=0.0, transfer_s=0.1, crowding_s=0.0, eviction_s=0.0, service_s=WORK_S)
    )


def test_an_idle_endpoint_with_the_data():
    cluster = Cluster(1)
    a = cluster.members[0]
    cluster.hold(a, b"k")
    assert cluster.terms(a, asks(b"k")) == (0.0, 0.0, 0.0, 0.0, WORK_S)


def test_a_busy_endpoint():
    """Five in flight at two slots, 100 ms of work: (5 - 2 + 1)/5 · 0.1/2 = 40 ms. The transfer of 100 ms keeps (5 - 2
    + 1)/2 = 2 others waiting."""
    cluster = Cluster(1)
    a = cluster.members[0]
    cluster.busy(a, 5)
    terms = cluster.terms(a, asks(b"k", size=10_000_000))
    assert terms == pytest.approx(Terms(0.04, 0.1, 0.2, 0.0, WORK_S))
    cluster.hold(a, b"k")
    cluster.busy(a, 5)
    assert cluster.terms(a, asks(b"k")) == pytest.approx(Terms(0.04, 0.0, 0.0, 0.0, WORK_S))


def test_data_on_their_way():
    """They will be there at 0.1 s: half of the way is left at 0.05 s, nothing once the wait is longer."""
    cluster = Cluster(1)
    a = cluster.members[0]
    cluster.place(a, asks(b"k", size=10_000_000), now=0.0)
    assert cluster.terms(a, asks(b"k"), now=0.05).transfer_s == pytest.approx(0.05)
    assert cluster.terms(a, asks(b"k"), now=0.2).transfer_s == 0.0
    assert cluster.terms(a, asks(b"k"), now=-1.0).transfer_s == pytest.approx(1.1)
    cluster.busy(a, 4, seconds=0.1)  # 3/4 · 0.4/2 = 0.15 s
    assert cluster.terms(a, asks(b"k"), now=0.0) == pytest.approx(Terms(0.15, 0.0, 0.0, 0.0, WORK_S))


def test_the_rest_of_the_way_is_weighed_against_a_transfer():
    """30 ms of the way are left at a, and b is as good when its work takes 31 ms less; at 29 it is not."""
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.hold(b, b"k")
    cluster.place(a, asks(b"k"), now=0.0)
    for slower_s, expected in ((0.029, b), (0.031, a)):
        b.site.pace.service_s = WORK_S + slower_s
        assert cluster.choose(asks(b"k"), now=0.07) is expected


def test_a_full_cache():
    """10 MB do not fit into what is left of 25: others will fetch as much again, which counts twice."""
    cluster = Cluster(1, cache_bytes=25_000_000)
    a = cluster.members[0]
    cluster.hold(a, b"k", b"l")
    assert cluster.terms(a, asks(b"m", size=10_000_000)).eviction_s == pytest.approx(EVICTION * 0.1)
    assert cluster.terms(a, asks(b"n", size=5_000_000)).eviction_s == 0.0
    assert cluster.terms(a, asks(b"k")).eviction_s == 0.0


def test_a_place_that_nobody_has_to_leave():
    cluster = Cluster(2)
    a, b = cluster.members
    a.site.update(slots=2, cache_bytes=15_000_000, bandwidth_bytes_per_s=1e8)
    cluster.hold(a, b"k")
    a.site.pace.service_s = 0.001
    assert cluster.choose(asks(b"l", size=4_000_000)) is a
    assert cluster.choose(asks(b"l", size=6_000_000)) is b


def test_several_keys():
    """One is there, of one half of the way is left, one is missing."""
    cluster = Cluster(1)
    a = cluster.members[0]
    cluster.hold(a, b"k")
    cluster.place(a, asks(b"l", size=10_000_000), now=1.0)
    cluster.locality.give_size(cluster.locality.residency.key(key_point(b"m")), 40e6)
    assert cluster.terms(a, asks(b"k", b"l", b"m"), now=1.05).transfer_s == pytest.approx(0.05 + 0.4)


def test_a_processing_type():
    cluster = Cluster(1)
    a = cluster.members[0]
    a.site.classes[b"etl"] = 4.0
    assert cluster.terms(a, asks(work_class=b"etl")).service_s == pytest.approx(0.08)
    assert cluster.terms(a, asks(work_class=b"new")).service_s == WORK_S


def test_a_processing_type_may_take_longer_than_a_transfer():
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.hold(a, b"k")
    a.site.classes[b"etl"] = 9.0
    assert cluster.choose(asks(b"k")) is a
    assert cluster.choose(asks(b"k", work_class=b"etl")) is b


@pytest.mark.parametrize(("size", "transfer_s", "crowding_s"), [(1, 1e-8, 5e-9), (2**50, 1.0, 0.5)])
def test_sizes_at_the_extremes(size, transfer_s, crowding_s):
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.busy(a, 2)
    terms = cluster.terms(a, asks(b"k", size=size))
    assert (terms.transfer_s, terms.crowding_s) == pytest.approx((transfer_s, crowding_s))
    facts = asks(b"k", size=size)
    placement = cluster.place(b, facts)
    assert cluster.choose(asks(b"k"), now=0.01) is b
    cluster.end(b, placement, took_s=0.02, is_hit=False)
    assert b.site.work_s == 0.0


def test_the_forecast_is_what_is_compared():
    """(0.04 + 0.1 + 0.2 + 0.02) / 0.7 + 0.3 · 5 s for failures + 0.01 s for the zone + 0.05 s for a tag it lacks."""
    cluster = Cluster(1)
    a = cluster.members[0]
    cluster.busy(a, 5)
    cluster.locality.refresh(cluster.members)
    a.site.on_outcome(True, now=0.0)
    a.site.distance_s = 0.01
    facts = asks(b"k", size=10_000_000, prefer=(("gpu", 0.05), ("eu", 7.0)))
    a.site.tags = frozenset({"eu"})
    forecast = cluster.locality.forecast(a, facts, now=0.0)
    assert forecast.success == pytest.approx(0.7)
    assert forecast.penalty_s == pytest.approx(1.56)
    assert not forecast.is_overloaded
    assert forecast.score_s() == pytest.approx(0.36 / 0.7 + 1.56)
    assert forecast.score_s(is_trusted=False) == pytest.approx(0.06 / 0.7 + 1.56)


@pytest.mark.parametrize("is_chosen", [True, False])
def test_a_placement_knows_what_was_foretold(is_chosen):
    """Also what others lose by it, whoever chose."""
    cluster = Cluster(1, cache_bytes=25_000_000)
    a = cluster.members[0]
    cluster.hold(a, b"old", b"older")
    cluster.busy(a, 5)
    cluster.locality.refresh(cluster.members)
    a.site.on_outcome(True, now=0.0)
    a.site.distance_s = 0.01
    facts = asks(b"k", size=10_000_000, prefer=(("gpu", 0.05),))
    forecast = cluster.locality.forecast(a, facts, now=1.0)
    if is_chosen:
        assert cluster.choose(facts, now=1.0) is a
    placement = cluster.place(a, facts, now=1.0)
    assert placement.terms == forecast.terms
    assert forecast.terms.eviction_s > 0.0 and forecast.terms.crowding_s > 0.0
    assert placement.success == forecast.success < 1.0
    assert placement.penalty_s == pytest.approx(forecast.penalty_s)
    assert placement.score_s == pytest.approx(forecast.score_s())


def test_the_parts_of_a_penalty():
    """2 s of terms become 2/0.5 = 4, and half of 5 s; the rest of the penalty is distance."""
    forecast = Forecast(Terms(1.0, 0.5, 0.0, 0.0, 0.5), 0.5, 2.5 + 0.07, False)
    assert forecast.failures_s == pytest.approx(2.0 + 2.5)
    assert forecast.distance_s == pytest.approx(0.07)
    assert forecast.score_s() == pytest.approx(2.0 + forecast.failures_s + forecast.distance_s)


def test_a_forecast_goes_by_the_table():
    cluster = Cluster(1, LocalityParams(sizes=((b"k", 30_000_000),)))
    assert cluster.terms(cluster.members[0], asks(b"k")).transfer_s == pytest.approx(0.3)
    assert len(cluster.locality.residency) == 0


def test_an_overloaded_one_is_behind_all_others():
    """Also when only it holds the data, and moving them takes longer than anybody lives."""
    cluster = Cluster(3)
    a, b, c = cluster.members
    cluster.hold(a, b"k")
    cluster.locality.give_size(cluster.locality.residency.find(key_point(b"k")), 2.0**60)
    assert cluster.choose(asks(b"k")) is a
    cluster.busy(a, 40)
    cluster.locality.refresh(cluster.members)
    assert cluster.choose(asks(b"k")) in (b, c)
    # Of several such the best.
    cluster.busy(b, 41)
    cluster.busy(c, 41)
    cluster.locality.refresh([Member("mean")])
    assert cluster.choose(asks(b"k")) is a


# ---------------------------------------------------------------------- the choice


def test_nobody_there():
    cluster = Cluster(0)
    assert cluster.choose(asks(b"k")) is None
    assert cluster.choose(NO_FACTS) is None


def test_no_ring():
    cluster = Cluster(4)
    cluster.locality.update(LocalityParams(), cluster.members, None)
    cluster.hold(cluster.members[3], b"k")
    assert cluster.choose(asks(b"k")) is cluster.members[3]
    assert cluster.choose(asks(b"new")) in cluster.members


def test_the_holder_has_it():
    cluster = Cluster(10)
    cluster.hold(cluster.members[7], b"k")
    for _ in range(50):
        assert cluster.choose(asks(b"k")) is cluster.members[7]


def test_who_holds_nothing_of_it_goes_to_its_owners():
    """A key that nobody holds has a home, so that two workers that do not know of each other send it to the same."""
    for key in (b"k", b"l", b"m", b"n"):
        chosen = {Cluster(10, rng=Random(seed)).choose(asks(key)).name for seed in range(20)}
        assert len(chosen) == 1
        cluster = Cluster(10)
        assert cluster.choose(asks(key)) is cluster.owner(key)


def test_the_wait_is_weighed_against_the_transfer():
    """60 ms of wait at the holder are less than 100 ms of transfer; 120 ms are more."""
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.hold(a, b"k")
    cluster.busy(a, 3, seconds=0.06)  # 2/3 · 0.18/2
    assert cluster.choose(asks(b"k")) is a
    cluster.busy(a, 3, seconds=0.12)
    assert cluster.choose(asks(b"k")) is b


def test_one_that_has_most_of_it():
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.hold(a, b"k", size=30_000_000)
    cluster.hold(b, b"l", b"m", size=10_000_000)
    assert cluster.choose(asks(b"k", b"l", b"m")) is a
    cluster.hold(b, b"n", size=11_000_000)
    assert cluster.choose(asks(b"k", b"l", b"m", b"n")) is b


def test_required_tags():
    cluster = Cluster(4)
    a, b, c, d = cluster.members
    b.site.tags = frozenset({"gpu"})
    d.site.tags = frozenset({"gpu", "eu"})
    cluster.hold(a, b"k")
    gpu, both = frozenset({"gpu"}), frozenset({"gpu", "eu"})
    assert cluster.choose(asks(b"k", require=gpu)) in (b, d)
    assert cluster.choose(asks(b"k", require=both)) is d
    assert cluster.choose(asks(require=both)) is d
    assert cluster.choose(asks(b"k", require=frozenset({"fpga"}))) is None
    assert cluster.choose(asks(b"k")) is a


@pytest.mark.parametrize(("distance_s", "expected"), [(0.05, "a"), (0.099, "a"), (0.101, "b")])
def test_preferred_tags_are_weighed_against_the_transfer(distance_s, expected):
    cluster = Cluster(2)
    a, b = cluster.members
    b.site.tags = frozenset({"eu"})
    cluster.hold(a, b"k")
    assert cluster.choose(asks(b"k", prefer=(("eu", distance_s),))).name == expected


@pytest.mark.parametrize(("distance_s", "expected"), [(0.05, "a"), (0.099, "a"), (0.101, "b")])
def test_zones_are_weighed_against_the_transfer(distance_s, expected):
    cluster = Cluster(2)
    a, b = cluster.members
    a.site.distance_s = distance_s
    cluster.hold(a, b"k")
    assert cluster.choose(asks(b"k")).name == expected


def test_failures_are_weighed_against_the_transfer():
    """One failure is 0.02/0.7 + 0.3 · 5 s = 1.53 s, and as good as forgotten when 5 s times the odds are 0.1 s: after
    10·ln(1.5/0.1) = 27.1 s."""
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.hold(a, b"k")
    a.site.on_outcome(True, now=0.0)
    assert cluster.score(a, asks(b"k")) == pytest.approx(0.02 / 0.7 + 1.5)
    assert cluster.choose(asks(b"k"), now=0.0) is b
    assert cluster.choose(asks(b"k"), now=27.0) is b
    assert cluster.choose(asks(b"k"), now=27.2) is a


def test_a_slow_endpoint_gets_less():
    cluster = Cluster(2)
    a, b = cluster.members
    a.site.pace.service_s = 0.06
    for _ in range(10):
        assert cluster.choose(NO_FACTS) is b
    cluster.busy(b, 5, seconds=0.04)  # 4/5 · 0.2/2 = 80 ms
    assert cluster.choose(NO_FACTS) is a


def test_without_data_of_few_the_best_and_of_many_one_of_eight():
    cluster = Cluster(FEW)
    for member in cluster.members[:-1]:
        cluster.busy(member, 3)
    assert all(cluster.choose(NO_FACTS) is cluster.members[-1] for _ in range(20))
    cluster = Cluster(FEW + 1, rng=Low())
    for member in cluster.members[1:]:
        member.site.pace.service_s = 0.001
    assert cluster.choose(NO_FACTS) is cluster.members[0]


def test_of_many_holders_some_are_looked_at():
    """20 endpoints, of which 15 hold it: six of them, wherever one begins, two owners and two more."""
    cluster = Cluster(20)
    for member in cluster.members[:15]:
        cluster.hold(member, b"k")
    cluster.choose(asks(b"k"))  # remembers who is there
    keys = cluster.locality.keys(asks(b"k"))
    seen = set()
    for _ in range(200):
        holders = cluster.locality._holders(keys)
        shortlist = [*holders, *cluster.locality._others(cluster.members, keys, holders)]
        assert MOST_HOLDERS == len(holders) <= len(shortlist) == len(set(shortlist)) <= MOST_HOLDERS + 4
        assert set(holders) <= set(cluster.members[:15])
        seen.update(shortlist)
    assert seen == set(cluster.members)


@pytest.mark.parametrize("seed", range(200))
def test_who_is_not_looked_at_could_not_be_better(seed, monkeypatch):
    """Whatever endpoints are like, a holder that is taken without a look at others has the least score of all."""
    rng = Random(seed)
    cluster = Cluster(6)
    facts = asks(b"k", b"l")
    for key in facts.data_keys:
        for member in rng.sample(cluster.members, rng.randint(1, 2)):
            cluster.hold(member, key, size=rng.choice((1000, 10_000_000)))
    for member in cluster.members:
        member.site.pace.service_s = rng.choice((0.01, 0.02, 0.1))
        member.site.s_per_byte = rng.choice((1e-9, 1e-8, 1e-7))
        member.site.distance_s = rng.choice((0.0, 0.0, 0.05))
        cluster.busy(member, rng.randint(0, 3))
        if rng.random() < 0.1:
            member.site.on_outcome(True, now=1.0)
    cluster.locality.refresh(cluster.members)
    monkeypatch.setattr(Locality, "_others", lambda self, candidates, keys, holders: candidates)
    chosen = cluster.choose(facts, now=2.0)
    best = min(cluster.score(member, facts, now=2.0) for member in cluster.members)
    assert cluster.score(chosen, facts, now=2.0) == pytest.approx(best)


def test_owners_that_are_away_are_passed_over():
    cluster = Cluster(10)
    owners = cluster.locality._owners(cluster.locality.residency.key(key_point(b"k")))
    assert len(owners) == OWNERS_KEPT == len(set(owners))
    away = {cluster.members[owners[0]], cluster.members[owners[2]]}
    among = tuple(member for member in cluster.members if member not in away)
    assert cluster.choose(asks(b"k"), among=among) is cluster.members[owners[1]]
    cluster.busy(cluster.members[owners[1]], 9)
    assert cluster.choose(asks(b"k"), among=among) is cluster.members[owners[3]]


def test_who_is_an_owner():
    cluster = Cluster(10)
    key = cluster.locality.residency.key(key_point(b"k"))
    assert not any(
        cluster.locality.is_owner(member, key) for member in cluster.members
    )  # nobody has chosen yet
    cluster.choose(asks(b"k"))
    owners = cluster.locality.owners(b"k", cluster.members)
    assert len(owners) == 2
    assert [member for member in cluster.members if cluster.locality.is_owner(member, key)] == sorted(
        owners, key=cluster.members.index
    )
    among = tuple(member for member in cluster.members if member is not owners[0])
    assert cluster.locality.owners(b"k", among)[0] is owners[1]
    assert cluster.locality.owners(b"k", ()) == []


def test_a_holder_that_is_away():
    cluster = Cluster(10)
    a = cluster.members[0]
    cluster.hold(a, b"k")
    assert cluster.choose(asks(b"k"), among=cluster.members[1:]) in cluster.members[1:]
    assert cluster.choose(asks(b"k"), among=list(cluster.members[1:])) in cluster.members[1:]
    assert cluster.choose(asks(b"k"), among=cluster.members[:2]) is a
    assert cluster.choose(asks(b"k")) is a


# ---------------------------------------------------------------------- too much for one


def test_the_cap():
    """Ten endpoints with 20 in flight: 200 % of the mean, one more, and the slots are 7; the eighth is too many. It has
    more than the others together then, whatever the estimates say."""
    cluster = Cluster(10)
    a = cluster.members[0]
    cluster.hold(a, b"k")
    for in_flight, expected in ((7, True), (8, False)):
        for member in cluster.members[1:]:
            member.in_flight = 0
        cluster.members[1].in_flight = 20 - in_flight
        a.in_flight = in_flight
        a.site.work_s = 0.0  # nothing, it is thought
        cluster.locality.refresh(cluster.members)
        assert (cluster.choose(asks(b"k")) is a) is expected
        assert cluster.locality.forecast(a, asks(b"k"), now=0.0).is_overloaded is not expected


def test_the_cap_as_configured():
    """150 % of a mean of 2, one more, and two slots: 6."""
    cluster = Cluster(2, LocalityParams(max_load_percent=150))
    a, b = cluster.members
    for in_flight, expected in ((6, False), (7, True)):
        a.in_flight, b.in_flight = 2, 2
        cluster.locality.refresh(cluster.members)
        a.in_flight = in_flight
        assert cluster.locality.forecast(a, NO_FACTS, now=0.0).is_overloaded is expected


def test_where_all_are_above_it_the_least_is_chosen():
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.locality.refresh(())
    cluster.busy(a, 100)
    cluster.busy(b, 99)
    assert cluster.choose(NO_FACTS) is b


# ---------------------------------------------------------------------- sizes


def size_of(cluster, key):
    return cluster.locality.residency.find(key_point(key)).size_bytes


def test_sizes_that_requests_say():
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.hold(a, b"k", size=5_000_000)
    assert (size_of(cluster, b"k"), a.site.holdings.held_bytes) == (5e6, 5e6)
    cluster.choose(asks(b"k", size=7_000_000))
    assert (size_of(cluster, b"k"), a.site.holdings.held_bytes) == (7e6, 7e6)
    cluster.choose(asks(b"k"))
    cluster.choose(asks(b"k", size=0))
    assert size_of(cluster, b"k") == 7e6


def test_a_size_that_was_learned_and_is_said_is_learned_no_more():
    cluster = Cluster(2)
    key = cluster.locality.residency.key(key_point(b"k"))
    cluster.locality.residency.resize(key, 5e6)
    key.samples = 1
    cluster.choose(asks(b"k", size=5_000_000))
    assert key.is_given


def test_sizes_that_are_too_good_to_be_true():
    """Ten times the typical is what counts, as a guess, until a transfer was seen; then only what can be."""
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.choose(asks(b"k", size=2**50))
    key = cluster.locality.residency.find(key_point(b"k"))
    assert (key.size_bytes, key.is_given) == (100e6, False)
    placement = cluster.place(a, asks(b"k"))
    cluster.end(a, placement, now=2.02, took_s=2.02, is_hit=False)
    assert key.size_bytes == pytest.approx(200e6)
    cluster.choose(asks(b"k", size=2**50))
    assert (key.size_bytes, key.is_given) == (pytest.approx(200e6), False)
    cluster.choose(asks(b"k", size=500_000_000))
    assert (key.size_bytes, key.is_given) == (500e6, True)


def test_the_size_of_several_keys_is_shared_out():
    cluster = Cluster(2)
    cluster.choose(asks(b"k", size=30_000_000))
    cluster.choose(asks(b"k", b"l", size=12_000_000))
    assert (size_of(cluster, b"k"), size_of(cluster, b"l")) == (30e6, 6e6)  # alone it was exact


def test_a_size_without_keys_means_nothing():
    cluster = Cluster(2)
    assert cluster.choose(asks(size=5)) in cluster.members
    assert len(cluster.locality.residency) == 0


def test_sizes_of_the_table():
    cluster = Cluster(2, LocalityParams(sizes=((b"k", 3_000_000),)))
    cluster.choose(asks(b"k", b"l"))
    assert (size_of(cluster, b"k"), size_of(cluster, b"l")) == (3e6, 0.0)
    cluster.choose(asks(b"k", size=9_000_000))  # who asks for it knows best
    assert size_of(cluster, b"k") == 9e6
    cluster.choose(asks(b"k"))
    assert size_of(cluster, b"k") == 9e6


def test_another_table():
    """What a reload changes counts from the next request on; what it takes out is learned from then on."""
    cluster = Cluster(2, LocalityParams(sizes=((b"k", 3_000_000), (b"l", 4_000_000))))
    cluster.choose(asks(b"k", b"l"))
    cluster.update(LocalityParams(sizes=((b"k", 5_000_000),)))
    cluster.choose(asks(b"k", b"l"))
    assert (size_of(cluster, b"k"), size_of(cluster, b"l")) == (5e6, 4e6)
    placement = cluster.place(cluster.members[0], asks(b"l"))
    cluster.end(cluster.members[0], placement, now=1.02, took_s=1.02, is_hit=False)
    assert size_of(cluster, b"l") == pytest.approx(100e6)


def test_unknown_sizes_are_typical():
    cluster = Cluster(2)
    a = cluster.members[0]
    assert cluster.terms(a, asks(b"k")).transfer_s == pytest.approx(0.1)
    cluster.locality.learning.typical_bytes = 4e7
    assert cluster.terms(a, asks(b"k")).transfer_s == pytest.approx(0.4)
    cluster.place(a, asks(b"k"))
    assert size_of(cluster, b"k") == 4e7
    assert a.site.holdings.held_bytes == 4e7


# ---------------------------------------------------------------------- charge and release


def test_the_next_decision_sees_the_last():
    cluster = Cluster(2)
    a, b = cluster.members
    facts = asks(b"k", size=10_000_000)
    chosen = cluster.choose(facts)
    placement = cluster.place(chosen, facts)
    assert chosen.site.work_s == pytest.approx(0.12)
    assert placement.missing == list(placement.keys)
    assert not placement.is_joining
    joined = cluster.place(chosen, facts, now=0.03)
    assert chosen.site.work_s == pytest.approx(0.12 + 0.09)
    assert joined.missing == []
    assert joined.is_joining
    cluster.end(chosen, placement, now=0.12, took_s=0.12, is_hit=False)
    assert not cluster.place(chosen, facts, now=0.13).is_joining


def test_what_was_chosen_is_what_is_placed():
    """What the choice worked out is used again, and only for the same request at the same endpoint."""
    cluster = Cluster(2)
    a, b = cluster.members
    facts = asks(b"k", size=10_000_000)
    chosen = cluster.choose(facts, now=0.0)
    other = b if chosen is a else a
    other.site.pace.service_s = 0.5
    assert cluster.place(other, facts).terms.service_s == 0.5
    assert cluster.place(chosen, facts).terms == pytest.approx(Terms(0.0, 0.1, 0.0, 0.0, WORK_S))
    cluster.choose(facts)
    cluster.update()
    assert cluster.place(a, asks(b"k", size=20_000_000)).terms.service_s == a.site.pace.service_s


@pytest.mark.parametrize("is_failed", [True, False])
def test_what_nobody_answered_is_not_held(is_failed):
    cluster = Cluster(1)
    a = cluster.members[0]
    cluster.hold(a, b"k")
    placement = cluster.place(a, asks(b"k", b"l"))
    cluster.end(a, placement, is_failed=is_failed)
    assert a.site.work_s == 0.0
    assert [key.point for key in a.site.holdings.kept] == [key_point(b"k")]
    assert (a.site.success(0.0) < 1.0) is is_failed


@pytest.mark.parametrize("is_failed", [True, False])
def test_what_another_proved_is_held(is_failed):
    cluster = Cluster(1)
    a = cluster.members[0]
    given_up = cluster.place(a, asks(b"k"))
    joined = cluster.place(a, asks(b"k"))
    cluster.end(a, joined, now=0.2, took_s=0.2, is_hit=True)
    cluster.end(a, given_up, now=0.3, is_failed=is_failed)
    assert [key.point for key in a.site.holdings.kept] == [key_point(b"k")]


def test_an_answer_that_breaks_off():
    """It was a good answer, so the data are there; and a failure."""
    cluster = Cluster(1)
    a = cluster.members[0]
    placement = cluster.place(a, asks(b"k"))
    cluster.end(a, placement, now=0.1, took_s=0.1, is_hit=False, is_failed=True)
    assert len(a.site.holdings.kept) == 1
    assert a.site.success(0.1) == pytest.approx(0.7)


def test_whether_it_hit():
    cluster = Cluster(1)
    a = cluster.members[0]
    cluster.hold(a, b"k")
    for key, is_hit, took_s, expected in (
        (b"k", True, 9.0, True),
        (b"k", False, 0.0, False),
        (b"k", None, 0.02, True),
        (b"l", None, 0.12, False),
    ):
        placement = cluster.place(a, asks(key))
        assert cluster.locality.on_answer(placement, took_s, is_hit, now=took_s) is expected
        cluster.locality.on_end(placement, False, now=took_s)
        a.in_flight -= 1


# ---------------------------------------------------------------------- distrust


def test_without_trust_data_do_not_count():
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.hold(a, b"k")
    cluster.busy(a, 2)
    facts = asks(b"k")
    assert cluster.choose(facts) is a
    cluster.locality.learning.is_trusted = False
    assert cluster.choose(facts) is b
    # What would have been is still foretold, to be held against what comes.
    assert cluster.place(b, facts).terms.transfer_s == pytest.approx(0.1)
    cluster.locality.learning.is_trusted = True
    assert cluster.choose(facts, now=9.0) in (a, b)


# ---------------------------------------------------------------------- who comes and goes


def test_repr():
    assert repr(Cluster(1).locality) == (
        "Locality(Residency(0 of 50000 keys), Learning(error 0.0000 s, plain 0.0000 s, 0 judged))"
    )


def test_what_is_known_survives_an_update():
    cluster = Cluster(3)
    a, b, c = cluster.members
    cluster.hold(b, b"k")
    cluster.update(members=(c, b))
    assert cluster.locality.learning.sites == [c.site, b.site]
    assert cluster.choose(asks(b"k"), among=(c, b)) is b


def test_who_left_is_no_holder():
    """However often instances are replaced, a key remembers those that are there."""
    cluster = Cluster(3)
    for number in range(20):
        fresh = Member(f"n{number}")
        cluster.update(members=(*cluster.members[:2], fresh))
        cluster.hold(fresh, b"k")
        cluster.choose(asks(b"k"), among=(*cluster.members[:2], fresh))
    key = cluster.locality.residency.find(key_point(b"k"))
    assert key.holders == (fresh.site.holdings,)
    cluster.update(members=())
    assert key.holders == ()
    assert fresh.site.holdings.held_bytes == 0.0


def test_rings_that_are_gone_are_not_kept():
    cluster = Cluster(3)
    for number in range(3):
        assert cluster.choose(asks(b"%d" % number)) in cluster.members
        before = cluster.locality._ring
        cluster.update()
        assert not any(isinstance(each, DataKey) for each in gc.get_referrers(before))


def test_owners_follow_the_ring():
    cluster = Cluster(4)
    first = cluster.owner(b"k")
    others = tuple(member for member in cluster.members if member is not first)
    cluster.update(members=others)
    position = cluster.locality._owners(cluster.locality.residency.key(key_point(b"k")))[0]
    assert others[position] is not first
    cluster.update()
    assert cluster.owner(b"k") is first


def test_a_placement_outlives_its_endpoint():
    cluster = Cluster(2)
    a, b = cluster.members
    facts = asks(b"k")
    placement = cluster.place(a, facts)
    cluster.update(members=(b,))
    cluster.end(a, placement, now=1.0, took_s=1.0, is_hit=False)
    assert a.site.work_s == 0.0
    assert cluster.locality.residency.find(key_point(b"k")).holders == ()


# ---------------------------------------------------------------------- bounds


def test_max_keys():
    cluster = Cluster(2, LocalityParams(max_keys=20))
    a = cluster.members[0]
    for number in range(100):
        cluster.hold(a, b"%d" % number)
    assert len(cluster.locality.residency) == len(a.site.holdings.kept) == 20
    assert a.site.holdings.held_bytes == 20 * 10e6
    cluster.update(LocalityParams(max_keys=16))
    assert len(a.site.holdings.kept) == 16


def test_a_request_with_more_keys_than_are_remembered():
    """None of them may stay with its endpoint after it was forgotten, or nothing would ever remove it."""
    cluster = Cluster(2, LocalityParams(max_keys=1))
    a = cluster.members[0]
    for number in range(100):
        facts = asks(*(b"%d-%d" % (number, key) for key in range(16)))
        placement = cluster.place(a, facts)
        cluster.end(a, placement, now=1.0, took_s=1.0, is_hit=False)
    assert LEAST_KEYS == MAX_KEYS
    known = set(cluster.locality.residency)
    assert set(a.site.holdings.kept) <= known
    assert len(known) <= 16
