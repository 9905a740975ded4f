"""A control's view of two clusters with a clock that stands still until it is told to go on."""

import asyncio
import random
from pathlib import Path

from proxy.clock import SystemClock
from proxy.config.build import build_snapshot
from proxy.config.load import load_bytes
from proxy.config.slots import SlotAllocator, Slots
from proxy.controlplane.events import EventLog
from proxy.controlplane.resilience import Resilience
from proxy.policy.breaker import unpack
from proxy.policy.failures import FailureKind
from proxy.policy.standing import unpack_marks
from proxy.scoreboard import C_STANDINGS, X_CIRCUIT, X_MARKS, Scoreboard

A, B, C = "etl/10.0.0.1:9000", "etl/10.0.0.2:9000", "etl/10.0.0.3:9000"


class Clock(SystemClock):
    """Time that the test sets; sleeps end when it does."""

    def __init__(self, now=1000.0):
        self.now = now
        self._sleepers = []

    def monotonic(self):
        return self.now

    def wall(self):
        return 1_700_000_000.0 + self.now

    async def sleep(self, seconds):
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def advance(self, seconds):
        """Let `seconds` pass."""
        for _ in range(20):
            await asyncio.sleep(0)
        self.now += seconds
        for _ in range(20):
            await asyncio.sleep(0)
        for until, future in self._sleepers:
            if until <= self.now + 1e-9 and not future.done():
                future.set_result(None)
        for _ in range(20):
            await asyncio.sleep(0)


def config_of(endpoints=("10.0.0.1:9000", "10.0.0.2:9000"), cluster=""):
    listed = ", ".join(f'{{address: "{one}"}}' for one in endpoints)
    text = f"""
listeners: [{{name: edge, bind: "127.0.0.1:0"}}]
clusters: [{{name: etl, endpoints: [{listed}], {cluster}}}]
routes: [{{match: {{path_prefix: /}}, cluster: etl}}]
"""
    return load_bytes(text.encode(), "test.yaml", Path("."), {})


class World:
    """Words, events, and what writes them."""

    def __init__(self, **config):
        self.board = Scoreboard(workers=2, endpoints=8, clusters=4)
        self.clock = Clock()
        self.slots = Slots(SlotAllocator(8), SlotAllocator(4, what="clusters"))
        self.snapshot = None
        self.generation = 0
        self.mailbox = None
        self.start()
        self.serve(**config)

    def start(self):
        """A control begins, perhaps after another."""
        self.events = EventLog(self.clock)
        clusters = self.snapshot.clusters if self.snapshot is not None else ()
        self.resilience = Resilience(
            self.board,
            self.events,
            clock=self.clock,
            rng=random.Random(1),
            known=[spec.id for cluster in clusters for spec in cluster.endpoints],
            mailbox=self.mailbox,
        )
        self.standings = self.resilience.standings

    def serve(self, **config):
        """Publish a configuration."""
        self.generation += 1
        made = config_of(**config)
        snapshot = build_snapshot(made, generation=self.generation, resolved={}, slots=self.slots)
        self.resilience.announce(made, snapshot)
        self.snapshot = snapshot
        self.resilience.update(made, snapshot)

    def restart(self, **config):
        """Control is replaced."""
        self.resilience.stop()
        self.start()
        self.serve(**config)

    def row(self, endpoint_id):
        return self.board.standing_row(self.slots.endpoints.slot(endpoint_id))

    def circuit(self, endpoint_id):
        return unpack(self.row(endpoint_id)[X_CIRCUIT])

    def marks(self, endpoint_id):
        return unpack_marks(self.row(endpoint_id)[X_MARKS])

    def member(self, endpoint_id):
        return self.standings.get(endpoint_id)

    @property
    def told(self):
        """How often workers were told of changes."""
        return self.board.control_row[C_STANDINGS]

    def result(self, endpoint_id, kind=FailureKind.CONNECT, generation=None, retry_after_s=0):
        """A worker reports; true when it counted."""
        if generation is None:
            generation = self.circuit(endpoint_id).generation
        slot = self.slots.endpoints.slot(endpoint_id)
        return self.resilience.on_result(slot, generation, kind, retry_after_s)

    def types(self):
        return [(event.type.value, event.subject) for event in self.events.recent]
