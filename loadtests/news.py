"""What it costs that workers tell each other who holds which data: `python -m loadtests.news [--rate 5000]`.

Workers' clusters of one process, with mailboxes as they have them and a clock turned by hand: requests that come evenly
and are answered in their turn, by endpoints that say whether they held the data. CPU time is that of gathering, sending
and taking in news; the requests' own is left out. Below is the memory of a key that is known.
"""

import argparse
import gc
import os
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate, count
from random import Random
from time import process_time

from rich.console import Console
from rich.table import Table

from proxy.clock import Clock, SystemClock
from proxy.cluster import Cluster
from proxy.clusters import build_clusters
from proxy.controlplane.residency import Residencies
from proxy.data_news import DataNews
from proxy.mailbox import Posts, channel_pair
from proxy.model import Outcome, RequestFacts, TcpAddress
from proxy.permits import LockFiles, WorkerLocks
from proxy.policy.data_reply import DataReply
from proxy.policy.hashring import ring_points
from proxy.policy.locality import LocalityParams
from proxy.policy.residency import Holdings, Residency
from proxy.scoreboard import K_NEWS_DROPPED, K_NEWS_SENT, W_HEARTBEAT_MS, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot
from proxy.surroundings import Surroundings

ENDPOINTS = 8
SIZE = 1_000_000


class _Clock(SystemClock):
    """Time that the run sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass(slots=True)
class Spent:
    """CPU seconds."""

    sending: float = 0.0
    receiving: float = 0.0
    control: float = 0.0


class Exchange:
    """Workers that tell each other, and control that listens."""

    def __init__(self, workers: int, clock: Clock) -> None:
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.clock = clock
        self.spent = Spent()
        self.board = Scoreboard(workers=workers, endpoints=ENDPOINTS, clusters=1)
        self._locks = LockFiles((os.memfd_create("locks"),))
        pairs = [channel_pair() for _ in range(workers + 1)]
        self._mailboxes = [pair[0] for pair in pairs]
        """Control's first."""
        self._ends = [end for pair in pairs for end in pair]
        posts = Posts([pair[1] for pair in pairs[1:]], pairs[0][1])
        snapshot = Snapshot(1, (), (_spec(),), ())
        self.control = Residencies(self.board, posts, clock=clock, rng=Random(0))
        self.control.update(snapshot)
        self.clusters: list[Cluster] = []
        self._worker_locks = [WorkerLocks(self._locks.fds, worker) for worker in range(workers)]
        for worker in range(workers):
            self.board.worker_row(worker)[W_HEARTBEAT_MS] = 1
            around = Surroundings(
                scoreboard=self.board,
                worker=worker,
                posts=posts,
                locks=self._worker_locks[worker],
                rng=Random(worker),
                monotonic=clock.monotonic,
                soon=lambda call: self.later(0.0, call),
                later=self.later,
            )
            self.clusters += build_clusters(snapshot, {}, around).values()

    def close(self) -> None:
        """Give back what it has open."""
        for locks in self._worker_locks:
            locks.close()
        for end in self._ends:
            end.close()
        self._locks.close()
        os.close(self.board.fd)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """A loop's `call_later`."""
        heappush(self._later, (self.clock.monotonic() + seconds, next(self._numbers), call))

    def turn(self) -> None:
        """Send what is due, and have it read."""
        now = self.clock.monotonic()
        begun = process_time()
        is_sent = False
        while self._later and self._later[0][0] <= now:
            heappop(self._later)[2]()
            is_sent = True
        if not is_sent:
            return
        sent = process_time()
        for cluster, mailbox in zip(self.clusters, self._mailboxes[1:], strict=True):
            while (message := mailbox.receive()) is not None:
                assert cluster.data is not None
                cluster.data.on_news(message.body["news"])
        received = process_time()
        while (message := self._mailboxes[0].receive()) is not None:
            self.control.takers["data?" if "data?" in message.body else "data"](message.body)
        self.spent.sending += sent - begun
        self.spent.receiving += received - sent
        self.spent.control += process_time() - received

    def words(self, word: int) -> int:
        """Sum of `word` of the cluster."""
        return self.board.cluster_sum(0)[word]


