"""The scaler with an engine by hand: slow, failing, gone, and coming back. Times are seconds."""

import asyncio
import random
from pathlib import Path

import pytest
from resilience_world import Clock

from proxy.config.build import build_snapshot
from proxy.config.load import load_bytes
from proxy.config.slots import SlotAllocator, Slots
from proxy.controlplane import engines, scaling
from proxy.controlplane.drains import UnknownTarget
from proxy.controlplane.events import EventLog, EventType
from proxy.controlplane.membership import Membership
from proxy.controlplane.scaling import Scaling
from proxy.drivers.driver import Changed, Died, Instance, Listed, Lost, Removed, State, Stopping, Usage
from proxy.errors import EngineRefused, EngineUnavailable
from proxy.model import TcpAddress
from proxy.scoreboard import E_IN_FLIGHT, W_HEARTBEAT_MS, Scoreboard

LIMIT_S = 15.0


def config_of(scaler="", more="", head=""):
    text = f"""
listeners: [{{name: edge, bind: "127.0.0.1:0"}}]
{head}
clusters:
  - {{name: etl, scaler: {{driver: process, process: {{command: [service], memory: 1GiB}}, {scaler}}}}}
  {more}
routes: [{{match: {{path_prefix: /}}, cluster: etl}}]
"""
    return load_bytes(text.encode(), "test.yaml", Path("."), {})


class Engine:
    """A driver by hand. `fails[what]` are errors of the next calls, `held` an Event that starts wait for."""

    def __init__(self, clock):
        self.clock = clock
        self.there = {}
        self.queue = asyncio.Queue()
        self.calls = []
        self.fails = {}
        self.held = None
        self.tail = "the end"
        self.is_closed = False

    def tell(self, event):
        self.queue.put_nowait(event)

    def named(self, what):
        return [one for name, one in self.calls if name == what]

    def _called(self, what, about):
        self.calls.append((what, about))
        if self.fails.get(what):
            raise self.fails[what].pop(0)

    async def start(self, order):
        if self.held is not None:
            await self.held.wait()
        self._called("start", order)
        own = f"{order.cluster}-{len(self.calls)}"
        address = TcpAddress("127.0.0.1", 9000 + len(self.calls))
        made = Instance(
            own,
            order.name,
            order.cluster,
            State.RUNNING,
            (address,),
            owner="homeport",
            started_at=1.0,
            spec_digest=order.spec.digest(),
        )
        self.there[own] = made
        self.tell(Changed(made))
        return made

    async def stop(self, own, *, grace_s=None):
        self._called("stop", own)
        self.tell(Stopping(own, 15, 10.0))
        self.tell(Died(own))

    async def remove(self, own):
        self._called("remove", own)
        if self.there.pop(own, None) is not None:
            self.tell(Removed(own))

    async def list(self):
        self._called("list", "")
        return tuple(self.there.values())

    async def watch(self):
        yield Listed(tuple(self.there.values()))
        while True:
            yield await self.queue.get()

    async def stats(self, instances):
        return {one.id: Usage(10, 40.0, 0.5, 50.0) for one in instances}

    async def log_tail(self, own, lines=50):
        self._called("log", own)
        return self.tail

    async def close(self):
        self.is_closed = True


class World:
    def __init__(self, monkeypatch):
        self.clock = Clock()
        self.board = Scoreboard(workers=1, endpoints=32, clusters=4)
        self.slots = Slots(SlotAllocator(32), SlotAllocator(4, what="clusters"))
        self.engine = Engine(self.clock)
        self.failing = set()
        """Instances whose checks fail; None in it = all."""
        monkeypatch.setattr(engines, "ProcessDriver", lambda **_: self.engine)
        monkeypatch.setattr(scaling.InstanceChecks, "run", self.check)
        self.membership = Membership(self.publish)
        self.begin()

    def begin(self):
        """A control begins, perhaps after another."""
        self.events = EventLog(self.clock)
        self.snapshot = None
        self.scaling = Scaling(
            self.board,
            self.events,
            self.membership,
            lambda: None,
            self,
            self,
            lambda: self.snapshot,
            clock=self.clock,
            rng=random.Random(1),
        )

    def serve(self, config):
        self.config = config
        self.publish()
        self.scaling.update(config)

    def publish(self):
        self.snapshot = build_snapshot(
            self.config, generation=1, resolved={}, slots=self.slots, found=self.membership.found
        )

    async def check(self, cluster, tls, instance):
        return "refused" if self.failing & {None, instance.id} else ""

    def get(self, endpoint_id):
        """As standings: health checks know nothing."""

    def cost_of_losing(self, slot, staying):
        """As residencies: the lowest row has the most to lose."""
        return float(100 - slot)

    async def advance(self, seconds):
        """Let time pass, in which workers live."""
        for _ in range(round(seconds / 0.2)):
            self.board.worker_row(0)[W_HEARTBEAT_MS] = int(self.clock.now * 1000)
            await self.clock.advance(0.2)

    def endpoints(self, cluster="etl"):
        specs = next(one for one in self.snapshot.clusters if one.name == cluster).endpoints
        return {spec.instance: spec.leaving for spec in specs}

    def told(self, kind):
        return [event.text for event in self.events.recent if event.type is kind]

    def size(self, cluster="etl"):
        said = self.scaling.documents()[cluster]
        return said["serving"], said["starting"], said["going"]

    def put_in_flight(self, instance, count):
        spec = next(one for one in self.snapshot.clusters[0].endpoints if one.instance == instance)
        self.board.endpoint_row(0, spec.slot)[E_IN_FLIGHT] = count


