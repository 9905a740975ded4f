"""What a balancer is told of a request, and the cookie that is Homeport's own."""

from proxy.cluster import Cluster
from proxy.dataplane.forwarding import ClientIdentity
from proxy.dataplane.request_head import RequestHead
from proxy.endpoint import Lease
from proxy.model import RequestFacts
from proxy.policy.stickiness import cookie_value, without_cookie


def acquire_for(
    cluster: Cluster, head: RequestHead, identity: ClientIdentity, *, now: float
) -> tuple[Lease, bytes]:
    """An endpoint for the request, in a cluster that looks at requests, and the lines that the answer gets for it, each
    beginning with CRLF. The cluster's own cookie is taken out of `head`. Raises `RoutingError`."""
    stickiness, hash_key = cluster.stickiness, cluster.hash_key
    facts = RequestFacts(
        hash_key=hash_key.of(head, lambda: identity.client(head)) if hash_key is not None else None,
        affinity=take_cookie(head, stickiness.name) if stickiness is not None else None,
    )
    lease = cluster.acquire(facts, now=now)
    if stickiness is None:
        return lease, b""
    return lease, stickiness.set_line(lease.endpoint, facts.affinity, is_https=identity.is_https(head))


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
