"""What control remembers of data, by snapshots, messages and the words of the scoreboard."""

import asyncio
import random

import pytest
from resilience_world import Clock

from proxy.controlplane.residency import CACHES_S, Residencies
from proxy.controlplane.rounds import MOST_WAITING, PACE_S
from proxy.model import TcpAddress
from proxy.policy.locality import LocalityParams
from proxy.policy.news import GONE, NEWS_AT_ONCE
from proxy.scoreboard import (
    E_CACHE_BYTES,
    S_STATE,
    SLOT_SERVING,
    SLOT_WAITING,
    W_HEARTBEAT_MS,
    Scoreboard,
)
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
        self.residencies = Residencies(self.board, self, clock=self.clock, rng=random.Random(1))
        for worker in range(3):
            self.board.worker_row(worker)[W_HEARTBEAT_MS] = 1

        self.room = True
        self.sent = []

    def to_worker(self, worker, body):
        """The workers' mailboxes."""
        if self.room:
            self.sent.append((worker, body))
        return self.room

    def ask(self, worker, cluster=0):
        return self.residencies.take_question({"data?": worker, "cluster": cluster})

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


# ---------------------------------------------------------------------- workers that begin


def test_a_question_is_answered_in_turns(world):
    """Each message is as long as may be, and waits for the last to be read."""

    async def main():
        serve(world, 0)
        news = [(point, 1, 10) for point in range(2 * NEWS_AT_ONCE + 5)]
        world.residencies.update(snapshot(cluster(1, 2, max_keys=10_000)))
        world.tell(*news)
        assert world.ask(0)
        await world.clock.advance(0.0)
        assert [len(body["news"]) for _, body in world.sent] == [NEWS_AT_ONCE]
        world.room = False
        await world.clock.advance(PACE_S)
        await world.clock.advance(PACE_S)
        # What changes meanwhile is told as it is then.
        world.tell((0, 1, GONE), (news[-1][0], 2, 10))
        world.room = True
        for _ in range(5):
            await world.clock.advance(PACE_S)
        told = [tuple(one) for _, body in world.sent for one in body["news"]]
        assert {worker for worker, _ in world.sent} == {0}
        assert told == [*news, (news[-1][0], 2, 10)]
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(main())


def test_nobody_is_told_who_is_not_there(world):
    async def main():
        world.tell((1, 1, 1))
        for worker in (0, 2, -1, 99):
            assert world.ask(worker)
        serve(world, 0)
        assert world.ask(0, cluster=2)
        for bad in ({"data?": "0", "cluster": 0}, {"data?": 0}, {"data?": True, "cluster": 0}):
            assert not world.residencies.take_question(bad)
        world.room = False
        world.ask(0)
        await world.clock.advance(PACE_S)
        world.board.slot_row(0)[S_STATE] = SLOT_WAITING
        for _ in range(3):
            await world.clock.advance(PACE_S)
        assert world.sent == [] and not asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(main())


def test_what_nobody_reads_is_bounded(world):
    async def main():
        serve(world, 0)
        world.tell((1, 1, 1))
        world.room = False
        for _ in range(2 * MOST_WAITING):
            world.ask(0)
        assert world.residencies._rounds.dropped == MOST_WAITING
        world.residencies.stop()
        world.residencies.stop()
        world.room = True
        await world.clock.advance(PACE_S)
        assert world.sent == []

    asyncio.run(main())


def serve(world, worker):
    world.board.slot_row(worker)[S_STATE] = SLOT_SERVING
