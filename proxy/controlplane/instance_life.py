"""One instance of a cluster as the scaler knows it, where in its life it is, and what can be done for it. No I/O."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from proxy.controlplane.events import EventType
from proxy.drivers.driver import EngineHealth, Instance, State
from proxy.drivers.spec import InstanceSpec
from proxy.policy.deploying import Answers, DeployParams
from proxy.policy.replacing import Patience, ReplacementParams
from proxy.policy.retiring import CostOfLosing


class Phase(Enum):
    """Where in its life an instance is."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class FleetParams:
    """What instances are, and how patient one is with them."""

    spec: InstanceSpec
    start_timeout_s: float
    """From the moment that it exists: to fetch its image takes as long as it takes."""
    drain_timeout_s: float
    replacement: ReplacementParams
    deploy: DeployParams = DeployParams()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else is known at one moment."""

    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Requests and tunnels at each instance, by id."""
    down: Collection[str] = ()
    """Ids of those whose health checks fail."""
    room: int | None = None
    """How many instances may exist in all, those that are going included; `None` = any number."""
    may_act: bool = True
    """Whether the engine may be given orders: it answers, and nobody else does the same."""
    request_s: float = 0.0
    """Seconds of work of a request."""
    cost_of_losing: CostOfLosing = lambda _, __: 0.0
    answers: Mapping[str, Answers] = field(default_factory=dict)
    """What requests to each instance came to, by id."""


# --- What is to be done


@dataclass(frozen=True, slots=True)
class Start:
    """Make an instance; then `on_order`."""

    name: str
    spec: InstanceSpec


@dataclass(frozen=True, slots=True)
class Probe:
    """Check one that starts; then `on_probe`."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask it to end, and make it after its grace; then `on_done`."""

    id: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Take it away; then `on_done`."""

    id: str
    obituary: "Obituary | None" = None
    """What is to be told first, with the end of its log."""


@dataclass(frozen=True, slots=True)
class Obituary:
    """An event about an instance that ended by itself."""

    kind: EventType
    name: str
    text: str


Action = Start | Probe | Stop | Remove


class Life:
    """One instance."""

    __slots__ = (
        "failures", "instance", "is_busy", "is_settled", "obituary", "ordered_at", "patience", "phase",
        "phase_at", "probe_at", "quiet_at", "reason", "retry_at", "seen_at", "serving_since", "stops_by", "verdict",
    )  # fmt: skip

    def __init__(
        self, instance: Instance, params: ReplacementParams, ordered_at: float, *, now: float
    ) -> None:
        self.instance = instance
        self.phase = Phase.STARTING
        self.phase_at = self.seen_at = self.probe_at = self.retry_at = now
        self.ordered_at = ordered_at
        self.patience = Patience(params)
        self.serving_since: float | None = None
        """Since when it has served; `None` = never."""
        self.is_settled = False
        self.stops_by: float | None = None
        """Somebody else told it to end: when it should have, at the latest."""
        self.quiet_at: float | None = None
        """Since when it has had nothing in flight, of one that drains."""
        self.reason = ""
        """Why it goes."""
        self.obituary: Obituary | None = None
        self.verdict = "not checked yet"
        """Why the last check failed, of one that starts."""
        self.is_busy = False
        """An order or a check is under way."""
        self.failures = 0
        """Orders in a row that failed."""

    def __repr__(self) -> str:
        return f"Life({self.instance.name}, {self.phase.value})"

    @property
    def is_active(self) -> bool:
        """Whether it counts as one of those that there should be."""
        return self.phase in (Phase.STARTING, Phase.SERVING) and self.stops_by is None

    @property
    def veto(self) -> str:
        """Why it does not work, in the engine's own words; empty = the engine has nothing against it."""
        if self.instance.state is not State.RUNNING:
            return f"it is {self.instance.state.value}"
        is_unhealthy = self.instance.health is EngineHealth.UNHEALTHY
        return "the engine's own check of it fails" if is_unhealthy else ""

    @property
    def leaving(self) -> str:
        """Why it gets nothing new; empty = it may."""
        if self.stops_by is not None:
            return "somebody else told it to end"
        return "" if self.phase is Phase.SERVING else self.reason or "it goes"

    def enter(self, phase: Phase, reason: str, now: float) -> None:
        """Go on to `phase`."""
        self.phase, self.phase_at, self.reason = phase, now, reason
        self.quiet_at = None
        self.retry_at, self.failures, self.is_busy = now, 0, False


def end_of(instance: Instance) -> str:
    """How it ended, for people."""
    how = (
        "it was killed for its memory" if instance.oom_killed else f"it ended with code {instance.exit_code}"
    )
    return f"{how}: {instance.error}" if instance.error else how
