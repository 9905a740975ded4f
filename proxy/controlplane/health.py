"""The active health checks: asks each endpoint when it is due, and says what became of it.

`policy.health` decides when and what follows, `probes` does one check; here they meet the clock and the network. Each
endpoint has a task of its own; at most `AT_ONCE` checks are under way together. What was learned survives whatever
does not concern it: a reload, a new address beside it, a certificate; and a restart of control, from the endpoint's
marks, so that nobody who is well is taken out because somebody new asks.
"""

import asyncio
import random
from collections.abc import Callable, Mapping

from proxy.clock import Clock
from proxy.config.resilience import health_params
from proxy.config.resilience_schema import HealthCheck
from proxy.controlplane.asking import Contexts
from proxy.controlplane.events import EventLog, EventType
from proxy.controlplane.probes import Probe, Verdict
from proxy.controlplane.standings import START_S, Member, Standings
from proxy.policy.health import Health, HealthParams, HealthState
from proxy.scoreboard import X_CHECKS, X_CHECKS_FAILED
from proxy.tasks import spawn

AT_ONCE = 256
"""Checks under way together: a fleet that hangs is through in a few timeouts, and descriptors stay for the rest."""


class _Checked:
    """An endpoint that is checked."""

    __slots__ = ("health", "params", "probe", "task")

    def __init__(self, health: Health, params: HealthParams, probe: Probe) -> None:
        self.health = health
        self.params = params
        self.probe = probe
        self.task: asyncio.Task[None] | None = None


class HealthProber:
    """Checks the endpoints of clusters that have health checks. `on_up` is told of those that came back."""

    def __init__(
        self,
        standings: Standings,
        events: EventLog,
        *,
        clock: Clock,
        rng: random.Random,
        on_up: Callable[[Member], None],
    ) -> None:
        self._standings = standings
        self._events = events
        self._clock = clock
        self._rng = rng
        self._on_up = on_up
        self._checked: dict[str, _Checked] = {}
        self._contexts = Contexts()
        self._room = asyncio.Semaphore(AT_ONCE)

    def __repr__(self) -> str:
        return f"HealthProber({len(self._checked)} endpoints)"

    def update(self, checks: Mapping[str, HealthCheck]) -> None:
        """The endpoints, or the checks of their clusters, have changed; `checks` are by name of the cluster."""
        kept: dict[str, _Checked] = {}
        for member in self._standings:
            check = checks.get(member.cluster.name)
            if check is not None:
                kept[member.spec.id] = self._update_member(member, check)
            elif member.health is not HealthState.HEALTHY or member.is_draining_itself:
                # Nobody asks any more.
                self._standings.set_health(member, HealthState.HEALTHY)
        for endpoint_id, checked in self._checked.items():
            if endpoint_id not in kept and checked.task is not None:
                checked.task.cancel()
        self._checked = kept
        self._contexts.keep([checked.probe.tls for checked in kept.values()])

    def stop(self) -> None:
        """Check no more."""
        for checked in self._checked.values():
            if checked.task is not None:
                checked.task.cancel()
        self._checked = {}

    def _update_member(self, member: Member, check: HealthCheck) -> _Checked:
        now = self._clock.monotonic()
        params = health_params(check)
        probe = Probe(check, member.spec, member.cluster.tls, params.timeout_s)
        checked = self._checked.get(member.spec.id)
        if checked is None:
            starts_until = now + START_S if member.spec.instance else 0.0
            health = Health(params, self._rng, now=now, starts_until=starts_until)
            health.state = member.health
            checked = _Checked(health, params, probe)
        elif checked.probe == probe and checked.params == params:
            return checked
        else:
            checked.health.update(params, now=now)
            checked.params, checked.probe = params, probe
        if checked.task is not None:
            checked.task.cancel()
        checked.task = spawn(self._check(member, checked), name=f"check {member.spec.id}")
        return checked

    async def _check(self, member: Member, checked: _Checked) -> None:
        """Check whenever it is due."""
        while True:
            pause_s = checked.health.next_at() - self._clock.monotonic()
            if pause_s > 0:
                await self._clock.sleep(pause_s)
            async with self._room:
                verdict = await checked.probe.run(self._contexts.of(checked.probe.tls))
            self._on_verdict(member, checked.health, verdict)

    def _on_verdict(self, member: Member, health: Health, verdict: Verdict) -> None:
        member.row[X_CHECKS] += 1
        if verdict.failure:
            member.row[X_CHECKS_FAILED] += 1
            member.reasons["health"] = verdict.failure
        was_draining = member.is_draining_itself
        changed = health.record(not verdict.failure, verdict.word, now=self._clock.monotonic())
        if not verdict.failure or health.state is not HealthState.HEALTHY:
            # Else what it said of itself holds: one that drains ends soon, and its checks fail then.
            self._standings.set_health(member, health.state, health.word)
        if changed:
            self._tell(member, health, verdict)
        if member.is_draining_itself is not was_draining:
            kind = EventType.DRAINED if member.is_draining_itself else EventType.UNDRAINED
            self._events.tell(kind, member.spec.id, "by its own word")

    def _tell(self, member: Member, health: Health, verdict: Verdict) -> None:
        if health.state is HealthState.HEALTHY:
            self._on_up(member)
            self._events.tell(EventType.HEALTH_UP, member.spec.id, "its checks pass")
        else:
            self._events.tell(EventType.HEALTH_DOWN, member.spec.id, f"its checks fail: {verdict.failure}")
