"""What the scenarios share: sizes, processes and progress."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.daemon import Daemon, Document, wait_for
from loadtests.faults.records import Record, Records
from loadtests.peers.processes import Child, ChildError, Children, free_port

WORKERS = 2
LOOK_S = 0.02
"""Seconds between two looks at an endpoint's standing."""
FINISH_S = 10.0
"""Longest wait for a process of ours to write down what it saw."""
COMPLAINTS = ("Traceback", "internal error", " CRITICAL ")
"""In a daemon's log: faults of its own, whatever is done to it."""
WARM_UP_S = 1.0
"""Of a load, not measured: connections are made, averages begin."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each scenario."""

    reloads: int = 100
    many_reloads: int = 1000
    kills: int = 10_000
    attackers: int = 1000
    """Connections of each attack."""
    slow_clients: int = 5000
    """Of each kind."""
    measured_s: float = 10.0
    """Length of a measurement."""
    fault_s: float = 6.0
    """How long an endpoint fails."""
    rate: float = 200.0
    """Requests/s of an ordinary client."""


QUICK = Sizes(
    reloads=6,
    many_reloads=10,
    kills=40,
    attackers=40,
    slow_clients=60,
    measured_s=1.5,
    fault_s=3.0,
    rate=100.0,
)
"""Seconds instead of minutes: does it run, and is nothing lost?"""


