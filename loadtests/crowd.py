"""Clients of a daemon that is about to lose a process: requests at a steady rate, and WebSockets that ask for an echo.

Each exchange is known by the worker that had its connection, so that a failure can be put down to a process. Requests
are due at fixed times whatever the replies do; one that finds all connections busy waits.
"""

import asyncio
import time
from dataclasses import dataclass, field

from loadtests.daemon import Daemon

REQUEST = b"GET / HTTP/1.1\r\nHost: crowd.test\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: crowd.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PING = b"ping"
PING_S = 0.1
"""Seconds between an echo and the next question on a WebSocket."""
RECONNECT_S = 0.005
_ENDINGS = (OSError, asyncio.IncompleteReadError)


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    answered: int = 0
    failed: dict[int, int] = field(default_factory=dict)
    """Requests without a whole 200, by the worker that had the connection; 0 = no connection was to be had."""
    closed: dict[int, int] = field(default_factory=dict)
    """WebSockets that ended, by worker."""
    stale: int = 0
    """Keep-alive connections that ended unannounced, idle or with a request whose answer had not begun."""
    watched_from: float = float("inf")
    """Since when the gaps below count."""
    reply_gap_s: float = 0.0
    """Longest time in which nobody got a reply."""
    slowest_s: float = 0.0
    """Longest time from when a request was due to its reply."""
    last_reply_at: float = 0.0

    def on_reply(self, due_at: float, now: float) -> None:
        """A request was answered."""
        self.answered += 1
        if now >= self.watched_from:
            self.reply_gap_s = max(self.reply_gap_s, now - max(self.last_reply_at, self.watched_from))
            self.slowest_s = max(self.slowest_s, now - due_at)
        self.last_reply_at = now

    def on_failure(self, worker: int) -> None:
        """A request was not."""
        self.failed[worker] = self.failed.get(worker, 0) + 1

    def on_closed(self, worker: int) -> None:
        """A WebSocket ended."""
        self.closed[worker] = self.closed.get(worker, 0) + 1


class Crowd:
    """`connections` that carry `rate` requests a second together; `websockets` for each of `workers` workers."""

    def __init__(
        self, daemon: Daemon, *, rate: float, connections: int, websockets: int, workers: int
    ) -> None:
        self.tally = Tally()
        self._daemon = daemon
        self._rate = rate
        self._connections = connections
        self._websockets = websockets * workers
        self._due: asyncio.Queue[float] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, and begin."""
        ready = [asyncio.Event() for _ in range(self._websockets)]
        for each in ready:
            self._tasks.append(asyncio.create_task(self._websocket(each)))
            await asyncio.wait_for(each.wait(), 10.0)
        self._tasks += [asyncio.create_task(self._requests()) for _ in range(self._connections)]
        self._tasks.append(asyncio.create_task(self._pace()))

    async def stop(self) -> None:
        """End all; raises what any of the clients could not cope with."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _pace(self) -> None:
        due_at = time.monotonic()
        while True:
            while due_at <= time.monotonic():
                self._due.put_nowait(due_at)
                due_at += 1.0 / self._rate
            await asyncio.sleep(due_at - time.monotonic())

    async def _requests(self) -> None:
        """One connection after the other."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._daemon.port)
            except OSError:
                self.tally.on_failure(0)
                await asyncio.sleep(RECONNECT_S)
                continue
            try:
                await self._use(reader, writer)
            finally:
                writer.transport.abort()

    async def _use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker = 0
        while True:
            due_at = await self._due.get()
            if _is_over(reader):
                self._due.put_nowait(due_at)  # closed while idle: no request was on it
                self.tally.stale += 1
                return
            try:
                writer.write(REQUEST)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(3)
            except _ENDINGS as error:
                self.tally.on_failure(worker)
                self.tally.stale += bool(worker) and not getattr(error, "partial", b"")
                return
            if not head.startswith(b"HTTP/1.1 200 "):
                self.tally.on_failure(worker)
                return
            self.tally.on_reply(due_at, time.monotonic())
            if b"\r\nconnection: close\r\n" in head.lower():
                return
            worker = worker or await self._worker_of(writer)

    async def _websocket(self, ready: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._daemon.port)
        worker = 0
        try:
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            worker = await self._worker_of(writer)
            ready.set()
            while not _is_over(reader):
                writer.write(PING)
                await reader.readexactly(len(PING))
                await asyncio.sleep(PING_S)
            self.tally.on_closed(worker)
        except _ENDINGS:
            self.tally.on_closed(worker)
        finally:
            writer.transport.abort()

    async def _worker_of(self, writer: asyncio.StreamWriter) -> int:
        # In a thread: reading /proc takes milliseconds, in which no request would be sent.
        return await asyncio.to_thread(self._daemon.worker_of, writer.get_extra_info("socket"))


def _is_over(reader: asyncio.StreamReader) -> bool:
    return reader.at_eof() or reader.exception() is not None
