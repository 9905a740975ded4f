"""Where the demo's instances run, and how one of them is killed: local processes, or containers of a Docker Engine."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import aiohttp

import proxy
from proxy.clock import Clock
from proxy.demo.service import Resources
from proxy.demo.watching import Instance
from proxy.drivers.docker import DockerDriver
from proxy.drivers.engine_errors import ImageMissing
from proxy.drivers.spec import EngineOptions, Selector
from proxy.errors import EngineError, EngineNotFound, ProxyError

CLUSTER = "data"
SLOTS = 4
CACHE_BYTES = 384 << 20
_PORT = 8000


class CannotRun(ProxyError):
    """The demo cannot run here, and what to do about it."""


class Place(Protocol):
    """What differs between the drivers."""

    scaler: dict[str, Any]
    """Keys of the cluster's `scaler`."""
    discovery: dict[str, Any] | None
    """The cluster's `discovery`."""
    owner: str
    """Whose the instances are, as `docker.owner` says."""

    async def check(self) -> None:
        """Raises `CannotRun` when instances cannot run here."""
        ...

    async def kill(self, instance: Instance) -> None:
        """Kill an instance as accidents do. Raises `EngineError`, `aiohttp.ClientError` or `TimeoutError`."""
        ...

    async def clean(self) -> None:
        """Remove what the proxy has left."""
        ...


class Processes:
    """Local processes, which end with the proxy."""

    owner = "demo"
    discovery: dict[str, Any] | None = None

    def __init__(self) -> None:
        command = [sys.executable, "-m", "proxy.demo.service", "--name", "data-{port}", "--port", "{port}"]
        self.scaler = {
            "driver": "process",
            "process": {
                "command": [*command, *_options()],
                "working_directory": str(Path(proxy.__file__).resolve().parents[1]),
                "stop_grace": "5s",
            },
        }

    async def check(self) -> None:
        """They can run wherever the demo can."""

    async def kill(self, instance: Instance) -> None:
        """SIGKILL to the process that answers at the instance's address."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            async with session.get(f"http://{instance.address}/health") as response:
                pid = int((await response.json())["pid"])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def clean(self) -> None:
        """Nothing is left."""


class Containers:
    """Containers of `image`, which has this package in it, published on 127.0.0.1."""

    def __init__(self, image: str, clock: Clock) -> None:
        self.owner = f"demo-{os.getpid()}"
        self._image = image
        arguments = ["-m", "proxy.demo.service", "--host", "0.0.0.0", "--port", str(_PORT), *_options()]
        self.scaler = {
            "driver": "docker",
            "container": {
                "image": image,
                "entrypoint": ["python", *arguments],
                "ports": [f"127.0.0.1::{_PORT}"],
                "health_check": {"disable": True},  # the image's own asks for a proxy
                "stop_grace": "5s",
            },
        }
        # Not by the cluster's name, which a cluster of somebody else's at this engine may have too.
        labels = {"homeport.demo": self.owner}
        self.discovery: dict[str, Any] | None = {"docker": {"labels": labels}}
        selectors = [Selector(CLUSTER, tuple(labels.items()), _PORT, "")]
        self._driver = DockerDriver(EngineOptions(owner=self.owner), selectors, clock=clock)

    async def check(self) -> None:
        """Whether the engine answers and has the image."""
        try:
            await self._driver.lease.hold(self._image)
            await self._driver.lease.release()
        except ImageMissing:
            raise CannotRun(
                f"the Docker Engine has no image {self._image!r}: build it with `docker build -t {self._image} .` "
                "in a checkout, or name another one by --image"
            ) from None
        except EngineError as error:
            raise CannotRun(
                f"no Docker Engine can be used ({error}): start one, or say in DOCKER_HOST where it is, "
                "or leave --driver docker out"
            ) from error

    async def kill(self, instance: Instance) -> None:
        """As `docker rm -f` does."""
        await self._driver.remove(instance.id)

    async def clean(self) -> None:
        """Containers go on when the proxy ends, which would take them over again."""
        for instance in await self._driver.list():
            if instance.owner == self.owner:
                await self._driver.remove(instance.id)
        name = f"homeport-lease-{self.owner}"
        with suppress(EngineNotFound):
            await self._driver.engine.act(
                "remove the lease", lambda api: api.remove_container(name, v=True, force=True)
            )
        self._driver.engine.close()


def _options() -> list[str]:
    bandwidth = Resources().bandwidth_bytes_per_s
    return ["--slots", str(SLOTS), "--cache", str(CACHE_BYTES), "--bandwidth", f"{bandwidth:.0f}"]
