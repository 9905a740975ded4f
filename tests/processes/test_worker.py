"""A worker in this process, without its parent: what it does with its sockets."""

import asyncio
import random
import socket

import pytest

from proxy.clock import SystemClock
from proxy.config.build import Slots, build_snapshot
from proxy.config.schema import Config
from proxy.mailbox import Posts
from proxy.permits import LockFiles, WorkerLocks
from proxy.scoreboard import Scoreboard
from proxy.worker import Worker

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
