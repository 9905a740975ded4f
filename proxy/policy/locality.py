"""Which endpoint will be done first with a request, its data included: expected completion time, in seconds.

    E[T | r → e] = wait(e) + Σ bytes(k) / bandwidth(→ e) over the keys k of r that e does not hold + service(r, e)
    score        = (E[T] + crowding + eviction) / success(e) + penalty(e)

The form is Dask's `worker_objective` with Mooncake's split into wait, transfer and work, and failures as in Linkerd;
thresholds and weighted points, which others began with, all had to be turned into time in the end. `pace` foretells
waits and service times, `residency` who holds what, `learning` corrects them. The rules that others learned by failing:

- Candidates are holders of the keys, the first two owners on the hash ring, and two others at random. With holders
  alone everything piles up on them (Dask); with no preference among the others a key that nobody holds has no home, and
  is copied wherever somebody is idle.
- The cost is charged at the decision and released at the end, so the next decision sees it.
- Data on their way count as held, with the rest of the way as transfer.
- A second copy is not free. Into a full cache it drives out about as many bytes, which somebody fetches again: that
  counts `EVICTION` transfers. Without it the hit ratio fell by up to 0.12.
- Nor is a transfer where others wait: it takes up a slot, and all of them wait for it. With `n` requests before it at
  `m` slots it counts 1 + (n - m + 1) / m times. Without that, when all endpoints have more than they can do, each
  request alone is done sooner by moving its data once more, and all together are never done: at 1.4 times the rate that
  hashing can bear the simulation's p99 is 1.9 s with it and 4.5 s without.
- What is unknown is not free: what nobody has measured counts as what is typical.
- An endpoint far above the mean load gets no more while its slots are full, whatever the estimates say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from proxy.model import RequestFacts
from proxy.policy.hashring import HashRing, key_point
from proxy.policy.learning import Learning
from proxy.policy.locality_params import LocalityParams as LocalityParams
from proxy.policy.pace import wait_s
from proxy.policy.residency import DataKey, Holdings, Residency
from proxy.policy.site import Located, Placement, Site, Terms

# Transfers that an eviction costs, besides the one that causes it. Between 1 and 4 the simulation shows no difference.
EVICTION = 2.0
# Candidates: holders of a key at most, owners on the ring, others at random.
MOST_HOLDERS = 6
OWNERS = 2
OTHERS = 2
# Owners of a key that are remembered, because the first may be away.
OWNERS_KEPT = 4
# Candidates for a request whose data do not count: all of a few, else as many at random.
FEW = 8
# A failure counts as so many seconds (Linkerd's penalty).
FAILURE_S = 5.0
# Requests in flight beyond which an endpoint whose slots are full gets no more, in per cent of the mean. Generous: the
# holder of what is popular is to be ahead of the others.
MAX_LOAD_PERCENT = 200
# Sets of required tags whose endpoints are remembered: clients may name them.
MOST_VIEWS = 64
# Keys that are remembered at least: all of one request (`data_key.MAX_KEYS`), or some would be forgotten before it is
# sent, and stay with its endpoint for ever.
LEAST_KEYS = 16


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a request would meet at an endpoint; times in seconds."""

    terms: Terms
    success: float
    """Odds, 0–1."""
    penalty_s: float
    """Distance of its zone, tags that it lacks, recent failures."""
    is_overloaded: bool
    """It is far above the mean load, and gets no more."""

    @property
    def failures_s(self) -> float:
        """What recent failures add to the score."""
        seconds = sum(self.terms)
        return seconds / self.success - seconds + (1.0 - self.success) * FAILURE_S

    @property
    def distance_s(self) -> float:
        """What its zone and the tags that it lacks add."""
        return self.penalty_s - (1.0 - self.success) * FAILURE_S

    def score_s(self, is_trusted: bool = True) -> float:
        """What is compared: the least is chosen, of those that are not overloaded if there are any. Without trust in
        what is foretold of data they do not count."""
        wait, transfer, crowding, eviction, service = self.terms
        seconds = wait + service + (transfer + crowding + eviction if is_trusted else 0.0)
        return seconds / self.success + self.penalty_s


C = TypeVar("C", bound=Located)
Pick = tuple[C, float, float, float, float, bool]
"""A candidate, its score, the seconds of its wait, transfer and service, and whether it is overloaded."""


