"""What a watcher is told, and in which order, whatever the stream does."""

import asyncio
import threading

from fake_engine import BORN_S, api_error, event, inspected, kill, run, until

from proxy.drivers.docker_watch import RESYNC_S
from proxy.drivers.driver import Changed, Died, Listed, Lost, Removed, State, Stopping
from proxy.drivers.spec import Selector

OURS = {"homeport.cluster": "etl"}


def test_it_subscribes_then_lists():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        assert [call[0] for call in world.engine.calls] == ["ping", "events", "containers", "inspect"]
        (listed,) = world.events
        assert isinstance(listed, Listed) and [each.id for each in listed.instances] == ["c1"]

    run(test)


def test_what_happens_while_the_list_is_made_comes_after_it():
    async def test(world):
        gate = world.engine.hold["containers"] = threading.Event()
        watching = asyncio.create_task(world.watch())
        await until(lambda: world.engine.names("containers"))
        world.engine.add("late")
        world.stream.put(event("start", "late", **OURS), kill(15, "late"))
        gate.set()
        await watching
        await until(lambda: len(world.events) >= 2)
        assert isinstance(world.events[0], Listed)
        assert Stopping("late", 15, 10.0) in world.events

    run(test)


def test_a_start_and_a_change_are_told_with_what_is_true_now():
    async def test(world):
        await world.watch()
        world.engine.add("c1")
        world.stream.put(event("start", **OURS))
        told = await world.told(2)
        assert told.instance.id == "c1" and told.instance.state is State.RUNNING
        world.engine.containers_by_id["c1"]["State"] |= {"Status": "paused"}
        world.stream.put(event("pause", **OURS))
        assert (await world.told(3)).instance.state is State.PAUSED
        world.engine.containers_by_id["c1"]["State"]["Health"] = {"Status": "unhealthy"}
        world.stream.put(event("health_status: unhealthy", **OURS))
        assert (await world.told(4)).instance.health.value == "unhealthy"

    run(test)


def test_others_are_not_even_looked_at():
    async def test(world):
        await world.watch()
        world.stream.put(
            event("start", "x"), event("start", "y", **{"homeport.cluster": "ml"}), kill(15, "c1")
        )
        assert await world.told(2) == Stopping("c1", 15, 10.0)
        assert not world.engine.names("inspect")

    run(test)


def test_a_kill_is_told_at_once_if_it_asks_to_end():
    async def test(world):
        world.engine.add("c1", grace=3)
        await world.watch()
        world.stream.put(kill(1), kill(10), kill("SIGTERM"))
        assert await world.told(2) == Stopping("c1", 15, 3.0)

    run(test)


def test_a_container_s_own_stop_signal_asks_to_end():
    async def test(world):
        world.engine.add("c1", stop_signal="SIGHUP")
        await world.watch()
        world.stream.put(kill(1))
        assert await world.told(2) == Stopping("c1", 1, 10.0)

    run(test)


def test_a_slow_look_at_one_holds_up_nothing_of_another():
    async def test(world):
        world.engine.add("c1")
        world.engine.add("c2")
        await world.watch()
        gate = world.engine.hold["inspect"] = threading.Event()
        world.stream.put(event("unpause", "c1", **OURS), kill(15, "c2"), event("die", "c2", **OURS))
        await world.told(3)
        assert world.events[1:] == [Stopping("c2", 15, 10.0), Died("c2")]
        gate.set()

    run(test)


def test_what_happens_during_a_look_leads_to_another():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        gate = world.engine.hold["inspect"] = threading.Event()
        looks = len(world.engine.names("inspect"))
        world.stream.put(event("pause", **OURS))
        await until(lambda: len(world.engine.names("inspect")) == looks + 1)
        world.stream.put(*[event("unpause", **OURS)] * 5, kill(15))
        await world.told(2)
        gate.set()
        await until(lambda: len(world.engine.names("inspect")) == looks + 2)

    run(test)


def test_a_death_is_told_before_anything_is_found_out():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        world.engine.containers_by_id["c1"]["State"] |= {
            "Status": "exited",
            "ExitCode": 137,
            "OOMKilled": True,
        }
        world.stream.put(event("die", **OURS))
        changed = await world.told(3)
        assert world.events[1] == Died("c1")
        assert (changed.instance.state, changed.instance.exit_code) == (State.ENDED, 137)
        assert changed.instance.oom_killed
        del world.engine.containers_by_id["c1"]
        world.stream.put(event("destroy", **OURS), event("destroy", **OURS), kill(15, "c2"))
        await world.told(5)
        assert world.events[3:] == [Removed("c1"), Stopping("c2", 15, 10.0)]

    run(test)


def test_a_container_that_is_gone_when_it_is_looked_at():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        del world.engine.containers_by_id["c1"]
        world.stream.put(event("die", **OURS))
        await world.told(3)
        assert world.events[1:] == [Died("c1"), Removed("c1")]

    run(test)


