"""`python -m loadtests.scaling`: a day of load in virtual time, and what each scaler makes of it."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.scaling import report
from loadtests.scaling.day import SHAPES, Day, day
from loadtests.scaling.results import CPU_ONLY, FIXED, HOMEPORT, Cell, Results, verdicts
from loadtests.scaling.scalers import CpuOnly, Fixed, Homeport
from loadtests.scaling.simulation import FleetScaler, Simulation

LEAST_WIDTH = 120
"""Columns of the tables where the output is no terminal."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; ends the process with a usage text when they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.scaling", description=__doc__)
    add = parser.add_argument
    add("--shapes", nargs="+", choices=sorted(SHAPES), default=list(SHAPES), help="only these days")
    add("--starts", nargs="+", type=float, default=[3.0, 20.0], metavar="SECONDS",
        help="how long an instance takes to start (default 3 20)")  # fmt: skip
    add("--seeds", type=int, default=3, help="days of each shape (default 3)")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    return parser.parse_args(arguments)


def scalers(load: Day) -> Iterator[tuple[str, FleetScaler]]:
    """Everybody, new for each run."""
    yield FIXED, Fixed(load)
    yield CPU_ONLY, CpuOnly()
    yield HOMEPORT, Homeport()


def run(options: argparse.Namespace, progress: Progress) -> Results:
    """All runs; a fixed fleet has nothing to start, and runs once for all start times."""
    results = Results()
    task = progress.add_task("", total=len(options.shapes) * options.seeds * len(options.starts) * 3)
    for shape in options.shapes:
        for seed in range(1, options.seeds + 1):
            progress.update(task, description=f"{shape} day {seed}")
            load = day(shape, seed)
            fixed = Simulation(load, Fixed(load), start_s=0.0).run()
            for start_s in options.starts:
                runs = results.outcomes.setdefault(Cell(shape, start_s), {})
                for name, scaler in scalers(load):
                    outcome = fixed if name == FIXED else Simulation(load, scaler, start_s).run()
                    runs.setdefault(name, []).append(outcome)
                    progress.advance(task)
    return results


def main() -> int:
    """Exit status: 0 all targets are met, 1 not all, 130 Ctrl-C."""
    options = parse(sys.argv[1:])
    options.seeds = max(1, options.seeds)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(LEAST_WIDTH, console.width))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            results = run(options, progress)
    except KeyboardInterrupt:
        return 130
    report.show(results, options.seeds, console)
    if options.json:
        report.write_json(results, options.seeds, options.json)
    return 0 if all(verdict.is_met for verdict in verdicts(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
