"""Endpoints from containers: each that runs and carries a cluster's labels is one, for as long as it runs.

A container that is asked to end still answers for a while: it gets nothing new from that moment on (the engine tells 2
ms after the signal), so that whoever stops it, by hand or by a deployment, cuts no request. One that goes on running
all the same, `LINGER_S` after its grace, is put back. The engine's health check can only veto: it comes late (its first
run is `interval` after the start), so readiness is what Homeport's own checks say.
"""

import asyncio
import logging
import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace

from proxy.clock import Clock
from proxy.config.container_labels import labelled_endpoint
from proxy.config.endpoints import endpoint_spec
from proxy.controlplane.membership import Membership
from proxy.controlplane.source_report import SourceReport
from proxy.drivers.driver import (
    Changed,
    Died,
    Driver,
    EngineHealth,
    Instance,
    InstanceEvent,
    Listed,
    Lost,
    Removed,
    State,
    Stopping,
)
from proxy.snapshot import EndpointSpec
from proxy.tasks import spawn

_log = logging.getLogger("homeport")

DOCKER = "docker"

LINGER_S = 5.0
"""Seconds beyond its grace after which a container that was asked to end, and has not, gets requests again."""

# Of containers whose own is not known any more: the engine's default.
_GRACE_S = 10.0
_PAUSED = "it is paused"
_NO_ADDRESS = (
    "it is left out: no address of it can be reached, or its port is not known (label homeport.port)"
)
_VETO = "the engine's health check says so"


@dataclass(frozen=True, slots=True)
class _Leaving:
    """A container was asked to end."""

    why: str
    started_at: float | None
    """Which of its lives; `None` = whichever it is in."""


class DockerSource:
    """Tells `membership` which containers of `clusters` there are. What it said before, maybe by another process,
    holds until the engine answers."""

    def __init__(
        self,
        driver: Driver,
        clusters: Iterable[str],
        membership: Membership,
        report: SourceReport,
        clock: Clock,
        *,
        owner: str = "",
    ) -> None:
        """Of the containers of `owner` the scaler tells, which started them and knows when they serve."""
        self.driver = driver
        self.report = report
        self._clusters = frozenset(clusters)
        self._membership = membership
        self._clock = clock
        self._owner = owner
        self._instances: dict[str, Instance] = {}
        self._leaving: dict[str, _Leaving] = {}
        self._warned: set[tuple[str, str]] = set()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<DockerSource of {len(self._instances)} containers, {len(self._leaving)} leave>"

    def start(self) -> None:
        """Follow the engine from now on."""
        for spec in (each for cluster in self._clusters for each in self._membership.of(DOCKER, cluster)):
            if spec.leaving and spec.leaving != _PAUSED:
                self._leave(spec.instance, _Leaving(spec.leaving, None), _GRACE_S)
        self._task = spawn(self._follow(), name="discovery docker")

    def update(self, clusters: Iterable[str]) -> None:
        """Tell of these clusters from now on; the driver goes by other selectors now and lists everything again."""
        self._clusters = frozenset(clusters)
        self.report.begin()

    def stop(self) -> None:
        """Follow it no more. What was said holds."""
        if self._task is not None:
            self._task.cancel()
        self.report.end()

    async def _follow(self) -> None:
        async for event in self.driver.watch():
            self._on_event(event)

    def _on_event(self, event: InstanceEvent) -> None:
        match event:
            case Listed(instances):
                self._instances = {each.id: each for each in instances}
                self._forget(set(self._leaving) - self._instances.keys())
                self._warned = {each for each in self._warned if each[0] in self._instances}
                self._tell(self._clusters)
                self.report.answer()
            case Changed(instance):
                before = self._instances.get(instance.id, instance)
                self._instances[instance.id] = instance
                self._tell({before.cluster, instance.cluster})
            case Stopping(own, number, grace_s):
                known = self._instances.get(own)
                why = f"it was asked to end by {_signal_name(number)}"
                self._leave(own, _Leaving(why, known.started_at if known is not None else None), grace_s)
                self._tell_of(own)
            case Died(own) | Removed(own):
                self._forget({own})
                gone = self._instances.pop(own, None)
                if gone is not None:
                    self._tell({gone.cluster})
            case Lost(reason):
                self.report.failure(reason)

    # --- who leaves

    def _leave(self, own: str, leaving: _Leaving, grace_s: float) -> None:
        self._leaving[own] = leaving
        spawn(self._put_back(own, leaving, grace_s + LINGER_S), name=f"discovery docker: {own[:12]} leaves")

    async def _put_back(self, own: str, leaving: _Leaving, after_s: float) -> None:
        """Have a container get requests again that was asked to end and did not."""
        await self._clock.sleep(after_s)
        if self._leaving.get(own) is leaving:
            self._forget({own})
            self._tell_of(own)

    def _forget(self, gone: Iterable[str]) -> None:
        for own in gone:
            self._leaving.pop(own, None)

    # --- what is said

    def _tell_of(self, own: str) -> None:
        if (instance := self._instances.get(own)) is not None:
            self._tell({instance.cluster})

    def _tell(self, clusters: Iterable[str]) -> None:
        for cluster in self._clusters.intersection(clusters):
            found = (self._endpoint(each) for each in self._instances.values() if each.cluster == cluster)
            self._membership.put(DOCKER, cluster, [each for each in found if each is not None])

    def _endpoint(self, instance: Instance) -> EndpointSpec | None:
        """The endpoint that a container is; `None` when it is none."""
        if instance.state not in (State.RUNNING, State.PAUSED) or (
            instance.owner and instance.owner == self._owner
        ):
            return None
        if not instance.addresses:
            self._warn(instance, _NO_ADDRESS)
            return None
        address = instance.addresses[0]
        endpoint, faults = labelled_endpoint(address, dict(instance.labels))
        for fault in faults:
            self._warn(instance, fault)
        spec = endpoint_spec(instance.cluster, endpoint, address, instance=instance.id, name=instance.name)
        veto = _VETO if instance.health is EngineHealth.UNHEALTHY else ""
        return replace(spec, leaving=self._why_leaving(instance), veto=veto)

    def _why_leaving(self, instance: Instance) -> str:
        if instance.state is State.PAUSED:
            return _PAUSED
        leaving = self._leaving.get(instance.id)
        if leaving is None or leaving.started_at not in (None, instance.started_at):
            return ""
        return leaving.why

    def _warn(self, instance: Instance, problem: str) -> None:
        if (instance.id, problem) not in self._warned:
            self._warned.add((instance.id, problem))
            _log.warning("container %s of cluster %s: %s", instance.name, instance.cluster, problem)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
