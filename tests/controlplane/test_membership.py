"""What sources say of clusters: kept until they say otherwise, and told workers at once."""

import asyncio
from dataclasses import replace

from control_world import World, settle
from support.wait import LIMIT_S

from proxy.config.endpoints import NO_SLOT, endpoint_id, merge
from proxy.controlplane.membership import AWAIT_S, Membership
from proxy.model import TcpAddress
from proxy.policy.breaker import Circuit, CircuitState, unpack
from proxy.policy.health import HealthState
from proxy.policy.standing import unpack_marks
from proxy.scoreboard import X_CIRCUIT, X_MARKS
from proxy.snapshot import EndpointSpec
from proxy.snapshot_codec import legacy_of

TEXT = b"""
listeners: [{name: edge, bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
clusters:
  - name: etl
    discovery: {docker: {}}
    endpoints: [{address: "10.0.0.9:9000"}]
  - {name: other, endpoints: []}
routes: [{match: {path_prefix: /}, cluster: etl}]
"""
LONG_ID = "0123456789abcdef" * 4


def spec(host, instance="", **more):
    address = TcpAddress(host, 9000)
    own = endpoint_id("etl", address, instance)
    return EndpointSpec(own, NO_SLOT, address, instance or str(address), instance=instance, **more)


class Control(World):
    """A control, its membership, and what became of endpoints."""

    def __init__(self):
        super().__init__(TEXT)

    @property
    def membership(self):
        return self.control._membership

    def put(self, *found, source="docker"):
        self.membership.put(source, "etl", found)

    @property
    def served(self):
        return {each.id: each for each in self.published[-1].clusters[0].endpoints}

    def marks(self, own):
        return unpack_marks(self.board.standing_row(self.served[own].slot)[X_MARKS])

    def events(self):
        return [(each.type.value, each.subject, each.text) for each in self.control.events.recent]

    async def restart(self):
        last = self.published[-1]
        await self.control.stop()
        self.control = self.new_control(previous=last, legacy=legacy_of(last))
        await self.control.start()


def run(main):
    async def limited():
        world = Control()
        await world.control.start()
        try:
            await asyncio.wait_for(main(world), LIMIT_S)
        finally:
            await world.control.stop()

    asyncio.run(limited())


def test_the_identity_is_the_instance_where_one_is_known():
    address = TcpAddress("10.0.0.1", 80)
    assert endpoint_id("etl", address) == "etl/10.0.0.1:80"
    assert endpoint_id("etl", address, "process-1-77") == "etl/process-1-77"
    assert endpoint_id("etl", address, LONG_ID) == "etl/0123456789ab"


def test_two_sources_of_one_endpoint():
    """As the first of them says; it leaves when any says so."""
    first, second = spec("10.0.0.1", "a", weight=3), spec("10.0.0.1", "a", leaving="scaled down", veto="sick")
    assert merge([first, second]) == [replace(first, leaving="scaled down", veto="sick")]


def test_two_endpoints_at_one_address():
    """The one that is there now: who does not leave, and of whom more is known than the address."""
    old, new, nameless = spec("10.0.0.1", "a", leaving="stopped"), spec("10.0.0.1", "b"), spec("10.0.0.1")
    assert merge([old, new, nameless]) == merge([nameless, new, old]) == [new]
    assert merge([old, spec("10.0.0.2", "b")]) == [old, spec("10.0.0.2", "b")]


def test_what_a_source_says_is_served():
    async def main(world):
        world.put(spec("10.0.0.2", "b", weight=2), spec("10.0.0.1", "a"))
        await settle()
        assert list(world.served) == ["etl/10.0.0.9:9000", "etl/a", "etl/b"]
        found = world.served["etl/b"]
        assert (found.weight, found.source, str(found.address)) == (2, "docker", "10.0.0.2:9000")
        count = len(world.published)
        world.put(spec("10.0.0.1", "a"), spec("10.0.0.2", "b", weight=2))
        await settle()
        assert len(world.published) == count, "the same in another order"
        world.put(spec("10.0.0.3", "c"), source="dns")
        world.membership.put("docker", "other", [spec("10.0.0.4", "d")])
        await settle()
        assert "etl/c" not in world.served and not world.published[-1].clusters[1].endpoints, "not asked for"
        world.put(spec("10.0.0.9", "x"))
        await settle()
        assert list(world.served) == ["etl/10.0.0.9:9000"], "as the configuration says"

    run(main)


def test_another_instance_at_an_address_is_another_endpoint():
    async def main(world):
        world.put(spec("10.0.0.1", "a"))
        await settle()
        row = world.served["etl/a"].slot
        world.put(spec("10.0.0.1", "b"))
        await settle()
        assert world.served["etl/b"].slot != row
        world.put(spec("10.0.0.7", "b"))
        await settle()
        row = world.served["etl/b"].slot
        assert str(world.served["etl/b"].address) == "10.0.0.7:9000"
        world.put(spec("10.0.0.8", "b"))
        await settle()
        assert world.served["etl/b"].slot == row

    run(main)


def test_who_leaves_gets_nothing_new_before_the_next_snapshot():
    async def main(world):
        world.put(spec("10.0.0.1", "a"), spec("10.0.0.2", "b"))
        await settle()
        count = len(world.published)
        world.put(spec("10.0.0.1", "a", leaving="asked to end"))
        assert len(world.published) == count
        assert world.marks("etl/a").is_drained and world.marks("etl/b").is_drained
        assert world.events()[-2:] == [
            ("drained", "etl/a", "asked to end"),
            ("drained", "etl/b", "it is gone"),
        ]
        await settle()
        assert list(world.served) == ["etl/10.0.0.9:9000", "etl/a"]
        status, body = await world.get("/api/v1/clusters/etl")
        assert b'"why":"it leaves: asked to end"' in body and status == 200
        world.put(spec("10.0.0.1", "a"))
        assert not world.marks("etl/a").is_drained
        assert world.events()[-1] == ("undrained", "etl/a", "by docker")

    run(main)


