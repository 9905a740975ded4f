"""Which endpoints of a cluster are so much worse than the others that they are left out for a while. Pure.

Envoy's detectors need five hosts and a hundred requests each, because they ask for a distance in standard deviations
of the fleet, which two or three endpoints do not have; a 10 % limit cannot eject one of nine either. Here every
endpoint is compared with the rest of the fleet, pooled, by two questions: is the difference large enough to matter,
and is it larger than chance explains, given how many requests each side saw? That is right from two endpoints on.
When all fail alike the rest is as bad, and nobody is left out: it is the request, or something that they share.

Three detectors, since each is blind to something (Linkerd, `unified.rs`: a row of failures misses partial failure, a
ratio is slow on a total one, and neither sees an endpoint that is merely slow):

- failures in a row, unless most of the others have some too;
- the share of failures in a window, against the rest's (two-proportion z-test);
- the typical time of an answer in the window, against the rest's: the mean of the logarithms, as one long query among
  many short ones must not look like a slow endpoint (Welch's test on the logarithms).

Limits come first: never more than a share of the fleet, never the last endpoint that could be used. The worst go
first, and each sweep looks at what is left. Who comes back starts with a clean window. Every further ejection lasts
longer, and is forgotten step by step while the endpoint behaves (Envoy's multiplier).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from random import Random

from proxy.policy.window import RollingSums


@dataclass(frozen=True, slots=True)
class OutlierParams:
    """When an endpoint is left out for being worse than the rest, and for how long."""

    consecutive_failures: int = 5
    """Failures in a row, over all workers. 0 = not looked at."""
    failure_percent: float = 20.0
    """How many percentage points more of its requests fail than of the rest's. 0 = any difference that is no chance;
    100 = not looked at."""
    latency_factor: float = 3.0
    """How many times as long as the rest it typically takes. 0 = not looked at; near 1 ejects whoever has the larger
    share of hard requests, so data-locality clusters want 3 or more."""
    latency_floor_s: float = 0.05
    """Slower by less than this is never an outlier, whatever the factor."""
    min_requests: int = 10
    """Requests in the window below which an endpoint, or the rest together, is not judged by its window, ≥ 1."""
    window_s: float = 10.0
    """Seconds looked back. What begins is seen when it fills about half of the window; short = quick, and blind with
    little traffic."""
    interval_s: float = 1.0
    """Seconds between two sweeps; a row of failures is looked at when it happens."""
    base_ejection_s: float = 30.0
    """How long the first ejection lasts; the second twice as long, and so on. As many seconds of good behaviour forget
    one of them."""
    max_ejection_s: float = 300.0
    """Longest ejection, before jitter."""
    jitter_percent: float = 10.0
    """Up to how much longer an ejection lasts at random, so that not all come back at once."""
    max_ejected_percent: float = 50.0
    """Share of the endpoints that may be out at once, in percent, rounded down; but one of two or more always may, and
    the last never. 0 = nobody is ejected."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What an endpoint did since the last sample, over all workers."""

    requests: int = 0
    """That it answered or failed; not those whose client left."""
    failures: int = 0
    """Of these, by the kinds that count."""
    answers: int = 0
    """Whose time is known."""
    log_sum: float = 0.0
    """Sum of the natural logarithms of their times in seconds."""
    log_square_sum: float = 0.0
    """Sum of the squares of these."""


def timed_sample(requests: int, failures: int, bounds_s: Sequence[float], counts: Sequence[int]) -> Sample:
    """A sample with times from a histogram: `counts[i]` answers took up to `bounds_s[i]` and more than the one before;
    the last count is of those beyond all bounds.

    An answer counts as the geometric middle of its bucket. With bounds of 1, 2, 5 per decade the ratio of two endpoints
    is off by 2.24 at worst, so a factor of 3 ejects nobody who takes less than 1.3 times as long.
    """
    middles = [bounds_s[0] / sqrt(2.0)]
    middles += [sqrt(low * high) for low, high in zip(bounds_s, bounds_s[1:], strict=False)]
    middles.append(bounds_s[-1] * sqrt(2.0))
    logs = [(count, log(middle)) for count, middle in zip(counts, middles, strict=True) if count]
    return Sample(
        requests,
        failures,
        sum(count for count, _ in logs),
        sum(count * value for count, value in logs),
        sum(count * value * value for count, value in logs),
    )


@dataclass(frozen=True, slots=True)
class Ejected:
    """An endpoint is left out."""

    endpoint_id: str
    until: float
    reason: str
    strikes: int
    """Ejections that are not forgotten, this one included."""


@dataclass(frozen=True, slots=True)
class Returned:
    """An endpoint may get requests again, as far as ejection goes."""

    endpoint_id: str


