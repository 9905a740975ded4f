"""Sources as the configuration names them: they begin before it is served, go on over reloads, and cost nobody else."""

import asyncio
import subprocess
import sys

import orjson
import pytest
from control_world import World as Base
from control_world import settle
from support.daemon import ROOT
from support.wait import LIMIT_S

from proxy.config.container import selector
from proxy.controlplane import engine_access
from proxy.drivers.driver import Instance, Listed, Lost, State
from proxy.errors import ConfigError
from proxy.model import TcpAddress
from proxy.snapshot_codec import legacy_of

HEAD = """
listeners: [{name: edge, bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
routes: [{match: {path_prefix: /}, cluster: etl}]
clusters:
"""
LISTED = '- {name: etl, endpoints: [{address: "10.0.0.9:9000"}]}\n'
DOCKER = "- {name: etl, discovery: {docker: {}}}\n"


class Driver:
    """A driver whose watchers are told what `instances` are, at the start and whenever selectors change."""

    made = []
    instances = ()
    is_lost = False

    def __init__(self, options, selectors, *, clock):
        self.options, self.selectors, self.is_closed = options, selectors, False
        self._events = []
        self.made.append(self)

    async def watch(self):
        events = asyncio.Queue()
        self._events.append(events)
        events.put_nowait(self._now())
        while True:
            yield await events.get()

    def _now(self):
        wanted = {each.cluster for each in self.selectors}
        if self.is_lost:
            return Lost("follow events: connection refused")
        return Listed(tuple(each for each in self.instances if each.cluster in wanted))

    def select(self, selectors):
        self.selectors = selectors
        for events in self._events:
            events.put_nowait(self._now())

    async def close(self):
        self.is_closed = True


def instance(number, cluster="etl"):
    address = TcpAddress(f"172.18.0.{number}", 8000)
    return Instance(
        f"{number:012}" + 52 * "0", f"{cluster}-{number}", cluster, State.RUNNING, (address,), started_at=1.0
    )


class World(Base):
    def __init__(self, clusters):
        super().__init__((HEAD + clusters).encode())

    async def reload(self, clusters):
        self.text = (HEAD + clusters).encode()
        return (await self.control.reload()).outcome.value

    async def status(self):
        return orjson.loads((await self.get("/api/v1/status"))[1])


def run(main, clusters):
    async def limited():
        async with asyncio.timeout(LIMIT_S):
            world = World(clusters)
            try:
                await main(world)
            finally:
                await world.control.stop()

    asyncio.run(limited())


@pytest.fixture
def driver(monkeypatch):
    """In place of the Docker Engine's."""

    class Module:
        DockerDriver = Driver

    monkeypatch.setattr(engine_access, "import_module", lambda name: Module)
    monkeypatch.setattr(Driver, "made", [])
    return Driver


def test_the_first_snapshot_has_what_a_file_lists(tmp_path):
    file = tmp_path / "endpoints.yaml"
    file.write_text("[{address: '10.0.0.1:80'}, {address: 'query:80'}]")

    async def main(world):
        await world.control.start()
        assert world.addresses()["etl"] == ["10.0.0.1:80", "10.0.0.2:80"]
        (told,) = (await world.status())["discovery"]
        assert (told["kind"], told["cluster"], told["state"], told["problem"]) == ("file", "etl", "up", None)
        file.write_text("[{address: '10.0.0.7:80'}]")
        await world.clock.wake(6.0)
        while world.addresses()["etl"] != ["10.0.0.7:80"]:
            await asyncio.sleep(0.001)

    run(main, f"- {{name: etl, discovery: {{file: {{path: {file}}}}}}}\n")


def test_a_cluster_that_changes_to_a_source_is_never_without_endpoints(driver, monkeypatch):
    monkeypatch.setattr(driver, "instances", (instance(1), instance(2), instance(3, "other")))

    async def main(world):
        await world.control.start()
        assert not driver.made
        assert await world.reload(DOCKER) == "applied"
        assert [[str(spec.address) for spec in each.clusters[0].endpoints] for each in world.published] == [
            ["10.0.0.9:9000"],
            ["172.18.0.1:8000", "172.18.0.2:8000"],
        ]
        other = '- {name: other, discovery: {docker: {labels: {team: "x"}}}}\n'
        assert await world.reload(DOCKER + other) == "applied"
        assert world.addresses()["other"] == ["172.18.0.3:8000"] and len(driver.made) == 1
        assert await world.reload(LISTED) == "applied"
        assert world.addresses() == {"etl": ["10.0.0.9:9000"]} and driver.made[0].is_closed

    run(main, LISTED)


def test_another_engine_is_another_driver(driver, monkeypatch):
    monkeypatch.setattr(driver, "instances", (instance(1),))

    async def main(world):
        await world.control.start()
        world.text = world.text.replace(b"routes:", b"docker: {host: 'unix:///run/other.sock'}\nroutes:")
        await world.control.reload()
        first, second = driver.made
        assert first.is_closed and not second.is_closed and second.options.host == "unix:///run/other.sock"
        assert world.addresses()["etl"] == ["172.18.0.1:8000"]

    run(main, DOCKER)


def test_a_reload_that_fails_goes_on_with_the_old_sources(driver, monkeypatch):
    monkeypatch.setattr(driver, "instances", (instance(1),))

    async def main(world):
        await world.control.start()
        world.refuses = ConfigError("listeners[0].bind", "x", "y")
        assert await world.reload(DOCKER.replace("docker: {}", "docker: {labels: {team: x}}")) == "refused"
        world.refuses = None
        assert world.addresses()["etl"] == ["172.18.0.1:8000"]

        assert driver.made[0].selectors == (selector(world.config.clusters[0]),)

    run(main, DOCKER)


def test_an_engine_that_is_down_holds_nobody_up(driver, monkeypatch):
    """Neither the start nor a reload nor the next control, which goes on with what was known."""
    monkeypatch.setattr(driver, "instances", (instance(1),))

    async def main(world):
        await world.control.start()
        last = world.published[-1]
        await world.control.stop()
        monkeypatch.setattr(driver, "is_lost", True)
        world.control = world.new_control(previous=last, legacy=legacy_of(last))
        await world.control.start()
        assert world.addresses()["etl"] == ["172.18.0.1:8000"]
        (told,) = (await world.status())["discovery"]
        assert (told["state"], told["problem"]) == ("failing", "follow events: connection refused")
        metrics = (await world.get("/metrics"))[1]
        assert b'homeport_discovery_failing{source="docker"} 1.0' in metrics
        await world.reload(DOCKER + "- {name: more, discovery: {docker: {labels: {team: x}}}}\n")
        assert world.addresses() == {"etl": ["172.18.0.1:8000"], "more": []}
        monkeypatch.setattr(driver, "is_lost", False)
        monkeypatch.setattr(driver, "instances", (instance(2),))
        driver.made[-1].select(driver.made[-1].selectors)
        await settle()
        assert world.addresses()["etl"] == ["172.18.0.2:8000"]
        assert b'homeport_discovery_failing{source="docker"} 0.0' in (await world.get("/metrics"))[1]

    run(main, DOCKER)


def test_who_has_no_containers_does_not_pay_for_them():
    """Nor for SRV records: both libraries take longer to import than everything else takes to start."""
    code = "import sys, proxy.control; print(sorted({'docker', 'dns', 'requests'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
