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
from proxy.policy.picker import Picker
from proxy.policy.response_time import UNKNOWN_S, estimate, failure_time, typical
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
# From this status on an answer counts as a failure of the endpoint when response times are compared.
FAILURE_STATUS = 500


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
        """Times to the first byte of its answers, in clusters that compare them."""
        self.response_s = UNKNOWN_S
        """Expected seconds to the first byte of its next answer, as last projected."""
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

    __slots__ = ("endpoint", "is_released")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.is_released = False
        endpoint.in_flight += 1
        endpoint.row[E_IN_FLIGHT] = endpoint.in_flight - endpoint.elsewhere

    def release(self, outcome: Outcome) -> None:
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
        "_all", "_has_limits", "_peers", "_picker", "_refresh_at", "_slots", "_typical_s", "endpoints", "is_timed",
        "name", "reads_request", "spec", "stickiness",
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
        self.reads_request = kind.sees_key or spec.sticky is not None
        """Whether `acquire` needs to know more of a request than that there is one."""
        self.is_timed = kind.sees_time
        """Whether `on_answer` and `on_no_answer` are to be called."""
        self._picker = picker
        self._peers = peers
        # Else all workers would begin with the same endpoint.
        start = peers.worker % len(endpoints) if endpoints else 0
        self._all = endpoints[start:] + endpoints[:start]
        self._slots = [endpoint.spec.slot for endpoint in endpoints]
        self._has_limits = any(endpoint.max_connections for endpoint in endpoints)
        self._typical_s = UNKNOWN_S
        self._refresh_at = -inf if kind.sees_load or self._has_limits else inf

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {self.spec.balancer}, {len(self.endpoints)} endpoints)"

    def acquire(self, facts: RequestFacts, *, now: float) -> Lease:
        """Pick an endpoint for a request and count it.

        Raises `RoutingError`: NO_ENDPOINT when the cluster is empty, OVERLOADED when every endpoint is at its limit.
        """
        if now >= self._refresh_at:
            self._refresh(now)
        if self.stickiness is not None:
            kept = self.stickiness.member(facts.affinity)
            if kept is not None and _has_room(kept):
                return Lease(kept)
        candidates = self._all
        if self._has_limits:
            candidates = self._with_room(now)
        picked = self._picker.pick(candidates, facts)
        if picked is None:
            raise RoutingError(Reason.OVERLOADED if self.endpoints else Reason.NO_ENDPOINT)
        return Lease(picked)

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

    def on_answer(self, endpoint: Endpoint, waited_s: float, status: int, *, now: float) -> None:
        """The first byte of an answer is here, `waited_s` after the last one of the request."""
        if status >= FAILURE_STATUS:
            waited_s = failure_time(waited_s, self._typical_s)
        self._learn(endpoint, waited_s, now)

    def on_no_answer(self, endpoint: Endpoint, waited_s: float, outcome: Outcome, *, now: float) -> None:
        """An exchange ended without a whole answer, `waited_s` after the last byte of the request.

        The endpoint's failure counts as one. A client that left says only that the answer would have taken longer.
        """
        if outcome is _FAILED:
            self._learn(endpoint, failure_time(waited_s, self._typical_s), now)
        elif outcome is _GONE and waited_s > estimate(endpoint.response, self._typical_s, now=now):
            self._learn(endpoint, waited_s, now)

    def _learn(self, endpoint: Endpoint, seconds: float, now: float) -> None:
        endpoint.response.add(seconds, now)
        endpoint.response_s = estimate(endpoint.response, self._typical_s, now=now)

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
        if self.is_timed:
            words += WORDS_PER_ESTIMATE * len(endpoints)
            self._typical_s = seconds = typical([endpoint.response for endpoint in endpoints], now=now)
            for endpoint in endpoints:
                endpoint.response_s = estimate(endpoint.response, seconds, now=now)
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
