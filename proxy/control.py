"""The control side, put together: configuration and resolved names to snapshots, and the admin API.

Nothing here is on the request path. Workers serve from the last snapshot whatever happens to control.
"""

import asyncio
import logging
import os
import random
from collections.abc import Callable

from proxy.admin.api import AdminServer
from proxy.clock import Clock
from proxy.config.addresses import NamedAddress
from proxy.config.build import SlotAllocator, build_snapshot, unresolved_names
from proxy.config.material import NO_MATERIAL, read_material
from proxy.config.schema import Config
from proxy.controlplane.resolver import Lookup, Resolver, WatchedName, system_lookup
from proxy.controlplane.slots import SlotReaper
from proxy.errors import ConfigError
from proxy.model import Address
from proxy.scoreboard import Scoreboard
from proxy.snapshot import Snapshot
from proxy.tasks import spawn
from proxy.telemetry.metrics import CounterSource, MetricsPage
from proxy.telemetry.status import DaemonView, WorkerReport

_log = logging.getLogger(__name__)

SWEEP_S = 10.0
"""Seconds between two looks for scoreboard rows to release; short against the time they are kept."""


class Control:
    """Runs the control side of one daemon.

    `publish` hands a snapshot to the workers; `worker_report` says what they do, and must not block.
    """

    def __init__(
        self,
        config: Config,
        board: Scoreboard,
        publish: Callable[[Snapshot], None],
        worker_report: Callable[[], WorkerReport],
        *,
        clock: Clock,
        rng: random.Random,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._config = config
        self._board = board
        self._publish = publish
        self._worker_report = worker_report
        self._clock = clock
        self._started_at = clock.monotonic()
        self._snapshot: Snapshot | None = None
        self._material = NO_MATERIAL
        self._slots = SlotAllocator(board.endpoints)
        self._reaper = SlotReaper(self._slots, board)
        self._resolver = Resolver(
            watched_names(config), self._on_addresses, clock=clock, rng=rng, lookup=lookup
        )
        metrics = MetricsPage(board, lambda: self._snapshot, self._counters())
        self._admin = AdminServer(config.admin.bind, config.admin.token, self._view, metrics)
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def snapshot(self) -> Snapshot | None:
        """The one that was published last; `None` before the first."""
        return self._snapshot

    @property
    def admin_address(self) -> Address:
        """Where the admin API listens; with the port that was bound, once started."""
        return self._admin.address

    async def start(self) -> None:
        """Open the admin API, resolve names, publish the first snapshot and keep it current.

        Takes as long as the slowest name, at most the resolver's time limit; a name that cannot be resolved
        has no endpoints for now. Raises ConfigError, and then nothing runs.
        """
        self._material = read_material(self._config, now=self._clock.wall())
        await self._admin.start()
        try:
            await self._resolver.resolve_all()
            self._publish_next(self._build())
        except BaseException:
            await self.stop()
            raise
        self._resolver.start()
        self._sweeper = spawn(self._sweep_slots(), name="sweep slots")

    async def stop(self) -> None:
        """Stop resolving and close the admin API. Idempotent. Call it when the workers have drained: until
        then the admin API says so."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await self._resolver.stop()
        await self._admin.stop()

    def _build(self) -> Snapshot:
        generation = self._snapshot.generation + 1 if self._snapshot else 1
        return build_snapshot(
            self._config,
            generation=generation,
            resolved=self._resolver.resolved,
            slots=self._slots,
            material=self._material,
        )

    def _publish_next(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._reaper.on_snapshot(snapshot, now=self._clock.monotonic())
        self._publish(snapshot)

    def _on_addresses(self) -> None:
        """Some name's addresses changed."""
        try:
            snapshot = self._build()
        except ConfigError as error:
            _log.error("the last addresses stay in use: %s", error)
            return
        assert self._snapshot is not None
        if snapshot.clusters != self._snapshot.clusters:
            self._publish_next(snapshot)

    async def _sweep_slots(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            applied = self._worker_report().applied_generation
            self._reaper.sweep(applied_generation=applied, now=self._clock.monotonic())

    def _view(self) -> DaemonView:
        uptime_s = self._clock.monotonic() - self._started_at
        return DaemonView(self._board, self._snapshot, self._worker_report(), os.getpid(), uptime_s)

    def _counters(self) -> list[CounterSource]:
        resolver = self._resolver
        return [
            CounterSource(
                "homeport_dns_lookups", "Lookups of endpoint names.", lambda: resolver.lookups_total
            ),
            CounterSource(
                "homeport_dns_failures",
                "Lookups that failed or took too long; the last addresses stay in use.",
                lambda: resolver.failures_total,
            ),
        ]


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
