"""Orders and questions to an engine that fails in ways that a real one cannot be made to."""

import asyncio
import logging
import threading
from dataclasses import replace

import pytest
from fake_engine import ORDER, SPEC, api_error, inspected, run, until

from proxy.drivers.driver import State
from proxy.drivers.image_pull import PullProgress, split_reference
from proxy.drivers.labels import OWNER
from proxy.drivers.spec import ContainerSpec, Selector
from proxy.errors import EngineConflict, EngineNotFound, EngineRefused, EngineUnavailable


def test_a_start_creates_starts_and_looks(caplog):
    async def test(world):
        instance = await world.driver.start(ORDER)
        assert world.engine.calls == [("create", "etl-1"), ("start", "made-1"), ("inspect", "made-1")]
        assert (instance.id, instance.name, instance.state) == ("made-1", "etl-1", State.RUNNING)
        assert (instance.owner, instance.spec_digest) == ("homeport", SPEC.digest())
        assert str(instance.addresses[0]) == "172.17.0.2:8000"

    run(test)
    assert "create etl-1: the engine warns: no swap limit" in caplog.text


def test_further_networks_are_joined_before_the_start():
    async def test(world):
        await world.driver.start(replace(ORDER, spec=replace(SPEC, networks=("a", "b", "c"))))
        assert [call[0] for call in world.engine.calls] == ["create", "join", "join", "start", "inspect"]

    run(test)


@pytest.mark.parametrize("status, kind", [(500, EngineRefused), (400, EngineRefused), (404, EngineNotFound)])
def test_what_cannot_be_started_is_removed(status, kind):
    async def test(world):
        world.engine.fail["start"] = [api_error(status, "port is already allocated")]
        with pytest.raises(kind, match="start etl-1: port is already allocated"):
            await world.driver.start(ORDER)
        assert world.engine.containers_by_id == {}
        assert world.driver.engine.breaker.state == "closed"

    run(test)


def test_what_may_have_been_started_stays():
    async def test(world):
        world.engine.fail["start"] = [OSError(5, "Input/output error")]
        with pytest.raises(EngineUnavailable, match="start etl-1: input/output error"):
            await world.driver.start(ORDER)
        assert list(world.engine.containers_by_id) == ["made-1"]
        with pytest.raises(EngineConflict, match="already in use"):
            await world.driver.start(ORDER)
        assert [each.name for each in await world.driver.list()] == ["etl-1"]

    run(test)


# --- images

MISSING = replace(ORDER, spec=ContainerSpec("new:2"))


def test_a_missing_image_is_told_with_what_to_do():
    async def test(world):
        with pytest.raises(EngineNotFound) as error:
            await world.driver.start(MISSING)
        assert str(error.value) == (
            "create etl-1: the engine has no image new:2: pull it there, or set pull: missing"
        )

    run(test)


@pytest.mark.parametrize(
    "policy, calls", [("missing", ["create", "pull", "create"]), ("always", ["pull", "create"])]
)
def test_pull_policies(policy, calls, caplog):
    caplog.set_level(logging.INFO)

    async def test(world):
        world.engine.pullable["new:2"] = [{"status": "Pulling from new", "id": "2"}]
        await world.driver.start(replace(MISSING, spec=ContainerSpec("new:2", pull=policy)))
        assert [call[0] for call in world.engine.calls][: len(calls)] == calls

    run(test)
    assert "pulling image new:2" in caplog.text and "pulled image new:2" in caplog.text


@pytest.mark.parametrize(
    "fault, messages, kind, text",
    [
        (None, [{"error": "toomanyrequests: slow down"}], EngineRefused, "toomanyrequests: slow down"),
        (
            api_error(404, "pull access denied"),
            [],
            EngineNotFound,
            "is the name right, and may the engine see it",
        ),
        (api_error(403, "Forbidden"), [], EngineRefused, "forbidden by whatever is in front of the engine"),
    ],
)
def test_a_pull_that_fails(fault, messages, kind, text):
    async def test(world):
        world.engine.pullable["new:2"] = messages
        world.engine.fail["pull"] = [fault] if fault is not None else []
        with pytest.raises(kind, match=text):
            await world.driver.start(replace(MISSING, spec=ContainerSpec("new:2", pull="missing")))

    run(test)


