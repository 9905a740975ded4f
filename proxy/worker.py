"""`python -m proxy.worker`: a process of the data plane. It serves from the last snapshot it was given, come what may.

The parent gives it a slot of the scoreboard and a mailbox; through that come snapshots and listening sockets. Signals
from the parent: SIGTERM drains and ends it, SIGINT ends it at once; SIGUSR1 reopens the access log. A second SIGTERM
means no more than one: a service manager may send it to each process of the daemon, and then the parent does.

Nothing of the control plane's libraries is imported here, directly or not; import-linter checks it.
"""

import argparse
import asyncio
import gc
import logging
import os
import random
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import uvloop

from proxy import children
from proxy.clock import Clock, SystemClock
from proxy.clusters import build_clusters
from proxy.dataplane.gate import AcceptGate
from proxy.dataplane.key_functions import KeyFunctions, find_functions
from proxy.dataplane.listener import ConnectionCap, Listener
from proxy.dataplane.plane import Plane
from proxy.dataplane.tls import TlsContexts
from proxy.explanation import explained
from proxy.inquiry import parse_inquiry
from proxy.key_function import BadFunction, KeyFunction
from proxy.mailbox import Channel, Message, Posts, posts_from, unsealed
from proxy.permits import WorkerLocks
from proxy.policy.rate_limit import RateTable
from proxy.scoreboard import (
    W_ACCEPTING,
    W_GENERATION,
    W_HEARTBEAT_MS,
    W_MESSAGES_DROPPED,
    Scoreboard,
)
from proxy.snapshot import Snapshot, SourceSpec
from proxy.snapshot_codec import OtherVersion, SnapshotDecoder
from proxy.surroundings import Surroundings
from proxy.table import Table
from proxy.tasks import spawn
from proxy.telemetry.access_log import AccessLog

_log = logging.getLogger("homeport")

# Seconds between two looks whether a drain is over.
_DRAIN_LOOK_S = 0.05
# Seconds that preparing a snapshot may keep requests waiting at a time.
_PIECE_S = 0.005
# Seconds that the access log is given for its last lines.
_LOG_CLOSE_S = 2.0

EXIT_OK = 0
EXIT_FORCED = 1