class Endpoint:
    """An `endpoint` process; may be started again on its port."""

    def __init__(self, children: Children, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.port = free_port()
        self._children = children
        self._command = [sys.executable, "-m", "loadtests.faults.endpoint", str(self.port), "--name", name]
        self._command += arguments
        self.start()

    def start(self) -> None:
        """Run, and return when it accepts."""
        self.child = self._children.start(self.name, self._command, sorted(os.sched_getaffinity(0)))
        self.child.wait_for_port(self.port)

    def signal(self, number: signal.Signals) -> None:
        """Have it fail, be well, stop or die."""
        self.child.process.send_signal(number)

    def report(self) -> dict[str, int]:
        """What it counted."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/report", timeout=5) as answer:
            found: dict[str, int] = json.load(answer)
            return found


class Pace:
    """A `pace` process."""

    def __init__(self, child: Child, file: Path) -> None:
        self._child = child
        self._file = file

    def stop(self) -> Records:
        """End it; what it saw. Raises `ChildError`."""
        self._child.process.send_signal(signal.SIGTERM)
        finish(self._child)
        rows = json.loads(self._file.read_text())
        if not rows:
            raise ChildError(f"{self._child.name} sent nothing")
        return Records(Record(*row) for row in rows)


def finish(child: Child) -> None:
    """Wait for the end of a process of ours. Raises `ChildError` when it failed."""
    if child.process.wait(FINISH_S):
        raise ChildError(f"{child.name} ended with {child.process.returncode}: {child.tail()}")


class Bench:
    """One scenario's processes; all of them end with `children`."""

    def __init__(
        self, children: Children, directory: Path, sizes: Sizes, on_progress: Callable[[float], None]
    ) -> None:
        self.children = children
        self.directory = directory
        self.sizes = sizes
        self.on_progress = on_progress
        """Told what share of the scenario is done."""
        self._paces = 0
        self._logs: list[Path] = []

    def endpoint(self, name: str = "a", *arguments: str) -> Endpoint:
        """A new one."""
        return Endpoint(self.children, name, arguments)

    def daemon(self, ports: Sequence[int], *, cluster: Document | None = None, **keys: Any) -> Daemon:
        """A daemon in front of endpoints at `ports`, with `cluster`'s keys for all of them and `keys` at top level."""
        daemon = Daemon(
            self.children,
            self.directory / f"daemon-{ports[0]}",
            ports[0],
            workers=WORKERS,
            keys={"clusters": [cluster_of(ports, **(cluster or {}))], **keys},
        )
        self._logs.append(daemon.child.output)
        return daemon

    def complaints(self) -> list[str]:
        """Lines of the daemons' logs that tell of faults of their own."""
        lines = [line for log in self._logs for line in log.read_text(errors="replace").splitlines()]
        return [line for line in lines if any(word in line for word in COMPLAINTS)]

    def start(self, module: str, *arguments: str) -> Child:
        """A process of `loadtests.faults.MODULE`."""
        command = [sys.executable, "-m", f"loadtests.faults.{module}", *arguments]
        return self.children.start(module, command, sorted(os.sched_getaffinity(0)))

    def pace(self, port: int, rate: float, *, connections: int = 64) -> Pace:
        """A client that sends GETs from now on, at `rate` a second over up to `connections`."""
        self._paces += 1
        file = self.directory / f"pace-{self._paces}.json"
        arguments = [str(port), str(file), "--rate", str(rate), "--connections", str(connections)]
        return Pace(self.start("pace", *arguments), file)

    def measure(self, port: int, rate: float, seconds: float) -> Records:
        """What a client of `port` sees for `seconds`, after a warm-up."""
        pace = self.pace(port, rate)
        time.sleep(WARM_UP_S + seconds)
        records = pace.stop()
        return records.due_between(min(one.due for one in records) + WARM_UP_S)

    def rest(self, seconds: float, begin: float, end: float) -> None:
        """Let time pass, and the scenario's share done go from `begin` to `end`."""
        start = time.monotonic()
        while (passed := time.monotonic() - start) < seconds:
            self.on_progress(begin + (end - begin) * passed / seconds)
            time.sleep(min(0.1, seconds - passed))
        self.on_progress(end)


def cluster_of(ports: Sequence[int], *, max_connections: int = 0, **keys: Any) -> Document:
    """A cluster of endpoints at `ports`."""
    return {
        "name": "origin",
        "endpoints": [{"address": f"127.0.0.1:{port}", "max_connections": max_connections} for port in ports],
        **keys,
    }


SLOW_PATH = "/slow"
"""Where slow clients go."""


def apart(port: int, slow_port: int) -> Document:
    """Clusters and routes that send slow clients to an endpoint of their own: what ordinary ones then notice of them is
    the daemon's doing."""
    slow = {"match": {"path_prefix": SLOW_PATH}, "cluster": "slow", "rewrite": {"strip_prefix": SLOW_PATH}}
    return {
        "clusters": [cluster_of([port]), {**cluster_of([slow_port]), "name": "slow"}],
        "routes": [slow, {"match": {"path_prefix": "/"}, "cluster": "origin"}],
    }


class Watch:
    """Looks at an endpoint's standing all the time."""

    def __init__(self, daemon: Daemon, port: int) -> None:
        self._daemon = daemon
        self._address = f"127.0.0.1:{port}"
        self._seen: list[tuple[float, str]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def first(self, *, is_used: bool, after: float) -> float | None:
        """When it was first seen in use, or out of use, after `after`."""
        return next(
            (
                at
                for at, standing in self._seen
                if at >= after and (standing in ("ready", "slow start")) is is_used
            ),
            None,
        )

    def wait(self, *, is_used: bool, after: float, limit_s: float) -> float | None:
        """`first`, as soon as it is known; `None` after `limit_s`."""
        end = time.monotonic() + limit_s
        while (found := self.first(is_used=is_used, after=after)) is None and time.monotonic() < end:
            time.sleep(LOOK_S)
        return found

    def _look_on(self) -> None:
        while not self._is_over.wait(LOOK_S):
            with contextlib.suppress(OSError):
                document = json.loads(self._daemon.admin("/api/v1/clusters/origin"))
                now = time.monotonic()
                for one in document["endpoints"]:
                    if one["address"] == self._address:
                        self._seen.append((now, one.get("standing", "ready")))


class Memory:
    """The most that a daemon's processes have resident, and have waiting for slow readers."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.before_bytes = daemon.child.rss_bytes()
        self.peak_bytes = self.before_bytes
        self.buffered_bytes = 0

    @property
    def growth_bytes(self) -> int:
        """At the peak."""
        return self.peak_bytes - self.before_bytes

    def look(self) -> None:
        """Now."""
        self.peak_bytes = max(self.peak_bytes, self._daemon.child.rss_bytes())
        with contextlib.suppress(OSError):
            buffered = self._daemon.metrics().get("homeport_buffered_bytes", 0.0)
            self.buffered_bytes = max(self.buffered_bytes, int(buffered))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look all the time."""
        is_over = threading.Event()

        def look_on() -> None:
            while not is_over.wait(0.25):
                self.look()

        thread = threading.Thread(target=look_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self.look()


def connections_of(daemon: Daemon) -> int:
    """Client connections that its workers have."""
    with contextlib.suppress(OSError):
        return sum(one["connections"] for one in daemon.status()["workers"])
    return 0


def wait_for_connections(daemon: Daemon, number: int) -> None:
    """Return when there are that many. Raises `ChildError`."""
    wait_for(lambda: connections_of(daemon) >= number, f"{number} connections", daemon.child)
