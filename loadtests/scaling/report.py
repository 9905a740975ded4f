"""What a run found out, as tables for people and as JSON for programs."""

from dataclasses import asdict
from pathlib import Path

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from loadtests.scaling.day import DAY_S, MEAN_RATE, MEAN_SERVICE_S, PEAK_TO_MEAN
from loadtests.scaling.results import FIXED, HOMEPORT, Cell, Results, verdicts
from loadtests.scaling.simulation import GIVE_UP_S, SLOTS

HEADINGS = ("instance-hours", "÷ fixed", "p99 s", "÷ fixed", "mean s", "waited", "gave up", "most", "starts")


def tables(results: Results, style: box.Box = box.SIMPLE_HEAD) -> list[Table]:
    """One for each cell, then the targets."""
    return [*(_cell_table(results, cell, style) for cell in results.outcomes), _target_table(results, style)]


def _cell_table(results: Results, cell: Cell, style: box.Box) -> Table:
    title = f"{cell.shape} day, an instance starts in {cell.start_s:g} s"
    table = Table(title=title, box=style, title_justify="left")
    table.add_column("")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for scaler in results.outcomes[cell]:

        def of(figure: str, scaler: str = scaler) -> float:
            return results.median(cell, scaler, figure)

        hours, p99 = of("instance_hours"), of("p99_s")
        table.add_row(
            scaler,
            f"{hours:.1f}",
            f"{hours / results.median(cell, FIXED, 'instance_hours'):.3f}",
            f"{p99:.3f}",
            f"{p99 / results.median(cell, FIXED, 'p99_s'):.4f}",
            f"{of('mean_s'):.3f}",
            f"{of('waited'):.2%}",
            *(f"{of(figure):.0f}" for figure in ("given_up", "most", "starts")),
            style="bold" if scaler == HOMEPORT else None,
        )
    return table


def _target_table(results: Results, style: box.Box) -> Table:
    table = Table(title="Targets", box=style, title_justify="left")
    table.add_column("target")
    table.add_column("measured", justify="right")
    table.add_column("met")
    for verdict in verdicts(results):
        table.add_row(
            verdict.target, f"{verdict.value:.4f}", "[green]yes[/]" if verdict.is_met else "[red]no[/]"
        )
    return table


def note(seeds: int) -> str:
    """What a reader must know besides the figures."""
    requests = f"{MEAN_RATE * DAY_S / 1e6:.1f} million requests of {MEAN_SERVICE_S:g} s on average"
    return (
        f"Medians of {seeds} days of {requests}, peak to mean {PEAK_TO_MEAN:g}, {SLOTS} slots an instance. Waited: for "
        f"a slot, at all. Gave up: would have been refused after {GIVE_UP_S:g} s; here they waited on. Instances have "
        "no caches to warm up. Target ratios are medians of each day's."
    )


def show(results: Results, seeds: int, console: Console) -> None:
    """Print everything."""
    for table in tables(results):
        console.print(table)
    console.print(note(seeds), markup=False, highlight=False)


def write_json(results: Results, seeds: int, path: Path) -> None:
    """All figures of every run."""
    document = {
        "seeds": seeds,
        "cells": [
            {
                **asdict(cell),
                "scalers": {name: [asdict(each) for each in outcomes] for name, outcomes in runs.items()},
            }
            for cell, runs in results.outcomes.items()
        ],
        "targets": [
            {"target": each.target, "limit": each.limit, "value": each.value, "met": each.is_met}
            for each in verdicts(results)
        ],
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
