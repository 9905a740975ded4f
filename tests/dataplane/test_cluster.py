"""Clusters: leases that balance, limits, and endpoints that survive snapshots."""

from random import Random

import pytest

from proxy.cluster import build_clusters
from proxy.errors import Reason, RoutingError
from proxy.model import NO_FACTS, Outcome, TcpAddress
from proxy.scoreboard import E_CANCELLED, E_FAILURES, E_IN_FLIGHT, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot


def endpoint(name, slot, **more):
    return EndpointSpec(f"c/{name}", slot, TcpAddress("127.0.0.1", 9000 + slot), name, **more)


def cluster(*endpoints, name="c", balancer="round_robin"):
    return ClusterSpec(name, balancer, endpoints)


class Fleet:
    """Clusters over several snapshots."""

    def __init__(self):
        self.scoreboard = Scoreboard(workers=2, endpoints=8)
        self.clusters = {}

    def apply(self, *specs):
        snapshot = Snapshot(1, (), specs, ())
        self.clusters = build_clusters(
            snapshot, self.clusters, scoreboard=self.scoreboard, worker=1, rng=Random(1)
        )
        return self.clusters[specs[0].name] if specs else None

    def words(self, slot):
        row = self.scoreboard.endpoint_row(1, slot)
        return row[E_IN_FLIGHT], row[E_FAILURES], row[E_CANCELLED]


def acquire(clusters, count):
    return [clusters.acquire(NO_FACTS) for _ in range(count)]


def refusal(one):
    with pytest.raises(RoutingError) as caught:
        one.acquire(NO_FACTS)
    return caught.value.reason


def test_leases_balance():
    """Each pick is counted at once and given back once; only what the endpoint did wrong is its failure."""
    fleet = Fleet()
    one = fleet.apply(cluster(endpoint("a", 3)))
    leases = acquire(one, len(Outcome))
    assert one.endpoints[0].in_flight == len(Outcome)
    assert fleet.words(3) == (len(Outcome), 0, 0)
    for lease, outcome in zip(leases, Outcome, strict=True):
        lease.release(outcome)
    assert one.endpoints[0].in_flight == 0
    assert fleet.words(3) == (0, 1, 1)
    assert fleet.scoreboard.endpoint_row(0, 3)[E_FAILURES] == 0  # another worker's
    with pytest.raises(AssertionError):
        leases[0].release(Outcome.OK)
    assert fleet.words(3) == (0, 1, 1)


def test_limit():
    """An endpoint at its limit is not picked; when all are, the cluster is overloaded."""
    one = Fleet().apply(cluster(endpoint("a", 0, max_connections=1), endpoint("b", 1, max_connections=2)))
    leases = acquire(one, 3)
    assert sorted(lease.endpoint.spec.name for lease in leases) == ["a", "b", "b"]
    assert refusal(one) is Reason.OVERLOADED
    leases[0].release(Outcome.CLIENT_GONE)
    assert one.acquire(NO_FACTS).endpoint is leases[0].endpoint
    assert refusal(one) is Reason.OVERLOADED


def test_no_limit_beside_a_limit():
    one = Fleet().apply(cluster(endpoint("a", 0, max_connections=1), endpoint("b", 1)))
    names = [lease.endpoint.spec.name for lease in acquire(one, 20)]
    assert names.count("a") == 1


def test_empty():
    one = Fleet().apply(cluster())
    assert refusal(one) is Reason.NO_ENDPOINT
    assert repr(one) == "Cluster('c', round_robin, 0 endpoints)"


def test_endpoint_survives():
    """What is in the next snapshot keeps its object and leases, and takes over what is new about it."""
    fleet = Fleet()
    before = fleet.apply(cluster(endpoint("a", 0), endpoint("b", 1)))
    a, b = before.endpoints
    leases = acquire(before, 2)
    after = fleet.apply(cluster(endpoint("b", 1, weight=5, max_connections=1), endpoint("d", 2)))
    assert after.endpoints[0] is b
    assert (b.weight, b.max_connections, b.in_flight, b.is_removed) == (5, 1, 1, False)
    assert a.is_removed
    assert repr(a) == "Endpoint('c/a', in_flight=1, removed)"
    assert {lease.endpoint.spec.name for lease in acquire(after, 3)} == {"d"}  # b is at its new limit
    for lease in leases:
        lease.release(Outcome.OK)
    assert (a.in_flight, b.in_flight) == (0, 0)
    assert fleet.words(0) == (0, 0, 0)


def test_endpoint_returns():
    """One that was removed and comes back is a new one, in whatever slot it gets."""
    fleet = Fleet()
    first = fleet.apply(cluster(endpoint("a", 0))).endpoints[0]
    fleet.apply(cluster())
    second = fleet.apply(cluster(endpoint("a", 4))).endpoints[0]
    assert second is not first
    assert (first.is_removed, second.is_removed) == (True, False)


def test_cluster_goes():
    fleet = Fleet()
    one = fleet.apply(cluster(endpoint("a", 0)))
    fleet.apply(cluster(name="other"))
    assert list(fleet.clusters) == ["other"]
    assert one.endpoints[0].is_removed


def test_picker_survives():
    """The rotation goes on over a snapshot, unless the balancer changes."""
    fleet = Fleet()
    specs = [endpoint("a", 0), endpoint("b", 1), endpoint("d", 2)]
    before = fleet.apply(cluster(*specs))
    acquire(before, 2)
    after = fleet.apply(cluster(*specs))
    assert after.picker is before.picker
    assert after.acquire(NO_FACTS).endpoint.spec.name == "d"
    assert fleet.apply(cluster(*specs, balancer="random")).picker is not before.picker
