"""A worker's answers to control: where a request would go now, what it would meet at each endpoint, and why.

Answering changes nothing: see `policy.outlook`. Every endpoint of the cluster has its terms, also those that get no
requests now, which come last.
"""

from random import Random
from typing import Any

from proxy.cluster import Cluster
from proxy.data_routing import DataRouting
from proxy.endpoint import Endpoint
from proxy.inquiry import CANDIDATE_FIELDS, KEY_FIELDS, MAX_CANDIDATES, Inquiry, Row, row_values
from proxy.model import RequestFacts
from proxy.policy.balancer import balancer, make_picker
from proxy.policy.hashring import key_point
from proxy.policy.outlook import Outlook, Prospect, outlook, prospect_of

# Digits after the point: microseconds, and odds to the same.
DIGITS = 6


def explained(cluster: Cluster, inquiry: Inquiry, *, worker: int, now: float) -> dict[str, Any] | None:
    """The answer to `inquiry` about `cluster`, as a message of worker number `worker`; `None` when data do not count
    in the cluster."""
    data, facts = cluster.data, inquiry.facts
    if data is None:
        return None
    eligible = cluster.eligible(now=now)
    found = outlook(data.locality, eligible, facts, now=now)
    rows = [_candidate(one, "") for one in found.prospects]
    shown = {one.candidate for one in found.prospects}
    for endpoint in cluster.endpoints:
        if endpoint not in shown:
            prospect = prospect_of(data.locality, endpoint, facts, now=now)
            rows.append(_candidate(prospect, _note(endpoint, eligible, facts)))
    learning = data.locality.learning
    return {
        "explained": inquiry.number,
        "worker": worker,
        "is_trusted": learning.is_trusted,
        "error_s": round(learning.error_s, DIGITS),
        "plain_error_s": round(learning.plain_error_s, DIGITS),
        "judged": learning.judged,
        "winner": found.winner.candidate.spec.slot if found.winner is not None else -1,
        "why": found.why.value if found.why is not None else "",
        "reason": found.reason,
        "shadow": _shadow_slot(cluster, found, eligible, facts),
        "left_out": max(len(rows) - MAX_CANDIDATES, 0),
        "keys": [row_values(_key(data, name, facts), KEY_FIELDS) for name in facts.data_keys],
        "candidates": [row_values(row, CANDIDATE_FIELDS) for row in rows[:MAX_CANDIDATES]],
    }


def _shadow_slot(
    cluster: Cluster, found: Outlook[Endpoint], eligible: tuple[Endpoint, ...], facts: RequestFacts
) -> int:
    """Whom the cluster's shadow would choose; -1 = it has none, or that turns or chance decide. The first of the
    request's keys counts as its hash key."""
    kind = balancer(cluster.spec.shadow) if cluster.spec.shadow else None
    picked = None
    if kind is not None and kind.sees_data:
        picked = found.winner.candidate if found.winner is not None else None
    elif kind is not None and kind.is_foreseeable:
        # A picker of its own: the shadow's must not take a turn.
        picker = make_picker(cluster.spec.shadow, cluster.spec, cluster.endpoints, Random())
        assert picker is not None
        picked = picker.pick(eligible, RequestFacts(hash_key=next(iter(facts.data_keys), None)))
    return picked.spec.slot if picked is not None else -1


def _note(endpoint: Endpoint, eligible: tuple[Endpoint, ...], facts: RequestFacts) -> str:
    """Why `endpoint` may not have the request, as far as a worker alone knows; empty when its standing says it."""
    if endpoint in eligible:
        return f"has no tag {', '.join(sorted(facts.require - endpoint.site.tags))}"
    if endpoint.is_usable:
        return "has as many requests as it may"
    return ""


def _key(data: DataRouting, name: bytes, facts: RequestFacts) -> Row:
    point = key_point(name)
    known = data.locality.residency.find(point)
    seen = data.locality.key_as_seen(point, facts)
    return {
        "is_known": known is not None,
        "size_bytes": round(seen.size_bytes) if seen.is_given or seen.samples else None,
        "is_size_given": seen.is_given,
        "holder_count": len(known.holders) if known is not None else 0,
    }


def _candidate(prospect: Prospect[Endpoint], note: str) -> Row:
    endpoint, forecast = prospect.candidate, prospect.forecast
    site, terms = endpoint.site, forecast.terms
    pace, holdings = site.pace, site.holdings
    is_candidate = not note and endpoint.is_usable
    is_speed_known = site.is_speed_given or bool(site.transfers)
    times = {name: round(value, DIGITS) for name, value in terms._asdict().items()}
    return {
        "slot": endpoint.spec.slot,
        "is_candidate": is_candidate,
        "note": note,
        "held_keys": sum([1 << position for position in prospect.held]),
        "ring_rank": prospect.rank,
        "is_sure": prospect.is_sure and is_candidate,
        "in_flight": endpoint.in_flight,
        "score_s": round(prospect.score_s, DIGITS),
        **times,
        "success": round(forecast.success, DIGITS),
        "penalty_s": round(forecast.penalty_s, DIGITS),
        "is_overloaded": forecast.is_overloaded,
        "work_s": round(site.work_s, DIGITS),
        "slots": pace.slots,
        "hit_service_s": round(pace.service_s, DIGITS) if pace.is_known else None,
        "bandwidth_bytes_per_s": round(1.0 / site.s_per_byte) if is_speed_known else None,
        "cache_bytes": round(holdings.capacity_bytes) or None,
        "held_bytes": round(max(holdings.held_bytes, 0.0)),
        "held_count": len(holdings.kept),
    }
