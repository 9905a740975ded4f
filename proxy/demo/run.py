"""The demo from start to end: sample services, a config, the proxy as its users start it, a load, a summary.

The proxy is `python -m proxy run -c FILE`, a process like any other, so what is shown is what a user gets. All
endpoints stay up: what happens when one fails belongs to health checks and retries.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import uvloop
import yaml
from rich.console import Console
from rich.live import Live

from proxy.clock import Clock, SystemClock
from proxy.demo.load import CLIENTS, KINDS, Load
from proxy.demo.processes import Child, ChildFailed, start_child
from proxy.demo.report import Scene, introduction, live_view, progress_line, summary_text
from proxy.demo.stats import LoadStats, Summary
from proxy.tasks import spawn

MIN_DURATION_S = 1.0
MAX_DURATION_S = 86_400.0
SERVICES = ("data-1", "data-2", "data-3")

_HOST = "127.0.0.1"
_START_S = 20.0
"""For a service to print its address and for the proxy to be ready; a cold start on a busy laptop takes about 2 s."""
_POLL_S = 0.05
_STOP_S = 8.0
"""Longer than a service's own five seconds for requests under way."""
_LINE_EVERY_S = 1.0
_REDRAW_EVERY_S = 0.25


def main(duration_s: float) -> int:
    """Check `duration_s`, run the demo, and map how it ended to an exit code; see `proxy.demo.run_demo`."""
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        expected = f"{MIN_DURATION_S:g} to {MAX_DURATION_S:g} seconds"
        print(f"homeport demo: duration: expected {expected}, got {duration_s:g}", file=sys.stderr)
        return 2
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Demo(duration_s, Console(highlight=False), SystemClock()).run())
    except ChildFailed as error:
        print(f"homeport demo: {error}", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read our output left; nobody is there to be told. Keeps the interpreter's last flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("homeport demo: interrupted", file=sys.stderr)
    return 1


@dataclass(frozen=True, slots=True)
class _Service:
    child: Child
    address: str


class _Demo:
    """One run. The first signal ends the load early, the second everything at once."""

    def __init__(self, duration_s: float, console: Console, clock: Clock) -> None:
        self._duration_s = duration_s
        self._console = console
        self._clock = clock
        self._interrupted = asyncio.Event()

    async def run(self) -> int:
        """Start everything, drive the load, stop everything; returns the exit code."""
        with self._signals():
            async with contextlib.AsyncExitStack() as stack:
                return await self._show(stack)

    async def _show(self, stack: contextlib.AsyncExitStack) -> int:
        self._say("Homeport demo: three sample data services, the proxy in front of them, a short load.\n")
        services = await asyncio.gather(*(self._start_service(name, stack) for name in SERVICES))
        scene = self._write_config(services, stack)
        proxy = await self._start_proxy(scene, stack)
        self._say(introduction(scene, self._duration_s) + "\n")
        summary = await self._drive(scene, [proxy, *(service.child for service in services)])
        self._say("\n" + summary_text(summary, scene))
        return 0 if summary.is_ok else 1
