"""A worker in this process, without its parent: what it does with its sockets."""

import asyncio
import gc
import os
import random
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.certificates import Authority
from support.wait import LIMIT_S

from proxy.clock import Clock, SystemClock
from proxy.config.build import build_snapshot
from proxy.config.schema import Config
from proxy.config.slots import Slots
from proxy.mailbox import Channel, Posts, channel_pair, sealed
from proxy.permits import LockFiles, WorkerLocks
from proxy.scoreboard import W_GENERATION, W_HEARTBEAT_MS, W_MESSAGES_DROPPED, Scoreboard
from proxy.snapshot import CertificateSpec, ListenerTlsSpec, Snapshot
from proxy.snapshot_codec import encode_snapshot
from proxy.worker import Worker, _Process

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
CONFIG = {
    "listeners": [{"name": "plain", "bind": "127.0.0.1:0"}],
    "routes": [{"match": {"path_prefix": "/"}, "respond": {"status": 200, "body": "done"}}],
    "drain_timeout": "10s",
}


@pytest.mark.parametrize("clients", [1, 3])
def test_a_drain_answers_who_waits_in_the_backlog(clients: int) -> None:
    """They were accepted by the kernel, and nobody else is there to serve them."""
    snapshot = build_snapshot(Config.model_validate(CONFIG), generation=1, resolved={}, slots=Slots())

    files = LockFiles()

    async def drain() -> int:
        worker = Worker(
            number=0,
            scoreboard=Scoreboard(),
            loop=asyncio.get_running_loop(),
            clock=SystemClock(),
            posts=Posts([]),
            locks=WorkerLocks(files.fds, 0),
            rng=random.Random(1),
        )
        worker.apply(snapshot, {"plain": listening})
        try:
            return await worker.drain()
        finally:
            worker.stop()

    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    waiting = [socket.create_connection(listening.getsockname(), 15) for _ in range(clients)]
    for each in waiting:
        each.sendall(REQUEST)
    assert asyncio.run(drain()) == 0
    files.close()
    for each in waiting:
        with each, each.makefile("rb") as stream:
            assert stream.read().startswith(b"HTTP/1.1 200 ")


class Crowded(SystemClock):
    """Each look at the clock is a second later, so that everything takes long; who sleeps lets others run."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps = 0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds == 0
        self.sleeps += 1
        await asyncio.sleep(0)


def new_worker(clock: Clock, board: Scoreboard, files: LockFiles, control: Channel | None = None) -> Worker:
    return Worker(
        number=0,
        scoreboard=board,
        loop=asyncio.get_running_loop(),
        clock=clock,
        posts=Posts([], control),
        locks=WorkerLocks(files.fds, 0),
        rng=random.Random(1),
    )


def with_certificates(*certificates: CertificateSpec) -> Snapshot:
    plain = build_snapshot(Config.model_validate(CONFIG), generation=1, resolved={}, slots=Slots())
    (listener,) = plain.listeners
    return replace(plain, listeners=(replace(listener, tls=ListenerTlsSpec(certificates)),))


AUTHORITY = Authority()
CERTIFICATES = [CertificateSpec(*AUTHORITY.issue(f"{number}.example")) for number in range(4)]


def test_many_certificates_do_not_stop_the_heart() -> None:
    """Each context takes a millisecond or more, and a worker that does nothing else for half a second is replaced."""
    board, clock, files = Scoreboard(), Crowded(), LockFiles()

    async def prepare() -> None:
        worker = new_worker(clock, board, files)
        beats = []
        coming = asyncio.ensure_future(worker.prepare(with_certificates(*CERTIFICATES)))
        while not coming.done():
            await asyncio.sleep(0)
            beats.append(board.worker_row(0)[W_HEARTBEAT_MS])
        await coming
        assert len({*beats}) >= 4 and beats == sorted(beats)
        assert clock.sleeps == 4

    asyncio.run(prepare())
    files.close()


def test_what_control_has_no_room_for_is_counted() -> None:
    board, files = Scoreboard(), LockFiles()
    row = board.worker_row(0)

    async def report() -> None:
        reader, writer = channel_pair()
        worker = new_worker(SystemClock(), board, files, writer)
        while not row[W_MESSAGES_DROPPED]:
            worker._on_function_off("name", "x" * 1000)
        reader.clear()
        worker._on_function_off("name", "why")
        assert row[W_MESSAGES_DROPPED] == 1
        for end in (reader, writer):
            end.close()

    asyncio.run(report())
    files.close()


def message(mailbox: Channel, generation: int, snapshot: Snapshot, sock: socket.socket) -> None:
    fd = sealed(encode_snapshot(replace(snapshot, generation=generation)), "test")
    mailbox.send({"serve": generation, "listeners": ["plain"], "workers": 1}, (fd, sock.fileno()))
    os.close(fd)


def test_what_cannot_be_served_leaves_the_last_and_is_taken_when_it_comes_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also when a part breaks that should not; the parent sends it again, as it does what is late."""
    plain = build_snapshot(Config.model_validate(CONFIG), generation=1, resolved={}, slots=Slots())
    broken = with_certificates(replace(CERTIFICATES[0], key=b"no key"))
    board, files = Scoreboard(), LockFiles()
    row = board.worker_row(0)

    async def serve() -> None:
        theirs, ours = channel_pair()
        process = _Process(new_worker(SystemClock(), board, files), theirs)
        running = asyncio.ensure_future(process.run())

        async def until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(LIMIT_S):
                while not condition():
                    await asyncio.sleep(0.001)

        def failures() -> int:
            return caplog.text.count("cannot be served, the last one is served on")

        message(ours, 1, plain, listening)
        await until(lambda: row[W_GENERATION] == 1)
        message(ours, 2, broken, listening)
        await until(lambda: failures() == 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("proxy.worker.build_clusters", None)
            message(ours, 2, plain, listening)
            await until(lambda: failures() == 2)
        assert row[W_GENERATION] == 1
        before = len(os.listdir("/proc/self/fd"))
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(REQUEST)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await until(lambda: len(os.listdir("/proc/self/fd")) == before)
        ours._sock.send(b"{")
        message(ours, 2, plain, listening)
        await until(lambda: row[W_GENERATION] == 2)
        assert len(os.listdir("/proc/self/fd")) == before
        ours.close()
        assert await running == 0
        theirs.close()

    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    thresholds = gc.get_threshold()
    with caplog.at_level("INFO"):
        asyncio.run(serve())
    files.close()
    listening.close()
    gc.unfreeze()
    gc.set_threshold(*thresholds)  # a worker's own
