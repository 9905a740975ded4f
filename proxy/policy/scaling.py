"""How many instances a cluster should have. Pure.

Why not CPU against a threshold, as everybody does: CPU that is used up says nothing of how much more is wanted, so
such a scaler climbs by a third at a time while requests wait, and services that wait for disks never use any. Here
every signal names a number of instances (`wishes`, `usage`), the largest wins, and what is left is when to follow it:

- Growing is quick, bounded by a step and a short cooldown. What grows is foreseen by the time that a start takes, as
  learned; instances that are starting count, so that slow starts are not ordered again and again (knative
  serving#13284, #15121).
- Overrun, as seen in a short window, is panic (Knative's autoscaler): then the short window counts too.
- Shrinking waits: only to the largest wish of the stabilisation window (Kubernetes' HPA), by small steps with a
  cooldown, and never in panic, without data, just after a start or a gap, or when a signal is missing. What panic asked
  for is in that window too, so that its end drops nothing at once (knative serving#3153, #9121).
- `min_instances`, `max_instances` and the host's budget hold always and at once, data or not; the budget first.
- No data is `Hold`, never zero.

The target is what should be, not what is: whoever acts brings the one to the other, replaces what died, and may do so
again and again.
"""

from dataclasses import dataclass

from proxy.policy.largest import RollingLargest
from proxy.policy.scaling_params import ScalingParams
from proxy.policy.usage import Resources, missing
from proxy.policy.wishes import Demand, Load, Sample, Wish, load_wishes

# Of one start among those before it: quick to learn, and ten starts ago counts 3 %.
START_WEIGHT = 0.3
# What comes so many seconds after the last sample is late, and no new beginning.
LATE_S = 5.0
NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Decision:
    """The size changes."""

    target: int
    """Instances there should be from now on, starting ones included and draining ones not."""
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """The size stays."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What a target must keep to at the moment."""

    low: int
    high: int
    grow_to: int
    """What a larger target must keep to: draining instances claim their part of the host until they are gone."""
    reason: str
    """Why not more."""


