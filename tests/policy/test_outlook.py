"""Where a request would go, and why: the same as a choice, in words, and without any trace of having asked."""

from random import Random

import pytest
from test_locality import Cluster, Member, asks

from proxy.model import RequestFacts
from proxy.policy.hashring import key_point
from proxy.policy.locality import FEW, MOST_HOLDERS, LocalityParams
from proxy.policy.outlook import Why, outlook, span


def look(cluster, request, among=None, now=0.0):
    return outlook(cluster.locality, cluster.members if among is None else among, request, now=now)


def told(cluster, request, among=None):
    found = look(cluster, request, among)
    return found.winner.candidate.name, found.why, found.reason


def busy(cluster, member, count, seconds=0.02):
    """Its requests in flight, each of `seconds`, which is known by now."""
    cluster.busy(member, count, seconds)
    cluster.locality.refresh(cluster.members)


def ring(cluster, key):
    """The cluster's members as the ring has them for `key`: first owner, second owner, the others."""
    owners = cluster.locality.owners(key, cluster.members)
    return [*owners, *[one for one in cluster.members if one not in owners]]


def state(cluster):
    """All that a choice or a placement might change."""
    locality = cluster.locality
    return (
        [
            (key.point, key.size_bytes, key.is_given, key.samples, len(key.holders))
            for key in locality.residency
        ],
        [
            (
                member.in_flight,
                member.site.work_s,
                [(key.point, there_at) for key, there_at in member.site.holdings.kept.items()],
                member.site.holdings.held_bytes,
                member.site.holdings.capacity_bytes,
            )
            for member in cluster.members
        ],
        repr(locality.learning),
        locality._rng.getstate(),
    )


def test_asking_changes_nothing():
    params = LocalityParams(sizes=((b"listed", 7_000_000),))
    cluster = Cluster(12, params, rng=Random(5), cache_bytes=30_000_000)
    a, b = cluster.members[:2]
    cluster.hold(a, b"k", b"l")
    cluster.hold(b, b"m")
    busy(cluster, b, 5)
    before = state(cluster)
    for request in (
        asks(b"k"),
        asks(b"unknown"),
        asks(b"listed"),
        asks(b"k", b"m", b"new"),
        RequestFacts(data_keys=(b"k",), size_bytes=99),
        RequestFacts(data_keys=(b"unknown",), size_bytes=99, work_class=b"join"),
        RequestFacts(require=frozenset({"gpu"})),
        RequestFacts(),
    ):
        look(cluster, request, now=1.0)
    assert state(cluster) == before
    assert cluster.locality.residency.find(0) is None


@pytest.mark.parametrize("seed", range(40))
def test_it_is_what_a_choice_would_be(seed):
    """Of two endpoints the ring names both, so that everybody is looked at."""
    rng = Random(seed)
    cluster = Cluster(rng.choice((1, 2)), rng=Random(1), cache_bytes=rng.choice((0, 25_000_000)))
    for member in cluster.members:
        for key in (b"x", b"y", b"z"):
            if rng.random() < 0.4:
                cluster.hold(member, key)
        cluster.busy(member, rng.randrange(6), rng.random() / 10)
        member.site.distance_s = rng.choice((0.0, 0.01))
        if rng.random() < 0.2:
            member.site.on_outcome(True, now=0.0)
    cluster.locality.refresh(cluster.members)
    request = asks(*rng.sample([b"x", b"y", b"z", b"new"], rng.randrange(1, 4)))
    found = look(cluster, request)
    chosen = cluster.choose(request)
    scores = {one.candidate: one.score_s for one in found.prospects}
    assert scores[chosen] == pytest.approx(scores[found.winner.candidate])


def test_the_size_that_a_request_would_say_counts():
    cluster = Cluster(2)
    cluster.hold(cluster.members[0], b"k", size=10_000_000)
    request = RequestFacts(data_keys=(b"k",), size_bytes=50_000_000)
    terms = {one.candidate.name: one.forecast.terms for one in look(cluster, request).prospects}
    assert (terms["a"].transfer_s, terms["b"].transfer_s) == (0.0, 0.5)
    one_of_two = RequestFacts(data_keys=(b"k", b"new"), size_bytes=50_000_000)
    terms = {one.candidate.name: one.forecast.terms for one in look(cluster, one_of_two).prospects}
    # The size of `k` was given; half of what is said of both is the other's.
    assert terms["b"].transfer_s == pytest.approx(0.1 + 0.25)


# ---------------------------------------------------------------------- words


def test_the_holder_and_what_the_next_would_have_to_fetch():
    cluster = Cluster(2)
    cluster.hold(cluster.members[0], b"k", size=21_000_000)
    assert told(cluster, asks(b"k")) == (
        "a",
        Why.HOLDER,
        "holds the data; the next best would take 0.21 s to fetch it",
    )


def test_a_busy_holder_is_passed():
    cluster = Cluster(2)
    a, _ = cluster.members
    cluster.hold(a, b"k", size=20_000_000)
    # Ten of 0.1 s before it, two at a time: nine tenths of half of a second.
    busy(cluster, a, 10, 0.1)
    name, why, reason = told(cluster, asks(b"k"))
    assert (name, reason) == ("b", "its holder has 0.45 s of work waiting, moving the data takes 0.2 s")
    assert why is Why.OWNER


