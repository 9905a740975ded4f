"""`python -m proxy.control`: the control process: configuration and resolved names to snapshots, and the admin API.

Nothing here is on the request path. Workers serve from the last snapshot whatever happens to control: it may crash,
hang or be replaced, and the one that comes next begins with what the last one published.
"""

import argparse
import asyncio
import logging
import random
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import uvloop

from proxy import children
from proxy.admin.api import AdminServer
from proxy.clock import Clock, SystemClock
from proxy.config.addresses import NamedAddress
from proxy.config.build import SlotAllocator, build_snapshot, unresolved_names
from proxy.config.load import load_file
from proxy.config.schema import Config
from proxy.controlplane.certificates import CertificateWatcher
from proxy.controlplane.cores import auto_workers
from proxy.controlplane.parent_link import ParentGone, ParentLink
from proxy.controlplane.resolver import Lookup, Resolver, WatchedName, system_lookup
from proxy.controlplane.slots import SlotReaper
from proxy.errors import ConfigError
from proxy.mailbox import Channel, unsealed
from proxy.model import Address, TcpAddress
from proxy.scoreboard import (
    C_CERTIFICATE_RELOADS,
    C_CERTIFICATES_FAILING,
    C_DNS_FAILURES,
    C_DNS_LOOKUPS,
    C_ENDPOINT_SLOTS,
    C_HEARTBEAT_MS,
    Scoreboard,
)
from proxy.snapshot import Snapshot
from proxy.snapshot_codec import OtherVersion, decode_snapshot
from proxy.tasks import spawn
from proxy.telemetry.metrics import MetricsPage
from proxy.telemetry.processes import worker_report
from proxy.telemetry.status import DaemonView

_log = logging.getLogger("homeport")

SWEEP_S = 10.0
"""Seconds between two looks for scoreboard rows to release; short against the time they are kept."""

HEARTBEAT_S = 0.1
"""Seconds between two heartbeats; the parent replaces a control that is silent for several of them."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


class Publisher(Protocol):
    """Hands a snapshot to the workers."""

    async def publish(self, snapshot: Snapshot, workers: int) -> tuple[Address, ...]:
        """Have it served. Returns the listeners' actual addresses; raises `ConfigError` and keeps the last one."""
        ...


