"""Where a request would go, and why, in words: what `locality.Locality.choose` would do, asked without doing anything.

Nothing that is learned or remembered changes, and no chance is drawn: a key that nobody knows stays unknown, and an
endpoint's oldest data stay its oldest. What chance decides in `choose`, whether one of many endpoints is looked at, is
told instead. The reason is the greatest difference in seconds between the endpoint that is chosen and the one that
would be but for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic

from proxy.model import RequestFacts
from proxy.policy.hashring import key_point
from proxy.policy.locality import FEW, MOST_HOLDERS, C, Forecast, Locality

# Seconds that make no difference.
NOTHING_S = 1e-6


class Why(Enum):
    """Why a request goes to its endpoint; the value is what logs and documents say."""

    HOLDER = "holder"
    """It holds data of the request."""
    OWNER = "owner"
    """It does not, and is among the first on the hash ring for them."""
    LEAST_WORK = "least_work"
    """It is done first for another reason."""
    ONLY = "only"
    """No other may have the request."""
    STICKY = "sticky"
    """The client's cookie names it."""
    TRIAL = "trial"
    """Its circuit is open, and this request tries it."""
    RETRY = "retry"
    """Another endpoint failed the request before."""


@dataclass(frozen=True, slots=True)
class Prospect(Generic[C]):
    """What a request would meet at one endpoint."""

    candidate: C
    forecast: Forecast
    score_s: float
    """The least is chosen, of those that are not overloaded if there are any."""
    held: tuple[int, ...]
    """Which of the request's keys it is believed to hold, by their positions."""
    rank: int
    """Its place on the ring among those that are looked at for it, from 1; 0 = none."""
    is_sure: bool
    """Every such request looks at it; else chance decides."""


@dataclass(frozen=True, slots=True)
class Outlook(Generic[C]):
    """What would become of a request."""

    prospects: tuple[Prospect[C], ...]
    """The best first, of those that may have it."""
    winner: Prospect[C] | None
    """The best of those that are looked at in any case, or of all if chance decides about each."""
    why: Why | None
    reason: str
    """In words."""


def outlook(locality: Locality[C], candidates: Sequence[C], facts: RequestFacts, *, now: float) -> Outlook[C]:
    """Where a request would go that any of `candidates` may have but for tags that it requires."""
    candidates = [one for one in candidates if facts.require <= one.site.tags]
    goes_by_data = locality.learning.is_trusted and bool(facts.data_keys)
    owners = locality.owners(facts.data_keys[0], candidates) if goes_by_data else []
    found = [prospect_of(locality, one, facts, owners, len(candidates), now=now) for one in candidates]
    # Of equals the first is chosen: holders, then owners.
    found.sort(
        key=lambda one: (one.forecast.is_overloaded, one.score_s, -len(one.held), one.rank or len(found) + 1)
    )
    winner = next((one for one in found if one.is_sure), found[0] if found else None)
    why, reason = _reason(locality, found, winner, facts)
    return Outlook(tuple(found), winner, why, reason)


def prospect_of(
    locality: Locality[C],
    candidate: C,
    facts: RequestFacts,
    owners: Sequence[C] = (),
    count: int = 1,
    *,
    now: float,
) -> Prospect[C]:
    """What it would meet at `candidate`, one of `count`, of whom `owners` are first on the ring."""
    is_trusted = locality.learning.is_trusted
    known = [locality.residency.find(key_point(name)) for name in facts.data_keys]
    kept = candidate.site.holdings.kept
    held = {position: key for position, key in enumerate(known) if key is not None and key in kept}
    rank = owners.index(candidate) + 1 if candidate in owners else 0
    if is_trusted and facts.data_keys:
        is_sure = bool(rank) or any(len(key.holders) <= MOST_HOLDERS for key in held.values()) or count == 1
    else:
        is_sure = count <= FEW
    forecast = locality.forecast(candidate, facts, now=now)
    return Prospect(candidate, forecast, forecast.score_s(is_trusted), tuple(held), rank, is_sure)


def span(seconds: float) -> str:
    """Two digits of a time: `1.2 s`, `0.21 s`, `35 ms`, `0.4 ms`."""
    seconds = abs(seconds)
    if seconds >= 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds:.2g} s" if seconds >= 0.0995 else f"{seconds * 1000:.2g} ms"


# ---------------------------------------------------------------------- words


