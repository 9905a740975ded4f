"""What control remembers of who holds which data, from what workers tell.

Control is no part of what they tell each other: it listens, so that what was learned outlives the workers that did,
and so that whoever takes endpoints away knows what goes with them. A worker that begins asks for it. Where endpoints
can be asked what they hold, control asks them, and tells all workers what it did not know.
"""

import random
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any

from proxy.clock import Clock
from proxy.controlplane.mail import Taker
from proxy.controlplane.residency_list import ResidencyList
from proxy.controlplane.residency_polls import ResidencyPolls
from proxy.controlplane.rounds import Rounds
from proxy.mailbox import Posts
from proxy.policy.balancer import goes_by_data
from proxy.policy.locality import LocalityParams
from proxy.policy.mirror import Mirror
from proxy.policy.news import NEWS_AT_ONCE, list_messages, messages, parse_news
from proxy.scoreboard import E_CACHE_BYTES, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot

Report = tuple[int, int, int, int]
"""Slot of an endpoint, requests that it works on at once, bytes of its cache, bytes a second at which it gets data; 0 =
it does not say."""

NO_REPORT = (0, 0, 0)

WHOLE_S = 0.25
"""Seconds that a message with a part of a list keeps a cluster from telling the next list whole: a full one takes each
worker 2 to 3 ms to take in."""

CACHES_S = 1.0
"""Seconds between two looks at how large workers believe the caches of a cluster's endpoints to be."""


class Residencies:
    """Of all clusters that go by data."""

    def __init__(self, board: Scoreboard, posts: Posts, *, clock: Clock, rng: random.Random) -> None:
        """`posts` are the workers'."""
        self._board = board
        self._clock = clock
        self._rounds = Rounds(board, posts, clock)
        self._polls = ResidencyPolls(board, self.on_list, clock=clock, rng=rng)
        self._clusters: dict[int, _Cluster] = {}
        """By slot."""
        self.takers: Mapping[str, Taker] = {"data": self.take, "data?": self.take_question}
        """Who takes in what workers say of data, by the word in it."""

    def __repr__(self) -> str:
        return f"Residencies({len(self._clusters)} clusters)"

    def mirror(self, cluster_slot: int) -> Mirror | None:
        """What is known of the cluster in that row of the scoreboard; `None` when data do not count there."""
        known = self._clusters.get(cluster_slot)
        return known.mirror if known is not None else None

    def update(self, snapshot: Snapshot) -> None:
        """`snapshot` is served from now on; endpoints that are gone hold nothing."""
        last, self._clusters = self._clusters, {}
        for spec in snapshot.clusters:
            if goes_by_data(spec):
                cluster = last.get(spec.slot)
                if cluster is None or cluster.name != spec.name:
                    cluster = _Cluster(spec)
                cluster.update(spec)
                self._clusters[spec.slot] = cluster
        self._polls.update(snapshot)

    def stop(self) -> None:
        """Tell nobody anything any more. Idempotent."""
        self._polls.stop()
        self._rounds.stop()

    def take(self, body: Mapping[str, Any]) -> bool:
        """A worker tells `{"data": …}`; false when that makes no sense."""
        parsed = parse_news(body)
        if parsed is None:
            return False
        slot, news = parsed
        cluster = self._clusters.get(slot)
        if cluster is not None:
            now = self._clock.monotonic()
            cluster.look(self._board, now=now)
            cluster.mirror.on_news(news, "given" in body, now=now)
        return True

    def take_question(self, body: Mapping[str, Any]) -> bool:
        """A worker asks `{"data?": WORKER, "cluster": SLOT}`; false when that makes no sense."""
        worker, slot = body.get("data?"), body.get("cluster")
        if type(worker) is not int or type(slot) is not int:
            return False
        cluster = self._clusters.get(slot)
        if cluster is not None:
            told = messages(slot, cluster.mirror.news())
            self._rounds.send(worker, chain(_told(slot, cluster.reports()), told))
        return True

    def on_list(self, cluster_slot: int, endpoint_slot: int, said: ResidencyList) -> None:
        """An endpoint says what it holds. Workers are told all of it, if that is not too much, as they may have let go
        of what they were told before; else what is new in it."""
        cluster = self._clusters.get(cluster_slot)
        if cluster is None:
            return
        reports = cluster.on_report(endpoint_slot, said)
        news = cluster.mirror.on_list(endpoint_slot, said.resident, said.is_complete)
        most_bytes = cluster.most_bytes(endpoint_slot, said)
        is_whole = said.is_complete and cluster.may_tell(len(said.resident), now=self._clock.monotonic())
        for worker in self._rounds.workers():
            if is_whole:
                told = list_messages(cluster_slot, endpoint_slot, said.resident, most_bytes)
            else:
                told = messages(cluster_slot, iter(news), given=1, listed=most_bytes)
            self._rounds.send(worker, chain(_told(cluster_slot, reports), told))

    def cost_of_losing(self, endpoint_slot: int, staying: Collection[int] | None = None) -> float:
        """Bytes that would be fetched again if that endpoint went; see `Mirror.cost_of_losing`."""
        now = self._clock.monotonic()
        mirrors = [one.mirror for one in self._clusters.values()]
        return sum([mirror.cost_of_losing(endpoint_slot, staying, now=now) for mirror in mirrors])


