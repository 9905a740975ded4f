"""Calls to the Docker Engine: in threads, bounded, with time limits, behind a circuit breaker, with our errors.

The docker SDK blocks, so each call has a thread of its own for as long as it takes; a call costs the engine some
milliseconds, a thread 0.1. They are daemons: a stop waits out its container's grace, a pull a slow registry, and
neither may keep this process from ending. There are three clients, so that none waits for another: actions (16 at
once), samples (4), and the stream of events. Of the SDK's high-level models nothing is used: `containers.list()`
inspects every container of the host and fails when one of them vanishes meanwhile.

pybreaker decides when the engine is left alone. As for endpoints, results are played to it after the fact: it would
hold a lock during a call, and measure with the wall clock."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import docker
import docker.tls

from proxy.clock import Clock
from proxy.drivers.engine_breaker import EngineBreaker
from proxy.drivers.engine_errors import engine_error
from proxy.drivers.spec import EngineOptions
from proxy.errors import EngineUnavailable

Json = Mapping[str, Any]
_T = TypeVar("_T")

# Calls at once. Of streams one is open; more are for those that nobody waits for any longer.
_ACTIONS, _SAMPLES, _STREAMS = 16, 4, 4
DEFAULT_HOST = "unix:///var/run/docker.sock"


class EventStream(Protocol):
    """The engine's events, one after the other; the iteration blocks."""

    def __iter__(self) -> Iterator[Json]: ...

    def close(self) -> None:
        """End the iteration, from any thread."""
        ...


class Api(Protocol):
    """What is used of `docker.APIClient`: the whole list of calls that Homeport makes."""

    def ping(self) -> bool: ...
    def containers(self, *, all: bool) -> list[Json]: ...
    def inspect_container(self, container: str) -> Json: ...
    def create_container_from_config(self, config: Json, name: str) -> Json: ...
    def start(self, container: str) -> None: ...
    def stop(self, container: str, timeout: int) -> None: ...
    def remove_container(self, container: str, *, v: bool, force: bool) -> None: ...
    def update_container(self, container: str, *, restart_policy: Json) -> Json: ...
    def stats(self, container: str, *, stream: bool, one_shot: bool) -> Json: ...
    def logs(self, container: str, *, tail: int) -> bytes: ...
    def events(self, *, since: str | None, filters: Json, decode: bool) -> EventStream: ...
    def pull(self, repository: str, tag: str | None, *, stream: bool, decode: bool) -> Iterator[Json]: ...
    def connect_container_to_network(self, container: str, net_id: str) -> None: ...
    def close(self) -> None: ...


Connect = Callable[[EngineOptions, int], Api]
"""Makes a client for so many calls at once. May ask the engine for its version, and raise whatever the SDK raises."""


def engine_host(options: EngineOptions, environment: Mapping[str, str] = os.environ) -> str:
    """The engine's address, as the options or the environment say it."""
    return options.host or environment.get("DOCKER_HOST") or DEFAULT_HOST


def remote_host(options: EngineOptions, environment: Mapping[str, str] = os.environ) -> str:
    """The host of an engine that is asked over TCP; empty for a socket of this machine."""
    parts = urlsplit(engine_host(options, environment))
    return (parts.hostname or "") if parts.scheme != "unix" else ""


def connect_api(options: EngineOptions, calls: int) -> Api:
    """A client of the SDK. Asks the engine for its version: newer engines refuse what older ones speak."""
    tls: Any = False
    if options.ca_file:
        pair = (options.certificate_file, options.key_file)
        tls = docker.tls.TLSConfig(client_cert=pair, ca_cert=options.ca_file, verify=True)
    elif engine_host(options).startswith("tcp://"):
        tls = docker.utils.kwargs_from_env().get("tls", False)
    _knock(options)
    api: Api = docker.APIClient(
        base_url=engine_host(options),
        version="auto",
        timeout=options.timeout_s,
        tls=tls,
        max_pool_size=calls,
    )
    return api


def _knock(options: EngineOptions) -> None:
    """Raise OSError when nobody listens at the engine's socket: the SDK would leave its own end of it open."""
    scheme, _, path = engine_host(options).partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(options.timeout_s)
            sock.connect("/" + path.lstrip("/"))  # the SDK takes unix://var/run too


