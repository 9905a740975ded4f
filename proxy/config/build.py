"""From a configuration and resolved names to the snapshot that workers serve from. Pure.

Resolving is somebody else's work: `unresolved_names` says what is to be resolved and `build_snapshot`
takes the answers. A name without an answer has no endpoints for now; the rest is served.
"""

from collections.abc import Iterable, Set

from proxy.config.addresses import NamedAddress
from proxy.config.balancer_schema import Hash, Sticky
from proxy.config.endpoints import NOTHING_FOUND, Found, Resolved, endpoints_of, source_names
from proxy.config.locality import data_spec, locality_params, residency_spec
from proxy.config.material import NO_MATERIAL, TlsMaterial, listener_name
from proxy.config.resilience import (
    breaker_params,
    queue_params,
    rate_limit_spec,
    retry_params,
    slow_start_params,
)
from proxy.config.route_schema import HeaderEdits as HeaderEditsConfig
from proxy.config.route_schema import Match, Rewrite, Route
from proxy.config.schema import Cluster, Config, Listener
from proxy.config.slots import Slots
from proxy.errors import ConfigError
from proxy.policy.balancer import balancer
from proxy.policy.hashring import ring_points
from proxy.policy.standing import PanicParams
from proxy.snapshot import (
    AccessLogSpec,
    Action,
    ClusterSpec,
    DownstreamTimeouts,
    EndpointSpec,
    HashSpec,
    HeaderEdits,
    Limits,
    ListenerSpec,
    MatchSpec,
    PoolParams,
    PrioritySpec,
    RedirectSpec,
    RespondSpec,
    RewriteSpec,
    RouteSpec,
    Snapshot,
    SplitSpec,
    StickySpec,
    UpstreamTimeouts,
)


def unresolved_names(config: Config) -> list[tuple[str, int]]:
    """Host names and ports of endpoints, each once, in order of the file."""
    addresses = (endpoint.address for cluster in config.clusters for endpoint in cluster.endpoints)
    names = ((each.host, each.port) for each in addresses if isinstance(each, NamedAddress))
    return list(dict.fromkeys(names))


def build_snapshot(
    config: Config,
    *,
    generation: int,
    resolved: Resolved,
    slots: Slots,
    found: Found = NOTHING_FOUND,
    awaited: Set[str] = frozenset(),
    material: TlsMaterial = NO_MATERIAL,
) -> Snapshot:
    """The snapshot of `config`, with the addresses of each `host:port` from `resolved`, what sources have `found`, and
    the certificates and keys of every listener and cluster with TLS from `material`. `awaited` are the clusters whose
    instances come and go.

    New endpoints and clusters get slots; those that vanished keep theirs until they are released. Raises `ConfigError`
    when there are no slots left for what is configured, and then none has been taken.
    """
    held = slots.endpoints.ids, slots.clusters.ids
    try:
        clusters = tuple(
            _cluster(cluster, resolved, found.get(cluster.name, ()), awaited, slots, material)
            for cluster in config.clusters
        )
    except ConfigError:
        slots.endpoints.keep(held[0])
        slots.clusters.keep(held[1])
        raise
    return Snapshot(
        generation=generation,
        listeners=tuple(
            _listener(listener, index, material) for index, listener in enumerate(config.listeners)
        ),
        clusters=clusters,
        routes=tuple(_route(route, index) for index, route in enumerate(config.routes)),
        timeouts=DownstreamTimeouts(
            header_s=config.timeouts.header,
            body_s=config.timeouts.body,
            keep_alive_s=config.timeouts.keep_alive,
            write_s=config.timeouts.write,
        ),
        limits=_limits(config),
        upgrades=frozenset(config.upgrades),
        access_log=AccessLogSpec(config.access_log.sink),
        drain_timeout_s=config.drain_timeout,
    )


def _listener(listener: Listener, index: int, material: TlsMaterial) -> ListenerSpec:
    name = listener_name(listener, index)
    return ListenerSpec(
        name=name,
        bind=listener.bind,
        trusted_proxies=listener.trusted_proxies,
        proxy_protocol=listener.proxy_protocol,
        tls=material.listeners[name] if listener.tls is not None else None,
    )


