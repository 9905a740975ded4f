"""The instances of one cluster, from the order to the end, and what is to be done about each. Decides; does nothing.

Desired is a number, observed is what the engine tells. `step` compares the two and says what to do next; it may be
called at any time and as often as anybody likes, because an order that is under way counts, and what failed is asked
for again. Nothing is remembered that could not be found out anew: a control that starts with the instances of the one
before it ends up with the same picture.

    STARTING   made or to be made; gets nothing before it has passed a check of ours
    SERVING    gets requests, unless the engine's own check says no, or somebody else stops it
    DRAINING   gets nothing new and finishes what it has
    STOPPING   is told to end
    REMOVING   has ended, and goes with all that belongs to it

An instance that ends, hangs or vanishes is not brought back but replaced: another one is started, in the pace that
`policy.replacing` allows. One that was made from another spec than there is now is replaced as `policy.deploying` says.
Instances of other owners are not seen at all.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random

from proxy.controlplane.deployment import Deployment, Tell
from proxy.controlplane.events import EventType
from proxy.controlplane.instance_life import (
    Action,
    FleetParams,
    Life,
    Obituary,
    Phase,
    Probe,
    Remove,
    Start,
    Stop,
    Surroundings,
    end_of,
)
from proxy.drivers.driver import (
    Changed,
    Died,
    Instance,
    InstanceEvent,
    Listed,
    Lost,
    Removed,
    State,
    Stopping,
)
from proxy.drivers.spec import InstanceSpec
from proxy.policy.replacing import Starts
from proxy.policy.retiring import Instance as Candidate
from proxy.policy.retiring import whom_to_retire

PROBE_S = 0.2
"""Seconds between two checks of an instance that starts: little against any start, and little work."""

QUIET_S = 0.5
"""Seconds for which an instance that drains must have nothing in flight. Workers know of the drain within 100 ms; until
then one may have picked it."""

RESTART_S = 2.0
"""Seconds for which one that somebody else stopped may still be started again before it is removed."""

PUT_BACK_S = 5.0
"""Seconds beyond its grace after which an instance that was told to end and runs gets requests again."""

FIRST_RETRY_S, MAX_RETRY_S = 1.0, 30.0
"""Pause after an order to stop or remove that failed; it doubles with each."""

YOUNG_S = 10.0
"""Seconds for which an instance may be missing in a list that was begun before it was made."""

UNAVAILABLE_S = 2.0
"""Pause between starts while the engine does not answer."""


@dataclass(frozen=True, slots=True)
class _Order:
    """An instance that was asked for."""

    version: str
    """Digest of its spec."""
    at: float


class Fleet:
    """The instances of one cluster. `tell` takes events; `known` are the ids of those that served before this control
    began, and need no check to go on; `halted` says why the deployment of this spec was called off before."""

    def __init__(
        self,
        cluster: str,
        owner: str,
        params: FleetParams,
        *,
        rng: Random,
        tell: Tell,
        known: Collection[str] = (),
        halted: str = "",
    ) -> None:
        self.cluster = cluster
        self._owner = owner
        self._params = params
        self._rng = rng
        self._tell = tell
        self._known = frozenset(known)
        self._lives: dict[str, Life] = {}
        self._orders: dict[str, _Order] = {}
        """Instances that were asked for and have not been seen, by name."""
        self.deployment = Deployment(cluster, params.spec, params.deploy, tell, halted)
        self._pause_until = -inf
        self.starts = Starts(params.replacement)
        self.started: list[float] = []
        """How long starts took that ended well, in seconds; for whoever learns from it to take out."""
        self.started_total = self.failed_total = 0
        self.is_known = False
        """The engine has said once what there is."""

    def __repr__(self) -> str:
        return f"Fleet({self.cluster}: {self.serving} serve, {self.starting} start, {self.going} go)"

    # --- questions

    @property
    def lives(self) -> Collection[Life]:
        """All instances that there are."""
        return self._lives.values()

    @property
    def old(self) -> int:
        """Those that start or serve and are of another version than there should be."""
        return len(self._active(is_new=False))

    @property
    def serving(self) -> int:
        """Those that get requests."""
        return sum(life.phase is Phase.SERVING and life.stops_by is None for life in self._lives.values())

    @property
    def starting(self) -> int:
        """Those that were asked for and do not serve yet."""
        starting = (life for life in self._lives.values() if life.phase is Phase.STARTING and life.is_active)
        return len(self._orders) + sum(1 for _ in starting)

    @property
    def going(self) -> int:
        """Those that are there and do not count any more."""
        return sum(not life.is_active for life in self._lives.values())

    @property
    def total(self) -> int:
        """All that claim their part of the host."""
        return len(self._orders) + len(self._lives)

    def get(self, instance_id: str) -> Instance | None:
        """The instance of that id, as it was told last."""
        life = self._lives.get(instance_id)
        return life.instance if life is not None else None

    def members(self) -> Iterator[Life]:
        """Those that clusters should know: they serve, or finish what they have."""
        for life in self._lives.values():
            if life.phase in (Phase.SERVING, Phase.DRAINING, Phase.STOPPING) and life.instance.addresses:
                yield life

    # --- what happens

    def change(self, params: FleetParams, owner: str) -> None:
        """Go by other parameters. With another owner's name, what there is becomes somebody else's."""
        if owner != self._owner:
            self._owner, self.is_known = owner, False
            self._lives.clear()
        self._params = params
        self.deployment.change(params.spec, params.deploy)
        self.starts.change(params.replacement)

    def on_event(self, event: InstanceEvent, *, now: float) -> None:
        """The engine tells something."""
        match event:
            case Listed(instances):
                self.on_listed(instances, now=now)
            case Changed(instance):
                self.on_changed(instance, now=now)
            case Stopping(own, _, grace_s):
                self.on_stopping(own, grace_s, now=now)
            case Died(own):
                self.on_died(own, now=now)
            case Removed(own):
                self.on_removed(own, now=now)
            case Lost():
                pass  # who serves goes on

    def on_listed(self, instances: Sequence[Instance], *, now: float) -> None:
        """All instances that there are."""
        self.is_known = True
        there = {instance.id for instance in instances}
        for own, life in [*self._lives.items()]:
            if own not in there and now - life.seen_at >= YOUNG_S:
                self.on_removed(own, now=now)
        for instance in instances:
            self.on_changed(instance, now=now)

    def on_changed(self, instance: Instance, *, now: float) -> None:
        """An instance is as it is now; of others than ours nothing is to be known."""
        if instance.owner != self._owner or instance.cluster != self.cluster:
            return
        life = self._lives.get(instance.id)
        if life is None:
            life = self._take_on(instance, now)
        else:
            self._update(life, instance, now)
        if instance.state is State.ENDED:
            self._on_end(life, end_of(instance), now)

    def on_stopping(self, instance_id: str, grace_s: float, *, now: float) -> None:
        """It was told to end; by somebody else, unless it is going anyway."""
        life = self._lives.get(instance_id)
        if life is not None and life.is_active:
            life.stops_by = now + grace_s + PUT_BACK_S
            self._tell(EventType.INSTANCE_DRAINING, life.instance.name, "somebody else told it to end")

    def on_died(self, instance_id: str, *, now: float) -> None:
        """It has ended; what the engine makes of that comes next."""
        life = self._lives.get(instance_id)
        if life is None:
            return
        # Whoever is at its address from now on is somebody else.
        life.instance = replace(life.instance, state=State.RESTARTING, addresses=())
        if life.phase is Phase.SERVING:
            life.patience.on_unhealthy(now=now)
            life.verdict = "it has ended"
            life.phase, life.phase_at = Phase.STARTING, now

    def on_removed(self, instance_id: str, *, now: float) -> None:
        """It is gone for good."""
        life = self._lives.pop(instance_id, None)
        if life is None:
            return
        if life.phase in (Phase.STARTING, Phase.SERVING):
            self._count_death(life, now)
            self._tell(EventType.INSTANCE_DIED, life.instance.name, "somebody else removed it")
        else:
            self._tell(EventType.INSTANCE_REMOVED, life.instance.name, life.reason)

    # --- what became of actions

    def on_order(
        self, name: str, instance: Instance | None, failure: str = "", *, is_unknown: bool = False, now: float
    ) -> None:
        """A start: what came of it, or why nothing did; `is_unknown` = nobody knows whether anything did."""
        order = self._orders.get(name)
        if order is None:
            return
        if instance is not None:
            self.on_changed(instance, now=now)
        self._orders.pop(name, None)
        if instance is not None and instance.id in self._lives:
            return
        if is_unknown:
            self._pause_until = now + UNAVAILABLE_S
            pause_s = UNAVAILABLE_S
        else:
            self.failed_total += 1
            pause_s = self.starts.on_failed(now=now)
            self.deployment.blame(order.version, failure)
        why = failure or "the engine made something else"
        self._tell(EventType.INSTANCE_FAILED, name, f"{why}; the next start in {pause_s:.0f} s at least")

    def on_probe(self, instance_id: str, failure: str, *, now: float) -> None:
        """A check of one that starts; an empty `failure` = it passed."""
        life = self._lives.get(instance_id)
        if life is None or life.phase is not Phase.STARTING:
            return
        life.is_busy, life.probe_at = False, now + PROBE_S
        if failure:
            life.verdict = failure
        elif not life.veto and life.instance.addresses:
            self._serve(life, now)

    def on_done(self, action: "Stop | Remove", failure: str = "", *, now: float) -> None:
        """An order to stop or remove was carried out, or failed."""
        life = self._lives.get(action.id)
        phase = Phase.STOPPING if isinstance(action, Stop) else Phase.REMOVING
        if life is None or life.phase is not phase:
            return  # the engine told what came of it before it answered
        life.is_busy = False
        if failure:
            pause_s = min(FIRST_RETRY_S * 2.0 ** min(life.failures, 10), MAX_RETRY_S)
            life.failures += 1
            life.retry_at = now + pause_s
        elif phase is Phase.STOPPING:
            life.enter(Phase.REMOVING, life.reason, now)
        else:
            self.on_removed(action.id, now=now)

    # --- what is to be done

    def step(self, desired: int, around: Surroundings, *, now: float) -> list[Action]:
        """The next actions towards `desired` instances; they count as begun."""
        actions = [action for life in self._lives.values() if (action := self._look_after(life, around, now))]
        if around.may_act and self.is_known:
            actions += self._adjust(desired, around, now)
        return actions

    def _look_after(self, life: Life, around: Surroundings, now: float) -> Action | None:
        if life.stops_by is not None and now >= life.stops_by and life.instance.state is State.RUNNING:
            life.stops_by = None
            self._tell(EventType.INSTANCE_SERVING, life.instance.name, "it was told to end and goes on")
        if life.phase is Phase.STARTING:
            return self._wait_for(life, now)
        if life.phase is Phase.SERVING:
            self._watch_over(life, around, now)
        if life.phase is Phase.DRAINING:
            self._drain(life, around, now)
        if life.is_busy or not around.may_act or now < life.retry_at:
            return None
        if life.phase is Phase.STOPPING:
            life.is_busy = True
            return Stop(life.instance.id)
        if life.phase is Phase.REMOVING:
            life.is_busy = True
            obituary, life.obituary = life.obituary, None
            return Remove(life.instance.id, obituary)
        return None

    def _wait_for(self, life: Life, now: float) -> Action | None:
        """One that starts, or comes back: check it, or give it up."""
        if life.stops_by is not None and life.instance.state is State.ENDED:
            if now >= life.retry_at:
                life.enter(Phase.REMOVING, life.reason, now)
            return None
        why = life.patience.why_replace(now=now)
        if life.serving_since is None and now - life.seen_at >= self._params.start_timeout_s:
            why = f"not healthy within {self._params.start_timeout_s:g} s"
        if why is not None:
            self._give_up(life, f"{why}: {life.verdict}", now)
            return None
        if life.veto:
            life.verdict = life.veto
        if life.is_busy or now < life.probe_at or life.veto or not life.instance.addresses:
            return None
        life.is_busy = True
        return Probe(life.instance.id)

    def _watch_over(self, life: Life, around: Surroundings, now: float) -> None:
        assert life.serving_since is not None
        if life.veto or life.instance.id in around.down:
            life.patience.on_unhealthy(now=now)
        else:
            life.patience.on_healthy()
        if not life.is_settled and now - life.serving_since >= self._params.replacement.settled_after_s:
            life.is_settled = True
            self.starts.on_settled()
        why = life.patience.why_replace(now=now)
        if why is not None:
            self._count_death(life, now)
            self.deployment.blame(life.instance.spec_digest, why)
            self._retire(life, f"it is replaced: {why}", now)

    def _drain(self, life: Life, around: Surroundings, now: float) -> None:
        left = around.in_flight.get(life.instance.id, 0)
        if left:
            life.quiet_at = None
        elif life.quiet_at is None:
            life.quiet_at = now
        drained = life.quiet_at is not None and now - life.quiet_at >= QUIET_S
        is_late = now - life.phase_at >= self._params.drain_timeout_s
        if drained or is_late:
            cut = f"; {left} requests were cut after {self._params.drain_timeout_s:g} s" if left else ""
            life.enter(Phase.STOPPING, life.reason + cut, now)

    def _adjust(self, desired: int, around: Surroundings, now: float) -> list[Action]:
        new, old = self._active(is_new=True), self._active(is_new=False)
        sizes = self.deployment.sizes(desired, new, old, around.answers, now=now)
        actions: list[Action] = []
        for is_new, count in ((True, sizes.new), (False, sizes.old)):
            actions += self._adjust_version(is_new, count, around, now)
        return actions

    def _adjust_version(self, is_new: bool, count: int, around: Surroundings, now: float) -> list[Action]:
        """Towards `count` instances of the spec that there should be, or of any other."""
        active = self._active(is_new)
        ordered = [one for one in self._orders.values() if self.deployment.is_new(one.version) is is_new]
        missing = count - len(active) - len(ordered)
        if missing < 0:
            candidates = [self._candidate(life, around, now) for life in active]
            for going in whom_to_retire(candidates, -missing, around.cost_of_losing):
                self._retire(self._lives[going.instance_id], going.reason, now)
        spec = self.deployment.spec if is_new else self.deployment.old_spec
        if spec is None:
            return []
        return [self._order(spec, now) for _ in range(self._may_start(missing, around, now))]

    def _active(self, is_new: bool) -> list[Life]:
        lives = [life for life in self._lives.values() if life.is_active]
        return [life for life in lives if self.deployment.is_new(life.instance.spec_digest) is is_new]

    def _may_start(self, missing: int, around: Surroundings, now: float) -> int:
        allowed = self.starts.allowed(self.starting, now=now)
        limits = [missing, *(each for each in (allowed,) if each is not None)]
        if around.room is not None:
            limits.append(around.room - self.total)
        return max(min(limits), 0) if now >= self._pause_until else 0

    def _order(self, spec: InstanceSpec, now: float) -> Start:
        plain = re.sub(r"[^A-Za-z0-9_.-]", "-", self.cluster)
        name = f"{self._owner}-{plain}-{self._rng.getrandbits(32):08x}"
        self._orders[name] = _Order(spec.digest(), now)
        self.started_total += 1
        self._tell(EventType.INSTANCE_STARTING, name, f"for cluster {self.cluster}")
        return Start(name, spec)

    def _candidate(self, life: Life, around: Surroundings, now: float) -> Candidate:
        return Candidate(
            life.instance.id,
            life.phase is Phase.STARTING,
            around.in_flight.get(life.instance.id, 0) * around.request_s,
            now - life.ordered_at,
        )

    # --- turns of a life

    def _take_on(self, instance: Instance, now: float) -> Life:
        """Ours: ordered just now, found after a restart, or left over."""
        order = self._orders.pop(instance.name, None)
        life = Life(instance, self._params.replacement, order.at if order is not None else now, now=now)
        self._lives[instance.id] = life
        if order is not None:
            return life
        if instance.state is State.CREATED:
            life.enter(Phase.REMOVING, "it was left over from a start that was interrupted", now)
        elif instance.state is not State.ENDED:
            self._tell(EventType.INSTANCE_ADOPTED, instance.name, f"it was there, {instance.state.value}")
            if instance.id in self._known and instance.state is State.RUNNING:
                life.phase, life.serving_since = Phase.SERVING, now
        return life

    def _update(self, life: Life, instance: Instance, now: float) -> None:
        before, life.instance = life.instance, instance
        if instance.restarts > before.restarts:
            life.patience.on_restart(now=now)
        if instance.started_at != before.started_at and instance.state is State.RUNNING:
            life.stops_by = None
            if life.phase is Phase.SERVING:
                life.phase, life.phase_at, life.verdict = Phase.STARTING, now, "it was restarted"

    def _serve(self, life: Life, now: float) -> None:
        took_s = now - life.ordered_at
        is_back = life.serving_since is not None
        life.phase, life.phase_at = Phase.SERVING, now
        life.patience.on_healthy()
        if is_back:
            self._tell(EventType.INSTANCE_SERVING, life.instance.name, "it is back")
            return
        life.serving_since = now
        self.started.append(took_s)
        where = life.instance.addresses[0]
        self._tell(
            EventType.INSTANCE_SERVING, life.instance.name, f"at {where}, {took_s:.1f} s after its order"
        )

    def _give_up(self, life: Life, why: str, now: float) -> None:
        """It never got healthy, or does not come back: the end of its log is told, and it is removed."""
        self.deployment.blame(life.instance.spec_digest, why)
        pause_s = self._count_death(life, now)
        text = f"{why}; the next start in {pause_s:.0f} s at least" if pause_s > 0 else why
        kind = EventType.INSTANCE_FAILED if life.serving_since is None else EventType.INSTANCE_DIED
        life.enter(Phase.REMOVING, why, now)
        life.obituary = Obituary(kind, life.instance.name, text)

    def _on_end(self, life: Life, how: str, now: float) -> None:
        if life.phase in (Phase.DRAINING, Phase.STOPPING):
            life.enter(Phase.REMOVING, life.reason, now)
        elif life.phase is Phase.REMOVING:
            pass
        elif life.stops_by is not None:
            # Perhaps to start it again at once: `docker restart` is a stop and a start.
            life.enter(Phase.STARTING, f"somebody else stopped it: {how}", now)
            life.retry_at = now + RESTART_S
        else:
            self._give_up(life, how, now)

    def _count_death(self, life: Life, now: float) -> float:
        """Seconds until it may be replaced."""
        if life.serving_since is None:
            self.failed_total += 1
            return self.starts.on_failed(now=now)
        return self.starts.on_death(now - life.serving_since, now=now)

    def _retire(self, life: Life, reason: str, now: float) -> None:
        """It gets nothing new; one that never served goes at once."""
        self._tell(EventType.INSTANCE_DRAINING, life.instance.name, reason)
        is_serving = life.phase is Phase.SERVING
        life.enter(Phase.DRAINING if is_serving else Phase.STOPPING, reason, now)
