"""The demo from start to end: a config, the proxy as its users start it, a load, what happens to instances, a summary.

The proxy is `python -m proxy run -c FILE`, a process like any other, so what is shown is what a user gets.
"""

import asyncio
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from random import Random

import aiohttp
import uvloop
import yaml
from rich.console import Console
from rich.live import Live

from proxy.clock import Clock, SystemClock
from proxy.demo.load import Load
from proxy.demo.places import CACHE_BYTES, CLUSTER, SLOTS, Containers, Place, Processes
from proxy.demo.processes import Child, start_child
from proxy.demo.report import (
    Outcome,
    Scene,
    happening_line,
    introduction,
    live_view,
    progress_line,
    summary_text,
)
from proxy.demo.stats import LoadStats
from proxy.demo.story import MAX_INSTANCES, MIN_INSTANCES, Story
from proxy.demo.watching import Watch
from proxy.errors import ProxyError
from proxy.tasks import spawn

MIN_DURATION_S = 1.0
MAX_DURATION_S = 3600.0

_HOST = "127.0.0.1"
_READY_S = 30.0
"""For the proxy and then the first instances to be ready; a cold start takes two or three."""
_POLL_S = 0.05
_STOP_S = 20.0
"""Longer than the proxy takes when its `drain_timeout` is over and instances use up their grace, both 5 s."""
_END_S = 2.0
"""For the end of a proxy that does not answer any more."""
_LINE_EVERY_S = 1.0
_REDRAW_EVERY_S = 0.25


def main(duration_s: float, driver: str, image: str) -> int:
    """Check `duration_s`, run the demo, and map how it ended to an exit code; see `proxy.demo.run_demo`."""
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        expected = f"{MIN_DURATION_S:.0f} to {MAX_DURATION_S:.0f} seconds"
        print(f"homeport demo: duration: expected {expected}, got {duration_s:g}", file=sys.stderr)
        return 2
    clock = SystemClock()
    place: Place = Containers(image, clock) if driver == "docker" else Processes()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Demo(duration_s, place, Console(highlight=False), clock).run())
    except (ProxyError, aiohttp.ClientError, TimeoutError) as error:
        print(f"homeport demo: {error or type(error).__name__}", file=sys.stderr)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("homeport demo: interrupted", file=sys.stderr)
    return 1


