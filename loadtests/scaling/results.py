"""Medians over the seeds, and whether the targets are met."""

from dataclasses import dataclass, field
from statistics import median

from loadtests.peers.results import Verdict
from loadtests.scaling.simulation import Outcome

FIXED, CPU_ONLY, HOMEPORT = "fixed at the peak", "CPU only", "Homeport"
HOURS_LIMIT = 0.5
P99_LIMIT = 1.2


@dataclass(frozen=True, slots=True)
class Cell:
    """What is compared: scalers on one shape of day with one start time."""

    shape: str
    start_s: float


@dataclass(slots=True)
class Results:
    """Everything a run has found out."""

    outcomes: dict[Cell, dict[str, list[Outcome]]] = field(default_factory=dict)
    """By scaler, one for each seed."""

    def median(self, cell: Cell, scaler: str, figure: str) -> float:
        """A field of `Outcome`, over the seeds."""
        return median(getattr(outcome, figure) for outcome in self.outcomes[cell][scaler])

    def ratio(self, cell: Cell, figure: str, other: str) -> float:
        """Ours over another's: the median of the ratios, since a seed is one day for all."""
        runs = self.outcomes[cell]
        pairs = zip(runs[HOMEPORT], runs[other], strict=True)
        return median(getattr(ours, figure) / getattr(theirs, figure) for ours, theirs in pairs)


def verdicts(results: Results) -> list[Verdict]:
    """Every target for each cell."""
    return [
        Verdict(
            f"{cell.shape}, start {cell.start_s:g} s: {words} ≤ {limit:g} × {other}",
            limit,
            results.ratio(cell, figure, other),
        )
        for cell in results.outcomes
        for figure, words, limit, other in (
            ("instance_hours", "instance-hours", HOURS_LIMIT, FIXED),
            ("p99_s", "p99", P99_LIMIT, FIXED),
            ("instance_hours", "instance-hours", 1.0, CPU_ONLY),
            ("p99_s", "p99", 1.0, CPU_ONLY),
        )
    ]