class Engine:
    """The engine, asked by many at once."""

    def __init__(self, options: EngineOptions, *, clock: Clock, connect: Connect = connect_api) -> None:
        self.options = options
        self.breaker = EngineBreaker(clock)
        self._actions = _Lane(options, connect, _ACTIONS)
        self._samples = _Lane(options, connect, _SAMPLES)
        self._streams = _Lane(options, connect, _STREAMS)

    def __repr__(self) -> str:
        return f"<Engine {engine_host(self.options)} {self.breaker.state}>"

    async def ask(self, what: str, question: Callable[[Api], _T]) -> _T:
        """The answer to what changes nothing. Raises `EngineError`; `EngineUnavailable` also when the engine fails."""
        return await self._call(self._actions, what, question, is_question=True)

    async def act(self, what: str, action: Callable[[Api], _T]) -> _T:
        """Have something done. Raises `EngineError`; after `EngineUnavailable` it may have been done."""
        return await self._call(self._actions, what, action, is_question=False)

    async def sample(self, what: str, question: Callable[[Api], _T]) -> _T:
        """As `ask`, apart from all other calls."""
        return await self._call(self._samples, what, question, is_question=True)

    async def open_events(self, since: str | None, filters: Json) -> EventStream:
        """Events from now on, or since a time of the engine's as `seconds.nanoseconds`. Raises `EngineError`."""

        def run(api: Api) -> EventStream:
            # The SDK waits for a stream's beginning without a limit; an engine that hangs is found out before.
            api.ping()
            return api.events(since=since, filters=filters, decode=True)

        what = "follow events"
        try:
            async with asyncio.timeout(2 * self.options.timeout_s):
                return await self._call(self._streams, what, run, is_question=True)
        except TimeoutError as error:
            self.breaker.record(ok=False)
            raise EngineUnavailable(what, "no answer in time") from error

    def close(self) -> None:
        """Close the connections that are idle. Calls in progress go on in their threads."""
        for lane in (self._actions, self._samples, self._streams):
            lane.close()

    async def _call(
        self, lane: "_Lane", what: str, function: Callable[[Api], _T], *, is_question: bool
    ) -> _T:
        self.breaker.admit(what)
        try:
            result = await lane.run(function)
        except Exception as error:
            known = engine_error(what, error, is_question=is_question)
            if known is None:
                raise
            if isinstance(known, EngineUnavailable):
                lane.close()  # it may be another version when it is back
            self.breaker.record(ok=not isinstance(known, EngineUnavailable))
            raise known from error
        self.breaker.record(ok=True)
        return result


class _Lane:
    """A client, and at most so many calls of it at once, each in a thread."""

    def __init__(self, options: EngineOptions, connect: Connect, calls: int) -> None:
        self._options = options
        self._connect = connect
        self._calls = calls
        self._free = asyncio.Semaphore(calls)
        self._lock = threading.Lock()
        self._client: Api | None = None

    async def run(self, function: Callable[[Api], _T]) -> _T:
        """`function` of the client. Its place is taken until the thread is done, also when nobody waits any more."""
        await self._free.acquire()
        return await in_thread(lambda: function(self._get()), self._free.release)

    def close(self) -> None:
        """Close idle connections, and those in use when their calls end. The next call connects anew."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _get(self) -> Api:
        with self._lock:
            client = self._client
            if client is None:
                client = self._client = self._connect(self._options, self._calls)
            return client


async def in_thread(function: Callable[[], _T], on_end: Callable[[], None] | None = None) -> _T:
    """The result of `function`, which runs in a daemon thread; `on_end` is called on the loop when the thread is done,
    whether or not somebody still waits."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def deliver(result: _T | None, error: BaseException | None) -> None:
        if on_end is not None:
            on_end()
        if future.done():
            return  # nobody waits
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        outcome: tuple[_T | None, BaseException | None]
        try:
            outcome = function(), None
        except BaseException as error:  # of any kind: it belongs to whoever waits
            outcome = None, error
        try:
            loop.call_soon_threadsafe(deliver, *outcome)
        except RuntimeError:
            pass  # the loop is closed, the process about to end

    threading.Thread(target=run, name="docker", daemon=True).start()
    return await future