class _Record:
    """What is known of one endpoint."""

    __slots__ = ("in_a_row", "returned_at", "strikes", "until", "window")

    def __init__(self, params: OutlierParams) -> None:
        self.window = RollingSums(5, params.window_s)
        self.in_a_row = 0
        self.strikes = 0
        """Ejections that are not forgotten."""
        self.returned_at = 0.0
        self.until: float | None = None
        """When its ejection ends; `None` = it is not ejected."""


# Standard errors by which a difference must exceed chance. Three are exceeded by luck once in 740 windows of equally
# bad endpoints (one-sided), and the percentage, the factor and the share bound what that costs.
_SIGNIFICANT = 3.0


class OutlierDetector:
    """The endpoints of one cluster. Samples and results go in, a sweep says who goes and who comes back."""

    __slots__ = ("_params", "_records", "_rng")

    def __init__(self, params: OutlierParams, rng: Random) -> None:
        self._params = params
        self._rng = rng
        self._records: dict[str, _Record] = {}

    def __repr__(self) -> str:
        return f"OutlierDetector({len(self._records)} endpoints, ejected {sorted(self.ejected())})"

    def update(self, endpoint_ids: Iterable[str]) -> None:
        """These are the cluster's endpoints now; those that stay keep what is known of them."""
        known = self._records
        self._records = {one: known.get(one) or _Record(self._params) for one in endpoint_ids}

    def change(self, params: OutlierParams) -> None:
        """Go by other parameters: ejections stay, and windows too while they are as long."""
        if params.window_s != self._params.window_s:
            for record in self._records.values():
                record.window = RollingSums(5, params.window_s)
        self._params = params

    def resume(self, endpoint_id: str, *, strikes: int, ends_at: float, is_out: bool) -> None:
        """Go on with what a detector before this one knew of a member: its strikes, and when its last ejection ended,
        or, if it `is_out`, ends."""
        record = self._records[endpoint_id]
        record.strikes = strikes
        if is_out:
            record.until = ends_at
        else:
            record.returned_at = ends_at

    def ejected(self) -> dict[str, float]:
        """Who is left out, and until when."""
        return {one: record.until for one, record in self._records.items() if record.until is not None}

    def record(self, endpoint_id: str, sample: Sample, *, now: float) -> None:
        """Take in a sample. Ids that are not members are ignored, here and below: messages may come late."""
        record = self._records.get(endpoint_id)
        if record is not None and record.until is None:
            record.window.add(
                (sample.requests, sample.failures, sample.answers, sample.log_sum, sample.log_square_sum), now
            )

    def on_failure(self, endpoint_id: str) -> bool:
        """A request failed; true when it is time for a sweep."""
        record = self._records.get(endpoint_id)
        if record is None or record.until is not None:
            return False
        record.in_a_row += 1
        return 0 < self._params.consecutive_failures <= record.in_a_row

    def on_success(self, endpoint_id: str) -> None:
        """A request succeeded: the row is over."""
        record = self._records.get(endpoint_id)
        if record is not None:
            record.in_a_row = 0

    def forgive(self, endpoint_id: str) -> None:
        """Something better than statistics found it well (its circuit closed, its checks pass again): begin anew."""
        record = self._records.get(endpoint_id)
        if record is not None:
            record.window.clear()
            record.in_a_row = 0

    def sweep(self, usable: Collection[str], *, now: float) -> list[Ejected | Returned]:
        """Decide who comes back and who goes. `usable` are the members that get requests but for ejection: neither
        drained, nor with an open circuit, nor unhealthy; only they are ejected, and one of them always stays."""
        changes: list[Ejected | Returned] = [Returned(one) for one in self._bring_back(now)]
        sums = {
            one: record.window.sums_at(now) for one, record in self._records.items() if record.until is None
        }
        total = [sum(column) for column in zip(*sums.values(), strict=True)]
        faults = []
        for one in sums:
            is_alone = not self._fail_alike([other for other in sums if other != one], usable)
            if one in usable and (fault := self._fault(one, sums[one], total, is_alone)) is not None:
                faults.append((fault, one))
        room = min(
            self._most_ejected() - len(self.ejected()), len([one for one in usable if one in sums]) - 1
        )
        for (_, _, reason), one in sorted(faults, reverse=True)[: max(room, 0)]:
            record = self._records[one]
            changes.append(Ejected(one, self._eject(record, now), reason, record.strikes))
        return changes

    def _most_ejected(self) -> int:
        """With 50 %: 0 of 1, 1 of 2, 1 of 3, 2 of 4, 5 of 10. With 10 %: 1 of 2 to 19."""
        size, percent = len(self._records), self._params.max_ejected_percent
        return min(max(int(size * percent / 100.0), 1), size - 1) if percent > 0 else 0

    def _bring_back(self, now: float) -> list[str]:
        """End the ejections that are over, and the next ones to end while the fleet is too small for so many."""
        out = sorted((until, one) for one, until in self.ejected().items())
        too_many = len(out) - max(self._most_ejected(), 0)
        back = [one for position, (until, one) in enumerate(out) if until <= now or position < too_many]
        for one in back:
            record = self._records[one]
            record.until, record.returned_at, record.in_a_row = None, now, 0
            record.window.clear()
        return back

    def _eject(self, record: _Record, now: float) -> float:
        params = self._params
        if params.base_ejection_s > 0:
            forgotten = int(max(now - record.returned_at, 0.0) / params.base_ejection_s)
            record.strikes = max(record.strikes - forgotten, 0)
        record.strikes += 1
        lasts_s = min(params.base_ejection_s * record.strikes, params.max_ejection_s)
        record.until = now + lasts_s * (1.0 + params.jitter_percent / 100.0 * self._rng.random())
        return record.until

    def _fail_alike(self, others: Collection[str], usable: Collection[str]) -> bool:
        """Whether most of the others have failures in a row as well, half as many as count at least: they fill up one
        after the other. Those that get no requests say nothing, unless that is why."""
        enough = max(self._params.consecutive_failures // 2, 1)
        failing = [one for one in others if self._records[one].in_a_row >= enough]
        well = [one for one in others if one in usable and one not in failing]
        return len(failing) > len(well)

    def _fault(
        self, endpoint_id: str, own: Sequence[float], total: Sequence[float], is_alone: bool
    ) -> tuple[int, float, str] | None:
        """What is wrong with an endpoint: how bad in kind and in degree, and in words; `None` = nothing.

        `own` are the sums of its window, `total` those of all that are not ejected, its own included; `is_alone` = most
        of the others have no failures in a row.
        """
        params = self._params
        in_a_row = self._records[endpoint_id].in_a_row
        if 0 < params.consecutive_failures <= in_a_row and is_alone:
            return 2, in_a_row, f"{in_a_row} failures in a row"
        rest = [every - mine for every, mine in zip(total, own, strict=True)]
        worse = failures_beyond(own[0], own[1], rest[0], rest[1], params)
        if worse is not None:
            reason = (
                f"{own[1] / own[0]:.0%} of {own[0]:.0f} requests failed, {rest[1] / rest[0]:.0%} elsewhere"
            )
            return 1, worse, reason
        slower = slowness_beyond(own[2:], rest[2:], params)
        if slower is not None:
            took_s = _rough(exp(own[3] / own[2]))
            return 0, slower, f"takes about {took_s} s, {_rough(slower)} times as long as the rest"
        return None


def _rough(number: float) -> str:
    """Two digits, which is what the buckets of a histogram are good for: `0.5`, `5`, `710`."""
    return f"{float(f'{number:.2g}'):g}"


def failures_beyond(
    requests: float, failures: float, rest_requests: float, rest_failures: float, params: OutlierParams
) -> float | None:
    """How much larger its share of failures is than the rest's, 0 to 1; `None` when that is too little or may be luck.

    The standard error of the difference is √(p·(1 - p)·(1/n + 1/m)) with p the share of both together. 5 of 10
    against 0 of 20: p = 1/6, the error is 0.144 and 0.5 is 3.5 of them; 3 of 10 against 0 of 20 is 2.6 of them, and
    may be luck.
    """
    if min(requests, rest_requests) < params.min_requests:
        return None
    worse = failures / requests - rest_failures / rest_requests
    if worse <= 0 or worse * 100.0 < params.failure_percent or params.failure_percent >= 100.0:
        return None
    both = (failures + rest_failures) / (requests + rest_requests)
    error = sqrt(both * (1.0 - both) * (1.0 / requests + 1.0 / rest_requests))
    return worse if worse >= _SIGNIFICANT * error else None


def slowness_beyond(own: Sequence[float], rest: Sequence[float], params: OutlierParams) -> float | None:
    """How many times as long as the rest it takes; `None` when that is too little or may be luck.

    Both are (answers, sum of logarithms, sum of their squares). With 10 answers of e⁰ = 1 s beside 20 of e⁻² = 0.135 s,
    all alike: 7.4 times, without any doubt. Were the logarithms spread by 2 on both sides, the standard error would be
    √(4/10 + 4/20) = 0.77, the difference of 2 only 2.6 of them, and it may be luck.
    """
    if not params.latency_factor or min(own[0], rest[0]) < params.min_requests:
        return None
    mean, variance = _mean_and_variance(own)
    rest_mean, rest_variance = _mean_and_variance(rest)
    factor = exp(mean - rest_mean)
    if factor < params.latency_factor or exp(mean) - exp(rest_mean) < params.latency_floor_s:
        return None
    error = sqrt(variance / own[0] + rest_variance / rest[0])
    return factor if mean - rest_mean >= _SIGNIFICANT * error else None


def _mean_and_variance(sums: Sequence[float]) -> tuple[float, float]:
    count, total, squares = sums
    mean = total / count
    return mean, max(squares / count - mean * mean, 0.0)
