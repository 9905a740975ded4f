"""The control side as a whole: names to snapshots, the admin API over a real socket."""

import asyncio
import socket
from pathlib import Path

import orjson
import pytest
from control_world import TEXT, World, settle
from support.wait import wait_for

from proxy import composition
from proxy.clock import SystemClock
from proxy.composition import APPLY_S, SWEEP_S
from proxy.config.faults import Fault
from proxy.config.load import load_bytes
from proxy.controlplane import resolver
from proxy.controlplane.drains import UnknownTarget
from proxy.controlplane.slots import KEEP_S, held_slots
from proxy.controlplane.sources import Sources, known_addresses, watched_names
from proxy.controlplane.startup import first_config
from proxy.errors import ConfigError
from proxy.mailbox import Channel
from proxy.model import TcpAddress
from proxy.policy.breaker import CircuitState, unpack
from proxy.scoreboard import (
    C_HEARTBEAT_MS,
    C_RELOAD_REFUSED_LAST,
    E_IN_FLIGHT,
    E_RETRIES,
    P_WANTED_WORKERS,
    X_CIRCUIT,
)  # fmt: skip
from proxy.snapshot_codec import decode_legacy, encode_snapshot, legacy_of

LIMIT_S = 20.0
ONE_CLUSTER = b"""
listeners: [{name: edge, bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
clusters: [{name: etl, endpoints: [{address: "10.0.0.8:9000"}, {address: "10.0.0.9:9000"}]}]
routes: [{match: {path_prefix: /}, cluster: etl}]
"""


def run(main):
    async def limited():
        await asyncio.wait_for(main(), LIMIT_S)

    asyncio.run(limited())


def test_names_become_endpoints_and_changes_become_snapshots(caplog):
    async def main():
        world = World()
        await world.control.start()
        assert world.addresses() == {
            "etl": ["10.0.0.1:9000", "10.0.0.2:9000", "10.0.0.9:9000"],
            "other": ["10.0.0.1:9000", "10.0.0.2:9000"],
        }
        slots = {spec.id: spec.slot for cluster in world.published[0].clusters for spec in cluster.endpoints}
        assert len(set(slots.values())) == 5
        assert (await world.get("/readyz"))[0] == 200
        status, body = await world.get("/metrics")
        assert b"homeport_dns_lookups_total 2.0\n" in body and b"homeport_dns_failures_total 1.0\n" in body

        world.hosts["late"] = ["10.0.0.7"]
        await world.clock.wake(2.0)
        assert world.addresses()["other"][-1] == "10.0.0.7:1" and len(world.published) == 2
        world.hosts["query"].reverse()
        await world.clock.wake(11.0)
        assert len(world.published) == 2
        world.hosts["query"] = ["10.0.0.2"]
        await world.clock.wake(11.0)
        assert world.addresses()["etl"] == ["10.0.0.2:9000", "10.0.0.9:9000"]
        assert [each.generation for each in world.published] == [1, 2, 3]
        kept = {spec.id: spec.slot for cluster in world.published[2].clusters for spec in cluster.endpoints}
        assert all(slots[each] == slot for each, slot in kept.items() if each in slots)
        status, body = await world.get("/api/v1/status")
        assert orjson.loads(body)["generation"] == 3
        await world.control.stop()
        await world.control.stop()

    run(main)


def wait_for_beats(board):
    """As whatever takes long would: return when control has shown twice that it is alive."""
    for _ in range(2):
        board.control_row[C_HEARTBEAT_MS] = 0
        wait_for(lambda: board.control_row[C_HEARTBEAT_MS], "a heartbeat")


def test_control_beats_while_it_reads(monkeypatch):
    """Hundreds of certificates take seconds: at the start, for the first snapshot and at a reload."""

    async def main():
        world = World(ONE_CLUSTER)
        world.clock.sleep = SystemClock().sleep
        read = []

        def slowly(*of, **more):
            wait_for_beats(world.board)
            read.append(of[0])
            return Sources(*of, **more)

        class File:
            def read(self):
                wait_for_beats(world.board)
                return world.read()

        source, config, _ = await first_config(File(), None, world.board, world.clock)
        assert (source, config) == world.read()
        monkeypatch.setattr(composition, "Sources", slowly)
        await world.control.start()
        world.text = ONE_CLUSTER.replace(b"10.0.0.8", b"10.0.0.7")
        assert (await world.control.reload()).outcome.value == "applied"
        assert len(read) == 2
        await world.control.stop()

    run(main)


