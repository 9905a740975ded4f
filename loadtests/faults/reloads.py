"""Reloads under load, half of them faulty; and very many, for the memory they leave behind."""

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from loadtests.crowd import Crowd
from loadtests.daemon import Daemon, Document
from loadtests.faults.bench import WARM_UP_S, WORKERS, Bench
from loadtests.faults.outcome import Outcome, Target, at_least, at_most, counted
from loadtests.peers.certificate import write_certificate
from loadtests.peers.processes import ChildError, free_port, resident_bytes

RATE = 500.0
CONNECTIONS = 16
WEBSOCKETS = 50
PAUSE_S = 0.05
"""Between two reloads under load."""
RELOAD_LIMIT_S = 10.0
MIB = 1 << 20
GROWTH_PERCENT = 5.0
WARM_UP_RELOADS = 20
"""Before memory is looked at: each way through the code was gone once."""


def good(daemon: Daemon, *, workers: int = 0) -> Iterator[Document]:
    """Configurations that differ from one another, each in another part, also in the name of the listener under load;
    for ever. `workers` is another number of them than at first; 0 = it stays."""
    port = free_port()
    base = daemon.document
    (cluster,), (listener,), (route,) = base["clusters"], base["listeners"], base["routes"]
    pem = daemon.file.with_name("certificate.pem")
    certificate = {"cert": str(pem), "key": str(pem)}
    for number in itertools.count(1):
        name = f"edge-{number}"
        yield {
            **base,
            "listeners": [{**listener, "name": name}],
            "routes": [{**route, "match": {**route["match"], "listener": name}}],
        }
        if workers:
            yield {**base, "workers": workers}
        write_certificate(pem)
        secure = {"bind": f"127.0.0.1:{port}", "tls": {"certificates": [certificate]}}
        yield {**base, "listeners": [listener, secure]}
        yield {**base, "timeouts": {"header": f"{number + 10}s"}}
        yield {**base, "listeners": [*base["listeners"], {"bind": f"127.0.0.1:{port}"}]}
        yield {**base, "clusters": [{**cluster, "retry": {"max_retries": number}}]}
        yield {**base, "clusters": [cluster, {**cluster, "name": f"another-{number}"}]}
        yield {
            **base,
            "routes": [{"match": {"path": f"/{number}"}, "respond": {"status": 204}}, *base["routes"]],
        }


def faulty(daemon: Daemon) -> Iterator[Document | str]:
    """Files with a fault each, for ever."""
    base = daemon.document
    taken = {"bind": f"127.0.0.1:{daemon.admin_port}"}
    missing = {"certificates": [{"cert": "/nonexistent.crt", "key": "/nonexistent.key"}]}
    for number in itertools.count(1):
        yield "listeners: [" + "{" * (number % 7 + 1)
        yield {**base, "limitz": number}
        yield {**base, "timeouts": {"header": f"{number} parsecs"}}
        yield {**base, "listeners": [*base["listeners"], taken]}
        yield {**base, "listeners": [{**base["listeners"][0], "tls": missing}]}
        yield ""


def reload(daemon: Daemon, file: Document | str) -> bool:
    """Write the file and have it read; whether it is served now. Raises `OSError`."""
    daemon.write(file)
    answer: dict[str, Any] = json.loads(
        daemon.admin("/api/v1/reload", method="POST", timeout_s=RELOAD_LIMIT_S)
    )
    return not answer["faults"]


class Reloads:
    """Good and faulty ones in turn."""

    def __init__(self, daemon: Daemon, *, workers: int = 0) -> None:
        """`workers` as in `good`."""
        self.applied = self.refused = self.wrong = 0
        self._daemon = daemon
        self._good = good(daemon, workers=workers)
        self._faulty = faulty(daemon)

    def next(self) -> None:
        """One more. Raises `OSError`."""
        if (self.applied + self.refused + self.wrong) % 2 == 0:
            is_served = reload(self._daemon, next(self._good))
            self.applied += is_served
            self.wrong += not is_served
        else:
            is_served = reload(self._daemon, next(self._faulty))
            self.refused += not is_served
            self.wrong += is_served


