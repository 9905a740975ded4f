"""One cluster whose size Homeport decides: its samples, what follows from them, and what the next control goes on from.

What was decided is kept in the cluster's row of the scoreboard, like an operator's drains: a control that comes after
this one begins with the size that there should be, and with what somebody set by hand. So are the counts, which must
not begin anew with it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import inf
from random import Random
from typing import Any

from proxy.config.container import instance_spec
from proxy.config.container_labels import labelled_endpoint
from proxy.config.endpoints import endpoint_spec
from proxy.config.scaler_schema import Scaler as ScalerSection
from proxy.config.schema import Cluster, Endpoint
from proxy.controlplane.events import EventLog, EventType
from proxy.controlplane.instance_life import Action, FleetParams, Life, Phase, Start, Surroundings
from proxy.controlplane.instances import Fleet
from proxy.controlplane.load import LoadMeter
from proxy.drivers.driver import Usage
from proxy.drivers.spec import InstanceSpec, Pairs
from proxy.model import TcpAddress
from proxy.policy.deploying import Answers, DeployParams, Stage
from proxy.policy.replacing import ReplacementParams
from proxy.policy.scaling import Decision, Hold, Scaler
from proxy.policy.scaling_params import ScalingParams
from proxy.policy.wishes import Load, Sample
from proxy.scoreboard import (
    Z_COLD_STARTS,
    Z_GOING,
    Z_GROWN,
    Z_HALTED,
    Z_INSTANCE_MS,
    Z_PINNED,
    Z_SERVING,
    Z_SHRUNK,
    Z_STARTING,
    Z_STARTS,
    Z_STARTS_FAILED,
    Z_TARGET,
    Z_WAITED,
    Scoreboard,
)
from proxy.snapshot import ClusterSpec, EndpointSpec

DECIDE_S = 0.5
"""Seconds between two decisions: the shortest window that may be configured is 1 s."""


def fleet_params(cluster: Cluster) -> FleetParams:
    """What instances of `cluster`, which has a scaler, are, and how patient it is with them."""
    scaler, spec = cluster.scaler, instance_spec(cluster)
    assert scaler is not None and spec is not None
    return FleetParams(
        spec=spec,
        start_timeout_s=scaler.start_timeout,
        drain_timeout_s=scaler.drain_timeout,
        deploy=DeployParams(
            max_surge=scaler.deploy.max_surge,
            max_unavailable=scaler.deploy.max_unavailable,
            bake_s=scaler.deploy.bake,
        ),
        replacement=ReplacementParams(restart_grace_s=scaler.restart_grace, max_restarts=scaler.max_restarts),
    )


class ScaledCluster:
    """See above. `spec` is the cluster in the snapshot, `known` the ids of instances that served before this control
    began."""

    def __init__(
        self,
        config: Cluster,
        params: ScalingParams,
        spec: ClusterSpec,
        *,
        owner: str,
        board: Scoreboard,
        events: EventLog,
        rng: Random,
        known: Collection[str],
    ) -> None:
        assert config.scaler is not None
        self.config = config
        self.section: ScalerSection = config.scaler
        self.params = params
        self.spec = spec
        self.is_closing = False
        """Nobody wants it any more: its instances go."""
        self._board = board
        self._events = events
        self.row = board.scaling_row(spec.slot)
        self.fleet = Fleet(
            config.name,
            owner,
            fleet_params(config),
            rng=rng,
            tell=events.tell,
            known=known,
            halted=self._halted_before(config),
        )
        decided, pinned = self.row[Z_TARGET], self.row[Z_PINNED]
        self.scaler = Scaler(params, decided - 1 if decided else None)
        self.pinned = pinned - 1 if pinned else None
        self.scaler.pin(self.pinned)
        self.reason = "nothing is decided yet"
        """Of the last decision, or of holding, in words."""
        self._meter = LoadMeter(board)
        self._counted = {Z_STARTS: 0, Z_STARTS_FAILED: 0}
        self._decide_at = self._stepped_at = -inf
        self._is_cold = False
        self._slots: dict[str, int] = {}
        """Row of each instance's endpoint, for as long as it exists."""

    def __repr__(self) -> str:
        return f"ScaledCluster({self.fleet!r}, {self.scaler!r})"

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def driver(self) -> str:
        """`docker` or `process`."""
        return self.section.driver

    @property
    def instance_spec(self) -> InstanceSpec:
        """What its instances are made from."""
        return self.fleet.deployment.spec

    @property
    def claims(self) -> tuple[float, int]:
        """Cores and bytes of memory of the host that its instances claim, those that are only promised included."""
        count = 0 if self.section.dry_run else max(self.fleet.total, self.desired)
        return count * self.params.budget.instance_cpus, count * self.params.budget.instance_memory_bytes

    @property
    def desired(self) -> int:
        """Instances there should be."""
        return 0 if self.is_closing else self.scaler.target

    def change(self, config: Cluster, params: ScalingParams, owner: str) -> None:
        """Go by another configuration."""
        assert config.scaler is not None
        self.config, self.section, self.params, self.is_closing = config, config.scaler, params, False
        self.fleet.change(fleet_params(config), owner)
        self.scaler.change(params)

    def retry_deploy(self) -> None:
        """Somebody wants a deployment that was called off to be tried again."""
        self.fleet.deployment.retry()

    def forget(self) -> None:
        """Nothing of what was decided or counted is kept."""
        self.row[:] = memoryview(bytes(len(self.row) * 8)).cast("q")

    def pin(self, count: int | None, *, taken: tuple[float, int], now: float) -> None:
        """Somebody says how many there should be, `None` = the load decides again; at once, within the limits."""
        self.pinned = count
        self.scaler.pin(count)
        self.row[Z_PINNED] = 0 if count is None else count + 1
        self._decide(self._sample(None, {}, taken), "the load decides again" if count is None else "", now)

    # --- what follows from a look

    def step(
        self,
        usages: Mapping[str, Usage] | None,
        taken: tuple[float, int],
        around: Surroundings,
        *,
        now: float,
    ) -> list[Action]:
        """What is to be done now. `usages` are what the engine says of instances, `taken` what other clusters claim of
        the host."""
        self._note_slots()
        self._count(now)
        if self.fleet.is_known and not self.is_closing and self._is_due(now):
            self._decide_at = now + DECIDE_S
            load = self._meter.sample(self.spec, self._carriers(), self.section.slots, now=now)
            queued = self._meter.newly_queued(self.spec)
            if not self.fleet.serving:
                self.row[Z_WAITED] += queued
            self._decide(self._sample(load, usages, taken), "", now)
        for took_s in self.fleet.started:
            self.scaler.on_started(took_s)
        self.fleet.started.clear()
        actions = self.fleet.step(self.desired, around, now=now)
        self._note_cold_start(actions)
        is_halted = self.fleet.deployment.rollout.stage is Stage.HALTED
        self.row[Z_HALTED] = _word(self.fleet.deployment.version) if is_halted else 0
        return actions

    def in_flight(self) -> dict[str, int]:
        """Requests and tunnels at each instance, by id."""
        return self._meter.in_flight(self._slots)

    @property
    def slots(self) -> Mapping[str, int]:
        """Row of each instance's endpoint, by id, as far as it has or had one."""
        return self._slots

    @property
    def request_s(self) -> float:
        """Seconds of work of a request."""
        return self._meter.request_s

    def answers(self) -> dict[str, Answers]:
        """What requests to each instance came to, by id; only while a deployment compares them."""
        is_compared = self.fleet.deployment.rollout.is_under_way
        return self._meter.answers(self._slots) if is_compared else {}

    def _halted_before(self, config: Cluster) -> str:
        """Why the deployment of what `config` says was called off before this control began, if it was."""
        is_same = self.row[Z_HALTED] == _word(fleet_params(config).spec.digest())
        return "it was called off before control restarted" if is_same else ""

    def _note_slots(self) -> None:
        rows = {spec.instance: spec.slot for spec in self.spec.endpoints if spec.instance}
        there = [life.instance.id for life in self.fleet.lives]
        self._slots = {own: rows.get(own, self._slots.get(own, -1)) for own in there}
        self._slots = {own: slot for own, slot in self._slots.items() if slot >= 0}

    def _is_due(self, now: float) -> bool:
        """At rest the first request asks at once."""
        return now >= self._decide_at or (not self.scaler.target and self._meter.is_waiting(self.spec))

    def _carriers(self) -> Sequence[EndpointSpec]:
        """Endpoints whose load is that of instances. In a dry run all of them are taken for instances."""
        if self.section.dry_run:
            return self.spec.endpoints
        serving = {life.instance.id for life in self.fleet.lives if life.phase is Phase.SERVING}
        return [spec for spec in self.spec.endpoints if spec.instance in serving]

    def _sample(
        self, load: Load | None, usages: Mapping[str, Usage] | None, taken: tuple[float, int]
    ) -> Sample:
        fleet = self.fleet
        known = (
            None
            if usages is None
            else [
                usages.get(life.instance.id)
                for life in fleet.lives
                if life.phase is Phase.SERVING and life.stops_by is None
            ]
        )
        return Sample(
            ready=len(self.spec.endpoints) if self.section.dry_run else fleet.serving,
            starting=fleet.starting,
            draining=fleet.going,
            load=load,
            cpu_percent=None if known is None else [use.cpu_percent if use else None for use in known],
            memory_percent=None if known is None else [use.memory_percent if use else None for use in known],
            taken_cpus=taken[0],
            taken_memory_bytes=taken[1],
        )

    def _decide(self, sample: Sample, why_held: str, now: float) -> None:
        before = self.scaler.target
        decision: Decision | Hold = self.scaler.decide(sample, now=now)
        self.reason = decision.reason
        if isinstance(decision, Hold):
            self.reason = why_held or decision.reason
        elif decision.target != before:
            self.row[Z_GROWN if decision.target > before else Z_SHRUNK] += 1
            would = "would be " if self.section.dry_run else ""
            text = f"{would}{decision.target} instances instead of {before}: {decision.reason}"
            self._events.tell(EventType.SCALED, f"cluster {self.name}", text)
        self.row[Z_TARGET] = self.scaler.target + 1

    def _note_cold_start(self, actions: Sequence[Action]) -> None:
        if self.fleet.serving:
            self._is_cold = False
        elif not self._is_cold and any(isinstance(action, Start) for action in actions):
            if self._meter.is_waiting(self.spec):
                self._is_cold = True
                self.row[Z_COLD_STARTS] += 1

    def _count(self, now: float) -> None:
        fleet, row = self.fleet, self.row
        if now > self._stepped_at > -inf:
            row[Z_INSTANCE_MS] += round((now - self._stepped_at) * 1000.0 * fleet.total)
        self._stepped_at = now
        for word, total in ((Z_STARTS, fleet.started_total), (Z_STARTS_FAILED, fleet.failed_total)):
            row[word] += total - self._counted[word]
            self._counted[word] = total
        row[Z_SERVING], row[Z_STARTING], row[Z_GOING] = fleet.serving, fleet.starting, fleet.going

    # --- what others are told

    def endpoints(self) -> list[EndpointSpec]:
        """Its instances, as members of the cluster."""
        return [_endpoint(self.config, life) for life in self.fleet.members()]

    def document(self) -> dict[str, Any]:
        """As the admin API has it."""
        section, fleet = self.section, self.fleet
        return {
            "mode": "auto" if self.pinned is None else "manual",
            "set_to": self.pinned,
            "dry_run": section.dry_run,
            "driver": section.driver,
            "desired": self.desired,
            "serving": fleet.serving,
            "starting": fleet.starting,
            "going": fleet.going,
            "min_instances": section.min_instances,
            "max_instances": section.max_instances,
            "reason": self.reason,
            "start_s": round(self.scaler.start_s, 3),
            "failed_starts_in_a_row": fleet.starts.failed,
            "deploy": fleet.deployment.document(fleet.old, now=self._stepped_at),
            "instances": [
                {
                    "name": life.instance.name,
                    "id": life.instance.id,
                    "phase": life.phase.value,
                    "version": life.instance.spec_digest,
                    "address": str(life.instance.addresses[0]) if life.instance.addresses else None,
                    "note": life.reason
                    or life.veto
                    or (life.verdict if life.phase is Phase.STARTING else ""),
                }
                for life in fleet.lives
            ],
        }


def _word(version: str) -> int:
    """A digest as far as it fits into a word."""
    return int(version, 16) >> 1


def _endpoint(cluster: Cluster, life: Life) -> EndpointSpec:
    """The endpoint that an instance is: what its labels say, and what else the scaler knows."""
    instance, section = life.instance, cluster.scaler
    assert section is not None
    address = instance.addresses[0]
    said = _labelled(address, instance.labels)
    spec = endpoint_spec(cluster.name, said, address, instance=instance.id, name=instance.name)
    return replace(
        spec,
        max_connections=section.max_connections,
        slots=said.slots or section.slots,
        leaving=life.leaving,
        veto=life.veto,
    )


@lru_cache(maxsize=1024)
def _labelled(address: TcpAddress, labels: Pairs) -> Endpoint:
    return labelled_endpoint(address, dict(labels))[0]