def test_the_row_of_an_endpoint_that_left_is_cleared_later():
    async def main():
        world = World()
        await world.control.start()
        leaving = world.published[0].clusters[0].endpoints[0]
        row = world.board.endpoint_row(0, leaving.slot)
        row[E_RETRIES] = 5
        world.hosts["query"] = ["10.0.0.2"]
        await world.clock.wake(11.0)
        assert len(world.published) == 2
        await world.clock.wake(SWEEP_S)
        assert row[E_RETRIES] == 5
        world.clock.ahead_s = KEEP_S + 1
        await world.clock.wake(SWEEP_S)
        assert row[E_RETRIES] == 0
        await world.control.stop()

    run(main)


def test_more_addresses_than_rows_keep_the_last_snapshot(caplog):
    async def main():
        world = World()
        await world.control.start()
        world.hosts["query"] = [f"10.0.1.{n}" for n in range(20)]
        await world.clock.wake(11.0)
        assert len(world.published) == 1 and (await world.get("/readyz"))[0] == 200
        await world.control.stop()

    run(main)
    assert "the last snapshot stays in use" in caplog.text


def test_while_names_are_resolved_it_is_alive_but_not_ready():
    async def main():
        world = World()
        going_on = asyncio.Event()

        async def slow(host, port):
            await going_on.wait()
            raise OSError("no")

        control = world.control = world.new_control(lookup=slow)
        start = asyncio.ensure_future(control.start())
        while control.admin_address.port == 0:
            await asyncio.sleep(0)
        assert (await world.get("/healthz"))[0] == 200
        status, body = await world.get("/readyz")
        assert status == 503 and b"no configuration is published yet" in body
        going_on.set()
        await start
        assert world.addresses() == {"etl": ["10.0.0.9:9000"], "other": []}
        assert (await world.get("/readyz?cluster=etl"))[0] == 200
        assert (await world.get("/readyz?cluster=other"))[0] == 503
        await control.stop()

    run(main)


def test_a_start_that_fails_leaves_nothing_running():
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            world = World(
                TEXT.replace(b'admin: {bind: "127.0.0.1:0"}', b'admin: {bind: "127.0.0.1:%d"}' % port)
            )
            with pytest.raises(ConfigError, match="admin.bind"):
                await world.control.start()
        world = World()
        world.hosts["query"] = [f"10.0.1.{n}" for n in range(20)]
        with pytest.raises(ConfigError, match="at most 8 endpoints"):
            await world.control.start()
        await settle()
        assert world.published == [] and asyncio.all_tasks() - {asyncio.current_task()} <= _outer()
        with pytest.raises(OSError):
            await world.get("/healthz")

    def _outer():
        return {task for task in asyncio.all_tasks() if task.get_coro().__name__ == "limited"}

    run(main)


def test_a_name_of_two_clusters_is_looked_up_as_the_more_eager_one_asks():
    names = {name.key: name.refresh_s for name in watched_names(World().config)}
    assert names == {"query:9000": 10.0, "late:1": 30.0}
    never = load_bytes(TEXT.replace(b"10s", b"0"), "test.yaml", Path("."), {})
    assert {name.key: name.refresh_s for name in watched_names(never)}["query:9000"] == 30.0


def test_a_reload_serves_what_the_file_says():
    """Endpoints that stay keep their rows, names their addresses; the text is kept with the snapshot."""

    async def main():
        world = World()
        await world.control.start()
        kept = {spec.id: spec.slot for spec in world.published[0].clusters[0].endpoints}
        assert (await world.control.reload()).outcome.value == "unchanged"
        world.text = TEXT.replace(b"10.0.0.9:9000", b"10.0.0.8:9000") + b"limits: {header_count: 7}\n"
        report = await world.control.reload()
        assert report.document() == {
            "outcome": "applied",
            "generation": 2,
            "changes": [
                "clusters[etl].endpoints[10.0.0.9:9000]: removed",
                "clusters[etl].endpoints[10.0.0.8:9000]: added",
                "limits.header_count: 100 → 7",
            ],
            "faults": [],
            "last_applied": None,
        }
        again = (await world.control.reload()).document()
        assert (again["outcome"], again["changes"]) == ("unchanged", [])
        assert again["last_applied"]["changes"] == report.document()["changes"]
        assert again["last_applied"]["trigger"] == "the admin API" and again["last_applied"]["time"]
        snapshot = world.published[-1]
        now = {spec.id: spec.slot for spec in snapshot.clusters[0].endpoints}
        assert {name: slot for name, slot in now.items() if name in kept} == {
            name: slot for name, slot in kept.items() if name in now
        }
        assert now["etl/10.0.0.8:9000"] not in kept.values()
        assert world.sources == [TEXT, world.text] and snapshot.limits.header_count == 7
        assert world.board.control_row[C_RELOAD_REFUSED_LAST] == 0
        body = (await world.get("/metrics"))[1]
        assert b'homeport_config_reloads_total{outcome="applied"} 1.0' in body
        assert b'homeport_config_reloads_total{outcome="unchanged"} 2.0' in body
        # Two names at the start; the one with an address was not asked again.
        assert b"homeport_dns_lookups_total 3.0" in body
        await world.control.stop()

    run(main)


