"""Prometheus families of routing by data: series of clusters in which data count, and shadows where there is one."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily

from proxy.policy.balancer import goes_by_data
from proxy.policy.ignored import Ignored
from proxy.scoreboard import K_IGNORED, Scoreboard
from proxy.snapshot import ClusterSpec, Snapshot
from proxy.telemetry.families import Lines, counters, gauges
from proxy.telemetry.locality import (
    ClusterDataReading,
    EndpointDataReading,
    read_cluster_data,
    read_endpoint_data,
)
from proxy.telemetry.standing_metrics import CLUSTER_LABELS, ENDPOINT_LABELS

_ENDPOINT_COUNTERS: Lines[EndpointDataReading] = (
    (
        "homeport_locality_hits",
        "Answers from data that the endpoint held, by its own word or by how long they took.",
        lambda r: r.hits_total,
    ),
    (
        "homeport_locality_misses",
        "Answers for which the endpoint had to get the data.",
        lambda r: r.misses_total,
    ),
    (
        "homeport_locality_surprises",
        "Misses of data that were believed to be there.",
        lambda r: r.surprises_total,
    ),
    (
        "homeport_locality_moved_bytes",
        "Size of the data that were missed; only ratios mean something while nobody gives sizes.",
        lambda r: r.moved_bytes_total,
    ),
    (
        "homeport_locality_residency_polls",
        "Times that the endpoint was asked what data it holds.",
        lambda r: r.polls_total,
    ),
    (
        "homeport_locality_residency_poll_failures",
        "Those to which it gave no answer of use.",
        lambda r: r.polls_failed_total,
    ),
)
_ENDPOINT_GAUGES: Lines[EndpointDataReading] = (
    (
        "homeport_locality_predicted_work_seconds",
        "Time that the requests in flight are expected to take of the endpoint's slots.",
        lambda r: r.work_s,
    ),
)
_CLUSTER_GAUGES: Lines[ClusterDataReading] = (
    (
        "homeport_locality_known_keys",
        "Data keys that are known, by the worker that knows most.",
        lambda r: r.known_keys,
    ),
    (
        "homeport_locality_untrusted_workers",
        "Workers that leave data out of their choices, because predictions are worse than without data.",
        lambda r: r.untrusted_workers,
    ),
)
_CLUSTER_COUNTERS: Lines[ClusterDataReading] = (
    (
        "homeport_locality_news",
        "What workers told each other of who holds what, a key and an endpoint each.",
        lambda r: r.news_total,
    ),
    (
        "homeport_locality_news_dropped",
        "What they did not tell because it was too much at once.",
        lambda r: r.news_dropped_total,
    ),
)
_SUMMARIES: Lines[ClusterDataReading] = (
    (
        "homeport_locality_prediction_error_seconds",
        "How far predictions of a request's work and transfer were from what came, waits left out.",
        lambda r: r.error_s_total,
    ),
    (
        "homeport_locality_plain_prediction_error_seconds",
        "The same for a model that expects the mean of every request: what predictions are judged by.",
        lambda r: r.plain_error_s_total,
    ),
)
_SHADOW_COUNTERS: Lines[ClusterDataReading] = (
    (
        "homeport_locality_shadow_picks",
        "Requests that the shadow was asked for.",
        lambda r: r.shadow_picks_total,
    ),
    (
        "homeport_locality_shadow_differing_picks",
        "Those for which it would have taken another endpoint.",
        lambda r: r.shadow_differing_total,
    ),
    (
        "homeport_locality_shadow_saved_seconds",
        "Predicted time by which the shadow's picks would have been done sooner.",
        lambda r: r.shadow_saved_s_total,
    ),
    (
        "homeport_locality_shadow_lost_seconds",
        "Predicted time by which the shadow's picks would have been done later.",
        lambda r: r.shadow_lost_s_total,
    ),
)


def locality_families(board: Scoreboard, snapshot: Snapshot | None) -> Iterator[Metric]:
    """The families of `snapshot`'s clusters."""
    clusters = snapshot.clusters if snapshot else ()
    counted = [cluster for cluster in clusters if goes_by_data(cluster)]
    yield from _endpoint_families(board, counted)
    readings = [((cluster.name,), read_cluster_data(board, cluster)) for cluster in counted]
    yield from gauges(_CLUSTER_GAUGES, CLUSTER_LABELS, readings)
    for name, text, sum_value in _SUMMARIES:
        summary = SummaryMetricFamily(name, text, labels=CLUSTER_LABELS)
        for labels, reading in readings:
            summary.add_metric(labels, count_value=reading.predictions_total, sum_value=sum_value(reading))
        yield summary
    with_shadow = {cluster.name for cluster in counted if cluster.shadow}
    shadowed = [(labels, reading) for labels, reading in readings if labels[0] in with_shadow]
    yield from counters(_CLUSTER_COUNTERS, CLUSTER_LABELS, readings)
    yield from counters(_SHADOW_COUNTERS, CLUSTER_LABELS, shadowed)
    yield _ignored_family(board, snapshot)


def _endpoint_families(board: Scoreboard, clusters: list[ClusterSpec]) -> Iterator[Metric]:
    readings = [
        ((cluster.name, str(spec.address)), read_endpoint_data(board, spec.slot))
        for cluster in clusters
        for spec in cluster.endpoints
    ]
    yield from counters(_ENDPOINT_COUNTERS, ENDPOINT_LABELS, readings)
    yield from gauges(_ENDPOINT_GAUGES, ENDPOINT_LABELS, readings)


def _ignored_family(board: Scoreboard, snapshot: Snapshot | None) -> Metric:
    """A reason appears when it first occurs."""
    ignored = CounterMetricFamily(
        "homeport_cluster_ignored_data_values",
        "Values about data, in requests and answers, that make no sense and were left out, by what is wrong.",
        labels=("service_name", "reason"),
    )
    for cluster in snapshot.clusters if snapshot else ():
        words = board.cluster_sum(cluster.slot)[K_IGNORED : K_IGNORED + len(Ignored)]
        for why, count in zip(Ignored, words, strict=True):
            if count:
                ignored.add_metric((cluster.name, why.value), count)
    return ignored
