"""What control counts of scaling, decoded, and its Prometheus families: series of clusters that have a scaler."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy import scoreboard as sb
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec, Snapshot
from proxy.telemetry.families import Lines, counters, gauges
from proxy.telemetry.standing_metrics import CLUSTER_LABELS

_STATES = (("serving", sb.Z_SERVING), ("starting", sb.Z_STARTING), ("going", sb.Z_GOING))
_DIRECTIONS = (("up", sb.Z_GROWN), ("down", sb.Z_SHRUNK))


@dataclass(frozen=True, slots=True)
class ScalingReading:
    """One cluster."""

    desired: int
    is_manual: bool
    starts_total: int
    starts_failed_total: int
    cold_starts_total: int
    waited_total: int
    instance_s_total: float


def read_scaling(board: Scoreboard, cluster: ClusterSpec) -> ScalingReading | None:
    """`None` of a cluster whose size nobody decides."""
    row = board.scaling_row(cluster.slot)
    if not row[sb.Z_TARGET]:
        return None
    return ScalingReading(
        desired=row[sb.Z_TARGET] - 1,
        is_manual=bool(row[sb.Z_PINNED]),
        starts_total=row[sb.Z_STARTS],
        starts_failed_total=row[sb.Z_STARTS_FAILED],
        cold_starts_total=row[sb.Z_COLD_STARTS],
        waited_total=row[sb.Z_WAITED],
        instance_s_total=row[sb.Z_INSTANCE_MS] / 1000.0,
    )


_GAUGES: Lines[ScalingReading] = (
    ("homeport_scaler_desired_instances", "Instances there should be.", lambda r: r.desired),
    ("homeport_scaler_manual", "1 while somebody has set the size by hand.", lambda r: r.is_manual),
)
_COUNTERS: Lines[ScalingReading] = (
    ("homeport_scaler_starts", "Instances that were ordered.", lambda r: r.starts_total),
    ("homeport_scaler_start_failures", "Those that never served.", lambda r: r.starts_failed_total),
    (
        "homeport_scaler_cold_starts",
        "Starts of a first instance while requests waited for it.",
        lambda r: r.cold_starts_total,
    ),
    (
        "homeport_scaler_waited_requests",
        "Requests that had to wait because no instance served.",
        lambda r: r.waited_total,
    ),
    (
        "homeport_scaler_instance_seconds",
        "Time that instances have existed, all together: what it costs.",
        lambda r: r.instance_s_total,
    ),
)


def scaling_families(board: Scoreboard, snapshot: Snapshot | None) -> Iterator[Metric]:
    """All families of scaling."""
    found = [
        (spec, read_scaling(board, spec)) for spec in (snapshot.clusters if snapshot is not None else ())
    ]
    readings = [([spec.name], reading) for spec, reading in found if reading is not None]
    yield from gauges(_GAUGES, CLUSTER_LABELS, readings)
    yield from counters(_COUNTERS, CLUSTER_LABELS, readings)
    states = GaugeMetricFamily(
        "homeport_scaler_instances", "Instances that there are.", labels=[*CLUSTER_LABELS, "state"]
    )
    changes = CounterMetricFamily(
        "homeport_scaler_changes",
        "Changes of the size that was decided.",
        labels=[*CLUSTER_LABELS, "direction"],
    )
    for spec, reading in found:
        if reading is not None:
            row = board.scaling_row(spec.slot)
            for state, word in _STATES:
                states.add_metric([spec.name, state], row[word])
            for direction, word in _DIRECTIONS:
                changes.add_metric([spec.name, direction], row[word])
    yield states
    yield changes
