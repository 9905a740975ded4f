"""What the death of each process costs: `python -m loadtests.processes [--rate 500] [--json FILE]`.

Starts a daemon with two workers for each fault, loads it with requests at a steady rate over several keep-alive
connections and with WebSockets on each worker, does the fault, and tells what failed and how soon all was as before.
Exit code 1 when anything failed that the README's table does not say, or took longer.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtests.crowd import Crowd
from loadtests.daemon import Daemon, Document, is_whole, wait_for
from loadtests.peers.processes import ChildError, Children, free_port

WORKERS = 2
BEFORE_S = 1.0
AFTER_S = 1.0
LOOK_S = 0.01
"""Seconds between two looks whether all is well again."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to one process."""

    name: str
    target: str
    """`worker`, `control` or `parent`."""
    number: signal.Signals
    limit_s: float
    """Seconds until everything must be as before."""


FAULTS = (
    Fault("worker killed (kill -9)", "worker", signal.SIGKILL, 1.0),
    Fault("worker stopped (SIGSTOP)", "worker", signal.SIGSTOP, 1.0),
    Fault("worker in an endless loop", "worker", signal.SIGUSR2, 1.0),
    Fault("control killed (kill -9)", "control", signal.SIGKILL, 2.0),
    Fault("control stopped (SIGSTOP)", "control", signal.SIGSTOP, 2.0),
    Fault("re-exec (SIGUSR2)", "parent", signal.SIGUSR2, 5.0),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a fault."""

    fault: str
    answered: int
    failed: int
    """Requests, of the process that was harmed."""
    failed_elsewhere: int
    closed: int
    """WebSockets, likewise."""
    closed_elsewhere: int
    back_s: float
    """Until the new process served, and everything was as before."""
    reply_gap_s: float
    """Longest time in which no client got a reply."""
    slowest_s: float
    """Longest time that a request took from when it was due."""
    is_met: bool
    """Nothing failed elsewhere, and it was back in time."""


class Trial:
    """One fault, done to a daemon of its own."""

    def __init__(self, fault: Fault, options: argparse.Namespace) -> None:
        self._fault = fault
        self._options = options

    async def run(self, daemon: Daemon) -> Outcome:
        """Load the daemon, do the fault, wait until it is over."""
        crowd = Crowd(
            daemon,
            rate=self._options.rate,
            connections=self._options.connections,
            websockets=self._options.websockets,
            workers=WORKERS,
        )
        await crowd.start()
        try:
            await asyncio.sleep(BEFORE_S)
            before = await asyncio.to_thread(daemon.status)
            victim = self._victim(before, daemon)
            crowd.tally.watched_from = began = time.monotonic()
            os.kill(victim, self._fault.number)
            await asyncio.to_thread(wait_for, lambda: self._is_back(daemon, before), "all to be as before")
            back_s = time.monotonic() - began
            await asyncio.sleep(AFTER_S)
        finally:
            await crowd.stop()
        return self._outcome(crowd, victim, back_s)

    def _victim(self, status: Document, daemon: Daemon) -> int:
        if self._fault.target == "worker":
            return int(max(status["workers"], key=lambda one: one["connections"])["pid"])
        return int(status["control"]["pid"]) if self._fault.target == "control" else daemon.pid

    def _is_back(self, daemon: Daemon, before: Document) -> bool:
        try:
            after = daemon.status()
        except OSError:
            return False
        if not is_whole(after):
            return False
        if self._fault.target == "parent":
            return not {one["pid"] for one in before["workers"]} & {
                one["pid"] for one in after["workers"] if one["state"] == "serving"
            }
        if self._fault.target == "control":
            return bool(after["control"]["pid"] != before["control"]["pid"])
        return {one["pid"] for one in after["workers"]} != {one["pid"] for one in before["workers"]}

    def _outcome(self, crowd: Crowd, victim: int, back_s: float) -> Outcome:
        tally = crowd.tally
        elsewhere = sum(tally.failed.values()) - tally.failed.get(victim, 0)
        closed_elsewhere = sum(tally.closed.values()) - tally.closed.get(victim, 0)
        return Outcome(
            fault=self._fault.name,
            answered=tally.answered,
            failed=tally.failed.get(victim, 0),
            failed_elsewhere=elsewhere,
            closed=tally.closed.get(victim, 0),
            closed_elsewhere=closed_elsewhere,
            back_s=round(back_s, 3),
            reply_gap_s=round(tally.reply_gap_s, 3),
            slowest_s=round(tally.slowest_s, 3),
            is_met=not elsewhere and not closed_elsewhere and back_s <= self._fault.limit_s,
        )


def run_all(options: argparse.Namespace, on_done: Callable[[Outcome], None]) -> list[Outcome]:
    """One trial after the other. Raises `ChildError`."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="homeport-processes-") as folder:
        with Children(Path(folder)) as children:
            port = free_port()
            command = [sys.executable, "-m", "loadtests.echo", str(port)]
            origin = children.start("origin", command, sorted(os.sched_getaffinity(0)))
            origin.wait_for_port(port)
            for number, fault in enumerate(chosen(options.only)):
                daemon = Daemon(children, Path(folder) / str(number), port, workers=WORKERS)
                outcomes.append(asyncio.run(Trial(fault, options).run(daemon)))
                children.stop(daemon.child)
                on_done(outcomes[-1])
    return outcomes


def chosen(words: Sequence[str]) -> list[Fault]:
    """The faults whose names hold one of `words`; without words all."""
    return [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """For people."""
    table = Table(title="of the process that was harmed + of others")
    for heading in ("fault", "failed", "closed", "back", "gap", "slowest", "met"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for one in outcomes:
        table.add_row(
            one.fault,
            f"{one.failed} + {one.failed_elsewhere}",
            f"{one.closed} + {one.closed_elsewhere}",
            f"{one.back_s:.2f} s",
            f"{one.reply_gap_s:.2f} s",
            f"{one.slowest_s:.2f} s",
            "yes" if one.is_met else "no",
        )
    return table


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.processes", description=__doc__)
    parser.add_argument("--rate", type=float, default=500.0, help="requests/s")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--websockets", type=int, default=50, help="on each worker")
    parser.add_argument("--only", nargs="*", default=(), metavar="WORD", help="faults whose name has it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("faults", total=len(chosen(options.only)))

            def on_done(outcome: Outcome) -> None:
                progress.update(task, advance=1, description=outcome.fault)

            outcomes = run_all(options, on_done)
    except ChildError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    console.print(as_table(outcomes))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
    return 0 if all(one.is_met for one in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