class Locality(Generic[C]):
    """The choice for one cluster."""

    __slots__ = (
        "_candidates", "_fitting", "_is_only", "_last", "_least_s_per_byte", "_least_service_s", "_members", "_most",
        "_present", "_required", "_ring", "_ring_number", "_rng", "_sizes", "_views", "learning", "params", "residency",
    )  # fmt: skip

    def __init__(self, params: LocalityParams, rng: Random) -> None:
        self.residency = Residency(params.max_keys)
        self.learning = Learning(self.residency)
        self._rng = rng
        self._members: Sequence[C] = ()
        self._ring: HashRing | None = None
        self._ring_number = 0
        self._sizes: dict[int, float] = {}
        self._candidates: Sequence[C] | None = None
        self._required: frozenset[str] | None = None
        self._views: dict[frozenset[str], tuple[Sequence[C], dict[Holdings, C]]] = {}
        """Of the candidates, by the tags that are required: who has them, and the same by what they hold."""
        self._fitting: Sequence[C] = ()
        self._present: dict[Holdings, C] = {}
        self._is_only = False
        """There was but one to choose."""
        self._most = 0.0
        self._least_service_s = self._least_s_per_byte = 0.0
        """Of any of them, as of late."""
        self._last: tuple[RequestFacts, Sequence[DataKey], Pick[C]] | None = None
        self.update(params, (), None)

    def __repr__(self) -> str:
        return f"Locality({self.residency}, {self.learning})"

    def update(self, params: LocalityParams, members: Sequence[C], ring: HashRing | None) -> None:
        """Go on with this configuration and these members, which `ring` was made from in that order."""
        self.params = params
        self._update_sizes({key_point(name): float(size) for name, size in params.sizes})
        self.residency.limit(max(params.max_keys, LEAST_KEYS))
        stay = {member.site for member in members}
        for member in self._members:
            if member.site not in stay:
                member.site.holdings.forget()
        self._members = members
        if ring is not self._ring:
            self._ring = ring
            self._ring_number += 1
        self._candidates = None
        self._last = None
        self.learning.sites = [member.site for member in members]

    def _update_sizes(self, sizes: dict[int, float]) -> None:
        """Use this table: what it says now is taken in when somebody asks for the key."""
        before, self._sizes = self._sizes, sizes
        for point, size in before.items():
            if sizes.get(point) != size and (key := self.residency.find(point)) is not None:
                key.is_given = False

    def refresh(self, candidates: Sequence[C]) -> None:
        """Look at the loads again; called every few milliseconds."""
        percent = self.params.max_load_percent or MAX_LOAD_PERCENT
        mean = sum([candidate.in_flight for candidate in candidates]) / max(len(candidates), 1)
        self._most = percent / 100.0 * mean + 1.0
        sites = [candidate.site for candidate in candidates]
        self._least_service_s = min([site.pace.service_s + site.distance_s for site in sites], default=0.0)
        self._least_s_per_byte = min([site.s_per_byte for site in sites], default=0.0)

    # ------------------------------------------------------------------ the choice

    def choose(self, candidates: Sequence[C], facts: RequestFacts, *, now: float) -> C | None:
        """The one of `candidates` that will be done first; `None` when none may have the request.

        Of a tuple that is the same as last time, as a caller passes while nothing changes, what was worked out is kept.
        """
        keys = self.keys(facts)
        is_trusted = self.learning.is_trusted
        if facts.require or (is_trusted and keys):
            if candidates is not self._candidates or facts.require is not self._required:
                self._meet(candidates, facts.require)
            candidates = self._fitting
        self._is_only = len(candidates) == 1
        if is_trusted and keys and len(candidates) > 1:
            holders = self._holders(keys)
            pick = self._best(holders, keys, facts, now, None)
            # A holder that is free mostly is better than any that holds nothing can be.
            if pick is None or pick[5] or pick[1] > self._least_elsewhere_s(keys, facts.work_class):
                pick = self._best(self._others(candidates, keys, holders), keys, facts, now, pick)
        else:
            pick = self._best(self._few(candidates), keys if is_trusted else (), facts, now, None)
        if pick is None:
            return None
        self._last = (facts, keys, pick) if is_trusted or not keys else None
        return pick[0]

    def _best(
        self,
        candidates: Sequence[C],
        keys: Sequence[DataKey],
        facts: RequestFacts,
        now: float,
        pick: Pick[C] | None,
    ) -> Pick[C] | None:
        """That of `candidates`, or `pick`. `terms` and `Forecast.score_s` in one, without what only an explanation
        needs: 0.8 µs instead of 1.7 for each."""
        typical_bytes, most, work_class = self.learning.typical_bytes, self._most, facts.work_class
        for candidate in candidates:
            site = candidate.site
            pace, holdings = site.pace, site.holdings
            in_flight, slots = candidate.in_flight, pace.slots
            score = service = site.service_s(work_class) if work_class else pace.service_s
            wait = transfer = 0.0
            if in_flight >= slots:
                wait = wait_s(in_flight, site.work_s, slots)
                score += wait
            for key in keys:
                there_at = holdings.kept.get(key)
                if there_at is None:
                    size = key.size_bytes or typical_bytes
                    transfer += size * site.s_per_byte
                    if 0.0 < holdings.capacity_bytes < holdings.held_bytes + size:
                        score += EVICTION * size * site.s_per_byte
                elif there_at > now + wait:
                    transfer += there_at - now - wait
            if transfer:
                score += transfer
                if in_flight >= slots:
                    score += transfer * (in_flight - slots + 1) / slots
            if site.is_failing:
                success = site.success(now)
                score = score / success + (1.0 - success) * FAILURE_S
            score += site.distance_s
            if facts.prefer:
                score += _distance_s(facts, site)
            is_overloaded = in_flight > most + slots
            # Whatever the seconds say: they may be made of sizes that are lies.
            if pick is None or (score < pick[1] if is_overloaded is pick[5] else pick[5]):
                pick = (candidate, score, wait, transfer, service, is_overloaded)
        return pick

    def forecast(self, candidate: C, facts: RequestFacts, *, now: float) -> Forecast:
        """What the request would meet there: what `choose` compares, in parts. Changes nothing; a key that nobody knows
        stays unknown."""
        site = candidate.site
        success = site.success(now)
        return Forecast(
            self._terms(candidate, self._seen(facts, site.holdings), facts.work_class, now),
            success,
            _penalty_s(facts, site, success),
            candidate.in_flight > self._most + site.pace.slots,
        )

    def _seen(self, facts: RequestFacts, holdings: Holdings) -> list[DataKey]:
        """The keys of a request as `keys` would leave them, for whoever has `holdings`; of what it does not hold only
        the size counts, so that a copy can have it."""
        seen = []
        for name in facts.data_keys:
            point = key_point(name)
            known = self.residency.find(point)
            if known is None or known not in holdings.kept:
                known = self.key_as_seen(point, facts)
            seen.append(known)
        return seen

    def key_as_seen(self, point: int, facts: RequestFacts) -> DataKey:
        """What would be known of a key after a request with `facts`: a copy that nobody holds."""
        known = self.residency.find(point)
        key = DataKey(point)
        key.samples = known.samples if known is not None else 0
        key.size_bytes = known.size_bytes if known is not None else 0.0
        key.is_given = known is not None and known.is_given
        if not key.is_given and point in self._sizes:
            key.size_bytes, key.is_given = self._sizes[point], True
        if facts.size_bytes:
            key.size_bytes, key.is_given = self._told(key, facts.size_bytes, len(facts.data_keys))
        return key

    def keys(self, facts: RequestFacts) -> Sequence[DataKey]:
        """The keys of a request; what it says of their sizes is taken in."""
        keys = [self.residency.named(name) for name in facts.data_keys]
        if self._sizes:
            for key in keys:
                if not key.is_given and key.point in self._sizes:
                    self.give_size(key, self._sizes[key.point])
        if facts.size_bytes:
            for key in keys:
                self.hear_size(key, facts.size_bytes, len(keys))
        return keys

    def hear_size(self, key: DataKey, size_bytes: float, count: int = 1) -> None:
        """A request or an endpoint says that `count` keys, of which `key` is one, have `size_bytes` > 0 together: that
        is taken in as far as it can be believed."""
        size, key.is_given = self._told(key, size_bytes, count)
        if size != key.size_bytes:
            self.residency.resize(key, size)

    def _told(self, key: DataKey, size_bytes: float, count: int) -> tuple[float, bool]:
        """Size of `key`, and whether it is a given one, once somebody has said that `count` keys have `size_bytes`
        together: nobody says whose is how much."""
        if count > 1 and key.is_given:
            return key.size_bytes, True
        said = size_bytes / count
        believed = self.learning.believed_bytes(key, said)
        return believed, believed == said or (key.is_given and believed == key.size_bytes)

    def give_size(self, key: DataKey, size_bytes: float) -> None:
        """The configuration says that `key` has so many bytes, > 0."""
        key.is_given = True
        self.residency.resize(key, size_bytes)

    def _terms(self, candidate: C, keys: Sequence[DataKey], work_class: bytes, now: float) -> Terms:
        site = candidate.site
        pace, kept = site.pace, site.holdings.kept
        in_flight, slots = candidate.in_flight, site.pace.slots
        wait = 0.0 if in_flight < slots else wait_s(in_flight, site.work_s, slots)
        transfer = crowding = eviction = 0.0
        for key in keys:
            there_at = kept.get(key)
            if there_at is None:
                size = key.size_bytes or self.learning.typical_bytes
                seconds = size * site.s_per_byte
                transfer += seconds
                if site.holdings.would_evict(size):
                    eviction += EVICTION * seconds
            elif there_at > now + wait:
                transfer += there_at - now - wait
        if transfer and in_flight >= slots:
            crowding = transfer * (in_flight - slots + 1) / slots
        service = site.service_s(work_class) if work_class else pace.service_s
        return Terms(wait, transfer, crowding, eviction, service)

    def _few(self, candidates: Sequence[C]) -> Sequence[C]:
        """Those that are looked at when data do not count."""
        count, draw = len(candidates), self._rng.random
        if count > FEW:
            return [candidates[int(draw() * count)] for _ in range(FEW)]
        # The first of equals is chosen, and it should not always be the same.
        start = int(draw() * count)
        return [*candidates[start:], *candidates[:start]]

    def _holders(self, keys: Sequence[DataKey]) -> Sequence[C]:
        """Those that are looked at first for these keys; of equals the first is chosen."""
        present = self._present
        chosen: list[C] = []
        for key in keys:
            holders = key.holders
            if len(holders) > MOST_HOLDERS:
                start = int(self._rng.random() * len(holders))
                holders = (holders + holders)[start : start + MOST_HOLDERS]
            for holdings in holders:
                holder = present.get(holdings)
                if holder is not None and (len(keys) == 1 or holder not in chosen):
                    chosen.append(holder)
        return chosen

    def _least_elsewhere_s(self, keys: Sequence[DataKey], work_class: bytes) -> float:
        """No candidate that was not among the first has a lower score."""
        seconds = 0.0 if work_class else self._least_service_s
        for key in keys:
            if len(key.holders) > MOST_HOLDERS:
                return seconds
        typical_bytes, s_per_byte = self.learning.typical_bytes, self._least_s_per_byte
        for key in keys:
            seconds += (key.size_bytes or typical_bytes) * s_per_byte
        return seconds

    def _others(self, candidates: Sequence[C], keys: Sequence[DataKey], holders: Sequence[C]) -> Sequence[C]:
        """Those that are looked at besides the holders."""
        present, draw, count = self._present, self._rng.random, len(candidates)
        chosen: list[C] = []
        wanted = OWNERS
        first = keys[0]
        for position in first.owners if first.ring_number == self._ring_number else self._owners(first):
            owner = self._members[position]
            if owner.site.holdings in present:
                if owner not in holders:
                    chosen.append(owner)
                wanted -= 1
                if not wanted:
                    break
        for _ in range(OTHERS):
            other = candidates[int(draw() * count)]
            if other not in holders and other not in chosen:
                chosen.append(other)
        return chosen

    def _owners(self, key: DataKey) -> tuple[int, ...]:
        """The first on the ring, remembered as long as it is the same."""
        key.ring_number = self._ring_number
        key.owners = self._first_on_ring(key.point)
        return key.owners

    def _first_on_ring(self, point: int) -> tuple[int, ...]:
        found: dict[int, None] = {}
        for position in self._ring.owners(point) if self._ring is not None else ():
            found[position] = None
            if len(found) == OWNERS_KEPT:
                break
        return tuple(found)

    def is_owner(self, candidate: C, key: DataKey) -> bool:
        """Whether it was among the first on the ring for `key` when that was last chosen for."""
        if key.ring_number != self._ring_number:
            return False
        owners = [self._members[position] for position in key.owners]
        return candidate in [one for one in owners if one.site.holdings in self._present][:OWNERS]

    def owners(self, name: bytes, candidates: Sequence[C]) -> list[C]:
        """The first of `candidates` on the ring for the key `name`: those that a request for it looks at."""
        owners = [self._members[position] for position in self._first_on_ring(key_point(name))]
        return [owner for owner in owners if owner in candidates][:OWNERS]

    def _meet(self, candidates: Sequence[C], require: frozenset[str]) -> None:
        """Remember who is there, and has these tags."""
        if candidates is not self._candidates:
            self._candidates = candidates if isinstance(candidates, tuple) else None
            self._views = {}
        view = self._views.get(require)
        if view is None:
            fitting = (
                tuple([one for one in candidates if require <= one.site.tags]) if require else candidates
            )
            if len(self._views) >= MOST_VIEWS:
                self._views = {}
            view = self._views[require] = fitting, {one.site.holdings: one for one in fitting}
        self._fitting, self._present = view
        self._required = require

    # ------------------------------------------------------------------ what becomes of it

    def place(self, candidate: C, facts: RequestFacts, *, now: float) -> Placement:
        """The request goes there, by our choice or another's: charge it, and expect its data to be there from now on.
        Called before it counts in `in_flight`, and to be followed by one `on_end`."""
        last = self._last
        if last is not None and last[0] is facts and last[2][0] is candidate:
            _, keys, (_, _, wait, transfer, service, _) = last
            # What others lose by a transfer was added up for the choice alone.
            terms = (
                self._terms(candidate, keys, facts.work_class, now)
                if transfer
                else Terms(wait, 0.0, 0.0, 0.0, service)
            )
        else:
            keys = self.keys(facts)
            terms = self._terms(candidate, keys, facts.work_class, now)
        self._last = None
        site = candidate.site
        placement = Placement(site, candidate.in_flight, keys, facts.work_class, terms)
        placement.is_only, self._is_only = self._is_only, False
        if site.is_failing:
            placement.success = site.success(now)
        if facts.prefer or site.is_failing or site.distance_s:
            placement.penalty_s = _penalty_s(facts, site, placement.success)
        holdings = site.holdings
        there_at = now + terms.wait_s + terms.transfer_s
        for key in keys:
            known = holdings.kept.get(key)
            if known is None:
                placement.missing.append(key)
                placement.had_left |= holdings.has_left(key)
                if not key.size_bytes:
                    self.residency.resize(key, self.learning.typical_bytes)
            elif known:
                placement.is_joining = True
            holdings.touch(key, there_at)
        site.on_sent(placement, now=now)
        return placement

    def on_answer(self, placement: Placement, took_s: float, is_hit: bool | None, *, now: float) -> bool:
        """The endpoint answered well `took_s` after the request was sent; see `Learning.on_answer`."""
        placement.is_answered = True
        placement.site.on_outcome(False, now=now)
        return self.learning.on_answer(placement, took_s, is_hit, now=now)

    def on_end(self, placement: Placement, is_failed: bool, *, now: float) -> Sequence[DataKey]:
        """The exchange is over. Without a good answer nobody knows what the endpoint holds of what it did not; returns
        the keys that it is not believed to hold any more."""
        site = placement.site
        site.on_ended(placement, now=now)
        if is_failed:
            site.on_outcome(True, now=now)
        if placement.is_answered:
            return ()
        # What another answer proved, or the endpoint itself named, is there nevertheless.
        kept = site.holdings.kept
        lost = [key for key in placement.missing if kept.get(key) != 0.0]
        for key in lost:
            site.holdings.drop(key)
        return lost


def _penalty_s(facts: RequestFacts, site: Site, success: float) -> float:
    """Seconds for its zone, tags that it lacks, and failures of late, after which the odds are `success`."""
    return site.distance_s + _distance_s(facts, site) + (1.0 - success) * FAILURE_S


def _distance_s(facts: RequestFacts, site: Site) -> float:
    """Seconds by which tags that the request would like, and the endpoint lacks, make it farther away."""
    return sum([seconds for tag, seconds in facts.prefer if tag not in site.tags])
