"""Who decides the size of the fleet: nobody, CPU alone, Homeport."""

from collections import deque
from math import ceil

from loadtests.scaling.day import MEAN_SERVICE_S, Day
from loadtests.scaling.simulation import SLOTS, View
from proxy.policy.scaling import Scaler
from proxy.policy.scaling_params import ScalingParams
from proxy.policy.wishes import Load, Sample

CPU_PERCENT = 75.0
LEAST, MOST = 2, 20


def peak_size(day: Day) -> int:
    """Instances whose slots are 75 % at work in the peak minute: what somebody would set who knows the day."""
    return ceil(day.peak_rate * MEAN_SERVICE_S / (SLOTS * CPU_PERCENT / 100.0))


class Fixed:
    """As many as the peak takes, all day."""

    interval_s = 60

    def __init__(self, day: Day) -> None:
        self._size = peak_size(day)

    def size_at_first(self) -> int:
        """Instances that are ready when the day begins."""
        return self._size

    def size(self, view: View, now: float) -> int:
        """Always the same."""
        return self._size

    def on_started(self, took_s: float) -> None:
        """Nothing is learned."""


class CpuOnly:
    """Kubernetes' HorizontalPodAutoscaler with its defaults and a CPU target of 75 %.

    Every 15 s, with a tolerance of 0.1; up by at most 100 % or 4; down to the largest size of the last 5 minutes.
    Instances that are starting count as idle when it grows. Its figures are as fresh as its decisions, which real ones
    are not.
    """

    interval_s = 15

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque()

    def size_at_first(self) -> int:
        """Instances that are ready when the day begins."""
        return LEAST

    def size(self, view: View, now: float) -> int:
        """Instances there should be."""
        current = view.ready + view.starting
        wish = self._wish(view, current)
        self._recent.append((now, wish))
        while self._recent[0][0] <= now - 300.0:
            self._recent.popleft()
        if wish >= current:
            wish = min(wish, max(2 * current, current + 4))
        else:
            wish = min(max(size for _, size in self._recent), current)
        return min(max(wish, LEAST), MOST)

    def _wish(self, view: View, current: int) -> int:
        ratio = view.cpu_percent / CPU_PERCENT
        if abs(ratio - 1.0) <= 0.1:
            return current
        if ratio < 1.0:
            return ceil(ratio * view.ready - 1e-9)
        used = ratio * view.ready
        return ceil(used - 1e-9) if used > 1.1 * current else current

    def on_started(self, took_s: float) -> None:
        """Nothing is learned."""


class Homeport:
    """Our scaler with its defaults. It sees CPU too, and memory that never matters."""

    interval_s = 2

    def __init__(self) -> None:
        self._scaler = Scaler(ScalingParams(min_instances=LEAST, max_instances=MOST, slots=SLOTS))

    def size_at_first(self) -> int:
        """Instances that are ready when the day begins."""
        return LEAST

    def size(self, view: View, now: float) -> int:
        """Instances there should be."""
        load = Load(
            in_flight=view.in_flight,
            queued=view.queued,
            work_s=view.service_s * (view.in_flight + view.queued),
            queue_wait_s=view.queue_wait_s,
            arrivals_per_s=view.arrivals_per_s,
        )
        cpu, memory = [view.cpu_percent] * view.ready, [40.0] * view.ready
        self._scaler.decide(Sample(view.ready, view.starting, view.draining, load, cpu, memory), now=now)
        return self._scaler.target

    def on_started(self, took_s: float) -> None:
        """It learns how long starts take."""
        self._scaler.on_started(took_s)
