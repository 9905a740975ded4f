"""The docker driver at a real engine: what it is told, and when."""

import asyncio
import gc
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from containers import docker, why_no_engine

from proxy.clock import SystemClock
from proxy.drivers.docker import DockerDriver
from proxy.drivers.driver import (
    Changed,
    Died,
    EngineHealth,
    Instance,
    Listed,
    Lost,
    Order,
    Removed,
    State,
    Stopping,
)
from proxy.drivers.lease import Lease
from proxy.drivers.spec import (
    ContainerSpec,
    EngineHealthCheck,
    EngineOptions,
    Mount,
    Port,
    Resources,
    RestartPolicy,
    Selector,
)
from proxy.errors import EngineConflict, EngineNotFound, EngineRefused, EngineUnavailable

pytestmark = pytest.mark.docker

LIMIT_S = 60.0
CLUSTER = f"homeport-test-{os.getpid()}"
OWNER = f"owner-{os.getpid()}"
SELECTORS = (Selector(CLUSTER, (("homeport.cluster", CLUSTER),), 8000),)
# Answers with its environment; on TERM it goes on for 0.3 s. Made to obey as PID 1, which has no default for TERM.
SERVICE = """
import http.server, json, os, signal, sys, threading
print("service is up", flush=True)
signal.signal(15, lambda *_: threading.Timer(0.3, os._exit, (0,)).start())
signal.signal(1, lambda *_: None)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/oom":
            hog = b"x" * (512 << 20)
        body = json.dumps(dict(os.environ)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def spec(image: str) -> ContainerSpec:
    """A service in the image of the proxy, which has Python."""
    return ContainerSpec(
        image,
        entrypoint=("python", "-S", "-c", SERVICE),
        ports=(Port(8000, "tcp", True, "127.0.0.1"),),
        resources=Resources(memory_bytes=64 << 20, cpus=0.5, pids=32),
        health_check=EngineHealthCheck(("NONE",)),
        stop_grace_s=2.0,
    )


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Nothing of a test stays behind, however it ends."""
    if reason := why_no_engine():
        pytest.skip(reason)
    yield
    for label in (f"homeport.cluster={CLUSTER}", f"homeport.lease={OWNER}"):
        if left := docker("ps", "--all", "--quiet", "--filter", f"label={label}").stdout.split():
            docker("rm", "--force", "--volumes", *left)


