"""The scaler with the driver of a Docker Engine, and an engine that does what no real one can be made to do."""

import asyncio
import random
import threading
from pathlib import Path

import pytest
import requests
from fake_engine import LIMIT_S, FakeEngine, api_error, event, inspected, kill

from proxy.clock import SystemClock
from proxy.config.build import build_snapshot
from proxy.config.container import engine_options, selector
from proxy.config.load import load_bytes
from proxy.config.slots import SlotAllocator, Slots
from proxy.controlplane import engines, scaling
from proxy.controlplane.events import EventLog, EventType
from proxy.controlplane.membership import Membership
from proxy.controlplane.scaling import Scaling
from proxy.drivers import lease
from proxy.drivers.docker import DockerDriver
from proxy.drivers.engine_answers import Vantage
from proxy.scoreboard import W_HEARTBEAT_MS, Scoreboard

CONFIG = """
listeners: [{name: edge, bind: "127.0.0.1:0"}]
clusters:
  - name: etl
    scaler: {container: {image: "query:1", pull: never, ports: [8000]}, drain_timeout: 1s, start_timeout: 5s, MORE}
routes: [{match: {path_prefix: /}, cluster: etl}]
"""


class Engine(FakeEngine):
    """Each container that is made has an address of its own."""

    def create_container_from_config(self, config, name):
        made = super().create_container_from_config(config, name)
        networks = self.containers_by_id[made["Id"]]["NetworkSettings"]["Networks"]
        networks["bridge"]["IPAddress"] = f"172.17.0.{len(self.calls) % 250 + 3}"
        return made


class World:
    """A control's scaler at an engine by hand."""

    def __init__(self, monkeypatch, more="min_instances: 2", image="query:1"):
        self.engine = Engine()
        self.clock = SystemClock()
        text = CONFIG.replace("MORE", more).replace("query:1", image)
        self.config = load_bytes(text.encode(), "test.yaml", Path("."), {})
        self.board = Scoreboard(workers=1, endpoints=32, clusters=4)
        self.board.worker_row(0)[W_HEARTBEAT_MS] = 1
        self.slots = Slots(SlotAllocator(32), SlotAllocator(4, what="clusters"))
        self.snapshot = None
        self.membership = Membership(self.publish)
        self.publish()
        monkeypatch.setattr(scaling.InstanceChecks, "run", self.check)

    def begin(self):
        """A control begins."""
        chosen = [each for each in map(selector, self.config.clusters) if each is not None]
        self.driver = DockerDriver(
            engine_options(self.config.docker),
            chosen,
            clock=self.clock,
            connect=self.engine.connect,
            vantage=Vantage(on_host=True),
        )
        self.events = EventLog(self.clock)
        self.scaling = Scaling(
            self.board, self.events, self.membership, lambda: self.driver, self, self, lambda: self.snapshot,
            clock=self.clock, rng=random.Random(),
        )  # fmt: skip
        self.scaling.update(self.config)

    def publish(self):
        self.snapshot = build_snapshot(
            self.config, generation=1, resolved={}, slots=self.slots, found=self.membership.found
        )

    async def check(self, cluster, tls, instance):
        return ""

    def get(self, endpoint_id):
        """As standings."""

    def cost_of_losing(self, slot, staying):
        """As residencies."""
        return 0.0

    def size(self):
        said = self.scaling.documents()["etl"]
        return said["serving"], said["starting"], said["going"]

    async def until(self, condition, what):
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.01)

    def endpoints(self):
        return {spec.instance: spec.leaving for spec in self.snapshot.clusters[0].endpoints}

    def told(self, kind):
        return [one.text for one in self.events.recent if one.type is kind]


@pytest.fixture
def run(monkeypatch):
    def run(test, **more):
        async def main():
            monkeypatch.setattr(engines, "LEASE_RENEW_S", 0.1)
            world = World(monkeypatch, **more)
            world.begin()
            try:
                async with asyncio.timeout(4 * LIMIT_S):
                    await test(world)
            finally:
                await world.scaling.stop()
                await world.driver.close()
                for stream in world.engine.streams:
                    stream.close()

        asyncio.run(main())

    return run


def containers(world):
    """Those that were made for the cluster, by id."""
    there = world.engine.containers_by_id.items()
    return {own: one for own, one in there if one["Config"]["Labels"].get("homeport.cluster") == "etl"}


def test_containers_are_made_with_their_labels_and_serve(run):
    async def main(world):
        await world.until(lambda: world.size() == (2, 0, 0), "two containers")
        assert world.endpoints() == dict.fromkeys(containers(world), "")
        labels = next(iter(containers(world).values()))["Config"]["Labels"]
        assert labels["homeport.owner"] == "homeport" and len(labels["homeport.spec"]) == 16
        assert [one["Name"] for one in world.engine.containers_by_id.values() if "lease" in one["Name"]]

    run(main)


