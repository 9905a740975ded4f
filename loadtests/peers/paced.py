"""A client that sends at a given mean rate whatever the replies do, and measures from when a request was due.

wrk sends a request when the last one is answered, so a slow proxy gets less load and its stalls are counted
once. Here requests arrive as a Poisson process with a fixed seed; one that finds all connections busy waits,
and its wait counts (the "coordinated omission" that wrk2's documentation describes). Written with select and
epoll rather than asyncio: event loops wait in whole milliseconds, at 10 000 requests/s that makes bursts of
ten.

Run as `python -m loadtests.peers.paced PORT FILE --rate R --seconds S`; FILE holds the request as sent.
Prints one line of JSON like wrk.lua's. Replies must have a Content-Length.
"""

import argparse
import collections
import ctypes
import json
import random
import re
import select
import socket
import time
from pathlib import Path

WARM_UP_SHARE = 0.1
"""Part of the time at the start in which requests are sent and not counted."""
FINISH_LIMIT_S = 5.0
PR_SET_TIMERSLACK = 29  # prctl(2); the default of 50 µs would delay every wake-up
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class BadReply(Exception):
    """A reply that this client cannot read, or an end where none is allowed."""


class Connection:
    """One connection with at most one request on its way."""

    __slots__ = ("sock", "due_at", "received", "missing")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due_at = 0.0
        self.received = b""
        self.missing = -1

    def read(self) -> tuple[int, bytes] | None:
        """Take what has come; the reply's size and status when it is complete, None before that."""
        part = self.sock.recv(65536)
        if not part:
            raise BadReply("connection closed")
        self.received += part
        if self.missing < 0:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return None
            length = LENGTH.search(self.received, 0, end)
            if length is None:
                raise BadReply("no Content-Length")
            self.missing = end + 4 + int(length.group(1))
        if len(self.received) < self.missing:
            return None
        if len(self.received) > self.missing:
            raise BadReply("bytes after the reply")
        done = self.missing, self.received[9:12]
        self.received, self.missing = b"", -1
        return done


class Pacer:
    """Sends `request` at `rate` per second over `connections` for `seconds`; `run` returns the summary."""

    def __init__(self, port: int, request: bytes, rate: float, seconds: float, connections: int) -> None:
        self._request = request
        self._rate = rate
        self._seconds = seconds
        self._by_fd = {link.sock.fileno(): link for link in (Connection(port) for _ in range(connections))}
        self._free = list(self._by_fd.values())
        self._latencies_s: list[float] = []
        self._bytes = 0
        self._errors = collections.Counter[str]()
        self._poll = select.epoll()
        for fd in self._by_fd:
            self._poll.register(fd, select.EPOLLIN)

    def run(self) -> dict[str, object]:
        """Send, wait for the last replies, summarise."""
        rng = random.Random(1)
        due: collections.deque[float] = collections.deque()
        start = time.perf_counter()
        self._counted_from = start + WARM_UP_SHARE * self._seconds
        end, next_at = start + self._seconds, start
        now = start
        while now < end and not self._errors:
            while next_at <= now:
                due.append(next_at)
                next_at += rng.expovariate(self._rate)
            while due and self._free:
                self._send(due.popleft())
            self._wait(min(next_at, end))
            now = time.perf_counter()
        self._finish(now + FINISH_LIMIT_S)
        if due:
            self._errors["never sent"] = len(due)
        return self._summary(end - self._counted_from)

    def _send(self, due_at: float) -> None:
        link = self._free.pop()
        link.due_at = due_at
        try:
            # A request is smaller than any socket buffer, and nothing else is on its way on this connection.
            link.sock.sendall(self._request)
        except OSError:
            self._errors["write"] += 1

    def _wait(self, until: float) -> None:
        # select waits to the microsecond, epoll in whole milliseconds.
        select.select([self._poll], [], [], max(0.0, until - time.perf_counter()))
        for fd, _ in self._poll.poll(0):
            self._read(self._by_fd[fd])

    def _read(self, link: Connection) -> None:
        try:
            done = link.read()
        except (BadReply, OSError) as error:
            self._errors[str(error)] += 1
            return
        if done is None:
            return
        size, status = done
        if status != b"200":
            self._errors["status"] += 1
        if link.due_at >= self._counted_from:
            self._latencies_s.append(time.perf_counter() - link.due_at)
            self._bytes += size
        self._free.append(link)

    def _finish(self, limit: float) -> None:
        while (
            len(self._free) < len(self._by_fd) and not self._errors and (now := time.perf_counter()) < limit
        ):
            self._wait(min(limit, now + 0.1))
        if len(self._free) < len(self._by_fd) and not self._errors:
            self._errors["timeout"] = len(self._by_fd) - len(self._free)

    def _summary(self, counted_s: float) -> dict[str, object]:
        ordered = sorted(self._latencies_s) or [0.0]
        return {
            "requests": len(self._latencies_s),
            "duration_us": round(counted_s * 1e6),
            "bytes": self._bytes,
            "p50_us": round(ordered[len(ordered) // 2] * 1e6),
            "p99_us": round(ordered[len(ordered) * 99 // 100] * 1e6),
            "errors": dict(self._errors),
        }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers.paced", description="Load at a given rate."
    )
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path, help="the request as sent")
    parser.add_argument("--rate", type=float, required=True, help="mean requests/s")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    request = options.file.read_bytes()
    pacer = Pacer(options.port, request, options.rate, options.seconds, options.connections)
    print(json.dumps(pacer.run()))


if __name__ == "__main__":
    main()
