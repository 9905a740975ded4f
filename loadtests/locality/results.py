"""Medians over the seeds, the best of the other proxies, ratios, and whether the targets are met."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from loadtests.locality.figures import Figures
from loadtests.locality.peers import BY_NAME
from loadtests.peers.results import Verdict

ORACLE = "oracle"
"""The peer that is none: what simulated policies reach that know everything, the best of them figure by figure."""
DEFAULT_SCENARIOS = ("shift", "shift-1.1")
FULL = 1.0
"""The share of the calibrated rate at which most targets are set."""
CAPACITY_P99_S = 1.0
BUSY_LIMIT = 0.7
"""Share of the machine's cores; beyond it waits for a core are part of what is measured."""
GROWTH_LIMIT = 1.15
"""The second half's p99 over the first's: what a rate is calibrated by; beyond it requests pile up."""
DECISION_LIMITS_US = {10: 10.0, 100: 12.0}
"""CPU of a decision by number of endpoints."""
LAG_LIMIT_S = 0.010
"""99th percentile of how late requests were sent; less than the shortest answer takes."""


@dataclass(frozen=True, slots=True)
class Run:
    """One trace through one proxy."""

    seed: int
    rate: float
    figures: Figures
    cpu_us: float = 0.0
    """CPU of the proxy for each request, its warm-up's and health checks' included."""
    busy: float = 0.0
    """Share of the time in which the cores worked for whomever, 0 to 1."""
    others: float = 0.0
    """The part of it that was not for this comparison."""
    lag_s: float = 0.0
    """99th percentile of how late requests were sent."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is compared: proxies in one scenario under one load."""

    scenario: str
    share: float
    """Of the calibrated rate."""


@dataclass(slots=True)
class Results:
    """Everything a run has found out; filled by `bench`."""

    versions: dict[str, str] = field(default_factory=dict)
    """Of the proxies that ran, in order."""
    absent: dict[str, str] = field(default_factory=dict)
    """Proxies that did not run, and why."""
    missing: list[str] = field(default_factory=list)
    """Single traces that are missing, and why."""
    rates: dict[str, float] = field(default_factory=dict)
    """Calibrated rate by scenario, requests/s."""
    runs: dict[Cell, dict[str, list[Run]]] = field(default_factory=dict)
    """By peer, one for each seed."""
    ladder: dict[Cell, dict[str, list[Run]]] = field(default_factory=dict)
    """The same at more shares of one scenario's rate: where does p99 pass its limit?"""
    decisions_us: dict[int, float] = field(default_factory=dict)
    """CPU of Homeport's choice alone, by number of endpoints."""

    def values(self, cell: Cell, peer: str, figure: str) -> list[float]:
        """A field of `Figures` for each seed; empty when it was not measured."""
        return [getattr(run.figures, figure) for run in self.runs[cell].get(peer, ())]

    def median(self, cell: Cell, peer: str, figure: str) -> float | None:
        """Over the seeds; None when it was not measured."""
        values = self.values(cell, peer, figure)
        return median(values) if values else None

    def best(self, cell: Cell, figure: str) -> float | None:
        """The best median of the other proxies: the largest hit ratio, the least of anything else."""
        found = [
            value
            for peer in self.runs[cell]
            if is_other(peer) and (value := self.median(cell, peer, figure)) is not None
        ]
        if not found:
            return None
        return max(found) if figure == "hit_ratio" else min(found)

    def ratio(self, cell: Cell, peer: str, figure: str) -> float | None:
        """`peer`'s median over the best of the other proxies."""
        value, best = self.median(cell, peer, figure), self.best(cell, figure)
        return None if value is None or not best or math.isinf(best) else value / best

    def capacity(self, peer: str) -> float | None:
        """The rate at which the ladder's p99 passes its limit: between two steps in proportion to the logarithm of p99,
        the last step when it never does, None when it always does or there is no ladder."""
        return _crossing(self._steps(peer), CAPACITY_P99_S)

    def is_beyond(self, peer: str) -> bool:
        """Whether its capacity is more than the ladder's last step."""
        steps = self._steps(peer)
        return bool(steps) and all(p99_s <= CAPACITY_P99_S for _, p99_s in steps)

    def _steps(self, peer: str) -> list[tuple[float, float]]:
        return sorted(
            (
                median(run.rate for run in runs[peer]),
                median(run.figures.p99_s for run in runs[peer]),
            )
            for runs in self.ladder.values()
            if peer in runs
        )

    def best_capacity(self) -> float | None:
        """Of the other proxies; None when that of one of them is not known for being beyond the ladder."""
        peers = {peer for runs in self.ladder.values() for peer in runs if is_other(peer)}
        if any(self.is_beyond(peer) for peer in peers):
            return None
        return max((value for peer in peers if (value := self.capacity(peer)) is not None), default=None)

    def problems(self) -> list[str]:
        """What makes figures doubtful, one line each."""
        found = self.missing[:]
        for cell, peers in (*self.runs.items(), *self.ladder.items()):
            runs = [run for name, runs in peers.items() if name != ORACLE for run in runs]
            where = f"{cell.scenario} at {cell.share:g}"
            if (busy := max((run.busy for run in runs), default=0.0)) > BUSY_LIMIT:
                others = max(run.others for run in runs)
                found.append(
                    f"{where}: the cores were busy {busy:.0%} of the time, {others:.0%} with other work"
                )
            if (lag := max((run.lag_s for run in runs), default=0.0)) > LAG_LIMIT_S:
                found.append(f"{where}: requests were sent up to {lag * 1e3:.0f} ms late")
        for cell in self.runs:
            growth = self.best(cell, "growth")
            if cell.share == FULL and growth is not None and growth > GROWTH_LIMIT:
                where = f"{cell.scenario} at {cell.share:g}"
                found.append(
                    f"{where}: the p99 of every other proxy grew by {growth:.2f} or more: none bears this rate"
                )
        return found

    def beaten(self) -> list[str]:
        """Where somebody does better than the oracle, which knows everything but is not the best that can be done."""
        return [
            f"{peer} does better than the {ORACLE}: {cell.scenario} at {cell.share:g}, {word}"
            for cell, peers in self.runs.items()
            for figure, word in (("p99_s", "p99"), ("mean_s", "mean"), ("hit_ratio", "hit ratio"))
            for peer in peers
            if peer != ORACLE and self._is_better(cell, peer, figure)
        ]

    def _is_better(self, cell: Cell, peer: str, figure: str) -> bool:
        value, oracle = self.median(cell, peer, figure), self.median(cell, ORACLE, figure)
        if value is None or oracle is None:
            return False
        return value > oracle if figure == "hit_ratio" else value < oracle