def test_the_progress_of_a_pull_in_words(caplog):
    progress = PullProgress("new:2")
    for message in (
        {"status": "Pulling from library/new", "id": "2"},
        {"status": "Pulling fs layer", "id": "a", "progressDetail": {}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 1 << 20, "total": 4 << 20}},
        {"status": "Already exists", "id": "c", "progressDetail": {}},
    ):
        progress.add(message)
    assert str(progress) == "pulling new:2: 1 of 3 layers, 1 of 4 MiB"
    progress.add({"status": "Download complete", "id": "b"})
    assert str(progress) == "pulling new:2: 2 of 3 layers, 4 of 4 MiB"

    async def test(world):
        def messages():
            for _ in range(3):
                world.clock.now += 3  # by the second message 6 s have passed
                yield {"status": "Pull complete", "id": "a"}

        world.engine.pullable["new:2"] = messages()
        await world.driver.start(replace(MISSING, spec=ContainerSpec("new:2", pull="always")))

    caplog.set_level(logging.INFO)
    run(test)
    assert caplog.text.count("1 of 1 layers") == 1


@pytest.mark.parametrize(
    "image, parts",
    [
        ("q", ("q", "latest")),
        ("a/q:1", ("a/q", "1")),
        ("localhost:5000/q", ("localhost:5000/q", "latest")),
        ("q:1@sha256:ab", ("q", "sha256:ab")),
    ],
)
def test_references(image, parts):
    assert split_reference(image) == parts


# --- ours and others'


def test_a_stop_gives_the_grace_and_waits_for_the_end():
    async def test(world):
        world.engine.add("c1", grace=7)
        await world.driver.stop("c1")
        await world.driver.stop("c1", grace_s=0.2)
        assert world.engine.names("stop") == [("stop", "c1", 7), ("stop", "c1", 1)]

    run(test)


def test_only_our_own_are_stopped_and_removed():
    async def test(world):
        world.engine.add("c1", owner="another")
        world.engine.add("c2", cluster="")
        for own, whose in (("c1", "another's"), ("c2", "nobody's that we know")):
            with pytest.raises(EngineConflict, match=f"{own} is {whose}, not homeport's"):
                await world.driver.stop(own)
            with pytest.raises(EngineConflict):
                await world.driver.remove(own)
        assert not world.engine.names("stop", "remove")

    run(test)


def test_what_is_gone_need_not_be_stopped_or_removed():
    async def test(world):
        await world.driver.stop("c1")
        await world.driver.remove("c1")
        world.engine.add("c1")
        world.engine.fail["remove"] = [api_error(409, "removal of container c1 is already in progress")]
        await world.driver.remove("c1")
        world.engine.fail["remove"] = [api_error(409, "is in use")]
        with pytest.raises(EngineConflict):
            await world.driver.remove("c1")

    run(test)


def test_a_list_looks_at_ours_alone_and_bears_that_one_vanishes():
    async def test(world):
        world.engine.add("c1")
        world.engine.add("c2")
        world.engine.add("other", cluster="ml")
        world.engine.add("plain", cluster="")
        world.engine.fail["inspect"] = [api_error(404, "No such container: c1")]
        assert [each.id for each in await world.driver.list()] in (["c2"], ["c1"])
        assert len(world.engine.names("inspect")) == 2

    run(test)


def test_clusters_by_labels_of_others():
    async def test(world):
        world.engine.containers_by_id["c1"] = inspected("c1", {"app": "query"})
        (instance,) = await world.driver.list()
        assert (instance.cluster, instance.owner, instance.label(OWNER)) == ("found", "", None)

    run(test, selectors=(Selector("found", (("app", ""),)),))