class _Cluster:
    """One of them."""

    __slots__ = ("_endpoints", "_look_at", "_tell_at", "mirror", "name")

    def __init__(self, spec: ClusterSpec) -> None:
        self.name = spec.name
        self.mirror = Mirror(spec.locality.max_keys)
        self._endpoints: dict[int, _Endpoint] = {}
        """By slot."""
        self._look_at = self._tell_at = 0.0

    def update(self, spec: ClusterSpec) -> None:
        """Go on with what a snapshot says."""
        last, self._endpoints = self._endpoints, {}
        for told in spec.endpoints:
            endpoint = self._endpoints[told.slot] = last.get(told.slot, _Endpoint())
            if endpoint.told_of != (told, spec.locality):
                # Workers go by the configuration again, until the endpoint says otherwise.
                endpoint.told_of = told, spec.locality
                endpoint.report = NO_REPORT
        self.mirror.update(spec.locality.max_keys, self._endpoints)
        self._look_at = 0.0

    def look(self, board: Scoreboard, *, now: float) -> None:
        """See how large the caches are. One that some workers know no end of is as large as others say; after the last
        worker its words stay true."""
        if now < self._look_at:
            return
        self._look_at = now + CACHES_S
        workers = board.live_workers()
        for slot, endpoint in self._endpoints.items():
            sizes = [board.endpoint_row(worker, slot)[E_CACHE_BYTES] for worker in workers]
            size = max(sizes, default=endpoint.cache_bytes)
            if size != endpoint.cache_bytes:
                endpoint.cache_bytes = size
                self.mirror.limit(slot, size)

    def on_report(self, slot: int, said: ResidencyList) -> list[Report]:
        """What workers are to be told of the endpoint in `slot`."""
        endpoint = self._endpoints.get(slot)
        report = said.slots, said.cache_bytes, said.bandwidth_bytes_per_s
        if endpoint is None or report in (NO_REPORT, endpoint.report):
            return []
        endpoint.report = report
        if said.cache_bytes:
            endpoint.cache_bytes = said.cache_bytes
            self.mirror.limit(slot, said.cache_bytes)
        return [(slot, *report)]

    def most_bytes(self, slot: int, said: ResidencyList) -> int:
        """See `ResidencyList.most_bytes`."""
        endpoint = self._endpoints.get(slot)
        return said.most_bytes(endpoint.cache_bytes) if endpoint is not None else 0

    def may_tell(self, count: int, *, now: float) -> bool:
        """Whether a list of `count` keys may be told whole. If so, it is."""
        if now < self._tell_at:
            return False
        self._tell_at = now + WHOLE_S * (1 + count // NEWS_AT_ONCE)
        return True

    def reports(self) -> list[Report]:
        """What all endpoints last said of themselves."""
        return [(slot, *one.report) for slot, one in self._endpoints.items() if one.report != NO_REPORT]


class _Endpoint:
    """One of a cluster's."""

    __slots__ = ("cache_bytes", "report", "told_of")

    def __init__(self) -> None:
        self.told_of: tuple[EndpointSpec, LocalityParams] | None = None
        """What the configuration last said of it."""
        self.cache_bytes = 0
        """As last believed; 0 = no end of it is known."""
        self.report = NO_REPORT
        """What it last said of itself: a `Report` without the slot."""


def _told(cluster_slot: int, reports: list[Report]) -> Iterator[dict[str, Any]]:
    """The message with `reports`, if there are any."""
    if reports:
        yield {"data": cluster_slot, "news": [], "reports": reports}