class _Demo:
    """One run. A signal ends the load, and the summary follows; before the load, or again, it ends all."""

    def __init__(self, duration_s: float, place: Place, console: Console, clock: Clock) -> None:
        self._duration_s = duration_s
        self._place = place
        self._console = console
        self._clock = clock
        self._load: Load | None = None

    async def run(self) -> int:
        """Start everything, drive the load, stop everything; returns the exit code."""
        with self._signals():
            async with AsyncExitStack() as stack:
                await self._place.check()
                stack.push_async_callback(self._place.clean)
                self._say(
                    "Homeport demo: the proxy, and sample data services that it starts, heals and retires.\n"
                )
                scene = _write_config(self._place, stack)
                proxy = await self._start_proxy(scene, stack)
                session = await stack.enter_async_context(aiohttp.ClientSession())
                watch = Watch(session, scene.admin_url, CLUSTER, self._clock)
                await self._wait_for_instances(watch, proxy)
                self._say(introduction(scene) + "\n")
                return await self._drive(scene, watch, proxy)

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

    async def _wait_for_instances(self, watch: Watch, proxy: Child) -> None:
        until = self._clock.monotonic() + _READY_S
        while (await watch.look()).serving < MIN_INSTANCES:
            if self._clock.monotonic() >= until:
                raise proxy.failure(f"had no {MIN_INSTANCES} instances that serve within {_READY_S:g} s")
            await self._clock.sleep(_POLL_S)

    async def _drive(self, scene: Scene, watch: Watch, proxy: Child) -> int:
        """Play the story under load and show it; returns the exit code. Raises `ChildFailed` when the proxy ends
        meanwhile."""
        began = self._clock.monotonic()
        stats = LoadStats(now=began)
        self._load = load = Load(scene.proxy_url, stats, self._clock, Random(1))
        story = Story(self._duration_s, watch, load, stats, self._place.kill, self._clock)
        try:
            async with (
                _running(load.run(), "load") as loading,
                _running(watch.follow(), "events"),
                _running(self._show(load, story, stats, watch, began), "display"),
            ):
                await story.play()
                load.stop()
                await loading
        except (aiohttp.ClientError, TimeoutError):
            # Whoever asks a proxy that dies is refused before its end is known.
            with suppress(TimeoutError):
                await asyncio.wait_for(proxy.wait(), _END_S)
                raise proxy.ended_failure() from None
            raise
        summary = stats.summary(now=self._clock.monotonic())
        outcome = _outcome(story, watch, began)
        self._say("\n" + summary_text(summary, outcome))
        return 0 if summary.is_ok and not outcome.missed and not self._console.quiet else 1

    async def _show(self, load: Load, story: Story, stats: LoadStats, watch: Watch, began: float) -> None:
        """Show progress for ever; end the load when nobody reads it any more."""
        with self._display(story, stats, watch, began) as (every_s, show):
            while True:
                await self._clock.sleep(every_s)
                try:
                    show()
                except SystemExit:  # rich's answer to a broken pipe, after which its console is quiet
                    load.stop()
                    return

    @contextmanager
    def _display(
        self, story: Story, stats: LoadStats, watch: Watch, began: float
    ) -> Iterator[tuple[float, Callable[[], None]]]:
        """How often to show progress, and the function that does."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            told = 0

            def say() -> None:
                nonlocal told
                for happening in watch.happenings[told:]:
                    told += 1
                    self._say(happening_line(happening.at - began, happening))
                self._say(progress_line(story.act, stats.tick(now=self._clock.monotonic()), watch.fleet))

            yield _LINE_EVERY_S, say
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def draw() -> None:
                progress = stats.tick(now=self._clock.monotonic())
                happenings = [(one.at - began, one) for one in watch.happenings]
                live.update(live_view(story.act, progress, watch.fleet, happenings), refresh=True)

            yield _REDRAW_EVERY_S, draw


@asynccontextmanager
async def _running(coroutine: Coroutine[None, None, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    """A task that ends with the block."""
    task = spawn(coroutine, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def _outcome(story: Story, watch: Watch, began: float) -> Outcome:
    """What became of the instances."""
    burst_at, killed = story.burst_at, story.killed
    new = [
        one.at - burst_at
        for one in watch.happenings
        if one.type == "instance_serving" and burst_at is not None and one.at >= burst_at
    ]
    steps = [(one.at - began, one.text) for one in watch.happenings if one.type == "scaled"]
    return Outcome(
        steps=tuple(steps),
        most_serving=story.most_serving,
        first_new_s=new[0] if new else None,
        killed=killed.name if killed else "",
        killed_at_s=killed.at - began if killed else 0.0,
        healed_s=killed.healed_s if killed else None,
        missed=tuple(story.missed),
    )


def _write_config(place: Place, stack: AsyncExitStack) -> Scene:
    """Write the proxy's configuration into a directory that goes with `stack`."""
    proxy, admin = (f"{_HOST}:{port}" for port in _free_ports(2))
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="homeport-demo-"))
    path = Path(directory) / "homeport.yaml"
    path.write_text(yaml.safe_dump(_config(place, proxy, admin), sort_keys=False))
    return Scene(f"http://{proxy}", f"http://{admin}", str(path))


def _config(place: Place, proxy: str, admin: str) -> dict[str, object]:
    """What a user would write, with windows of seconds in the place of minutes."""
    cluster: dict[str, object] = {
        "name": CLUSTER,
        "balancer": "data_locality_aware",
        "locality": {"cache": f"{CACHE_BYTES >> 20}MiB"},
        "health_check": {"path": "/health", "interval": "500ms", "unhealthy_interval": "100ms"},
        "queue": {"timeout": "30s"},
        "scaler": {
            **place.scaler,
            "min_instances": MIN_INSTANCES,
            "max_instances": MAX_INSTANCES,
            "slots": SLOTS,
            "max_connections": SLOTS,
            "target_work": "250ms",
            "cpu_threshold": 0,
            "memory_threshold": 0,
            "stable_window": "3s",
            "panic_window": "1s",
            "scale_up_cooldown": "1s",
            "scale_down_cooldown": "1s",
            "stabilisation": "3s",
            "step_down": 2,
            "start_time": "1s",
            "drain_timeout": "5s",
        },
    }
    if place.discovery is not None:
        cluster["discovery"] = place.discovery
    return {
        "listeners": [{"bind": proxy}],
        "admin": {"bind": admin},
        "drain_timeout": "5s",
        "docker": {"owner": place.owner},
        "clusters": [cluster],
        "routes": [
            {
                "match": {"path_prefix": "/"},
                "cluster": CLUSTER,
                "locality": {"data_key": {"query": "dataset"}},
            }
        ],
    }


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
