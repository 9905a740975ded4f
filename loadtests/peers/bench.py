"""The run: start all, check all, then rows in rounds with the proxies in turn, then the memory rows one at a
time.

All proxies stay up and sleep while another is measured, so that in each round the measurements of one row lie
seconds apart: what else the machine does then hits all alike. For the memory rows each proxy starts anew.
"""

import http.client
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from loadtests.peers import memory, origin, verify
from loadtests.peers.certificate import write_certificate
from loadtests.peers.configs import Place
from loadtests.peers.load import Generator, Sample, failed
from loadtests.peers.processes import Child, ChildError, Children, free_port
from loadtests.peers.proxies import Proxy
from loadtests.peers.results import Results
from loadtests.peers.rows import SATURATION, Row

MEMORY_SEND_BUFFER = "4k"
"""Of the origin in the memory rows: what waits in the origin's sockets is not the proxy's."""

Measure = Callable[[Child, int, int, Callable[[int], None]], memory.Held]
"""Of a proxy and its port: opens that many connections, tells how many it has, returns what they took."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run."""

    proxies: tuple[Proxy, ...]
    rows: tuple[Row, ...]
    rounds: int
    seconds: float
    """Of each measurement. wrk takes whole seconds, at least one."""
    warm_up_s: float
    """Of load before the first measurement of each row and proxy; 0 for none."""
    idle: int
    """Idle connections to hold; 0 leaves the row out."""
    stalled: int
    """Stalled readers to hold; 0 leaves the row out."""


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that is up."""

    proxy: Proxy
    child: Child
    port: int
    tls_port: int

    def port_of(self, row: Row) -> int:
        """Where the row's requests go."""
        return self.tls_port if row.tls else self.port