def run(bench: Bench) -> Outcome:
    """Under load."""
    echo = free_port()
    command = [sys.executable, "-m", "loadtests.echo", str(echo)]
    bench.children.start("echo", command, sorted(os.sched_getaffinity(0))).wait_for_port(echo)
    daemon = bench.daemon([echo])
    crowd = Crowd(
        daemon, rate=RATE, connections=CONNECTIONS, websockets=WEBSOCKETS // WORKERS, workers=WORKERS
    )
    # One more than has WebSockets, which then ends again: the last to come is the first to go.
    reloads = Reloads(daemon, workers=WORKERS + 1)
    asyncio.run(_under_load(bench, crowd, reloads))
    tally = crowd.tally
    failed, closed = sum(tally.failed.values()), sum(tally.closed.values())
    return Outcome(
        fault=f"{bench.sizes.reloads:,} reloads, half of them faulty, under {RATE:g} requests/s"
        f" and {WEBSOCKETS} WebSockets",
        saw=f"{counted(failed, 'failure')} of {tally.answered + failed:,} requests,"
        f" {counted(closed, 'closed WebSocket')}, slowest answer {tally.slowest_s * 1000.0:.0f} ms",
        lost="nothing" if not failed + closed else f"{failed} requests, {closed} WebSockets",
        targets=(
            at_most("failed requests", failed, 0),
            at_most("closed WebSockets", closed, 0),
            at_most("stale keep-alive connections", tally.stale, 0),
            at_least("good ones applied", reloads.applied, bench.sizes.reloads // 2),
            at_least("faulty ones refused", reloads.refused, bench.sizes.reloads // 2),
        ),
        figures={
            "answered": tally.answered,
            "failed": failed,
            "closed": closed,
            "stale": tally.stale,
            "applied": reloads.applied,
            "refused": reloads.refused,
            "slowest_ms": tally.slowest_s * 1000.0,
        },
    )


async def _under_load(bench: Bench, crowd: Crowd, reloads: Reloads) -> None:
    await crowd.start()
    try:
        await asyncio.sleep(WARM_UP_S)
        crowd.tally.watched_from = asyncio.get_running_loop().time()
        for number in range(bench.sizes.reloads):
            await asyncio.to_thread(reloads.next)
            bench.on_progress((number + 1) / bench.sizes.reloads)
            await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(WARM_UP_S)
    finally:
        await crowd.stop()


def run_many(bench: Bench) -> Outcome:
    """Without load, as quickly as they come.

    What grows is bounded, so it is no measure of what the next thousand add: 3.6 % after 1 000, 6.0 % after 3 000 (of
    157 MB, 32 MB of it each of two workers'). A cluster that is gone is a cycle, and waits with 44 objects for the
    garbage collector, which a worker has look when 20 000 came: some 450 clusters of a name of their own, 3.3 MB. With
    a collection each 500 reloads 3 000 add 1.3 MB to a worker and leave no object behind. Control's objects stay as
    many; its 2.7 MB are room for the next configuration, mostly after the first 500. Pages of the scoreboard are under
    0.3 MB: rows serve another name after a minute, so they are as many as there are names in one, 1 024 at most.
    """
    endpoint = bench.endpoint()
    daemon = bench.daemon([endpoint.port])
    wanted = bench.sizes.many_reloads
    reloads = Reloads(daemon)
    for _ in range(WARM_UP_RELOADS):
        reloads.next()
    before = _memory(daemon)
    for number in range(wanted):
        reloads.next()
        bench.on_progress((number + 1) / wanted)
    after = _memory(daemon)
    growth = (sum(after.values()) / sum(before.values()) - 1.0) * 100.0
    parts = ", ".join(f"{before[pid] / MIB:.1f} → {after[pid] / MIB:.1f}" for pid in before)
    return Outcome(
        fault=f"{wanted:,} reloads, half of them faulty",
        saw="nothing",
        lost="nothing",
        targets=(
            Target(
                f"memory grows by < {GROWTH_PERCENT:g} %",
                f"{growth:.1f} % (MiB of each process: {parts})",
                growth < GROWTH_PERCENT,
                is_timing=wanted < WARM_UP_RELOADS,
            ),
            at_most("wrong answers to a reload", reloads.wrong, 0),
        ),
        figures={
            "reloads": wanted,
            "growth_percent": growth,
            "before_mib": sum(before.values()) / MIB,
            "after_mib": sum(after.values()) / MIB,
        },
    )


def _memory(daemon: Daemon) -> dict[int, int]:
    """Resident bytes of each process. Raises `ChildError`."""
    found = {pid: resident_bytes(pid) for pid in daemon.child.pids()}
    if not all(found.values()):
        raise ChildError("a process of the daemon ended")
    return found
