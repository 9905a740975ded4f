"""The runs: for each trace, some proxies at a time, each with services and load of its own, all started anew.

Whatever is compared in a cell sees the same trace; proxies that are measured at once also see the same other work of
the machine. What waits is no load, so two cores carry eight proxies; the share of time that they worked is told.
"""

import contextlib
import json
import math
import os
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from loadtests.locality import decision
from loadtests.locality.figures import Figures, Sample, figures
from loadtests.locality.load import FINISH_LIMIT_S
from loadtests.locality.peers import CHECK_S, CHECKS, LOAD, SERVICES, Peer, Place
from loadtests.locality.policies import Foresight
from loadtests.locality.results import DECISION_LIMITS_US, ORACLE, Cell, Results, Run
from loadtests.locality.simulation import simulate
from loadtests.locality.trace import Scenario, Trace
from loadtests.peers.processes import Child, ChildError, Children, busy_s
from loadtests.peers.verify import wait_until_forwarding

SETTLE_S = CHECK_S * CHECKS + 1.0
"""From the start of a proxy until it knows which endpoints are there."""
LOAD_START_S = 0.3
"""That each process of the load gets until the trace begins."""
REQUEST_CPU_S = 500e-6
"""CPU of a request in load, proxy and service together, measured with four proxies at 300 requests/s."""
BUSY_AIM = 0.65
"""Share of the cores that is used when nothing says how many proxies to measure at once."""
DECISIONS = 20_000
BURDENS = (0.0, 0.1, 0.3, 1.0)
"""Of `policies.Foresight`: the first cares for nobody that comes after."""
LADDER = (0.3, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.7)
"""Shares of the calibrated rate between which the capacity is looked for."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run."""

    peers: tuple[Peer, ...]
    scenarios: tuple[Scenario, ...]
    seeds: int
    """Traces 1 to this."""
    shares: tuple[float, ...]
    """Of the calibrated rate."""
    seconds: float
    """Of each trace, that count."""
    warm_up_s: float
    rate: float | None
    """Instead of the calibrated one of every scenario."""
    ladder_seeds: int
    """Traces for the capacity in the first scenario; 0 leaves it out."""
    at_once: int | None
    """Proxies that are measured at the same time; None = as many as leave the cores time to spare."""
    is_silent: bool
    """The services do not tell hits from misses."""

    def steps(self) -> int:
        """Traces that each proxy is measured with."""
        return len(self.scenarios) * len(self.shares) * self.seeds + len(LADDER) * self.ladder_seeds


@dataclass(frozen=True, slots=True)
class Up:
    """A proxy that is up, with its services."""

    peer: Peer
    proxy: Child
    services: Child
    port: int