class Control:
    """Runs the control side of one daemon. `previous` is the snapshot that is served already, by whoever was control
    before."""

    def __init__(
        self,
        config: Config,
        board: Scoreboard,
        publisher: Publisher,
        *,
        workers: int,
        clock: Clock,
        rng: random.Random,
        previous: Snapshot | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._config = config
        self._board = board
        self._publisher = publisher
        self._workers = workers
        self._clock = clock
        self._snapshot = previous
        self._certificates: CertificateWatcher | None = None
        self._addresses: tuple[Address, ...] = ()
        self._slots = SlotAllocator(board.endpoints, held_slots(previous, board))
        self._reaper = SlotReaper(self._slots, board)
        self._resolver = Resolver(
            watched_names(config),
            self._on_addresses,
            clock=clock,
            rng=rng,
            lookup=lookup,
            known=known_addresses(previous),
        )
        row = board.control_row
        self._lookups_before = row[C_DNS_LOOKUPS], row[C_DNS_FAILURES]
        self._reloads_before = row[C_CERTIFICATE_RELOADS]
        metrics = MetricsPage(board, lambda: self._snapshot)
        self._admin = AdminServer(config.admin.bind, config.admin.token, self._view, metrics)
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot | None:
        """The one that was published last; `None` before the first."""
        return self._snapshot

    @property
    def admin_address(self) -> Address:
        """Where the admin API listens; with the port that was bound, once started."""
        return self._admin.address

    @property
    def addresses(self) -> tuple[tuple[str, Address], ...]:
        """Name and actual address of each listener."""
        listeners = self._snapshot.listeners if self._snapshot is not None else ()
        return tuple(zip((spec.name for spec in listeners), self._addresses, strict=False))

    async def start(self) -> None:
        """Open the admin API, resolve names, publish the first snapshot and keep it current.

        Takes as long as the slowest name, at most the resolver's time limit; a name that cannot be resolved
        has no endpoints for now. Raises ConfigError, and then nothing runs.
        """
        self._certificates = CertificateWatcher(self._config, self._changed.set, clock=self._clock)
        self._tasks = [spawn(self._beat(), name="heartbeat")]
        try:
            await self._admin.start()
            await self._resolver.resolve_all()
            self._show_counts()
            await self._publish(self._build())
        except BaseException:
            await self.stop()
            raise
        self._resolver.start()
        self._certificates.start()
        self._tasks.append(spawn(self._sweep_slots(), name="sweep slots"))
        self._tasks.append(spawn(self._republish(), name="republish"))

    async def stop(self) -> None:
        """Stop resolving and close the admin API. Idempotent. Call it when the workers have drained: until
        then the admin API says so."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        await self._resolver.stop()
        if self._certificates is not None:
            await self._certificates.stop()
        await self._admin.stop()

    def _build(self) -> Snapshot:
        generation = self._snapshot.generation + 1 if self._snapshot else 1
        assert self._certificates is not None
        return build_snapshot(
            self._config,
            generation=generation,
            resolved=self._resolver.resolved,
            slots=self._slots,
            material=self._certificates.material,
        )

    async def _publish(self, snapshot: Snapshot) -> None:
        row = self._board.control_row
        row[C_ENDPOINT_SLOTS] = max(row[C_ENDPOINT_SLOTS], self._slots.high_water)
        self._addresses = await self._publisher.publish(snapshot, self._workers)
        self._snapshot = snapshot
        self._reaper.on_snapshot(snapshot, now=self._clock.monotonic())

    def _on_addresses(self) -> None:
        """Some name's addresses changed."""
        self._changed.set()

    async def _republish(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                snapshot = self._build()
                served = self._snapshot
                if served is None or replace(snapshot, generation=served.generation) != served:
                    await self._publish(snapshot)
            except ConfigError as error:
                _log.error("the last snapshot stays in use: %s", error)

    async def _sweep_slots(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            applied = worker_report(self._board).applied_generation
            self._reaper.sweep(applied_generation=applied, now=self._clock.monotonic())

    async def _beat(self) -> None:
        """Show the parent that control is alive, and keep its own counts where the next control finds them."""
        while True:
            self._show_counts()
            await self._clock.sleep(HEARTBEAT_S)

    def _show_counts(self) -> None:
        row = self._board.control_row
        lookups, failures = self._lookups_before
        row[C_HEARTBEAT_MS] = int(self._clock.monotonic() * 1000)
        row[C_DNS_LOOKUPS] = lookups + self._resolver.lookups_total
        row[C_DNS_FAILURES] = failures + self._resolver.failures_total
        if self._certificates is not None:
            row[C_CERTIFICATES_FAILING] = self._certificates.failing
            row[C_CERTIFICATE_RELOADS] = self._reloads_before + self._certificates.reloads_total

    def _view(self) -> DaemonView:
        report = worker_report(self._board, self.addresses)
        return DaemonView(self._board, self._snapshot, report, self._clock.monotonic())


def watched_names(config: Config) -> list[WatchedName]:
    """The names to resolve; one that several clusters use is looked up as often as the most eager of them
    asks."""
    intervals: dict[tuple[str, int], list[float]] = {name: [] for name in unresolved_names(config)}
    for cluster in config.clusters:
        for endpoint in cluster.endpoints:
            if isinstance(endpoint.address, NamedAddress):
                key = (endpoint.address.host, endpoint.address.port)
                intervals[key].append(cluster.dns.refresh)
    return [
        WatchedName(host, port, min((each for each in found if each > 0), default=0.0))
        for (host, port), found in intervals.items()
    ]


def known_addresses(previous: Snapshot | None) -> Mapping[str, tuple[TcpAddress, ...]]:
    """What names resolved to in `previous`, by `host:port`: good until a lookup says otherwise."""
    found: dict[str, dict[TcpAddress, None]] = {}
    for cluster in previous.clusters if previous is not None else ():
        for spec in cluster.endpoints:
            if isinstance(spec.address, TcpAddress) and spec.name != str(spec.address):
                found.setdefault(spec.name, {})[spec.address] = None
    return {name: tuple(addresses) for name, addresses in found.items()}


def held_slots(previous: Snapshot | None, board: Scoreboard) -> dict[str, int]:
    """The endpoint slots that are taken when control starts.

    Slots that were in use but are not in `previous` may still be written to; nobody remembers for which endpoint, so
    each is held by a name that no endpoint has until it can be released.
    """
    clusters = previous.clusters if previous is not None else ()
    held = {spec.id: spec.slot for cluster in clusters for spec in cluster.endpoints}
    used = set(range(board.control_row[C_ENDPOINT_SLOTS])) - set(held.values())
    return held | {f"(slot {slot})": slot for slot in sorted(used)}


async def _run(
    config: Config, workers: int, board: Scoreboard, link: ParentLink, previous: Snapshot | None
) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    rng = random.Random(random.SystemRandom().getrandbits(64))
    control = Control(config, board, link, workers=workers, clock=SystemClock(), rng=rng, previous=previous)
    starting = asyncio.ensure_future(control.start())  # noqa: TID251 its failure is reported below
    stop = asyncio.ensure_future(stopping.wait())  # noqa: TID251 cancelled below
    await asyncio.wait((starting, stop), return_when=asyncio.FIRST_COMPLETED)
    try:
        if starting.done():
            starting.result()
            for name, address in control.addresses:
                _log.info("listener %s on %s", name, address)
            _log.info("admin API on %s", control.admin_address)
        await stop
    except ConfigError as error:
        _log.error("cannot start: %s", error)
        return EXIT_FAILED
    except ParentGone:
        return EXIT_FAILED
    finally:
        starting.cancel()
        stop.cancel()
        await control.stop()
    return EXIT_OK


def _previous(fd: int | None, board: Scoreboard) -> Snapshot | None:
    """The snapshot that is served already, if this version can read it."""
    if fd is None:
        return None
    try:
        return decode_snapshot(unsealed(fd))
    except OtherVersion as error:
        # Whose rows these are is not known any more.
        _log.warning("%s: counters of endpoints begin anew", error)
        for slot in range(board.control_row[C_ENDPOINT_SLOTS]):
            board.clear_endpoint(slot)
        return None


def main() -> int:
    """The process, until it is told to stop. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m proxy.control")
    parser.add_argument("--config", required=True)
    parser.add_argument("--workers", type=int)
    for name in ("parent", "board", "channel"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--snapshot", type=int)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s control: %(message)s")
    children.end_with_parent(options.parent)
    try:
        config = load_file(Path(options.config))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_CONFIG
    workers = options.workers or config.workers or auto_workers()
    board = Scoreboard(fd=options.board)
    previous = _previous(options.snapshot, board)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        link = ParentLink(Channel.from_fd(options.channel))
        return runner.run(_run(config, workers, board, link, previous))


if __name__ == "__main__":
    raise SystemExit(main())
