"""An endpoint that answers, counts what it has to do at once, and fails on demand.

    python -m loadtests.faults.endpoint PORT --name NAME [--service S] [--fault reset|500|slow] [--factor N]

answers after S seconds, in any number at a time, and says who it is and when the request's head arrived:

    GET /          ok
    GET /bytes/N   N bytes, as fast as they are taken
    POST anything  ok, once the whole body is there; Content-Length alone is understood
    GET /report    what it counted, as JSON

SIGUSR1 makes it fail in its way, SIGUSR2 makes it well again.
"""

import argparse
import asyncio
import json
import re
import signal
import socket
import struct
import time
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
REASON = re.compile(rb'"error":"(\w+)"')
"""In an answer of Homeport's own."""
FAULTS = ("reset", "500", "slow")
PIECE = bytes(1 << 16)
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing is resetting."""


class Work:
    """What the connections of this endpoint share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name: str = options.name
        self.fault: str = options.fault
        self.service_s: float = options.service
        self.factor: float = options.factor
        self.is_failing = False
        self.in_flight = 0
        self.peak = 0
        """Most requests at once."""
        self.served = 0

    def begin(self) -> None:
        """A request arrived."""
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def end(self) -> None:
        """It was answered, or its connection ended."""
        self.in_flight -= 1
        self.served += 1

    def report(self) -> bytes:
        """What was counted."""
        return json.dumps({"in_flight": self.in_flight, "peak": self.peak, "served": self.served}).encode()


class Connection(asyncio.Protocol):
    """One connection; requests come one at a time, as a proxy sends them."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._head = b""
        self._path = b""
        self._arrived = 0.0
        self._missing = -1
        """Bytes of the body; -1 = there is no request."""
        self._reply_left = 0
        self._is_busy = self._is_paused = False
        self._later: asyncio.TimerHandle | None = None
        self._transport = asyncio.Transport()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have another base

    def connection_lost(self, error: Exception | None) -> None:
        self._reply_left = 0
        if self._later is not None:
            self._later.cancel()
        if self._is_busy:
            self._is_busy = False
            self._work.end()

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._on_head(head)
        self._missing -= len(data)
        if self._missing == 0 and self._path:
            self._on_request()

    def _on_head(self, head: bytes) -> None:
        length = LENGTH.search(head)
        self._head = b""
        self._path = head.split(b" ", 2)[1]
        self._missing = int(length.group(1)) if length else 0
        self._arrived = time.monotonic()
        if self._path != b"/report":
            self._is_busy = True
            self._work.begin()

    def _on_request(self) -> None:
        work = self._work
        wait_s = work.service_s
        if self._path == b"/report":
            wait_s = 0.0
        elif work.is_failing and work.fault == "reset":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()
            return
        elif work.is_failing and work.fault == "slow":
            wait_s *= work.factor
        if wait_s:
            self._later = asyncio.get_running_loop().call_later(wait_s, self._reply)
        else:
            self._reply()

    def _reply(self) -> None:
        work, path = self._work, self._path
        self._path, self._missing, self._later = b"", -1, None
        status = b"500 No" if work.is_failing and work.fault == "500" else b"200 OK"
        if path.startswith(b"/bytes/"):
            self._reply_left = int(path[7:])
            self._transport.write(self._reply_head(status, self._reply_left))
            self._feed()
            return
        body = work.report() if path == b"/report" else b"ok\n"
        self._transport.write(self._reply_head(status, len(body)) + body)
        self._done()

    def _reply_head(self, status: bytes, length: int) -> bytes:
        return b"HTTP/1.1 %b\r\nX-Endpoint: %b\r\nX-Arrived: %.6f\r\nContent-Length: %d\r\n\r\n" % (
            status, self._work.name.encode(), self._arrived, length,
        )  # fmt: skip

    def _feed(self) -> None:
        while self._reply_left and not self._is_paused:
            piece = PIECE[: self._reply_left]
            self._reply_left -= len(piece)
            self._transport.write(piece)
        if not self._reply_left:
            self._done()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._reply_left:
            self._feed()

    def _done(self) -> None:
        if self._is_busy:
            self._is_busy = False
            self._work.end()


async def serve(options: argparse.Namespace) -> None:
    """Serve for ever."""
    work = Work(options)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: setattr(work, "is_failing", True))
    loop.add_signal_handler(signal.SIGUSR2, lambda: setattr(work, "is_failing", False))
    server = await loop.create_server(lambda: Connection(work), "127.0.0.1", options.port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.faults.endpoint", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--name", required=True)
    parser.add_argument("--service", type=float, default=0.0, help="seconds until the answer")
    parser.add_argument("--fault", choices=FAULTS, default="reset")
    parser.add_argument("--factor", type=float, default=30.0, help="how much slower it is when it is slow")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
