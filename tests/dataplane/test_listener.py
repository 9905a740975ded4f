"""How many clients a process takes."""

import asyncio
import errno
import os
import resource
import socket
from collections import Counter
from types import SimpleNamespace

import pytest

from proxy.dataplane import listener
from proxy.dataplane.gate import AcceptGate
from proxy.dataplane.listener import KEEP_BACK, NO_CAP, SPARE_DESCRIPTORS, ConnectionCap, Listener
from proxy.model import TcpAddress
from proxy.scoreboard import W_ACCEPT_ERRORS, W_ACCEPTED, W_ACCEPTING, Scoreboard
from proxy.snapshot import Limits, ListenerSpec


@pytest.fixture
def cap(monkeypatch):
    """A cap of a process with ten descriptors open at its start, and a way to set its limit."""
    monkeypatch.setattr(listener.os, "listdir", lambda path: ["0"] * 10)
    made = ConnectionCap()
    monkeypatch.undo()

    def current(soft):
        monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, soft))
        return made.current

    return current


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (1000, 500),
        (1001, 501),
        (2 * KEEP_BACK, KEEP_BACK),
        (3 * KEEP_BACK, 2 * KEEP_BACK),
        (4 * KEEP_BACK, 3 * KEEP_BACK),
        (40 * KEEP_BACK, 30 * KEEP_BACK),
        (2, 1),
        (1, 1),
        (0, 1),
        (-10, 1),
    ],
)
def test_cap(cap, free, expected):
    """Descriptors are kept back for endpoints: half while they are few, then a quarter; never no client at all."""
    assert cap(10 + SPARE_DESCRIPTORS + free) == expected


def test_cap_without_a_limit(cap):
    assert cap(resource.RLIM_INFINITY) == NO_CAP


class OneAtATime:
    """A listening socket without a descriptor for what it accepts, until the test says so."""

    def __init__(self, sock):
        self._sock = sock
        self.is_out = True

    def fileno(self):
        return self._sock.fileno()

    def close(self):
        self._sock.close()

    def accept(self):
        if self.is_out:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._sock.accept()


@pytest.mark.parametrize("reason", ["no descriptor", "at the cap"])
def test_without_room_no_connection_is_left_to_this_worker(reason):
    """The others go by W_ACCEPTING: they would wait for one that cannot take any. It says so until it could."""
    board = Scoreboard()
    row = board.worker_row(0)

    async def wait():
        loop = asyncio.get_running_loop()
        plane = SimpleNamespace(
            loop=loop,
            row=row,
            monotonic=loop.time,
            connections=0,
            adopting=0,
            crowded_until=0.0,
            evict_idle=lambda seconds: False,
            table=SimpleNamespace(limits=Limits()),
        )
        cap = SimpleNamespace(current=0 if reason == "at the cap" else 5)
        sock = OneAtATime(listening)
        sock.is_out = reason == "no descriptor"
        spec = ListenerSpec("edge", TcpAddress(*listening.getsockname()))
        gate = AcceptGate(board, 0, loop.time)
        made = Listener(spec, sock, plane, cap, gate, Counter())
        adopted = []

        async def adopt(client, peer):
            adopted.append(client)

        made._adopt = adopt
        row[W_ACCEPTING] = 1
        made.start()

        async def until(condition):
            async with asyncio.timeout(15):
                while not condition():
                    await asyncio.sleep(0.001)

        await until(lambda: not row[W_ACCEPTING])
        assert row[W_ACCEPTED] == 0 and (row[W_ACCEPT_ERRORS] > 0) == sock.is_out
        cap.current, sock.is_out = 5, False
        await until(lambda: adopted)
        assert row[W_ACCEPTING] == 1
        made.stop()
        for client in adopted:
            client.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        with socket.create_connection(listening.getsockname()):
            asyncio.run(wait())
