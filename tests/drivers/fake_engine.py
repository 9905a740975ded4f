"""A Docker Engine by hand, for what a real one cannot be made to do: hang, fail, forget, answer late, lose its
stream."""

import asyncio
import itertools
import queue
import threading

import docker.errors
import requests

from proxy.drivers.docker import DockerDriver
from proxy.drivers.driver import Order
from proxy.drivers.engine_answers import Vantage
from proxy.drivers.spec import ContainerSpec, EngineOptions, Port, Selector

LIMIT_S = 15.0
SELECTORS = (Selector("etl", (("homeport.cluster", "etl"),), 8000),)
SPEC = ContainerSpec("query:1", ports=(Port(8000),))
ORDER = Order("etl", "etl-1", SPEC)
BORN_S = 1_700_000_000
"""When all containers were started, in seconds since the epoch."""


class Clock:
    """Time that tests move; what sleeps on it wakes up then."""

    def __init__(self):
        self.now = 100.0
        self._sleepers = []

    def monotonic(self):
        return self.now

    def wall(self):
        return BORN_S + self.now

    async def sleep(self, seconds):
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    @property
    def sleeps(self):
        """How long each sleeper still sleeps."""
        return sorted(until - self.now for until, future in self._sleepers if not future.done())

    def advance(self, seconds):
        """Let `seconds` pass at once."""
        self.now += seconds
        for until, future in self._sleepers:
            if until <= self.now and not future.done():
                future.set_result(None)


async def until(condition, what=""):
    """Wait for what threads do."""
    async with asyncio.timeout(LIMIT_S):
        while not (value := condition()):
            await asyncio.sleep(0.002)
    return value


def api_error(status, text):
    """The SDK's error for an answer of this status."""
    response = requests.Response()
    response.status_code = status
    response.url = "http://engine/x"
    kind = docker.errors.ImageNotFound if "No such image" in text else docker.errors.APIError
    if status == 404 and kind is docker.errors.APIError:
        kind = docker.errors.NotFound
    return kind(text, response=response, explanation=text)


def event(action, container="c1", /, *, kind="container", at_s=BORN_S + 1000, **attributes):
    """An event as the engine writes it."""
    return {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": container, "Attributes": attributes},
        "timeNano": round(at_s * 100) * 10**7,
    }


def kill(signal, container="c1", **more):
    return event("kill", container, signal=str(signal), **{"homeport.cluster": "etl"}, **more)


class Stream:
    """A stream of events, fed by the test."""

    def __init__(self, since):
        self.since = since
        self.closed = False
        self._events = queue.Queue()

    def put(self, *events):
        for one in events:
            self._events.put(one)

    def end(self):
        self._events.put(None)

    def close(self):
        self.closed = True
        self.end()

    def __iter__(self):
        while (one := self._events.get(timeout=LIMIT_S)) is not None:
            yield one


