"""What name servers are asked for: the addresses of a name, or the services (SRV, RFC 2782) behind one."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from proxy.config.discovery_schema import DnsDiscovery
from proxy.config.endpoints import endpoint_spec
from proxy.config.schema import Endpoint
from proxy.controlplane.polled_source import SourceFailed
from proxy.controlplane.resolver import TIME_LIMIT_S, Lookup, select_addresses
from proxy.model import TcpAddress
from proxy.snapshot import EndpointSpec

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

# Shortest time between two questions, whatever an answer says of how long it is good for.
_MIN_REFRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class Service:
    """An SRV record."""

    priority: int
    weight: int
    port: int
    target: str
    """Without the final dot; empty = there is decidedly no such service."""


ServiceLookup = Callable[[str], Awaitable[tuple[list[Service], float]]]
"""A name to its SRV records, and for how many seconds they are good. Raises `SourceFailed`."""


async def system_services(name: str, resolver: "Resolver | None" = None) -> tuple[list[Service], float]:
    """By the name servers of /etc/resolv.conf. The system's own resolver (getaddrinfo) knows nothing of SRV."""
    # Imported, in a thread, by whoever asks first: few configurations do.
    library = await asyncio.to_thread(import_module, "dns.asyncresolver")
    exceptions = import_module("dns.exception")
    try:
        asked = resolver or library.Resolver()
        answer = await asked.resolve(name, "SRV", lifetime=TIME_LIMIT_S, search=True)
    except (exceptions.DNSException, OSError) as error:
        raise SourceFailed(f"{name} cannot be resolved: {error}") from error
    found = [
        Service(each.priority, each.weight, each.port, each.target.to_text(omit_final_dot=True).strip("."))
        for each in answer
    ]
    return found, float(answer.chaining_result.minimum_ttl)


class AddressQuestion:
    """The addresses of a name, all at one port."""

    def __init__(self, cluster: str, section: DnsDiscovery, lookup: Lookup) -> None:
        assert section.port is not None
        self._cluster = cluster
        self._name = section.name
        self._port = section.port
        self._refresh_s = section.refresh
        self._lookup = lookup

    def __repr__(self) -> str:
        return f"<AddressQuestion {self._name}:{self._port}>"

    async def ask(self) -> tuple[list[EndpointSpec], float]:
        """See `polled_source.Question`."""
        addresses = await _addresses(self._lookup, self._name, self._port)
        return [_found(self._cluster, self._name, each) for each in addresses], self._refresh_s


class ServiceQuestion:
    """The targets of a name's SRV records of the best priority, each with its port and weight."""

    def __init__(
        self, cluster: str, section: DnsDiscovery, lookup: Lookup, services: ServiceLookup = system_services
    ) -> None:
        self._cluster = cluster
        self._name = section.name
        self._refresh_s = section.refresh
        self._lookup = lookup
        self._services = services

    def __repr__(self) -> str:
        return f"<ServiceQuestion {self._name}>"

    async def ask(self) -> tuple[list[EndpointSpec], float]:
        """See `polled_source.Question`. A target without an address is left out, unless none has any."""
        services, good_s = await self._services(self._name)
        best = min((each.priority for each in services), default=0)
        chosen = [each for each in services if each.priority == best and each.target]
        answers = await asyncio.gather(
            *(_addresses(self._lookup, each.target, each.port) for each in chosen), return_exceptions=True
        )
        found: list[EndpointSpec] = []
        failed: list[BaseException] = []
        for service, answer in zip(chosen, answers, strict=True):
            if isinstance(answer, BaseException):
                failed.append(answer)
                continue
            # A weight of 0 asks for next to nothing (RFC 2782), which 1 of 65535 is.
            weight = max(service.weight, 1)
            found += [replace(_found(self._cluster, service.target, each), weight=weight) for each in answer]
        if failed and not found:
            raise failed[0]
        return found, min(self._refresh_s, max(good_s, _MIN_REFRESH_S))


async def _addresses(lookup: Lookup, host: str, port: int) -> tuple[TcpAddress, ...]:
    try:
        async with asyncio.timeout(TIME_LIMIT_S):
            answers = await lookup(host, port)
    except TimeoutError as error:
        raise SourceFailed(f"{host} cannot be resolved: no answer within {TIME_LIMIT_S:g} s") from error
    except (OSError, UnicodeError) as error:
        raise SourceFailed(f"{host} cannot be resolved: {error}") from error
    addresses = select_addresses(answers)
    if not addresses:
        raise SourceFailed(f"{host} has no address")
    return addresses


def _found(cluster: str, name: str, address: TcpAddress) -> EndpointSpec:
    endpoint = Endpoint.model_validate({"address": str(address)})
    spec = endpoint_spec(cluster, endpoint, address, name=f"{name}:{address.port}")
    return replace(spec, server_name=name)
