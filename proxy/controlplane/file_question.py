"""A file with a list of endpoints, read again when it changes."""

import asyncio
import random
from math import inf

from proxy.clock import Clock
from proxy.config.addresses import NamedAddress
from proxy.config.discovery_schema import FileDiscovery
from proxy.config.endpoint_file import parse_endpoints
from proxy.config.endpoints import listed_endpoints
from proxy.config.faults import InvalidConfig
from proxy.config.load import read_file
from proxy.config.schema import Endpoint
from proxy.controlplane.polled_source import SourceFailed
from proxy.controlplane.resolver import Lookup, Resolver, WatchedName
from proxy.snapshot import EndpointSpec

# Seconds until names are looked up again of which one has no address yet.
_RETRY_S = 5.0


class FileQuestion:
    """What is in the file now. Names in it are looked up again every `dns_refresh_s` (0 = not again), and keep their
    last addresses when they cannot be."""

    def __init__(
        self,
        cluster: str,
        section: FileDiscovery,
        dns_refresh_s: float,
        lookup: Lookup,
        *,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._cluster = cluster
        self._path = section.path
        self._refresh_s = section.refresh
        self._dns_refresh_s = dns_refresh_s or inf
        self._lookup = lookup
        self._clock = clock
        self._rng = rng
        self._content: bytes | None = None
        self._endpoints: tuple[Endpoint, ...] = ()
        self._names = self._resolver()
        self._resolve_at = inf

    def __repr__(self) -> str:
        return f"<FileQuestion {self._path}>"

    async def ask(self) -> tuple[list[EndpointSpec], float]:
        """See `polled_source.Question`. A file with any fault says nothing; the first of them is told, with its place
        in the file."""
        try:
            content = await asyncio.to_thread(read_file, self._path)
            if content != self._content:
                self._endpoints = await asyncio.to_thread(parse_endpoints, content, str(self._path))
                self._content = content
                self._names = self._resolver()
                self._resolve_at = 0.0
        except InvalidConfig as error:
            more = len(error.faults) - 1
            raise SourceFailed(f"{error.faults[0]}" + (f" (and {more} more)" if more else "")) from error
        if self._clock.monotonic() >= self._resolve_at:
            await self._names.resolve_all()
            is_complete = len(self._names.resolved) == len(self._named())
            pause_s = self._dns_refresh_s if is_complete else min(_RETRY_S, self._dns_refresh_s)
            self._resolve_at = self._clock.monotonic() + pause_s
        resolved = self._names.resolved
        found = [listed_endpoints(self._cluster, each, resolved) for each in self._endpoints]
        return [spec for specs in found for spec in specs], self._refresh_s

    def _named(self) -> set[NamedAddress]:
        return {each.address for each in self._endpoints if isinstance(each.address, NamedAddress)}

    def _resolver(self) -> Resolver:
        """For the names in the file; those that it had before keep their addresses."""
        names = [WatchedName(each.host, each.port, 0.0) for each in self._named()]
        known = self._names.resolved if self._content is not None else {}
        return Resolver(names, _nothing, clock=self._clock, rng=self._rng, lookup=self._lookup, known=known)


def _nothing() -> None:
    """Names are looked at whenever the file is."""
