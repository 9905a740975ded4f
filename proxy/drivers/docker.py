"""Instances as containers of a Docker Engine.

Only containers that carry our owner's label are ever stopped or removed, which is looked at before each time: names
and ids may have come from anywhere."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4
from weakref import WeakSet

from proxy.clock import Clock
from proxy.drivers.create_body import create_body
from proxy.drivers.docker_watch import Watch
from proxy.drivers.driver import Instance, InstanceEvent, Order, State, Usage
from proxy.drivers.engine import Connect, Engine, Json, connect_api
from proxy.drivers.engine_answers import Vantage, instance_of
from proxy.drivers.engine_errors import ImageMissing
from proxy.drivers.image_pull import pull
from proxy.drivers.labels import select
from proxy.drivers.lease import Lease
from proxy.drivers.spec import ContainerSpec, EngineOptions, Selector
from proxy.drivers.usage import CpuMeter, usage_of
from proxy.drivers.vantage import find_vantage
from proxy.errors import EngineConflict, EngineError, EngineNotFound, EngineUnavailable
from proxy.tasks import spawn

_log = logging.getLogger(__name__)
# Of a log's tail; what an event can carry and a person reads.
_MAX_TAIL_BYTES = 16 * 1024


class DockerDriver:
    """The containers of our clusters, as `selectors` tell them, at one engine. See `driver.Driver`."""

    def __init__(
        self,
        options: EngineOptions,
        selectors: Sequence[Selector],
        *,
        clock: Clock,
        connect: Connect = connect_api,
        vantage: Vantage | None = None,
    ) -> None:
        """`vantage` is found out unless given. Nothing is asked of the engine before the first call."""
        self._owner = options.owner
        self._selectors = tuple(selectors)
        self._clock = clock
        self._vantage = vantage
        self._meter = CpuMeter()
        self._watches: WeakSet[Watch] = WeakSet()
        self.engine = Engine(options, clock=clock, connect=connect)
        self.lease = Lease(self.engine, owner=options.owner, holder=uuid4().hex, clock=clock)
        """Whether this process, among others with the same owner's name, may give orders."""

    def __repr__(self) -> str:
        return f"<DockerDriver of {self._owner} at {self.engine!r}>"

    async def start(self, order: Order) -> Instance:
        """Create a container, join its networks, start it."""
        spec = order.spec
        assert isinstance(spec, ContainerSpec)
        if spec.pull == "always":
            await pull(self.engine, spec.image, self._clock)
        own = await self._create(order, spec)
        try:
            for network in spec.networks[1:]:
                await self._join(order.name, own, network)
            await self.engine.act(f"start {order.name}", lambda api: api.start(own))
            return await self._look_for(own, order.cluster)
        except EngineUnavailable:
            raise  # it cannot be removed now; it is known by its labels later
        except EngineError:
            with suppress(EngineError):
                await self._remove(own)
            raise

    async def stop(self, instance_id: str, *, grace_s: float | None = None) -> None:
        """Stop signal, grace, SIGKILL: by the engine, which waits for the end."""
        with suppress(EngineNotFound):
            own = await self._own(f"stop {instance_id[:12]}", instance_id)
            grace = math.ceil(own.stop_grace_s if grace_s is None else grace_s)
            await self.engine.act(f"stop {own.name}", lambda api: api.stop(own.id, timeout=grace))

    async def remove(self, instance_id: str) -> None:
        """Remove a container and its anonymous volumes."""
        with suppress(EngineNotFound):
            own = await self._own(f"remove {instance_id[:12]}", instance_id)
            await self._remove(own.id)

    async def list(self) -> tuple[Instance, ...]:
        """One question for all containers of the host, and one for each of ours."""
        found = await self.engine.ask("list containers", lambda api: api.containers(all=True))
        ours = [each["Id"] for each in found if select(self._selectors, each.get("Labels") or {})]
        looked = await asyncio.gather(*(self._look_if_there(own) for own in ours))
        return tuple(instance for instance in looked if instance is not None)

    def watch(self) -> AsyncIterator[InstanceEvent]:
        """Events of the engine, each followed by what is true then."""
        watch = Watch(
            self.engine,
            self._clock,
            selectors=lambda: self._selectors,
            list_all=self.list,
            look=self._look_if_there,
        )
        self._watches.add(watch)
        return watch.events()

    def select(self, selectors: Sequence[Selector]) -> None:
        """Go by other selectors from now on, after a reload; watchers are told of everything that there is now."""
        self._selectors = tuple(selectors)
        for watch in tuple(self._watches):
            spawn(watch.list_again(), name="docker list")

    async def stats(self, instances: Iterable[Instance]) -> Mapping[str, Usage]:
        """A one-shot sample of each that runs, four at a time."""
        running = [each for each in instances if each.state is State.RUNNING]
        self._meter.keep(each.id for each in running)
        usages = await asyncio.gather(*(self._usage(each) for each in running))
        return {each.id: usage for each, usage in zip(running, usages, strict=True) if usage is not None}

    async def hold_lease(self, spec: ContainerSpec) -> bool:
        """Take the lease or keep it; returns whether it is held. It needs an image, which is that of `spec`, fetched if
        that is what is done with images."""
        try:
            return await self.lease.hold(spec.image)
        except ImageMissing as error:
            if spec.pull == "never":
                raise _not_pulled(error.what, spec.image) from error
        await pull(self.engine, spec.image, self._clock)
        return await self.lease.hold(spec.image)

    async def log_tail(self, instance_id: str, lines: int = 50) -> str:
        """Standard output and standard error, as they came."""
        raw = await self.engine.ask(
            f"log of {instance_id[:12]}", lambda api: api.logs(instance_id, tail=lines)
        )
        return raw[-_MAX_TAIL_BYTES:].decode(errors="replace").strip()

    async def close(self) -> None:
        """Close idle connections; calls in progress end with the process."""
        self.engine.close()

    # --- parts

    async def _create(self, order: Order, spec: ContainerSpec) -> str:
        started = datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="seconds")
        body = create_body(spec, cluster=order.cluster, owner=self._owner, started=started)
        what = f"create {order.name}"
        try:
            return await self._create_once(what, order.name, body)
        except ImageMissing as error:
            if spec.pull == "never":
                raise _not_pulled(what, spec.image) from error
        await pull(self.engine, spec.image, self._clock)
        return await self._create_once(what, order.name, body)

    async def _create_once(self, what: str, name: str, body: Json) -> str:
        made = await self.engine.act(what, lambda api: api.create_container_from_config(body, name))
        for warning in made.get("Warnings") or ():
            _log.warning("%s: the engine warns: %s", what, warning)
        return str(made["Id"])

    async def _join(self, name: str, own: str, network: str) -> None:
        what = f"connect {name} to {network}"
        await self.engine.act(what, lambda api: api.connect_container_to_network(own, network))

    async def _remove(self, own: str) -> None:
        try:
            await self.engine.act(
                f"remove {own[:12]}", lambda api: api.remove_container(own, v=True, force=True)
            )
        except EngineConflict as error:
            if "already in progress" not in error.problem:
                raise

    async def _own(self, what: str, instance_id: str) -> Instance:
        """The instance, which must be ours. Raises `EngineConflict` when it is not."""
        instance = await self._look_for(instance_id, "")
        if instance.owner != self._owner:
            whose = f"{instance.owner}'s" if instance.owner else "nobody's that we know"
            raise EngineConflict(what, f"{instance.name} is {whose}, not {self._owner}'s")
        return instance

    async def _look_for(self, instance_id: str, cluster: str) -> Instance:
        """The instance, of `cluster` when no selector takes it."""
        answer = await self._inspect(instance_id)
        selector = select(self._selectors, answer["Config"].get("Labels") or {})
        return instance_of(answer, selector or Selector(cluster, ()), await self._find_vantage())

    async def _look_if_there(self, instance_id: str) -> Instance | None:
        """The instance; `None` when it is gone, or in none of our clusters."""
        try:
            answer = await self._inspect(instance_id)
        except EngineNotFound:
            return None
        selector = select(self._selectors, answer["Config"].get("Labels") or {})
        return None if selector is None else instance_of(answer, selector, await self._find_vantage())

    async def _inspect(self, instance_id: str) -> Json:
        return await self.engine.ask(
            f"inspect {instance_id[:12]}", lambda api: api.inspect_container(instance_id)
        )

    async def _find_vantage(self) -> Vantage:
        if self._vantage is None:
            self._vantage = await find_vantage(self.engine)
        return self._vantage

    async def _usage(self, instance: Instance) -> Usage | None:
        try:
            sample = await self.engine.sample(
                f"stats of {instance.name}",
                lambda api: api.stats(instance.id, stream=False, one_shot=True),
            )
        except EngineError:
            return None
        return usage_of(instance, sample, self._meter)


def _not_pulled(what: str, image: str) -> EngineNotFound:
    return EngineNotFound(what, f"the engine has no image {image}: pull it there, or set pull: missing")