def is_other(peer: str) -> bool:
    """Neither ours nor the oracle."""
    return peer != ORACLE and not BY_NAME[peer].is_ours


def _crossing(steps: Sequence[tuple[float, float]], limit: float) -> float | None:
    below: tuple[float, float] | None = None
    for rate, value in steps:
        if value > limit:
            if below is None:
                return None
            if math.isinf(value):
                return below[0]
            share = math.log(limit / below[1]) / math.log(value / below[1])
            return below[0] + share * (rate - below[0])
        below = rate, value
    return below[0] if below else None


def verdicts(results: Results) -> list[Verdict]:
    """Every target for each way in which ours was measured."""
    ours = [name for name in results.versions if BY_NAME[name].is_ours]
    decisions = [
        Verdict(
            f"a decision among {count} endpoints: ≤ {limit:g} µs of CPU",
            limit,
            results.decisions_us.get(count),
        )
        for count, limit in DECISION_LIMITS_US.items()
    ]
    return [*(verdict for name in ours for verdict in _of(results, name)), *decisions]


def _of(results: Results, name: str) -> Iterable[Verdict]:
    for cell in results.runs:
        where = f"{name}, {cell.scenario} at {cell.share:g}"
        for figure, word in (("p99_s", "p99"), ("mean_s", "mean")):
            limit = _limit(cell, figure)
            yield Verdict(
                f"{where}: {word} ≤ {limit} × the best other", limit, results.ratio(cell, name, figure)
            )
        best, own = results.best(cell, "hit_ratio"), results.median(cell, name, "hit_ratio")
        behind = None if best is None or own is None else best - own
        yield Verdict(f"{where}: hit ratio at most 0.05 below the best other", 0.05, behind)
    capacity, own = results.best_capacity(), results.capacity(name)
    value = None if capacity is None or own is None else capacity / own
    yield Verdict(f"{name}: best other's rate with a p99 of 1 s ≤ 1/1.15 of ours", round(1 / 1.15, 3), value)


def _limit(cell: Cell, figure: str) -> float:
    if cell.share == FULL and cell.scenario in DEFAULT_SCENARIOS:
        return 0.6 if figure == "p99_s" else 0.75
    if cell.share == FULL and cell.scenario == "slow" and figure == "p99_s":
        return 0.4
    return 1.05
