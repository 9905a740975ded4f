"""What came of a fault, and tables of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Target:
    """Something that must hold."""

    text: str
    measured: str
    is_met: bool
    is_timing: bool = False
    """Whether a machine that is busy with other things can spoil it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row of the fault table."""

    fault: str
    saw: str
    """What callers saw."""
    lost: str
    targets: tuple[Target, ...]
    setting: str = ""
    """Keys of the configuration that this fault was met with, beyond the defaults."""
    figures: dict[str, float] = field(default_factory=dict)
    """By name with its unit."""

    @property
    def is_met(self) -> bool:
        """All targets."""
        return all(target.is_met for target in self.targets)


def at_most(text: str, value: float, limit: float, unit: str = "", *, is_timing: bool = False) -> Target:
    """`text` must not be above `limit`."""
    relation = f"≤ {limit:,g}" if limit else "= 0"
    return Target(f"{text} {relation}{unit}", f"{_number(value)}{unit}", value <= limit, is_timing)


def at_least(text: str, value: float, limit: float, unit: str = "", *, is_timing: bool = False) -> Target:
    """`text` must not be below `limit`."""
    return Target(f"{text} ≥ {limit:,g}{unit}", f"{_number(value)}{unit}", value >= limit, is_timing)


STRAIGHT_LIMIT_MS = 25.0
"""Above it the client or the endpoint is too slow to measure anything between them."""


def fit(straight_p99_ms: float) -> Target:
    """The load itself must not be what is slow: `straight_p99_ms` is what the client sees without a daemon."""
    return at_most("p99 straight to the endpoint", straight_p99_ms, STRAIGHT_LIMIT_MS, " ms", is_timing=True)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def written(keys: Mapping[str, Any]) -> str:
    """Keys of the configuration, as one writes them."""
    return ", ".join(f"{name}: {_flow(value)}" for name, value in keys.items())


def _flow(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + written(value) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return str(value)


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 request`, `2 requests`, `no request`."""
    if number == 1:
        return f"1 {one}"
    return f"{number:,} {many or one + 's'}" if number else f"no {one}"


_FAULTS = ("fault", "what the caller saw", "what was lost", "met")
_TARGETS = ("fault", "target", "measured", "met")


def as_tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """For people: the faults, and the targets."""
    tables = []
    for headings, rows in ((_FAULTS, _fault_rows(outcomes)), (_TARGETS, _target_rows(outcomes))):
        table = Table(show_lines=headings is _FAULTS)
        for heading in headings:
            table.add_column(heading)
        for row in rows:
            *cells, met = map(escape, row)
            table.add_row(*cells, f"[red]{met}[/red]" if met.startswith("no") else met)
        tables.append(table)
    return tables


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """The same for the README."""
    parts = []
    for headings, rows in ((_FAULTS, _fault_rows(outcomes)), (_TARGETS, _target_rows(outcomes))):
        lines = [_line(headings), "|" + "---|" * len(headings), *map(_line, rows)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _fault_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    return [
        (
            f"{one.fault} ({one.setting})" if one.setting else one.fault,
            one.saw,
            one.lost,
            _verdict(one),
        )
        for one in outcomes
    ]


def _verdict(outcome: Outcome) -> str:
    missed = [target.text for target in outcome.targets if not target.is_met]
    if missed:
        return f"no: {', '.join(missed)}"
    return "yes" if outcome.targets else "–"


def _target_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in outcomes:
        for number, target in enumerate(one.targets):
            fault = one.fault if not number else ""
            rows.append((fault, target.text, target.measured, "yes" if target.is_met else "no"))
    return rows
