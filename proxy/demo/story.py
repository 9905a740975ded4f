"""What the demo plays: a calm load, a burst that more instances answer, one of them killed and replaced, calm again.

Each act takes its share of the time at least, and goes on until what it shows has happened, for `PATIENCE_S` more at
most: starting a process takes ten times longer on one machine than on another.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.demo.load import Load
from proxy.demo.stats import LoadStats
from proxy.demo.watching import Fleet, Instance, Watch

CALM_CLIENTS = 4
BURST_CLIENTS = 20
MIN_INSTANCES = 2
MAX_INSTANCES = 6
PATIENCE_S = 60.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Killed:
    """The instance that was killed."""

    name: str
    at: float
    """Seconds of the monotonic clock."""
    healed_s: float | None = None
    """Until as many served as before, without it; `None` = that was not seen."""


class Story:
    """The demo's acts. `play` them once; what was seen is in the attributes."""

    def __init__(
        self,
        duration_s: float,
        watch: Watch,
        load: Load,
        stats: LoadStats,
        kill: Callable[[Instance], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._duration_s = duration_s
        self._watch = watch
        self._load = load
        self._stats = stats
        self._kill_one = kill
        self._clock = clock
        self.act = ""
        self.most_serving = 0
        """Instances at once."""
        self.burst_at: float | None = None
        """When it began, in seconds of the monotonic clock; `None` = it did not."""
        self.killed: Killed | None = None
        self.missed: list[str] = []
        """What should have happened and did not, for people."""

    async def play(self) -> None:
        """All acts, or until the load is stopped. Raises `aiohttp.ClientError` or `TimeoutError` when the admin API
        does not answer, and what `kill` raises."""
        if not await self._play_act("calm", CALM_CLIENTS, 0.15, lambda fleet: True, ""):
            return
        self.burst_at = self._clock.monotonic()
        missed = "no instance was added in the burst"
        if not await self._play_act("burst", BURST_CLIENTS, 0.35, _has_grown, missed):
            return
        await self._kill()
        missed = "the killed instance was not replaced"
        if not await self._play_act("one killed", BURST_CLIENTS, 0.15, self._is_healed, missed):
            return
        missed = "instances were not retired when it was calm again"
        await self._play_act("calm again", CALM_CLIENTS, 0.35, _has_shrunk, missed)

    async def _play_act(
        self, act: str, clients: int, share: float, is_over: Callable[[Fleet], bool], missed: str
    ) -> bool:
        """Returns whether the next act may follow."""
        self.act = act
        self._stats.begin(act)
        self._load.set_clients(clients)
        until = self._clock.monotonic() + share * self._duration_s
        while not self._load.is_stopping:
            fleet = await self._watch.look()
            self.most_serving = max(self.most_serving, fleet.serving)
            now, is_done = self._clock.monotonic(), is_over(fleet)
            if is_done and now >= until:
                return True
            if now >= until + PATIENCE_S:
                self.missed.append(missed)
                return True
            await self._clock.sleep(_POLL_S)
        return False

    async def _kill(self) -> None:
        """Kill the instance that works most."""
        serving = [one for one in self._watch.fleet.instances if one.phase == "serving"]
        victim = max(serving, key=lambda one: (one.in_flight, one.requests))
        self._serving_before = self._watch.fleet.serving
        self.killed = Killed(victim.name, self._clock.monotonic())
        await self._kill_one(victim)

    def _is_healed(self, fleet: Fleet) -> bool:
        assert self.killed is not None
        killed = self.killed
        if killed.healed_s is None:
            is_gone = killed.name not in [one.name for one in fleet.instances if one.phase == "serving"]
            if is_gone and fleet.serving >= self._serving_before:
                self.killed = Killed(killed.name, killed.at, self._clock.monotonic() - killed.at)
        return self.killed.healed_s is not None


def _has_grown(fleet: Fleet) -> bool:
    return fleet.is_settled and fleet.serving > MIN_INSTANCES


def _has_shrunk(fleet: Fleet) -> bool:
    return fleet.is_settled and fleet.serving == MIN_INSTANCES