def _reason(
    locality: Locality[C], found: Sequence[Prospect[C]], winner: Prospect[C] | None, facts: RequestFacts
) -> tuple[Why | None, str]:
    if winner is None:
        return None, "no endpoint may have the request"
    others = [one for one in found if one is not winner]
    if not others:
        return Why.ONLY, "no other endpoint may have the request"
    learning, best = locality.learning, others[0]
    if not facts.data_keys:
        why, text = Why.LEAST_WORK, f"the request names no data; {_against(winner, best, _NEXT, _PLAIN)}"
    elif not learning.is_trusted:
        errors = f"error {span(learning.error_s)} against {span(learning.plain_error_s)} without data"
        plain = _against(winner, best, _NEXT, _PLAIN)
        why, text = Why.LEAST_WORK, f"predictions are left out: {errors}; {plain}"
    elif winner.held:
        why, text = Why.HOLDER, _of_holder(winner, best, len(facts.data_keys))
    elif holders := [one for one in others if one.held]:
        why = Why.OWNER if winner.rank else Why.LEAST_WORK
        moving = f"moving the data takes {span(winner.forecast.terms.transfer_s)}"
        text = f"{_against(winner, holders[0], 'its holder')}, {moving}"
    else:
        known = [locality.residency.find(key_point(name)) for name in facts.data_keys]
        is_held = any([key is not None and key.holders for key in known])
        why, text = _of_nobody(winner, others, is_held)
    return why, text + _by_chance(found, winner)


def _by_chance(found: Sequence[Prospect[C]], winner: Prospect[C]) -> str:
    better = len([one for one in found if _is_better(one, winner)])
    if better:
        others = "1 other" if better == 1 else f"{better} others"
        return f"; {others} would do better, and chance decides whether a request looks there"
    return "" if winner.is_sure else "; chance decides whether a request looks there"


def _is_better(one: Prospect[C], winner: Prospect[C]) -> bool:
    if one.forecast.is_overloaded is not winner.forecast.is_overloaded:
        return winner.forecast.is_overloaded
    return one.score_s < winner.score_s - NOTHING_S


def _of_holder(winner: Prospect[C], other: Prospect[C], keys: int) -> str:
    what = "holds the data" if len(winner.held) == keys else f"holds {len(winner.held)} of {keys} of the data"
    return f"{what}; {_against(winner, other, _NEXT)}"


def _of_nobody(winner: Prospect[C], others: Sequence[Prospect[C]], is_held: bool) -> tuple[Why, str]:
    nobody = "who holds it may not have the request" if is_held else "nobody holds it"
    if winner.rank == 1:
        return Why.OWNER, f"{nobody}; first owner on the ring"
    first = next((one for one in others if one.rank == 1), None)
    if winner.rank:
        text = _against(winner, others[0], _NEXT) if first is None else _against(winner, first, "the first")
        return Why.OWNER, f"{nobody}; second owner on the ring, {text}"
    who = _NEXT if first is None else "the first owner on the ring"
    return Why.LEAST_WORK, f"{nobody}; {_against(winner, first or others[0], who)}"


_NEXT = "the next best"

# What a score is made of, in seconds.
_PLAIN: dict[str, Callable[[Forecast], float]] = {
    "wait": lambda forecast: forecast.terms.wait_s,
    "service": lambda forecast: forecast.terms.service_s,
    "failures": lambda forecast: forecast.failures_s,
    "distance": lambda forecast: forecast.distance_s,
}
_ALL: dict[str, Callable[[Forecast], float]] = {
    **_PLAIN,
    "transfer": lambda forecast: forecast.terms.transfer_s,
    "crowding": lambda forecast: forecast.terms.crowding_s,
    "eviction": lambda forecast: forecast.terms.eviction_s,
}


def _against(
    winner: Prospect[C],
    other: Prospect[C],
    who: str,
    parts: dict[str, Callable[[Forecast], float]] = _ALL,
) -> str:
    """What speaks most against `other`, who is called `who`."""
    if other.forecast.is_overloaded and not winner.forecast.is_overloaded:
        return f"{who} has far more than its share in flight"
    leads = {name: part(other.forecast) - part(winner.forecast) for name, part in parts.items()}
    name = max(leads, key=lambda one: leads[one])
    if leads[name] <= NOTHING_S:
        return f"{who} is as good"
    ours, theirs = parts[name](winner.forecast), span(parts[name](other.forecast))
    more = span(leads[name])
    match name:
        case "wait":
            against = f" against {span(ours)}" if ours > NOTHING_S else ""
            return f"{who} has {theirs} of work waiting{against}"
        case "transfer":
            return f"{who} would take {more}{' longer' if ours > NOTHING_S else ''} to fetch it"
        case "crowding":
            return f"others would wait {more} while {who} fetches it"
        case "eviction":
            return f"{who} would drop data that take {more} to fetch again"
        case "service":
            return f"{who} takes {more} longer for the work"
        case "failures":
            return f"{who} has failed lately, which counts {more}"
    return f"{who} is {more} farther away"