def test_an_operators_drain_is_another():
    async def main(world):
        world.put(spec("10.0.0.1", "a"))
        await settle()
        world.control.set_drained("etl/a", True)
        world.put(spec("10.0.0.1", "a", leaving="asked to end"))
        world.put(spec("10.0.0.1", "a"))
        assert world.marks("etl/a").is_drained
        await world.restart()
        world.control.set_drained("etl/a", False)
        assert not world.marks("etl/a").is_drained

    run(main)


def test_a_veto_is_a_failed_check():
    async def main(world):
        world.put(spec("10.0.0.1", "a", veto="the engine's check fails"), spec("10.0.0.2", "b"))
        await settle()
        assert world.marks("etl/a").health is HealthState.UNHEALTHY
        assert world.marks("etl/b").health is HealthState.HEALTHY
        assert b"the engine's check fails" in (await world.get("/api/v1/clusters/etl"))[1]
        world.put(spec("10.0.0.1", "a"), spec("10.0.0.2", "b"))
        await settle()
        assert world.marks("etl/a").health is HealthState.HEALTHY

    run(main)


def test_a_source_is_believed_until_it_says_otherwise():
    """Over a restart of control and a reload; what a cluster no longer asks for is forgotten."""

    async def main(world):
        world.put(spec("10.0.0.1", "a", leaving="asked to end"), spec("10.0.0.2", "b"))
        await settle()
        before = world.published[-1].clusters
        await world.restart()
        assert world.published[-1].clusters == before
        assert world.marks("etl/a").is_drained
        assert not world.membership.has_answered("docker", "etl")
        world.text = TEXT.replace(b"10.0.0.9", b"10.0.0.10")
        await world.control.reload()
        assert list(world.served) == ["etl/10.0.0.10:9000", "etl/a", "etl/b"]
        world.put(spec("10.0.0.2", "b"))
        await settle()
        assert world.membership.has_answered("docker", "etl")
        assert list(world.served) == ["etl/10.0.0.10:9000", "etl/b"]
        world.text = TEXT.replace(b"    discovery: {docker: {}}\n", b"")
        await world.control.reload()
        assert list(world.served) == ["etl/10.0.0.9:9000"]

    run(main)


def test_the_last_instance_is_awaited_for_a_while():
    async def main(world):
        assert not world.published[-1].clusters[0].is_awaited
        world.put(spec("10.0.0.1", "a"))
        await settle()
        assert world.published[-1].clusters[0].is_awaited
        world.put()
        assert world.marks("etl/a").is_drained, "before the next snapshot"
        await settle()
        assert world.published[-1].clusters[0].is_awaited and "etl/a" not in world.served
        await world.restart()
        assert world.published[-1].clusters[0].is_awaited
        world.membership.sweep(now=100.0)
        world.membership.sweep(now=100.0 + AWAIT_S - 0.1)
        assert world.membership.awaited == {"etl"}
        world.membership.sweep(now=100.0 + AWAIT_S)
        await settle()
        assert not world.published[-1].clusters[0].is_awaited
        world.put(spec("10.0.0.1"))
        world.put()
        assert not world.membership.awaited, "nobody starts what is only an address"

    run(main)


def test_an_instance_that_was_away_begins_with_a_closed_circuit():
    async def main(world):
        world.put(spec("10.0.0.1", "a"), spec("10.0.0.2"))
        await settle()
        rows = [world.board.standing_row(world.served[own].slot) for own in ("etl/a", "etl/10.0.0.2:9000")]
        for row in rows:
            row[X_CIRCUIT] = Circuit(CircuitState.OPEN, 3, 1e9).pack()
        world.put()
        await settle()
        world.put(spec("10.0.0.1", "a"), spec("10.0.0.2"))
        await settle()
        assert [unpack(row[X_CIRCUIT]).state for row in rows] == [CircuitState.CLOSED, CircuitState.OPEN]

    run(main)


def test_others_at_once_in_place_of_all():
    """Those that were there go on until the snapshot with the new ones: else nobody would be there for a moment."""
    membership = Membership(lambda: None)
    membership.put("docker", "etl", [spec("10.0.0.2", "b")])
    here = [replace(spec("10.0.0.1", "a"), source="docker")]
    assert membership.departures(here) == {}
    membership.put("docker", "etl", [])
    assert membership.departures(here) == {"etl/a": "it is gone"}


def test_more_endpoints_than_rows():
    """Those that are found are left out, those that are configured are not."""

    async def main(world):
        world.put(*(spec(f"10.0.1.{number}", f"i{number}") for number in range(20)))
        await settle()
        assert len(world.served) == 8 and "etl/10.0.0.9:9000" in world.served

    run(main)


def test_forgotten_with_its_cluster():
    changes = []
    membership = Membership(lambda: changes.append(1))
    membership.put("docker", "etl", [])
    assert not changes, "nothing new"
    membership.put("docker", "etl", [spec("10.0.0.1", "a")])
    assert len(changes) == 1 and len(membership.of("docker", "etl")) == 1
    membership.keep(["other"])
    assert not membership.of("docker", "etl") and not membership.has_answered("docker", "etl")
    assert repr(membership) == "Membership({})"
