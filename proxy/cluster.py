"""Mutable state of clusters: which endpoints there are, what is in flight on them, and leases on picks.

No I/O and no `await` here: a pick happens in one synchronous call on the state of that moment. A pick is a lease that
is released exactly once, whatever became of the request. Endpoints are known by their id; those that survive a new
snapshot keep their object, and with it their counters, their leases and whatever the data plane keeps by endpoint.

What pickers see of an endpoint's load is that of all workers: the own leases, counted at once, and the other workers'
words of the scoreboard, read again when a pick finds them older than `REFRESH_S`. Workers that see the same picture do
not all choose alike, because each adds its own picks to it and begins its turns at another endpoint. Response times are
each worker's own: every worker sees enough answers of an endpoint that it uses, and none of one that it does not.
"""

import random
from collections.abc import Mapping, Sequence
from math import inf

from proxy.errors import Reason, RoutingError
from proxy.model import Outcome, RequestFacts
from proxy.policy.balancer import balancer, make_picker
from proxy.policy.ewma import PeakEwma
from proxy.policy.hash_key import HashKey
from proxy.policy.picker import Picker
from proxy.policy.response_time import UNKNOWN_S, ResponseTimes
from proxy.policy.stickiness import Stickiness
from proxy.scoreboard import E_CANCELLED, E_FAILURES, E_IN_FLIGHT, Row, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot

# Seconds that the other workers' loads are believed. An endpoint's answer takes milliseconds, so its load hardly
# changes in less.
REFRESH_S = 0.005
# Seconds that they are believed for each word that is read. A word takes 50 to 100 ns, so no more than 2 % of a
# worker's time goes into reading, however many endpoints and workers there are: beyond 1000 words pictures get older.
REFRESH_S_PER_WORD = 5e-6
# Projecting and ordering a response time costs about as much as reading so many words.
WORDS_PER_ESTIMATE = 10


class Endpoint:
    """One address of a cluster with its load; what a picker sees as a candidate."""

    __slots__ = (
        "elsewhere", "id", "in_flight", "is_removed", "max_connections", "response", "response_s", "row", "spec",
        "weight",
    )  # fmt: skip

    def __init__(self, spec: EndpointSpec, row: Row) -> None:
        self.id = spec.id
        self.row = row
        self.in_flight = 0
        """Requests it works on, all workers' together: our leases, and `elsewhere`."""
        self.elsewhere = 0
        """Those of the other workers, as last read."""
        self.response = PeakEwma()
        """Times to its answers, in clusters that compare them."""
        self.response_s = UNKNOWN_S
        """Expected seconds to its next answer, as last projected."""
        self.is_removed = False
        """No longer in the snapshot: what is in flight finishes, connections are not kept."""
        self.update(spec)

    def __repr__(self) -> str:
        return f"Endpoint({self.id!r}, in_flight={self.in_flight}{', removed' if self.is_removed else ''})"

    def update(self, spec: EndpointSpec) -> None:
        """Take over what a new snapshot says of this endpoint."""
        self.spec = spec
        self.weight = spec.weight
        self.max_connections = spec.max_connections
        self.is_removed = False


class Lease:
    """A pick that is not finished yet."""

    __slots__ = ("endpoint", "is_released", "owed_since", "times")

    def __init__(self, endpoint: Endpoint, times: ResponseTimes | None, now: float) -> None:
        self.endpoint = endpoint
        self.times = times
        """Who learns how long answers take; `None` = nobody."""
        self.is_released = False
        self.owed_since = now
        """Since when the endpoint owes an answer: from the pick on, or from the end of a request that takes its time; 0
        = that has not ended, or there is an answer."""
        endpoint.in_flight += 1
        endpoint.row[E_IN_FLIGHT] = endpoint.in_flight - endpoint.elsewhere

    def on_answer(self, status: int, *, now: float) -> None:
        """The head of the final answer, or a 101, is here."""
        if self.times is not None and self.owed_since:
            self.times.on_answer(self.endpoint, now - self.owed_since, status, now=now)
            self.owed_since = 0.0

    def release(self, outcome: Outcome, *, now: float) -> None:
        """Give the pick back, exactly once. A client that left counts as neither success nor failure."""
        assert not self.is_released
        self.is_released = True
        endpoint = self.endpoint
        endpoint.in_flight -= 1
        row = endpoint.row
        row[E_IN_FLIGHT] = endpoint.in_flight - endpoint.elsewhere
        if outcome is _FAILED:
            row[E_FAILURES] += 1
        elif outcome is _GONE:
            row[E_CANCELLED] += 1
        if self.times is not None:
            waited = now - self.owed_since if self.owed_since else 0.0
            self.times.on_end(endpoint, waited, outcome, now=now)


_FAILED = Outcome.UPSTREAM_FAILED
_GONE = Outcome.CLIENT_GONE


class Peers:
    """The other workers' words of the scoreboard."""

    __slots__ = ("_scoreboard", "_worker")

    def __init__(self, scoreboard: Scoreboard, worker: int) -> None:
        self._scoreboard = scoreboard
        self._worker = worker

    @property
    def worker(self) -> int:
        """Our own number."""
        return self._worker

    def workers(self) -> list[int]:
        """Numbers of the others that are alive."""
        return [worker for worker in self._scoreboard.live_workers() if worker != self._worker]

    def in_flight(self, workers: Sequence[int], slots: Sequence[int]) -> list[int]:
        """Requests that `workers` have in flight, for each of the endpoints in `slots`."""
        return self._scoreboard.endpoint_words(E_IN_FLIGHT, workers, slots)


