"""The data services of one run, all in one process: a port each, requests over keep-alive HTTP/1.1.

    python -m loadtests.locality.service --scenario shift --seed 1 --change-at 24 PORT…

answers a request that has a dataset of the seed's in its `X-Dataset-Id` when `physics` says so, with `hit` or `miss`
as its body and as its `X-Data-Cache` (left out with `--silent`). One without that field, a health check, is answered at
once. Nothing is worked on or moved: waiting is all there is, so eight services are no load. Work that has begun is done
to its end when nobody waits for it any more.

The clock starts with the first request for data. At `--change-at` an endpoint that dies resets its connections, and
those that come later are refused; one that joins begins to listen, on a port that was its own from the start.
"""

import argparse
import asyncio
import re
import socket
import time
from typing import cast

import uvloop

from loadtests.faults.endpoint import RESET
from loadtests.locality.physics import Endpoint, fleet
from loadtests.locality.trace import BY_NAME, SPECIAL, Change, datasets

KEY = re.compile(rb"\r\nx-dataset-id: *([^\r]*)", re.IGNORECASE)
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
UNKNOWN = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Services:
    """All endpoints of a scenario."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.scenario = BY_NAME[options.scenario]
        self.by_name = {known.name.encode(): known for known in datasets(self.scenario, options.seed)}
        self.links: set[Link] = set()
        """Open connections of endpoint `SPECIAL`."""
        self._change_at: float = options.change_at
        self._answers = {
            is_hit: _answer(b"hit" if is_hit else b"miss", options.silent) for is_hit in (False, True)
        }
        self._sockets = [_bound(port) for port in options.ports]
        self._endpoints = fleet(self.scenario)
        self._servers: dict[int, asyncio.Server] = {}
        self._is_started = False
        self._changing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve for ever."""
        for number in self.scenario.first_fleet():
            await self._open(number)
        await asyncio.Event().wait()

    async def _open(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        endpoint = self._endpoints[number]
        self._servers[number] = await loop.create_server(
            lambda: Link(self, endpoint, number == SPECIAL), sock=self._sockets[number], backlog=4096
        )

    def answer(self, is_hit: bool) -> bytes:
        """The whole of it."""
        return self._answers[is_hit]

    def on_request(self) -> None:
        """A request for data came: the first one starts the clock."""
        if not self._is_started:
            self._is_started = True
            self._changing = asyncio.create_task(self._change())

    async def _change(self) -> None:
        await asyncio.sleep(self._change_at)
        if self.scenario.change is Change.JOINS:
            await self._open(SPECIAL)
        elif self.scenario.change is Change.DIES:
            self._servers[SPECIAL].close()
            for link in list(self.links):
                link.reset()


class Link(asyncio.Protocol):
    """One connection; requests have no body and come one at a time, as a proxy sends them."""

    def __init__(self, services: Services, endpoint: Endpoint, is_special: bool) -> None:
        self._services = services
        self._endpoint = endpoint
        self._is_special = is_special
        self._head = b""
        self._later: asyncio.TimerHandle | None = None
        self._transport = asyncio.Transport()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have another base
        if self._is_special:
            self._services.links.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._services.links.discard(self)
        if self._later is not None:
            self._later.cancel()

    def reset(self) -> None:
        """End it as the kernel does when a process dies."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._head += data
        if not self._head.endswith(b"\r\n\r\n"):
            return
        head, self._head = self._head, b""
        key = KEY.search(head)
        if key is None:
            self._transport.write(HEALTHY)
        elif (wanted := self._services.by_name.get(key.group(1))) is None:
            self._transport.write(UNKNOWN)
        else:
            self._services.on_request()
            now = time.monotonic()
            visit = self._endpoint.admit(wanted, now=now)
            answer = self._services.answer(visit.is_hit)
            self._later = asyncio.get_running_loop().call_later(
                visit.end - now, self._transport.write, answer
            )


def _answer(word: bytes, is_silent: bool) -> bytes:
    told = b"" if is_silent else b"X-Data-Cache: %b\r\n" % word
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (told, len(word), word)


def _bound(port: int) -> socket.socket:
    """A socket that has the port and does not listen: connections to it are refused, and no other gets the port."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.locality.service", description=__doc__)
    parser.add_argument("ports", type=int, nargs="+", help="one for each endpoint")
    parser.add_argument("--scenario", choices=sorted(BY_NAME), required=True)
    parser.add_argument("--seed", type=int, required=True, help="of the trace")
    parser.add_argument("--change-at", type=float, required=True, help="seconds from the first request")
    parser.add_argument("--silent", action="store_true", help="no header tells hits from misses")
    uvloop.run(Services(parser.parse_args()).run())


if __name__ == "__main__":
    main()
