"""Which instances go when a cluster shrinks. Pure.

Starting ones first: nobody misses them (Ray Serve once stopped running ones before: ray#43034). Then the one whose
data cost least to lose: what others hold too is not lost, and a sole copy of what is asked for all the time would be
fetched again at once. Retiring the youngest or the idlest, as others do, throws away the copies that took longest to
come by.

One at a time: when the first holder of a pair is gone, the second holds the sole copy, so what a loss costs is asked
again for each that goes.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instance:
    """One that could go; those that are draining are going already."""

    instance_id: str
    is_starting: bool
    """It does not serve yet."""
    work_s: float
    """Seconds of work in flight at it: how long it would drain."""
    age_s: float
    """Seconds since it was asked for."""


@dataclass(frozen=True, slots=True)
class Retirement:
    """One goes."""

    instance_id: str
    reason: str


CostOfLosing = Callable[[str, Collection[str]], float]
"""Bytes that would be fetched again without an instance: called with its id and with those of the others that stay and
serve."""


def whom_to_retire(
    instances: Sequence[Instance], count: int, cost_of_losing: CostOfLosing
) -> list[Retirement]:
    """The `count` that go, in order; all when there are not so many.

    Starting ones go youngest first, as they have longest to go. Of the others the one with the least cost goes, then
    the one with the least work in flight, then the youngest; ids decide last, so that everybody decides alike.
    """
    starting = sorted(
        (one for one in instances if one.is_starting), key=lambda one: (one.age_s, one.instance_id)
    )
    going = [
        Retirement(one.instance_id, f"it was still starting, for {one.age_s:.0f} s")
        for one in starting[: max(count, 0)]
    ]
    serving = {one.instance_id: one for one in instances if not one.is_starting}
    while len(going) < count and serving:
        costs = {
            each: cost_of_losing(each, [other for other in serving if other != each]) for each in serving
        }
        one = min(
            serving.values(),
            key=lambda each: (costs[each.instance_id], each.work_s, each.age_s, each.instance_id),
        )
        del serving[one.instance_id]
        going.append(Retirement(one.instance_id, _reason(costs[one.instance_id], one)))
    return going


def _reason(cost: float, one: Instance) -> str:
    lost = f"{cost / 1e6:.3g} MB would be fetched again" if cost > 0 else "nobody would miss its data"
    return f"{lost}, the least of all; {one.work_s:.3g} s of work in flight"
