"""What the load measured: counts and latencies in constant memory, however long it runs.

Latencies go into buckets whose bounds grow by 5 %, so a quantile is off by at most about 2.5 %; keeping every
value would cost a gigabyte in an hour. What is recorded goes into two sets of buckets: the whole run's, and
the interval's that `tick` swaps out.
"""

import math
from collections import Counter
from collections.abc import Sequence
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
    latency: Latency
    """Over the interval, of what succeeded."""
    endpoints: dict[str, int]
    """Successful requests so far by endpoint."""


@dataclass(frozen=True, slots=True)
class KindSummary:
    """One kind of request over the whole run."""

    kind: str
    requests: int
    failed: int
    verified_bytes: int
    """Bytes of content that were checked and right."""
    latency: Latency


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole run."""

    elapsed_s: float
    clients: int
    kinds: tuple[KindSummary, ...]
    endpoints: dict[str, int]
    """Successful requests by endpoint, those without any included."""
    problems: tuple[tuple[str, int], ...]
    """What failed and how often, the most frequent first."""
    latency: Latency

    @property
    def requests(self) -> int:
        """Requests that ended, failed ones included."""
        return sum(kind.requests for kind in self.kinds)

    @property
    def failed(self) -> int:
        """Requests without a complete and right answer."""
        return sum(kind.failed for kind in self.kinds)

    @property
    def verified_bytes(self) -> int:
        """Bytes of content that were checked and right."""
        return sum(kind.verified_bytes for kind in self.kinds)

    @property
    def is_ok(self) -> bool:
        """There were requests and none failed."""
        return self.requests > 0 and self.failed == 0


class _Kind:
    __slots__ = ("failed", "latencies", "verified_bytes")

    def __init__(self) -> None:
        self.failed = 0
        self.verified_bytes = 0
        self.latencies = LatencyHistogram()


class LoadStats:
    """Counters of a running load. `kinds` and `endpoints` fix the order in which they are reported."""

    def __init__(self, kinds: Sequence[str], endpoints: Sequence[str], clients: int, *, now: float) -> None:
        self._kinds = {kind: _Kind() for kind in kinds}
        self._endpoints = dict.fromkeys(endpoints, 0)
        self._problems: Counter[str] = Counter()
        self._clients = clients
        self._began = now
        self._latencies = LatencyHistogram()
        self._recent = LatencyHistogram()
        self._recent_failed = 0
        self._recent_since = now

    def record_success(self, kind: str, endpoint: str, verified_bytes: int, seconds: float) -> None:
        """Count a request that took `seconds` and whose answer was complete and right."""
        counters = self._kinds[kind]
        counters.verified_bytes += verified_bytes
        counters.latencies.add(seconds)
        self._latencies.add(seconds)
        self._recent.add(seconds)
        self._endpoints[endpoint] = self._endpoints.get(endpoint, 0) + 1

    def record_failure(self, kind: str, problem: str) -> None:
        """Count a request that failed; `problem` is for people."""
        self._kinds[kind].failed += 1
        self._recent_failed += 1
        text = f"{kind}: {problem}"
        known = text in self._problems or len(self._problems) < _MAX_PROBLEMS
        self._problems[text if known else _OTHER_PROBLEMS] += 1

    def tick(self, *, now: float) -> Progress:
        """Report the load so far and begin a new interval."""
        recent, interval_s = self._recent, max(now - self._recent_since, 1e-9)
        failed = sum(counters.failed for counters in self._kinds.values())
        progress = Progress(
            elapsed_s=now - self._began,
            requests=self._latencies.count + failed,
            failed=failed,
            requests_per_s=(recent.count + self._recent_failed) / interval_s,
            latency=_latency(recent),
            endpoints=dict(self._endpoints),
        )
        self._recent, self._recent_failed, self._recent_since = LatencyHistogram(), 0, now
        return progress

    def summary(self, *, now: float) -> Summary:
        """The whole run until `now`."""
        kinds = (
            KindSummary(
                kind=name,
                requests=counters.latencies.count + counters.failed,
                failed=counters.failed,
                verified_bytes=counters.verified_bytes,
                latency=_latency(counters.latencies),
            )
            for name, counters in self._kinds.items()
        )
        return Summary(
            elapsed_s=now - self._began,
            clients=self._clients,
            kinds=tuple(kinds),
            endpoints=dict(self._endpoints),
            problems=tuple(self._problems.most_common()),
            latency=_latency(self._latencies),
        )


def _latency(histogram: LatencyHistogram) -> Latency:
    return Latency(histogram.quantile(0.5), histogram.quantile(0.99))
