"""How many instances each signal asks for. Pure.

Load is counted in slots at work. By Little's law arriving requests/s times their seconds of work are the slots they
keep busy, whatever queue there is; requests in flight say the same from what is there, and catch what the estimate of
work does not know. Seconds of work measure the backlog, where counts fail: one long query is not one short one (Dask's
`adaptive_target`). The wait in the queue needs no estimate at all, for when those are wrong. CPU and memory come from
the engine, late and coarse, and see what requests do not.

Each is a wish of its own, with its reason in words; the largest wins. All count instances that are starting as there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from proxy.policy.scaling_params import ScalingParams
from proxy.policy.trend import Trend
from proxy.policy.window import RollingSums

# What is more is a mistake of somebody's, and squares of it would overflow.
LARGEST = 1e12
# Of the stable window, in which demand is looked at for a rise: long enough for a line, and soon over a step.
TREND_SHARE = 0.5
# Of a start's time, in which a backlog may be cleared. To order at once what clears it in a second makes no sense of
# instances that take 20 s to come: in the day of bursts of `loadtests.scaling` that took a fifth more starts, and with
# starts of 30 s a doubled load asked for 12 times what it needed.
CLEARING_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Load:
    """What the requests of a cluster are at, over all workers."""

    in_flight: float
    """Requests at instances."""
    queued: float
    """Requests that wait in the proxy for an instance."""
    work_s: float
    """Seconds of work of all of these, each counted whole, as far as that can be foretold."""
    queue_wait_s: float
    """How long the first in the queue has waited; 0 = nobody waits."""
    arrivals_per_s: float
    """Requests that came since the last sample, per second."""

    @property
    def requests(self) -> float:
        """In flight and queued."""
        return self.in_flight + self.queued

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do."""
        return self.requests > 0 or self.arrivals_per_s > 0

    def is_sound(self) -> bool:
        """Whether all of it can be true. A division by nothing somewhere must not size a fleet."""
        values = (self.in_flight, self.queued, self.work_s, self.queue_wait_s, self.arrivals_per_s)
        return all(0.0 <= value <= LARGEST for value in values)


@dataclass(frozen=True, slots=True)
class Sample:
    """A cluster at one moment."""

    ready: int
    """Instances that serve."""
    starting: int
    """Instances that were asked for and do not serve yet."""
    draining: int
    """Instances that were told to go and are not gone."""
    load: Load | None
    """`None` = not known."""
    cpu_percent: Sequence[float | None] | None = None
    """Of each ready instance, in percent of its limit; `None` in it = not known of that one; `None` = the engine says
    nothing."""
    memory_percent: Sequence[float | None] | None = None
    """Likewise."""
    taken_cpus: float = 0.0
    """Cores that instances of other clusters claim on this host, those they were promised included."""
    taken_memory_bytes: int = 0
    """Memory, likewise."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What one signal asks for."""

    count: int
    """Instances, starting ones included, ≥ 0."""
    reason: str
    """In words, with the figures."""
    unknown: int = 0
    """Instances that it knows nothing of, and that are to stay."""


@dataclass(frozen=True, slots=True)
class Means:
    """Averages over one window."""

    in_flight: float
    demand: float
    """Slots that arriving work keeps busy: seconds of work that come in a second."""


class Demand:
    """The load of one cluster over the stable and the panic window."""

    __slots__ = ("_panic", "_stable", "_trend", "request_s")

    def __init__(self, params: ScalingParams) -> None:
        self._stable = RollingSums(3, params.stable_window_s)
        self._panic = RollingSums(3, params.panic_window_s)
        self._trend = Trend(params.stable_window_s * TREND_SHARE)
        self.request_s = 0.0
        """Seconds of work of one request when there last were any; 0 = there was none."""

    def __repr__(self) -> str:
        return f"Demand({self.request_s:.6g} s a request, {self._trend})"

    def add(self, load: Load, now: float) -> None:
        """Take in what is known at `now`."""
        if load.requests > 0:
            self.request_s = min(load.work_s / load.requests, LARGEST)
        demand = min(load.arrivals_per_s * self.request_s, LARGEST)
        for window in (self._stable, self._panic):
            window.add((1.0, load.in_flight, demand), now)
        self._trend.add(demand, now)

    def stable_at(self, now: float) -> Means:
        """Over the stable window."""
        return _means(self._stable.sums_at(now))

    def panic_at(self, now: float) -> Means:
        """Over the panic window."""
        return _means(self._panic.sums_at(now))

    def rise_at(self, now: float) -> float:
        """Slots by which the demand grows in a second, as far as that is no chance; ≥ 0."""
        return self._trend.rise_at(now)