def cores() -> tuple[list[int], list[int]]:
    """The core of the proxy, and those of origin and load. Raises ChildError when there is only one core."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise ChildError("two cores are needed, one for the proxy and one for origin and load")
    return usable[:1], usable[1:]


class Bench:
    """One run; `run` fills and returns the results."""

    def __init__(self, settings: Settings, children: Children, directory: Path, progress: Progress) -> None:
        self._settings = settings
        self._children = children
        self._directory = directory
        self._progress = progress
        self._proxy_cores, self._load_cores = cores()
        self._generator = Generator(children, directory, self._proxy_cores, self._load_cores)
        self._certificate = directory / "certificate.pem"
        write_certificate(self._certificate)
        self._unusable: dict[tuple[str, str], tuple[str, ...]] = {}
        self.results = Results()

    def run(self) -> Results:
        """Everything in order. Raises ChildError when the origin does not start."""
        memory.raise_descriptor_limit()
        ports = self._start_origin("bulk", None)
        if self._settings.rows:
            running = [up for up in (self._start(proxy, ports) for proxy in self._settings.proxies) if up]
            self._check(running)
            self._rounds(running)
            for up in running:
                self._children.stop(up.child)
        ports = self._start_origin("memory", MEMORY_SEND_BUFFER)
        self._memory_row("idle", ports, self._settings.idle, memory.idle, self.results.idle)
        self._memory_row("stalled", ports, self._settings.stalled, memory.stalled, self.results.stalled)
        return self.results

    def _start_origin(self, name: str, send_buffer: str | None) -> tuple[int, int]:
        ports = free_port(), free_port()
        origin.start(self._children, self._directory / f"origin-{name}", ports, self._load_cores, send_buffer)
        return ports

    def _start(self, proxy: Proxy, origins: tuple[int, int]) -> Running | None:
        binary = proxy.binary()
        if binary is None:
            self.results.absent[proxy.name] = "not installed"
            return None
        port, tls_port = free_port(), free_port()
        directory = self._directory / f"{proxy.name}-{port}"
        directory.mkdir()
        try:
            launch = proxy.launch(binary, Place(port, tls_port, origins, directory, self._certificate))
            child = self._children.start(proxy.name, launch.command, self._proxy_cores, launch.environment)
            child.wait_for_port(port)
            verify.wait_until_forwarding(port)
        except ChildError as error:
            self.results.absent[proxy.name] = str(error)
            return None
        self.results.versions[proxy.name] = proxy.version(binary)
        return Running(proxy, child, port, tls_port)

    def _check(self, running: list[Running]) -> None:
        """Once per proxy and row: are the bytes right? Rows that are not right are not timed."""
        task = self._progress.add_task("checking replies", total=len(running))
        for up in running:
            for row in self._rows_of(up.proxy):
                if faults := verify.check_row(row, up.port_of(row)):
                    self._unusable[row.name, up.proxy.name] = tuple(faults)
            try:
                self.results.missing_duties[up.proxy.name] = verify.missing_duties(up.port)
                # The requests of a row are all alike, so by data all of them go to one.
                if verify.endpoints_used(up.port) != 2 and up.proxy.variant != "data":
                    self._unusable |= {
                        (row.name, up.proxy.name): ("uses one endpoint",) for row in self._settings.rows
                    }
            except (OSError, http.client.HTTPException) as error:
                self.results.missing_duties[up.proxy.name] = [f"unknown: {error!r}"]
            self._progress.advance(task)

    def _rows_of(self, proxy: Proxy) -> list[Row]:
        return [
            row
            for row in self._settings.rows
            if (row is SATURATION or not proxy.variant) and (proxy.tls or not row.tls)
        ]

    def _rounds(self, running: list[Running]) -> None:
        steps = sum(len(self._rows_of(up.proxy)) for up in running) * self._settings.rounds
        task = self._progress.add_task("", total=steps)
        for number in range(1, self._settings.rounds + 1):
            for row in self._settings.rows:
                for up in running:
                    if row not in self._rows_of(up.proxy):
                        continue
                    text = f"round {number} of {self._settings.rounds}: {row.title}, {up.proxy.name}"
                    self._progress.update(task, description=text)
                    self.results.add(row.name, up.proxy.name, self._sample(row, up, number))
                    self._progress.advance(task)

    def _sample(self, row: Row, up: Running, number: int) -> Sample:
        if faults := self._unusable.get((row.name, up.proxy.name)):
            return failed(*faults)
        if number == 1 and (warm_up_s := self._settings.warm_up_s):
            self._generator.measure(row, up.child, up.port_of(row), warm_up_s, self._rate(row, up))
        return self._generator.measure(
            row, up.child, up.port_of(row), self._settings.seconds, self._rate(row, up)
        )

    def _rate(self, row: Row, up: Running) -> float | None:
        """Requests/s of the row's share of this proxy's own saturation; None for a row without pace."""
        if row.load is None:
            return None
        full = self.results.median(SATURATION.name, up.proxy.name, "rps")
        if full is None:
            sample = self._generator.measure(SATURATION, up.child, up.port, self._settings.seconds, None)
            self.results.add(SATURATION.name, up.proxy.name, sample)
            full = sample.rps
        return max(full * row.load, 1.0)

    def _memory_row(
        self,
        name: str,
        origins: tuple[int, int],
        connections: int,
        measure: Measure,
        into: dict[str, memory.Held],
    ) -> None:
        """One proxy after the other, each started anew."""
        if not connections:
            return
        count = memory.possible(connections)
        for proxy in self._settings.proxies:
            if proxy.variant or (up := self._start(proxy, origins)) is None:
                continue
            into[proxy.name] = self._hold(f"{count} {name}: {proxy.name}", up, count, measure)
            self._children.stop(up.child)

    def _hold(self, text: str, up: Running, count: int, measure: Measure) -> memory.Held:
        task = self._progress.add_task(text, total=count)
        held = measure(up.child, up.port, count, lambda done: self._progress.update(task, completed=done))
        self._progress.update(task, completed=count)
        return held
