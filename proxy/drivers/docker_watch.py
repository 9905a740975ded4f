"""What happens to containers, as it happens: subscribe first, then list, then follow.

In that order nothing can fall between: events that come while the list is made wait in the stream and are seen after
it. After a break the stream begins where the last one ended (`since`), for the one event that a list cannot replace:
that somebody has just asked a container to end. An event older than the container's present start is about a life that
is over.

An event only says that something changed; what is true now is asked for (`inspect`), outside of the stream, so that an
engine that takes its time over one container holds up no event of another. Two are passed on at once, because each
millisecond counts: `kill`, after which a container must get nothing new, and `die`.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from proxy.clock import Clock
from proxy.drivers.driver import (
    Changed,
    Died,
    Instance,
    InstanceEvent,
    Listed,
    Lost,
    Removed,
    Stopping,
)
from proxy.drivers.engine import Engine, EventStream, Json
from proxy.drivers.engine_answers import asks_to_end, signal_number
from proxy.drivers.labels import select
from proxy.drivers.spec import Selector
from proxy.errors import EngineError, EngineNotFound, EngineUnavailable
from proxy.tasks import spawn

_log = logging.getLogger(__name__)

# All but `exec_…`, `top`, `attach` and the like, of which a health check alone makes three each time.
FILTERS = {
    "type": ["container", "network"],
    "event": [
        *("start", "kill", "die", "oom", "pause", "unpause", "update", "health_status", "destroy"),
        *("connect", "disconnect"),
    ],
}
# Time between two complete lists: for what no event told, and to notice an engine that is gone without a word.
RESYNC_S = 60.0
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 2.0
_DEFAULT_GRACE_S = 10.0
# What follows the last event of a stream.
_END = object()


class Watch:
    """One watcher's stream of events. `selectors` are those of the moment; `list_all` and `look` ask the engine for
    all instances, or for one (`None` = not of ours)."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        selectors: Callable[[], tuple[Selector, ...]],
        list_all: Callable[[], Awaitable[tuple[Instance, ...]]],
        look: Callable[[str], Awaitable[Instance | None]],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._selectors = selectors
        self._list_all = list_all
        self._look = look
        self._known: dict[str, Instance] = {}
        self._out: asyncio.Queue[object] = asyncio.Queue()
        self._looking: dict[str, bool] = {}
        self._touched: set[str] = set()
        self._since: str | None = None

    def __repr__(self) -> str:
        return f"<Watch of {len(self._known)} since {self._since}>"

    async def events(self) -> AsyncIterator[InstanceEvent]:
        """What happens, without end."""
        backoff = _FIRST_BACKOFF_S
        while True:
            try:
                async with aclosing(self._session()) as session:
                    async for event in session:
                        backoff = _FIRST_BACKOFF_S
                        yield event
                reason = "the stream of events ended"
            except EngineError as error:
                reason = str(error)
            yield Lost(reason)
            await self._clock.sleep(backoff)
            backoff = min(2 * backoff, _MAX_BACKOFF_S)

    async def _session(self) -> AsyncGenerator[InstanceEvent, None]:
        """One stream from its beginning to its end. Raises `EngineError`."""
        self._out = asyncio.Queue()
        self._looking = {}
        out = self._out
        stream = await self._engine.open_events(self._since, FILTERS)
        resync = spawn(self._resync(), name="docker resync")
        try:
            self._read(stream, out)
            yield await self._relist()
            while (event := await out.get()) is not _END:
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, dict):
                    for told in self._on_event(event):
                        yield told
                else:
                    yield event  # type: ignore[misc]
        finally:
            resync.cancel()
            # The SDK looks for the socket in places that are empty once the stream has ended.
            with suppress(AttributeError, OSError):
                stream.close()

    def _read(self, stream: EventStream, out: asyncio.Queue[object]) -> None:
        """Have a thread put the stream's events, then its end, into `out`."""
        loop = asyncio.get_running_loop()

        def run() -> None:
            try:
                for event in stream:
                    loop.call_soon_threadsafe(out.put_nowait, event)
            except Exception as error:  # of four libraries; whatever it is, the stream is over
                _log.debug("the stream of events broke: %r", error)
            finally:
                try:
                    loop.call_soon_threadsafe(out.put_nowait, _END)
                except RuntimeError:
                    pass  # the loop is closed

        threading.Thread(target=run, name="docker-events", daemon=True).start()

    async def _relist(self) -> Listed:
        instances = await self._list_all()
        self._known = {instance.id: instance for instance in instances}
        return Listed(instances)

    async def list_again(self) -> None:
        """Tell of everything that there is once more; a break when that fails."""
        out = self._out
        self._touched.clear()
        try:
            out.put_nowait(await self._relist())
        except EngineError as error:
            out.put_nowait(error)
            return
        # What happened while the list was made may not be in it.
        for own in tuple(self._touched):
            self._look_at(own)

    async def _resync(self) -> None:
        while True:
            await self._clock.sleep(RESYNC_S)
            await self.list_again()

    # --- events

    def _on_event(self, event: Json) -> list[InstanceEvent]:
        """Take one event of the engine's; returns what is to be told at once."""
        nanos = int(event.get("timeNano") or 0)
        if nanos:
            self._since = f"{nanos // 10**9}.{nanos % 10**9:09d}"
        actor = event.get("Actor") or {}
        attributes: dict[str, Any] = actor.get("Attributes") or {}
        if event.get("Type") == "network":
            if (own := attributes.get("container")) in self._known:
                self._look_at(own)
            return []
        own, action = str(actor.get("ID", "")), str(event.get("Action", ""))
        if own not in self._known and select(self._selectors(), attributes) is None:
            return []
        self._touched.add(own)
        if action == "destroy":
            return [Removed(own)] if self._known.pop(own, None) is not None else []
        if self._is_of_former_life(own, nanos):
            return []
        if action == "kill":
            return self._on_kill(own, signal_number(str(attributes.get("signal", ""))))
        self._look_at(own)
        return [Died(own)] if action == "die" else []

    def _is_of_former_life(self, own: str, nanos: int) -> bool:
        known = self._known.get(own)
        return known is not None and known.started_at is not None and nanos / 1e9 < known.started_at

    def _on_kill(self, own: str, signal: int) -> list[InstanceEvent]:
        known = self._known.get(own)
        if not asks_to_end(signal, known):
            return []
        return [Stopping(own, signal, known.stop_grace_s if known is not None else _DEFAULT_GRACE_S)]

    def _look_at(self, own: str) -> None:
        """Ask what is true of a container now; once more when something happens meanwhile."""
        if own in self._looking:
            self._looking[own] = True
            return
        self._looking[own] = False
        spawn(self._look_until_settled(own, self._out, self._looking), name=f"docker look {own[:12]}")

    async def _look_until_settled(
        self, own: str, out: asyncio.Queue[object], looking: dict[str, bool]
    ) -> None:
        again = True
        while again:
            looking[own] = False
            try:
                instance = await self._look(own)
            except EngineNotFound:
                instance = None
            except EngineUnavailable as error:
                out.put_nowait(error)
                break
            again = looking[own]
            if out is self._out:
                self._put(own, instance)
        looking.pop(own, None)

    def _put(self, own: str, instance: Instance | None) -> None:
        if instance is None:
            if self._known.pop(own, None) is not None:
                self._out.put_nowait(Removed(own))
        elif self._known.get(own) != instance:
            self._known[own] = instance
            self._out.put_nowait(Changed(instance))