def test_stats_leave_out_what_is_not_known():
    async def test(world):
        for own in ("c1", "c2", "c3"):
            world.engine.add(own)
        world.engine.containers_by_id["c1"]["sample"] = {
            "read": "2026-11-23T07:49:40Z",
            "cpu_stats": {"cpu_usage": {"total_usage": 1}, "online_cpus": 2},
            "memory_stats": {"usage": 512, "limit": 1024},
        }
        instances = await world.driver.list()
        del world.engine.containers_by_id["c3"]
        usages = await world.driver.stats(instances)
        assert list(usages) == ["c1"] and usages["c1"].memory_percent == 50.0

    run(test)


def test_the_end_of_a_log():
    async def test(world):
        assert await world.driver.log_tail("c1", 2) == "one\ntwo \ufffd"
        assert world.engine.calls == [("logs", "c1", 2)]

    run(test)


# --- the engine's own faults


def test_calls_at_once_are_bounded_and_samples_wait_for_no_action():
    async def test(world):
        world.engine.add("c1")
        instances = await world.driver.list()
        gate = world.engine.hold["inspect"] = threading.Event()
        asked = [asyncio.create_task(world.driver.stop("c1")) for _ in range(20)]
        await until(lambda: len(world.engine.names("inspect")) == 17)
        assert world.engine.most_at_once == 16
        assert await world.driver.stats(instances) == {}
        assert world.engine.names("stats")
        gate.set()
        await asyncio.gather(*asked)
        assert len(world.engine.names("inspect")) == 21

    run(test)


def test_a_call_that_nobody_waits_for_keeps_its_place_until_it_ends():
    async def test(world):
        gate = world.engine.hold["inspect"] = threading.Event()
        world.engine.add("c1")
        abandoned = [asyncio.create_task(world.driver.stop("c1")) for _ in range(16)]
        await until(lambda: len(world.engine.names("inspect")) == 16)
        for task in abandoned:
            task.cancel()
        await asyncio.wait(abandoned)
        late = asyncio.create_task(world.driver.list())
        await asyncio.sleep(0)
        assert not world.engine.names("containers")
        gate.set()
        assert len(await late) == 1

    run(test)


def test_an_engine_that_fails_is_left_alone_and_tried_again():
    async def test(world):
        world.engine.down = ConnectionRefusedError(111, "Connection refused")
        for _ in range(5):
            with pytest.raises(EngineUnavailable, match="list containers: connection refused"):
                await world.driver.list()
        assert world.driver.engine.breaker.state == "open"
        world.engine.down = None
        with pytest.raises(EngineUnavailable, match="failed 5 times in a row; next try in 2.0 s"):
            await world.driver.list()
        world.clock.now += 2.1
        assert await world.driver.list() == ()
        assert world.driver.engine.breaker.state == "closed"
        assert "closed" in repr(world.driver)

    run(test)


def test_one_call_at_a_time_tries_an_engine_that_failed():
    async def test(world):
        world.engine.down = ConnectionRefusedError(111, "Connection refused")
        for _ in range(5):
            with pytest.raises(EngineUnavailable):
                await world.driver.list()
        world.clock.now += 2.1
        with pytest.raises(EngineUnavailable, match="connection refused"):
            await world.driver.list()
        with pytest.raises(EngineUnavailable, match="next try in"):
            await world.driver.list()

    run(test)


@pytest.mark.parametrize(
    "error, kind, text",
    [
        (api_error(500, "driver failed"), EngineUnavailable, "status 500: driver failed"),
        (api_error(503, "no server is available"), EngineUnavailable, "status 503: no server"),
        (api_error(400, "bad\n filter"), EngineRefused, "bad filter"),
        (OSError(), EngineUnavailable, "OSError"),
    ],
)
def test_questions_that_fail(error, kind, text):
    async def test(world):
        world.engine.fail["containers"] = [error]
        with pytest.raises(kind, match=text):
            await world.driver.list()

    run(test)


def test_our_own_mistakes_are_not_the_engine_s():
    async def test(world):
        world.engine.fail["containers"] = [KeyError("x")]
        with pytest.raises(KeyError):
            await world.driver.list()

    run(test)
