"""What is done to a whole cluster under load: another version, another size, a burst."""

import time

from loadtests.containers.engine import Engine
from loadtests.containers.fleet import Bench, Fleet, Seen
from loadtests.daemon import Document
from loadtests.faults.outcome import Outcome, Target, at_most, counted
from loadtests.faults.records import Records

COUNT = 3
FEW, MANY = 2, 8
WORK_MS = 40
SLOTS = 4
START_MS = 500
QUIET_RATE = 40.0


def deploy_good(bench: Bench, engine: Engine) -> Outcome:
    """Every instance is replaced by one of another version."""
    fleet = Fleet(bench, engine, COUNT, deploy={"bake": f"{bench.sizes.bake_s:g}s"})
    try:
        old = fleet.serving()
        with fleet.loaded() as seen:
            fleet.deploy(VERSION="2")
            took_s = fleet.wait(
                lambda: fleet.has(COUNT) and not fleet.serving() & old, "all instances to be new"
            )
        return Outcome(
            fault=f"rolling deploy of {COUNT}, good",
            saw=_saw(seen, f"all new after {took_s:.1f} s, of which {bench.sizes.bake_s:g} s are watched"),
            lost=seen.gets.reasons() or "nothing",
            targets=(at_most("failed GETs", len(seen.gets.failed), 0),),
            figures={**_figures(seen), "took_s": took_s},
        )
    finally:
        fleet.close()


def deploy_bad(bench: Bench, engine: Engine, what: str) -> Outcome:
    """The new version fails: `what` is `health`, its checks, or `500`, all its requests."""
    scaler: Document = {"deploy": {"bake": f"{bench.sizes.bake_s:g}s"}, "start_timeout": "3s"}
    fleet = Fleet(bench, engine, COUNT, **scaler)
    try:
        old = fleet.serving()
        with fleet.loaded() as seen:
            fleet.deploy(BAD=what)
            took_s = fleet.wait(lambda: _is_decided(fleet, old), "it to be called off, or done")
            kept = len(fleet.serving() & old)
        failed = len(seen.gets.failed)
        targets = [Target(f"old instances that serve = {COUNT}", f"{kept}", kept == COUNT)]
        if what == "health":
            targets.append(at_most("failed GETs", failed, 0))
        title = "fails its checks" if what == "health" else "answers 500"
        return Outcome(
            fault=f"rolling deploy of {COUNT}, the new one {title}",
            saw=_saw(
                seen, f"{'called off' if kept else 'nothing of the old one is left'} after {took_s:.1f} s"
            ),
            lost=seen.gets.reasons() or "nothing",
            targets=tuple(targets),
            figures={**_figures(seen), "took_s": took_s, "kept": kept},
        )
    finally:
        fleet.close()


def _is_decided(fleet: Fleet, old: set[str]) -> bool:
    if fleet.section()["deploy"]["stage"] == "halted":
        return fleet.has(COUNT)
    return not fleet.serving() & old


def sizes(bench: Bench, engine: Engine) -> Outcome:
    """From few to many and back, again and again, by hand."""
    fleet = Fleet(bench, engine, FEW, max_instances=MANY)
    grown: list[float] = []
    try:
        with fleet.loaded() as seen:
            for number in range(bench.sizes.rounds):
                fleet.scale(MANY)
                grown.append(fleet.wait(lambda: fleet.has(MANY), f"{MANY} instances"))
                fleet.scale(FEW)
                fleet.wait(lambda: fleet.has(FEW), f"{FEW} instances")
                bench.on_progress((number + 1) / bench.sizes.rounds)
        return Outcome(
            fault=f"{FEW} → {MANY} → {FEW} instances, {counted(len(grown), 'time')}",
            saw=_saw(seen, f"{MANY} serve after {max(grown):.1f} s at most"),
            lost=seen.gets.reasons() or "nothing",
            targets=(at_most("failed GETs", len(seen.gets.failed), 0),),
            figures={**_figures(seen), "rounds": len(grown), "slowest_growth_s": max(grown)},
        )
    finally:
        fleet.close()


def burst(bench: Bench, engine: Engine) -> Outcome:
    """More work than the instances can do: how soon another one does some of it."""
    fleet = Fleet(
        bench,
        engine,
        FEW,
        environment={"WORK_MS": str(WORK_MS), "START_MS": str(START_MS)},
        max_instances=MANY,
        max_connections=SLOTS,
        slots=SLOTS,
        stable_window="3s",
        panic_window="1s",
        scale_up_cooldown="1s",
        target_work="250ms",
    )
    try:
        old = {one[:12] for one in fleet.serving()}
        quiet = fleet.pace(QUIET_RATE)
        time.sleep(bench.sizes.before_s)
        began = time.monotonic()
        pace = fleet.pace(bench.sizes.rate)
        fleet.wait(lambda: fleet.section()["serving"] > FEW, "another instance")
        time.sleep(2 * bench.sizes.before_s)
        gets = Records([*quiet.stop(), *pace.stop()])
        first_s = min([one.arrived - began for one in gets if one.endpoint and one.endpoint not in old])
        seen = Seen()
        seen.gets = gets
        return Outcome(
            fault=f"burst: {QUIET_RATE:g} → {QUIET_RATE + bench.sizes.rate:g} requests/s of {WORK_MS} ms",
            saw=_saw(
                seen,
                f"a new instance serves after {first_s:.2f} s, its own start takes {START_MS / 1000:g} s",
            ),
            lost=gets.reasons() or "nothing",
            targets=(at_most("failed GETs", len(gets.failed), 0),),
            figures={**_figures(seen), "first_new_s": first_s, "start_s": START_MS / 1000},
        )
    finally:
        fleet.close()


def _saw(seen: Seen, more: str) -> str:
    failed = counted(len(seen.gets.failed), "failure")
    return f"{failed} of {len(seen.gets):,} GETs, the slowest {seen.longest_s:.2f} s; {more}"


def _figures(seen: Seen) -> dict[str, float]:
    return {"gets": len(seen.gets), "failed_gets": len(seen.gets.failed), "slowest_get_s": seen.longest_s}
