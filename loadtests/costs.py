"""What costs what in the proxy: `python -m loadtests.costs [--row headers] [--by-data] [--seconds 5]`.

Two views of one load, in turn because the first disturbs the second: by Python function (the sampler of
`sampled.py`) and by program part (the kernel, the interpreter, uvloop, httptools), for which `perf` is
needed. Shares of the proxy's CPU time; multiplied by the CPU time per request, which is printed too,
microseconds.

`--row locality` is the policy of data locality alone, in this process: a choice and its answer, by number of
endpoints."""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests import sampled
from loadtests.locality import decision
from loadtests.peers import origin, proxies, rows
from loadtests.peers.bench import cores
from loadtests.peers.certificate import write_certificate
from loadtests.peers.configs import Place
from loadtests.peers.load import Generator
from loadtests.peers.processes import Child, ChildError, Children, free_port
from loadtests.peers.verify import check_row, wait_until_forwarding

SHOWN = 24
PERF_HZ = 997  # a prime, so as not to fall into step with timers
LOCALITY = "locality"
LOCALITY_ENDPOINTS = (10, 100)
DECISIONS_PER_S = 40_000  # about as many as take a second
PERF_LINE = re.compile(r"^\s*([\d.]+)%\s+(\S+)")


class Costs:
    """One run: an origin, and a proxy for each view."""

    def __init__(
        self, children: Children, directory: Path, row: rows.Row, seconds: float, subject: str = "homeport"
    ) -> None:
        """`subject` is the name of a proxy in `proxies`: Homeport, or a variant of it that is not compiled."""
        self._subject = subject
        self._children = children
        self._directory = directory
        self._row = row
        self._seconds = seconds
        self._proxy_cores, self._load_cores = cores()
        self._ports = free_port(), free_port()
        origin.start(children, directory / "origin", self._ports, self._load_cores)
        self._generator = Generator(children, directory, self._proxy_cores, self._load_cores)

    def by_function(self) -> dict[str, float]:
        """Shares of the Python functions."""
        counts = self._directory / "counts.json"
        child, port = self._start("sampled", sampled.environment(self._directory, counts))
        self._load(child, port)
        self._children.stop(child)
        taken: dict[str, int] = json.loads(counts.read_text())
        total = max(sum(taken.values()), 1)
        return {name: count / total for name, count in taken.items()}

    def by_part(self) -> tuple[dict[str, float], float]:
        """Shares of the program parts, empty without perf; CPU microseconds per request undisturbed."""
        child, port = self._start("plain", {})
        cost_us = self._load(child, port)
        perf = shutil.which("perf")
        if perf is None:
            return {}, cost_us
        record = self._directory / "perf.data"
        pids = ",".join(map(str, child.pids()))
        command = [perf, "record", "-q", "-e", "cpu-clock", "-F", str(PERF_HZ), "-p", pids]
        recorder = self._children.start("perf", [*command, "-o", str(record)], self._load_cores)
        self._load(child, port)
        self._children.stop(recorder)
        done = subprocess.run(
            [perf, "report", "--stdio", "-i", str(record), "--sort", "dso"],
            capture_output=True,
            text=True,
            check=False,
        )
        return parse_perf(done.stdout), cost_us

    def _start(self, name: str, environment: dict[str, str]) -> tuple[Child, int]:
        port = free_port()
        directory = self._directory / name
        directory.mkdir()
        certificate = directory / "certificate.pem"
        write_certificate(certificate)
        place = Place(port, free_port(), self._ports, directory, certificate)
        launch = proxies.BY_NAME[self._subject].launch(sys.executable, place)
        child = self._children.start(name, launch.command, self._proxy_cores, environment)
        child.wait_for_port(port)
        wait_until_forwarding(port)
        if faults := check_row(self._row, port):
            raise ChildError(f"{self._row.title}: {'; '.join(faults)}")
        return child, port

    def _load(self, child: Child, port: int) -> float:
        sample = self._generator.measure(self._row, child, port, self._seconds, None)
        if sample.problems:
            raise ChildError(f"{self._row.title}: {'; '.join(sample.problems)}")
        return sample.cpu_us


def parse_perf(report: str) -> dict[str, float]:
    """Shares by shared object of `perf report --sort dso`."""
    found = (PERF_LINE.match(line) for line in report.splitlines())
    return {line.group(2): float(line.group(1)) / 100 for line in found if line}


def _table(title: str, shares: dict[str, float], cost_us: float) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("share", justify="right")
    table.add_column("µs a request", justify="right")
    for name, share in sorted(shares.items(), key=lambda item: -item[1])[:SHOWN]:
        table.add_row(escape(name), f"{share:.1%}", f"{share * cost_us:.1f}")
    return table


def _decisions(seconds: float) -> Table:
    table = Table(title="CPU µs by data locality, one key", title_justify="left")
    for name in ("endpoints", "choose + place", "on_answer + on_end", "choose + place with a tag"):
        table.add_column(name, justify="right")
    for endpoints in LOCALITY_ENDPOINTS:
        count = max(int(seconds * DECISIONS_PER_S), 1)
        found, tagged = (decision.measure(endpoints, count, with_tag=one) for one in (False, True))
        costs = found.choice_us, found.answer_us, tagged.choice_us
        table.add_row(str(endpoints), *(f"{cost:.1f}" for cost in costs))
    return table


def main() -> int:
    """Exit status: 0, or 2 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.costs", description=__doc__)
    paced = {row.name for row in rows.ROWS if row.load is not None}
    parser.add_argument("--row", choices=sorted({*rows.BY_NAME, LOCALITY} - paced), default="headers")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (default 5)")
    parser.add_argument("--by-data", action="store_true", help="requests go where their data are")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 100)
    if options.row == LOCALITY:
        console.print(_decisions(options.seconds))
        return 0
    row = rows.BY_NAME[options.row]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="homeport-costs-") as directory,
            Children(Path(directory)) as children,
        ):
            subject = "homeport-data" if options.by_data else "homeport"
            costs = Costs(children, Path(directory), row, options.seconds, subject)
            functions = costs.by_function()
            parts, cost_us = costs.by_part()
    except ChildError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    console.print(f"{row.title}: {cost_us:.1f} µs CPU a request")
    console.print(_table("By Python function (C code counts for its caller)", functions, cost_us))
    if parts:
        console.print(_table("By part of the program", parts, cost_us))
    return 0


if __name__ == "__main__":
    sys.exit(main())
