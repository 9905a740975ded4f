"""Thousands of slow clients, and an ordinary one that should not notice."""

import json
from dataclasses import dataclass

from loadtests.daemon import Document, wait_for
from loadtests.faults.bench import WORKERS, Bench, Memory, apart, finish
from loadtests.faults.outcome import Outcome, at_most, counted, fit, written
from loadtests.faults.records import Records
from loadtests.faults.slow import COMPLETE

MIB = 1 << 20
BUDGET_MIB = 256
"""`limits.buffered_bytes`, of each worker; the default."""
LIMITS: Document = {"limits": {"buffered_bytes": f"{BUDGET_MIB}MiB"}}
EACH_KIB = 24
"""Of a daemon's memory for each connection, besides what waits in it: objects of both sides, parsers, buffers."""
FACTOR = 2.0
SETTLE_S = 2.0
"""After the last has come, until buffers are full: 5 000 readers fill a gigabyte of them, in the kernel mostly."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """One kind of slow client."""

    kind: str
    """Of `slow`."""
    title: str


HEADS = Crowd("heads", "send a byte of their head each second")
BODIES = Crowd("bodies", "send a byte of their body each second")
READERS = Crowd("readers", "read 64 bytes of a megabyte each second")


def run(bench: Bench, crowd: Crowd) -> Outcome:
    """The ordinary client alone, among them, and alone again."""
    sizes = bench.sizes
    endpoint = bench.endpoint()
    daemon = bench.daemon([endpoint.port], **apart(endpoint.port, bench.endpoint("slow").port), **LIMITS)
    straight = bench.measure(endpoint.port, sizes.rate, sizes.measured_s / 4)
    bench.on_progress(0.2)
    before = bench.measure(daemon.port, sizes.rate, sizes.measured_s / 2)
    bench.on_progress(0.4)
    memory = Memory(daemon)
    with memory.watched():
        slow = bench.start("slow", crowd.kind, str(daemon.port), "--clients", str(sizes.slow_clients))
        wait_for(lambda: COMPLETE in slow.tail(), "all slow clients to have come", slow)
        bench.rest(SETTLE_S, 0.5, 0.6)
        records = bench.measure(daemon.port, sizes.rate, sizes.measured_s)
    slow.process.terminate()
    finish(slow)
    bench.rest(SETTLE_S, 0.8, 0.85)
    after = bench.measure(daemon.port, sizes.rate, sizes.measured_s / 2)
    without = Records([*before, *after])
    told = json.loads(slow.tail().splitlines()[-1])
    times = records.slice_p99_ms() / max(without.slice_p99_ms(), 0.1)
    # A client that waits buffers at most its share; a budget that is reached holds over all of a worker.
    budget = WORKERS * BUDGET_MIB + sizes.slow_clients * EACH_KIB / 1024
    return Outcome(
        fault=f"{sizes.slow_clients:,} clients that {crowd.title}",
        saw=f"others: {counted(len(records.failed), 'failure')} of {len(records):,},"
        f" p99 {records.slice_p99_ms():.1f} ms (without them {without.slice_p99_ms():.1f} ms)",
        lost=f"{counted(told['cut'], 'slow client')} cut off",
        targets=(
            at_most("others' failures", len(records.failed), 0),
            at_most("others' p99, times that without", times, FACTOR, is_timing=True),
            at_most("bytes waiting", memory.buffered_bytes / MIB, WORKERS * BUDGET_MIB, " MiB"),
            at_most("the daemon's growth", memory.growth_bytes / MIB, round(budget), " MiB"),
            fit(straight.p99_ms),
        ),
        setting=written(LIMITS),
        figures={
            "requests": len(records),
            "failed": len(records.failed),
            "p99_ms": records.p99_ms,
            "p99_without_ms": without.p99_ms,
            "slice_p99_ms": records.slice_p99_ms(),
            "slice_p99_without_ms": without.slice_p99_ms(),
            "p99_straight_to_the_endpoint_ms": straight.p99_ms,
            "slow_opened": told["opened"],
            "slow_cut": told["cut"],
            "slow_open_at_the_end": told["open"],
            **{f"answers_{status}": count for status, count in told["answers"].items()},
            "buffered_mib": memory.buffered_bytes / MIB,
            "growth_mib": memory.growth_bytes / MIB,
        },
    )