class Watched:
    """A driver, and what it tells with the time of each event."""

    def __init__(self, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions(owner=OWNER)
        self.driver = DockerDriver(options, SELECTORS, clock=SystemClock())
        self.events: list[Any] = []
        self.times: list[float] = []

    async def collect(self) -> None:
        async for event in self.driver.watch():
            self.events.append(event)
            self.times.append(time.monotonic())

    async def first(self, kind: type, since: int = 0) -> int:
        """Wait for an event of `kind` at position `since` or later; returns its position."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                for position, event in enumerate(self.events[since:], since):
                    if isinstance(event, kind):
                        return position
                await asyncio.sleep(0.001)

    async def changed(self, condition: Callable[[Instance], bool], since: int = 0) -> Instance:
        """Wait until an instance is told to be so."""
        while True:
            since = await self.first(Changed, since)
            instance = self.events[since].instance
            if condition(instance):
                return instance
            since += 1

    async def start(self, spec: ContainerSpec, name: str = "1"):
        return await self.driver.start(Order(CLUSTER, f"{CLUSTER}-{name}", spec))


def run(test, options: EngineOptions | None = None) -> None:
    """Run `test(watched)` with a limit while events are collected."""

    async def main() -> None:
        watched = Watched(options)
        collecting = asyncio.create_task(watched.collect())
        try:
            async with asyncio.timeout(2 * LIMIT_S):
                await watched.first(Listed)
                await test(watched)
        finally:
            collecting.cancel()
            await asyncio.wait([collecting])
            await watched.driver.close()

    asyncio.run(main())


async def answer(address: object, path: str = "/") -> dict[str, str]:
    """The answer of a service, once it serves."""

    def get() -> dict[str, str]:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=LIMIT_S) as reply:
            return dict(json.load(reply))

    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await asyncio.to_thread(get)
            except OSError:
                await asyncio.sleep(0.02)


def test_an_instance_from_its_order_to_its_end(spec):
    async def test(watched):
        instance = await watched.start(spec)
        assert (instance.state, instance.owner, instance.cluster) == (State.RUNNING, OWNER, CLUSTER)
        assert (instance.spec_digest, instance.health) == (spec.digest(), EngineHealth.NONE)
        assert (instance.cpus, instance.memory_bytes, instance.stop_grace_s) == (0.5, 64 << 20, 2.0)
        own, published = instance.addresses
        assert own.port == 8000 and published.host == "127.0.0.1"
        for address in instance.addresses:
            told = await answer(address)
            assert (told["SERVICE_NAME"], told["CLUSTER_ID"]) == (CLUSTER, f"{OWNER}/{CLUSTER}")
            assert told["DATA_PROCESSING_MODE"] == "distributed" and told["DEPLOYMENT_TIME"].endswith(
                "+00:00"
            )
        assert "service is up" in await watched.driver.log_tail(instance.id)
        assert await watched.driver.list() == (instance,)

        await watched.driver.stop(instance.id)
        (ended,) = await watched.driver.list()
        assert (ended.state, ended.exit_code, ended.addresses) == (State.ENDED, 0, ())
        await watched.driver.remove(instance.id)
        await watched.first(Removed)
        assert await watched.driver.list() == ()
        kinds = [type(event) for event in watched.events if event != Changed(instance)]
        assert kinds[:3] == [Listed, Stopping, Died] and kinds[-1] is Removed

    run(test)


def test_a_docker_stop_by_hand_is_told_long_before_the_end(spec):
    async def test(watched):
        instance = await watched.start(spec)
        await answer(instance.addresses[0])
        asked_at = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(docker, "stop", instance.name))
        told = watched.times[await watched.first(Stopping)]
        died = watched.times[await watched.first(Died)]
        await stopping
        # Starting the command takes most of it; the service goes on for 0.3 s.
        assert told - asked_at < died - asked_at - 0.2
        assert watched.events[await watched.first(Stopping)] == Stopping(instance.id, 15, 2.0)

    run(test)


def test_other_signals_mean_nothing(spec):
    async def test(watched):
        instance = await watched.start(spec)
        await answer(instance.addresses[0])
        await asyncio.to_thread(docker, "kill", "--signal", "HUP", instance.name)
        await asyncio.to_thread(docker, "kill", "--signal", "KILL", instance.name)
        await watched.first(Died)
        assert [each.signal for each in watched.events if isinstance(each, Stopping)] == [9]

    run(test)


def test_a_restart_by_the_engine_is_another_port(spec):
    async def test(watched):
        instance = await watched.start(replace(spec, restart_policy=RestartPolicy("unless-stopped")))
        await answer(instance.addresses[0])
        await asyncio.to_thread(docker, "restart", "--time", "1", instance.name)
        died = await watched.first(Died)
        again = await watched.changed(lambda each: each.state is State.RUNNING, died)
        assert again.id == instance.id and again.started_at > instance.started_at
        assert await answer(again.addresses[-1])

    run(test)


def test_a_pause_and_a_removal_by_hand(spec):
    async def test(watched):
        instance = await watched.start(spec)
        await asyncio.to_thread(docker, "pause", instance.name)
        await watched.changed(lambda each: each.state is State.PAUSED)
        await asyncio.to_thread(docker, "rm", "--force", instance.name)
        assert watched.events[await watched.first(Removed)] == Removed(instance.id)
        await watched.driver.stop(instance.id)
        await watched.driver.remove(instance.id)

    run(test)


def test_memory_beyond_the_limit_ends_it(spec):
    async def test(watched):
        instance = await watched.start(spec)
        await answer(instance.addresses[0])
        with pytest.raises(OSError):
            await asyncio.to_thread(
                urllib.request.urlopen, f"http://{instance.addresses[0]}/oom", None, LIMIT_S
            )
        await watched.first(Died)
        async with asyncio.timeout(LIMIT_S):
            while (await watched.driver.list())[0].state is not State.ENDED:
                await asyncio.sleep(0.01)
        (ended,) = await watched.driver.list()
        assert ended.oom_killed and ended.exit_code == 137

    run(test)


def test_what_it_uses(spec):
    async def test(watched):
        instance = await watched.start(spec)
        await answer(instance.addresses[0])
        first = (await watched.driver.stats([instance]))[instance.id]
        assert first.cpus is None and 0 < first.memory_percent < 100 and first.pids >= 1
        async with asyncio.timeout(LIMIT_S):
            while (second := (await watched.driver.stats([instance]))[instance.id]).cpus is None:
                await asyncio.sleep(0.02)
        assert 0 <= second.cpu_percent < 200
        await watched.driver.stop(instance.id)
        assert await watched.driver.stats([instance]) == {}

    run(test)


def test_health_is_the_engine_s_veto(spec):
    check = EngineHealthCheck(("CMD-SHELL", "exit 1"), interval_s=0.2, timeout_s=5.0, retries=1)

    async def test(watched):
        await watched.start(replace(spec, health_check=check))
        await watched.changed(lambda each: each.health is EngineHealth.UNHEALTHY)

    run(test)


def test_what_the_engine_refuses(spec):
    async def test(watched):
        with pytest.raises(EngineNotFound, match="has no image homeport-none:1: pull it there, or set pull"):
            await watched.start(replace(spec, image="homeport-none:1"))
        with pytest.raises(EngineRefused, match="no-such-program"):
            await watched.start(replace(spec, entrypoint=("no-such-program",)))
        with pytest.raises(EngineRefused, match="CPUs"):
            await watched.start(replace(spec, resources=Resources(cpus=1000.0)))
        with pytest.raises(EngineNotFound, match="homeport-no-such-network"):
            await watched.start(replace(spec, networks=("homeport-no-such-network",)))
        assert await watched.driver.list() == ()
        await watched.start(spec)
        with pytest.raises(EngineConflict, match="already in use"):
            await watched.start(spec)

    run(test)


def test_every_part_of_a_spec_is_something_that_the_engine_takes(spec, network):
    whole = replace(
        spec,
        ports=(*spec.ports, Port(8125, "udp")),
        environment=(("A", "x=y"),),
        working_directory="/tmp",
        resources=replace(spec.resources, shm_bytes=1 << 20),
        mounts=(Mount(f"{CLUSTER}-data", "/data"),),
        tmpfs=(("/scratch", "size=1m"),),
        networks=(network,),
        restart_policy=RestartPolicy("on-failure", 2),
        labels=(("homeport.zone", "a"),),
        user="1000:1000",
        read_only=True,
        cap_drop=("ALL",),
        init=True,
        stop_signal="SIGINT",
        health_check=EngineHealthCheck(("CMD", "true"), start_period_s=1.0),
    )

    async def test(watched):
        instance = await watched.start(whole)
        assert (await answer(instance.addresses[0]))["A"] == "x=y"
        assert instance.label("homeport.zone") == "a" and instance.stop_signal == 2
        seen = json.loads((await asyncio.to_thread(docker, "inspect", instance.name)).stdout)[0]
        assert seen["HostConfig"]["ReadonlyRootfs"] and seen["Config"]["User"] == "1000:1000"
        assert list(seen["NetworkSettings"]["Networks"]) == [network]
        await watched.driver.remove(instance.id)

    try:
        run(test)
    finally:
        docker("volume", "rm", "--force", f"{CLUSTER}-data")


def test_others_containers_are_seen_and_never_touched(spec):
    async def test(watched):
        other = DockerDriver(EngineOptions(owner="somebody-else"), SELECTORS, clock=SystemClock())
        instance = await watched.start(spec)
        assert [each.id for each in await other.list()] == [instance.id]
        for order in (other.stop, other.remove):
            with pytest.raises(EngineConflict, match=f"is {OWNER}'s, not somebody-else's"):
                await order(instance.id)
        await other.close()

    run(test)


def test_containers_are_found_again(spec):
    async def start(watched):
        await watched.start(spec)

    async def find(watched):
        (listed,) = [each for each in watched.events if isinstance(each, Listed)]
        (instance,) = listed.instances
        assert instance.owner == OWNER and instance.spec_digest == spec.digest()

    run(start)
    run(find)


def test_a_lease_at_a_real_engine(spec):
    async def test(watched):
        clock = SystemClock()
        one, two = (
            Lease(watched.driver.engine, owner=OWNER, holder=holder, clock=clock) for holder in ("one", "two")
        )
        assert await one.hold(spec.image) and not await two.hold(spec.image)
        assert await one.hold(spec.image) and await one.hold(spec.image)
        await one.release()
        assert await two.hold(spec.image) and not await one.hold(spec.image)
        await two.release()

    run(test)


# The SDK leaves a socket that it cannot connect to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_goes_and_comes_back(spec, tmp_path):
    """By a relay in front of its socket, so that nobody else's containers stop."""
    socket = str(tmp_path / "engine.sock")

    async def serve(reader, writer):
        upstream_reader, upstream_writer = await asyncio.open_unix_connection("/var/run/docker.sock")
        connections.extend((writer, upstream_writer))
        relayed.append(asyncio.current_task())

        async def pump(source, sink):
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))

    connections: list[asyncio.StreamWriter] = []
    relayed: list[Any] = []

    async def test_through_relay():
        relay = await asyncio.start_unix_server(serve, socket)
        watched = Watched(EngineOptions(owner=OWNER, host=f"unix://{socket}", timeout_s=5.0))
        collecting = asyncio.create_task(watched.collect())
        try:
            async with asyncio.timeout(LIMIT_S):
                await watched.first(Listed)
                instance = await watched.start(spec)
                await watched.first(Changed)
                relay.close()
                os.unlink(socket)
                for one in connections:
                    one.close()
                lost = await watched.first(Lost)
                with pytest.raises(EngineUnavailable):
                    await watched.driver.list()
                await asyncio.to_thread(docker, "kill", instance.name)
                relay = await asyncio.start_unix_server(serve, socket)
                listed = watched.events[await watched.first(Listed, lost)]
                assert [each.state for each in listed.instances] == [State.ENDED]
                # What was missed is told, too: the stream begins where the last one ended.
                await watched.first(Died, lost)
        finally:
            collecting.cancel()
            await asyncio.wait([collecting])
            await watched.driver.close()
            relay.close()
            for one in connections:
                one.close()
            await asyncio.wait(relayed, timeout=LIMIT_S)

    asyncio.run(test_through_relay())
    gc.collect()