class FakeEngine:
    """Containers, streams and faults. `fail[name]` are the errors of the next calls of `name`, `hold[name]` an Event
    that calls of `name` wait for; `calls` is what was asked."""

    def __init__(self):
        self.containers_by_id = {}
        self.images = {"query:1"}
        self.pullable = {}
        self.streams = []
        self.calls = []
        self.fail = {}
        self.hold = {}
        self.in_progress = 0
        self.most_at_once = 0
        self.down = None
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def connect(self, options, calls):
        if self.down is not None:
            raise docker.errors.DockerException(
                f"Error while fetching server API version: {self.down}"
            ) from self.down
        return self

    def add(self, container="c1", cluster="etl", owner="homeport", **state):
        """A running container."""
        labels = {"homeport.cluster": cluster, "homeport.owner": owner} if cluster else {}
        self.containers_by_id[container] = inspected(container, labels, **state)

    def names(self, *wanted):
        """The calls that were made, of these names."""
        return [call for call in self.calls if call[0] in wanted]

    def _called(self, name, *arguments):
        with self._lock:
            self.calls.append((name, *arguments))
            self.in_progress += 1
            self.most_at_once = max(self.most_at_once, self.in_progress)
        try:
            if name in self.hold:
                assert self.hold[name].wait(LIMIT_S)
            if self.down is not None:
                raise requests.exceptions.ConnectionError(self.down)
            if self.fail.get(name):
                raise self.fail[name].pop(0)
        finally:
            with self._lock:
                self.in_progress -= 1

    def _found(self, container):
        for one in self.containers_by_id.values():
            if container in (one["Id"], one["Name"].removeprefix("/")):
                return one
        raise api_error(404, f"No such container: {container}")

    # --- as docker.APIClient

    def ping(self):
        self._called("ping")
        return True

    def containers(self, *, all):
        self._called("containers")
        return [
            {"Id": one["Id"], "Labels": one["Config"]["Labels"]}
            for one in list(self.containers_by_id.values())
        ]

    def inspect_container(self, container):
        self._called("inspect", container)
        return self._found(container)

    def create_container_from_config(self, config, name):
        self._called("create", name)
        if config["Image"] not in self.images:
            raise api_error(404, f"No such image: {config['Image']}")
        if any(one["Name"] == f"/{name}" for one in self.containers_by_id.values()):
            raise api_error(409, f'The container name "/{name}" is already in use')
        own = f"made-{next(self._ids)}"
        self.containers_by_id[own] = inspected(
            own, config["Labels"], name=name, Status="created", StartedAt=""
        )
        return {"Id": own, "Warnings": ["no swap limit"]}

    def start(self, container):
        self._called("start", container)
        self._found(container)["State"] |= {"Status": "running", "StartedAt": "2023-11-14T22:13:20Z"}

    def stop(self, container, timeout):
        self._called("stop", container, timeout)
        self._found(container)["State"] |= {"Status": "exited", "ExitCode": 0}

    def remove_container(self, container, *, v, force):
        self._called("remove", container)
        del self.containers_by_id[self._found(container)["Id"]]

    def update_container(self, container, *, restart_policy):
        self._called("update", container)
        self._found(container)["HostConfig"]["RestartPolicy"] = restart_policy
        return {}

    def connect_container_to_network(self, container, net_id):
        self._called("join", container, net_id)

    def stats(self, container, *, stream, one_shot):
        self._called("stats", container)
        return self._found(container)["sample"]

    def logs(self, container, *, tail):
        self._called("logs", container, tail)
        return b"one\ntwo \xff\n"

    def events(self, *, since, filters, decode):
        self._called("events", since)
        self.streams.append(Stream(since))
        return self.streams[-1]

    def pull(self, repository, tag, *, stream, decode):
        self._called("pull", repository, tag)
        yield from self.pullable[f"{repository}:{tag}"]
        self.images.add(f"{repository}:{tag}")

    def close(self):
        self.calls.append(("close",))


def inspected(container, labels=None, name="", grace=None, stop_signal="", address="172.17.0.2", **state):
    """What the engine says of a container."""
    return {
        "Id": container,
        "Name": f"/{name or container}",
        "Config": {
            "Labels": labels,
            "StopTimeout": grace,
            "StopSignal": stop_signal,
            "ExposedPorts": {"8000/tcp": {}},
        },
        "State": {"Status": "running", "ExitCode": 0, "StartedAt": "2023-11-14T22:13:20Z", **state},
        "HostConfig": {},
        "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "n1", "IPAddress": address}}, "Ports": {}},
        "sample": {},
    }


class World:
    """A driver at a fake engine."""

    def __init__(self, selectors=SELECTORS, **options):
        self.engine = FakeEngine()
        self.clock = Clock()
        self.driver = DockerDriver(
            EngineOptions(timeout_s=LIMIT_S, **options),
            selectors,
            clock=self.clock,
            connect=self.engine.connect,
            vantage=Vantage(on_host=True),
        )
        self.events = []
        self._watcher = None

    async def watch(self):
        """Collect what a watcher is told, from now on; returns once it knows of everything."""

        async def collect():
            async for one in self.driver.watch():
                self.events.append(one)

        self._watcher = asyncio.create_task(collect())
        await until(lambda: self.events)

    async def told(self, count):
        """Wait for so many events; returns the last."""
        await until(lambda: len(self.events) >= count)
        assert len(self.events) == count, self.events
        return self.events[-1]

    @property
    def stream(self):
        return self.engine.streams[-1]

    async def close(self):
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        for held in self.engine.hold.values():
            held.set()
        await self.driver.close()


def run(test, **options):
    """Run `test(world)` with a limit."""

    async def main():
        world = World(**options)
        try:
            async with asyncio.timeout(2 * LIMIT_S):
                await test(world)
        finally:
            await world.close()

    asyncio.run(main())
