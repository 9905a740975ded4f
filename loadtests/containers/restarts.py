"""The engine is restarted under load: with live-restore containers go on, without it they end with it."""

from loadtests.containers.engine import OwnEngine
from loadtests.containers.fleet import Bench, Fleet
from loadtests.faults.outcome import Outcome, at_most, counted

COUNT = 3
WAITED_S = 1.0
"""A request that took longer has waited."""


def run(bench: Bench, *, live_restore: bool) -> Outcome:
    """Load, restart, all instances again."""
    engine = OwnEngine(bench.children, bench.directory / "engine", live_restore=live_restore)
    try:
        engine.build()
        bench.on_progress(0.3)
        fleet = Fleet(bench, engine, COUNT)
        try:
            with fleet.loaded() as seen:
                engine.restart()
                bench.on_progress(0.6)
                back_s = fleet.wait(lambda: fleet.has(COUNT), "all instances")
            failed = len(seen.gets.failed)
            waited = len(seen.gets.where(lambda one: one.took_s > WAITED_S))
            return Outcome(
                fault=f"dockerd restarted, {'with' if live_restore else 'without'} live-restore",
                saw=f"{counted(failed, 'failure')} of {len(seen.gets):,} GETs; {counted(waited, 'request')} took "
                f"more than {WAITED_S:g} s, {seen.longest_s:.1f} s at most; all serve {back_s:.1f} s after it is back",
                lost=seen.gets.reasons() or "nothing",
                targets=(at_most("failed GETs", failed, 0),) if live_restore else (),
                figures={
                    "gets": len(seen.gets),
                    "failed_gets": failed,
                    "waited": waited,
                    "slowest_get_s": seen.longest_s,
                    "back_s": back_s,
                },
            )
        finally:
            fleet.close()
    finally:
        engine.close()
