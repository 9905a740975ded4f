"""Endpoints from containers: who is one, who leaves, and what is believed while the engine says nothing."""

import asyncio
from dataclasses import replace

import pytest
from resilience_world import Clock
from support.wait import LIMIT_S

from proxy.controlplane.docker_source import LINGER_S, DockerSource
from proxy.controlplane.events import EventLog
from proxy.controlplane.membership import Membership
from proxy.controlplane.source_report import SourceReport
from proxy.drivers.driver import (
    Changed,
    Died,
    EngineHealth,
    Instance,
    Listed,
    Lost,
    Removed,
    State,
    Stopping,
)
from proxy.model import TcpAddress
from proxy.scoreboard import D_ANSWERS, D_FAILING, D_FAILURES, Scoreboard, discovery_word

HOME, PUBLISHED = TcpAddress("172.18.0.2", 8000), TcpAddress("127.0.0.1", 32768)
ONE = Instance("a" * 64, "etl-1", "etl", State.RUNNING, (HOME, PUBLISHED), started_at=50.0)
TWO = Instance("b" * 64, "etl-2", "etl", State.RUNNING, (TcpAddress("172.18.0.3", 8000),), started_at=50.0)


class Engine:
    """A driver of which the test says what its watcher is told."""

    def __init__(self):
        self.events = asyncio.Queue()

    async def watch(self):
        while True:
            yield await self.events.get()


class World:
    def __init__(self, known=()):
        self.clock = Clock()
        self.board = Scoreboard(endpoints=4)
        self.log = EventLog(self.clock)
        self.changes = 0
        self.membership = Membership(self.on_change)
        self.membership.put("docker", "etl", known)
        self.report = SourceReport("docker", "", self.board, self.log, self.clock)
        self.engine = Engine()
        self.source = DockerSource(self.engine, ["etl"], self.membership, self.report, self.clock)

    def on_change(self):
        self.changes += 1

    async def tell(self, *events):
        for event in events:
            self.engine.events.put_nowait(event)
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def found(self):
        return {spec.name: spec for spec in self.membership.of("docker", "etl")}

    def leaving(self):
        return {name: spec.leaving for name, spec in self.found.items()}

    def count(self, word):
        return self.board.control_row[discovery_word("docker", word)]


def run(main, **more):
    async def limited():
        world = World(**more)
        world.source.start()
        try:
            async with asyncio.timeout(LIMIT_S):
                await main(world)
        finally:
            world.source.stop()
            await asyncio.sleep(0)

    asyncio.run(limited())


def test_a_container_is_an_endpoint_for_as_long_as_it_runs():
    async def main(world):
        labels = (("homeport.cluster", "etl"), ("homeport.tags", "gpu, eu"), ("homeport.weight", "3"))
        labels += (("homeport.zone", "z1"), ("homeport.slots", "4"), ("homeport.cache", "2GiB"))
        labels += (("homeport.bandwidth", "100MiB"),)
        await world.tell(Listed((replace(ONE, labels=labels),)))
        spec = world.found["etl-1"]
        assert (spec.id, spec.address, spec.instance, spec.source) == (
            "etl/" + "a" * 12,
            HOME,
            ONE.id,
            "docker",
        )
        assert (spec.weight, spec.tags, spec.zone, spec.slots) == (3, {"gpu", "eu"}, "z1", 4)
        assert (spec.cache_bytes, spec.bandwidth_bytes_per_s) == (2 << 30, 100 << 20)
        await world.tell(Changed(TWO))
        assert list(world.found) == ["etl-1", "etl-2"]
        await world.tell(Died(ONE.id))
        assert list(world.found) == ["etl-2"]
        await world.tell(Changed(replace(ONE, state=State.RESTARTING, addresses=())))
        assert list(world.found) == ["etl-2"]
        await world.tell(Changed(replace(ONE, addresses=(PUBLISHED,), started_at=60.0)))
        assert (world.found["etl-1"].id, world.found["etl-1"].address) == (spec.id, PUBLISHED)
        await world.tell(Removed(TWO.id), Died("c" * 64))
        assert list(world.found) == ["etl-1"]
        await world.tell(Changed(replace(ONE, cluster="other")))
        assert not world.found and not world.membership.of("docker", "other"), "nobody asked for it"

    run(main)


def test_who_is_asked_to_end_leaves():
    async def main(world):
        await world.tell(Listed((ONE, TWO)), Stopping(ONE.id, 15, 10.0))
        assert world.leaving() == {"etl-1": "it was asked to end by SIGTERM", "etl-2": ""}
        await world.tell(Changed(replace(ONE, health=EngineHealth.UNHEALTHY)), Listed((ONE, TWO)))
        assert world.leaving()["etl-1"], "it still ends"
        await world.tell(Died(ONE.id), Changed(replace(ONE, started_at=70.0)))
        assert world.leaving() == {"etl-1": "", "etl-2": ""}, "another life"
        await world.tell(Stopping(ONE.id, 35, 10.0))
        assert world.leaving()["etl-1"] == "it was asked to end by signal 35"

    run(main)


