"""What a worker tells the others, and control, of who holds a cluster's data, and what it asks control when it begins.

News are gathered for `NEWS_S` and go out in one message to each, and another with what endpoints said themselves. What
does not fit is dropped and counted; it is told again when somebody asks for the key.
"""

from collections.abc import Iterable
from itertools import islice

from proxy.endpoint import Endpoint
from proxy.policy.news import LOST, NEWS_AT_ONCE, News, messages
from proxy.scoreboard import E_CACHE_BYTES, K_NEWS_DROPPED, K_NEWS_SENT, Row
from proxy.surroundings import Peers, Surroundings

# Seconds between two messages of news.
NEWS_S = 0.05
# Seconds until control is asked again, when its mailbox was full.
ASK_AGAIN_S = 1.0


class DataNews:
    """Of one cluster."""

    __slots__ = ("_cluster_slot", "_is_telling", "_news", "_peers", "_row", "_surroundings", "endpoints")

    def __init__(self, cluster_slot: int, surroundings: Surroundings, peers: Peers, row: Row) -> None:
        """`row` is the cluster's in the scoreboard, as this worker writes it."""
        self._cluster_slot = cluster_slot
        self._surroundings = surroundings
        self._peers = peers
        self._row = row
        self._news: dict[tuple[int, int], tuple[int, bool]] = {}
        """By key's point and endpoint's slot, the size, and whether the endpoint itself named the key."""
        self._is_telling = False
        self.endpoints: Iterable[Endpoint] = ()
        """The cluster's, whose caches' sizes are told too."""

    def __repr__(self) -> str:
        return f"DataNews({self._cluster_slot}, {len(self._news)} to tell)"

    def ask(self) -> None:
        """Have control tell what it knows. It comes as other workers' news do, over some seconds if it is much."""
        body = {"data?": self._surroundings.worker, "cluster": self._cluster_slot}
        if not self._surroundings.posts.to_control(body):
            self._surroundings.later(ASK_AGAIN_S, self.ask)

    def tell(self, point: int, slot: int, size: int, *, is_given: bool = False) -> None:
        """The key at `point` is at the endpoint in `slot` and has `size` bytes, 0 = not known; or it is `GONE`.
        `is_given` = the endpoint itself says so."""
        self._news[point, slot] = size, is_given
        if not self._is_telling:
            self._is_telling = True
            self._surroundings.later(NEWS_S, self._send)

    def tell_lost(self, slot: int) -> None:
        """The endpoint in `slot` lost all that it held until now."""
        for known in [known for known in self._news if known[1] == slot]:
            del self._news[known]
        self.tell(0, slot, LOST)

    def _send(self) -> None:
        """Send what is new, the first of it if it is too much."""
        self._is_telling = False
        row, count = self._row, len(self._news)
        row[K_NEWS_DROPPED] += max(count - NEWS_AT_ONCE, 0)
        row[K_NEWS_SENT] += min(count, NEWS_AT_ONCE)
        seen: list[News] = []
        given: list[News] = []
        for (point, slot), (size, is_given) in islice(self._news.items(), NEWS_AT_ONCE):
            (given if is_given else seen).append([point, slot, size])
        self._news = {}
        workers, posts = self._peers.look(), self._surroundings.posts
        # What is `LOST` is among the first: what endpoints named since then is there.
        for body in (
            *messages(self._cluster_slot, iter(seen)),
            *messages(self._cluster_slot, iter(given), given=1),
        ):
            for worker in workers:
                posts.to_worker(worker, body)
            posts.to_control(body)
        for endpoint in self.endpoints:
            endpoint.row[E_CACHE_BYTES] = int(endpoint.site.holdings.capacity_bytes)
