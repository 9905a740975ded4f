"""Host names of endpoints to addresses, again and again.

Each name is looked up by the system's resolver (hosts file, search domains and Docker's DNS included), which blocks a
thread, at its own interval. The answer's time to live is not used: getaddrinfo does not tell it, and an interval of
tens of seconds is what container names need. Rules:

- A failure keeps the last good addresses; traffic goes on. It is counted, and logged when it begins and when
  it ends.
- A name that never had an address is tried again soon, at doubling intervals up to its own: a container that
  starts after Homeport is found within seconds.
- Addresses of whoever watched before (a reload, another control) hold at once; the name is looked up again at a random
  moment of its interval.
- One family per name: its IPv4 addresses, or the IPv6 ones when it has no IPv4. With both, a dual-stacked
  host would be two endpoints and get twice its share, and `localhost` would send half the requests to a port
  nobody listens on.
- A lookup that hangs is left behind after `TIME_LIMIT_S`, and no second one is started for that name before
  it ends.
"""

import asyncio
import logging
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from proxy.clock import Clock
from proxy.model import TcpAddress
from proxy.tasks import spawn

_log = logging.getLogger(__name__)

TIME_LIMIT_S = 5.0
"""Seconds a lookup may take before it counts as failed: one try of glibc's resolver (resolv.conf(5),
`timeout`)."""

FIRST_RETRY_S = 1.0
"""Seconds until a name without addresses is tried again, the first time."""

MAX_RETRY_S = 30.0
"""Longest pause between such tries, unless the name's own interval is shorter."""

JITTER_RATIO = 0.1
"""Intervals are spread by this share to both sides, so that names do not ask all at once for ever."""

QUICK_LOOKUPS = 48
"""Lookups at once; more wait their turn."""

SLOW_LOOKUPS = 16
"""Besides, of names whose last lookup took longer than `TIME_LIMIT_S`."""

MAX_ADDRESSES = 64
"""Addresses taken of one name; the lowest ones."""

Lookup = Callable[[str, int], Awaitable[Sequence[tuple[Any, ...]]]]
"""`(host, port)` to what `socket.getaddrinfo` returns; raises OSError (`gaierror`) or UnicodeError."""


@dataclass(frozen=True, slots=True)
class WatchedName:
    """A name to resolve."""

    host: str
    port: int
    refresh_s: float
    """Seconds between two lookups; 0 = no more once it has been resolved."""

    @property
    def key(self) -> str:
        return f"{self.host}:{self.port}"


class SystemLookup:
    """The system's resolver, in threads of its own; a `Lookup`.

    glibc takes 10 s and more to give up a name (resolv.conf(5): `timeout` times `attempts`, for each name server), and
    a loop has a handful of threads, which it needs for other things too. Names that took long the last time have
    threads apart: they hold up one another alone. The threads of lookups that hang do not hold up the program's end.
    """

    def __init__(self) -> None:
        self._quick = asyncio.Semaphore(QUICK_LOOKUPS)
        self._slow = asyncio.Semaphore(SLOW_LOOKUPS)
        self._slow_hosts: set[str] = set()

    def __repr__(self) -> str:
        return f"<SystemLookup slow={sorted(self._slow_hosts)}>"

    async def __call__(self, host: str, port: int) -> Sequence[tuple[Any, ...]]:
        """Whoever is cancelled leaves the thread behind, which counts until it has its answer."""
        room = self._slow if host in self._slow_hosts else self._quick
        await room.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[tuple[Any, ...]]] = loop.create_future()
        takes_long = loop.call_later(TIME_LIMIT_S, self._slow_hosts.add, host)

        def on_end(found: Sequence[tuple[Any, ...]], error: Exception | None) -> None:
            room.release()
            if loop.time() < takes_long.when():
                self._slow_hosts.discard(host)
            takes_long.cancel()
            if answer.cancelled():
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def ask() -> None:
            found: Sequence[tuple[Any, ...]] = ()
            failure: Exception | None = None
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(on_end, found, failure)

        try:
            threading.Thread(target=ask, name=f"lookup {host}", daemon=True).start()
        except RuntimeError as error:
            on_end((), OSError(f"no thread to ask in: {error}"))
        return await answer