@pytest.fixture
def run(monkeypatch):
    """Run `test(world)`, and stop what it started."""

    def run(test):
        async def main():
            world = World(monkeypatch)
            async with asyncio.timeout(LIMIT_S):
                await test(world)
                await world.scaling.stop()
                assert world.engine.is_closed

        asyncio.run(main())

    return run


def test_up_by_hand_and_down_without_a_request_cut(run):
    async def main(world):
        world.serve(config_of())
        await world.advance(1)
        assert world.size() == (2, 0, 0) and len(world.endpoints()) == 2
        assert world.scaling.scale("etl", 4)["desired"] == 4
        await world.advance(1)
        first, second, third, fourth = world.endpoints()
        world.put_in_flight(fourth, 1)
        world.scaling.scale("etl", 3)
        await world.advance(1)
        assert world.endpoints()[fourth].endswith("the least of all; 0 s of work in flight")
        assert world.engine.named("stop") == [] and world.size() == (3, 0, 1)
        world.put_in_flight(fourth, 0)
        await world.advance(1.2)
        assert world.engine.named("stop") == [fourth] == world.engine.named("remove")
        assert list(world.endpoints()) == [first, second, third]
        document = world.scaling.documents()["etl"]
        assert (document["mode"], document["set_to"], document["reason"]) == ("manual", 3, "set to 3 by hand")

    run(main)


def test_while_the_engine_is_away_members_stay_and_afterwards_it_catches_up(run):
    async def main(world):
        world.serve(config_of())
        await world.advance(1)
        before = world.endpoints()
        world.engine.tell(Lost("connection refused"))
        await world.advance(0.2)
        world.scaling.scale("etl", 5)
        calls = len(world.engine.calls)
        await world.advance(30)
        assert world.endpoints() == before and len(world.engine.calls) == calls
        assert len(world.told(EventType.ENGINE_LOST)) == 1
        world.engine.tell(Lost("timed out"))
        first, second = before
        del world.engine.there[first]  # it died meanwhile
        world.engine.tell(Listed(tuple(world.engine.there.values())))
        await world.advance(1)
        assert world.size() == (5, 0, 0) and first not in world.endpoints() and second in world.endpoints()
        assert len(world.told(EventType.ENGINE_LOST)) == len(world.told(EventType.ENGINE_BACK)) == 1

    run(main)


def test_starts_that_fail_are_told_and_tried_again_ever_more_slowly(run):
    async def main(world):
        refusal = EngineRefused("start etl-1", "the port is taken")
        world.engine.fails["start"] = [refusal] * 6
        world.serve(config_of())
        await world.advance(60)
        assert world.size() == (2, 0, 0)
        failures = world.told(EventType.INSTANCE_FAILED)
        assert (
            len(failures) == 6
            and failures[0] == "start etl-1: the port is taken; the next start in 1 s at least"
        )
        assert failures[-1].endswith("in 16 s at least")

    run(main)


def test_an_answer_that_got_lost_is_no_failed_start(run):
    async def main(world):
        world.engine.fails["start"] = [EngineUnavailable("start", "timed out")] * 2
        world.serve(config_of())
        await world.advance(3)
        assert world.size() == (2, 0, 0)
        assert world.scaling.documents()["etl"]["failed_starts_in_a_row"] == 0

    run(main)


