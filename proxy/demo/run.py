"""The demo from start to end: sample services, a config, the proxy as its users start it, a load, a summary.

The proxy is `python -m proxy run -c FILE`, a process like any other, so what is shown is what a user gets.
All endpoints stay up: what happens when one fails belongs to health checks and retries.
"""

import asyncio
import math
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import aiohttp
import orjson
import uvloop
from rich.console import Console
from rich.live import Live

from proxy.clock import Clock, SystemClock
from proxy.demo.load import CLIENTS, KINDS, Load
from proxy.demo.processes import Child, ChildFailed, start_child
from proxy.demo.report import Scene, introduction, live_view, progress_line, summary_text
from proxy.demo.stats import LoadStats, Progress, Summary
from proxy.tasks import spawn

MIN_DURATION_S = 1.0
MAX_DURATION_S = 86_400.0
SERVICES = ("data-1", "data-2", "data-3")

_HOST = "127.0.0.1"
_LISTEN_S = 20.0
"""For a service to print its address; a cold start takes one or two."""
_READY_S = 20.0
"""For the proxy to be ready; likewise."""
_POLL_S = 0.05
_STOP_S = 8.0
"""Longer than a service's own five seconds for requests under way."""
_LINE_EVERY_S = 1.0
_REDRAW_EVERY_S = 0.5

_CONFIG = """\
listeners:
  - bind: "{proxy}"
admin:
  bind: "{admin}"
clusters:
  - name: data
    balancer: round_robin
    endpoints:
{endpoints}
routes:
  - match: {{path_prefix: /}}
    cluster: data
"""


def main(duration_s: float) -> int:
    """Check `duration_s`, run the demo, and map how it ended to an exit code; see `proxy.demo.run_demo`."""
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        expected = f"{MIN_DURATION_S:.0f} to {MAX_DURATION_S:.0f} seconds"
        print(f"homeport demo: duration: expected {expected}, got {duration_s:g}", file=sys.stderr)
        return 2
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Demo(duration_s, Console(highlight=False), SystemClock()).run())
    except ChildFailed as error:
        print(f"homeport demo: {error}", file=sys.stderr)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("homeport demo: interrupted", file=sys.stderr)
    return 1


