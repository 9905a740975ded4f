"""What happened to each request, and the figures that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from loadtests.locality.trace import Trace


@dataclass(frozen=True, slots=True)
class Sample:
    """One request."""

    due: float
    """When it was to be sent, in seconds from the start of the trace."""
    took_s: float
    """Seconds from then to the whole answer, or to the end of hope."""
    is_hit: bool
    """The endpoint that answered had the data."""
    is_failed: bool = False
    """No whole 200 came."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the samples that count. A failed request counts as one that takes for ever, except in the mean."""

    requests: int
    failed: int
    hit_ratio: float
    """Of the answered, 0 to 1."""
    mean_s: float
    """Of the answered."""
    p50_s: float
    p99_s: float
    first_p99_s: float
    """Of those that were due in the first half."""
    second_p99_s: float

    @property
    def growth(self) -> float:
        """The second half's p99 over the first's: about 1 when nothing piles up."""
        return self.second_p99_s / self.first_p99_s


def quantile(ordered: Sequence[float], q: float) -> float:
    """The value that a share `q` of them does not exceed; infinite when there are none."""
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else inf


def figures(trace: Trace, samples: Sequence[Sample]) -> Figures:
    """Of a run of `trace`."""
    counted = [sample for sample in samples if sample.due >= trace.counted_from]
    answered = [sample for sample in counted if not sample.is_failed]
    everybody = sorted(map(_patience, counted))
    halves = [
        sorted(_patience(sample) for sample in counted if (sample.due >= trace.change_at) is is_second)
        for is_second in (False, True)
    ]
    return Figures(
        requests=len(counted),
        failed=len(counted) - len(answered),
        hit_ratio=fmean(sample.is_hit for sample in answered) if answered else 0.0,
        mean_s=fmean(sample.took_s for sample in answered) if answered else inf,
        p50_s=quantile(everybody, 0.5),
        p99_s=quantile(everybody, 0.99),
        first_p99_s=quantile(halves[0], 0.99),
        second_p99_s=quantile(halves[1], 0.99),
    )


def _patience(sample: Sample) -> float:
    return inf if sample.is_failed else sample.took_s
