"""Child processes on chosen cores, and what they use.

The affinity is set in this thread before the start and inherited, so that no thread of a child ever ran
elsewhere; setting it afterwards would race with the threads that a Go or C++ program makes in its first
milliseconds.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
START_LIMIT_S = 30.0
STOP_LIMIT_S = 3.0


class ChildError(Exception):
    """A child did not start or ended too early; the text holds the end of its output."""


@contextlib.contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """This thread, and children it starts meanwhile, run on `cores` only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Child:
    """A running process with the file that holds its output."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def tail(self, limit_bytes: int = 2000) -> str:
        """The end of what it printed."""
        return self.output.read_bytes()[-limit_bytes:].decode(errors="replace").strip()

    def wait_for_port(self, port: int) -> None:
        """Return when 127.0.0.1:`port` accepts; raises ChildError if the child ends first or the limit
        passes."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ChildError(f"{self.name} ended with {self.process.returncode}: {self.tail()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.02)
        raise ChildError(
            f"{self.name} does not listen on port {port} after {START_LIMIT_S:.0f} s: {self.tail()}"
        )

    def pids(self) -> list[int]:
        """The process and all its descendants that live now."""
        found = [self.process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += [int(child) for child in children.read_text().split()]
        return found

    def cpu_s(self) -> float:
        """User and system seconds so far, over all threads of all processes of the tree. Steps of 10 ms."""
        return sum(_cpu_ticks(pid) for pid in self.pids()) / TICKS_PER_S

    def rss_bytes(self) -> int:
        """Resident memory of the tree; pages that processes share count once for each."""
        return sum(resident_bytes(pid) for pid in self.pids())


class Children:
    """Everything this run has started. Leaving the context ends all of it, also after an error or Ctrl-C."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[Child] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGTERM)  # all at once: some take a while to end
        for child in reversed(self._running[:]):
            self.stop(child)

    def start(
        self,
        name: str,
        command: Sequence[str],
        cores: Sequence[int],
        environment: dict[str, str] | None = None,
    ) -> Child:
        """Start `command` on `cores` in a session of its own, with `environment` added to ours."""
        output = self._directory / f"{name}.{len(self._running)}.out"
        with output.open("wb") as sink, on_cores(cores):
            try:
                # A session of its own: Ctrl-C reaches us alone, and stop() can end what the child left
                # behind.
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})}, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise ChildError(f"{name} cannot be started: {error}") from error
        child = Child(name, process, output)
        self._running.append(child)
        return child

    def stop(self, child: Child) -> None:
        """End the child's whole session: terminate, and kill what is still there after a while."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            # The leader's id stays taken until it is reaped, and after that while a process of its group
            # lives.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(STOP_LIMIT_S)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        if child in self._running:
            self._running.remove(child)


def _cpu_ticks(pid: int) -> int:
    """utime + stime of proc_pid_stat(5), fields 14 and 15: all threads, those that have ended included."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()  # the command name before it may hold spaces
    return int(fields[11]) + int(fields[12])


def resident_bytes(pid: int) -> int:
    """Of one process; 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def busy_s(cores: Sequence[int]) -> float:
    """Seconds that `cores` have worked since the machine started, for whomever; proc_stat(5)."""
    wanted = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / TICKS_PER_S


def kernel_tcp_bytes() -> int:
    """What the kernel holds in TCP socket buffers, of all processes of this network namespace."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1]) * PAGE_BYTES
    raise ChildError("/proc/net/sockstat has no TCP line")
