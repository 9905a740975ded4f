"""What the load measured: counts and latencies in constant memory, however long it runs.

Latencies go into buckets whose bounds grow by 5 %, so a quantile is off by at most about 2.5 %; keeping every
value would cost a gigabyte in an hour. What is recorded goes into three sets of buckets: the whole run's, the
phase's, and the interval's that `tick` swaps out.
"""

import math
from collections import Counter
from dataclasses import dataclass

_GROWTH = math.log(1.05)
_FLOOR_S = 1e-5
_BUCKETS = 340
"""10 µs · 1.05^340 ≈ 160 s, beyond any timeout of the load."""
_MAX_PROBLEMS = 20
_OTHER_PROBLEMS = "other failures"


class LatencyHistogram:
    """Latencies from 10 µs to about 160 s; what lies outside counts at the ends."""

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self.count = 0
        self._buckets = [0] * _BUCKETS

    def __repr__(self) -> str:
        return f"<LatencyHistogram count={self.count} p50={self.quantile(0.5)} p99={self.quantile(0.99)}>"

    def add(self, seconds: float) -> None:
        """Count one latency."""
        index = int(math.log(max(seconds, _FLOOR_S) / _FLOOR_S) / _GROWTH)
        self._buckets[min(index, _BUCKETS - 1)] += 1
        self.count += 1

    def quantile(self, ratio: float) -> float | None:
        """The latency in seconds that `ratio` (0–1) of all did not exceed; `None` when there are none.

        The middle, geometrically, of the bucket that holds it.
        """
        if not self.count:
            return None
        remaining = max(1, math.ceil(self.count * ratio))
        for index, count in enumerate(self._buckets):
            remaining -= count
            if remaining <= 0:
                return _FLOOR_S * math.exp((index + 0.5) * _GROWTH)
        raise AssertionError("the buckets hold fewer than were counted")


@dataclass(frozen=True, slots=True)
class Latency:
    """Two quantiles in seconds; `None` when nothing succeeded."""

    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The load so far, and over the interval since the last look."""

    elapsed_s: float
    requests: int
    """Requests that ended, failed ones included."""
    failed: int
    requests_per_s: float
    """Over the interval."""
    hit_ratio: float | None
    """Over the interval, 0 to 1; `None` when nothing succeeded."""
    latency: Latency
    """Over the interval, of what succeeded."""


@dataclass(frozen=True, slots=True)
class PhaseSummary:
    """One phase of the load."""

    phase: str
    requests: int
    failed: int
    hit_ratio: float | None
    """Share of what succeeded that found its data, 0 to 1; `None` when nothing did."""
    latency: Latency


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole run."""

    elapsed_s: float
    phases: tuple[PhaseSummary, ...]
    problems: tuple[tuple[str, int], ...]
    """What failed and how often, the most frequent first."""
    hit_ratio: float | None
    latency: Latency

    @property
    def requests(self) -> int:
        """Requests that ended, failed ones included."""
        return sum(phase.requests for phase in self.phases)

    @property
    def failed(self) -> int:
        """Requests without a complete and right answer."""
        return sum(phase.failed for phase in self.phases)

    @property
    def is_ok(self) -> bool:
        """There were requests and none failed."""
        return self.requests > 0 and self.failed == 0


class _Count:
    """What was asked in some time."""

    __slots__ = ("failed", "hits", "latencies")

    def __init__(self) -> None:
        self.failed = 0
        self.hits = 0
        self.latencies = LatencyHistogram()

    @property
    def requests(self) -> int:
        return self.latencies.count + self.failed

    @property
    def hit_ratio(self) -> float | None:
        return self.hits / self.latencies.count if self.latencies.count else None

    @property
    def latency(self) -> Latency:
        return Latency(self.latencies.quantile(0.5), self.latencies.quantile(0.99))


class LoadStats:
    """Counters of a running load. What ends counts for the phase that it ends in."""

    def __init__(self, *, now: float) -> None:
        self._began = now
        self._problems: Counter[str] = Counter()
        self._phases: dict[str, _Count] = {}
        self._whole = _Count()
        self._recent, self._recent_since = _Count(), now
        self.begin("")

    def begin(self, phase: str) -> None:
        """What ends from now on belongs to `phase`."""
        self._counts = (self._phases.setdefault(phase, _Count()), self._whole)

    def record_success(self, is_hit: bool, seconds: float) -> None:
        """Count a request that took `seconds`, whose answer was complete and right, and whose data were there or
        not."""
        for count in (*self._counts, self._recent):
            count.hits += is_hit
            count.latencies.add(seconds)

    def record_failure(self, problem: str) -> None:
        """Count a request that failed; `problem` is for people."""
        for count in (*self._counts, self._recent):
            count.failed += 1
        known = problem in self._problems or len(self._problems) < _MAX_PROBLEMS
        self._problems[problem if known else _OTHER_PROBLEMS] += 1

    def tick(self, *, now: float) -> Progress:
        """Report the load so far and begin a new interval."""
        recent = self._recent
        progress = Progress(
            elapsed_s=now - self._began,
            requests=self._whole.requests,
            failed=self._whole.failed,
            requests_per_s=recent.requests / max(now - self._recent_since, 1e-9),
            hit_ratio=recent.hit_ratio,
            latency=recent.latency,
        )
        self._recent, self._recent_since = _Count(), now
        return progress

    def summary(self, *, now: float) -> Summary:
        """The whole run until `now`; phases without a request are left out."""
        phases = (
            PhaseSummary(name, count.requests, count.failed, count.hit_ratio, count.latency)
            for name, count in self._phases.items()
            if count.requests
        )
        return Summary(
            elapsed_s=now - self._began,
            phases=tuple(phases),
            problems=tuple(self._problems.most_common()),
            hit_ratio=self._whole.hit_ratio,
            latency=self._whole.latency,
        )
