"""What a request is: its route, whether its client may send it now, what a balancer is told of it, and the cookie that
is Homeport's own."""

from math import ceil
from typing import TYPE_CHECKING

from proxy.cluster import Cluster
from proxy.dataplane.body_wait import read_document
from proxy.dataplane.request_head import RequestHead
from proxy.errors import Reason, RoutingError
from proxy.model import RequestFacts
from proxy.policy.data_key import NO_DOCUMENT
from proxy.policy.ignored import Ignored
from proxy.policy.path import routing_path
from proxy.policy.route import CompiledRoute, RouteTable
from proxy.policy.stickiness import cookie_value, without_cookie
from proxy.snapshot import RateLimitSpec

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.exchange import Exchange


def find_route(routes: RouteTable, head: RequestHead, downstream: "Downstream") -> CompiledRoute:
    """The route for a request that came by `downstream`. Raises `RoutingError`."""
    listener = downstream.listener.name
    host = downstream.identity.host_key(head.host)
    path = routing_path(head.path)
    route = routes.match(listener, host, path, head.method, head.field)
    if route is None:
        miss = routes.miss(listener, host, path, head.field)
        raise RoutingError(miss.reason, miss.allow)
    return route


def check_rate(limit: RateLimitSpec, exchange: "Exchange") -> None:
    """Count the request against what its client may send by its route. Raises `RoutingError`."""
    head, route = exchange.head, exchange.route
    assert route is not None
    client = head.field(limit.field) if limit.field else None
    if client is None:
        client = b"\0" + exchange.downstream.identity.client(head).encode()
    key = b"%b\0%b" % (route.name.encode(), client)
    wait_s = exchange.plane.rates.take(key, limit.params, now=exchange.started)
    if wait_s:
        raise RoutingError(Reason.RATE_LIMITED, retry_after_s=ceil(wait_s))


def facts_of(exchange: "Exchange", cluster: Cluster, route: CompiledRoute, body: bytes) -> RequestFacts:
    """What a cluster that looks at requests goes by; `body` is what is here of the body. The cluster's own cookie is
    taken out of the head."""
    head, identity = exchange.head, exchange.downstream.identity
    stickiness = cluster.stickiness
    affinity = take_cookie(head, stickiness.name) if stickiness is not None else None
    hash_key = None
    if cluster.hash_key is not None:
        hash_key = cluster.hash_key.of(head, lambda: identity.client(head))
    if not cluster.sees_data or route.data is None:
        return RequestFacts(hash_key=hash_key, affinity=affinity)
    document: object = NO_DOCUMENT
    size = 0
    if head.has_body and route.data.max_body_bytes:
        if exchange.is_receiving:
            cluster.on_ignored(Ignored.BODY_TOO_LARGE)
        else:
            document, size = read_document(head, body, cluster)
    return route.data.facts(
        head,
        cluster.on_ignored,
        body=document,
        body_bytes=size,
        call=exchange.plane.functions.call,
        hash_key=hash_key,
        affinity=affinity,
    )


def take_cookie(head: RequestHead, name: bytes) -> bytes | None:
    """The value of the cookie `name`, the first of several, all of which are left out of what goes to the endpoint;
    `None` when there is none."""
    if name not in head.raw:
        return None
    found: list[bytes] = []
    head.kept[:] = [_without(piece, name, found) for piece in head.kept]
    return found[0] if found else None


def _without(piece: bytes, name: bytes, found: list[bytes]) -> bytes:
    """`piece`, lines that each begin with CRLF, without the cookie `name`, whose values are added to `found`; without
    the whole line when there was no other cookie."""
    if name not in piece:
        return piece
    lines = []
    for line in piece.split(b"\r\n"):
        field, _, cookies = line.partition(b":")
        if field.lower() == b"cookie" and name in cookies:
            value = cookie_value(cookies, name)
            if value is not None:
                found.append(value)
            cookies = without_cookie(cookies, name)
            if not cookies:
                continue
            line = field + b": " + cookies
        lines.append(line)
    return b"\r\n".join(lines)
