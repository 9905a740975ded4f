"""What runs instances, followed for the scaler: events as they come, whether orders may be given, what instances use.

There are two drivers at most, that of the Docker Engine and that of local processes, each for all clusters that have
it. One that says `Lost` is given no orders until it has said again what there is; nor is an engine at which another
Homeport of the same name holds the lease.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from proxy.clock import Clock
from proxy.controlplane.events import EventLog, EventType
from proxy.drivers.driver import Driver, Instance, InstanceEvent, Listed, Lost, Usage
from proxy.drivers.process import ProcessDriver
from proxy.drivers.spec import ContainerSpec, InstanceSpec
from proxy.errors import EngineError
from proxy.tasks import spawn

if TYPE_CHECKING:
    from proxy.drivers.docker import DockerDriver

_log = logging.getLogger(__name__)

DOCKER, PROCESS = "docker", "process"

USAGE_S = 5.0
"""Seconds between two samples of what instances use."""

USAGE_KEPT_S = 3 * USAGE_S
"""Seconds for which a sample is good."""

LEASE_RENEW_S = 5.0
"""Seconds between two renewals; `drivers.lease` says why."""

NO_LEASE = "another Homeport with the same docker.owner holds the lease"

Listener = Callable[[str, InstanceEvent], None]


class Followed:
    """One driver, and what is known of it."""

    def __init__(self, kind: str, driver: Driver, on_event: Listener, events: EventLog, clock: Clock) -> None:
        self.kind = kind
        self.driver = driver
        self.spec: InstanceSpec | None = None
        """Of any instance that it is to run."""
        self._on_event = on_event
        self._events = events
        self._clock = clock
        self._lost: str | None = ""
        """Why it does not answer; empty = it has not answered yet; `None` = it does."""
        self._told = ""
        """Why no orders are given, as it was told last."""
        self._is_leased = kind == PROCESS
        self._instances: dict[str, Sequence[Instance]] = {}
        self._usages: Mapping[str, Usage] = {}
        self._used_at = float("-inf")
        self._tasks = [
            spawn(self._watch(), name=f"{kind} instances"),
            spawn(self._sample(), name=f"{kind} usage"),
        ]
        if kind == DOCKER:
            self._tasks.append(spawn(self._hold_lease(), name="docker lease"))

    def __repr__(self) -> str:
        return f"<Followed {self.kind}{'' if self.may_act else ', no orders'}>"

    @property
    def may_act(self) -> bool:
        """Whether it may be given orders."""
        return self._lost is None and self._is_leased

    @property
    def usages(self) -> Mapping[str, Usage] | None:
        """What instances use, by id; `None` = nothing is known of late."""
        is_fresh = self._clock.monotonic() - self._used_at <= USAGE_KEPT_S
        return self._usages if is_fresh else None

    def look_at(self, cluster: str, instances: Sequence[Instance]) -> None:
        """Look at what these instances of `cluster` use."""
        self._instances[cluster] = instances

    async def list_again(self) -> None:
        """Tell of everything there is once more, for clusters that have come to it."""
        try:
            self._take(Listed(await self.driver.list()))
        except EngineError as error:
            _log.warning("%s", error)  # the watch will tell once it answers

    def stop(self) -> None:
        """Follow it no more."""
        for task in self._tasks:
            task.cancel()

    async def _watch(self) -> None:
        async for event in self.driver.watch():
            self._take(event)

    def _take(self, event: InstanceEvent) -> None:
        if isinstance(event, Lost):
            self._lost = event.reason
            self._tell(event.reason)
        elif isinstance(event, Listed):
            self._lost = None
            self._tell("" if self._is_leased else self._told)
        self._on_event(self.kind, event)

    def _tell(self, problem: str) -> None:
        """Say that no orders are given, or that they are again, if that is new."""
        if bool(problem) != bool(self._told):
            kind = EventType.ENGINE_LOST if problem else EventType.ENGINE_BACK
            text = f"{problem}; what serves goes on, nothing is started or stopped"
            self._events.tell(kind, f"engine {self.kind}", text if problem else "it takes orders again")
        self._told = problem

    async def _sample(self) -> None:
        while True:
            running = [each for instances in self._instances.values() for each in instances]
            if running:
                self._usages = await self.driver.stats(running)
                self._used_at = self._clock.monotonic()
            await self._clock.sleep(USAGE_S)

    async def _hold_lease(self) -> None:
        driver: DockerDriver = self.driver  # type: ignore[assignment]
        while True:
            if isinstance(self.spec, ContainerSpec) and self._lost is None:
                try:
                    self._is_leased = await driver.hold_lease(self.spec)
                    self._tell("" if self._is_leased else NO_LEASE)
                except EngineError as error:
                    self._is_leased = driver.lease.is_held
                    self._tell("" if self._is_leased else str(error))
            await self._clock.sleep(LEASE_RENEW_S if self._is_leased else 1.0)


class Engines:
    """The drivers in use. `docker` is that of the engine which the configuration names, `on_event` takes what they
    tell."""

    def __init__(
        self, docker: Callable[[], Driver | None], on_event: Listener, events: EventLog, clock: Clock
    ) -> None:
        self._docker = docker
        self._on_event = on_event
        self._events = events
        self._clock = clock
        self._followed: dict[str, Followed] = {}

    def __repr__(self) -> str:
        return f"Engines({[*self._followed.values()]})"

    def get(self, kind: str) -> Followed | None:
        """That of `docker` or `process`; `None` while none is in use."""
        return self._followed.get(kind)

    def use(self, kind: str, spec: InstanceSpec, owner: str) -> None:
        """The driver of this kind is needed, for instances such as `spec`; one that is followed already tells of
        everything there is once more."""
        known = self._followed.get(kind)
        driver = self._driver(kind, known, owner)
        if driver is None:
            return
        if known is not None and known.driver is driver:
            spawn(known.list_again(), name=f"{kind} list")
        else:
            if known is not None:
                known.stop()
            known = Followed(kind, driver, self._on_event, self._events, self._clock)
            self._followed[kind] = known
        known.spec = spec

    async def stop(self) -> None:
        """Follow nothing any more. Containers go on, processes end. Idempotent."""
        followed, self._followed = self._followed, {}
        for one in followed.values():
            one.stop()
            if one.kind == PROCESS:
                await one.driver.close()
            else:
                await _release(one)

    def _driver(self, kind: str, known: Followed | None, owner: str) -> Driver | None:
        if kind == DOCKER:
            return self._docker()
        return known.driver if known is not None else ProcessDriver(owner=owner, clock=self._clock)


async def _release(one: Followed) -> None:
    """Leave the lease to the next one, who need not wait then."""
    driver: DockerDriver = one.driver  # type: ignore[assignment]
    try:
        await driver.lease.release()
    except EngineError as error:
        _log.info("%s", error)