def test_what_is_there_is_adopted_and_what_is_not_ours_is_left_alone(run):
    async def main(world):
        await world.until(lambda: world.size() == (2, 0, 0), "two containers")
        before = set(containers(world))
        await world.scaling.stop()
        world.engine.add("theirs", owner="another")
        world.engine.add("by-hand", owner="")
        world.engine.containers_by_id["left-over"] = inspected(
            "left-over",
            {"homeport.cluster": "etl", "homeport.owner": "homeport"},
            Status="created",
            StartedAt="",
        )
        world.begin()
        await world.until(
            lambda: "left-over" not in world.engine.containers_by_id, "what was left over to go"
        )
        await world.until(lambda: world.size() == (2, 0, 0), "the same two")
        assert before < set(containers(world)) == before | {"theirs", "by-hand"}
        assert set(world.endpoints()) == before, "others are found by discovery, if at all"

    run(main)


def test_docker_stop_by_hand_drains_at_once_and_is_made_good(run):
    async def main(world):
        await world.until(lambda: world.size() == (2, 0, 0), "two containers")
        own = next(iter(world.endpoints()))
        world.engine.streams[-1].put(kill(15, own))
        await world.until(lambda: world.endpoints()[own], "it to drain")
        await world.until(lambda: world.size()[0] == 2, "another one in its place")
        world.engine.containers_by_id[own]["State"] |= {"Status": "exited", "ExitCode": 0}
        world.engine.streams[-1].put(event("die", own, **{"homeport.cluster": "etl"}))
        await world.until(lambda: own not in world.engine.containers_by_id, "it to be removed")
        assert world.size() == (2, 0, 0)

    run(main)


def test_an_engine_that_goes_away_costs_no_endpoint_and_is_caught_up_with(run):
    async def main(world):
        await world.until(lambda: world.size() == (2, 0, 0), "two containers")
        before = world.endpoints()
        world.engine.down = requests.exceptions.ConnectionError("refused")
        world.engine.streams[-1].end()
        await world.until(lambda: world.told(EventType.ENGINE_LOST), "it to be told")
        world.scaling.scale("etl", 3)
        await asyncio.sleep(0.5)
        assert world.endpoints() == before
        world.engine.down = None
        del world.engine.containers_by_id[next(iter(before))]
        await world.until(lambda: world.told(EventType.ENGINE_BACK), "it to be told")
        for life in world.scaling._clusters["etl", "docker"].fleet.lives:
            life.seen_at -= 60.0
        await world.driver._watches.copy().pop().list_again()
        await world.until(lambda: world.size() == (3, 0, 0), "three containers")

    run(main)


def test_two_homeports_with_one_name_do_not_both_act(run, monkeypatch):
    async def main(world):
        await world.until(lambda: world.size() == (2, 0, 0), "two containers")
        other = World(monkeypatch, "min_instances: 5")
        other.engine = world.engine
        other.begin()
        await other.until(lambda: other.size() == (2, 0, 0), "the second one to find them")
        await other.until(lambda: other.told(EventType.ENGINE_LOST), "it to say that it may not act")
        assert "holds the lease" in other.told(EventType.ENGINE_LOST)[0]
        assert len(containers(world)) == 2 and set(other.endpoints()) == set(world.endpoints())
        await world.scaling.stop()
        await other.until(lambda: other.size() == (5, 0, 0), "the second one to take over")
        await other.scaling.stop()
        await other.driver.close()

    monkeypatch.setattr(lease, "LEASE_S", 60.0)
    run(main)


def test_a_stop_that_hangs_holds_up_no_start(run):
    async def main(world):
        await world.until(lambda: world.size() == (2, 0, 0), "two containers")
        world.scaling.scale("etl", 3)
        await world.until(lambda: world.size() == (3, 0, 0), "three")
        world.engine.hold["stop"] = threading.Event()
        world.scaling.scale("etl", 2)
        await world.until(lambda: world.engine.names("stop"), "a stop")
        world.scaling.scale("etl", 4)
        await world.until(lambda: world.size() == (4, 0, 1), "two more beside the one that hangs")
        world.engine.hold.pop("stop").set()
        await world.until(lambda: world.size() == (4, 0, 0), "it to be gone")

    run(main)


def test_an_image_that_is_not_there_is_told_with_what_to_do(run):
    async def main(world):
        await world.until(lambda: world.told(EventType.ENGINE_LOST), "it to be told")
        assert "pull" in world.told(EventType.ENGINE_LOST)[0]

    run(main, image="other:1")


def test_starts_that_the_engine_refuses_are_told(run):
    async def main(world):
        refusal = "driver failed programming external connectivity"
        world.engine.fail["start"] = [api_error(500, refusal)] * 2
        await world.until(lambda: world.size() == (2, 0, 0), "two containers all the same")
        assert refusal in world.told(EventType.INSTANCE_FAILED)[0]

    run(main)