def test_who_does_not_end_is_put_back():
    async def main(world):
        await world.tell(Listed((ONE,)), Stopping(ONE.id, 15, 10.0))
        await world.clock.advance(10.0 + LINGER_S - 0.1)
        assert world.leaving()["etl-1"]
        await world.tell(Stopping(ONE.id, 15, 10.0))
        await world.clock.advance(1.0)
        assert world.leaving()["etl-1"], "asked again"
        await world.clock.advance(10.0 + LINGER_S)
        assert not world.leaving()["etl-1"]

    run(main)


def test_a_restart_that_was_not_seen_is_another_life():
    async def main(world):
        await world.tell(Listed((ONE,)), Stopping(ONE.id, 15, 10.0), Lost("the stream of events ended"))
        assert world.leaving()["etl-1"]
        await world.tell(Listed((replace(ONE, started_at=70.0),)))
        assert not world.leaving()["etl-1"]

    run(main)


def test_a_paused_one_gets_nothing_and_the_engines_check_is_a_veto():
    async def main(world):
        await world.tell(
            Listed((replace(ONE, state=State.PAUSED), replace(TWO, health=EngineHealth.UNHEALTHY)))
        )
        assert world.leaving() == {"etl-1": "it is paused", "etl-2": ""}
        assert world.found["etl-2"].veto
        await world.tell(Changed(ONE), Changed(replace(TWO, health=EngineHealth.STARTING)))
        assert not world.leaving()["etl-1"] and not world.found["etl-2"].veto

    run(main)


def test_while_the_engine_cannot_be_asked_its_last_answer_holds():
    async def main(world):
        assert world.report.state == "asking"
        await world.tell(Listed((ONE,)))
        await world.report.answered()
        changes = world.changes
        await world.tell(Lost("follow events: connection refused"), Lost("follow events: no such file"))
        await world.clock.advance(30.0)
        assert world.report.state == "failing" and world.changes == changes and list(world.found) == ["etl-1"]
        assert world.report.document()["problem"] == "follow events: no such file"
        assert [world.count(word) for word in (D_FAILING, D_ANSWERS, D_FAILURES)] == [1, 1, 2]
        await world.tell(Listed((TWO,)))
        assert list(world.found) == ["etl-2"] and world.count(D_FAILING) == 0
        assert [(each.type.value, each.subject, each.text) for each in world.log.recent] == [
            ("source_lost", "discovery docker", "its last answer holds: follow events: connection refused"),
            ("source_back", "discovery docker", "it answers, after 30.0 s"),
        ]

    run(main)


def test_what_the_process_before_knew_holds_until_the_engine_answers():
    known = []

    async def before(world):
        await world.tell(Listed((ONE, TWO)), Stopping(ONE.id, 15, 10.0))
        known.extend(world.membership.of("docker", "etl"))

    async def main(world):
        assert len(world.found) == 2
        await world.tell(Lost("follow events: connection refused"))
        assert len(world.found) == 2
        await world.tell(Listed((ONE,)))
        assert world.leaving() == {"etl-1": "it was asked to end by SIGTERM"}
        await world.clock.advance(10.0 + LINGER_S)
        assert world.leaving() == {"etl-1": ""}

    run(before)
    run(main, known=known)


@pytest.mark.parametrize(
    ("instance", "told"),
    [
        (replace(ONE, addresses=()), "it is left out: no address of it can be reached"),
        (replace(ONE, labels=(("homeport.weight", "many"),)), "label homeport.weight: is not a whole number"),
        (replace(ONE, labels=(("homeport.tags", "a,b/c"),)), "label homeport.tags"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_container_is_told_once(instance, told, caplog):
    async def main(world):
        await world.tell(Listed((instance,)), Changed(replace(instance, restarts=1)), Listed((instance,)))
        assert len(world.found) == bool(instance.addresses)
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 1 and lines[0].startswith(f"container etl-1 of cluster etl: {told}")

    run(main)


def test_what_the_scaler_started_is_the_scalers_to_tell():
    async def main():
        world = World()
        args = world.engine, ["etl"], world.membership, world.report, world.clock
        world.source = DockerSource(*args, owner="us")
        world.source.start()
        await world.tell(Listed((ONE, replace(TWO, owner="us"))))
        assert list(world.found) == ["etl-1"]
        world.source.stop()

    asyncio.run(main())
