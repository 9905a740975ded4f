"""`python -m loadtests.peers`: the command line of the comparison."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.peers import proxies, report, rows
from loadtests.peers.bench import Bench, Settings
from loadtests.peers.processes import ChildError, Children

LEAST_WIDTH = 130
"""Columns of the tables where the output is no terminal."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; ends the process with a usage text when they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.peers", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often all proxies take their turn (default 3)"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement (default 4)")
    parser.add_argument(
        "--rows", nargs="*", choices=sorted(rows.BY_NAME), help="only these (none: memory rows only)"
    )
    parser.add_argument("--peers", nargs="+", choices=sorted(proxies.BY_NAME), help="only these proxies")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections; 0 leaves the row out")
    parser.add_argument("--stalled", type=int, default=5_000, help="stalled readers; 0 leaves the row out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables in Markdown")
    parser.add_argument(
        "--quick", action="store_true", help="one short round, a tenth of the connections: is all well?"
    )
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace) -> Settings:
    """What the options ask for; --quick wins over the numbers."""
    chosen = proxies.PROXIES if options.peers is None else [proxies.BY_NAME[name] for name in options.peers]
    wanted = rows.ROWS if options.rows is None else [rows.BY_NAME[name] for name in options.rows]
    return Settings(
        proxies=tuple(chosen),
        rows=tuple(wanted),
        rounds=1 if options.quick else max(1, options.rounds),
        seconds=1.0 if options.quick else options.seconds,
        warm_up_s=0.0 if options.quick else 1.0,
        idle=options.idle // 10 if options.quick else options.idle,
        stalled=options.stalled // 10 if options.quick else options.stalled,
    )


def _end(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt  # so that the contexts below end what was started


def main() -> int:
    """Exit status: 0 all measured, 1 something was invalid or did not run, 2 nothing could be measured, 130
    Ctrl-C."""
    options = parse(sys.argv[1:])
    chosen = settings(options)
    signal.signal(signal.SIGTERM, _end)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(LEAST_WIDTH, console.width))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    try:
        with (
            # In memory where there is such a place: the origin's files must not be limited by a disk.
            tempfile.TemporaryDirectory(prefix="homeport-peers-", dir=_memory_directory()) as directory,
            Children(Path(directory)) as children,
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ):
            results = Bench(chosen, children, Path(directory), progress).run()
    except ChildError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    report.show(results, console)
    if options.json:
        report.write_json(results, chosen, options.json)
    if options.markdown:
        report.write_markdown(results, options.markdown)
    if options.png:
        from loadtests.peers.picture import draw  # matplotlib takes a second to import

        draw(results, options.png)
    return 1 if results.problems() or results.absent else 0


def _memory_directory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