def test_two_holders():
    cluster = Cluster(2)
    a, b = cluster.members
    for member in (a, b):
        cluster.hold(member, b"k")
    busy(cluster, a, 4)
    assert told(cluster, asks(b"k"))[2] == "holds the data; the next best has 30 ms of work waiting"
    busy(cluster, a, 0)
    assert told(cluster, asks(b"k"))[2] == "holds the data; the next best is as good"


def test_part_of_the_data():
    cluster = Cluster(2)
    cluster.hold(cluster.members[0], b"k")
    assert told(cluster, asks(b"k", b"l"))[2].startswith("holds 1 of 2 of the data; the next best would take")


def test_owners_of_what_nobody_holds():
    cluster = Cluster(4)
    first, second, *_ = ring(cluster, b"new")
    assert told(cluster, asks(b"new")) == (
        first.name,
        Why.OWNER,
        "nobody holds it; first owner on the ring",
    )
    busy(cluster, first, 4, 0.2)
    assert told(cluster, asks(b"new"))[:2] == (second.name, Why.OWNER)
    reason = told(cluster, asks(b"new"))[2]
    assert reason.startswith("nobody holds it; second owner on the ring, the first has 0.3 s of work waiting")
    busy(cluster, second, 4, 0.2)
    found = look(cluster, asks(b"new"))
    assert "2 others would do better, and chance decides whether a request looks there" in found.reason
    assert found.winner.candidate in (first, second) and found.prospects[0].candidate not in (first, second)


def test_who_holds_it_may_not_have_it():
    cluster = Cluster(4)
    first, *_, last = ring(cluster, b"k")
    cluster.hold(last, b"k")
    others = tuple(one for one in cluster.members if one is not last)
    name, why, reason = told(cluster, asks(b"k"), others)
    assert (name, why) == (first.name, Why.OWNER)
    assert reason == "who holds it may not have the request; first owner on the ring"


def test_distance_failures_slowness_eviction_and_overload():
    cluster = Cluster(2)
    a, b = cluster.members
    b.site.distance_s = 0.002
    assert told(cluster, RequestFacts())[2] == "the request names no data; the next best is 2 ms farther away"
    b.site.distance_s = 0.0
    b.site.pace.service_s = 0.06
    assert told(cluster, RequestFacts())[2].endswith("the next best takes 40 ms longer for the work")
    b.site.pace.service_s = a.site.pace.service_s
    b.site.on_outcome(True, now=0.0)
    assert "the next best has failed lately, which counts 1.5 s" in told(cluster, RequestFacts())[2]
    full = Cluster(2, cache_bytes=10_000_000)
    a, b = full.members
    full.hold(a, b"k")
    full.hold(b, b"other")
    assert told(full, asks(b"k"))[2].endswith("the next best would drop data that take 0.2 s to fetch again")
    loaded = Cluster(4)
    a = loaded.members[0]
    loaded.hold(a, b"k")
    a.in_flight = 40
    loaded.locality.refresh([Member("mean")])
    assert "its holder has far more than its share in flight" in told(loaded, asks(b"k"))[2]


def test_predictions_that_are_left_out():
    cluster = Cluster(2)
    a, b = cluster.members
    cluster.hold(a, b"k")
    busy(cluster, a, 4, 0.1)
    learning = cluster.locality.learning
    learning.is_trusted, learning.error_s, learning.plain_error_s = False, 0.3, 0.1
    assert told(cluster, asks(b"k")) == (
        "b",
        Why.LEAST_WORK,
        "predictions are left out: error 0.3 s against 0.1 s without data; the next best has 0.15 s of work waiting",
    )


def test_one_or_none():
    cluster = Cluster(2)
    a, _ = cluster.members
    assert told(cluster, asks(b"k"), (a,)) == ("a", Why.ONLY, "no other endpoint may have the request")
    none = look(cluster, RequestFacts(require=frozenset({"gpu"})))
    assert (none.winner, none.why, none.reason) == (None, None, "no endpoint may have the request")
    a.site.tags = frozenset({"gpu"})
    assert told(cluster, RequestFacts(require=frozenset({"gpu"})))[:2] == ("a", Why.ONLY)


def test_what_chance_decides():
    many = Cluster(FEW + 1)
    found = look(many, RequestFacts())
    assert not any(one.is_sure for one in found.prospects)
    assert found.reason.endswith("; chance decides whether a request looks there")
    hot = Cluster(MOST_HOLDERS + 4)
    for member in hot.members[: MOST_HOLDERS + 1]:
        hot.hold(member, b"k")
    owners = hot.locality.owners(b"k", hot.members)
    assert {one.candidate for one in look(hot, asks(b"k")).prospects if one.is_sure} == set(owners)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0004, "0.4 ms"),
        (0.035, "35 ms"),
        (0.0999, "0.1 s"),
        (0.214, "0.21 s"),
        (1.234, "1.2 s"),
        (321.4, "321 s"),
    ],
)
def test_times(seconds, text):
    assert span(seconds) == text


def test_owners_are_those_that_a_choice_looked_at():
    cluster = Cluster(6)
    first, second, *others = ring(cluster, b"k")
    key = cluster.locality.residency.key(key_point(b"k"))
    assert not cluster.locality.is_owner(first, key), "nobody has asked for it"
    cluster.choose(asks(b"k"))
    owners = [one for one in cluster.members if cluster.locality.is_owner(one, key)]
    assert owners == sorted((first, second), key=cluster.members.index)
    cluster.choose(asks(b"k"), among=tuple(others))
    assert not cluster.locality.is_owner(first, key)
    assert sum(cluster.locality.is_owner(one, key) for one in others) == 2
