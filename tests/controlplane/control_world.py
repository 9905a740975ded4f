"""A control with a parent, a clock and a resolver by hand: what it publishes, and its admin API over a real socket."""

import asyncio
import random
import socket
from pathlib import Path

from proxy.clock import SystemClock
from proxy.composition import Control
from proxy.config.load import load_bytes
from proxy.model import TcpAddress
from proxy.scoreboard import (
    P_STATE,
    P_WANTED_WORKERS,
    S_STATE,
    SLOT_SERVING,
    STATE_RUNNING,
    W_GENERATION,
    Scoreboard,
)

TEXT = b"""
listeners: [{name: edge, bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
clusters:
  - name: etl
    dns: {refresh: 10s}
    endpoints: [{address: "query:9000"}, {address: "10.0.0.9:9000"}]
  - name: other
    endpoints: [{address: "query:9000"}, {address: "late:1"}]
routes: [{match: {path_prefix: /}, cluster: etl}]
"""


class Clock(SystemClock):
    """Real time for stamps; sleeps end when the test says so."""

    def __init__(self):
        self.ahead_s = 0.0
        self.sleepers = []

    def monotonic(self):
        return SystemClock.monotonic() + self.ahead_s

    async def sleep(self, seconds):
        future = asyncio.get_running_loop().create_future()
        self.sleepers.append((seconds, future))
        await future

    async def wake(self, longest_s):
        """End the sleeps of at most `longest_s` seconds."""
        await settle()
        due = [future for seconds, future in self.sleepers if seconds <= longest_s and not future.done()]
        for future in due:
            future.set_result(None)
        await settle()


async def settle():
    for _ in range(30):
        await asyncio.sleep(0)


class World:
    def __init__(self, text=TEXT):
        self.text = text
        self.path = Path("test.yaml")
        self.config = load_bytes(text, "test.yaml", Path("."), {})
        self.board = Scoreboard(endpoints=8)
        self.published = []
        self.sources = []
        self.refuses = None
        self.lags = False
        self.clock = Clock()
        self.hosts = {"query": ["10.0.0.2", "10.0.0.1"]}
        self.control = self.new_control()

    def new_control(self, **changed):
        return Control(
            self.config,
            self.text,
            self,
            self.board,
            self,
            **{"workers": 1, "clock": self.clock, "rng": random.Random(1), "lookup": self.lookup} | changed,
        )

    def read(self):
        """As the configuration's file."""
        return self.text, load_bytes(self.text, "test.yaml", Path("."), {})

    def is_new(self):
        return True

    async def publish(self, snapshot, workers, source):
        """One worker, which serves each snapshot at once."""
        if self.refuses is not None:
            raise self.refuses
        self.sources.append(source)
        self.published.append(snapshot)
        self.board.parent_row[P_STATE] = STATE_RUNNING
        self.board.parent_row[P_WANTED_WORKERS] = workers
        self.board.slot_row(0)[S_STATE] = SLOT_SERVING
        if not self.lags:
            self.board.worker_row(0)[W_GENERATION] = snapshot.generation
        return (TcpAddress("127.0.0.1", 1),)

    async def lookup(self, host, port):
        if host not in self.hosts:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.hosts[host]]

    async def get(self, path):
        address = self.control.admin_address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), body

    def addresses(self):
        clusters = self.published[-1].clusters
        return {cluster.name: [str(spec.address) for spec in cluster.endpoints] for cluster in clusters}
