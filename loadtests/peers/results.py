"""Medians over the rounds, ratios, and whether the targets are met."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.peers.load import Sample
from loadtests.peers.memory import Held
from loadtests.peers.rows import BY_NAME, SATURATION

SUBJECT = "homeport"
SUBJECTS = (SUBJECT, "homeport-compiled")
"""Those that the targets are for."""
KIB = 1024
GIB = 1024**3


@dataclass(slots=True)
class Results:
    """Everything a run has found out; filled by `bench`."""

    versions: dict[str, str] = field(default_factory=dict)
    """Program versions of the proxies that ran, in order."""
    absent: dict[str, str] = field(default_factory=dict)
    """Proxies that did not run, and why."""
    missing_duties: dict[str, list[str]] = field(default_factory=dict)
    """Forwarding headers that a proxy does not produce. A proxy without them works less per request."""
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    """By row and proxy, one each round."""
    idle: dict[str, Held] = field(default_factory=dict)
    stalled: dict[str, Held] = field(default_factory=dict)

    def add(self, row: str, proxy: str, sample: Sample) -> None:
        """Take one measurement."""
        self.samples.setdefault((row, proxy), []).append(sample)

    def median(self, row: str, proxy: str, figure: str) -> float | None:
        """Median of a `Sample` field over the valid rounds; None when no round is valid."""
        valid = [getattr(each, figure) for each in self.samples.get((row, proxy), ()) if not each.problems]
        return statistics.median(valid) if valid else None

    def others(self) -> float:
        """Median share of the proxy's core that other programs had during the measurements, 0 to 1."""
        return statistics.median([s.others for samples in self.samples.values() for s in samples] or [0.0])

    def idle_bytes(self, proxy: str) -> float | None:
        """Resident bytes of the proxy for one idle connection."""
        held = self.idle.get(proxy)
        return None if held is None or held.problems else held.rss_bytes / held.connections

    def stalled_bytes(self, proxy: str) -> float | None:
        """Bytes of the proxy and the kernel for one stalled reader."""
        held = self.stalled.get(proxy)
        return None if held is None or held.problems else held.total_bytes / held.connections

    def stalled_kernel_bytes(self, proxy: str) -> float | None:
        """The kernel's part of `stalled_bytes`."""
        held = self.stalled.get(proxy)
        return None if held is None or held.problems else held.kernel_bytes / held.connections

    def problems(self) -> list[str]:
        """Every invalid measurement, one line each."""
        found = [
            f"{BY_NAME[row].title}, {proxy}, round {number}: {'; '.join(sample.problems)}"
            for (row, proxy), samples in self.samples.items()
            for number, sample in enumerate(samples, 1)
            if sample.problems
        ]
        for title, all_held in (("idle connections", self.idle), ("stalled readers", self.stalled)):
            found += [
                f"{title}, {proxy}: {'; '.join(h.problems)}" for proxy, h in all_held.items() if h.problems
            ]
        return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, and what came out."""

    target: str
    limit: float
    value: float | None
    """In the unit of the limit; None when one of the figures is not there."""
    is_least: bool = False
    """The limit is the least that will do, else the most."""

    @property
    def is_met(self) -> bool | None:
        """None when there is nothing to judge."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.is_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Ratio:
    """A target of the form: our figure of a row is at most, or at least, `limit` times another proxy's."""

    row: str
    figure: str
    other: str
    limit: float
    is_least: bool = False

    @property
    def relation(self) -> str:
        """How our figure is to compare."""
        return "≥" if self.is_least else "≤"


# CPU time for the throughput rows, because it says the same on a machine that is busy otherwise.
RATIOS = (
    Ratio("headers", "cpu_us", "haproxy", 1.8),
    Ratio("headers", "cpu_us", "haproxy", 1.5),
    Ratio("headers", "cpu_us", "envoy", 0.5),
    Ratio("10k", "cpu_us", "haproxy", 1.6),
    *(
        Ratio(row, "cpu_us", other, 1.0)
        for row in ("1m", "1m-chunked", "upload", "upload-chunked")
        for other in ("haproxy", "envoy")
    ),
    Ratio("half", "p99_ms", "haproxy", 2.0),
    Ratio("tls", "cpu_us", "haproxy", 1.8),
    Ratio("handshakes", "rps", "haproxy", 0.5, is_least=True),
)
STRETCH = RATIOS[1]
IDLE_LIMIT_KIB = 5.0
STALLED_READERS = 5000
STALLED_LIMIT_GIB = 1.5
TWO_WORKERS_LIMIT = 1.1
FIGURES = {"cpu_us": "CPU", "p99_ms": "p99", "rps": "requests/s"}


def ratio(results: Results, row: str, figure: str, proxy: str, other: str) -> float | None:
    """`proxy`'s median over `other`'s."""
    ours, theirs = results.median(row, proxy, figure), results.median(row, other, figure)
    return None if ours is None or not theirs else ours / theirs


def verdicts(results: Results, subject: str = SUBJECT) -> list[Verdict]:
    """Every target, met by `subject` or not."""
    found = [
        Verdict(
            f"{BY_NAME[each.row].title}: {FIGURES[each.figure]} {each.relation} {each.limit} × {each.other}"
            + (" (stretch)" if each is STRETCH else ""),
            each.limit,
            ratio(results, each.row, each.figure, subject, each.other),
            each.is_least,
        )
        for each in RATIOS
    ]
    two_workers = ratio(results, SATURATION.name, "cpu_us", f"{subject}-2w", subject)
    found.append(
        Verdict(
            f"{SATURATION.title}: CPU of two workers on a core ≤ {TWO_WORKERS_LIMIT} × one",
            TWO_WORKERS_LIMIT,
            two_workers,
        )
    )
    per_idle, per_stalled = results.idle_bytes(subject), results.stalled_bytes(subject)
    found.append(
        Verdict("idle connection: ≤ 5 KiB", IDLE_LIMIT_KIB, None if per_idle is None else per_idle / KIB)
    )
    # A shorter run holds fewer readers; each costs the same, so the sum is for the stated number.
    total = None if per_stalled is None else per_stalled * STALLED_READERS / GIB
    found.append(Verdict(f"{STALLED_READERS} stalled readers: ≤ 1.5 GiB", STALLED_LIMIT_GIB, total))
    return found


def spread(samples: Sequence[Sample], figure: str) -> float:
    """Largest over smallest of the valid rounds, 1.0 when they agree; NaN with fewer than two."""
    valid = [getattr(each, figure) for each in samples if not each.problems]
    return max(valid) / min(valid) if len(valid) > 1 and min(valid) > 0 else math.nan
