"""One measurement: a load on one proxy, the CPU time that the proxy spent on it, and everything that went
wrong."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.peers.processes import Child, ChildError, Children, busy_s
from loadtests.peers.rows import Row

CONNECTIONS = 64
WRK_SCRIPT = Path(__file__).with_name("wrk.lua")
# A paced client that falls further behind than this measured its own limit, not the proxy's latency.
LEAST_PACE = 0.95


@dataclass(frozen=True, slots=True)
class Summary:
    """What the load generator saw."""

    requests: int
    duration_s: float
    bytes: int
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]
    """Number of failures by kind; kinds that did not happen may be there with 0."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one row and proxy."""

    cpu_us: float
    """CPU time of the proxy per request, microseconds, user and system, all its processes."""
    rps: float
    p50_ms: float
    p99_ms: float
    rss_bytes: int
    others: float
    """Share of the proxy's core, 0 to 1, that other programs of the machine had meanwhile."""
    problems: tuple[str, ...] = ()
    """Why the figures are not to be used; empty when they are."""


def failed(*problems: str) -> Sample:
    """A measurement that came to nothing."""
    return Sample(0.0, 0.0, 0.0, 0.0, 0, 0.0, problems)


class Generator:
    """Runs loads on the load's cores; needs a directory for the requests."""

    def __init__(
        self, children: Children, directory: Path, proxy_cores: list[int], load_cores: list[int]
    ) -> None:
        self._children = children
        self._directory = directory
        self._proxy_cores = proxy_cores
        self._load_cores = load_cores

    def measure(self, row: Row, proxy: Child, port: int, seconds: float, rate: float | None) -> Sample:
        """Load `proxy` with the row's request for `seconds`, at `rate` requests/s or, with None, as fast as
        it goes."""
        file = self._directory / f"{row.name}.request"
        if not file.exists():
            file.write_bytes(row.request())
        command = _command(row, file, port, seconds, rate)
        start_s, cpu_s, core_s = time.monotonic(), proxy.cpu_s(), busy_s(self._proxy_cores)
        try:
            summary = parse_summary(self._run(command, seconds))
        except ChildError as error:
            return failed(str(error))
        cpu_s = proxy.cpu_s() - cpu_s
        core_s = busy_s(self._proxy_cores) - core_s
        return Sample(
            cpu_us=cpu_s * 1e6 / max(summary.requests, 1),
            rps=summary.requests / summary.duration_s,
            p50_ms=summary.p50_ms,
            p99_ms=summary.p99_ms,
            rss_bytes=proxy.rss_bytes(),
            others=max(0.0, core_s - cpu_s) / (time.monotonic() - start_s),
            problems=problems(row, summary, rate),
        )

    def _run(self, command: Sequence[str], seconds: float) -> str:
        child = self._children.start("load", command, self._load_cores)
        try:
            if child.process.wait(seconds + 30):
                raise ChildError(f"{command[0]} ended with {child.process.returncode}: {child.tail(400)}")
        finally:
            self._children.stop(child)
        return child.output.read_text()


def _command(row: Row, file: Path, port: int, seconds: float, rate: float | None) -> list[str]:
    if rate is not None:
        return _paced(file, port, seconds, rate)
    if row.reconnects:
        module = "loadtests.peers.handshakes"
        return [sys.executable, "-m", module, str(port), str(file), "--seconds", f"{seconds}"]
    return _wrk(file, port, seconds, tls=row.tls)


def _wrk(file: Path, port: int, seconds: float, *, tls: bool) -> list[str]:
    scheme = "https" if tls else "http"
    return [
        "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--timeout", "15s",
        "-s", str(WRK_SCRIPT), f"{scheme}://127.0.0.1:{port}/", "--", str(file),
    ]  # fmt: skip


def _paced(file: Path, port: int, seconds: float, rate: float) -> list[str]:
    return [
        sys.executable, "-m", "loadtests.peers.paced", str(port), str(file), "--rate", f"{rate:.1f}",
        "--seconds", f"{seconds}", "--connections", str(CONNECTIONS),
    ]  # fmt: skip


def parse_summary(output: str) -> Summary:
    """The last line of a load generator's output; raises ChildError when it is no summary."""
    line = (output.strip().splitlines() or [""])[-1]
    try:
        said: dict[str, Any] = json.loads(line)
        return Summary(
            requests=said["requests"], duration_s=said["duration_us"] / 1e6, bytes=said["bytes"],
            p50_ms=said["p50_us"] / 1e3, p99_ms=said["p99_us"] / 1e3, errors=said["errors"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise ChildError(f"no summary in the load's output: {output[-400:]!r}") from error


def problems(row: Row, summary: Summary, rate: float | None) -> tuple[str, ...]:
    """Everything for which the measurement is invalid."""
    found = [f"{count} × {kind} error" for kind, count in summary.errors.items() if count]
    if summary.requests == 0:
        found.append("no reply")
    if summary.bytes < summary.requests * row.reply_bytes:
        found.append(f"{summary.bytes} bytes for {summary.requests} replies of {row.reply_bytes}")
    if rate is not None and summary.requests < LEAST_PACE * rate * summary.duration_s:
        found.append(f"reached {summary.requests / summary.duration_s:.0f}/s of {rate:.0f}/s")
    return tuple(found)
