"""The endpoints of a cluster: those that the configuration lists, and those that its sources have found. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from proxy.config.addresses import NamedAddress
from proxy.config.schema import Cluster, Endpoint
from proxy.config.slots import SlotAllocator
from proxy.model import Address, UnixAddress
from proxy.snapshot import EndpointSpec

Resolved = Mapping[str, Sequence[Address]]
"""Numeric addresses by `host:port` of an endpoint."""

Found = Mapping[str, Sequence[EndpointSpec]]
"""What sources have found, by cluster, each with its `source` and without a row."""

NOTHING_FOUND: Found = {}

NO_SLOT = -1
"""Row of an endpoint that has none yet."""

SCALER = "scaler"
"""The source of the instances that the scaler starts."""

# Of the digits of a container's id; as many as `docker ps` shows.
_ID_DIGITS, _SHORT_ID_DIGITS = 64, 12


def endpoint_id(cluster: str, address: Address, instance: str = "") -> str:
    """What an endpoint is known by over snapshots: its address, or what is there when that is known: addresses of
    containers are used again within seconds.

    >>> endpoint_id("etl", TcpAddress("10.0.0.1", 80)), endpoint_id("etl", TcpAddress("10.0.0.1", 80), "process-1-77")
    ('etl/10.0.0.1:80', 'etl/process-1-77')
    """
    if len(instance) == _ID_DIGITS:
        instance = instance[:_SHORT_ID_DIGITS]
    return f"{cluster}/{instance or address}"


def called(cluster: str, spec: EndpointSpec) -> str:
    """What people may call an endpoint whatever its address is: `CLUSTER/NAME`."""
    return f"{cluster}/{spec.name}"


def source_names(cluster: Cluster) -> frozenset[str]:
    """The sources whose word counts for `cluster`."""
    names = set()
    if (discovery := cluster.discovery) is not None:
        names |= {name for name in ("docker", "dns", "file") if getattr(discovery, name) is not None}
    if (scaler := cluster.scaler) is not None:
        # Docker: what the scaler starts carries labels by which it is found.
        names |= {SCALER, "docker"} if scaler.driver == "docker" else {SCALER}
    return frozenset(names)


def endpoints_of(
    cluster: Cluster, resolved: Resolved, found: Iterable[EndpointSpec], slots: SlotAllocator
) -> tuple[EndpointSpec, ...]:
    """The endpoints of `cluster`, each with its row. One that is `found` at an address of the configuration is the
    configured one, and is left out when there is no row for it. Raises `ConfigError` when there is none for one that
    is configured."""
    specs: dict[str, EndpointSpec] = {}
    for endpoint in cluster.endpoints:
        for spec in listed_endpoints(cluster.name, endpoint, resolved):
            # Two names may lead to one address; it is one endpoint, as the first of them says.
            specs.setdefault(spec.id, spec)
    taken = {spec.address for spec in specs.values()}
    names = source_names(cluster)
    merged = merge([spec for spec in found if spec.source in names and spec.address not in taken])
    return tuple(
        replace(spec, slot=slots.slot(spec.id), server_name=_server_name(cluster, spec))
        for spec in (*specs.values(), *merged)
        if not spec.source or slots.has_room_for(spec.id)
    )


def listed_endpoints(cluster: str, endpoint: Endpoint, resolved: Resolved) -> list[EndpointSpec]:
    """One for each address of an item of a list of endpoints, without a row."""
    address = endpoint.address
    addresses = resolved.get(str(address), ()) if isinstance(address, NamedAddress) else (address,)
    return [endpoint_spec(cluster, endpoint, each) for each in addresses]


def endpoint_spec(
    cluster: str, endpoint: Endpoint, address: Address, *, instance: str = "", name: str = ""
) -> EndpointSpec:
    """An endpoint at `address` as `endpoint` describes it, without a row. `name` is for people; empty = its address as
    it was written."""
    own = endpoint.address
    return EndpointSpec(
        id=endpoint_id(cluster, address, instance),
        slot=NO_SLOT,
        address=address,
        name=name or str(own),
        weight=endpoint.weight,
        max_connections=endpoint.max_connections,
        zone=endpoint.zone,
        tags=frozenset(endpoint.tags),
        slots=endpoint.slots,
        cache_bytes=endpoint.cache,
        bandwidth_bytes_per_s=float(endpoint.bandwidth),
        server_name="" if isinstance(own, UnixAddress) else own.host,
        instance=instance,
    )


def merge(found: Iterable[EndpointSpec]) -> list[EndpointSpec]:
    """What is `found`, each endpoint once and one for each address.

    An endpoint that several sources know is as the first of them says, and leaves when any says so. Of several at one
    address, which only one can have, the older ones are gone whatever their sources still say: one that leaves gives
    way to one that does not, and one of which only the address is known to an instance.
    """
    by_id: dict[str, EndpointSpec] = {}
    for spec in found:
        known = by_id.get(spec.id)
        if known is not None:
            spec = replace(known, leaving=known.leaving or spec.leaving, veto=known.veto or spec.veto)
        by_id[spec.id] = spec
    by_address: dict[Address, EndpointSpec] = {}
    for spec in by_id.values():
        other = by_address.get(spec.address)
        if other is None or _claim(spec) > _claim(other):
            by_address[spec.address] = spec
    return list(by_address.values())


def _claim(spec: EndpointSpec) -> tuple[bool, bool]:
    return not spec.leaving, bool(spec.instance)


def _server_name(cluster: Cluster, spec: EndpointSpec) -> str:
    """What the endpoint's certificate must name; empty without TLS, or when nothing is known of it."""
    if cluster.tls is None:
        return ""
    own = "" if isinstance(spec.address, UnixAddress) else spec.address.host
    return cluster.tls.server_name or spec.server_name or own
