"""What happened to endpoints and to the configuration, for the log and for whoever watches: a ring and its readers.

An event is told once it is done, never before. Readers that were away ask for what came after the last one they saw;
the ring holds the last `RING`. A reader that does not keep up is let go: it comes back and reads on from the ring, so
nobody's slowness costs memory or hides an event from others.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from proxy.clock import Clock

_log = logging.getLogger("homeport")

RING = 1000
"""Events kept for readers that come back: 200 bytes each or so; an hour of a fleet in trouble."""

BACKLOG = 256
"""Events that wait for one reader; more, and it is let go."""


class EventType(Enum):
    """What happened; the value is its name for readers."""

    CIRCUIT_OPENED = "circuit_opened"
    CIRCUIT_HALF_OPEN = "circuit_half_open"
    CIRCUIT_CLOSED = "circuit_closed"
    HEALTH_UP = "health_up"
    HEALTH_DOWN = "health_down"
    EJECTED = "ejected"
    RETURNED = "returned"
    DRAINED = "drained"
    UNDRAINED = "undrained"
    RELOAD = "reload"
    KEY_FUNCTION_OFF = "key_function_off"
    SCALED = "scaled"
    INSTANCE_STARTING = "instance_starting"
    INSTANCE_SERVING = "instance_serving"
    INSTANCE_ADOPTED = "instance_adopted"
    INSTANCE_DRAINING = "instance_draining"
    INSTANCE_REMOVED = "instance_removed"
    INSTANCE_FAILED = "instance_failed"
    """It never got healthy."""
    INSTANCE_DIED = "instance_died"
    DEPLOY = "deploy"
    DEPLOY_HALTED = "deploy_halted"
    ENGINE_LOST = "engine_lost"
    ENGINE_BACK = "engine_back"
    FOUND = "found"
    GONE = "gone"
    SOURCE_LOST = "source_lost"
    SOURCE_BACK = "source_back"


# What an operator should see in the log without looking for it.
_WARNINGS = frozenset(
    {
        EventType.CIRCUIT_OPENED,
        EventType.HEALTH_DOWN,
        EventType.EJECTED,
        EventType.KEY_FUNCTION_OFF,
        EventType.INSTANCE_FAILED,
        EventType.INSTANCE_DIED,
        EventType.DEPLOY_HALTED,
        EventType.ENGINE_LOST,
        EventType.SOURCE_LOST,
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    id: int
    """Grows with each event, over restarts of control too."""
    time: float
    """Seconds since the Unix epoch."""
    type: EventType
    subject: str
    """What it happened to: an endpoint's id, an instance's name, `cluster NAME`, `listener NAME`, `function NAME`,
    `discovery KIND [of CLUSTER]`, `engine`, or `configuration`."""
    text: str
    """Why, and until when, for people."""

    def document(self) -> dict[str, Any]:
        """As the admin API has it."""
        return {
            "id": self.id,
            "time": datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds"),
            "type": self.type.value,
            "subject": self.subject,
            "text": self.text,
        }


class Subscription:
    """One reader's events, in order."""

    def __init__(self, missed: list[Event]) -> None:
        self._waiting: deque[Event] = deque(missed)
        self._limit = len(missed) + BACKLOG
        self._is_closed = False
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Subscription {len(self._waiting)} waiting{', closed' if self._is_closed else ''}>"

    def put(self, event: Event) -> bool:
        """Add an event; false when the reader is too far behind, and then it gets no more."""
        if len(self._waiting) >= self._limit:
            self.close()
            return False
        self._waiting.append(event)
        self._changed.set()
        return True

    def close(self) -> None:
        """No more will come."""
        self._is_closed = True
        self._changed.set()

    async def next(self) -> list[Event]:
        """What came since the last call, at least one event; empty when no more will come."""
        while not self._waiting and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()
        found = list(self._waiting)
        self._waiting.clear()
        self._limit = BACKLOG
        return found


class EventLog:
    """The last events, and who reads them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ring: deque[Event] = deque(maxlen=RING)
        # Milliseconds: no control makes a thousand events a second, so the next one's begin above.
        self._last_id = int(clock.wall() * 1000)
        self._readers: set[Subscription] = set()

    def __repr__(self) -> str:
        return f"EventLog({len(self._ring)} events, {len(self._readers)} readers)"

    @property
    def recent(self) -> tuple[Event, ...]:
        """Those that are kept, the oldest first."""
        return tuple(self._ring)

    def tell(self, kind: EventType, subject: str, text: str, *, level: int | None = None) -> None:
        """Something happened; it is logged, kept and passed on. `level` is the log's; `None` = the usual one."""
        self._last_id += 1
        event = Event(self._last_id, self._clock.wall(), kind, subject, text)
        if level is None:
            level = logging.WARNING if kind in _WARNINGS else logging.INFO
        _log.log(level, "%s: %s: %s", subject, kind.value.replace("_", " "), text)
        self._ring.append(event)
        self._readers = {reader for reader in self._readers if reader.put(event)}

    def subscribe(self, after: int | None = None) -> Subscription:
        """Read what comes from now on, and first what is kept of what came `after` that id; `None` = nothing of it."""
        missed = [] if after is None else [event for event in self._ring if event.id > after]
        reader = Subscription(missed)
        self._readers.add(reader)
        return reader

    def unsubscribe(self, reader: Subscription) -> None:
        """End a reader's events. Idempotent."""
        self._readers.discard(reader)
        reader.close()


def clock_time(clock: Clock, moment: float) -> str:
    """The time of day, as the machine's zone has it, of `moment` of the monotonic clock: `14:03:27`."""
    wall = clock.wall() + moment - clock.monotonic()
    return datetime.fromtimestamp(wall, UTC).astimezone().strftime("%H:%M:%S")
