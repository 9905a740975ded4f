"""Why a request went to its endpoint, and what was expected there: for the access log, and for the client if a cluster
is configured to tell."""

from proxy.cluster import Cluster
from proxy.dataplane.delivery import Delivery
from proxy.dataplane.headers import drop_fields
from proxy.dataplane.reply_head import ReplyHead

# Why, whether the data were there, and what was expected: wait, transfer, service and eviction in seconds, odds of
# success, penalty and score in seconds; `None` = not known.
Choice = tuple[
    str | None, bool | None, float | None, float | None, float | None, float | None, float | None, float | None,
    float | None,
]  # fmt: skip
NO_CHOICE: Choice = (None,) * 9

_SUCCESS = b"success"
_TERMS = (b"wait", b"transfer", b"service", b"eviction", _SUCCESS, b"penalty", b"score")


def choice_of(delivery: Delivery, cluster: Cluster) -> Choice:
    """What the log says of the last pick."""
    lease = delivery.lease
    if lease is None:
        return NO_CHOICE
    why, placement = cluster.why(lease), lease.placement
    code = why.value if why is not None else None
    if placement is None:
        return (code, *NO_CHOICE[1:])
    terms = placement.terms
    return (
        code, placement.is_hit, terms.wait_s, terms.transfer_s, terms.service_s, terms.eviction_s, placement.success,
        placement.penalty_s, placement.score_s,
    )  # fmt: skip


def explanation_line(delivery: Delivery, cluster: Cluster, head: ReplyHead) -> bytes:
    """The line that tells a client why, beginning with CRLF, in place of one that the endpoint may have sent.

    A string with parameters (RFC 9651), times in milliseconds, success from 0 to 1:
    `"etl/10.0.0.1:9000";why=holder;data=hit;wait=0.0;…`.
    """
    name = cluster.spec.explain_header.encode()
    lowered = name.lower()
    if lowered in head.low:
        head.kept[:] = [drop_fields(piece, {lowered}) for piece in head.kept]
    endpoint = delivery.endpoint
    text = endpoint.id if endpoint is not None else ""
    quoted = text.encode("ascii", "backslashreplace").replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    why, is_hit, *expected = choice_of(delivery, cluster)
    parts = [b'\r\n%b: "%b"' % (name, quoted)]
    if why is not None:
        parts.append(b"why=" + why.encode())
    if is_hit is not None:
        parts.append(b"data=hit" if is_hit else b"data=miss")
    for term, value in zip(_TERMS, expected, strict=True):
        if value is not None:
            parts.append(
                b"%b=%.3f" % (term, value) if term == _SUCCESS else b"%b=%.1f" % (term, value * 1000.0)
            )
    return b";".join(parts)
