"""The documents of `/api/v1/explain`: where a request would go, what it would meet at every endpoint, and why.

Of a cluster that goes by data a worker says that, and control adds what it knows of the endpoints' standings. Of other
clusters control says what the balancer goes by, and how loaded each endpoint is. Names stay and fields are only added.
"""

from collections.abc import Sequence

from proxy.inquiry import Row
from proxy.model import RequestFacts
from proxy.policy.hashring import HashRing, key_point
from proxy.policy.standing import IN_USE, IN_USE_IN_PANIC
from proxy.snapshot import ClusterSpec, EndpointSpec
from proxy.telemetry.readings import read_endpoints
from proxy.telemetry.standings import StandingReading, in_panic, read_standing
from proxy.telemetry.status import DaemonView, Document

_GOES_BY = {
    "round_robin": "one after the other, whatever they do",
    "weighted_round_robin": "shares by weight, interleaved",
    "least_connections": "the fewest requests in flight per weight; equals take turns",
    "least_response_time": "the least expected time to an answer × (requests in flight + 1) per weight",
    "consistent_hashing": "the first on the ring for the request's hash key that has not more than its share in flight",
    "random": "any, with odds by weight",
    "p2c": "of two drawn at random the one with fewer requests in flight per weight",
}
_BY_DATA = "the least expected time until the answer, with what moving the data costs others"
_BY_WORK = "the least expected time until the answer, what data would take left out"

# Fields of a worker's row that a candidate has as they are.
_TERMS = (
    "score_s", "wait_s", "transfer_s", "crowding_s", "eviction_s", "service_s", "success", "penalty_s", "work_s",
)  # fmt: skip


def explanation_document(
    view: DaemonView, cluster: ClusterSpec, names: Sequence[str], answer: Row
) -> Document:
    """What a worker answered about a request for the data `names`."""
    specs = {spec.slot: spec for spec in cluster.endpoints}
    readings = {
        spec.slot: read_standing(view.board, cluster, spec, now=view.now) for spec in cluster.endpoints
    }
    candidates = [
        _candidate(view, specs[row["slot"]], readings[row["slot"]], row, names)
        for row in answer["candidates"]
        if row["slot"] in specs
    ]
    winner = specs.get(answer["winner"])
    goes_by = _BY_DATA if answer["is_trusted"] else _BY_WORK
    return {
        **_head(cluster, goes_by, winner, answer["why"] or None, answer["reason"]),
        "worker": answer["worker"],
        "data_keys": [
            {
                "key": name,
                "known": row["is_known"],
                "size_bytes": row["size_bytes"],
                "size_given": row["is_size_given"],
                "holder_count": row["holder_count"],
            }
            for name, row in zip(names, answer["keys"], strict=False)
        ],
        "predictions": {
            "trusted": answer["is_trusted"],
            "error_s": answer["error_s"],
            "plain_error_s": answer["plain_error_s"],
            "judged_total": answer["judged"],
        },
        "candidates": candidates,
        "left_out_candidates": answer["left_out"],
    }


def load_document(
    view: DaemonView, cluster: ClusterSpec, names: Sequence[str], facts: RequestFacts
) -> Document:
    """What the balancer of a cluster goes by that does not look at data. The first of the request's keys counts as its
    hash key."""
    order = _ring_order(cluster, facts)
    readings = [read_standing(view.board, cluster, spec, now=view.now) for spec in cluster.endpoints]
    in_use = IN_USE_IN_PANIC if in_panic(cluster, readings) else IN_USE
    candidates = []
    for position, (spec, reading) in enumerate(zip(cluster.endpoints, readings, strict=True)):
        traffic = read_endpoints(view.board, [spec.slot])
        candidates.append(
            {
                **_endpoint(view, spec, reading, is_used=reading.standing in in_use),
                "ring_rank": order.index(position) + 1 if position in order else None,
                "in_flight": traffic.in_flight,
                "in_flight_per_weight": round(traffic.in_flight / spec.weight, 4),
            }
        )
    goes_by = _GOES_BY[cluster.balancer]
    return {
        **_head(cluster, goes_by, None, None, f"the balancer takes {goes_by}; data do not count"),
        "worker": None,
        "data_keys": [{"key": name} for name in names],
        "predictions": None,
        "candidates": candidates,
        "left_out_candidates": 0,
    }


def shadow_document(cluster: ClusterSpec, answer: Row | None) -> Document | None:
    """Whom the shadow of `cluster` would choose, as a worker answered; `None` = there is no shadow. Without a winner
    turns or chance decide, or no endpoint may have the request."""
    if not cluster.shadow or answer is None:
        return None
    names = {spec.slot: spec.id for spec in cluster.endpoints}
    return {"balancer": cluster.shadow, "winner": names.get(answer["shadow"])}


def _head(
    cluster: ClusterSpec, goes_by: str, winner: EndpointSpec | None, code: str | None, text: str
) -> Document:
    return {
        "cluster": cluster.name,
        "balancer": cluster.balancer,
        "goes_by": goes_by,
        "winner": winner.id if winner is not None else None,
        "reason": {"code": code, "text": text},
    }


def _endpoint(view: DaemonView, spec: EndpointSpec, reading: StandingReading, *, is_used: bool) -> Document:
    why = reading.why(view.reasons.get(spec.id, {}))
    if is_used and not reading.is_usable:
        why = f"used because too few are ready: {why}"
    return {
        "id": spec.id,
        "name": spec.name,
        "address": str(spec.address),
        "weight": spec.weight,
        "usable": is_used,
        "standing": reading.standing.value,
        "why": why,
    }


def _candidate(
    view: DaemonView,
    spec: EndpointSpec,
    reading: StandingReading,
    row: Row,
    names: Sequence[str],
) -> Document:
    endpoint = _endpoint(view, spec, reading, is_used=row["is_candidate"])
    if row["note"]:
        endpoint["why"] = row["note"]
    elif not row["is_candidate"] and endpoint["why"] is None:
        endpoint["why"] = "came into use just now"
    return {
        **endpoint,
        "holds": [name for position, name in enumerate(names) if row["held_keys"] >> position & 1],
        "ring_rank": row["ring_rank"] or None,
        "always_considered": row["is_sure"],
        "overloaded": row["is_overloaded"],
        "in_flight": row["in_flight"],
        **{name: row[name] for name in _TERMS},
        "learned": {
            "slots": row["slots"],
            "service_s": row["hit_service_s"],
            "bandwidth_bytes_per_s": row["bandwidth_bytes_per_s"],
            "cache_bytes": row["cache_bytes"],
            "held_bytes": row["held_bytes"],
            "held_keys": row["held_count"],
        },
    }


def _ring_order(cluster: ClusterSpec, facts: RequestFacts) -> list[int]:
    """Positions of endpoints as the request's hash key meets them on the ring; empty without either."""
    if not cluster.ring or not facts.data_keys:
        return []
    ring = HashRing(cluster.ring, [spec.weight for spec in cluster.endpoints])
    return list(dict.fromkeys(ring.owners(key_point(facts.data_keys[0]))))
