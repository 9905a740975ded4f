"""Which instances go when a cluster shrinks. Pure.

Starting ones first: nobody misses them (Ray Serve once stopped running ones before: ray#43034). Then the one whose
data cost least to lose: what others hold too is not lost, and a sole copy of what is asked for all the time would be
fetched again at once. Retiring the youngest or the idlest, as others do, throws away the copies that took longest to
come by.

One at a time: when the first holder of a pair is gone, the second holds the sole copy, so what a loss costs is asked
again for each that goes.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
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
"""What is lost with an instance, in seconds of transfer per second: called with its id and with those of the others
that stay and serve."""


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
    lost = (
        f"its data cost {cost:.3g} s of transfers a second" if cost > 0 else "others hold all its wanted data"
    )
    return f"{lost}, the least of all; {one.work_s:.3g} s of work in flight"


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A data key that somebody holds."""

    size_bytes: float
    requests_per_s: float
    """How often it is asked for. 0 = nobody wants it, and it costs nothing to lose."""


def cost_by_sole_copies(
    held: Mapping[str, Collection[int]], keys: Mapping[int, HeldKey], bytes_per_s: float
) -> CostOfLosing:
    """A cost from who holds which keys: of those that nobody else holds, what fetching them takes, times how often
    they are asked for.

    `a` holds keys 1 and 2, `b` 2 and 3; 1 is 100 MB and asked for twice a second, 3 is 50 MB and asked for once, at
    100 MB/s: losing `a` costs 1 s × 2/s = 2, losing `b` 0.5; without `b`, losing `a` costs what key 2 does too.
    """

    def cost(instance_id: str, staying: Collection[str]) -> float:
        elsewhere: set[int] = set()
        for other in staying:
            elsewhere.update(held.get(other, ()))
        lost = (keys[key] for key in held.get(instance_id, ()) if key in keys and key not in elsewhere)
        return sum(key.size_bytes / bytes_per_s * key.requests_per_s for key in lost)

    return cost
