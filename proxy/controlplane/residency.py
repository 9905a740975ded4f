"""What control remembers of who holds which data, from what workers tell.

Control is no part of what they tell each other: it listens, so that what was learned outlives the workers that did,
and so that whoever takes endpoints away knows what goes with them. A worker that begins asks for it.
"""

from collections.abc import Mapping
from typing import Any

from proxy.clock import Clock
from proxy.controlplane.mail import Taker
from proxy.controlplane.rounds import Rounds
from proxy.mailbox import Posts
from proxy.policy.balancer import goes_by_data
from proxy.policy.mirror import Mirror
from proxy.policy.news import messages, parse_news
from proxy.scoreboard import E_CACHE_BYTES, Scoreboard
from proxy.snapshot import ClusterSpec, Snapshot

CACHES_S = 1.0
"""Seconds between two looks at how large workers believe the caches of a cluster's endpoints to be."""


class Residencies:
    """Of all clusters that go by data."""

    def __init__(self, board: Scoreboard, posts: Posts, clock: Clock) -> None:
        """`posts` are the workers'."""
        self._board = board
        self._clock = clock
        self._rounds = Rounds(board, posts, clock)
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

    def stop(self) -> None:
        """Tell nobody anything any more. Idempotent."""
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
            cluster.mirror.on_news(news, now=now)
        return True

    def take_question(self, body: Mapping[str, Any]) -> bool:
        """A worker asks `{"data?": WORKER, "cluster": SLOT}`; false when that makes no sense."""
        worker, slot = body.get("data?"), body.get("cluster")
        if type(worker) is not int or type(slot) is not int:
            return False
        mirror = self.mirror(slot)
        if mirror is not None:
            self._rounds.send(worker, messages(slot, mirror.news()))
        return True

    def cost_of_losing(self, endpoint_slot: int) -> float:
        """Bytes that would be fetched again if that endpoint went; see `Mirror.cost_of_losing`."""
        now = self._clock.monotonic()
        return sum([one.mirror.cost_of_losing(endpoint_slot, now=now) for one in self._clusters.values()])


class _Cluster:
    """One of them."""

    __slots__ = ("_caches", "_look_at", "mirror", "name")

    def __init__(self, spec: ClusterSpec) -> None:
        self.name = spec.name
        self.mirror = Mirror(spec.locality.max_keys)
        self._caches: dict[int, int] = {}
        """Bytes, by slot of the endpoint."""
        self._look_at = 0.0

    def update(self, spec: ClusterSpec) -> None:
        """Go on with what a snapshot says."""
        slots = [endpoint.slot for endpoint in spec.endpoints]
        self.mirror.update(spec.locality.max_keys, slots)
        self._caches = {slot: self._caches.get(slot, 0) for slot in slots}
        self._look_at = 0.0

    def look(self, board: Scoreboard, *, now: float) -> None:
        """See how large the caches are. One that some workers know no end of is as large as others say; after the last
        worker its words stay true."""
        if now < self._look_at:
            return
        self._look_at = now + CACHES_S
        workers = board.live_workers()
        for slot, last in self._caches.items():
            size = max([board.endpoint_row(worker, slot)[E_CACHE_BYTES] for worker in workers], default=last)
            if size != last:
                self._caches[slot] = size
                self.mirror.limit(slot, size)
