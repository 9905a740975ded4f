"""The control side of a daemon as a whole: configuration, resolved names and what was found to snapshots, and the admin
API.

Nothing here is on the request path. Workers serve from the last snapshot whatever happens to control: it may crash,
hang or be replaced, and the one that comes next begins with what the last one published.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxy.admin.api import AdminServer
from proxy.clock import Clock
from proxy.config.diff import describe_changes
from proxy.config.faults import Fault, InvalidConfig
from proxy.config.load import ConfigFile, locate
from proxy.config.material import NO_MATERIAL, TlsMaterial, served_material
from proxy.config.schema import Config
from proxy.controlplane.cores import auto_workers
from proxy.controlplane.counts import SourceCounts
from proxy.controlplane.discovery import Discovery
from proxy.controlplane.drains import DrainReport, Drains, check_listener, find_endpoints
from proxy.controlplane.engine_access import EngineAccess
from proxy.controlplane.events import EventLog, EventType
from proxy.controlplane.explaining import Explainer, Question
from proxy.controlplane.membership import Membership, tell_of_membership
from proxy.controlplane.parent_link import ParentGone, Publisher
from proxy.controlplane.reloading import ReloadOutcome, ReloadReport, Reloads, Trigger
from proxy.controlplane.residency import Residencies
from proxy.controlplane.resilience import Resilience
from proxy.controlplane.resolver import Lookup, SystemLookup
from proxy.controlplane.scaling import Scaling
from proxy.controlplane.slots import SlotReaper, held_slots
from proxy.controlplane.sources import Sources, known_addresses
from proxy.controlplane.startup import HEARTBEAT_S, beat
from proxy.errors import ConfigError
from proxy.mailbox import Channel, Posts
from proxy.model import Address, TcpAddress
from proxy.scoreboard import (
    C_CLUSTER_SLOTS,
    C_ENDPOINT_SLOTS,
    P_GENERATION,
    Scoreboard,
)
from proxy.snapshot import Snapshot
from proxy.snapshot_codec import Legacy
from proxy.tasks import spawn
from proxy.telemetry.metrics import MetricsPage
from proxy.telemetry.processes import worker_report
from proxy.telemetry.status import DaemonView

_log = logging.getLogger("homeport")

SWEEP_S = 10.0
"""Seconds between two looks for scoreboard rows to release; short against the time they are kept."""

APPLY_S = 5.0
"""Seconds a reload waits for the workers to serve what it published."""

APPLY_LOOK_S = 0.02
"""Seconds between two looks whether they do."""


class Control:
    """Runs the control side of one daemon. `previous` is the snapshot that is served already, by whoever was control
    before, and `legacy` what goes on from it, also when it cannot be read; `workers` overrides the configuration's
    number; what workers report comes to `mailbox`, if there is one, and `posts` are theirs; `faults` are those for
    which the file is not served, but what was before."""

    def __init__(
        self,
        config: Config,
        source: bytes,
        file: ConfigFile,
        board: Scoreboard,
        publisher: Publisher,
        *,
        workers: int | None,
        clock: Clock,
        rng: random.Random,
        previous: Snapshot | None = None,
        legacy: Legacy | None = None,
        mailbox: Channel | None = None,
        posts: Posts | None = None,
        lookup: Lookup | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        self._config = config
        self._source = source
        self._file = file
        self._board = board
        self._publisher = publisher
        self._workers = workers
        self._clock = clock
        self._rng = rng
        self._lookup = lookup = lookup or SystemLookup()
        self._snapshot = previous
        self._addresses: tuple[Address, ...] = ()
        self._sources: Sources | None = None
        legacy = legacy or Legacy()
        self._known_addresses = known_addresses(legacy)
        self._slots = held_slots(legacy, board)
        self._reaper = SlotReaper(self._slots, board)
        self._counts = SourceCounts(board)
        self.events = EventLog(clock)
        """What happened to endpoints, listeners and the configuration."""
        self._reloads = Reloads(board, self.events, clock, faults)
        posts = posts or Posts(())
        self._explainer = Explainer(board, posts)
        self.residencies = Residencies(board, posts, clock=clock, rng=rng)
        """Who holds which data, and what would be lost with it."""
        takers = {**self.residencies.takers, "explained": self._explainer.take}
        self._resilience = Resilience(
            board, self.events, clock=clock, rng=rng, known=legacy.endpoints, mailbox=mailbox, takers=takers
        )
        self._membership = Membership(self._on_membership, previous)
        """What was found besides the configuration."""
        self._engine = EngineAccess(clock)
        self._discovery = Discovery(
            self._membership, self._engine, board, self.events, clock=clock, rng=rng, lookup=lookup
        )
        self._scaling = self._new_scaling()
        self._drains = Drains(frozenset(legacy.drained_listeners), tuple(legacy.drained_endpoints))
        self._metrics = MetricsPage(board, lambda: self._snapshot, clock)
        self._admin = self._new_admin(config)
        self._leaving: asyncio.Task[None] | None = None
        """The end of the admin API on its address before a reload."""
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._publishing = asyncio.Lock()
        """Held while the parent answers; what takes longer comes before or after."""
        self.is_useless = asyncio.Event()
        """What it would publish reaches nobody: it should end."""

    def _new_scaling(self) -> Scaling:
        return Scaling(
            self._board,
            self.events,
            self._membership,
            lambda: self._engine.driver,
            self._resilience.standings,
            self.residencies,
            lambda: self._snapshot,
            clock=self._clock,
            rng=self._rng,
        )

    def __repr__(self) -> str:
        return f"Control({self._file!r}, generation {self._snapshot.generation if self._snapshot else 0})"

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

        Takes as long as the slowest name without an address, at most the resolver's time limit; a name that cannot be
        resolved has no endpoints for now. Raises ConfigError, and then nothing runs.
        """
        self._tasks = [spawn(self._beat(), name="heartbeat")]
        try:
            served = self._snapshot
            if served is not None:
                # Before whatever takes time: workers leave their circuits to a control whose heart beats.
                self._go_by(self._config, served)
            sources = await self._new_sources(self._config, self._known_addresses, served_material(served))
            await self._admin.start()
            await self._discovery.update(self._config)
            await asyncio.gather(sources.resolver.resolve_missing(), self._discovery.first_answers())
            self._sources = sources
            self._counts.show(sources)
            await self._publish(sources, self._config, self._source)
        except BaseException:
            await self.stop()
            raise
        sources.start()
        self._tasks.append(spawn(self._sweep_slots(), name="sweep slots"))
        self._tasks.append(spawn(self._republish(), name="republish"))
        self._scaling.update(self._config)

    async def stop(self) -> None:
        """Stop resolving and close the admin API. Idempotent. Call it when the workers have drained: until
        then the admin API says so."""
        # With a heart that beats: processes take their time to end.
        await self._scaling.stop()
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._resilience.stop()
        self.residencies.stop()
        self._discovery.stop()
        await self._engine.close()
        if self._sources is not None:
            await self._sources.stop()
        if self._leaving is not None:
            await self._leaving
        await self._admin.stop()

    # ------------------------------------------------------------------ publishing

    async def _new_sources(
        self,
        config: Config,
        known: Mapping[str, tuple[TcpAddress, ...]],
        last_good: TlsMaterial = NO_MATERIAL,
    ) -> Sources:
        # In a thread: the loop must go on beating while certificates are read.
        return await asyncio.to_thread(
            Sources,
            config,
            self._changed.set,
            clock=self._clock,
            rng=self._rng,
            lookup=self._lookup,
            known=known,
            last_good=last_good,
        )

    async def _publish(self, sources: Sources, config: Config, source: bytes) -> None:
        """Have what `sources` come to served. Raises `ConfigError`, and then the last snapshot is served on."""
        # The parent knows of generations that a control of another version cannot read.
        last = self._snapshot.generation if self._snapshot is not None else 0
        generation = max(last, self._board.parent_row[P_GENERATION]) + 1
        snapshot = self._build(sources, generation)
        if self._slots.endpoints.is_full:
            _log.warning("there is no room for more endpoints: some that were found may be left out")
        row = self._board.control_row
        row[C_ENDPOINT_SLOTS] = max(row[C_ENDPOINT_SLOTS], self._slots.endpoints.high_water)
        row[C_CLUSTER_SLOTS] = max(row[C_CLUSTER_SLOTS], self._slots.clusters.high_water)
        self._resilience.announce(config, snapshot)
        workers = self._workers or config.workers or auto_workers()
        try:
            self._addresses = await self._publisher.publish(snapshot, workers, source)
        except ParentGone as error:
            _log.error("the parent does not answer, another control may fare better: %s", error)
            self.is_useless.set()
            raise
        tell_of_membership(self.events, self._snapshot, snapshot)
        self._go_by(config, snapshot)

    def _go_by(self, config: Config, snapshot: Snapshot) -> None:
        """Watch over what is served, `snapshot`, as `config` says."""
        self._snapshot = snapshot
        self._drains = replace(self._drains, listeners=frozenset(snapshot.drained_listeners))
        self.residencies.update(snapshot)
        self._resilience.update(config, snapshot)
        self._resilience.set_leaving(self._departures())
        self._reaper.on_snapshot(snapshot, now=self._clock.monotonic())

    def _build(self, sources: Sources, generation: int) -> Snapshot:
        snapshot = sources.build(generation, self._slots, self._membership.found, self._membership.awaited)
        return self._drains.apply_to(snapshot)

    def _departures(self) -> dict[str, str]:
        return self._membership.departures(member.spec for member in self._resilience.standings)

    def _on_membership(self) -> None:
        """Workers know at once who gets nothing new; the rest comes with the next snapshot."""
        self._resilience.set_leaving(self._departures())
        self._changed.set()

    async def _republish(self) -> None:
        """Publish what addresses and certificates come to when they change."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            async with self._publishing:
                sources, served = self._sources, self._snapshot
                assert sources is not None and served is not None
                try:
                    if self._build(sources, served.generation) != served:
                        await self._publish(sources, self._config, self._source)
                except ConfigError as error:
                    _log.error("the last snapshot stays in use: %s", error)
                except ParentGone:
                    return

    # ------------------------------------------------------------------ reload

    async def reload_if_new(self) -> None:
        """Reload when the file's bytes are not those that were read last."""
        if await asyncio.to_thread(self._file.is_new):
            await self.reload(Trigger.FILE)

    async def reload(self, trigger: Trigger = Trigger.REQUEST) -> ReloadReport:
        """Serve what the file says now; with any fault in it, everything stays as it is."""
        async with self._reloading:
            try:
                # In a thread: the loop must go on beating while a large file is read.
                source, config = await asyncio.to_thread(self._file.read)
                report = await self._adopt(config, source)
            except InvalidConfig as error:
                report = self._report(ReloadOutcome.REFUSED, faults=error.faults)
            except ConfigError as error:
                fault = locate(error, source, str(self._file.path))
                report = self._report(ReloadOutcome.REFUSED, faults=(fault,))
        return self._reloads.tell(report, trigger)

    def _notes(self, config: Config) -> dict[str, str]:
        """What is to be said of keys, if `config` has others than are served."""
        if self._workers:
            return {"workers": f"without effect beside --workers {self._workers}"}
        if (config.workers or auto_workers()) < (self._config.workers or auto_workers()):
            return {"workers": "what those too many have left after drain_timeout is cut, WebSockets too"}
        return {}

    async def _adopt(self, config: Config, source: bytes) -> ReloadReport:
        """Serve `config`. Raises `ConfigError`, and then nothing has changed."""
        old_sources, old_admin = self._sources, self._admin
        assert old_sources is not None and self._snapshot is not None
        if config == self._config:
            self._source = source
            return self._report(ReloadOutcome.UNCHANGED)
        changes = tuple(describe_changes(self._config, config, self._notes(config)))
        sources = await self._new_sources(config, old_sources.resolver.resolved)
        admin = self._new_admin(config) if config.admin.bind != self._config.admin.bind else old_admin
        try:
            if admin is not old_admin:
                await admin.start()
            await self._discovery.update(config)
            await asyncio.gather(sources.resolver.resolve_missing(), self._discovery.first_answers())
            async with self._publishing:
                sources.resolver.take_over(old_sources.resolver.resolved)
                await self._publish(sources, config, source)
                self._config, self._source = config, source
                self._sources, self._admin = sources, admin
        except BaseException:
            await sources.stop()
            await self._discovery.update(self._config)
            if admin is not old_admin:
                await admin.stop()
            # Slots that were taken for it are given back in time.
            self._reaper.on_snapshot(self._snapshot, now=self._clock.monotonic())
            raise
        self._membership.keep(cluster.name for cluster in config.clusters)
        self._scaling.update(config)
        self._counts.keep(old_sources)
        sources.start()
        await old_sources.stop()
        self._counts.show(sources)
        admin.set_token(config.admin.token)
        if admin is not old_admin:
            # Whoever asked for the reload there still waits for the answer.
            self._leaving = spawn(old_admin.stop(), name="stop old admin API")
        outcome = ReloadOutcome.APPLIED if await self._is_applied() else ReloadOutcome.PENDING
        return self._report(outcome, changes)

    async def _is_applied(self) -> bool:
        """Wait until every worker serves the last snapshot; false when that takes longer than `APPLY_S`."""
        assert self._snapshot is not None
        until = self._clock.monotonic() + APPLY_S
        while worker_report(self._board).applied_generation < self._snapshot.generation:
            if self._clock.monotonic() >= until:
                return False
            await self._clock.sleep(APPLY_LOOK_S)
        return True

    def _report(
        self, outcome: ReloadOutcome, changes: tuple[str, ...] = (), faults: tuple[Fault, ...] = ()
    ) -> ReloadReport:
        assert self._snapshot is not None
        return ReloadReport(outcome, self._snapshot.generation, changes, faults)

    # ------------------------------------------------------------------ drains

    def set_drained(self, name: str, is_drained: bool) -> DrainReport:
        """Have the endpoints called `name` get nothing new, or end that; kept over reloads and restarts of control, and
        while they are away. Raises `UnknownTarget`."""
        standings, drains = self._resilience.standings, self._drains
        members = find_endpoints(standings, name, away=() if is_drained else drains.endpoints)
        self._drains = drains.with_endpoints(name, members, standings, is_drained)
        changed = self._resilience.set_drained(members, is_drained)
        self._changed.set()  # for the next control
        targets, news = (tuple(member.spec.id for member in each) for each in (members, changed))
        return DrainReport(targets or (name,), news, is_drained)

    async def set_listener_drained(self, name: str, is_drained: bool) -> DrainReport:
        """Close the listener called `name` to new connections, or open it again; kept like the drain of an endpoint.
        Raises `UnknownTarget`, and `ConfigError` when its address cannot be bound."""
        async with self._publishing:
            served, sources, before = self._snapshot, self._sources, self._drains.listeners
            assert served is not None and sources is not None
            check_listener([*(spec.name for spec in served.listeners), *served.drained_listeners], name)
            if (name in before) is is_drained:
                return DrainReport((name,), (), is_drained)
            drained = before | {name} if is_drained else before - {name}
            self._drains = replace(self._drains, listeners=drained)
            try:
                await self._publish(sources, self._config, self._source)
            except BaseException:
                self._drains = replace(self._drains, listeners=before)
                raise
        kind = EventType.DRAINED if is_drained else EventType.UNDRAINED
        self.events.tell(kind, f"listener {name}", "by an operator")
        return DrainReport((name,), (name,), is_drained, is_pending=not await self._is_applied())

    def scale(self, name: str, count: int | None) -> dict[str, Any]:
        """Have `count` instances of a cluster, `None` = as many as its load asks for; kept over reloads and restarts of
        control. Raises `UnknownTarget`."""
        return self._scaling.scale(name, count)

    def retry_deploy(self, name: str) -> dict[str, Any]:
        """Try the deployment of a cluster again that was called off. Raises `UnknownTarget`."""
        return self._scaling.retry_deploy(name)

    async def explain(self, question: Question) -> dict[str, Any]:
        """Where such a request would go, and why. Raises `UnknownTarget`, `BadQuestion` and `NoAnswer`."""
        return await self._explainer.explain(self._view(), question)

    # ------------------------------------------------------------------ upkeep

    async def _sweep_slots(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            applied = worker_report(self._board).applied_generation
            now = self._clock.monotonic()
            self._reaper.sweep(applied_generation=applied, now=now)
            self._membership.sweep(now=now)

    async def _beat(self) -> None:
        """Show the parent that control is alive, and keep its own counts where the next control finds them."""
        while True:
            beat(self._board, self._clock)
            self._discovery.show()
            if self._sources is not None:
                self._counts.show(self._sources)
            await self._clock.sleep(HEARTBEAT_S)

    def _new_admin(self, config: Config) -> AdminServer:
        return AdminServer(config.admin.bind, config.admin.token, self._view, self._metrics, self)

    def _view(self) -> DaemonView:
        report = worker_report(self._board, self.addresses)
        return DaemonView(
            self._board,
            self._snapshot,
            report,
            self._clock.monotonic(),
            self._resilience.reasons(),
            self._scaling.documents(),
            self._reloads.last,
            self._discovery.documents(),
            self._sources.certificates.documents() if self._sources is not None else (),
        )