def _cluster(
    cluster: Cluster,
    resolved: Resolved,
    found: Iterable[EndpointSpec],
    awaited: Set[str],
    slots: Slots,
    material: TlsMaterial,
) -> ClusterSpec:
    endpoints = endpoints_of(cluster, resolved, found, slots.endpoints)
    timeouts, pool = cluster.timeouts, cluster.pool
    return ClusterSpec(
        name=cluster.name,
        slot=slots.clusters.slot(cluster.name),
        balancer=cluster.balancer,
        endpoints=endpoints,
        hash=_hash(cluster.hash) if cluster.hash is not None else None,
        ring=ring_points(tuple(spec.id for spec in endpoints)) if _has_ring(cluster) else b"",
        sticky=_sticky(cluster.sticky) if cluster.sticky is not None else None,
        locality=locality_params(cluster.locality),
        shadow=cluster.shadow,
        strip_data_headers=cluster.locality.strip_headers,
        explain_header=cluster.locality.explain_header,
        residency=residency_spec(cluster.locality.residency),
        timeouts=UpstreamTimeouts(
            connect_s=timeouts.connect,
            response_s=timeouts.response,
            idle_s=timeouts.idle,
            tunnel_s=timeouts.tunnel,
            total_s=timeouts.total,
        ),
        pool=PoolParams(
            max_idle=pool.max_idle,
            idle_timeout_s=pool.idle_timeout,
            max_requests=pool.max_requests,
        ),
        tls=material.clusters[cluster.name] if cluster.tls is not None else None,
        breaker=breaker_params(cluster.circuit_breaker),
        panic=PanicParams(cluster.panic_percent),
        slow_start=slow_start_params(cluster.slow_start),
        retry=retry_params(cluster.retry),
        queue=queue_params(cluster.queue),
        is_scaled=cluster.scaler is not None and not cluster.scaler.dry_run,
        is_awaited=cluster.name in awaited and bool(source_names(cluster)),
    )


def _has_ring(cluster: Cluster) -> bool:
    kinds = [balancer(name) for name in (cluster.balancer, cluster.shadow) if name]
    return any(kind.sees_key or kind.sees_data for kind in kinds)


def _hash(source: Hash) -> HashSpec:
    return HashSpec(
        header=source.header.lower(),
        query=source.query,
        cookie=source.cookie,
        path=source.path,
        client_address=source.client_address,
        max_load_percent=source.max_load_percent,
    )


def _sticky(sticky: Sticky) -> StickySpec:
    return StickySpec(
        cookie=sticky.cookie,
        secret=sticky.secret or "",
        path=sticky.path,
        max_age_s=int(sticky.max_age),
        secure=sticky.secure,
        http_only=sticky.http_only,
        same_site=sticky.same_site,
    )


def _limits(config: Config) -> Limits:
    limits = config.limits
    return Limits(
        request_line_bytes=limits.request_line_bytes,
        header_bytes=limits.header_bytes,
        header_count=limits.header_count,
        body_bytes=limits.body_bytes,
        connections=limits.connections,
        connections_per_client=limits.connections_per_client,
        requests_per_connection=limits.requests_per_connection,
        pipelined_requests=limits.pipelined_requests,
        pipelined_bytes=limits.pipelined_bytes,
        buffered_bytes=limits.buffered_bytes,
        min_rate_bytes_per_s=limits.min_rate,
        min_rate_grace_s=limits.min_rate_grace,
    )


def _route(route: Route, index: int) -> RouteSpec:
    return RouteSpec(
        name=route.name or f"route-{index + 1}",
        match=_match(route.match),
        action=_action(route),
        rewrite=_rewrite(route.rewrite),
        priority=PrioritySpec(route.priority.urgency, route.priority.from_client),
        rate_limit=rate_limit_spec(route.rate_limit) if route.rate_limit is not None else None,
        locality=data_spec(route.locality) if route.locality is not None else None,
    )


def _match(match: Match) -> MatchSpec:
    return MatchSpec(
        listener=match.listener,
        host=match.host,
        path=match.path,
        path_prefix=match.path_prefix,
        methods=frozenset(match.methods),
        headers=tuple((name.lower(), value) for name, value in match.headers.items()),
    )


def _action(route: Route) -> Action:
    if route.respond is not None:
        respond = route.respond
        return RespondSpec(
            status=respond.status, body=respond.body.encode(), headers=tuple(respond.headers.items())
        )
    if route.redirect is not None:
        to = route.redirect
        return RedirectSpec(
            status=to.status, scheme=to.scheme, host=to.host, path=to.path, path_prefix=to.path_prefix
        )
    if route.split:
        return SplitSpec(tuple((part.cluster, part.weight) for part in route.split))
    return SplitSpec(((route.cluster, 1),))


def _rewrite(rewrite: Rewrite) -> RewriteSpec:
    return RewriteSpec(
        strip_prefix=rewrite.strip_prefix,
        prefix=rewrite.prefix,
        host=rewrite.host,
        request_headers=_edits(rewrite.request_headers),
        response_headers=_edits(rewrite.response_headers),
    )


def _edits(edits: HeaderEditsConfig) -> HeaderEdits:
    return HeaderEdits(set=tuple(edits.set.items()), remove=edits.remove)