def test_another_network_is_another_address():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        world.engine.containers_by_id["c1"] |= {
            "NetworkSettings": inspected("c1", address="172.20.0.2")["NetworkSettings"]
        }
        world.stream.put(event("connect", "n2", kind="network", container="x"))
        world.stream.put(event("connect", "n2", kind="network", container="c1"))
        assert str((await world.told(2)).instance.addresses[0]) == "172.20.0.2:8000"

    run(test)


def test_after_a_break_it_goes_on_where_it_was():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        world.stream.put(kill(1, at_s=BORN_S + 2000.25))
        world.stream.end()
        assert await world.told(2) == Lost("the stream of events ended")
        first = world.stream
        world.engine.add("c2")
        world.clock.advance(0.1)
        listed = await world.told(3)
        assert isinstance(listed, Listed) and [each.id for each in listed.instances] == ["c1", "c2"]
        assert world.stream is not first and first.closed
        assert world.stream.since == f"{BORN_S + 2000}.250000000"
        world.stream.put(kill(15, at_s=BORN_S + 2001))
        assert await world.told(4) == Stopping("c1", 15, 10.0)

    run(test)


def test_events_of_a_former_life_mean_nothing():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        old = BORN_S - 1
        world.stream.put(kill(15, at_s=old), event("die", at_s=old, **OURS), kill(15, "c2"))
        assert await world.told(2) == Stopping("c2", 15, 10.0)

    run(test)


def test_an_engine_that_is_down_is_asked_less_and_less():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        world.engine.down = ConnectionRefusedError(111, "Connection refused")
        world.stream.end()
        await world.told(2)
        pauses = []
        for count in range(3, 9):
            await until(lambda: world.clock.sleeps)
            pauses.append(round(min(world.clock.sleeps), 3))
            world.clock.advance(min(world.clock.sleeps))
            told = await world.told(count)
            assert isinstance(told, Lost)
        assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
        assert "connection refused" in world.events[2].reason
        world.engine.down = None
        while not isinstance(world.events[-1], Listed):
            await until(lambda: world.clock.sleeps)
            world.clock.advance(2.0)
            await world.told(len(world.events) + 1)
        assert not any(isinstance(each, (Died, Removed)) for each in world.events)

    run(test)


def test_it_lists_again_now_and_then():
    async def test(world):
        await world.watch()
        await until(lambda: RESYNC_S in world.clock.sleeps)
        world.engine.add("unheard")
        world.clock.advance(RESYNC_S)
        assert [each.id for each in (await world.told(2)).instances] == ["unheard"]

    run(test)


def test_what_happens_while_it_lists_again_is_looked_at_once_more():
    async def test(world):
        world.engine.add("c1")
        world.engine.add("c2")
        await world.watch()
        await until(lambda: RESYNC_S in world.clock.sleeps)
        gate = world.engine.hold["containers"] = threading.Event()
        looks = len(world.engine.names("inspect"))
        world.clock.advance(RESYNC_S)
        await until(lambda: len(world.engine.names("containers")) == 2)
        world.stream.put(kill(15, "c2"))
        await world.told(2)
        gate.set()
        await world.told(3)
        await until(lambda: len(world.engine.names("inspect")) == looks + 3)
        assert world.engine.calls[-1] == ("inspect", "c2")

    run(test)


def test_a_list_that_fails_is_a_break():
    async def test(world):
        await world.watch()
        await until(lambda: RESYNC_S in world.clock.sleeps)
        world.engine.fail["containers"] = [api_error(500, "no")]
        world.clock.advance(RESYNC_S)
        assert await world.told(2) == Lost("list containers: status 500: no")
        await until(lambda: 0.1 in [round(each, 3) for each in world.clock.sleeps])
        world.clock.advance(0.1)
        assert isinstance(await world.told(3), Listed)

    run(test)


def test_a_look_that_fails_is_a_break():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        world.engine.fail["inspect"] = [api_error(500, "no")]
        world.stream.put(event("pause", **OURS))
        assert isinstance(await world.told(2), Lost)

    run(test)


def test_other_selectors_are_told_at_once():
    async def test(world):
        world.engine.add("c1", cluster="ml")
        await world.watch()
        world.driver.select((Selector("ml", (("homeport.cluster", "ml"),)),))
        (instance,) = (await world.told(2)).instances
        assert (instance.id, instance.cluster) == ("c1", "ml")
        world.stream.put(kill(15, "c2"), event("die", "c1"))
        assert await world.told(3) == Died("c1")

    run(test)


def test_it_ends_when_nobody_wants_it():
    async def test(world):
        await world.watch()
        world._watcher.cancel()
        await asyncio.wait([world._watcher])
        assert world.stream.closed
        await until(lambda: not world.clock.sleeps)

    run(test)


def test_changed_is_told_once():
    async def test(world):
        world.engine.add("c1")
        await world.watch()
        world.stream.put(event("update", **OURS))
        await until(lambda: len(world.engine.names("inspect")) == 2)
        world.stream.put(kill(15))
        assert await world.told(2) == Stopping("c1", 15, 10.0)
        assert not any(isinstance(each, Changed) for each in world.events)

    run(test)
