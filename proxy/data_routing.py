"""Routing by data locality in one cluster of a worker: the policy, its endpoints, and what the workers tell each other.

Each worker decides by what it knows, and they tell each other enough to know the same. Work in flight and requests that
ended are words of the scoreboard, read with the other loads. Who holds what is news: what a worker placed, saw missing,
or was asked for (at most once a second a key) goes to the other workers, and to control for workers to come, in one
message every `data_news.NEWS_S`. What does not fit is dropped and counted; it is told again when somebody asks for the
key. Sizes that were learned travel with it. A worker that begins asks control for what is known, and takes sizes of
caches from the scoreboard. Service times and speeds are each worker's own: every worker sees enough answers of an
endpoint that it uses.

A cluster may have a shadow: a second balancer that is asked once for each request and not followed. Where its choice
differs, the two are compared by the score that data locality gives them at that moment, in seconds.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from proxy.data_news import DataNews
from proxy.endpoint import Endpoint
from proxy.model import RequestFacts
from proxy.policy.data_reply import DataReply
from proxy.policy.hashring import HashRing, key_point
from proxy.policy.ignored import Ignored
from proxy.policy.locality import Locality
from proxy.policy.news import GONE, LOST, News
from proxy.policy.outlook import Why
from proxy.policy.picker import Picker
from proxy.policy.residency import DataKey
from proxy.policy.site import Placement, Site
from proxy.scoreboard import (
    E_CACHE_BYTES,
    E_DATA_HITS,
    E_DATA_MISSES,
    E_DATA_MOVED_BYTES,
    E_DATA_SURPRISES,
    E_ENDED,
    E_WORK_US,
    K_DATA_KEYS,
    K_ERROR_US,
    K_IGNORED,
    K_PLAIN_ERROR_US,
    K_PREDICTIONS,
    K_SHADOW_DIFFERS,
    K_SHADOW_LOST_US,
    K_SHADOW_PICKS,
    K_SHADOW_SAVED_US,
    K_UNTRUSTED,
    Row,
)
from proxy.snapshot import ClusterSpec
from proxy.surroundings import Peers, Surroundings

# Seconds in which a key is told of once however often it is asked for.
TOLD_FOR_S = 1.0
# A status from which on the time of an answer says nothing of the work: errors are quick.
ERROR_STATUS = 400
# Seconds that one choice of the shadow can save or lose: an estimate beyond that is wrong, and would be all that the
# sum says.
MOST_SAVED_S = 60.0

_US = 1_000_000
_TOO_MANY_TYPES = K_IGNORED + list(Ignored).index(Ignored.TOO_MANY_TYPES)
_LEARNED_WORDS = (K_PREDICTIONS, K_ERROR_US, K_PLAIN_ERROR_US, _TOO_MANY_TYPES)


class DataRouting:
    """What a cluster needs to send requests where their data are."""

    __slots__ = (
        "_by_slot", "_counted", "_given", "_has_shadow", "_peers", "_row", "_shadow", "_slots", "locality", "news",
    )  # fmt: skip

    def __init__(self, spec: ClusterSpec, surroundings: Surroundings, peers: Peers, row: Row) -> None:
        """`row` is the cluster's in the scoreboard, as this worker writes it."""
        self._peers = peers
        self._row = row
        self.locality: Locality[Endpoint] = Locality(spec.locality, surroundings.rng)
        self.news = DataNews(spec.slot, surroundings, peers, row)
        self.news.ask()
        self._by_slot: dict[int, Endpoint] = {}
        self._given: dict[int, tuple[int, int, float]] = {}
        """By endpoint's slot, what the configuration says of it: slots, bytes of its cache, bandwidth."""
        self._slots: list[int] = []
        self._counted = (0, 0, 0, 0)
        """What learning said for `_LEARNED_WORDS` when it was last looked at."""
        self._has_shadow = False
        self._shadow: Picker[Endpoint] | None = None

    def __repr__(self) -> str:
        return f"DataRouting({self.locality})"

    def update(self, spec: ClusterSpec, members: Sequence[Endpoint], shadow: Picker[Endpoint] | None) -> None:
        """Go on with what a snapshot says. `shadow` is the picker of the cluster's shadow; `None` = there is none, or
        it is data locality itself."""
        zones = dict(spec.locality.zone_distance_s)
        last = set(self._by_slot.values())
        for member in members:
            if member not in last:
                self._meet(member)
            self._take_given(member, spec)
            member.site.tags = member.spec.tags
            member.site.distance_s = zones.get(member.spec.zone, 0.0)
        for gone in last - set(members):
            # Another instance at its address holds nothing.
            gone.site.holdings.forget()
            del self._given[gone.spec.slot]
        self._by_slot = {member.spec.slot: member for member in members}
        self.news.endpoints = members
        self._slots = [member.spec.slot for member in members]
        self._shadow = shadow
        self._has_shadow = bool(spec.shadow)
        self.locality.update(
            spec.locality, members, HashRing(spec.ring, [member.weight for member in members])
        )

    def _meet(self, member: Endpoint) -> None:
        """Begin with an endpoint."""
        member.site = Site()
        # What others learned, or the worker that was in this slot before.
        member.site.holdings.expect(float(self._peers.most(E_CACHE_BYTES, member.spec.slot)))

    def _take_given(self, member: Endpoint, spec: ClusterSpec) -> None:
        """What the configuration says counts until the endpoint says something else, which outlives a reload."""
        told, cluster = member.spec, spec.locality
        given = (
            told.slots or cluster.slots,
            told.cache_bytes or cluster.cache_bytes,
            told.bandwidth_bytes_per_s or cluster.bandwidth_bytes_per_s,
        )
        if self._given.get(told.slot) != given:
            self._given[told.slot] = given
            slots, cache_bytes, bandwidth = given
            member.site.update(slots=slots, cache_bytes=cache_bytes, bandwidth_bytes_per_s=bandwidth)

    def refresh(self, usable: Sequence[Endpoint], *, now: float) -> int:
        """Look at what the other workers do; `Peers.look` was just called. Returns how many words were read."""
        known = self._peers.known
        if known:
            works, ended = self._peers.words(E_WORK_US, self._slots), self._peers.words(E_ENDED, self._slots)
            for endpoint, work, count in zip(self._by_slot.values(), works, ended, strict=True):
                endpoint.site.on_others(work / _US, count, now=now)
        self.locality.refresh(usable)
        self._row[K_DATA_KEYS] = len(self.locality.residency)
        learning = self.locality.learning
        self._row[K_UNTRUSTED] = not learning.is_trusted
        errors_us, plain_errors_us = int(learning.errors_s * _US), int(learning.plain_errors_s * _US)
        counted = learning.judged, errors_us, plain_errors_us, learning.forgotten_types
        for word, count, before in zip(_LEARNED_WORDS, counted, self._counted, strict=True):
            self._row[word] += count - before
        self._counted = counted
        return 2 * len(known) * len(self._slots)

    # ------------------------------------------------------------------ requests

    def choose(self, candidates: Sequence[Endpoint], facts: RequestFacts, *, now: float) -> Endpoint | None:
        """See `Locality.choose`."""
        return self.locality.choose(candidates, facts, now=now)

    def compare(
        self, picked: Endpoint, candidates: Sequence[Endpoint], facts: RequestFacts, *, now: float
    ) -> None:
        """`picked` was chosen among `candidates`: what would the shadow have done?"""
        if not self._has_shadow:
            return
        locality, row = self.locality, self._row
        if self._shadow is not None:
            other = self._shadow.pick(candidates, facts)
        else:
            other = locality.choose(candidates, facts, now=now)
        row[K_SHADOW_PICKS] += 1
        if other is None or other is picked:
            return
        row[K_SHADOW_DIFFERS] += 1
        is_trusted = locality.learning.is_trusted
        ours, theirs = (locality.forecast(one, facts, now=now).score_s(is_trusted) for one in (picked, other))
        saved_us = int(max(min(ours - theirs, MOST_SAVED_S), -MOST_SAVED_S) * _US)
        row[K_SHADOW_SAVED_US if saved_us > 0 else K_SHADOW_LOST_US] += abs(saved_us)

    def place(self, endpoint: Endpoint, facts: RequestFacts, *, now: float) -> Placement:
        """The request goes there. Called before it counts in `in_flight`."""
        placement = self.locality.place(endpoint, facts, now=now)
        endpoint.row[E_WORK_US] += int(placement.charge_s * _US)
        slot = endpoint.spec.slot
        for key in placement.keys:
            if key in placement.missing or now >= key.told_at + TOLD_FOR_S:
                key.told_at = now
                self.news.tell(key.point, slot, int(key.size_bytes) if key.samples or key.is_given else 0)
        return placement

    def on_answer(
        self,
        endpoint: Endpoint,
        placement: Placement,
        status: int,
        took_s: float,
        said: DataReply | None,
        *,
        now: float,
    ) -> None:
        """The endpoint answered with `status` and `said` of its data, `took_s` after it had the whole request; 0 = it
        has not yet."""
        if said is not None:
            self._on_said(endpoint, said)
        if status >= ERROR_STATUS or took_s <= 0:
            placement.is_answered = status < ERROR_STATUS
            return
        losses = endpoint.site.holdings.losses
        is_hit = self.locality.on_answer(placement, took_s, said.hit if said is not None else None, now=now)
        if not placement.keys:
            return
        placement.is_hit = is_hit
        if endpoint.site.holdings.losses != losses:
            self.news.tell_lost(endpoint.spec.slot)
        if is_hit:
            endpoint.row[E_DATA_HITS] += 1
            news: Sequence[DataKey] = placement.missing
        else:
            endpoint.row[E_DATA_MISSES] += 1
            endpoint.row[E_DATA_SURPRISES] += not placement.missing
            news = placement.missing or placement.keys
            endpoint.row[E_DATA_MOVED_BYTES] += int(sum([key.size_bytes for key in news]))
        for key in news:
            # The same answer may say that it left already.
            if key in endpoint.site.holdings.kept:
                self.news.tell(key.point, endpoint.spec.slot, int(key.size_bytes))

    def why(self, endpoint: Endpoint, placement: Placement) -> Why:
        """Why the balancer chose `endpoint`, as far as that is still known."""
        keys = placement.keys
        if placement.is_only:
            return Why.ONLY
        if not self.locality.learning.is_trusted:
            return Why.LEAST_WORK
        if len(placement.missing) < len(keys):
            return Why.HOLDER
        return Why.OWNER if keys and self.locality.is_owner(endpoint, keys[0]) else Why.LEAST_WORK

    def on_end(self, endpoint: Endpoint, placement: Placement, is_failed: bool, *, now: float) -> None:
        """The exchange is over."""
        endpoint.row[E_WORK_US] -= int(placement.charge_s * _US)
        endpoint.row[E_ENDED] += 1
        for key in self.locality.on_end(placement, is_failed, now=now):
            self.news.tell(key.point, endpoint.spec.slot, GONE)

    def _on_said(self, endpoint: Endpoint, said: DataReply) -> None:
        """What an endpoint says of itself counts until it says something else."""
        locality, site = self.locality, endpoint.site
        for name, size in said.resident:
            point = key_point(name)
            if self._on_named(site, point, size):
                self.news.tell(point, endpoint.spec.slot, size, is_given=True)
        for name in said.evicted:
            found = locality.residency.find(key_point(name))
            if found is not None:
                site.holdings.drop(found)
                self.news.tell(found.point, endpoint.spec.slot, GONE)
        self._row[K_DATA_KEYS] = len(locality.residency)
        self.on_report(endpoint.spec.slot, said.slots, said.cache_bytes, said.bandwidth_bytes_per_s)

    def _on_named(self, site: Site, point: int, size: int, most_bytes: int | None = None) -> bool:
        """The endpoint itself says that it holds the key at `point`, of `size` bytes; 0 = it does not say. `most_bytes`
        as for `on_news`. False when there is no room for another key."""
        locality, holdings = self.locality, site.holdings
        key = locality.residency.mentioned(point)
        if key is None:
            return False
        if size:
            locality.hear_size(key, float(size))
        elif most_bytes and not key.samples and not key.is_given:
            guess = min(key.size_bytes or locality.learning.typical_bytes, float(most_bytes))
            locality.residency.resize(key, guess)
        if key in holdings.kept:
            holdings.on_arrived(key)
        # A list comes again and again: what of it seems to have no room drives out nothing else of it.
        elif most_bytes is None or not holdings.would_evict(
            key.size_bytes or locality.learning.typical_bytes
        ):
            self._hold(site, key)
        return True

    def _hold(self, site: Site, key: DataKey) -> None:
        if not key.size_bytes:
            self.locality.residency.resize(key, self.locality.learning.typical_bytes)
        site.holdings.touch(key, 0.0)

    # ------------------------------------------------------------------ what others tell

    def on_message(self, body: Mapping[str, Any]) -> None:
        """Another worker, or control, says something of the cluster's data; see `policy.news`."""
        if "only" in body:
            slot, low, high = body["only"]
            self._drop_others(slot, low, high, {point for point, _, _ in body["news"]})
        self.on_news(body["news"], "given" in body, body.get("listed"))
        for report in body.get("reports", ()):
            self.on_report(*report)

    def _drop_others(self, slot: int, low: int, high: int, points: Collection[int]) -> None:
        """The endpoint in `slot` holds nothing from `low` to `high` but `points`, and what requests of ours bring."""
        endpoint = self._by_slot.get(slot)
        if endpoint is None:
            return
        holdings = endpoint.site.holdings
        arrived = [key for key, there_at in holdings.kept.items() if not there_at]
        for key in arrived:
            if low <= key.point <= high and key.point not in points:
                holdings.drop(key)

    def on_news(self, news: Iterable[News], is_given: bool = False, most_bytes: int | None = None) -> None:
        """Another worker placed, or saw gone, or was asked for what; or control tells what it knows. `is_given` = the
        endpoints themselves say so; `most_bytes` of their lists, in which sizes that nobody knows are no larger, 0 =
        who knows."""
        residency = self.locality.residency
        for point, slot, size in news:
            endpoint = self._by_slot.get(slot)
            if endpoint is None:
                continue  # it is in no snapshot, or not in ours yet
            holdings = endpoint.site.holdings
            if size == LOST:
                holdings.lose()
            elif size == GONE:
                found = residency.find(point)
                # One that a request of ours is bringing there will be there.
                if found is not None and not holdings.kept.get(found):
                    holdings.drop(found)
            elif is_given:
                self._on_named(endpoint.site, point, size, most_bytes)
            else:
                key = residency.key(point)
                if size and not key.is_given and not key.samples:
                    residency.resize(key, float(size))
                    key.samples = 1
                self._hold(endpoint.site, key)
        self._row[K_DATA_KEYS] = len(residency)

    def on_report(self, slot: int, slots: int, cache_bytes: int, bandwidth_bytes_per_s: float) -> None:
        """The endpoint in `slot` says how many requests it works on at once, what it can hold, and how fast it gets
        data; 0 = it does not."""
        endpoint = self._by_slot.get(slot)
        if endpoint is None:
            return
        if slots:
            endpoint.site.pace.limit(slots)
        if cache_bytes:
            endpoint.site.holdings.limit(cache_bytes)
        if bandwidth_bytes_per_s:
            endpoint.site.hear_speed(bandwidth_bytes_per_s)
