"""What users notice of containers that come and go: `python -m loadtests.containers [--only WORD …] [--quick]`.

Has a daemon run containers at a real Docker Engine, under load, and does to them what people, deployments and crashes
do. Prints a table of what callers saw and whether targets are met. It needs an engine (DOCKER_HOST, or the usual
socket), a C compiler for the image of its service, and root for the rows in which an engine of its own is restarted.
Exit code 1 when a target is missed.
"""

import argparse
import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from loadtests.containers import by_hand, changes, restarts
from loadtests.containers.engine import Engine
from loadtests.containers.fleet import QUICK, Bench, Sizes
from loadtests.documents import machine
from loadtests.faults.outcome import Outcome, Target, as_markdown, as_tables
from loadtests.peers.memory import raise_descriptor_limit
from loadtests.peers.processes import ChildError, Children

LEAST_WIDTH = 150
"""Columns of the table where the output is no terminal."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that is done to containers of a daemon of its own."""

    name: str
    run: Callable[[Bench], Outcome]


def at_engine(run: Callable[[Bench, Engine], Outcome]) -> Callable[[Bench], Outcome]:
    """`run` at the engine of this machine, with its image."""

    def scenario(bench: Bench) -> Outcome:
        engine = Engine()
        engine.build()
        return run(bench, engine)

    return scenario


SCENARIOS = (
    *(Scenario(ending.title, at_engine(partial(by_hand.run, ending=ending))) for ending in by_hand.ENDINGS),
    Scenario("deploy: good", at_engine(changes.deploy_good)),
    Scenario("deploy: fails its checks", at_engine(partial(changes.deploy_bad, what="health"))),
    Scenario("deploy: answers 500", at_engine(partial(changes.deploy_bad, what="500"))),
    Scenario("sizes: 2 → 8 → 2", at_engine(changes.sizes)),
    Scenario("burst", at_engine(changes.burst)),
    Scenario("dockerd restarted, with live-restore", partial(restarts.run, live_restore=True)),
    Scenario("dockerd restarted, without live-restore", partial(restarts.run, live_restore=False)),
)


def chosen(words: Sequence[str]) -> list[Scenario]:
    """The scenarios whose names hold one of `words`; without words all."""
    return [one for one in SCENARIOS if not words or any(word.lower() in one.name.lower() for word in words)]


def run_all(scenarios: Sequence[Scenario], sizes: Sizes, progress: Progress) -> Iterator[Outcome]:
    """One after the other. One that cannot be measured is a row that says why."""
    for scenario in scenarios:
        task = progress.add_task(scenario.name, total=1.0)
        with tempfile.TemporaryDirectory(prefix="homeport-containers-") as folder:
            with Children(Path(folder)) as children:
                bench = Bench(children, Path(folder), sizes, partial(_advance, progress, task))
                try:
                    outcome = scenario.run(bench)
                except (ChildError, OSError) as error:
                    own = Target("it can be measured", str(error), is_met=False)
                    outcome = Outcome(scenario.name, "–", "–", (own,))
        mark = "[green]met[/green]" if outcome.is_met else "[red]missed[/red]"
        progress.update(task, completed=1.0, description=f"{scenario.name}: {mark}")
        yield outcome


def _advance(progress: Progress, task: TaskID, share: float) -> None:
    progress.update(task, completed=share)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.containers", description=__doc__)
    parser.add_argument("--only", nargs="+", default=(), metavar="WORD", help="scenarios whose name has it")
    parser.add_argument("--quick", action="store_true", help="one round, a third of the load: does it run?")
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
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(LEAST_WIDTH, console.width))
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    outcomes: list[Outcome] = []
    is_cut = False
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            for outcome in run_all(chosen(options.only), QUICK if options.quick else Sizes(), progress):
                outcomes.append(outcome)
    except KeyboardInterrupt:
        is_cut = True  # what was measured is told
    for table in as_tables(outcomes):
        console.print(table)
    if options.json is not None:
        document = {"machine": machine(), "outcomes": [asdict(one) for one in outcomes]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(as_markdown(outcomes))
    if is_cut:
        return 130
    return 0 if all(one.is_met for one in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
