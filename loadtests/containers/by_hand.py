"""An instance is ended by hand, under load: how soon it gets nothing new, what fails, when another serves."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtests.containers.engine import Engine
from loadtests.containers.fleet import Bench, Fleet, Seen
from loadtests.faults.outcome import Outcome, at_most, counted

COUNT = 3
LAST_MS = 100.0
"""From the order to the last new request."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What is done to an instance."""

    title: str
    do: Callable[[Any, str], None]
    """With the engine's API and the container's id."""
    is_told: bool = False
    """The instance is told to end and goes on for a moment: nothing may be lost, whatever it is."""


STOP = Ending("docker stop", lambda api, own: api.stop(own, timeout=5), is_told=True)
KILL = Ending("docker kill", lambda api, own: api.kill(own))
REMOVE = Ending("docker rm -f", lambda api, own: api.remove_container(own, force=True))
RESTART = Ending("docker restart", lambda api, own: api.restart(own, timeout=5), is_told=True)
PAUSE = Ending("docker pause", lambda api, own: api.pause(own))
ENDINGS = (STOP, KILL, REMOVE, RESTART, PAUSE)


def run(bench: Bench, engine: Engine, ending: Ending) -> Outcome:
    """Load, order, replacement."""
    fleet = Fleet(bench, engine, COUNT)
    try:
        bench.on_progress(0.3)
        victim = sorted(fleet.serving())[0]
        with fleet.loaded(with_posts=True) as seen:
            ending.do(engine.api, victim)
            bench.on_progress(0.5)
            fleet.wait(lambda: _is_whole(fleet, victim, ending), "another instance to serve")
            done_s = time.monotonic() - seen.began
        return outcome(ending, seen, victim, done_s)
    finally:
        fleet.close()


def _is_whole(fleet: Fleet, victim: str, ending: Ending) -> bool:
    is_there = victim in fleet.serving()
    return fleet.has(COUNT) and (ending is RESTART or not is_there)


def outcome(ending: Ending, seen: Seen, victim: str, replaced_s: float) -> Outcome:
    """What it comes to."""
    last_ms = seen.last_at(victim) * 1000.0
    gets, posts = len(seen.gets.failed), len(seen.posts.failed)
    targets = [at_most("failed GETs", gets, 0)]
    if ending.is_told:
        targets.append(at_most("failed POSTs", posts, 0))
    if ending is STOP:
        targets.append(at_most("last new request", last_ms, LAST_MS, " ms", is_timing=True))
    saw = (
        f"{counted(gets, 'failure')} of {len(seen.gets):,} GETs, the slowest {seen.longest_s:.2f} s; "
        f"{counted(posts, 'failure')} of {len(seen.posts):,} POSTs; "
        f"all instances serve again after {replaced_s:.1f} s"
    )
    return Outcome(
        fault=f"{ending.title} of one of {COUNT}",
        saw=saw,
        lost=", ".join(filter(None, [seen.gets.reasons(), seen.posts.reasons()])) or "nothing",
        targets=tuple(targets),
        figures={
            "gets": len(seen.gets),
            "failed_gets": gets,
            "posts": len(seen.posts),
            "failed_posts": posts,
            "slowest_get_s": seen.longest_s,
            "last_new_request_ms": last_ms,
            "replaced_s": replaced_s,
        },
    )
