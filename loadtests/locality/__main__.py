"""`python -m loadtests.locality`: Homeport and other proxies in front of services that hold data."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from loadtests.locality import peers, report, trace
from loadtests.locality.bench import Bench, Settings
from loadtests.peers.processes import ChildError, Children

LEAST_WIDTH = 150
"""Columns of the tables where the output is no terminal."""
DEFAULT_PEERS = tuple(peer.name for peer in peers.PEERS if peer.name != "homeport-hash")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; ends the process with a usage text when they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.locality", description=__doc__)
    add = parser.add_argument
    add("--scenarios", nargs="+", choices=sorted(trace.BY_NAME), help="only these")
    add("--peers", nargs="+", choices=sorted(peers.BY_NAME), default=DEFAULT_PEERS, help="only these proxies")
    add("--seeds", type=int, default=5, help="traces of each scenario and rate (default 5)")
    add("--rates", type=float, nargs="+", default=[0.78, 1.0], metavar="SHARE",
        help="shares of the calibrated rate (default 0.78 1.0)")  # fmt: skip
    add(
        "--calibrated",
        type=float,
        metavar="RATE",
        help="requests/s, instead of each scenario's calibrated rate",
    )
    add("--seconds", type=float, default=32.0, help="of each trace, that count (default 32)")
    add("--warm-up", type=float, default=8.0, help="seconds before them (default 8)")
    add("--capacity", type=int, default=0, metavar="SEEDS",
        help="traces for the rate with a p99 of 1 s in the first scenario (default 0: leave it out)")  # fmt: skip
    add(
        "--at-once",
        type=int,
        metavar="N",
        help="proxies measured together (default: as many as the cores bear)",
    )
    add("--silent", action="store_true", help="the services do not tell hits from misses")
    add("--resume", type=Path, metavar="FILE", help="go on with what an earlier run wrote by --json")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--png", type=Path, metavar="FILE", help="draw the figures")
    add("--markdown", type=Path, metavar="FILE", help="write the tables in Markdown")
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace) -> Settings:
    """What the options ask for."""
    return Settings(
        peers=tuple(peer for peer in peers.PEERS if peer.name in options.peers),
        scenarios=tuple(
            each for each in trace.SCENARIOS if not options.scenarios or each.name in options.scenarios
        ),
        seeds=max(1, options.seeds),
        shares=tuple(options.rates),
        seconds=options.seconds,
        warm_up_s=options.warm_up,
        rate=options.calibrated,
        ladder_seeds=options.capacity,
        at_once=options.at_once,
        is_silent=options.silent,
    )


def _end(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt  # so that the contexts below end what was started


def main() -> int:
    """Exit status: 0 all measured, 1 something did not run or is doubtful, 2 nothing could be measured, 130 Ctrl-C."""
    options = parse(sys.argv[1:])
    chosen = settings(options)
    try:
        before = report.read_json(options.resume, chosen) if options.resume else None
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(LEAST_WIDTH, console.width))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    bench: Bench | None = None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="homeport-locality-") as directory,
            Children(Path(directory)) as children,
            Progress(
                *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
            ) as progress,
        ):
            task = progress.add_task("", total=chosen.steps(), completed=-1)

            def on_step(text: str) -> None:
                progress.update(task, description=text, advance=1)

            bench = Bench(chosen, children, Path(directory), on_step, before)
            bench.run()
    except ChildError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if bench is None or not bench.results.runs:
            return 130
        console.print("interrupted: what was measured until then")
    results = bench.results
    if not results.versions:
        for name, reason in results.absent.items():
            print(f"{name} did not run: {reason}", file=sys.stderr)
        return 2
    report.show(results, console)
    if options.json:
        report.write_json(results, chosen, options.json)
    if options.markdown:
        report.write_markdown(results, options.markdown)
    if options.png:
        from loadtests.locality.picture import draw  # matplotlib takes a second to import

        draw(results, options.png)
    return 1 if results.problems() or results.absent else 0


if __name__ == "__main__":
    sys.exit(main())
