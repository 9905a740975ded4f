"""What runs instances, as the control plane sees it: a small interface, and the picture of an instance.

A driver answers questions and carries out orders; it decides nothing. An instance is known by its id alone: addresses
are used again within seconds, and names are for people. `watch` tells of changes as they happen, begins with
everything there is, and does so again whenever something may have been missed; so who follows it needs no other
source, and whatever it is told twice changes nothing."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from proxy.drivers.spec import InstanceSpec, Pairs
from proxy.model import TcpAddress


class State(Enum):
    """What an instance is doing, as far as the engine knows."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    ENDED = "ended"


class EngineHealth(Enum):
    """What the engine's own check says, which can only veto."""

    NONE = "none"
    """There is no check."""
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Instance:
    """A container or process at one moment."""

    id: str
    name: str
    cluster: str
    state: State
    addresses: tuple[TcpAddress, ...] = ()
    """Where it may be reached from here, the best first: a network that it shares with us, its own address, a
    published port. Empty while it does not run. Ports on the host are others after each start."""
    health: EngineHealth = EngineHealth.NONE
    labels: Pairs = ()
    """All of them, by name."""
    owner: str = ""
    """Who started it; empty = nobody who left a label. Only its owner stops or removes it."""
    spec_digest: str = ""
    """Of what its owner made it from."""
    started_at: float | None = None
    """Seconds since the epoch; `None` = never."""
    exit_code: int | None = None
    """Once it has ended; −N for signal N of a process, 128+N of a container."""
    oom_killed: bool = False
    """The kernel killed it, or a process in it, for its memory."""
    restarts: int = 0
    """How often the engine has started it again by itself."""
    stop_signal: int = 15
    """By which it is asked to end."""
    stop_grace_s: float = 10.0
    """From the stop signal to SIGKILL."""
    cpus: float = 0.0
    """Cores that it may use. 0 = no limit."""
    memory_bytes: int = 0
    """Memory that it may use. 0 = no limit."""
    error: str = ""
    """Why the engine could not start it; empty = nothing known."""

    def label(self, name: str) -> str | None:
        """The value of the label `name`, `None` when it has none."""
        return dict(self.labels).get(name)


@dataclass(frozen=True, slots=True)
class Usage:
    """What an instance uses."""

    memory_bytes: int
    """Without pages of files that can be dropped at once."""
    memory_percent: float
    """The same of its limit, or of the host's memory."""
    cpus: float | None
    """Cores, on average since the sample before; `None` = there was none."""
    cpu_percent: float | None
    """The same in percent of its limit, or of the host's cores."""
    pids: int = 0
    """Processes and threads; 0 = not known."""


@dataclass(frozen=True, slots=True)
class Order:
    """An instance to be made."""

    cluster: str
    name: str
    """Not in use, so that an order that is repeated because its answer got lost ends in `EngineConflict`."""
    spec: InstanceSpec


# --- What a watcher is told


@dataclass(frozen=True, slots=True)
class Listed:
    """All instances that there are; any other is gone."""

    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """An instance that is new or not as it was."""

    instance: Instance


@dataclass(frozen=True, slots=True)
class Stopping:
    """Somebody asked an instance to end, just now; it still answers. If it runs `grace_s` later it will go on."""

    id: str
    signal: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class Died:
    """An instance has ended; nothing answers. Told before anything else is found out about it."""

    id: str


@dataclass(frozen=True, slots=True)
class Removed:
    """An instance is gone for good."""

    id: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing is known until the next `Listed`; what was known stays true as far as anybody can tell."""

    reason: str


InstanceEvent = Listed | Changed | Stopping | Died | Removed | Lost


class Driver(Protocol):
    """Runs instances. All methods raise `EngineError`; none blocks the event loop."""

    async def start(self, order: Order) -> Instance:
        """Make an instance and start it; returns when it runs, which is before it serves. What could not be started is
        removed again, unless the engine cannot be reached."""
        ...

    async def stop(self, instance_id: str, *, grace_s: float | None = None) -> None:
        """Ask it to end, make it after `grace_s` seconds (`None` = its own), and return when it has. Harmless when it
        has ended already."""
        ...

    async def remove(self, instance_id: str) -> None:
        """Remove it with all that belongs to it alone, running or not. Harmless when it is gone."""
        ...

    async def list(self) -> tuple[Instance, ...]:
        """All instances of our clusters, whoever started them, ended ones too."""
        ...

    def watch(self) -> AsyncIterator[InstanceEvent]:
        """What happens to them from now on, without end; begins with `Listed`. Raises nothing: while the engine cannot
        be asked there is `Lost`, and `Listed` once it can be again."""
        ...

    async def stats(self, instances: Iterable[Instance]) -> Mapping[str, Usage]:
        """What running instances use, by id; those of which nothing is known are left out. Raises nothing."""
        ...

    async def log_tail(self, instance_id: str, lines: int = 50) -> str:
        """The end of what it has printed."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads. A driver of processes ends them; containers go on."""
        ...
