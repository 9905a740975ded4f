"""The scaler: keeps the clusters that have one at the size that their load asks for.

Here decisions meet the engine. `scaled_cluster` says how many instances there should be, `instances` what is to be done
for that; drivers do it, each order in a task of its own, so an engine that takes its time over one holds up no other.
What an engine tells of instances is passed on as it comes. While it tells nothing, nothing is ordered and nobody loses
an endpoint: instances serve without it.

Nothing here waits in between: a look at everything is a plain function, done every `LOOK_S` and after each event.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import partial
from math import inf
from random import Random
from typing import Any

from proxy.clock import Clock
from proxy.config.endpoints import SCALER
from proxy.config.scaling import scaling_params
from proxy.config.schema import Cluster, Config
from proxy.controlplane.drains import UnknownTarget
from proxy.controlplane.engines import Engines
from proxy.controlplane.events import EventLog, EventType
from proxy.controlplane.instance_checks import InstanceChecks
from proxy.controlplane.instance_life import Action, Probe, Remove, Start, Stop, Surroundings
from proxy.controlplane.membership import Membership
from proxy.controlplane.residency import Residencies
from proxy.controlplane.scaled_cluster import ScaledCluster
from proxy.controlplane.standings import Standings
from proxy.drivers.driver import Driver, InstanceEvent, Listed, Order
from proxy.errors import EngineError, EngineUnavailable
from proxy.policy.health import HealthState
from proxy.policy.retiring import CostOfLosing
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec, Snapshot
from proxy.tasks import spawn

_log = logging.getLogger(__name__)

LOOK_S = 0.2
"""Seconds between two looks at everything."""

COMPLAIN_S = 60.0
"""Seconds between two tracebacks in the log."""

LOG_LINES = 20
"""Lines from the end of a log that an event tells."""


class Scaling:
    """All scalers of one daemon. `docker` is the driver of the engine, if there is one, `snapshot` what is served."""

    def __init__(
        self,
        board: Scoreboard,
        events: EventLog,
        membership: Membership,
        docker: Callable[[], Driver | None],
        standings: Standings,
        residencies: Residencies,
        snapshot: Callable[[], Snapshot | None],
        *,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._board = board
        self._events = events
        self._membership = membership
        self._engines = Engines(docker, self._on_event, events, clock)
        self._standings = standings
        self._residencies = residencies
        self._snapshot = snapshot
        self._clock = clock
        self._rng = rng
        self._clusters: dict[tuple[str, str], ScaledCluster] = {}
        """By name and driver."""
        self._checks = InstanceChecks()
        self._task: asyncio.Task[None] | None = None
        self._is_awake = False
        self._complain_at = -inf

    def __repr__(self) -> str:
        return f"Scaling({[*self._clusters.values()]})"

    def update(self, config: Config) -> None:
        """`config` is served from now on."""
        closing = {key for key, one in self._clusters.items() if one.is_closing}
        for one in self._clusters.values():
            one.is_closing = True
        for cluster in config.clusters:
            if cluster.scaler is not None:
                self._update_cluster(cluster, config)
        for key, one in self._clusters.items():
            if one.is_closing and key not in closing:
                text = "nobody scales it any more, and its instances go"
                self._events.tell(EventType.SCALED, f"cluster {one.name}", text)
        for kind, spec in {one.driver: one.instance_spec for one in self._clusters.values()}.items():
            self._engines.use(kind, spec, config.docker.owner)
        if self._task is None and self._clusters:
            self._task = spawn(self._run(), name="scaler")

    async def stop(self) -> None:
        """Order nothing more. Containers go on, processes end. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        await self._engines.stop()

    def scale(self, name: str, count: int | None) -> dict[str, Any]:
        """Have `count` instances of the cluster called `name`, within its limits; `None` = as many as its load asks
        for. Raises `UnknownTarget` when there is no such cluster, or it has no scaler."""
        one = self._find(name)
        one.pin(count, taken=self._taken(one), now=self._clock.monotonic())
        self._look_at(one)
        return one.document()

    def retry_deploy(self, name: str) -> dict[str, Any]:
        """Try a deployment again that was called off. Raises `UnknownTarget`."""
        one = self._find(name)
        one.retry_deploy()
        self._look_at(one)
        return one.document()

    def documents(self) -> Mapping[str, dict[str, Any]]:
        """What there is to say of each cluster that has a scaler, by name."""
        return {one.name: one.document() for one in self._clusters.values() if not one.is_closing}

    def _find(self, name: str) -> ScaledCluster:
        for one in self._clusters.values():
            if one.name == name and not one.is_closing:
                return one
        snapshot = self._snapshot()
        names = [spec.name for spec in snapshot.clusters] if snapshot is not None else []
        if name in names:
            raise UnknownTarget(f"cluster {name!r} has no scaler")
        raise UnknownTarget(f"there is no cluster {name!r}", get_close_matches(name, names, n=1), names)

    def _update_cluster(self, cluster: Cluster, config: Config) -> None:
        spec, section = self._spec(cluster.name), cluster.scaler
        assert spec is not None and section is not None
        params = scaling_params(section, config.host_budget)
        key = cluster.name, section.driver
        if (known := self._clusters.get(key)) is not None:
            known.change(cluster, params, config.docker.owner)
            return
        said = self._membership.of(SCALER, cluster.name)
        self._clusters[key] = ScaledCluster(
            cluster,
            params,
            spec,
            owner=config.docker.owner,
            board=self._board,
            events=self._events,
            rng=self._rng,
            known=frozenset(each.instance for each in said if not each.leaving),
        )

    def _spec(self, name: str) -> ClusterSpec | None:
        snapshot = self._snapshot()
        clusters = snapshot.clusters if snapshot is not None else ()
        return next((spec for spec in clusters if spec.name == name), None)

    # ------------------------------------------------------------------ looks

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            self._look()

    def _wake(self) -> None:
        """Look at everything soon."""
        if not self._is_awake:
            self._is_awake = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._is_awake = False
        for key, one in [*self._clusters.items()]:
            self._guarded(one, partial(self._look_at, one))
            if one.is_closing and one.fleet.is_known and not one.fleet.total:
                del self._clusters[key]
                if one.name not in [other.name for other in self._clusters.values()]:
                    one.forget()
                    self._membership.put(SCALER, one.name, ())

    def _guarded(self, one: ScaledCluster, call: Callable[[], None]) -> None:
        """One cluster's trouble is not the others', and is told once in a while."""
        try:
            call()
        except Exception:
            now = self._clock.monotonic()
            if now >= self._complain_at:
                self._complain_at = now + COMPLAIN_S
                _log.exception("the scaler of cluster %s failed", one.name)

    def _look_at(self, one: ScaledCluster) -> None:
        one.spec = self._spec(one.name) or one.spec
        engine, taken = self._engines.get(one.driver), self._taken(one)
        if engine is None:
            return
        around = self._surroundings(one, taken, may_act=engine.may_act and not one.section.dry_run)
        for action in one.step(engine.usages, taken, around, now=self._clock.monotonic()):
            spawn(self._carry_out(one, engine.driver, action), name=f"{type(action).__name__} for {one.name}")
        self._publish(one)
        engine.look_at(one.name, [life.instance for life in one.fleet.members()])

    def _surroundings(self, one: ScaledCluster, taken: tuple[float, int], *, may_act: bool) -> Surroundings:
        return Surroundings(
            in_flight=one.in_flight(),
            down=self._down(one),
            room=one.params.budget.room(*taken),
            may_act=may_act,
            request_s=one.request_s,
            cost_of_losing=self._cost_of_losing(one),
            answers=one.answers(),
        )

    def _down(self, one: ScaledCluster) -> Collection[str]:
        """Ids of instances whose health checks fail."""
        found = set()
        for spec in one.spec.endpoints:
            member = self._standings.get(spec.id)
            if spec.instance and member is not None and member.health is HealthState.UNHEALTHY:
                found.add(spec.instance)
        return found

    def _cost_of_losing(self, one: ScaledCluster) -> CostOfLosing:
        slots = one.slots

        def cost(instance_id: str, staying: Collection[str]) -> float:
            if instance_id not in slots:
                return 0.0
            others = {slots[own] for own in staying if own in slots}
            return self._residencies.cost_of_losing(slots[instance_id], others)

        return cost

    def _taken(self, one: ScaledCluster) -> tuple[float, int]:
        """Cores and bytes of memory that the other clusters claim."""
        claims = [other.claims for other in self._clusters.values() if other is not one]
        return sum(cpus for cpus, _ in claims), sum(memory for _, memory in claims)

    def _publish(self, one: ScaledCluster) -> None:
        """Say which instances the cluster has. Before the engine has said so, those of before stay."""
        if one.fleet.is_known and not one.is_closing:
            self._membership.put(SCALER, one.name, one.endpoints())

    # ------------------------------------------------------------------ the engine

    def _on_event(self, kind: str, event: InstanceEvent) -> None:
        """The engine of the drivers called `kind` tells something."""
        for one in self._clusters.values():
            if one.driver == kind:
                self._guarded(one, partial(self._take, one, event))
        self._wake()

    def _take(self, one: ScaledCluster, event: InstanceEvent) -> None:
        now = self._clock.monotonic()
        if isinstance(event, Listed) and one.is_closing:
            # The engine is not asked for its instances any more: they go, but are in no list.
            for instance in event.instances:
                one.fleet.on_changed(instance, now=now)
        else:
            one.fleet.on_event(event, now=now)
        # At once: who died must get nothing more.
        self._publish(one)

    async def _carry_out(self, one: ScaledCluster, driver: Driver, action: Action) -> None:
        if isinstance(action, Start):
            await self._start(one, driver, action)
        elif isinstance(action, Probe):
            instance = one.fleet.get(action.id)
            failure = "it is gone"
            if instance is not None:
                failure = await self._checks.run(one.config, one.spec.tls, instance)
            one.fleet.on_probe(action.id, failure, now=self._clock.monotonic())
        else:
            failure = await self._end(driver, action)
            one.fleet.on_done(action, failure, now=self._clock.monotonic())
        self._wake()

    async def _start(self, one: ScaledCluster, driver: Driver, action: Start) -> None:
        fleet, instance, failure, is_unknown = one.fleet, None, "", False
        try:
            instance = await driver.start(Order(one.name, action.name, action.spec))
        except EngineError as error:
            failure, is_unknown = str(error), isinstance(error, EngineUnavailable)
        fleet.on_order(action.name, instance, failure, is_unknown=is_unknown, now=self._clock.monotonic())

    async def _end(self, driver: Driver, action: Stop | Remove) -> str:
        """Returns why it failed, empty if it did not."""
        try:
            if isinstance(action, Stop):
                await driver.stop(action.id)
            else:
                await self._tell_obituary(driver, action)
                await driver.remove(action.id)
        except EngineError as error:
            _log.warning("%s", error)
            return str(error)
        return ""

    async def _tell_obituary(self, driver: Driver, action: Remove) -> None:
        told = action.obituary
        if told is None:
            return
        try:
            tail = await driver.log_tail(action.id, LOG_LINES)
        except EngineError as error:
            tail = f"(not to be had: {error})"
        printed = f"the end of its log:\n{tail}" if tail else "it printed nothing"
        self._events.tell(told.kind, told.name, f"{told.text}; {printed}")