def test_last_words_are_told_and_a_log_that_is_not_to_be_had_is_no_hindrance(run):
    async def main(world):
        world.failing.add(None)
        world.engine.fails["log"] = [EngineUnavailable("log", "timed out")]
        world.engine.fails["remove"] = [EngineUnavailable("remove", "timed out")]
        world.serve(config_of("start_timeout: 2s, min_instances: 1"))
        await world.advance(10)
        first, second, *_ = world.told(EventType.INSTANCE_FAILED)
        assert first.startswith("not healthy within 2 s: refused; ") and "not to be had" in first
        assert second.endswith("the end of its log:\nthe end")
        assert world.engine.named("remove")[:2] == world.engine.named("log")[:1] * 2, "tried again"

    run(main)


def test_one_slow_start_holds_up_nothing_else(run):
    async def main(world):
        world.serve(config_of())
        await world.advance(1)
        world.engine.held = asyncio.Event()
        world.scaling.scale("etl", 3)
        await world.advance(5)
        dead, other = world.endpoints()
        world.engine.tell(Died(dead))
        await world.advance(0.4)
        assert list(world.endpoints()) == [other]
        world.engine.held.set()
        await world.advance(1)
        assert world.size()[0] == 2

    run(main)


def test_a_control_that_comes_after_goes_on_with_what_there_is(run):
    async def main(world):
        world.serve(config_of())
        await world.advance(1)
        world.scaling.scale("etl", 4)
        await world.advance(1)
        before = world.endpoints()
        starts = len(world.engine.named("start"))
        await world.scaling.stop()
        world.begin()
        world.failing.add(None)  # those that served are not asked again
        world.engine.queue = asyncio.Queue()
        world.serve(config_of())
        await world.advance(2)
        assert world.endpoints() == before and len(world.engine.named("start")) == starts
        assert world.scaling.documents()["etl"]["mode"] == "manual"
        world.scaling.scale("etl", None)
        assert world.scaling.documents()["etl"]["desired"] == 4

    run(main)


def test_the_hosts_budget_is_never_exceeded(run):
    other = "- {name: ml, scaler: {driver: process, process: {command: [m], memory: 1GiB}, min_instances: 3}}"

    async def main(world):
        world.serve(config_of("min_instances: 3", other, "host_budget: {memory: 5GiB}"))
        await world.advance(5)
        assert world.size() == (3, 0, 0) and world.size("ml") == (2, 0, 0)
        assert "the host has room for 2" in world.scaling.documents()["ml"]["reason"]
        world.scaling.scale("etl", 6)
        await world.advance(5)
        assert len(world.engine.there) == 5

    run(main)


def test_a_cluster_that_leaves_the_configuration_takes_its_instances_with_it(run):
    other = "- {name: ml, scaler: {driver: process, process: {command: [m]}}}"

    async def main(world):
        world.serve(config_of(more=other))
        await world.advance(1)
        busy = next(iter(world.endpoints("ml")))
        slot = next(one for one in world.snapshot.clusters[1].endpoints if one.instance == busy).slot
        world.board.endpoint_row(0, slot)[E_IN_FLIGHT] = 1
        world.serve(config_of())
        await world.advance(3)
        assert [one for one in world.engine.there if one.startswith("ml")] == [busy], "it has a request"
        world.board.endpoint_row(0, slot)[E_IN_FLIGHT] = 0
        await world.advance(3)
        assert not [one for one in world.engine.there if one.startswith("ml")]
        assert world.size() == (2, 0, 0) and list(world.scaling.documents()) == ["etl"]
        world.serve(config_of(more=other))
        await world.advance(1)
        assert world.size("ml") == (2, 0, 0)

    run(main)


def test_a_dry_run_gives_no_orders(run):
    async def main(world):
        world.serve(config_of("dry_run: true"))
        await world.advance(5)
        assert world.engine.calls == []
        assert world.told(EventType.SCALED) == ["would be 2 instances instead of 0: min_instances is 2"]

    run(main)


def test_who_cannot_be_scaled(run):
    async def main(world):
        world.serve(config_of(more="- {name: plain, endpoints: []}"))
        for name, words in (("plain", "has no scaler"), ("elt", "did you mean etl")):
            with pytest.raises(UnknownTarget, match=words):
                world.scaling.scale(name, 3)

    run(main)


def test_the_trouble_of_one_cluster_is_not_that_of_others(run, caplog, monkeypatch):
    other = "- {name: ml, scaler: {driver: process, process: {command: [m]}}}"

    async def main(world):
        world.serve(config_of(more=other))
        broken = next(iter(world.scaling._clusters.values()))
        monkeypatch.setattr(broken, "step", None)
        await world.advance(1)
        assert world.size("ml") == (2, 0, 0)

    run(main)
    assert "the scaler of cluster etl failed" in caplog.text
