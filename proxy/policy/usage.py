"""How many instances CPU and memory ask for. Pure.

The sum of what all use, over the threshold, is how many would use so much each. That suits CPU, which goes where the
requests go. Memory is another matter: a leak, or a cache that fills whatever is there, is not given back when others
take over the load, and each new instance fills up too. So memory

- asks for a share more than all other signals do and never for more: a leak costs that share, and does not climb to
  the maximum;
- asks for nothing below its threshold: Kubernetes keeps a fleet whose caches fill three quarters of it as large as it
  once was. Where memory does follow the load, the fleet then swings between two sizes; so what it asked for holds for
  ten minutes.
"""

from collections.abc import Iterator, Sequence

from proxy.policy.largest import RollingLargest
from proxy.policy.scaling_params import ScalingParams
from proxy.policy.window import RollingSums
from proxy.policy.wishes import LARGEST, Sample, Wish, rounded_up

# How long a wish of memory holds: a start every ten minutes at worst, for what more memory brings.
MEMORY_HOLDS_S = 600.0


class Usage:
    """What the engine says of one resource, over a window."""

    __slots__ = ("_sums", "_unknown")

    def __init__(self, window_s: float) -> None:
        self._sums = RollingSums(3, window_s)
        self._unknown = 0

    def __repr__(self) -> str:
        return f"Usage({self._sums}, {self._unknown} unknown)"

    def add(self, percents: Sequence[float | None], now: float) -> None:
        """Take in what the ready instances use, in percent of their limits. What is no number is not known."""
        known = [value for value in percents if value is not None and 0.0 <= value <= LARGEST]
        self._unknown = len(percents) - len(known)
        self._sums.add((1.0, sum(known), len(known)), now)

    def mean_at(self, now: float) -> float:
        """What an instance uses on average, in percent; 0 = nothing is known."""
        _, total, known = self._sums.sums_at(now)
        return total / known if known else 0.0

    def wish(self, name: str, threshold_percent: float, now: float) -> Wish | None:
        """How many bring the average to the threshold; `None` = nothing is known.

        4 instances at 90 % against 75 %: 360 / 75 = 4.8, so 5. Instances that nothing is known of count as idle here
        and as needed when it comes to shrinking, as with Kubernetes: not to know starts none and stops none.
        """
        count, total, known = self._sums.sums_at(now)
        if not known:
            return None
        reason = f"{name} at {total / known:.0f} % on average, threshold {threshold_percent:g} %"
        return Wish(rounded_up(total / count / threshold_percent), reason, self._unknown)


class Resources:
    """CPU and memory of one cluster."""

    __slots__ = ("_cpu", "_memory", "_memory_asked")

    def __init__(self, params: ScalingParams) -> None:
        self._cpu = Usage(params.stable_window_s)
        self._memory = Usage(params.stable_window_s)
        self._memory_asked = RollingLargest(MEMORY_HOLDS_S)

    def add(self, sample: Sample, now: float) -> None:
        """Take in what is known at `now`."""
        if sample.cpu_percent is not None:
            self._cpu.add(sample.cpu_percent, now)
        if sample.memory_percent is not None:
            self._memory.add(sample.memory_percent, now)

    def wishes(self, params: ScalingParams, others: int, now: float) -> Iterator[Wish]:
        """What they ask for, when all other signals ask for at most `others`."""
        if params.cpu_threshold_percent > 0:
            cpu = self._cpu.wish("CPU", params.cpu_threshold_percent, now)
            if cpu is not None:
                others = max(others, cpu.count)
                yield cpu
        if params.memory_threshold_percent > 0:
            memory = self._memory.wish("memory", params.memory_threshold_percent, now)
            if memory is not None:
                yield self._bounded(memory, others, params, now)

    def _bounded(self, memory: Wish, others: int, params: ScalingParams, now: float) -> Wish:
        """With 50 %: at most 3 where the other signals ask for 2, 15 where they ask for 10."""
        is_over = self._memory.mean_at(now) > params.memory_threshold_percent
        count = self._memory_asked.add(memory.count if is_over else 0, now)
        most = rounded_up(others * (1.0 + params.memory_extra_percent / 100.0))
        if count <= most:
            return Wish(count, memory.reason, memory.unknown)
        reason = f"{memory.reason}, {count} instances for that, but at most {most} where the rest asks for {others}"
        return Wish(most, f"{reason}: more instances cure neither a leak nor a full cache", memory.unknown)


def missing(params: ScalingParams, sample: Sample) -> str | None:
    """Which resource should be looked at and cannot be; `None` = all is there."""
    if not sample.ready:
        return None
    if params.cpu_threshold_percent > 0 and sample.cpu_percent is None:
        return "CPU"
    if params.memory_threshold_percent > 0 and sample.memory_percent is None:
        return "memory"
    return None