def _spec() -> ClusterSpec:
    endpoints = tuple(
        EndpointSpec(f"c/{slot}", slot, TcpAddress("127.0.0.1", 9000 + slot), str(slot)) for slot in range(ENDPOINTS)
    )  # fmt: skip
    ring = ring_points(tuple(one.id for one in endpoints))
    return ClusterSpec(
        "c", "data_locality_aware", endpoints, ring=ring, locality=LocalityParams(bandwidth_bytes_per_s=1e8)
    )


def run(exchange: Exchange, clock: _Clock, keys: int, zipf: float, rate: float, seconds: float) -> float:
    """Requests at `rate` for `seconds`, one worker after the other; returns their CPU time, news included."""
    rng = Random(7)
    weights = list(accumulate([(rank + 1) ** -zipf for rank in range(keys)]))
    facts = [RequestFacts(data_keys=(b"key-%d" % key,), size_bytes=SIZE) for key in range(keys)]
    held: set[tuple[int, int]] = set()
    drawn = rng.choices(range(keys), cum_weights=weights, k=int(rate * seconds))
    begun = process_time()
    for number, key in enumerate(drawn):
        clock.now += 1.0 / rate
        cluster = exchange.clusters[number % len(exchange.clusters)]
        lease = cluster.acquire(facts[key], now=clock.now)
        slot = lease.endpoint.spec.slot
        is_hit = (key, slot) in held
        held.add((key, slot))
        took_s = 0.002 + (0.0 if is_hit else SIZE / 1e8)
        data = cluster.data
        assert data is not None and lease.placement is not None
        data.on_answer(
            lease.endpoint, lease.placement, 200, took_s, DataReply(hit=is_hit), now=clock.now + took_s
        )
        lease.release(Outcome.OK, None, now=clock.now + took_s)
        exchange.turn()
    return process_time() - begun


def telling_s() -> float:
    """CPU seconds of one `tell`."""
    exchange = Exchange(1, _Clock())
    data = exchange.clusters[0].data
    assert data is not None
    news: DataNews = data.news
    begun = process_time()
    for point in range(100_000):
        news.tell(point, 1, SIZE)
    spent_s = process_time() - begun
    exchange.close()
    return spent_s / 100_000


def key_bytes(keys: int = 50_000, held: int = 1) -> float:
    """Memory of a key that `held` endpoints hold."""
    gc.collect()
    tracemalloc.start()
    residency = Residency(keys)
    holdings = [Holdings() for _ in range(ENDPOINTS)]
    rng = Random(1)
    for _ in range(keys):
        key = residency.key(rng.getrandbits(64))
        residency.resize(key, float(rng.randrange(1, SIZE)))
        for one in rng.sample(holdings, held):
            one.touch(key, 0.0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / keys


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.news", description=__doc__)
    parser.add_argument("--rate", type=float, default=5000.0, help="requests a second of all workers")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table(
        title=f"{options.rate:.0f} requests/s, {options.keys} keys, {options.workers} workers", title_justify="left"
    )  # fmt: skip
    for name in ("popularity", "news/s", "dropped/s", "a worker's CPU", "control's CPU", "requests' own CPU"):
        table.add_column(name, justify="left" if name == "popularity" else "right")
    each_s = telling_s()
    for title, zipf in (("flat", 0.0), ("Zipf 1.0", 1.0)):
        clock = _Clock()
        exchange = Exchange(options.workers, clock)
        all_s = run(exchange, clock, options.keys, zipf, options.rate, options.seconds)
        spent, seconds = exchange.spent, options.seconds
        sent, dropped = exchange.words(K_NEWS_SENT), exchange.words(K_NEWS_DROPPED)
        worker_s = (spent.sending + spent.receiving + each_s * (sent + dropped)) / options.workers
        exchange.close()
        own_s = all_s - spent.sending - spent.receiving - spent.control
        table.add_row(
            title,
            f"{sent / seconds:.0f}",
            f"{dropped / seconds:.0f}",
            f"{worker_s / seconds:.2%}",
            f"{spent.control / seconds:.2%}",
            f"{own_s / seconds / options.workers:.1%}",
        )
    console.print(table)
    sizes = ", ".join(f"{key_bytes(held=held):.0f} with {held}" for held in (1, 2, 3))
    console.print(f"bytes of a key by the number of endpoints that hold it: {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
