"""A daemon with a cluster of containers that it starts, a client of it, and what both tell."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.containers.engine import IMAGE, Engine
from loadtests.daemon import Daemon, Document
from loadtests.faults.bench import WORKERS, Pace
from loadtests.faults.records import Record, Records
from loadtests.peers.processes import ChildError, Children

CLUSTER = f"service-{os.getpid()}"
"""Containers are found by its name, and other benchmarks may run at the same engine."""
LONG_S = 120.0
"""Longest wait for instances: a busy engine takes seconds for each call."""
LOOK_S = 0.02
PER_TRY = "1s"
"""Without it a request at a paused container waits for the whole `timeouts.response`."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each scenario."""

    rate: float = 300.0
    """Requests/s."""
    post_rate: float = 30.0
    """Of POSTs, which are sent beside the others where some are lost for good."""
    before_s: float = 3.0
    """Of load before anything happens, and after it."""
    rounds: int = 10
    """Times that the cluster grows and shrinks."""
    bake_s: float = 5.0


QUICK = Sizes(rate=100.0, before_s=1.0, rounds=1, bake_s=2.0)
"""Seconds instead of minutes: does it run?"""


class Bench:
    """One scenario: its processes, the engine, and progress."""

    def __init__(
        self, children: Children, directory: Path, sizes: Sizes, on_progress: Callable[[float], None]
    ) -> None:
        self.children = children
        self.directory = directory
        self.sizes = sizes
        self.on_progress = on_progress
        """Told what share of the scenario is done."""


class Fleet:
    """A daemon and its containers."""

    def __init__(
        self,
        bench: Bench,
        engine: Engine,
        count: int,
        *,
        environment: Mapping[str, str] | None = None,
        **scaler: Any,
    ) -> None:
        """Returns when `count` instances serve, which are all there may be unless `scaler` says otherwise.
        `environment` is that of the service."""
        self._bench = bench
        self.owner = f"loadtest-{os.getpid()}"
        self.engine = engine
        self._paces = 0
        sizes = {"min_instances": count, "max_instances": count}
        container = {
            "image": IMAGE,
            "ports": [8000],
            "stop_grace": "5s",
            "environment": dict(environment or {}),
        }
        keys = {
            "docker": {"host": engine.host, "owner": self.owner},
            "clusters": [_cluster({"container": container, **sizes, **scaler})],
            "routes": [{"match": {"path_prefix": "/"}, "cluster": CLUSTER}],
        }
        self.daemon = Daemon(bench.children, bench.directory / "daemon", 0, workers=WORKERS, keys=keys)
        self.wait(lambda: self.has(count), f"{count} instances")

    def close(self) -> None:
        """End the daemon, and remove the containers that it leaves running."""
        self._bench.children.stop(self.daemon.child)
        self.engine.remove(self.owner)

    def section(self) -> Document:
        """What the daemon says of the cluster's scaler. Raises `OSError`."""
        found: Document = json.loads(self.daemon.admin(f"/api/v1/clusters/{CLUSTER}"))["scaler"] or {}
        return found

    def serving(self) -> set[str]:
        """Ids of the instances that serve."""
        return {one["id"] for one in self.section().get("instances", ()) if one["phase"] == "serving"}

    def has(self, count: int) -> bool:
        """Whether so many serve, and none starts or goes."""
        said = self.section()
        return bool(said) and (said["serving"], said["starting"], said["going"]) == (count, 0, 0)

    def scale(self, count: int) -> None:
        """Have so many from now on."""
        self.daemon.admin(
            f"/api/v1/clusters/{CLUSTER}/scale?instances={count}", method="POST", timeout_s=10.0
        )

    def deploy(self, **environment: str) -> None:
        """Have instances with another environment."""
        container = self.daemon.document["clusters"][0]["scaler"]["container"]
        container["environment"] = environment
        self.daemon.write(self.daemon.document)

    def wait(self, condition: Callable[[], bool], what: str) -> float:
        """Seconds until `condition` is true. Raises `ChildError` after `LONG_S`, or when the daemon ends."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                if condition():
                    return time.monotonic() - began
            if self.daemon.child.process.poll() is not None:
                raise ChildError(f"the daemon ended: {self.daemon.child.tail()}")
            if time.monotonic() - began > LONG_S:
                raise ChildError(f"not within {LONG_S:g} s: {what}: {self.daemon.child.tail(500)}")
            time.sleep(LOOK_S)

    def pace(self, rate: float, *, method: str = "GET") -> Pace:
        """A client that sends requests from now on, over up to 256 connections."""
        self._paces += 1
        file = self._bench.directory / f"pace-{self._paces}.json"
        command = [sys.executable, "-m", "loadtests.faults.pace", str(self.daemon.port), str(file)]
        command += ["--rate", str(rate), "--method", method, "--connections", "256"]
        child = self._bench.children.start("pace", command, sorted(os.sched_getaffinity(0)))
        return Pace(child, file)

    @contextlib.contextmanager
    def loaded(self, *, with_posts: bool = False) -> Iterator["Seen"]:
        """Load before, during and after the block; what clients saw is told at its end."""
        sizes, seen = self._bench.sizes, Seen()
        paces = [self.pace(sizes.rate)]
        if with_posts:
            paces.append(self.pace(sizes.post_rate, method="POST"))
        time.sleep(sizes.before_s)
        seen.began = time.monotonic()
        yield seen
        time.sleep(sizes.before_s)
        seen.gets, *posts = [pace.stop() for pace in paces]
        seen.posts = posts[0] if posts else Records([])


class Seen:
    """What clients saw."""

    def __init__(self) -> None:
        self.began = 0.0
        """When something was done."""
        self.gets = Records([])
        self.posts = Records([])

    @property
    def longest_s(self) -> float:
        """The slowest GET."""
        return self.gets.percentile_ms(100.0) / 1000.0

    def last_at(self, instance: str) -> float:
        """Seconds from when something was done until the last new request at that instance."""
        there = [one.arrived for one in self._answered_by(instance)]
        return max([each - self.began for each in there] + [0.0])

    def _answered_by(self, instance: str) -> list[Record]:
        return [
            one for one in (*self.gets, *self.posts) if one.endpoint and instance.startswith(one.endpoint)
        ]


def _cluster(scaler: Document) -> Document:
    return {
        "name": CLUSTER,
        "health_check": {"path": "/health", "interval": "500ms", "unhealthy_interval": "100ms"},
        "queue": {"timeout": "60s"},
        "retry": {
            "per_try_timeout": PER_TRY,
            "on": ["connect_failure", "reset", "timeout", 502, 503, 504],
        },
        "scaler": {
            "driver": "docker",
            "cpu_threshold": 0,
            "memory_threshold": 0,
            "start_time": "1s",
            "restart_grace": "2s",
            "drain_timeout": "10s",
            **scaler,
        },
    }