class _Demo:
    """One run. A signal ends the load, and the summary follows; before the load, or again, it ends all."""

    def __init__(self, duration_s: float, console: Console, clock: Clock) -> None:
        self._duration_s = duration_s
        self._console = console
        self._clock = clock
        self._load: Load | None = None

    async def run(self) -> int:
        """Start everything, drive the load, stop everything; returns the exit code."""
        with self._signals():
            async with AsyncExitStack() as stack:
                self._say("Homeport demo: three sample data services and the proxy in front of them.\n")
                services = [await self._spawn_service(name, stack) for name in SERVICES]
                addresses = {service.name: await _announced_address(service) for service in services}
                scene = _write_config(addresses, stack)
                proxy = await self._start_proxy(scene, stack)
                self._say(introduction(scene, self._duration_s) + "\n")
                summary = await self._drive(scene, [proxy, *services])
                self._say("\n" + summary_text(summary, scene))
            return 0 if summary.is_ok else 1

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """End in order on the signals that end a program; what our parent had us ignore stays ignored."""
        task = asyncio.current_task()
        assert task is not None

        def on_signal() -> None:
            if self._load is not None and not self._load.is_stopping:
                self._load.stop()
            else:
                task.cancel()

        loop = asyncio.get_running_loop()
        ours = [
            number
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        for number in ours:
            loop.add_signal_handler(number, on_signal)
        try:
            yield
        finally:
            for number in ours:
                loop.remove_signal_handler(number)

    async def _spawn_service(self, name: str, stack: AsyncExitStack) -> Child:
        command = [sys.executable, "-m", "proxy.demo.service", "--name", name, "--host", _HOST, "--port", "0"]
        child = await start_child(name, command, read_stdout=True)
        stack.push_async_callback(child.stop, _STOP_S)
        return child

    async def _start_proxy(self, scene: Scene, stack: AsyncExitStack) -> Child:
        child = await start_child("proxy", [sys.executable, "-m", "proxy", "run", "-c", scene.config_path])
        stack.push_async_callback(child.stop, _STOP_S)
        until = self._clock.monotonic() + _READY_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_READY_S)) as session:
            while not await _is_ready(session, f"{scene.admin_url}/readyz"):
                if child.has_ended:
                    raise child.ended_failure()
                if self._clock.monotonic() >= until:
                    raise child.failure(f"was not ready within {_READY_S:g} s")
                await self._clock.sleep(_POLL_S)
        return child

    async def _drive(self, scene: Scene, children: Sequence[Child]) -> Summary:
        """Run the load for its time and show it. Raises `ChildFailed` when a child ends meanwhile."""
        stats = LoadStats(KINDS, SERVICES, CLIENTS, now=self._clock.monotonic())
        self._load = Load(scene.proxy_url, stats, self._clock)
        running = spawn(self._load.run(), name="load")
        ends = {spawn(child.wait(), name=f"wait for {child.name}"): child for child in children}
        try:
            await self._watch(stats, self._load, running, ends)
            await running
            return stats.summary(now=self._clock.monotonic())
        finally:
            for task in (running, *ends):
                task.cancel()
            await asyncio.gather(running, *ends, return_exceptions=True)

    async def _watch(
        self, stats: LoadStats, load: Load, running: asyncio.Task[None], ends: dict[asyncio.Task[int], Child]
    ) -> None:
        """Show the load until it has ended, and stop it when its time is over."""
        until = self._clock.monotonic() + self._duration_s
        with self._display() as (every_s, show):
            next_show = self._clock.monotonic() + every_s
            while not running.done():
                wait_s = max(0.0, min(next_show, until) - self._clock.monotonic())
                done, _ = await asyncio.wait(
                    (running, *ends), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
                )
                for child in (child for end, child in ends.items() if end in done):
                    raise child.ended_failure()
                now = self._clock.monotonic()
                if now >= next_show:
                    show(stats.tick(now=now))
                    next_show += every_s
                if now >= until:
                    load.stop()
                    until = math.inf

    @contextmanager
    def _display(self) -> Iterator[tuple[float, Callable[[Progress], None]]]:
        """How often to show progress, and the function that does."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            yield _LINE_EVERY_S, lambda progress: self._say(progress_line(progress))
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def draw(progress: Progress) -> None:
                live.update(live_view(progress, self._duration_s), refresh=True)

            yield _REDRAW_EVERY_S, draw


async def _announced_address(service: Child) -> str:
    """The `host:port` that a sample service prints once it listens."""
    assert service.stdout is not None
    try:
        async with asyncio.timeout(_LISTEN_S):
            line = await service.stdout.readline()
            if not line:
                await service.wait()
                raise service.ended_failure()
    except TimeoutError:
        raise service.failure(f"did not listen within {_LISTEN_S:g} s") from None
    announced = orjson.loads(line)
    return f"{announced['host']}:{announced['port']}"


def _write_config(addresses: dict[str, str], stack: AsyncExitStack) -> Scene:
    """Write the proxy's configuration into a directory that goes with `stack`."""
    proxy, admin = (f"{_HOST}:{port}" for port in _free_ports(2))
    endpoints = "\n".join(f'      - address: "{address}"' for address in addresses.values())
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="homeport-demo-"))
    path = Path(directory) / "homeport.yaml"
    path.write_text(_CONFIG.format(proxy=proxy, admin=admin, endpoints=endpoints))
    return Scene(f"http://{proxy}", f"http://{admin}", str(path), addresses)


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listened on a moment ago. The addresses must be known before the proxy starts."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((_HOST, 0))) for _ in range(count)]
        return [bound.getsockname()[1] for bound in sockets]


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError):
        return False