class Resolver:
    """Keeps the addresses of `names` current and calls `on_change` after each change of any of them."""

    def __init__(
        self,
        names: Iterable[WatchedName],
        on_change: Callable[[], None],
        *,
        clock: Clock,
        rng: random.Random,
        lookup: Lookup,
        known: Mapping[str, tuple[TcpAddress, ...]] | None = None,
    ) -> None:
        """`known` are the last good addresses by `host:port`, of whoever watched before."""
        known = known or {}
        self._names = {name.key: _Name(name, clock, lookup, known.get(name.key, ())) for name in names}
        self._on_change = on_change
        self._clock = clock
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Resolver {dict(self.resolved)}>"

    @property
    def resolved(self) -> Mapping[str, tuple[TcpAddress, ...]]:
        """Addresses by `host:port`, sorted; names that never had any are left out."""
        return {key: name.addresses for key, name in self._names.items() if name.addresses}

    def take_over(self, known: Mapping[str, tuple[TcpAddress, ...]]) -> None:
        """`known` are the last good addresses by now, of whoever still watches. Not for names that were looked up
        here: that is as new."""
        for key, name in self._names.items():
            if not name.lookups_total:
                name.addresses = known.get(key, name.addresses)

    @property
    def lookups_total(self) -> int:
        """Lookups made, those that failed included."""
        return sum(name.lookups_total for name in self._names.values())

    @property
    def failures_total(self) -> int:
        """Lookups that failed or took too long."""
        return sum(name.failures_total for name in self._names.values())

    async def resolve_all(self) -> None:
        """Look every name up once, all at a time; takes at most `TIME_LIMIT_S`. Does not call `on_change`."""
        await self._resolve(self._names.values())

    async def resolve_missing(self) -> None:
        """The same for the names that have no address yet."""
        await self._resolve([name for name in self._names.values() if not name.addresses])

    async def _resolve(self, names: Iterable["_Name"]) -> None:
        tasks = [spawn(name.refresh(), name=f"resolve {name.spec.key}") for name in names]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def start(self) -> None:
        """Begin the periodic lookups."""
        self._tasks = [spawn(self._watch(name), name=f"watch {key}") for key, name in self._names.items()]

    async def stop(self) -> None:
        """End them. Idempotent; a lookup that hangs is not waited for."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for name in self._names.values():
            name.abandon()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, name: "_Name") -> None:
        retry_s = FIRST_RETRY_S
        longest_s = name.spec.refresh_s
        while True:
            if not name.addresses:
                wait_s = min(retry_s, MAX_RETRY_S, longest_s or MAX_RETRY_S)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
            elif not name.lookups_total:
                wait_s = self._rng.uniform(0.0, longest_s)
            elif longest_s:
                wait_s = longest_s
            else:
                return
            await self._clock.sleep(wait_s * self._rng.uniform(1 - JITTER_RATIO, 1 + JITTER_RATIO))
            if await name.refresh():
                self._on_change()


class _Name:
    """One name: its last good addresses and the lookup under way."""

    def __init__(
        self, spec: WatchedName, clock: Clock, lookup: Lookup, addresses: tuple[TcpAddress, ...]
    ) -> None:
        self.spec = spec
        self.addresses = addresses
        self.lookups_total = 0
        self.failures_total = 0
        self._clock = clock
        self._lookup = lookup
        self._failing = False
        self._running: asyncio.Task[tuple[TcpAddress, ...] | str] | None = None

    async def refresh(self) -> bool:
        """Look up once; True when the addresses changed."""
        result = await self._within_limit()
        self.lookups_total += 1
        if isinstance(result, str):
            self._on_failure(result)
            return False
        if self._failing:
            _log.warning("%s is resolved again", self.spec.host)
            self._failing = False
        if result == self.addresses:
            return False
        self.addresses = result
        _log.info("%s is %s", self.spec.key, ", ".join(map(str, result)))
        return True

    def abandon(self) -> None:
        """Give up the lookup under way, if any."""
        if self._running is not None:
            self._running.cancel()

    async def _within_limit(self) -> tuple[TcpAddress, ...] | str:
        """Addresses, or why there are none."""
        if self._running is None:
            self._running = spawn(self._ask(), name=f"lookup {self.spec.key}")
        timer = spawn(self._clock.sleep(TIME_LIMIT_S), name=f"lookup limit {self.spec.key}")
        try:
            await asyncio.wait((self._running, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        if not self._running.done():
            return f"no answer within {TIME_LIMIT_S:g} s"
        done, self._running = self._running, None
        return done.result()

    async def _ask(self) -> tuple[TcpAddress, ...] | str:
        try:
            answers = await self._lookup(self.spec.host, self.spec.port)
        except (OSError, UnicodeError) as error:
            return str(error)
        return select_addresses(answers) or "it has no address"

    def _on_failure(self, text: str) -> None:
        self.failures_total += 1
        if not self._failing:
            self._failing = True
            kept = f"{len(self.addresses)} known addresses stay" if self.addresses else "it has no endpoints"
            _log.warning("%s cannot be resolved, %s: %s", self.spec.host, kept, text)


def select_addresses(answers: Iterable[tuple[Any, ...]]) -> tuple[TcpAddress, ...]:
    """The stream addresses of one family among getaddrinfo's `answers`, each once, in numeric order.

    The order does not depend on the resolver's, which rotates from answer to answer. Addresses with a zone
    (`fe80::1%eth0`) are left out.
    """
    found: dict[int, set[TcpAddress]] = {socket.AF_INET: set(), socket.AF_INET6: set()}
    for family, _, _, _, sockaddr in answers:
        if family in found and "%" not in sockaddr[0] and not (family == socket.AF_INET6 and sockaddr[3]):
            found[family].add(TcpAddress(str(ip_address(sockaddr[0])), sockaddr[1]))
    chosen = found[socket.AF_INET] or found[socket.AF_INET6]
    ordered = sorted(chosen, key=lambda address: ip_address(address.host).packed)
    return tuple(ordered[:MAX_ADDRESSES])
