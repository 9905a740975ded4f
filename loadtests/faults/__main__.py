"""What users notice of each fault: `python -m loadtests.faults [--only WORD …] [--quick] [--json FILE]`.

Does each fault to a daemon with two workers and endpoints of its own, over sockets of this machine, while clients go
on, and prints a row of the fault table for it: what callers saw, what was lost, and whether the targets are met. Takes
about ten minutes; the machine should have nothing else to do, for what is measured in milliseconds. Exit code 1 when a
target is missed.
"""

import argparse
import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from loadtests.faults.bench import QUICK, Bench, Sizes
from loadtests.faults.catalogue import Scenario, chosen
from loadtests.faults.outcome import Outcome, Target, as_markdown, as_tables
from loadtests.peers.memory import raise_descriptor_limit
from loadtests.peers.processes import ChildError, Children

LEAST_WIDTH = 150
"""Columns of the table where the output is no terminal."""


def run_one(scenario: Scenario, sizes: Sizes, on_progress: Callable[[float], None]) -> Outcome:
    """One scenario, from start to end. Raises `ChildError`."""
    with (
        tempfile.TemporaryDirectory(prefix="homeport-faults-") as folder,
        Children(Path(folder)) as children,
    ):
        bench = Bench(children, Path(folder), sizes, on_progress)
        outcome = scenario.run(bench)
        found = bench.complaints()
        if found:
            own = Target("errors in the daemon's log = 0", f"{len(found)}: {found[0]}", is_met=False)
            outcome = replace(outcome, targets=(*outcome.targets, own))
        return outcome


def run_all(scenarios: Sequence[Scenario], sizes: Sizes, progress: Progress) -> Iterator[Outcome]:
    """One after the other."""
    whole = progress.add_task("all", total=len(scenarios))
    for number, scenario in enumerate(scenarios):
        task = progress.add_task(scenario.name, total=1.0)

        def on_progress(share: float, task: TaskID = task, number: int = number) -> None:
            progress.update(task, completed=share)
            progress.update(whole, completed=number + share)

        try:
            outcome = run_one(scenario, sizes, on_progress)
        except (ChildError, OSError) as error:
            own = Target("it can be measured", str(error), is_met=False)
            outcome = Outcome(scenario.name, "–", "–", (own,))
        on_progress(1.0)
        mark = "[green]met[/green]" if outcome.is_met else "[red]missed[/red]"
        progress.update(task, description=f"{scenario.name}: {mark}")
        yield outcome


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", default=(), metavar="WORD", help="scenarios whose name has it")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: does it run?")
    parser.add_argument("--kills", type=int, help=f"of an endpoint (default {Sizes().kills})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args(arguments)
    if not chosen(options.only):
        parser.error("no scenario has any of these words")
    return options


def _end(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt  # so that what was started is ended


def main() -> int:
    """Command line; returns the exit code."""
    options = parse()
    signal.signal(signal.SIGTERM, _end)
    raise_descriptor_limit()
    sizes = QUICK if options.quick else Sizes()
    if options.kills is not None:
        sizes = replace(sizes, kills=options.kills)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(LEAST_WIDTH, console.width))
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    outcomes: list[Outcome] = []
    is_cut = False
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            for outcome in run_all(chosen(options.only), sizes, progress):
                outcomes.append(outcome)
    except KeyboardInterrupt:
        is_cut = True  # what was measured is told
    for table in as_tables(outcomes):
        console.print(table)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(as_markdown(outcomes))
    if is_cut:
        return 130
    return 0 if all(one.is_met for one in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
