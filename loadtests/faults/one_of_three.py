"""One endpoint of three fails in one of five ways under load: what fails, until when, and when it is back.

Passive detection is when the admin API first shows the endpoint out of use: its circuit opened, or it was ejected. The
look is up to `LOOK_S` late, so what counts as sent after the detection really was.
"""

import signal
import time
from dataclasses import dataclass, field

from loadtests.daemon import Document
from loadtests.faults.bench import WARM_UP_S, Bench, Endpoint, Watch
from loadtests.faults.outcome import Outcome, Target, at_most, counted, written
from loadtests.faults.records import Record, Records

SERVICE_S = 0.01
FACTOR = 30
NAMES = "abc"
RECOVERY_S = 2.0
"""`recovery_timeout` of the circuit."""
THRESHOLD = 5
"""`failure_threshold` of the circuit, the default."""
REACTION_S = 0.1
"""From the last of so many failures to the last new request, over all workers."""
EJECTION_S = 6.0
"""`base_ejection`; longer than the fault, so that one ejection covers it."""
EJECTION_JITTER = 1.1
SLACK_S = 1.0
"""For the trials to come along, and for a busy machine."""
LIMIT_S = 20.0
PER_TRY_S = 0.5
RETRY_TIMEOUTS: Document = {
    "per_try_timeout": f"{PER_TRY_S * 1000.0:g}ms",
    "on": ["connect_failure", "reset", "timeout", 502, 503, 504],
}


@dataclass(frozen=True, slots=True)
class Ending:
    """A way to fail."""

    title: str
    begin: signal.Signals
    end: signal.Signals | None
    """`None` = it is started anew."""
    argument: str = "reset"
    """What the endpoint does on SIGUSR1."""
    more: Document = field(default_factory=dict)
    """Keys of the cluster."""
    failures_before: int = 0
    """How many the circuit must see to open, that are not hidden by retries."""
    unknown_s: float = 0.0
    """How long it takes until such a failure is one; what is sent meanwhile may fail too."""
    is_ejected: bool = False
    """By outlier detection, rather than left out by its circuit."""

    @property
    def cluster(self) -> Document:
        """All keys of the cluster beyond the defaults."""
        return {"circuit_breaker": {"recovery_timeout": f"{RECOVERY_S:g}s"}, **self.more}


