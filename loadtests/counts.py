"""Whether counts survive: `python -m loadtests.counts [--requests 10000000] [--kills 50]`.

One process sends requests over keep-alive connections, one at a time on each, and counts the replies to the last one,
while workers of the daemon are killed (kill -9) at even distances. In the end its sum is compared with the daemon's
counters. They may differ by what was in flight when a worker died, and by nothing else:

- a request without its reply may have been counted or not: the daemon may be ahead by the exchanges that failed;
- a reply that arrived may have been counted a moment too late: the daemon may be behind by one for each connection that
  the dead worker had.

Exit code 1 when the difference is beyond that, or a counter ever went down.
"""

import argparse
import json
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtests.daemon import Daemon, total, wait_for
from loadtests.peers.processes import ChildError, Children, free_port

WORKERS = 2
REQUEST = b"GET / HTTP/1.1\r\nHost: counts.test\r\n\r\n"
BODY = b"ok\n"
REQUESTS_FAMILY = "data_service_requests_total"
LATENCIES_FAMILY = "data_service_request_duration_seconds_count"
RECEIVED_FAMILY = "homeport_downstream_requests_total"
LEAD_REPLIES = 100
"""Replies between the last look at the daemon and a kill, so that it finds requests in flight."""
TELL_REPLIES = 1000
"""Replies between two movements of the progress bar."""
_STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    """What both sides counted."""

    replies: int
    """That arrived whole."""
    failed: int
    """Requests whose connection ended before their reply."""
    kills: int
    killed_connections: int
    """That the dead workers had."""
    counted: int
    """`data_service_requests_total`."""
    latencies: int
    """Observations of `data_service_request_duration_seconds`."""
    received: int
    """`homeport_downstream_requests_total`."""
    went_down: int
    """Looks at which a counter was lower than before."""

    @property
    def difference(self) -> int:
        """What the daemon counted more than arrived."""
        return self.counted - self.replies

    @property
    def is_exact(self) -> bool:
        """Whether everything that differs was in flight when a worker died."""
        low, high = -self.killed_connections, self.failed
        sums = (self.counted, self.latencies, self.received)
        return not self.went_down and all(low <= each - self.replies <= high for each in sums)


