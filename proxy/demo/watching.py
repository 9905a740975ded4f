"""What the proxy's admin API says of the demo's cluster while it runs: its instances, and what happens to them."""

from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import orjson

from proxy.clock import Clock

_LOOK = aiohttp.ClientTimeout(total=10)
_FOLLOW = aiohttp.ClientTimeout(total=None, sock_connect=10)
_SHOWN = ("scaled", "instance_serving", "instance_draining", "instance_died", "instance_failed")
"""Types of events; that instances start and are removed follows from these."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of the cluster."""

    id: str
    name: str
    phase: str
    """`starting`, `serving`, `draining` and so on."""
    address: str
    in_flight: int
    requests: int
    """Answered so far."""
    hit_ratio: float | None
    """0 to 1; `None` when it has answered none."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The cluster at one moment."""

    desired: int
    serving: int
    instances: tuple[Instance, ...] = ()

    @property
    def is_settled(self) -> bool:
        """There are as many as there should be, and all of them serve."""
        return self.serving == self.desired == len(self.instances)


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of the proxy's."""

    at: float
    """Seconds of the monotonic clock, when it was told."""
    type: str
    subject: str
    text: str


class Watch:
    """The admin API at `url`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, cluster: str, clock: Clock) -> None:
        self._session = session
        self._url = url
        self._cluster = cluster
        self._clock = clock
        self.fleet = Fleet(0, 0)
        """As it was at the last look."""
        self.happenings: list[Happening] = []
        """What there was so far."""

    async def look(self) -> Fleet:
        """The cluster now. Raises `aiohttp.ClientError`, or `TimeoutError`."""
        url = f"{self._url}/api/v1/clusters/{self._cluster}"
        async with self._session.get(url, timeout=_LOOK, raise_for_status=True) as response:
            document = orjson.loads(await response.read())
        scaler = document["scaler"]
        endpoints = {one["instance"]: one for one in document["endpoints"]}
        instances = []
        for one in scaler["instances"] if scaler else ():
            endpoint = endpoints.get(one["id"])
            instances.append(
                Instance(
                    id=one["id"],
                    name=one["name"],
                    phase=one["phase"],
                    address=one["address"] or "",
                    in_flight=endpoint["in_flight"] if endpoint else 0,
                    requests=endpoint["requests_total"] if endpoint else 0,
                    hit_ratio=endpoint["locality"]["hit_ratio"] if endpoint else None,
                )
            )
        if scaler:
            self.fleet = Fleet(scaler["desired"], scaler["serving"], tuple(instances))
        return self.fleet

    async def follow(self) -> None:
        """Read the stream of events until it ends, which it does with the proxy at the latest."""
        with suppress(aiohttp.ClientError):
            async with self._session.get(f"{self._url}/api/v1/events", timeout=_FOLLOW) as response:
                async for line in response.content:
                    if line.startswith(b"data: "):
                        self._note(orjson.loads(line.removeprefix(b"data: ")))

    def _note(self, event: dict[str, str]) -> None:
        if event["type"] in _SHOWN:
            now = self._clock.monotonic()
            self.happenings.append(Happening(now, event["type"], event["subject"], event["text"]))