KILLED = Ending("killed (kill -9)", signal.SIGKILL, None)
STOPPED = Ending(
    "stopped (SIGSTOP)",
    signal.SIGSTOP,
    signal.SIGCONT,
    # All of these are retried, except those for which the budget has no room within `max_backoff`.
    failures_before=THRESHOLD,
    unknown_s=PER_TRY_S + REACTION_S,
    more={"retry": RETRY_TIMEOUTS},
)
RESETTING = Ending("resetting connections", signal.SIGUSR1, signal.SIGUSR2)
ANSWERING_500 = Ending(
    "answering 500", signal.SIGUSR1, signal.SIGUSR2, "500", failures_before=THRESHOLD, unknown_s=REACTION_S
)
SLOW = Ending(
    f"answering {FACTOR} × slower",
    signal.SIGUSR1,
    signal.SIGUSR2,
    "slow",
    more={"outlier_detection": {"base_ejection": f"{EJECTION_S:g}s", "interval": "250ms", "window": "5s"}},
    is_ejected=True,
)


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened when; `None` = not within the limit."""

    began: float
    detected: float | None
    ended: float
    """The endpoint was well again."""
    used: float | None
    """It was in use again."""
    loaded: float | None
    """It had a request again."""


def run(bench: Bench, ending: Ending) -> Outcome:
    """Load, fault, recovery."""
    arguments = ["--service", str(SERVICE_S), "--factor", str(FACTOR), "--fault", ending.argument]
    endpoints = [bench.endpoint(name, *arguments) for name in NAMES]
    victim = endpoints[0]
    daemon = bench.daemon([each.port for each in endpoints], cluster=ending.cluster)
    pace = bench.pace(daemon.port, bench.sizes.rate)
    bench.rest(WARM_UP_S + 1.0, 0.0, 0.2)
    with Watch(daemon, victim.port) as watch:
        began = time.monotonic()
        victim.signal(ending.begin)
        bench.rest(bench.sizes.fault_s, 0.2, 0.6)
        detected = watch.first(is_used=False, after=began)
        ended = recover(victim, ending)
        used = watch.wait(is_used=True, after=max(ended, detected or 0.0), limit_s=LIMIT_S)
        bench.rest(SLACK_S, 0.9, 1.0)
    records = pace.stop().due_between(began - 1.0)
    loaded = min(
        (one.arrived for one in records if one.endpoint == victim.name and one.arrived > ended), default=None
    )
    return outcome(ending, records, Timeline(began, detected, ended, used, loaded), bench.sizes.rate)


def recover(victim: Endpoint, ending: Ending) -> float:
    """Have it well again; when it was."""
    if ending.end is None:
        victim.start()
    else:
        victim.signal(ending.end)
    return time.monotonic()


def outcome(ending: Ending, records: Records, times: Timeline, rate: float) -> Outcome:
    """What it comes to."""
    until = times.detected if times.detected is not None else times.ended
    before = records.due_between(times.began, until).failed
    after = records.due_between(until).failed
    slow = records.where(lambda one: one.took_s > SERVICE_S * FACTOR / 2 and times.began <= one.due)
    took_s = until - times.began
    reaction_s = reaction(ending, records, times)
    bound = ending.failures_before + rate / len(NAMES) * ending.unknown_s
    targets = [
        Target(
            "passive detection",
            f"after {took_s:.2f} s" if times.detected is not None else "never",
            times.detected is not None,
        ),
        at_most("failed before it", len(before), round(bound), is_timing=bool(bound)),
        at_most("failed after it", len(after), 0),
    ]
    if reaction_s is not None:
        text = (
            "last new request after the detection"
            if ending.is_ejected
            else f"last new request after {THRESHOLD} failures"
        )
        targets.append(at_most(text, reaction_s * 1000.0, REACTION_S * 1000.0, " ms", is_timing=True))
    targets.append(_back(ending, times))
    saw = f"{counted(len(before) + len(after), 'failure')} of {len(records):,} GETs"
    if len(slow):
        worst_s = slow.percentile_ms(100.0) / 1000.0
        saw += f", {len(slow)} took longer than {SERVICE_S * FACTOR / 2:g} s, the slowest {worst_s:.2f} s"
    return Outcome(
        fault=f"one of three endpoints {ending.title}",
        saw=saw,
        lost=Records([*before, *after]).reasons() or "nothing",
        targets=tuple(targets),
        setting=written(ending.cluster),
        figures={
            "requests": len(records),
            "failed_before_detection": len(before),
            "failed_after_detection": len(after),
            "slow": len(slow),
            "detected_after_s": took_s if times.detected is not None else -1.0,
            "reaction_s": reaction_s if reaction_s is not None else -1.0,
            "in_use_after_recovery_s": times.used - times.ended if times.used is not None else -1.0,
            "loaded_after_recovery_s": times.loaded - times.ended if times.loaded is not None else -1.0,
        },
    )


def reaction(ending: Ending, records: Records, times: Timeline) -> float | None:
    """Seconds from when Homeport could know to the last new request of the endpoint, trials aside; `None` where the
    endpoint's answers do not tell."""
    if times.detected is None or (ending.argument == "reset"):
        return None
    from_it = sorted(_from_victim(records, times), key=lambda one: one.done)
    if ending.is_ejected:
        return max([one.arrived - times.detected for one in from_it] + [0.0])
    failed = [one for one in from_it if one.is_failed]
    if len(failed) < THRESHOLD:
        return None
    first_trial = failed[THRESHOLD - 1].done + RECOVERY_S / 2.0
    return max(
        max(one.arrived for one in from_it if one.arrived < first_trial) - failed[THRESHOLD - 1].done, 0.0
    )


def _from_victim(records: Records, times: Timeline) -> list[Record]:
    return [one for one in records if one.endpoint == NAMES[0] and times.began < one.arrived < times.ended]


def _back(ending: Ending, times: Timeline) -> Target:
    limit = RECOVERY_S + SLACK_S
    if ending.is_ejected and times.detected is not None:
        limit = max(times.detected + EJECTION_S * EJECTION_JITTER - times.ended, 0.0) + SLACK_S
    text = f"in rotation after recovery ≤ {limit:.1f} s"
    if times.used is None or times.loaded is None:
        return Target(text, "never", False)
    back_s = max(times.used, times.loaded) - times.ended
    return Target(text, f"{back_s:.2f} s", back_s <= limit, is_timing=True)
