"""A trace sent to a proxy: every request when it is due, whatever the replies do, timed from when it was due.

    python -m loadtests.locality.load PORT FILE --scenario shift --seed 1 --rate 250 --seconds 32 --warm-up 8 --start T

T is a time of the monotonic clock, which all processes of a machine share, so that several of these start together. A
request takes a connection that is free, or another one, as many as it needs: none waits for another. When the last one
is sent, those without an answer get `FINISH_LIMIT_S` more seconds. FILE then holds, as JSON, the samples and how late
requests were sent.
"""

import argparse
import asyncio
import gc
import json
import re
import time
from dataclasses import astuple
from pathlib import Path
from typing import cast

import uvloop

from loadtests.locality.figures import Sample, quantile
from loadtests.locality.trace import BY_NAME, Request, Trace

FINISH_LIMIT_S = 20.0
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
HIT = b"hit"


class Link(asyncio.Protocol):
    """A connection with at most one request on its way."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._received = b""
        self.request: Request | None = None
        """The one on its way."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have another base
        if self.request is not None:
            self._transport.write(_written(self.request))

    def ask(self, request: Request) -> None:
        """Send it, as soon as there is a connection."""
        self.request = request
        if self._transport is not None:
            self._transport.write(_written(request))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = LENGTH.search(head)
        if length is None or len(body) < int(length.group(1)):
            return
        self._received = b""
        self._end(is_hit=body == HIT, is_failed=head[9:12] != b"200")
        if CLOSES.search(head):
            assert self._transport is not None
            self._transport.close()
        else:
            self._load.on_free(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(is_hit=False, is_failed=True)
        self._load.on_lost(self)

    def refused(self) -> None:
        """No connection came about."""
        self._end(is_hit=False, is_failed=True)

    def _end(self, *, is_hit: bool, is_failed: bool) -> None:
        if self.request is not None:
            self._load.on_end(self.request, is_hit, is_failed)
            self.request = None


class Load:
    """Sends a trace; `run` returns when every request has ended."""

    def __init__(self, port: int, trace: Trace, start: float) -> None:
        """`start`: monotonic time of the trace's 0."""
        self.samples: list[Sample] = []
        self.lags_s: list[float] = []
        """How long after its time each request was sent."""
        self._port = port
        self._trace = trace
        self._start = start
        self._free: list[Link] = []
        self._open: dict[int, Request] = {}
        """Requests without an end, by number."""
        self._connecting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send, then wait for the last answers."""
        for request in list(self._trace.requests()):
            due = self._start + request.due
            while (left_s := due - time.monotonic()) > 0.0:
                await asyncio.sleep(left_s)
            self.lags_s.append(-left_s)
            self._send(request)
        limit = time.monotonic() + FINISH_LIMIT_S
        while self._open and time.monotonic() < limit:
            await asyncio.sleep(0.05)
        for request in list(self._open.values()):
            self.on_end(request, is_hit=False, is_failed=True)

    def on_end(self, request: Request, is_hit: bool, is_failed: bool) -> None:
        """It was answered, or will not be."""
        del self._open[request.number]
        took_s = time.monotonic() - self._start - request.due
        self.samples.append(Sample(request.due, took_s, is_hit, is_failed))

    def on_free(self, link: Link) -> None:
        """It can carry another request."""
        self._free.append(link)

    def on_lost(self, link: Link) -> None:
        """It has ended."""
        if link in self._free:
            self._free.remove(link)

    def _send(self, request: Request) -> None:
        self._open[request.number] = request
        if self._free:
            self._free.pop().ask(request)
            return
        link = Link(self)
        link.ask(request)
        task = asyncio.create_task(self._connect(link))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, link: Link) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: link, "127.0.0.1", self._port)
        except OSError:
            link.refused()


def _written(request: Request) -> bytes:
    name = request.dataset.name
    return f"GET /datasets/{name} HTTP/1.1\r\nHost: locality.test\r\nX-Dataset-Id: {name}\r\n\r\n".encode()


async def send(options: argparse.Namespace) -> None:
    """Send, and write the file."""
    trace = Trace(BY_NAME[options.scenario], options.seed, options.rate, options.seconds, options.warm_up)
    load = Load(options.port, trace, options.start)
    # A collection would delay what is due, and nothing here is cyclic for long.
    gc.disable()
    await load.run()
    document = {
        "samples": [astuple(sample) for sample in load.samples],
        "lag_p99_s": quantile(sorted(load.lags_s), 0.99),
    }
    options.file.write_text(json.dumps(document))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.locality.load", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path, help="for the samples")
    parser.add_argument("--scenario", choices=sorted(BY_NAME), required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="mean requests/s")
    parser.add_argument("--seconds", type=float, required=True, help="that count")
    parser.add_argument("--warm-up", type=float, required=True, help="seconds before them")
    parser.add_argument("--start", type=float, required=True, help="monotonic time of the first second")
    uvloop.run(send(parser.parse_args()))


if __name__ == "__main__":
    main()
