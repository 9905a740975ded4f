"""A client that sends requests at its own rate whatever the replies do, and keeps a record of each.

    python -m loadtests.faults.pace PORT FILE --rate R [--connections N] [--path P] [--method M]

Requests arrive as a Poisson process and use keep-alive connections that are free; when none is, another is opened, up
to N; when there are N, the request waits, and its wait counts. SIGTERM ends it: the last answers get a while, then FILE
holds all records as JSON. `loadtests.peers.paced` is finer in time and ends at the first fault; here faults are the
point.
"""

import argparse
import asyncio
import collections
import json
import random
import re
import signal
import time
from pathlib import Path
from typing import cast

import uvloop

from loadtests.faults.endpoint import REASON
from loadtests.faults.records import UNANSWERED

FINISH_LIMIT_S = 3.0
"""Seconds that the last answers get."""
FIELDS = re.compile(rb"\r\n(content-length|x-endpoint|x-arrived|connection): *([^\r]*)", re.IGNORECASE)
Row = tuple[float, float, int, str, float, str]


class Link(asyncio.Protocol):
    """A connection with at most one request on its way."""

    def __init__(self, pacer: "Pacer") -> None:
        self._pacer = pacer
        self._received = b""
        self.due: float | None = None
        """Of the request on its way."""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's have another base
        if self.due is not None:
            self.transport.write(self._pacer.request)

    def ask(self, due: float) -> None:
        """Send a request, once there is a connection."""
        self.due = due
        if self.transport is not None:
            self.transport.write(self._pacer.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        fields = {name.lower(): value for name, value in FIELDS.findall(head)}
        if len(body) < int(fields.get(b"content-length", b"0")):
            return
        status = int(head[9:12])
        reason = REASON.search(body) if status != 200 else None
        self._received = b""
        self._record(
            status,
            fields.get(b"x-endpoint", b"").decode(),
            float(fields.get(b"x-arrived", b"0")),
            reason.group(1).decode() if reason else "",
        )
        if fields.get(b"connection", b"").lower() == b"close":
            assert self.transport is not None
            self.transport.close()
        else:
            self._pacer.on_free(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self.due is not None:
            self._record(UNANSWERED, "", 0.0, "reset" if error else "closed")
        self._pacer.on_lost(self)

    def refused(self) -> None:
        """No connection came about."""
        self._record(UNANSWERED, "", 0.0, "not connected")
        self._pacer.on_lost(self)

    def _record(self, status: int, endpoint: str, arrived: float, reason: str) -> None:
        assert self.due is not None
        self._pacer.rows.append((self.due, time.monotonic(), status, endpoint, arrived, reason))
        self.due = None


class Pacer:
    """Sends."""

    def __init__(self, options: argparse.Namespace) -> None:
        # A POST without a length would be one, too, but not every service takes it.
        length = b"" if options.method == "GET" else b"Content-Length: 0\r\n"
        line = f"{options.method} {options.path} HTTP/1.1".encode()
        self.request = b"%b\r\nHost: faults.test\r\n%b\r\n" % (line, length)
        self.rows: list[Row] = []
        self._port: int = options.port
        self._rate: float = options.rate
        self._wanted: int = options.connections
        self._free: list[Link] = []
        self._links: set[Link] = set()
        self._due: collections.deque[float] = collections.deque()
        self._connecting: set[asyncio.Task[None]] = set()

    async def run(self, stopped: asyncio.Event) -> None:
        """Send until it is `stopped`."""
        rng = random.Random(1)
        next_at = time.monotonic()
        while not stopped.is_set():
            while next_at <= time.monotonic():
                self._send(next_at)
                next_at += rng.expovariate(self._rate)
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
        limit = time.monotonic() + FINISH_LIMIT_S
        while any(link.due is not None for link in self._links) and time.monotonic() < limit:
            await asyncio.sleep(0.01)
        for link in self._links:
            if link.due is not None:
                self.rows.append((link.due, time.monotonic(), UNANSWERED, "", 0.0, "unanswered"))
        self.rows += [(due, time.monotonic(), UNANSWERED, "", 0.0, "never sent") for due in self._due]

    def on_free(self, link: Link) -> None:
        """`link` has its answer."""
        if self._due:
            link.ask(self._due.popleft())
        else:
            self._free.append(link)

    def on_lost(self, link: Link) -> None:
        """`link` has ended."""
        self._links.discard(link)
        if link in self._free:
            self._free.remove(link)
        if self._due:
            self._send(self._due.popleft())

    def _send(self, due: float) -> None:
        if self._free:
            self._free.pop().ask(due)
        elif len(self._links) < self._wanted:
            link = Link(self)
            link.ask(due)
            self._links.add(link)
            task = asyncio.create_task(self._connect(link))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        else:
            self._due.append(due)

    async def _connect(self, link: Link) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: link, "127.0.0.1", self._port)
        except OSError:
            link.refused()


async def send(options: argparse.Namespace) -> None:
    """Send until SIGTERM, then write the records."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    pacer = Pacer(options)
    await pacer.run(stopped)
    options.file.write_text(json.dumps(pacer.rows))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.faults.pace", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path, help="for the records")
    parser.add_argument("--rate", type=float, required=True, help="mean requests/s")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--path", default="/")
    parser.add_argument("--method", default="GET", help="its requests have no body")
    uvloop.run(send(parser.parse_args()))


if __name__ == "__main__":
    main()
