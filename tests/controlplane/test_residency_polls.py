"""Endpoints that are asked what they hold, over real sockets; time passes when the test says so."""

import asyncio
import logging
import random
from dataclasses import replace

import pytest
import uvloop
from resilience_world import Clock
from support.datasets import DataService
from support.wait import LIMIT_S

from proxy.controlplane import residency_polls
from proxy.controlplane.residency import Residencies
from proxy.model import TcpAddress
from proxy.policy.hashring import key_point
from proxy.policy.locality import LocalityParams
from proxy.scoreboard import S_STATE, SLOT_SERVING, X_RESIDENCY_ASKED, X_RESIDENCY_FAILED, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, ResidencySpec, Snapshot

SLOT, CLUSTER = 3, 1
K = {name: key_point(name.encode()) for name in "abc"}


@pytest.fixture
def service():
    service = DataService("a")
    yield service
    service.stop()


class World:
    """Control's part, with two workers whose mailboxes are lists."""

    def __init__(self, service):
        self.board = Scoreboard(workers=2, endpoints=8, clusters=4)
        self.clock = Clock()
        self.sent = {0: [], 1: []}
        self.residencies = Residencies(self.board, self, clock=self.clock, rng=random.Random(1))
        for worker in self.sent:
            self.board.slot_row(worker)[S_STATE] = SLOT_SERVING
        host, port = service.address.split(":")
        endpoint = EndpointSpec(f"etl/{service.address}", SLOT, TcpAddress(host, int(port)), service.address)
        self.cluster = ClusterSpec(
            "etl",
            "data_locality_aware",
            (endpoint,),
            slot=CLUSTER,
            locality=LocalityParams(max_keys=100),
            residency=ResidencySpec("/residency", 30.0, LIMIT_S),
        )
        self.row = self.board.standing_row(SLOT)

    def serve(self, **changes):
        self.cluster = replace(self.cluster, **changes)
        self.residencies.update(Snapshot(1, (), (self.cluster,), ()))

    def to_worker(self, slot, body):
        self.sent[slot].append(body)
        return True

    async def asked(self, times):
        """Let time pass until so many questions were answered, and what followed was told."""
        while self.row[X_RESIDENCY_ASKED] < times:
            await self.clock.advance(40.0)
        done = self.row[X_RESIDENCY_ASKED]
        await asyncio.sleep(0)
        polls = self.residencies._polls
        while polls._room._value < residency_polls.AT_ONCE:
            await asyncio.sleep(0.005)
        assert self.row[X_RESIDENCY_ASKED] == done == times
        for _ in range(3):
            await self.clock.advance(0.1)

    def told(self):
        """What workers were told since the last time; all the same."""
        assert self.sent[0] == self.sent[1]
        bodies = self.sent[0]
        self.sent = {0: [], 1: []}
        return bodies


def run(world, main):
    async def whole():
        try:
            await main()
        finally:
            world.residencies.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(whole(), LIMIT_S))


def listed(most_bytes, **sizes):
    """What is told of a list that says all."""
    news = sorted([K[name], SLOT, size] for name, size in sizes.items())
    return {
        "data": CLUSTER,
        "news": news,
        "given": 1,
        "listed": most_bytes,
        "only": [SLOT, 0, 2**64 - 1],
    }


def test_what_is_new_is_told(service):
    world = World(service)

    async def main():
        world.serve()
        service.residency = {
            "resident": [{"key": "a", "bytes": 7}, "b"],
            "slots": 4,
            "cache_bytes": 1000,
            "bandwidth": 5000,
        }
        await world.asked(1)
        report = {"data": CLUSTER, "news": [], "reports": [(SLOT, 4, 1000, 5000)]}
        assert world.told() == [report, listed(993, a=7, b=0)]
        await world.asked(2)
        assert world.told() == [listed(993, a=7, b=0)]
        service.residency = ["b", "c"]
        await world.asked(3)
        assert world.told() == [listed(500, b=0, c=0)]
        # A worker that begins is told all of it.
        service.residency = {"resident": ["b"], "complete": False, "slots": 4}
        await world.asked(4)
        world.told()
        world.residencies.take_question({"data?": 1, "cluster": CLUSTER})
        await world.clock.advance(0.1)
        await world.clock.advance(0.1)
        assert [body["news"] for body in world.sent[1]] == [[], [(K["c"], SLOT, 0), (K["b"], SLOT, 0)]]
        assert world.sent[1][0]["reports"] == [(SLOT, 4, 0, 0)] and world.sent[0] == []

    run(world, main)


def test_a_failure_changes_nothing_and_is_told_once(service, caplog):
    caplog.set_level(logging.INFO)
    world = World(service)

    async def main():
        world.serve()
        service.residency = ["a"]
        await world.asked(1)
        assert len(world.told()) == 1
        service.residency = b"<html>"
        await world.asked(3)
        service.residency_status = 503
        await world.asked(4)
        service.stop()
        await world.asked(5)
        service.start()
        service.residency_status, service.residency = 200, ["a"]
        await world.asked(6)
        assert world.told() == [listed(0, a=0)]
        assert (world.row[X_RESIDENCY_ASKED], world.row[X_RESIDENCY_FAILED]) == (6, 4)

    run(world, main)
    lines = [record.getMessage() for record in caplog.records if record.name == residency_polls.__name__]
    name = f"etl/{service.address}"
    assert len(lines) == 2 and lines[1] == f"{name} says again what it holds"
    assert lines[0].startswith(f"{name} does not say what it holds at /residency: its answer is not JSON")


def test_limits(service, monkeypatch, caplog):
    monkeypatch.setattr(residency_polls, "BODY_BYTES", 100)
    world = World(service)

    async def main():
        world.serve()
        service.residency = ["a" * 97]
        await world.asked(1)
        assert "longer than 100 bytes" in caplog.text
        service.residency = ["a" * 90]
        await world.asked(2)
        assert len(world.told()) == 1

    run(world, main)


def test_who_is_asked(service):
    """Only where the cluster goes by data and says how; a reload that changes nothing begins nothing anew."""
    world = World(service)
    polls = world.residencies._polls

    async def main():
        world.serve()
        assert repr(polls) == "ResidencyPolls(1 endpoints)"
        (task,) = polls._tasks.values()
        world.serve(queue=replace(world.cluster.queue, max_pending=7))
        assert list(polls._tasks.values()) == [task]
        for change in ({"balancer": "round_robin"}, {"balancer": "data_locality_aware", "residency": None}):
            world.serve(**change)
            assert repr(polls) == "ResidencyPolls(0 endpoints)"
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() and service.polls == 0

    run(world, main)


def test_what_the_configuration_says_is_followed_by_the_endpoints_own_word(service):
    world = World(service)

    async def main():
        world.serve()
        service.residency = {"resident": [], "slots": 4}
        await world.asked(1)
        assert [body.get("reports") for body in world.told()] == [[(SLOT, 4, 0, 0)], None]
        world.serve()
        await world.asked(2)
        assert world.told() == [listed(0)]
        world.serve(locality=LocalityParams(max_keys=100, slots=9))
        await world.asked(3)
        assert [body.get("reports") for body in world.told()] == [[(SLOT, 4, 0, 0)], None]

    run(world, main)