class Scaler:
    """The size of one cluster. To be asked every second or two."""

    __slots__ = (
        "_busy_at", "_changed_at", "_data_at", "_data_since", "_demand", "_first_at", "_grown_at", "_is_adopted",
        "_now", "_panic_until", "_params", "_pinned", "_recent", "_resources", "_starts", "start_s", "target", "wishes",
    )  # fmt: skip

    def __init__(self, params: ScalingParams, target: int | None = None) -> None:
        """`target` is what another scaler decided before; `None` = what is found at the first sample is adopted."""
        self._params = params
        self._demand = Demand(params)
        self._resources = Resources(params)
        self._recent = RollingLargest(params.stabilisation_s)
        self._now = self._first_at = self._busy_at = NEVER
        self._data_at = self._data_since = NEVER
        self._grown_at = self._changed_at = self._panic_until = NEVER
        self._pinned: int | None = None
        self._starts = 0
        self.start_s = min(params.start_s, params.start_timeout_s)
        """How long a start is expected to take, in seconds."""
        self.target = target or 0
        """Instances there should be."""
        self._is_adopted = target is not None
        self.wishes: tuple[Wish, ...] = ()
        """What the signals asked for when they were last looked at."""

    def __repr__(self) -> str:
        pinned = "" if self._pinned is None else f", set to {self._pinned} by hand"
        return f"Scaler(target {self.target}, starts take {self.start_s:.1f} s{pinned})"

    def change(self, params: ScalingParams) -> None:
        """Go by other parameters. What is known stays while its windows are as long; else they fill anew, and nothing
        shrinks until they have."""
        old, self._params = self._params, params
        self._recent.window_s = params.stabilisation_s
        if (params.stable_window_s, params.panic_window_s) != (old.stable_window_s, old.panic_window_s):
            self._demand = Demand(params)
            self._resources = Resources(params)
            self._data_at = NEVER
        if not self._starts:
            self.start_s = params.start_s
        self.start_s = min(self.start_s, params.start_timeout_s)

    def pin(self, count: int | None) -> None:
        """Somebody says how many there should be: at once, within the limits. `None` = the load decides again."""
        self._pinned = count

    def on_started(self, took_s: float) -> None:
        """An instance serves, `took_s` seconds after it was asked for. The first one replaces the assumption."""
        took_s = min(max(took_s, 0.0), self._params.start_timeout_s)
        weight = START_WEIGHT if self._starts else 1.0
        self.start_s += weight * (took_s - self.start_s)
        self._starts += 1

    def is_panicking(self, now: float) -> bool:
        """Whether the instances were overrun within the last stable window."""
        return now < self._panic_until

    def decide(self, sample: Sample, *, now: float) -> Decision | Hold:
        """How many there should be, and why. Time that goes backwards counts as no time."""
        now = self._now = max(now, self._now)
        if self._first_at == NEVER:
            self._first_at = self._busy_at = now
            if not self._is_adopted:
                self.target = sample.ready + sample.starting
        load = sample.load if sample.load is not None and sample.load.is_sound() else None
        if load is not None:
            self._take_in(sample, load, now)
        bounds = self._bounds(sample)
        if self.target > bounds.high:
            return self._set(bounds.high, bounds.reason, now)
        at_zero = self.target == 0 and self._params.scale_to_zero
        if self.target < bounds.low and not at_zero:
            return self._set(bounds.low, f"min_instances is {self._params.min_instances}", now)
        if self._pinned is not None:
            return self._follow_pin(self._pinned, bounds, now)
        if load is None:
            return Hold(f"no data: stays at {self.target}")
        if at_zero and not load.is_busy:
            return Hold("at rest: no request")
        return self._follow_load(sample, load, bounds, now)

    def _take_in(self, sample: Sample, load: Load, now: float) -> None:
        params = self._params
        if now - self._data_at > max(params.panic_window_s, LATE_S):
            self._data_since = now
        self._data_at = now
        if load.is_busy:
            self._busy_at = now
        self._demand.add(load, now)
        self._resources.add(sample, now)
        recent = self._demand.panic_at(now)
        carried = params.target_in_flight * max(sample.ready, 1)
        overrun = max(recent.demand, recent.in_flight) * 100.0 >= params.panic_threshold_percent * carried
        if overrun or 0 < params.target_queue_wait_s < load.queue_wait_s:
            self._panic_until = now + params.stable_window_s

    def _bounds(self, sample: Sample) -> _Bounds:
        params = self._params
        high = grow_to = params.max_instances
        reason = f"max_instances is {high}"
        room = params.budget.room(sample.taken_cpus, sample.taken_memory_bytes)
        if room is not None and room - sample.draining < high:
            high, grow_to = min(high, room), room - sample.draining
            draining = f", {sample.draining} of them draining" if sample.draining else ""
            reason = f"the host has room for {room}{draining}"
        grow_to = max(grow_to, min(self.target, high))
        return _Bounds(min(max(params.min_instances, 1), grow_to), high, grow_to, reason)

    def _set(self, target: int, reason: str, now: float) -> Decision:
        if target > self.target:
            self._grown_at = now
        self._changed_at = now
        self.target = target
        return Decision(target, reason)

    def _follow_pin(self, pinned: int, bounds: _Bounds, now: float) -> Decision | Hold:
        count = min(max(pinned, bounds.low), bounds.grow_to)
        reason = f"set to {pinned} by hand"
        if count < pinned:
            reason += f", but {bounds.reason}"
        elif count > pinned:
            reason += f", but min_instances is {self._params.min_instances}"
        return Hold(reason) if count == self.target else self._set(count, reason, now)

    def _follow_load(self, sample: Sample, load: Load, bounds: _Bounds, now: float) -> Decision | Hold:
        params, panic = self._params, self.is_panicking(now)
        asked = [*load_wishes(params, sample, load, self._demand, self.start_s, panic=panic, now=now)]
        most = max(bounds.low, *(wish.count for wish in asked))
        asked += self._resources.wishes(params, most, now)
        self.wishes = tuple(asked)
        wish = max(asked, key=lambda each: each.count)
        least = max(each.count + each.unknown for each in asked)
        least = self._recent.add(min(max(least, bounds.low), bounds.high), now)
        if max(wish.count, bounds.low) > self.target:
            return self._grow(wish, bounds, now)
        if params.scale_to_zero and now - self._busy_at >= params.idle_s:
            held = self._why_not_shrink(sample, now)
            return Hold(held) if held else self._set(0, f"no request for {now - self._busy_at:.0f} s", now)
        if least >= self.target:
            return Hold(f"stays at {self.target}: {_why_kept(wish, self.target, bounds, params)}")
        held = self._why_not_shrink(sample, now)
        if held:
            return Hold(f"could shrink to {least}, but {held}")
        target = max(least, self.target - params.step_down_from(self.target))
        return self._set(target, f"{wish.reason}: asks for {wish.count}", now)

    def _grow(self, wish: Wish, bounds: _Bounds, now: float) -> Decision | Hold:
        asks = f"{wish.reason}: asks for {wish.count}"
        if self.target >= bounds.grow_to:
            return Hold(f"{asks}, but {bounds.reason}")
        cooldown_s = self._grown_at + self._params.scale_up_cooldown_s - now
        if cooldown_s > 0:
            return Hold(f"{asks}, but it grew just now: {cooldown_s:.1f} s of cooldown")
        target = max(min(wish.count, self.target + self._params.step_up_from(self.target)), bounds.low)
        if target > bounds.grow_to:
            asks += f", but {bounds.reason}"
        elif target < wish.count:
            asks += f", {target - self.target} more at once"
        return self._set(min(target, bounds.grow_to), asks, now)

    def _why_not_shrink(self, sample: Sample, now: float) -> str | None:
        """What keeps it from becoming smaller at all; `None` = nothing."""
        params = self._params
        if self.is_panicking(now):
            return f"it is in panic for {self._panic_until - now:.0f} s more"
        young_s = self._first_at + max(params.stable_window_s, params.stabilisation_s) - now
        if young_s > 0:
            return f"it knows this load only since the start: {young_s:.0f} s more"
        if now - self._data_since < params.stable_window_s:
            return f"data came back only {now - self._data_since:.0f} s ago"
        if unseen := missing(params, sample):
            return f"the engine says nothing of {unseen}"
        cooldown_s = self._changed_at + params.scale_down_cooldown_s - now
        return f"its size changed just now: {cooldown_s:.0f} s of cooldown" if cooldown_s > 0 else None


def _why_kept(wish: Wish, target: int, bounds: _Bounds, params: ScalingParams) -> str:
    if wish.count == target:
        return wish.reason
    if bounds.low == target:
        is_crowded = target < params.min_instances
        return f"{bounds.reason if is_crowded else f'min_instances is {params.min_instances}'}; {wish.reason}"
    return f"something asked for as many in the last {params.stabilisation_s:g} s; {wish.reason}: asks for {wish.count}"
