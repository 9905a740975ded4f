"""Prometheus families of what keeps requests alive: standings, circuits, checks, ejections, queues, retries, panic."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.policy.breaker import CircuitState
from proxy.policy.health import HealthState
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec, Snapshot
from proxy.telemetry.families import Lines, counters, gauges
from proxy.telemetry.readings import read_endpoints
from proxy.telemetry.standings import (
    KINDS,
    ClusterReading,
    StandingReading,
    in_panic,
    read_cluster,
    read_standing,
)

ENDPOINT_LABELS = ("service_name", "endpoint")
CLUSTER_LABELS = ("service_name",)

_CIRCUIT_VALUES = {
    CircuitState.CLOSED: 0,
    CircuitState.SUSPECT: 0,
    CircuitState.OPEN: 1,
    CircuitState.HALF_OPEN: 2,
}

_ENDPOINT_GAUGES: Lines[StandingReading] = (
    (
        "homeport_upstream_usable",
        "1 when the endpoint gets requests without panic, else 0.",
        lambda r: r.is_usable,
    ),
    (
        "homeport_upstream_circuit_state",
        "0 = closed, requests go; 1 = open; 2 = half open, a trial passed and more are wanted.",
        lambda r: _CIRCUIT_VALUES[r.circuit.state],
    ),
    (
        "homeport_upstream_healthy",
        "0 while the endpoint's health checks fail, or its first is not over; 1 else, and without checks.",
        lambda r: r.marks.health is HealthState.HEALTHY,
    ),
    (
        "homeport_upstream_ejected",
        "1 while outlier detection leaves the endpoint out.",
        lambda r: r.marks.is_ejected,
    ),
    (
        "homeport_upstream_drained",
        "1 while the endpoint is drained, by an operator or by its own word.",
        lambda r: r.marks.is_drained,
    ),
)
_ENDPOINT_COUNTERS: Lines[StandingReading] = (
    (
        "homeport_upstream_circuit_openings",
        "Times the endpoint's circuit opened, after failed trials too.",
        lambda r: r.openings_total,
    ),
    ("homeport_upstream_ejections", "Times outlier detection left it out.", lambda r: r.ejections_total),
    ("homeport_upstream_health_checks", "Active health checks.", lambda r: r.checks_total),
    (
        "homeport_upstream_health_check_failures",
        "Active health checks that failed.",
        lambda r: r.checks_failed_total,
    ),
)
_CLUSTER_GAUGES: Lines[ClusterReading] = (
    (
        "homeport_cluster_pending_requests",
        "Requests that wait because every endpoint is at its limit.",
        lambda r: r.pending,
    ),
    ("homeport_cluster_retrying_requests", "Retries in flight.", lambda r: r.retrying),
)
_CLUSTER_COUNTERS: Lines[ClusterReading] = (
    ("homeport_cluster_queued_requests", "Requests that had to wait.", lambda r: r.queued_total),
    (
        "homeport_cluster_queue_wait_seconds",
        "Time that requests waited, those that got an endpoint.",
        lambda r: r.queue_wait_s_total,
    ),
    (
        "homeport_cluster_queue_refused_requests",
        "Requests refused at once: the queue was full, or the wait would have been too long.",
        lambda r: r.queue_refused_total,
    ),
    (
        "homeport_cluster_queue_timed_out_requests",
        "Requests that waited until their deadline.",
        lambda r: r.queue_timed_out_total,
    ),
    (
        "homeport_cluster_queue_left_requests",
        "Requests whose client left while they waited.",
        lambda r: r.queue_left_total,
    ),
    ("homeport_cluster_retries", "Requests tried on another endpoint.", lambda r: r.retries_total),
    (
        "homeport_cluster_retries_over_budget",
        "Failures that were not retried because too much is retried already.",
        lambda r: r.retries_over_budget_total,
    ),
    (
        "homeport_cluster_panic_picks",
        "Requests sent to endpoints that are not ready, because too few are.",
        lambda r: r.panic_picks_total,
    ),
)


@dataclass(frozen=True, slots=True)
class _Cluster:
    spec: ClusterSpec
    standings: tuple[StandingReading, ...]

    def rows(self) -> Iterator[tuple[tuple[str, str], StandingReading]]:
        """Labels and reading of each endpoint."""
        for spec, reading in zip(self.spec.endpoints, self.standings, strict=True):
            yield (self.spec.name, str(spec.address)), reading


def standing_families(board: Scoreboard, snapshot: Snapshot | None, *, now: float) -> Iterator[Metric]:
    """The families of `snapshot`'s clusters and endpoints; none has series before the first snapshot."""
    clusters = [
        _Cluster(spec, tuple(read_standing(board, spec, each, now=now) for each in spec.endpoints))
        for spec in (snapshot.clusters if snapshot else ())
    ]
    yield from _endpoint_families(clusters)
    yield _kinds_family(board, clusters)
    yield from _cluster_families(board, clusters)


def _endpoint_families(clusters: list[_Cluster]) -> Iterator[Metric]:
    rows = [row for cluster in clusters for row in cluster.rows()]
    yield from gauges(_ENDPOINT_GAUGES, ENDPOINT_LABELS, rows)
    yield from counters(_ENDPOINT_COUNTERS, ENDPOINT_LABELS, rows)
    standings = GaugeMetricFamily(
        "homeport_upstream_standing",
        "1 for what the endpoint is now: ready, slow start, ejected, unhealthy, …",
        labels=(*ENDPOINT_LABELS, "standing"),
    )
    loads = GaugeMetricFamily(
        "homeport_upstream_reported_load_ratio",
        "How busy the service says it is, 1 = full; absent when it does not say.",
        labels=ENDPOINT_LABELS,
    )
    for labels, reading in rows:
        standings.add_metric((*labels, reading.standing.value), 1)
        if reading.load is not None:
            loads.add_metric(labels, reading.load)
    yield standings
    yield loads


def _kinds_family(board: Scoreboard, clusters: list[_Cluster]) -> Metric:
    family = CounterMetricFamily(
        "homeport_upstream_failed_tries",
        "Tries that failed by the endpoint's fault, by kind; a request that is retried may count several times.",
        labels=(*ENDPOINT_LABELS, "kind"),
    )
    for cluster in clusters:
        for spec in cluster.spec.endpoints:
            reading = read_endpoints(board, [spec.slot])
            for kind, count in zip(KINDS, reading.failure_kinds, strict=True):
                if count:
                    family.add_metric((cluster.spec.name, str(spec.address), kind), count)
    return family


def _cluster_families(board: Scoreboard, clusters: list[_Cluster]) -> Iterator[Metric]:
    readings = [((cluster.spec.name,), read_cluster(board, cluster.spec)) for cluster in clusters]
    yield from gauges(_CLUSTER_GAUGES, CLUSTER_LABELS, readings)
    yield from counters(_CLUSTER_COUNTERS, CLUSTER_LABELS, readings)
    usable = GaugeMetricFamily(
        "homeport_cluster_usable_endpoints",
        "Endpoints that get requests without panic.",
        labels=CLUSTER_LABELS,
    )
    panic = GaugeMetricFamily(
        "homeport_cluster_panic",
        "1 while too few endpoints are ready, so that all are used whose circuit lets them.",
        labels=CLUSTER_LABELS,
    )
    for cluster in clusters:
        usable.add_metric((cluster.spec.name,), sum(each.is_usable for each in cluster.standings))
        panic.add_metric((cluster.spec.name,), in_panic(cluster.spec, cluster.standings))
    yield usable
    yield panic