class Worker:
    """The data plane of one process. It serves nothing before the first snapshot."""

    def __init__(
        self,
        *,
        number: int,
        scoreboard: Scoreboard,
        posts: Posts,
        locks: WorkerLocks,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._number = number
        self._row = scoreboard.worker_row(number)
        self._loop = loop
        self._clock = clock
        self._rng = rng
        self._surroundings = Surroundings(
            scoreboard=scoreboard,
            worker=number,
            posts=posts,
            locks=locks,
            rng=rng,
            monotonic=clock.monotonic,
            soon=loop.call_soon,
            later=loop.call_later,
        )
        posts.on_dropped = self._on_message_dropped
        self._plane: Plane | None = None
        self._tls = TlsContexts()
        self._functions = KeyFunctions(self._on_function_off, self._row, scoreboard.deadly)
        self._cap = ConnectionCap()
        self._gate = AcceptGate(scoreboard, number, clock.monotonic)
        self._clients: Counter[str] = Counter()
        self._listeners: dict[int, Listener] = {}
        """By the inode of their socket, which is the same for every descriptor of it."""

    def __repr__(self) -> str:
        return f"Worker({self._number}, {self._plane!r})"

    async def prepare(self, snapshot: Snapshot) -> None:
        """Make what takes long for `apply`, in pieces: requests are served in between, and the parent sees that the
        worker lives. Raises `ssl.SSLError` or `ValueError` for TLS material that cannot be used."""
        until = self._clock.monotonic() + _PIECE_S
        for _ in self._tls.prepare(snapshot):
            now = self._clock.monotonic()
            if now >= until:
                if self._plane is None:
                    self._row[W_HEARTBEAT_MS] = int(now * 1000)
                await self._clock.sleep(0)
                until = self._clock.monotonic() + _PIECE_S
        await self._find_functions(snapshot)

    async def _find_functions(self, snapshot: Snapshot) -> None:
        """Have the functions that `snapshot` names. Importing their modules may take seconds, so a thread does it; one
        that hangs must not keep the process from ending."""
        missing = self._functions.missing(snapshot)
        if not missing:
            return
        found: dict[SourceSpec, KeyFunction | BadFunction] = {}
        thread = threading.Thread(target=lambda: found.update(find_functions(missing)), daemon=True)
        thread.start()
        while thread.is_alive():
            if self._plane is None:
                self._row[W_HEARTBEAT_MS] = int(self._clock.monotonic() * 1000)
            await self._clock.sleep(_PIECE_S)
        self._functions.add(found)

    def _on_function_off(self, name: str, why: str) -> None:
        self._surroundings.posts.to_control({"key_function": name, "worker": self._number, "why": why})

    def _on_message_dropped(self) -> None:
        self._row[W_MESSAGES_DROPPED] += 1

    def apply(self, snapshot: Snapshot, sockets: Mapping[str, socket.socket], workers: int = 1) -> None:
        """Serve from `snapshot` from the next request on. Whatever it raises, the last one is served on then.

        `sockets` are the listening ones by listener name, and belong to the worker from now on; `workers` is how many
        processes share them.
        """
        try:
            plane = self._adopt(snapshot)
        except BaseException:
            for sock in sockets.values():
                sock.close()
            raise
        self._gate.workers = workers
        self._functions.keep(snapshot)
        if not plane.is_draining:
            self._update_listeners(plane, snapshot, sockets)
        self._row[W_GENERATION] = snapshot.generation

    def _adopt(self, snapshot: Snapshot) -> Plane:
        """Have the plane serve from `snapshot`; what is likeliest to fail comes first."""
        self._tls.apply(snapshot)
        plane = self._plane
        clusters = build_clusters(
            snapshot, plane.table.clusters if plane is not None else {}, self._surroundings
        )
        table = Table(snapshot, clusters, plane.table if plane is not None else None)
        if plane is None:
            return self._start_plane(table)
        plane.apply(table)
        return plane

    def _start_plane(self, table: Table) -> Plane:
        plane = self._plane = Plane(
            loop=self._loop,
            clock=self._clock,
            rng=self._rng,
            row=self._row,
            rates=RateTable(self._surroundings.scoreboard.rates),
            table=table,
            access_log=AccessLog(table.snapshot.access_log.sink),
            tls=self._tls,
            functions=self._functions,
        )
        plane.start()
        return plane

    def _update_listeners(
        self, plane: Plane, snapshot: Snapshot, sockets: Mapping[str, socket.socket]
    ) -> None:
        """Listen on `sockets`. Those that are open already stay so, whatever they are called now; connections of the
        others end after the exchange in progress."""
        inodes = {name: os.fstat(sock.fileno()).st_ino for name, sock in sockets.items()}
        for inode in self._listeners.keys() - inodes.values():
            gone = self._listeners.pop(inode)
            gone.stop()
            plane.drain_listener(gone)
        for spec in snapshot.listeners:
            sock, inode = sockets[spec.name], inodes[spec.name]
            known = self._listeners.get(inode)
            if known is not None:
                sock.close()  # another descriptor of the same
                known.update(spec)
            else:
                listener = Listener(spec, sock, plane, self._cap, self._gate, self._clients)
                self._listeners[inode] = listener
                listener.start()
        self._row[W_ACCEPTING] = bool(self._listeners)

    def on_free(self, body: Mapping[str, Any]) -> None:
        """Another worker says that a request of a cluster that waits here may have what is free."""
        if self._plane is not None:
            for cluster in self._plane.table.clusters.values():
                if cluster.spec.slot == body["free"]:
                    cluster.on_free(body.get("from", -1), body.get("permit"), now=self._clock.monotonic())

    def on_news(self, body: Mapping[str, Any]) -> None:
        """Another worker, or control, says who holds which data."""
        if self._plane is not None:
            for cluster in self._plane.table.clusters.values():
                if cluster.spec.slot == body["data"] and cluster.data is not None:
                    cluster.data.on_message(body)

    def on_asked_to_close(self, body: Mapping[str, Any]) -> None:
        """Another worker has a request for an endpoint to which there may be no further connection."""
        if self._plane is not None:
            for pool in self._plane.pools_at(body["close_idle"]):
                pool.yield_idle(body["from"])

    def on_closed(self, body: Mapping[str, Any]) -> None:
        """Another worker has closed a connection, as it was asked to."""
        if self._plane is not None:
            for pool in self._plane.pools_at(body["closed_idle"]):
                pool.wake()

    def on_inquiry(self, body: Mapping[str, Any]) -> None:
        """Control asks where a request would go. It gets no answer when that is nothing this worker knows."""
        inquiry = parse_inquiry(body)
        if self._plane is None or inquiry is None:
            return
        for cluster in self._plane.table.clusters.values():
            if cluster.spec.slot == inquiry.cluster:
                now = self._clock.monotonic()
                answer = explained(cluster, inquiry, worker=self._number, now=now)
                if answer is not None:
                    self._surroundings.posts.to_control(answer)

    def reopen_log(self) -> None:
        """Open the access log's file again, after it was renamed."""
        if self._plane is not None:
            self._plane.access_log.reopen()

    async def drain(self) -> int:
        """Accept no more, answer what is in flight with `Connection: close`, and end within the drain timeout.

        Returns the number of connections that had to be cut.
        """
        plane = self._plane
        if plane is None:
            return 0
        plane.begin_drain()
        self._stop_listening()
        deadline = self._clock.monotonic() + plane.table.snapshot.drain_timeout_s
        while plane.connections and self._clock.monotonic() < deadline:
            await self._clock.sleep(_DRAIN_LOOK_S)
        return plane.connections

    def stop(self) -> None:
        """Cut what is left and write the last lines of the log."""
        self._stop_listening()
        if self._plane is not None:
            self._plane.stop()
            self._plane.access_log.close(_LOG_CLOSE_S)

    def _stop_listening(self) -> None:
        self._row[W_ACCEPTING] = 0
        for listener in self._listeners.values():
            listener.stop()
        self._listeners.clear()


class _Process:
    """A worker, its mailbox and its signals."""

    def __init__(self, worker: Worker, mailbox: Channel) -> None:
        self._worker = worker
        self._mailbox = mailbox
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._decoder = SnapshotDecoder()
        self._generation = 0
        self._coming: asyncio.Task[None] | None = None
        """Prepares the next snapshot."""
        self._coming_generation = 0

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._on_force)
        loop.add_signal_handler(signal.SIGUSR1, self._worker.reopen_log)
        children.unblock_signals()
        loop.add_reader(self._mailbox.fileno(), self._on_mail)
        await self._stopping.wait()
        loop.remove_reader(self._mailbox.fileno())
        self._drop_coming()
        try:
            return await self._drain()
        finally:
            self._worker.stop()

    def _on_force(self) -> None:
        self._forced.set()
        self._stopping.set()

    def _on_mail(self) -> None:
        try:
            message = self._mailbox.receive()
        except EOFError:
            self._stopping.set()  # no parent, and nobody else to send anything
            return
        except ValueError as error:
            _log.error("a message cannot be read: %s", error)
            return
        if message is not None:
            self._on_message(message)

    def _on_message(self, message: Message) -> None:
        if "serve" in message.body:
            self._on_snapshot(message)
        elif "free" in message.body:
            self._worker.on_free(message.body)
        elif "news" in message.body:
            self._worker.on_news(message.body)
        elif "close_idle" in message.body:
            self._worker.on_asked_to_close(message.body)
        elif "closed_idle" in message.body:
            self._worker.on_closed(message.body)
        elif "explain" in message.body:
            self._worker.on_inquiry(message.body)
        else:
            message.close()  # of another version

    def _on_snapshot(self, message: Message) -> None:
        generation = message.body["serve"]
        if generation <= max(self._generation, self._coming_generation):
            message.close()  # meant for a predecessor in this slot, or sent again while it is prepared
            return
        names = message.body["listeners"]
        if len(message.fds) != 1 + len(names):
            _log.error("no descriptor is left for generation %d, the last one is served on", generation)
            message.close()
            return
        snapshot_fd, *socket_fds = message.fds
        try:
            snapshot = self._decoder.decode(unsealed(snapshot_fd))
        except OtherVersion:
            _log.info("what was served before the upgrade cannot be read: waiting for control")
            message.close()
            return
        os.close(snapshot_fd)
        sockets = {name: socket.socket(fileno=fd) for name, fd in zip(names, socket_fds, strict=True)}
        self._drop_coming()
        self._coming = spawn(self._adopt(snapshot, sockets, message.body["workers"]), name="adopt snapshot")
        self._coming_generation = generation

    def _drop_coming(self) -> None:
        """Have what is prepared superseded by what comes now."""
        if self._coming is not None:
            self._coming.cancel()
            self._coming = None
            self._coming_generation = 0

    async def _adopt(self, snapshot: Snapshot, sockets: Mapping[str, socket.socket], workers: int) -> None:
        """Serve from `snapshot` if that can be; the parent sends it again if not."""
        try:
            await self._worker.prepare(snapshot)
        except BaseException as error:
            for sock in sockets.values():
                sock.close()
            if not isinstance(error, Exception):
                raise  # superseded
            self._tell_failure(snapshot)
            return
        try:
            self._worker.apply(snapshot, sockets, workers)
        except Exception:
            self._tell_failure(snapshot)
            return
        if not self._generation:
            # What exists now lives as long as the process: the collector need not look at it again. Exchanges leave no
            # cycles behind, so it may also look less often; with 10 000 connections each full look takes milliseconds.
            gc.freeze()
            gc.set_threshold(20_000, 20, 50)
            _log.info("serving, process %d", os.getpid())
        self._generation = snapshot.generation

    def _tell_failure(self, snapshot: Snapshot) -> None:
        self._coming_generation = 0
        _log.exception("generation %d cannot be served, the last one is served on", snapshot.generation)

    async def _drain(self) -> int:
        """Let exchanges finish, unless a signal forces the end."""
        drain = asyncio.ensure_future(self._worker.drain())  # noqa: TID251 awaited below, needs no name
        forced = asyncio.ensure_future(self._forced.wait())  # noqa: TID251 cancelled below
        await asyncio.wait((drain, forced), return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if not drain.done():
            drain.cancel()
            return EXIT_FORCED
        if cut := drain.result():
            _log.warning("drain timeout: %d connections were cut", cut)
        return EXIT_OK


def main() -> int:
    """The process, until it is told to stop. Returns its exit code."""
    children.take_program_mark(sys.argv)
    parser = argparse.ArgumentParser(prog="python -m proxy.worker")
    for name in ("parent", "slot", "board", "mailbox"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--posts", required=True)
    parser.add_argument("--locks", required=True)
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s %(levelname)s worker {options.slot}: %(message)s"
    )
    children.end_with_parent(options.parent)
    mailbox = Channel.from_fd(options.mailbox)
    board = Scoreboard(fd=options.board)
    lock_fds = [int(fd) for fd in options.locks.split(",")]
    locks = WorkerLocks(lock_fds, options.slot)
    for fd in lock_fds:
        os.close(fd)
    rng = random.Random(random.SystemRandom().getrandbits(64))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        worker = Worker(
            number=options.slot,
            scoreboard=board,
            posts=posts_from(options.posts, has_control=True),
            locks=locks,
            loop=runner.get_loop(),
            clock=SystemClock(),
            rng=rng,
        )
        return runner.run(_Process(worker, mailbox).run())


if __name__ == "__main__":
    raise SystemExit(main())
