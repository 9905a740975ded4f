"""Three times as many requests as the endpoints can serve: are they kept busy, is nobody promised too much?

Capacity is what `max_connections` at a fixed service time makes: ENDPOINTS · PERMITS / SERVICE_S answers a second.
"""

from loadtests.daemon import Document
from loadtests.faults.bench import WARM_UP_S, Bench
from loadtests.faults.outcome import Outcome, at_least, at_most, counted, fit, written
from loadtests.faults.records import Records

ENDPOINTS = 3
PERMITS = 8
SERVICE_S = 0.1
CAPACITY = ENDPOINTS * PERMITS / SERVICE_S
OVERLOAD = 3.0
QUEUE_S = 1.0
"""`queue.timeout`."""
CLUSTER: Document = {"max_connections": PERMITS, "queue": {"timeout": f"{QUEUE_S:g}s"}}
SETTLE_S = 2.0
"""Until the queue is full and service times are known."""
GOODPUT_PERCENT = 90.0
REFUSAL_MS = 50.0
CONNECTIONS = 2000


def run(bench: Bench) -> Outcome:
    """One overload."""
    endpoints = [bench.endpoint(name, "--service", str(SERVICE_S)) for name in "abc"]
    daemon = bench.daemon([each.port for each in endpoints], cluster=CLUSTER)
    idle = bench.endpoint("idle")
    straight = bench.measure(idle.port, CAPACITY * OVERLOAD, bench.sizes.measured_s / 4)
    pace = bench.pace(daemon.port, CAPACITY * OVERLOAD, connections=CONNECTIONS)
    bench.rest(WARM_UP_S + SETTLE_S + bench.sizes.measured_s, 0.2, 1.0)
    records = pace.stop()
    peaks = [each.report()["peak"] for each in endpoints]
    return outcome(records, bench.sizes.measured_s, peaks, straight.p99_ms)


def outcome(records: Records, seconds: float, peaks: list[int], straight_ms: float) -> Outcome:
    """What it comes to."""
    begin = min(one.due for one in records) + SETTLE_S
    asked = records.due_between(begin, begin + seconds)
    served = asked.where(lambda one: not one.is_failed)
    done = records.where(lambda one: not one.is_failed and begin <= one.done < begin + seconds)
    late = served.where(lambda one: one.arrived - one.due > QUEUE_S)
    waited_in_vain = asked.where(lambda one: one.reason == "queue_timeout")
    refused = asked.where(lambda one: one.reason == "overloaded")
    other = asked.failed.where(lambda one: one.reason not in ("overloaded", "queue_timeout"))
    goodput = len(done) / seconds / CAPACITY * 100.0
    admitted = len(served) + len(waited_in_vain)
    in_time = (len(served) - len(late)) / admitted * 100.0 if admitted else 0.0
    return Outcome(
        fault=f"{OVERLOAD:g} × as many requests as {ENDPOINTS} endpoints can serve ({CAPACITY:g}/s)",
        saw=f"{len(served):,} of {len(asked):,} served, p99 {served.p99_ms:.0f} ms;"
        f" {counted(len(refused), 'refusal')} (503) after {refused.percentile_ms(50.0):.1f} ms,"
        f" p99 {refused.p99_ms:.1f} ms",
        lost=other.reasons() or f"{counted(len(waited_in_vain), 'request')} waited in vain",
        targets=(
            at_least("goodput", goodput, GOODPUT_PERCENT, " % of capacity", is_timing=True),
            at_least("admitted and begun by the deadline", in_time, 99.0, " %", is_timing=True),
            at_most("refusals: p99", refused.p99_ms, REFUSAL_MS, " ms", is_timing=True),
            at_most("most at once at an endpoint", max(peaks), PERMITS),
            at_most("other failures", len(other), 0),
            fit(straight_ms),
        ),
        setting=written(CLUSTER),
        figures={
            "requests": len(asked),
            "served": len(served),
            "refused": len(refused),
            "waited_in_vain": len(waited_in_vain),
            "begun_late": len(late),
            "other_failures": len(other),
            "goodput_percent": goodput,
            "in_time_percent": in_time,
            "refusal_p50_ms": refused.percentile_ms(50.0),
            "refusal_p99_ms": refused.p99_ms,
            "peak_at_an_endpoint": max(peaks),
            "p99_straight_to_the_endpoint_ms": straight_ms,
        },
    )
