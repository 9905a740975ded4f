"""Which of several Homeports with the same owner's name acts at one engine: a lease, kept in the engine itself.

An owner's name keeps Homeports apart that are meant to be: each touches its own containers. It does not help when a
second one is started with the same name, by a mistake or by a deployment that overlaps; both would start and retire
the same instances. There is no other place that both of them see, and labels cannot change once a container is made.
So the lease is a container that is created and never started. Its name can be had once, which decides who is first; a
label says who made it; and its holder counts up one setting that can be updated, the number of times that a restart
policy would restart it.

Who does not hold it watches the number, and takes the lease when it has stood still for `lease_s` on its own clock, so
nobody's clocks are compared (the method of leader election in Kubernetes, client-go `leaderelection.go`). Who finds
that its container is gone has lost it. A holder that cannot reach the engine can do nothing there either, and stops
believing in its lease after the same time."""

from proxy.clock import Clock
from proxy.drivers.engine import Engine, Json
from proxy.errors import EngineConflict, EngineNotFound

LEASE_S = 15.0
"""Time without a sign of life after which another takes over. Renewed three times within it: two may get lost."""
RENEW_S = LEASE_S / 3
_HOLDER = "homeport.holder"
_PURPOSE = "homeport.lease"


class Lease:
    """The lease of one owner's name. `holder` is different for each process that wants it."""

    def __init__(self, engine: Engine, *, owner: str, holder: str, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._owner = owner
        self._holder = holder
        self._name = f"homeport-lease-{owner}"
        self._own = ""
        self._count = 0
        self._renewed_at = 0.0
        self._seen: tuple[str, int] | None = None
        self._seen_at = 0.0

    def __repr__(self) -> str:
        return f"<Lease of {self._owner}: {'held' if self.is_held else 'not held'}>"

    @property
    def is_held(self) -> bool:
        """Whether this process may act: it held the lease less than `LEASE_S` ago."""
        return bool(self._own) and self._clock.monotonic() - self._renewed_at < LEASE_S

    async def hold(self, image: str) -> bool:
        """Take the lease or keep it; call it every `RENEW_S`. Returns whether it is held. `image` is any that the
        engine has; nothing of it is run. Raises `EngineError`."""
        asked_at = self._clock.monotonic()
        held = await self._renew() if self._own else False
        if not held:
            held = await self._take(image)
        if held:
            self._renewed_at = asked_at
        return held

    async def release(self) -> None:
        """Give it up, so that the next one need not wait. Raises `EngineError`."""
        own, self._own = self._own, ""
        if own:
            await self._remove(own)

    async def _renew(self) -> bool:
        self._count += 1
        policy = {"Name": "on-failure", "MaximumRetryCount": self._count}
        try:
            await self._engine.act(
                "renew the lease", lambda api: api.update_container(self._own, restart_policy=policy)
            )
        except EngineNotFound:
            self._own = ""
            return False
        return True

    async def _take(self, image: str) -> bool:
        try:
            found = await self._engine.ask("look at the lease", lambda api: api.inspect_container(self._name))
        except EngineNotFound:
            return await self._make(image)
        if (found["Config"].get("Labels") or {}).get(_HOLDER) == self._holder:
            # Ours: made by a call whose answer got lost.
            self._own, self._count = found["Id"], self._count_of(found)
            return await self._renew()
        now = self._clock.monotonic()
        seen = found["Id"], self._count_of(found)
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        if now - self._seen_at < LEASE_S:
            return False
        await self._remove(found["Id"])
        return await self._make(image)

    async def _make(self, image: str) -> bool:
        body = {
            "Image": image,
            "Cmd": ["nothing"],  # never run, but an image need not have one, and the engine asks for it
            "Labels": {_PURPOSE: self._owner, _HOLDER: self._holder},
            "HostConfig": {"NetworkMode": "none"},
        }
        try:
            made = await self._engine.act(
                "take the lease", lambda api: api.create_container_from_config(body, self._name)
            )
        except EngineConflict:
            return False  # another one was first
        self._own, self._count = made["Id"], 0
        return True

    async def _remove(self, container: str) -> None:
        try:
            await self._engine.act(
                "remove the lease", lambda api: api.remove_container(container, v=True, force=True)
            )
        except (EngineNotFound, EngineConflict):
            pass  # somebody else does

    @staticmethod
    def _count_of(found: Json) -> int:
        return int((found["HostConfig"].get("RestartPolicy") or {}).get("MaximumRetryCount") or 0)