class Bench:
    """One run; `run` fills and returns the results."""

    def __init__(
        self,
        settings: Settings,
        children: Children,
        directory: Path,
        on_step: Callable[[str], None],
        before: Results | None = None,
    ) -> None:
        """`on_step` is told which trace begins; `before` is what an earlier run found, which is not measured again."""
        self._settings = settings
        self._children = children
        self._directory = directory
        self._on_step = on_step
        self._cores = sorted(os.sched_getaffinity(0))
        self._count = 0
        self.results = before or Results()

    def run(self) -> Results:
        """Everything in order."""
        chosen = self._settings
        for scenario in chosen.scenarios:
            self.results.rates[scenario.name] = chosen.rate or scenario.rate
        for scenario in chosen.scenarios:
            for share in chosen.shares:
                self._cell(scenario, share, chosen.seeds, self.results.runs)
        for share in LADDER if chosen.ladder_seeds else ():
            self._cell(chosen.scenarios[0], share, chosen.ladder_seeds, self.results.ladder)
        for endpoints in DECISION_LIMITS_US.keys() - self.results.decisions_us.keys():
            self.results.decisions_us[endpoints] = decision.measure(endpoints, DECISIONS).choice_us
        return self.results

    def _cell(
        self, scenario: Scenario, share: float, seeds: int, into: dict[Cell, dict[str, list[Run]]]
    ) -> None:
        found = into.setdefault(Cell(scenario.name, share), {})
        rate = share * self.results.rates[scenario.name]
        for seed in range(1, seeds + 1):
            self._on_step(f"{scenario.name} at {rate:.0f}/s, seed {seed} of {seeds}")
            trace = Trace(scenario, seed, rate, self._settings.seconds, self._settings.warm_up_s)
            known = {name for name, runs in found.items() if any(run.seed == seed for run in runs)}
            for peers in self._groups(rate, known):
                for name, run in self._measure(trace, peers).items():
                    found.setdefault(name, []).append(run)
            if ORACLE not in known:
                found.setdefault(ORACLE, []).append(Run(seed, rate, oracle(trace)))

    def _groups(self, rate: float, known: Collection[str]) -> list[tuple[Peer, ...]]:
        """Those that are measured together: as few groups as possible, of about equal size, without the `known`."""
        left_out = {*self.results.absent, *known}
        peers = [peer for peer in self._settings.peers if peer.name not in left_out]
        fitting = int(BUSY_AIM * len(self._cores) / (REQUEST_CPU_S * rate))
        count = math.ceil(len(peers) / (self._settings.at_once or max(1, fitting)))
        return [tuple(peers[number::count]) for number in range(count)]

    def _measure(self, trace: Trace, peers: Sequence[Peer]) -> dict[str, Run]:
        """The trace through all of `peers` at once."""
        starting = [up for up in (self._start(peer, trace) for peer in peers) if up]
        ready = [up for up in starting if self._is_forwarding(up)]
        try:
            if not ready:
                return {}
            time.sleep(SETTLE_S)
            return self._load(trace, ready)
        finally:
            for up in starting:
                self._children.stop(up.proxy)
                self._children.stop(up.services)

    def _start(self, peer: Peer, trace: Trace) -> Up | None:
        binary = peer.proxy.binary()
        if binary is None:
            self._fail(peer, "not installed")
            return None
        self._count += 1
        directory = self._directory / f"{peer.name}-{self._count}"
        directory.mkdir()
        port, *ports = free_ports(1 + trace.scenario.endpoints)
        place = Place(port, tuple(ports), directory, trace.scenario, trace.seed)
        launch = peer.launch(binary, place)
        told = ["--scenario", trace.scenario.name, "--seed", str(trace.seed)]
        told += ["--change-at", str(trace.change_at), *(["--silent"] if self._settings.is_silent else [])]
        try:
            services = self._children.start(
                f"services-{peer.name}", [*SERVICES, *map(str, ports), *told], self._cores
            )
            services.wait_for_port(ports[0])
            proxy = self._children.start(peer.name, launch.command, self._cores, launch.environment)
        except ChildError as error:
            self._fail(peer, str(error))
            return None
        return Up(peer, proxy, services, place.port)

    def _is_forwarding(self, up: Up) -> bool:
        try:
            up.proxy.wait_for_port(up.port)
            wait_until_forwarding(up.port)
        except ChildError as error:
            self._fail(up.peer, str(error))
            return False
        if up.peer.name not in self.results.versions:
            found = self.results.versions
            found[up.peer.name] = up.peer.proxy.version(up.peer.proxy.binary() or "")
            # In the order of the peers, in which tables and legends have them.
            self.results.versions = {
                peer.name: found[peer.name] for peer in self._settings.peers if peer.name in found
            }
        return True

    def _fail(self, peer: Peer, reason: str) -> None:
        """One that never ran is left out from now on; of another, one trace is missing."""
        if peer.name in self.results.versions:
            self.results.missing.append(f"{peer.name} misses a trace: {reason}")
        else:
            self.results.absent[peer.name] = reason

    def _load(self, trace: Trace, ready: Sequence[Up]) -> dict[str, Run]:
        start = time.monotonic() + LOAD_START_S * (1 + len(ready))
        files = {up.peer.name: self._directory / f"{up.peer.name}-{self._count}.json" for up in ready}
        told = ["--scenario", trace.scenario.name, "--seed", str(trace.seed), "--rate", str(trace.rate)]
        told += ["--seconds", str(trace.seconds), "--warm-up", str(trace.warm_up_s), "--start", str(start)]
        loads = [
            self._children.start(
                f"load-{up.peer.name}", [*LOAD, str(up.port), str(files[up.peer.name]), *told], self._cores
            )
            for up in ready
        ]
        time.sleep(max(0.0, start - time.monotonic()))
        before = self._used(ready, loads)
        time.sleep(trace.end)
        used = [after - at for after, at in zip(self._used(ready, loads), before, strict=True)]
        shares = [seconds / len(self._cores) / trace.end for seconds in used[:2]]
        found = {
            up.peer.name: _read(trace, files[up.peer.name], proxy_cpu_s, *shares)
            for up, load, proxy_cpu_s in zip(ready, loads, used[2:], strict=True)
            if self._has_ended_well(up.peer, load)
        }
        for up in ready:
            if (status := up.proxy.process.poll()) is not None:
                told = f"{up.peer.name} ended with {status} before its load did: {up.proxy.tail()}"
                self.results.missing.append(told)
        return found

    def _used(self, ready: Sequence[Up], loads: Sequence[Child]) -> list[float]:
        """Seconds of CPU until now: of everybody, of everything of ours, and of each proxy."""
        proxies = [up.proxy.cpu_s() for up in ready]
        ours = sum(proxies) + sum(child.cpu_s() for child in (*loads, *(up.services for up in ready)))
        return [busy_s(self._cores), ours, *proxies]

    def _has_ended_well(self, peer: Peer, load: Child) -> bool:
        """Waits for its end. It has a file to write after the time in which it waits for answers."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            load.process.wait(2 * FINISH_LIMIT_S)
        status = load.process.returncode
        self._children.stop(load)
        if status != 0:
            self._fail(peer, f"its load ended with {status}: {load.tail()}")
        return status == 0


def free_ports(count: int) -> list[int]:
    """Different TCP ports on 127.0.0.1 that were free a moment ago."""
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in sockets]


def oracle(trace: Trace) -> Figures:
    """What policies reach that know everything, figure by figure. No bound in the strict sense: none of them looks for
    the best of all plans."""
    found = [figures(trace, simulate(trace, partial(Foresight, burden=burden))) for burden in BURDENS]
    best = min(found, key=lambda each: each.p99_s)
    return replace(
        best,
        hit_ratio=max(each.hit_ratio for each in found),
        mean_s=min(each.mean_s for each in found),
        p50_s=min(each.p50_s for each in found),
    )


def _read(trace: Trace, file: Path, cpu_s: float, busy: float, ours: float) -> Run:
    said = json.loads(file.read_text())
    samples = [Sample(*values) for values in said["samples"]]
    return Run(
        seed=trace.seed,
        rate=trace.rate,
        figures=figures(trace, samples),
        cpu_us=cpu_s / max(len(samples), 1) * 1e6,
        busy=busy,
        others=max(0.0, busy - ours),
        lag_s=said["lag_p99_s"],
    )
