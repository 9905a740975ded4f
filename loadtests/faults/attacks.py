"""slowhttptest's attacks (Debian package slowhttptest), while an ordinary client goes on."""

import os
import shutil
from dataclasses import dataclass

from loadtests.faults.bench import SLOW_PATH, Bench, apart, connections_of, wait_for_connections
from loadtests.faults.outcome import Outcome, at_most, counted, fit

PROGRAM = "slowhttptest"
P99_LIMIT_MS = 100.0
REPLY_BYTES = 1_000_000
RATE = 500
"""New connections per second of an attack."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One kind."""

    title: str
    arguments: tuple[str, ...]
    path: str = "/"


HEADS = Attack("slow heads (slowloris)", ("-H", "-t", "GET", "-i", "2", "-x", "24"))
BODIES = Attack("slow bodies", ("-B", "-t", "POST", "-i", "2", "-s", "8192", "-x", "10"))
READERS = Attack(
    "slow readers",
    ("-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "32", "-k", "3"),
    f"/bytes/{REPLY_BYTES}",
)


def run(bench: Bench, attack: Attack) -> Outcome:
    """The ordinary client alone and with the attack."""
    number, sizes = bench.sizes.attackers, bench.sizes
    fault = f"slowhttptest: {attack.title}, {number:,} connections"
    program = shutil.which(PROGRAM)
    if program is None:
        return Outcome(fault, "–", "–", (), setting="skipped: slowhttptest is not installed")
    endpoint = bench.endpoint()
    daemon = bench.daemon([endpoint.port], **apart(endpoint.port, bench.endpoint("slow").port))
    straight = bench.measure(endpoint.port, sizes.rate, sizes.measured_s / 4)
    bench.on_progress(0.2)
    without = bench.measure(daemon.port, sizes.rate, sizes.measured_s / 2)
    bench.on_progress(0.4)
    seconds = str(int(sizes.measured_s) + number // RATE + 10)
    url = f"http://127.0.0.1:{daemon.port}{SLOW_PATH}{attack.path}"
    common = ("-c", str(number), "-r", str(RATE), "-l", seconds, "-p", "3", "-u", url)
    attacker = bench.children.start(
        PROGRAM, [program, *attack.arguments, *common], sorted(os.sched_getaffinity(0))
    )
    wait_for_connections(daemon, int(number * 0.9))
    bench.on_progress(0.6)
    records = bench.measure(daemon.port, sizes.rate, sizes.measured_s)
    held = connections_of(daemon)
    bench.children.stop(attacker)
    return Outcome(
        fault=fault,
        saw=f"{counted(len(records.failed), 'failure')} of {len(records):,} requests, p99 {records.p99_ms:.1f} ms"
        f" (without the attack {without.p99_ms:.1f} ms)",
        lost=records.reasons() or "nothing",
        targets=(
            at_most("failed requests", len(records.failed), 0),
            at_most("p99", records.p99_ms, P99_LIMIT_MS, " ms", is_timing=True),
            fit(straight.p99_ms),
        ),
        figures={
            "requests": len(records),
            "failed": len(records.failed),
            "p99_ms": records.p99_ms,
            "p99_without_ms": without.p99_ms,
            "p99_straight_to_the_endpoint_ms": straight.p99_ms,
            "connections_at_the_end": held,
        },
    )
