"""The clusters of one worker or several, without processes: one clock and loop turned by hand, real locks and rows."""

import os
import weakref
from collections import deque
from heapq import heappop, heappush
from itertools import count
from random import Random

from proxy.clusters import build_clusters
from proxy.model import TcpAddress
from proxy.permits import LockFiles, WorkerLocks
from proxy.policy.hashring import ring_points
from proxy.scoreboard import C_HEARTBEAT_MS, C_STANDINGS, W_HEARTBEAT_MS, X_CIRCUIT, X_MARKS, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, HashSpec, Snapshot
from proxy.surroundings import Surroundings


def endpoint(name, slot, **more):
    return EndpointSpec(f"c/{name}", slot, TcpAddress("127.0.0.1", 9000 + slot), name, **more)


def cluster(*endpoints, name="c", balancer="round_robin", **more):
    if balancer == "consistent_hashing":
        more = {"hash": HashSpec(path=True), "ring": ring_points(tuple(one.id for one in endpoints)), **more}
    return ClusterSpec(name, balancer, endpoints, **more)


def three(balancer="least_connections", *, of=None, **more):
    """Endpoints a, b and d; `more` is said of each, `of` of their cluster."""
    return cluster(
        *(endpoint(name, slot, **more) for slot, name in enumerate("abd")), balancer=balancer, **(of or {})
    )


class World:
    """What several workers share."""

    def __init__(self, workers=2, endpoints=8, now=0.0):
        self.scoreboard = Scoreboard(workers=workers, endpoints=endpoints)
        self.files = LockFiles((os.memfd_create("locks"),))
        weakref.finalize(self, self.files.close)
        self.now = now
        self.reported = []
        """What control was told."""
        self.on_report = lambda: None
        """Called when it is."""
        self.is_control_alive = True
        self.fleets = {}
        self._soon = deque()
        self._later = []
        self._numbers = count()

    def soon(self, call):
        self._soon.append(call)

    def later(self, seconds, call):
        heappush(self._later, (self.now + seconds, next(self._numbers), call))

    def turn(self):
        """Let the loop do what is due."""
        while self._soon:
            self._soon.popleft()()

    def run(self, seconds):
        """Let time pass."""
        end = self.now + seconds
        self.turn()
        while self._later and self._later[0][0] <= end:
            at, _, call = heappop(self._later)
            self.now = max(self.now, at)
            self.beat()
            call()
            self.turn()
        self.now = end
        self.beat()
        self.turn()

    def beat(self):
        if self.is_control_alive:
            self.scoreboard.control_row[C_HEARTBEAT_MS] = int(self.now * 1000)
        for worker in self.fleets:
            self.scoreboard.worker_row(worker)[W_HEARTBEAT_MS] = max(int(self.now * 1000), 1)

    def say(self, slot, *, circuit=None, marks=None):
        """Control says something of an endpoint."""
        row = self.scoreboard.standing_row(slot)
        if circuit is not None:
            row[X_CIRCUIT] = circuit.pack()
        if marks is not None:
            row[X_MARKS] = marks.pack()
        self.scoreboard.control_row[C_STANDINGS] += 1


class _Posts:
    def __init__(self, world):
        self._world = world

    def to_control(self, body):
        self._world.reported.append(body)
        self._world.on_report()
        return True

    def to_worker(self, slot, body):
        fleet = self._world.fleets.get(slot)
        if fleet is not None:
            self._world.soon(lambda: fleet.on_free(body) if "free" in body else fleet.on_news(body))
        return True


class Fleet:
    """Clusters of one worker over several snapshots."""

    def __init__(self, worker=1, world=None):
        self.world = world or World()
        self.scoreboard = self.world.scoreboard
        self.worker = worker
        self.clusters = {}
        self.locks = WorkerLocks(self.world.files.fds, worker)
        weakref.finalize(self, self.locks.close)
        self.surroundings = Surroundings(
            scoreboard=self.scoreboard,
            worker=worker,
            posts=_Posts(self.world),
            locks=self.locks,
            rng=Random(worker),
            monotonic=lambda: self.world.now,
            soon=self.world.soon,
            later=self.world.later,
        )
        self.world.fleets[worker] = self
        self.world.beat()

    def apply(self, *specs):
        snapshot = Snapshot(1, (), specs, ())
        self.clusters = build_clusters(snapshot, self.clusters, self.surroundings)
        return self.clusters[specs[0].name] if specs else None

    def on_free(self, body):
        for one in self.clusters.values():
            if one.spec.slot == body["free"]:
                one.on_free(body.get("from", -1), body.get("permit"), now=self.world.now)

    def on_news(self, body):
        for one in self.clusters.values():
            if one.spec.slot == body["data"]:
                one.data.on_message(body)