class Connection:
    """A keep-alive connection with one request on its way."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self.is_asking = False

    def ask(self) -> None:
        """Send a request. Raises `OSError`."""
        self.sock.sendall(REQUEST)
        self.is_asking = True

    def read(self) -> bool:
        """Take what came; true when the reply is whole. Raises `OSError` when the connection has ended."""
        data = self.sock.recv(4096)
        if not data:
            raise ConnectionError("closed")
        self._received += data
        if not self._received.endswith(b"\r\n\r\n" + BODY):
            return False
        if not self._received.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError("not a 200")
        self._received = b""
        self.is_asking = False
        return True


class Generator:
    """Sends, and counts what comes back."""

    def __init__(self, port: int, connections: int) -> None:
        self._port = port
        self._wanted = connections
        self._poll = select.epoll()
        self._open: dict[int, Connection] = {}
        self.replies = 0
        self.failed = 0

    @property
    def is_asking(self) -> bool:
        """Whether a request is on its way."""
        return any(one.is_asking for one in self._open.values())

    def step(self, *, is_over: bool = False) -> None:
        """Read what came, and ask anew, unless it `is_over`: then what is on its way is the last."""
        while not is_over and len(self._open) < self._wanted:
            connection = self._connect()
            self._do(connection, connection.ask)
        for fd, _ in self._poll.poll(_STEP_S):
            self._do(self._open[fd], lambda one=self._open[fd]: self._read(one, is_over))

    def close(self) -> None:
        """Close all."""
        for connection in self._open.values():
            connection.sock.close()
        self._poll.close()

    def _connect(self) -> Connection:
        connection = Connection(self._port)
        self._open[connection.sock.fileno()] = connection
        self._poll.register(connection.sock.fileno(), select.EPOLLIN)
        return connection

    def _read(self, connection: Connection, is_over: bool) -> None:
        if connection.read():
            self.replies += 1
            if not is_over:
                connection.ask()

    def _do(self, connection: Connection, action: Callable[[], None]) -> None:
        """`action`, or the end of the connection."""
        try:
            action()
        except OSError:
            self.failed += connection.is_asking
            self._poll.unregister(connection.sock.fileno())
            del self._open[connection.sock.fileno()]
            connection.sock.close()


class Count:
    """The daemon, the generator, and the kills."""

    def __init__(self, daemon: Daemon, connections: int) -> None:
        self._daemon = daemon
        self._generator = Generator(daemon.port, connections)
        self._kills = self._killed_connections = self._went_down = 0
        self._last: dict[str, float] = {}

    def run(self, requests: int, kills: int, on_progress: Callable[[int], None]) -> Result:
        """Send `requests`, and kill a worker `kills` times meanwhile."""
        generator = self._generator
        for number in range(kills):
            kill_at = requests * (number + 1) // (kills + 1)
            self._send(kill_at - LEAD_REPLIES, on_progress)
            # Asked beforehand: while the generator waits for answers, what is in flight comes to its end.
            victim = self._choose(number % WORKERS)
            self._send(max(kill_at, generator.replies + LEAD_REPLIES), on_progress)
            os.kill(victim, signal.SIGKILL)
            self._kills += 1
        self._send(requests, on_progress)
        while generator.is_asking:
            generator.step(is_over=True)
        generator.close()
        return self._result()

    def _send(self, until: int, on_progress: Callable[[int], None]) -> None:
        told = 0
        while self._generator.replies < until:
            self._generator.step()
            if self._generator.replies - told >= TELL_REPLIES:
                told = self._generator.replies
                on_progress(told)

    def _choose(self, slot: int) -> int:
        """Process id of the worker in `slot`, once it serves; its connections are at stake."""
        wait_for(self._daemon.is_whole, "as many workers as wanted")
        self._look()
        (worker,) = [one for one in self._daemon.status()["workers"] if one["id"] == slot]
        self._killed_connections += worker["connections"]
        return int(worker["pid"])

    def _look(self) -> None:
        """Compare every counter with its last value."""
        now = self._daemon.metrics()
        names = [
            name for name in self._last if name.partition("{")[0].endswith(("_total", "_count", "_bucket"))
        ]
        self._went_down += sum(now.get(name, -1.0) < self._last[name] for name in names)
        self._last = now

    def _result(self) -> Result:
        wait_for(self._daemon.is_whole, "as many workers as wanted")
        self._look()
        return Result(
            replies=self._generator.replies,
            failed=self._generator.failed,
            kills=self._kills,
            killed_connections=self._killed_connections,
            counted=total(self._last, REQUESTS_FAMILY),
            latencies=total(self._last, LATENCIES_FAMILY),
            received=total(self._last, RECEIVED_FAMILY),
            went_down=self._went_down,
        )


def run(requests: int, kills: int, connections: int, on_progress: Callable[[int], None]) -> Result:
    """Start an origin and a daemon, and count. Raises `ChildError`."""
    with tempfile.TemporaryDirectory(prefix="homeport-counts-") as folder:
        with Children(Path(folder)) as children:
            port = free_port()
            command = [sys.executable, "-m", "loadtests.echo", str(port)]
            children.start("origin", command, sorted(os.sched_getaffinity(0))).wait_for_port(port)
            daemon = Daemon(children, Path(folder) / "daemon", port, workers=WORKERS)
            return Count(daemon, connections).run(requests, kills, on_progress)


def as_table(result: Result) -> Table:
    """For people."""
    table = Table(title=f"{result.kills} workers killed", show_header=False)
    rows = {
        "replies that arrived": result.replies,
        "counted as requests": result.counted,
        "counted as durations": result.latencies,
        "counted as received": result.received,
        "difference": result.difference,
        "may be from": -result.killed_connections,
        "may be up to": result.failed,
        "counters that went down": result.went_down,
    }
    for name, value in rows.items():
        table.add_row(name, f"{value:,}")
    return table


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.counts", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    console = Console()
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("requests", total=options.requests)
            result = run(
                options.requests,
                options.kills,
                options.connections,
                lambda done: progress.update(task, completed=done),
            )
    except ChildError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    console.print(as_table(result))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return 0 if result.is_exact else 1


if __name__ == "__main__":
    raise SystemExit(main())
