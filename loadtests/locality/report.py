"""What a run found out, as tables for people and as JSON for programs."""

import math
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from loadtests import documents
from loadtests.locality.bench import Settings
from loadtests.locality.figures import Figures
from loadtests.locality.results import ORACLE, Cell, Results, Run, verdicts
from loadtests.locality.trace import BY_NAME
from loadtests.peers.report import verdict_table

ABSENT = "–"
MS = 1000


def tables(results: Results, style: box.Box = box.SIMPLE_HEAD) -> list[Table]:
    """One for each scenario and load, then the capacity and the targets."""
    made = [_cell_table(results, cell, style) for cell in results.runs]
    if results.ladder:
        made.append(_ladder_table(results, style))
    return [*made, verdict_table(verdicts(results), style)]


def _cell_table(results: Results, cell: Cell, style: box.Box) -> Table:
    runs = results.runs[cell]
    rate = cell.share * results.rates[cell.scenario]
    seeds = max(map(len, runs.values()), default=0)
    title = (
        f"{BY_NAME[cell.scenario].title}: {rate:.0f} requests/s = {cell.share:g} of what the best other bears"
    )
    table = Table(title=f"{title} ({seeds} seeds)", box=style, title_justify="left")
    table.add_column("")
    for heading in (
        "hit ratio",
        "mean ms",
        "p50 ms",
        "p99 ms",
        "range",
        "p99 ÷ best",
        "mean ÷ best",
        "growth",
    ):
        table.add_column(heading, justify="right")
    table.add_column("failed", justify="right")
    table.add_column("proxy's CPU µs", justify="right")
    for name in (*results.versions, ORACLE):
        if found := runs.get(name):
            table.add_row(name, *_figures(results, cell, name), _cpu(found), style=_style(results, name))
    return table


def _style(results: Results, name: str) -> str | None:
    return "dim" if name == ORACLE else "bold" if name == next(iter(results.versions), "") else None


def _figures(results: Results, cell: Cell, name: str) -> list[str]:
    def of(figure: str, unit: float = 1.0, form: str = ".2f") -> str:
        value = results.median(cell, name, figure)
        return ABSENT if value is None else format(value * unit, form)

    p99 = [value * MS for value in results.values(cell, name, "p99_s")]
    ratios = [results.ratio(cell, name, figure) for figure in ("p99_s", "mean_s")]
    return [
        of("hit_ratio", form=".3f"),
        of("mean_s", MS, ".0f"),
        of("p50_s", MS, ".0f"),
        of("p99_s", MS, ".0f"),
        f"{min(p99):.0f}–{max(p99):.0f}",
        *(ABSENT if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        of("growth"),
        str(sum(run.figures.failed for run in results.runs[cell][name])),
    ]


def _cpu(runs: list[Run]) -> str:
    used = median(run.cpu_us for run in runs)
    return f"{used:.0f}" if used else ABSENT


def _ladder_table(results: Results, style: box.Box) -> Table:
    title = "Highest rate with a p99 of 1 s, requests/s"
    table = Table(title=title, box=style, title_justify="left")
    table.add_column("")
    table.add_column("rate", justify="right")
    for name in results.versions:
        capacity = results.capacity(name)
        sign = "≥ " if results.is_beyond(name) else ""
        table.add_row(name, ABSENT if capacity is None else f"{sign}{capacity:.0f}")
    return table


def notes(results: Results) -> list[str]:
    """What a reader must know besides the figures."""
    versions = "; ".join(f"{name} {version}" for name, version in results.versions.items())
    runs = [run for peers in results.runs.values() for found in peers.values() for run in found]
    busy, others = (max((getattr(run, share) for run in runs), default=0.0) for share in ("busy", "others"))
    said = [
        f"Medians of seeds; best = the best median of the other proxies; {ORACLE} = simulated policies that know "
        "everything beforehand, the best of them figure by figure. A failed request counts as one that takes for ever, "
        "except in the mean. What the best other bears comes from the simulation; growth tells whether it does here.",
        f"{versions}. The cores were busy {busy:.0%} of the time at most, other programs had {others:.0%} at most.",
    ]
    said += [f"{name} did not run: {reason}" for name, reason in results.absent.items()]
    return said + results.beaten() + [f"doubtful: {problem}" for problem in results.problems()]


def show(results: Results, console: Console) -> None:
    """Print everything."""
    documents.show(tables(results), notes(results), console)


def write_markdown(results: Results, path: Path) -> None:
    """The tables for a document."""
    documents.write_markdown(tables(results, box.MARKDOWN), notes(results), path)


def write_json(results: Results, settings: Settings, path: Path) -> None:
    """All figures of every run, and the machine they are from."""
    document = {
        "machine": documents.machine(),
        "settings": {**_alike(settings), "seeds": settings.seeds, "at_once": settings.at_once},
        "versions": results.versions,
        "absent": results.absent,
        "missing": results.missing,
        "rates": results.rates,
        "cells": _cells(results.runs),
        "ladder": _cells(results.ladder),
        "decisions_us": {str(count): cost for count, cost in results.decisions_us.items()},
        "capacity": {name: results.capacity(name) for name in results.versions},
        "targets": [
            {"target": v.target, "limit": v.limit, "value": v.value, "met": v.is_met}
            for v in verdicts(results)
        ],
        "problems": results.problems(),
    }
    path.write_bytes(orjson.dumps(_finite(document), option=orjson.OPT_INDENT_2))


def read_json(path: Path, settings: Settings) -> Results:
    """What `write_json` wrote, to be gone on with. Raises ValueError when it is of another kind of run, or none."""
    try:
        document = orjson.loads(path.read_bytes())
        told = {name: document["settings"][name] for name in _alike(settings)}
        if told != _alike(settings):
            raise ValueError(f"{path} is from a run with {told}, expected {_alike(settings)}")
        return Results(
            versions=document["versions"],
            missing=document["missing"],
            rates=document["rates"],
            runs=_runs(document["cells"]),
            ladder=_runs(document["ladder"]),
            decisions_us={int(count): cost for count, cost in document["decisions_us"].items()},
        )
    except (OSError, KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be gone on with: {error!r}") from error


def _alike(settings: Settings) -> dict[str, object]:
    """What must be the same for runs to be compared."""
    return {
        "seconds": settings.seconds,
        "warm_up_s": settings.warm_up_s,
        "is_silent": settings.is_silent,
    }


def _runs(cells: list[dict[str, Any]]) -> dict[Cell, dict[str, list[Run]]]:
    return {
        Cell(cell["scenario"], cell["share"]): {
            name: [_run(run) for run in found] for name, found in cell["peers"].items()
        }
        for cell in cells
    }


def _run(told: dict[str, Any]) -> Run:
    known = {name: math.inf if value is None else value for name, value in told["figures"].items()}
    return Run(**{**told, "figures": Figures(**known)})


def _cells(runs: dict[Cell, dict[str, list[Run]]]) -> list[dict[str, object]]:
    return [
        {**asdict(cell), "peers": {name: [asdict(run) for run in found] for name, found in peers.items()}}
        for cell, peers in runs.items()
    ]


def _finite(value: object) -> object:
    """JSON has no infinity: null stands for it."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
