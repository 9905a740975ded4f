"""The demo's load: clients in closed loops that ask for datasets and check every answer.

Closed loops (each client waits for its answer before it sends the next request) keep a small machine from drowning,
which an open load would do on a laptop. Some datasets are asked for much more often than others (Zipf), as data
services see them, so a cache that holds the right ones pays. How many clients there are can change at any time: that is
the burst.
"""

import asyncio
from bisect import bisect
from itertools import accumulate
from random import Random

import aiohttp
import orjson

from proxy.clock import Clock
from proxy.demo import sample
from proxy.demo.service import CACHE_HEADER
from proxy.demo.stats import LoadStats
from proxy.errors import ProxyError
from proxy.tasks import spawn

DATASETS = tuple(f"set-{number:02}" for number in range(48))
"""1.1 GiB in all, as `sample.dataset_bytes` has them: more than two instances hold, less than six do."""
ZIPF = 1.0
"""Exponent of popularity: the dataset of rank r is asked for in proportion to r^-ZIPF."""
THINK_MS = 30
"""Of work, once the data are there."""
_TIMEOUT = aiohttp.ClientTimeout(total=30)
"""Far above what any of the requests needs; also bounds how long the load takes to end."""
_PAUSE_AFTER_FAILURE_S = 0.05
"""Keeps a proxy that refuses everything from being hammered."""
_SHOWN_CHARS = 80
_SHARES = tuple(accumulate((rank + 1) ** -ZIPF for rank in range(len(DATASETS))))


class WrongAnswer(ProxyError):
    """An answer came, but not the right one."""


class Load:
    """Clients of `base_url`, none at first, counting into `stats`. `rng` says which datasets they want."""

    def __init__(self, base_url: str, stats: LoadStats, clock: Clock, rng: Random) -> None:
        self._base_url = base_url
        self._stats = stats
        self._clock = clock
        self._rng = rng
        self._clients = 0
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self.is_stopping = False
        """`stop` was called."""

    def set_clients(self, count: int) -> None:
        """Have so many from now on; those too many finish what they have asked."""
        self._clients = count
        self._changed.set()

    def stop(self) -> None:
        """Send no further request; `run` returns when those under way are finished."""
        self.is_stopping = True
        self.set_clients(0)

    async def run(self) -> None:
        """Send requests until `stop`; those under way then may take up to their timeout, 30 seconds."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(self._base_url, timeout=_TIMEOUT, connector=connector) as session:
            try:
                while not self.is_stopping:
                    self._changed.clear()
                    for number in range(self._clients):
                        if number not in self._tasks or self._tasks[number].done():
                            client = self._client(session, number)
                            self._tasks[number] = spawn(client, name=f"load client {number}")
                    await self._changed.wait()
                await asyncio.gather(*self._tasks.values())
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        while number < self._clients:
            # The product may round up to the last share itself.
            rank = min(bisect(_SHARES, self._rng.random() * _SHARES[-1]), len(DATASETS) - 1)
            dataset = DATASETS[rank]
            if not await self._request(session, dataset):
                await self._clock.sleep(_PAUSE_AFTER_FAILURE_S)

    async def _request(self, session: aiohttp.ClientSession, dataset: str) -> bool:
        began = self._clock.monotonic()
        try:
            is_hit = await _query(session, dataset)
        except (aiohttp.ClientError, TimeoutError, OSError, WrongAnswer, ValueError) as error:
            self._stats.record_failure(_problem(error))
            return False
        self._stats.record_success(is_hit, self._clock.monotonic() - began)
        return True


async def _query(session: aiohttp.ClientSession, dataset: str) -> bool:
    """Ask for a dataset; returns whether its data were there."""
    params = {"dataset": dataset, "think_ms": str(THINK_MS)}
    async with session.get("/query", params=params) as response:
        body = await response.read()
        if response.status != 200:
            raise WrongAnswer(f"{response.status} {body[:_SHOWN_CHARS].decode(errors='replace')}")
        answer = orjson.loads(body)
        if not isinstance(answer, dict) or answer.get("result") != sample.query_result(dataset):
            raise WrongAnswer("the answer is to another question")
        return response.headers.get(CACHE_HEADER) == "hit"


def _problem(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no complete answer in {_TIMEOUT.total:.0f} s"
    return str(error) or type(error).__name__
