"""The demo's load: a few clients in closed loops that check every byte of every answer.

Closed loops (each client waits for its answer before it sends the next request) keep a small machine from
drowning, which an open load would do on a laptop. The mix is a fixed rotation in which the clients start at
different places: no chance is involved, so two runs send the same kinds in the same proportions.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import orjson

from proxy.clock import Clock
from proxy.demo import sample
from proxy.demo.stats import LoadStats
from proxy.errors import ProxyError
from proxy.tasks import spawn

CLIENTS = 8
BODY_BYTES = 1 << 16
_DATASETS = ("orders", "customers", "clicks", "invoices", "sensors")
_THINK_MS = 2
_TIMEOUT = aiohttp.ClientTimeout(total=10)
"""Far above what any of the requests needs; also bounds how long the load takes to end."""
_PAUSE_AFTER_FAILURE_S = 0.05
"""Keeps a proxy that refuses everything from being hammered."""
_SHOWN_CHARS = 80

_BODY = sample.content(BODY_BYTES)
_BODY_DIGEST = sample.digest(BODY_BYTES)


class WrongAnswer(ProxyError):
    """An answer came, but not the right one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer that was checked."""

    endpoint: str
    verified_bytes: int


async def _query(session: aiohttp.ClientSession, turn: int) -> Answer:
    dataset = _DATASETS[turn % len(_DATASETS)]
    params = {"dataset": dataset, "think_ms": str(_THINK_MS)}
    async with session.get("/query", params=params) as response:
        body = await _body(response)
        endpoint = _endpoint(response)
        expected = {"service": endpoint, "dataset": dataset, "result": sample.query_result(dataset)}
        if orjson.loads(body) != expected:
            raise WrongAnswer("the answer is to another question")
        return Answer(endpoint, len(body))


async def _download(session: aiohttp.ClientSession, turn: int) -> Answer:
    async with session.get(f"/bytes/{BODY_BYTES}") as response:
        body = await _body(response)
        if hashlib.sha256(body).hexdigest() != _BODY_DIGEST:
            raise WrongAnswer(f"wrong checksum over {len(body)} bytes")
        return Answer(_endpoint(response), len(body))


async def _upload(session: aiohttp.ClientSession, turn: int) -> Answer:
    return await _send_upload(session, _BODY)


async def _chunked_upload(session: aiohttp.ClientSession, turn: int) -> Answer:
    return await _send_upload(session, _pieces())


async def _pieces() -> AsyncIterator[bytes]:
    # Odd pieces, so that chunks and buffers do not line up.
    for offset in range(0, BODY_BYTES, 10_007):
        yield _BODY[offset : offset + 10_007]


async def _send_upload(session: aiohttp.ClientSession, body: bytes | AsyncIterator[bytes]) -> Answer:
    async with session.post("/upload", data=body) as response:
        answer = orjson.loads(await _body(response))
        if answer != {"bytes": BODY_BYTES, "sha256": _BODY_DIGEST}:
            raise WrongAnswer("the endpoint received other bytes than were sent")
        return Answer(_endpoint(response), BODY_BYTES)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = await response.read()
    if response.status != 200:
        raise WrongAnswer(f"{response.status} {body[:_SHOWN_CHARS].decode(errors='replace')}")
    return body


def _endpoint(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("X-Service", "unknown")


_Operation = Callable[[aiohttp.ClientSession, int], Awaitable[Answer]]
_OPERATIONS: dict[str, _Operation] = {
    "query": _query,
    "download": _download,
    "upload": _upload,
    "chunked upload": _chunked_upload,
}
KINDS = tuple(_OPERATIONS)
# Mostly queries, as data services see them; a fifth downloads, a fifth uploads of both framings.
_MIX = (
    *("query", "download", "query", "query", "upload"),
    *("query", "download", "query", "query", "chunked upload"),
)


class Load:
    """`CLIENTS` clients against `base_url`, counting into `stats`."""

    def __init__(self, base_url: str, stats: LoadStats, clock: Clock) -> None:
        self._base_url = base_url
        self._stats = stats
        self._clock = clock
        self._stopping = False

    def stop(self) -> None:
        """Send no further request; `run` returns when those under way are finished."""
        self._stopping = True

    @property
    def is_stopping(self) -> bool:
        """`stop` was called."""
        return self._stopping

    async def run(self) -> None:
        """Send requests until `stop`; those under way then may take up to their timeout, ten seconds."""
        async with aiohttp.ClientSession(
            self._base_url, timeout=_TIMEOUT, connector=aiohttp.TCPConnector(limit=CLIENTS)
        ) as session:
            clients = [spawn(self._client(session, n), name=f"load client {n}") for n in range(CLIENTS)]
            try:
                await asyncio.gather(*clients)
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.gather(*clients, return_exceptions=True)

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while not self._stopping:
            kind = _MIX[turn % len(_MIX)]
            if not await self._request(session, kind, turn):
                await self._clock.sleep(_PAUSE_AFTER_FAILURE_S)
            turn += 1

    async def _request(self, session: aiohttp.ClientSession, kind: str, turn: int) -> bool:
        began = self._clock.monotonic()
        try:
            answer = await _OPERATIONS[kind](session, turn)
        except (aiohttp.ClientError, TimeoutError, OSError, WrongAnswer, ValueError) as error:
            self._stats.record_failure(kind, _problem(error))
            return False
        took_s = self._clock.monotonic() - began
        self._stats.record_success(kind, answer.endpoint, answer.verified_bytes, took_s)
        return True


def _problem(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no complete answer in {_TIMEOUT.total:.0f} s"
    return str(error) or type(error).__name__