def test_a_number_of_workers_beside_one_of_the_command_line_is_told_to_do_nothing():
    async def main():
        world = World()
        await world.control.start()
        world.text = TEXT + b"workers: 3\n"
        report = await world.control.reload()
        assert report.changes == ("workers: added, without effect beside --workers 1",)
        assert world.board.parent_row[P_WANTED_WORKERS] == 1
        await world.control.stop()

    run(main)


def test_fewer_workers_are_told_to_cut_what_they_have_left():
    async def main():
        world = World(TEXT + b"workers: 2\n")
        world.control = world.new_control(workers=None)
        await world.control.start()
        world.text = TEXT + b"workers: 1\n"
        (change,) = (await world.control.reload()).changes
        assert change.startswith("workers: 2 → 1, what those too many have left after drain_timeout is cut")
        assert world.board.parent_row[P_WANTED_WORKERS] == 1
        await world.control.stop()

    run(main)


def test_a_faulty_file_changes_nothing(caplog):
    async def main():
        world = World()
        await world.control.start()
        world.text = TEXT.replace(b"10s", b"10 parsecs")
        report = await world.control.reload()
        (fault,) = report.faults
        assert (report.outcome.value, report.generation) == ("refused", 1)
        assert str(fault).startswith("test.yaml:6:") and "clusters[0].dns.refresh" in str(fault)
        assert len(world.published) == 1 and world.board.control_row[C_RELOAD_REFUSED_LAST] == 1
        assert b"homeport_config_last_reload_successful 0.0" in (await world.get("/metrics"))[1]
        assert caplog.text.count("10 parsecs") == 1 and "(the admin API): test.yaml:6:" in caplog.text
        last = orjson.loads((await world.get("/api/v1/status"))[1])["last_reload"]
        assert (last["outcome"], last["trigger"], last["fault_count"]) == ("refused", "the admin API", 1)
        assert (last["fault"]["line"], last["fault"]["text"]) == (6, str(fault)) and last["time"]
        world.text = TEXT
        assert (await world.control.reload()).outcome.value == "unchanged"
        assert world.board.control_row[C_RELOAD_REFUSED_LAST] == 0
        last = orjson.loads((await world.get("/api/v1/status"))[1])["last_reload"]
        assert (last["outcome"], last["fault"]) == ("unchanged", None)
        await world.control.stop()

    run(main)


def test_a_control_that_begins_with_a_faulty_file_says_so(caplog):
    fault = Fault("test.yaml", 6, 9, "clusters[0].dns.refresh", "is no time", "'x'", "a time")

    async def main():
        world = World()
        world.control = world.new_control(faults=(fault, fault))
        await world.control.start()
        last = orjson.loads((await world.get("/api/v1/status"))[1])["last_reload"]
        assert (last["outcome"], last["trigger"]) == ("refused", "control started")
        assert (last["fault"]["text"], last["fault_count"]) == (str(fault), 2)
        assert world.board.control_row[C_RELOAD_REFUSED_LAST] == 1
        assert caplog.text.count(str(fault)) == 2
        await world.control.stop()

    run(main)


def test_what_cannot_be_put_to_use_changes_nothing():
    """The address of a listener or of the admin API is taken: a fault with its place."""

    async def main():
        world = World()
        await world.control.start()
        address = world.control.admin_address
        world.text = TEXT.replace(b"listeners: [", b'listeners: [{bind: "127.0.0.1:81"}, ')
        world.refuses = ConfigError(
            "listeners[0].bind", "127.0.0.1:81", "an address that can be bound (taken)"
        )
        (fault,) = (await world.control.reload()).faults
        assert str(fault) == (
            "test.yaml:2:20: listeners[0].bind: cannot be used, got 127.0.0.1:81,"
            " expected an address that can be bound (taken)"
        )
        world.refuses = None
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            world.text = TEXT.replace(
                b'admin: {bind: "127.0.0.1:0"}', b'admin: {bind: "127.0.0.1:%d"}' % port
            )
            (fault,) = (await world.control.reload()).faults
            assert fault.path == "admin.bind" and fault.line == 3
        assert len(world.published) == 1 and world.control.admin_address == address
        assert (await world.get("/readyz"))[0] == 200
        world.text = TEXT.replace(b'"127.0.0.1:0"}\nclusters', b'"[::1]:0"}\nclusters')
        assert (await world.control.reload()).outcome.value == "applied"
        assert world.control.admin_address.host == "::1"
        assert (await world.get("/readyz"))[0] == 200
        await world.control.stop()

    run(main)


