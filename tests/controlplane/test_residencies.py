"""What control remembers of data, by snapshots, messages and the words of the scoreboard."""

import random

import pytest
from resilience_world import Clock

from proxy.controlplane.residency import CACHES_S, Residencies
from proxy.model import TcpAddress
from proxy.policy.locality import LocalityParams
from proxy.scoreboard import E_CACHE_BYTES, W_HEARTBEAT_MS, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot


def endpoint(slot):
    address = TcpAddress("10.0.0.1", 9000 + slot)
    return EndpointSpec(f"etl/{address}", slot, address, str(address))


def cluster(*slots, name="etl", slot=0, max_keys=100, **more):
    more = {"balancer": "data_locality_aware", **more}
    params = LocalityParams(max_keys=max_keys)
    return ClusterSpec(name, endpoints=tuple(map(endpoint, slots)), slot=slot, locality=params, **more)


def snapshot(*clusters):
    return Snapshot(1, (), clusters, ())


class World:
    def __init__(self):
        self.board = Scoreboard(workers=3, endpoints=8, clusters=4)
        self.clock = Clock()
        self.residencies = Residencies(self.board, self.clock)
        for worker in range(3):
            self.board.worker_row(worker)[W_HEARTBEAT_MS] = 1

    def tell(self, *news, cluster=0):
        assert self.residencies.take({"data": cluster, "news": [list(one) for one in news]})

    def known(self, cluster=0):
        return list(self.residencies.mirror(cluster).news())

    def believe(self, worker, slot, size):
        self.board.endpoint_row(worker, slot)[E_CACHE_BYTES] = size
        self.clock.now += CACHES_S


@pytest.fixture
def world():
    world = World()
    world.residencies.update(snapshot(cluster(1, 2)))
    return world


def test_what_workers_tell_is_known(world):
    world.tell((5, 1, 10), (6, 2, 0))
    assert world.known() == [(5, 1, 10), (6, 2, 0)]
    assert repr(world.residencies) == "Residencies(1 clusters)"
    assert world.residencies.cost_of_losing(1) == pytest.approx(6.32, abs=0.01)
    assert world.residencies.cost_of_losing(7) == 0.0


def test_other_clusters_are_none_of_its_business(world):
    world.tell((5, 1, 10), cluster=3)
    world.tell((5, 1, 10), cluster=-1)
    assert world.known() == [] and world.residencies.mirror(3) is None
    assert not world.residencies.take({"data": 0, "news": "much"})


def test_a_reload_keeps_what_is_known(world):
    world.tell((5, 1, 10), (6, 2, 10), (7, 2, 10))
    world.residencies.update(snapshot(cluster(2, 3, max_keys=2), cluster(4, name="b", slot=1)))
    assert world.known() == [(6, 2, 10), (7, 2, 10)]
    assert world.known(1) == []
    # The row belongs to another cluster now.
    world.residencies.update(snapshot(cluster(2, name="other")))
    assert world.known() == []


def test_only_where_data_count(world):
    world.tell((5, 1, 10))
    world.residencies.update(snapshot(cluster(1, balancer="round_robin", shadow="p2c")))
    assert world.known() == [(5, 1, 10)]
    world.residencies.update(snapshot(cluster(1, balancer="round_robin")))
    assert world.residencies.mirror(0) is None


def test_caches_are_as_large_as_workers_believe(world):
    world.tell(*((point, 1, 10) for point in range(10)))
    world.believe(0, 1, 40)
    world.believe(1, 1, 50)
    world.tell((10, 1, 10))
    assert [point for point, _, _ in world.known()] == [6, 7, 8, 9, 10]
    # The last worker dies: what it knew is still true.
    for worker in range(3):
        world.board.clear_gauges(worker)
    world.clock.now += CACHES_S
    world.tell((11, 1, 10))
    assert [point for point, _, _ in world.known()] == [7, 8, 9, 10, 11]


def test_any_message(world):
    """Whatever comes is taken in or refused, and nothing is raised."""
    rng = random.Random(3)
    values = [None, True, -1, 0, 1, 2, 2**64, 10**40, 1.5, "x", [], {}, [[1, 1, 1]], [[1, 1]], [[1, 1, "1"]]]
    for _ in range(2000):
        body = {key: rng.choice(values) for key in ("data", "news", "x") if rng.random() < 0.9}
        world.residencies.take(body)
    assert len(world.known()) <= 100