def _means(sums: Sequence[float]) -> Means:
    count, in_flight, demand = sums
    return Means(in_flight / count, demand / count) if count else Means(0.0, 0.0)


def instances_for(load: float, params: ScalingParams) -> int:
    """How many instances carry `load` slots at work: at the target, and with headroom for chance.

    With 4 slots, a target of 3 and a headroom of 1.25: for 5 at work 2 by the target, but 5 + 1.25·√5 = 7.8 slots,
    which is 2 too; for 6 2 by the target, 9.1 slots and so 3; for 30 10 by the target, 36.8 slots are 10.
    """
    slots = load + params.headroom * sqrt(load)
    return rounded_up(max(load / params.target_in_flight, slots / params.slots))


def rounded_up(count: float) -> int:
    """The whole number that is not less, but for the error of a float."""
    return ceil(count - 1e-9)


def load_wishes(
    params: ScalingParams,
    sample: Sample,
    load: Load,
    demand: Demand,
    start_s: float,
    *,
    panic: bool,
    now: float,
) -> Iterator[Wish]:
    """What the requests ask for. `start_s` is how long an instance takes from now until it serves."""
    stable, recent, rise = demand.stable_at(now), demand.panic_at(now), demand.rise_at(now)
    windows = [(stable, f"in {params.stable_window_s:g} s")]
    if panic:
        windows.append((recent, f"in {params.panic_window_s:g} s, in panic"))
    for means, when in windows:
        for value, what in (
            (means.demand, "arriving work keeps"),
            (means.in_flight, "requests in flight keep"),
        ):
            yield Wish(instances_for(value, params), f"{what} {value:.1f} slots busy {when}")
    if rise > 0:
        expected = recent.demand + rise * start_s
        reason = f"arriving work keeps {recent.demand:.1f} slots busy, {expected:.1f} when a start is over"
        yield Wish(instances_for(expected, params), reason)
    yield _backlog_wish(params, sample, load, demand, start_s, now=now)
    if 0 < params.target_queue_wait_s < load.queue_wait_s:
        reason = f"a request has waited {load.queue_wait_s:.1f} s, more than {params.target_queue_wait_s:g} s"
        yield Wish(sample.ready + 1, reason)


def _backlog_wish(
    params: ScalingParams, sample: Sample, load: Load, demand: Demand, start_s: float, *, now: float
) -> Wish:
    """What is there and what will be until a new instance serves, but never more than have anything to do.

    2 instances with 4 slots, 8 requests of 1 s in flight and 8 queued, 12 coming a second, a start of 5 s, 5 s of work
    for each instance, which is a quarter of what it does in a start's time: 16 s are there, 4 s come each second
    beyond what is done, 36 s in all: 8 instances; the 36 requests would fill 9. Once 6 more are starting they count,
    and nothing comes in excess: 4.
    """
    busy = load.requests >= params.slots * sample.ready
    excess = demand.panic_at(now).demand - params.slots * (sample.ready + sample.starting)
    coming_s = max(excess, 0.0) * start_s if busy else 0.0
    work_s = load.work_s + coming_s
    requests = work_s / demand.request_s if demand.request_s > 0 else 0.0
    each_s = max(params.target_work_s, CLEARING_SHARE * start_s * params.slots)
    count = rounded_up(min(work_s / each_s, requests / params.slots))
    more = f" and {coming_s:.1f} s more until a start is over" if coming_s else ""
    return Wish(count, f"{load.work_s:.1f} s of work to do{more}, {each_s:.3g} s for each instance")