def test_a_reload_that_not_all_workers_follow_is_pending():
    async def main():
        world = World()
        await world.control.start()
        world.text = TEXT + b"limits: {header_count: 7}\n"
        world.lags = True
        reload = asyncio.ensure_future(world.control.reload())
        while not reload.done():  # the file is read in a thread
            world.clock.ahead_s += APPLY_S
            await world.clock.wake(0.05)
        assert (await reload).outcome.value == "pending"
        await world.control.stop()

    run(main)


def test_a_reload_that_waits_for_a_name_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(resolver, "TIME_LIMIT_S", 60.0)

    async def main():
        spare = TEXT.replace(b"listeners: [", b'listeners: [{name: spare, bind: "127.0.0.1:81"}, ')
        world = World(spare)
        await world.control.start()
        going_on = asyncio.Event()
        found = world.lookup

        async def lookup(host, port):
            if host == "slow":
                await going_on.wait()
            return await found(host, port)

        world.control._lookup = lookup
        world.text = spare.replace(b"late:1", b"slow:1")
        reload = asyncio.ensure_future(world.control.reload())
        # The last listener is drained, while the name is asked for, and names of before go on.
        while not any(task.get_name() == "lookup slow:1" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
        assert (await world.control.set_listener_drained("spare", True)).changed == ("spare",)
        world.hosts["query"] = ["10.0.0.2"]
        await world.clock.wake(11.0)
        assert world.addresses()["other"] == ["10.0.0.2:9000"] and not reload.done()
        world.hosts["slow"] = ["10.0.0.7"]
        going_on.set()
        assert (await reload).outcome.value == "applied"
        assert world.addresses()["other"] == ["10.0.0.2:9000", "10.0.0.7:1"]
        assert world.published[-1].drained_listeners == ("spare",)
        await world.control.stop()

    run(main)


def test_control_of_another_version_leaves_the_rows_of_those_who_serve():
    """Workers of the version before go on counting in them: what they wrote stays, under the same names, and no row
    that nobody knows is given away."""

    async def main():
        world = World(ONE_CLUSTER)
        await world.control.start()
        await world.control.stop()
        last = world.published[-1]
        (cluster,) = last.clusters
        slots = [spec.slot for spec in cluster.endpoints]
        for slot in slots:
            world.board.endpoint_row(0, slot)[E_IN_FLIGHT] = 7
        world.control = world.new_control(legacy=legacy_of(last))
        await world.control.start()
        (again,) = world.published[-1].clusters
        assert [spec.slot for spec in again.endpoints] == slots
        await world.control.stop()
        world.control = world.new_control()
        await world.control.start()
        (fresh,) = world.published[-1].clusters
        assert {spec.slot for spec in fresh.endpoints}.isdisjoint(slots)
        assert [world.board.endpoint_row(0, slot)[E_IN_FLIGHT] for slot in slots] == [7] * len(slots)
        await world.control.stop()

    run(main)


def test_the_next_control_goes_on_where_the_last_one_ended():
    """Generation, rows and addresses; rows of endpoints that had left are held until they can be released."""

    async def main():
        world = World()
        await world.control.start()
        world.hosts["query"] = ["10.0.0.2"]
        await world.clock.wake(11.0)
        await world.control.stop()
        last = world.published[-1]
        world.hosts.clear()  # names cannot be resolved any more
        world.control = world.new_control(previous=last, legacy=legacy_of(last))
        await world.control.start()
        assert world.published[-1].generation == last.generation + 1
        assert world.published[-1].clusters == last.clusters
        held = held_slots(legacy_of(last), world.board).endpoints
        assert sorted(held.slot(each) for each in held.ids) == [0, 1, 2, 3, 4]
        assert sum(name.startswith("(") for name in held.ids) == 2
        assert known_addresses(legacy_of(last)) == {"query:9000": (TcpAddress("10.0.0.2", 9000),)}
        await world.control.stop()

    run(main)


def drained(world):
    standings = world.control._resilience.standings
    return sorted(member.spec.id for member in standings if member.is_drained)


def test_what_is_drained_by_name_stays_drained_at_every_address():
    async def main():
        world = World()
        await world.control.start()
        assert world.control.set_drained("etl/query:9000", True).changed == (
            "etl/10.0.0.1:9000",
            "etl/10.0.0.2:9000",
        )
        world.hosts["query"] = ["10.0.0.2", "10.0.0.3"]
        await world.clock.wake(11.0)
        assert drained(world) == ["etl/10.0.0.2:9000", "etl/10.0.0.3:9000"]
        # An undrain of one address leaves the others as they are; who comes later is in use.
        world.control.set_drained("etl/10.0.0.3:9000", False)
        world.hosts["query"] = ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
        await world.clock.wake(11.0)
        assert drained(world) == ["etl/10.0.0.2:9000"]
        await world.control.stop()

    run(main)


@pytest.mark.parametrize("is_of_this_version", [True, False])
def test_what_is_drained_stays_drained_while_it_is_away_and_over_restarts(is_of_this_version):
    """For longer than its row of the scoreboard is kept, also when the next control is of another version."""

    async def main():
        world = World()
        await world.control.start()
        world.control.set_drained("etl/10.0.0.9:9000", True)
        world.text = TEXT.replace(b', {address: "10.0.0.9:9000"}', b"")
        assert (await world.control.reload()).outcome.value == "applied"
        world.clock.ahead_s = KEEP_S + 1
        await world.clock.wake(SWEEP_S)
        await world.control.stop()
        last = world.published[-1]
        previous = last if is_of_this_version else None
        world.control = world.new_control(previous=previous, legacy=decode_legacy(encode_snapshot(last)))
        await world.control.start()
        assert drained(world) == ["etl/10.0.0.9:9000"]

        world.text = TEXT.replace(b', {address: "10.0.0.9:9000"}', b"")
        assert (await world.control.reload()).outcome.value == "applied"
        assert world.control.set_drained("etl/10.0.0.9:9000", False).targets == ("etl/10.0.0.9:9000",)
        world.text = TEXT
        assert (await world.control.reload()).outcome.value == "applied" and drained(world) == []
        with pytest.raises(UnknownTarget):
            world.control.set_drained("etl/10.0.0.8:9000", False)
        await world.control.stop()

    run(main)


def test_control_of_another_version_knows_addresses_and_drained_listeners():
    async def main():
        world = World(TEXT.replace(b"listeners: [", b'listeners: [{name: spare, bind: "127.0.0.1:81"}, '))
        await world.control.start()
        await world.control.set_listener_drained("spare", True)
        await world.control.stop()
        last = world.published[-1]
        world.hosts.clear()
        world.control = world.new_control(legacy=decode_legacy(encode_snapshot(last)))
        await world.control.start()
        assert world.published[-1].drained_listeners == ("spare",)
        assert world.addresses()["other"] == ["10.0.0.1:9000", "10.0.0.2:9000"]
        await world.control.stop()

    run(main)


def test_circuits_are_looked_after_while_names_of_the_next_control_hang():
    """A heart that beats means that workers leave their circuits to it."""

    async def main():
        world = World()
        await world.control.start()
        await world.control.stop()
        last = world.published[-1]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mailbox = Channel(theirs)
        endless = asyncio.Event()

        async def hang(host, port):
            await endless.wait()

        world.control = world.new_control(previous=last, legacy=legacy_of(last), mailbox=mailbox, lookup=hang)
        starting = asyncio.ensure_future(world.control.start())
        slot = last.clusters[0].endpoints[0].slot
        for _ in range(5):
            ours.send(b'{"result": %d, "circuit": 0, "kind": "reset"}' % slot)
        while unpack(world.board.standing_row(slot)[X_CIRCUIT]).state is not CircuitState.OPEN:
            await asyncio.sleep(0)
        assert not starting.done() and len(world.published) == 1
        endless.set()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        ours.close()
        mailbox.close()

    run(main)


def test_known_names_hold_up_nobody_and_are_asked_again_soon():
    async def main():
        world = World(TEXT.replace(b', {address: "late:1"}', b""))
        await world.control.start()
        await world.control.stop()
        last = world.published[-1]
        world.hosts["query"] = ["10.0.0.2"]
        world.control = world.new_control(previous=last, legacy=legacy_of(last))
        await world.control.start()
        assert world.published[-1].clusters == last.clusters
        await world.clock.wake(10.0)
        assert world.addresses()["etl"] == ["10.0.0.2:9000", "10.0.0.9:9000"]
        await world.control.stop()

    run(main)