class Cluster:
    """A group of interchangeable endpoints and the picker that chooses among them."""

    __slots__ = (
        "_all", "_has_limits", "_is_plain", "_peers", "_picker", "_refresh_at", "_slots", "_times", "endpoints",
        "hash_key", "name", "reads_request", "spec", "stickiness",
    )  # fmt: skip

    def __init__(
        self, spec: ClusterSpec, endpoints: tuple[Endpoint, ...], picker: Picker[Endpoint], peers: Peers
    ) -> None:
        kind = balancer(spec.balancer)
        self.name = spec.name
        self.spec = spec
        self.endpoints = endpoints
        self.stickiness = Stickiness(spec.sticky, endpoints, spec.name) if spec.sticky is not None else None
        """The cookie that keeps clients with their endpoint; `None` = there is none."""
        self.hash_key = HashKey(spec.hash) if kind.sees_key and spec.hash is not None else None
        """What of a request the balancer goes by; `None` = it does not."""
        self.reads_request = self.hash_key is not None or self.stickiness is not None
        """Whether `acquire` needs to know more of a request than that there is one."""
        self._times = ResponseTimes() if kind.sees_time else None
        self._picker = picker
        self._peers = peers
        # Else all workers would begin with the same endpoint.
        start = peers.worker % len(endpoints) if endpoints else 0
        self._all = endpoints[start:] + endpoints[:start]
        self._slots = [endpoint.spec.slot for endpoint in endpoints]
        self._has_limits = any(endpoint.max_connections for endpoint in endpoints)
        self._refresh_at = -inf if kind.sees_load or self._has_limits else inf
        self._is_plain = self._refresh_at == inf and self.stickiness is None

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {self.spec.balancer}, {len(self.endpoints)} endpoints)"

    def acquire(self, facts: RequestFacts, *, now: float) -> Lease:
        """Pick an endpoint for a request and count it.

        Raises `RoutingError`: NO_ENDPOINT when the cluster is empty, OVERLOADED when every endpoint is at its limit.
        """
        picked = self._picker.pick(self._all, facts) if self._is_plain else self._pick(facts, now)
        if picked is None:
            raise RoutingError(Reason.OVERLOADED if self.endpoints else Reason.NO_ENDPOINT)
        return Lease(picked, self._times, now)

    def _pick(self, facts: RequestFacts, now: float) -> Endpoint | None:
        """The endpoint that the client's cookie names, else one that the picker chooses among those with room."""
        if now >= self._refresh_at:
            self._refresh(now)
        if self.stickiness is not None:
            kept = self.stickiness.member(facts.affinity)
            if kept is not None and _has_room(kept):
                return kept
        candidates = self._all
        if self._has_limits:
            candidates = self._with_room(now)
        return self._picker.pick(candidates, facts)

    def _with_room(self, now: float) -> tuple[Endpoint, ...]:
        """The endpoints below their limits. Before there is none, another worker's may have become free just now."""
        candidates = tuple([endpoint for endpoint in self._all if _has_room(endpoint)])
        if not candidates:
            self._refresh(now)
            candidates = tuple([endpoint for endpoint in self._all if _has_room(endpoint)])
        return candidates

    @property
    def picker(self) -> Picker[Endpoint]:
        """The picker, which the next snapshot keeps while the balancer's name stays, if it can."""
        return self._picker

    def _refresh(self, now: float) -> None:
        """Bring the endpoints' figures up to date."""
        endpoints = self.endpoints
        peers = self._peers.workers()
        words = len(peers) * len(endpoints)
        if peers:
            loads = self._peers.in_flight(peers, self._slots)
        else:
            loads = [0] * len(endpoints)
        for endpoint, load in zip(endpoints, loads, strict=True):
            endpoint.in_flight += load - endpoint.elsewhere
            endpoint.elsewhere = load
        if self._times is not None:
            words += WORDS_PER_ESTIMATE * len(endpoints)
            self._times.project(endpoints, now=now)
        self._refresh_at = now + max(REFRESH_S, words * REFRESH_S_PER_WORD)


def _has_room(endpoint: Endpoint) -> bool:
    return not endpoint.max_connections or endpoint.in_flight < endpoint.max_connections


def build_clusters(
    snapshot: Snapshot,
    previous: Mapping[str, Cluster],
    *,
    scoreboard: Scoreboard,
    worker: int,
    rng: random.Random,
) -> dict[str, Cluster]:
    """The clusters of `snapshot`; endpoints and pickers that survive are taken over from `previous`.

    Endpoints that are gone are marked as removed.
    """
    known = {endpoint.id: endpoint for cluster in previous.values() for endpoint in cluster.endpoints}
    peers = Peers(scoreboard, worker)
    clusters = {}
    for spec in snapshot.clusters:
        endpoints = []
        for endpoint_spec in spec.endpoints:
            endpoint = known.pop(endpoint_spec.id, None)
            if endpoint is None:
                endpoint = Endpoint(endpoint_spec, scoreboard.endpoint_row(worker, endpoint_spec.slot))
            else:
                endpoint.update(endpoint_spec)
            endpoints.append(endpoint)
        old = previous.get(spec.name)
        members = tuple(endpoints)
        # A picker that keeps its members has no turns to go on with.
        if (
            old is not None
            and old.spec.balancer == spec.balancer
            and not balancer(spec.balancer).keeps_members
        ):
            picker = old.picker
        else:
            picker = make_picker(spec, members, rng)
        clusters[spec.name] = Cluster(spec, members, picker, peers)
    for endpoint in known.values():
        endpoint.is_removed = True
    return clusters
