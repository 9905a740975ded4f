"""Mutable state of clusters: which endpoints there are, what is in flight on them, and leases on picks.

No I/O and no `await` here: a pick happens in one synchronous call on the state of that moment. A pick is a lease that
is released exactly once, whatever became of the request. Endpoints are known by their id; those that survive a new
snapshot keep their object, and with it their counters, their leases and whatever the data plane keeps by endpoint.
"""

import random
from collections.abc import Mapping

from proxy.errors import Reason, RoutingError
from proxy.model import Outcome, RequestFacts
from proxy.policy.picker import Picker, make_picker
from proxy.scoreboard import E_CANCELLED, E_FAILURES, E_IN_FLIGHT, Row, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot


class Endpoint:
    """One address of a cluster with its load; what a picker sees as a candidate."""

    __slots__ = ("id", "in_flight", "is_removed", "max_connections", "row", "spec", "weight")

    def __init__(self, spec: EndpointSpec, row: Row) -> None:
        self.id = spec.id
        self.row = row
        self.in_flight = 0
        """Leases not yet released."""
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
        endpoint.row[E_IN_FLIGHT] = endpoint.in_flight

    def release(self, outcome: Outcome) -> None:
        """Give the pick back, exactly once. A client that left counts as neither success nor failure."""
        assert not self.is_released
        self.is_released = True
        endpoint = self.endpoint
        endpoint.in_flight -= 1
        row = endpoint.row
        row[E_IN_FLIGHT] = endpoint.in_flight
        if outcome is _FAILED:
            row[E_FAILURES] += 1
        elif outcome is _GONE:
            row[E_CANCELLED] += 1


_FAILED = Outcome.UPSTREAM_FAILED
_GONE = Outcome.CLIENT_GONE


class Cluster:
    """A group of interchangeable endpoints and the picker that chooses among them."""

    __slots__ = ("_has_limits", "_picker", "endpoints", "name", "spec")

    def __init__(self, spec: ClusterSpec, endpoints: tuple[Endpoint, ...], picker: Picker[Endpoint]) -> None:
        self.name = spec.name
        self.spec = spec
        self.endpoints = endpoints
        self._picker = picker
        self._has_limits = any(endpoint.max_connections for endpoint in endpoints)

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {self.spec.balancer}, {len(self.endpoints)} endpoints)"

    def acquire(self, facts: RequestFacts) -> Lease:
        """Pick an endpoint for a request and count it.

        Raises `RoutingError`: NO_ENDPOINT when the cluster is empty, OVERLOADED when every endpoint is at its limit.
        """
        candidates = self.endpoints
        if self._has_limits:
            candidates = tuple(
                e for e in candidates if not e.max_connections or e.in_flight < e.max_connections
            )
        picked = self._picker.pick(candidates, facts)
        if picked is None:
            raise RoutingError(Reason.OVERLOADED if self.endpoints else Reason.NO_ENDPOINT)
        return Lease(picked)

    @property
    def picker(self) -> Picker[Endpoint]:
        """The picker, which the next snapshot keeps while the balancer's name stays."""
        return self._picker


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
        keep_picker = old is not None and old.spec.balancer == spec.balancer
        picker = old.picker if old is not None and keep_picker else make_picker(spec.balancer, rng)
        clusters[spec.name] = Cluster(spec, tuple(endpoints), picker)
    for endpoint in known.values():
        endpoint.is_removed = True
    return clusters
