"""The documents of `/api/v1/status` and `/api/v1/clusters`: an API, so names stay and fields are only added.

Numbers that only grow end in `_total`, the others are of the moment; seconds end in `_s`, bytes in `_bytes`.
What is not known is null, never left out. Nothing here comes from secrets: tokens and header edits are not in
the documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import proxy
from proxy.listener_counts import connections_of
from proxy.policy.balancer import goes_by_data
from proxy.policy.standing import Standing, are_all_open
from proxy.scoreboard import P_PID, P_REEXECS, P_STARTED_MS, P_WANTED_WORKERS, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot
from proxy.telemetry.locality import read_cluster_data, read_endpoint_data
from proxy.telemetry.processes import (
    ProcessReading,
    State,
    WorkerReport,
    live_workers,
    read_control,
    read_worker_process,
)
from proxy.telemetry.readings import EndpointReading, WorkerReading, read_endpoints, read_totals, read_worker
from proxy.telemetry.scaling import read_scaling
from proxy.telemetry.standings import (
    KINDS,
    ClusterReading,
    StandingReading,
    health_name,
    in_panic,
    next_trial_s,
    read_cluster,
    read_standing,
)

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DaemonView:
    """All that a document is made from, read at one moment."""

    board: Scoreboard
    snapshot: Snapshot | None
    """The one that was published last; `None` before the first."""
    report: WorkerReport
    now: float
    """Seconds of the monotonic clock."""
    reasons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Why endpoints are not in use, by endpoint id, as `StandingReading.why` takes it."""
    scalers: Mapping[str, Document] = field(default_factory=dict)
    """What the scaler says of clusters that it sizes, by name."""
    last_reload: Document | None = None
    """What became of the last one since control started; `None` = there was none."""
    discovery: Sequence[Document] = ()
    """The sources of endpoints besides the configuration, and how they fare."""
    certificates: Sequence[Document] = ()
    """Listeners and clusters with certificates: when the first of theirs ends, and what is wrong with the files."""


def unready_reason(view: DaemonView) -> str | None:
    """Why the daemon must not get traffic now, for people; `None` when it may.

    At the start every worker must serve and every listener be open. From then on one worker is enough: while another
    is replaced, those that are left take its share, and a whole daemon out of rotation would be worse.
    """
    if view.snapshot is None:
        return "no configuration is published yet"
    if view.report.state is not State.READY:
        return f"the daemon is {view.report.state.value}"
    if not view.snapshot.listeners and view.snapshot.drained_listeners:
        return "every listener is drained"
    missing = {spec.name for spec in view.snapshot.listeners} - {name for name, _ in view.report.listeners}
    if missing:
        return f"not open yet: listener {', '.join(sorted(missing))}"
    # One that serves the last snapshot while the next is on its way is ready.
    if view.report.serving_workers == 0:
        return "no worker serves"
    return None


def usable_endpoints(view: DaemonView, cluster: ClusterSpec) -> int:
    """How many endpoints of a cluster get requests; those that get some in panic alone do not count."""
    return sum(reading.is_usable for reading in _standings(view, cluster))


def unusable_reason(view: DaemonView, cluster: ClusterSpec) -> str | None:
    """Why a cluster must not get traffic now, for people; `None` when it may."""
    if usable_endpoints(view, cluster):
        return None
    if any(reading.standing is Standing.UNCHECKED for reading in _standings(view, cluster)):
        return "the first checks of the cluster's endpoints are not over"
    readings = _standings(view, cluster)
    if are_all_open([reading.standing for reading in readings]):
        return "all circuits of the cluster's endpoints are open"
    return "the cluster has no usable endpoint"


def find_cluster(view: DaemonView, name: str) -> ClusterSpec | None:
    """The cluster called `name` of the current snapshot."""
    clusters = view.snapshot.clusters if view.snapshot else ()
    return next((cluster for cluster in clusters if cluster.name == name), None)


def status_document(view: DaemonView) -> Document:
    """The daemon, its workers and listeners, and a summary of each cluster."""
    snapshot, report = view.snapshot, view.report
    board = view.board
    parent = board.parent_row
    workers = [
        {
            "id": worker,
            **_process(read_worker_process(board, worker), view.now),
            **_worker(read_worker(board, worker)),
        }
        for worker in live_workers(board)
    ]
    return {
        "version": proxy.__version__,
        "state": report.state.value,
        "unready_reason": unready_reason(view),
        "pid": parent[P_PID],
        "uptime_s": round(view.now - parent[P_STARTED_MS] / 1000, 3),
        "reexecs_total": parent[P_REEXECS],
        "generation": snapshot.generation if snapshot else 0,
        "applied_generation": report.applied_generation,
        "last_reload": view.last_reload,
        "discovery": list(view.discovery),
        "certificates": list(view.certificates),
        "listeners": [
            *(_listener(board, name, str(address)) for name, address in report.listeners),
            *(_listener(board, name, None) for name in _drained_listeners(snapshot)),
        ],
        "control": _process(read_control(board), view.now),
        "workers_wanted": parent[P_WANTED_WORKERS],
        "workers": workers,
        "totals": _worker(read_totals(view.board)),
        "clusters": [
            _cluster_summary(view, cluster, _standings(view, cluster)) for cluster in _clusters(snapshot)
        ],
    }


def clusters_document(view: DaemonView) -> Document:
    """Each cluster with its endpoints."""
    return {
        "generation": view.snapshot.generation if view.snapshot else 0,
        "clusters": [cluster_document(view, cluster) for cluster in _clusters(view.snapshot)],
    }


def cluster_document(view: DaemonView, cluster: ClusterSpec) -> Document:
    """One cluster: its summary and its endpoints."""
    standings = _standings(view, cluster)
    endpoints = [
        _endpoint(view, cluster, spec, reading)
        for spec, reading in zip(cluster.endpoints, standings, strict=True)
    ]
    return {**_cluster_summary(view, cluster, standings), "endpoints": endpoints}


def _clusters(snapshot: Snapshot | None) -> Sequence[ClusterSpec]:
    return snapshot.clusters if snapshot else ()


def _drained_listeners(snapshot: Snapshot | None) -> Sequence[str]:
    return snapshot.drained_listeners if snapshot else ()


def _listener(board: Scoreboard, name: str, address: str | None) -> Document:
    """`address` is `None` of one that is drained."""
    connections = sum([connections_of(board.worker_row(each), name) for each in live_workers(board)])
    return {"name": name, "address": address, "drained": address is None, "connections": connections}


def _standings(view: DaemonView, cluster: ClusterSpec) -> list[StandingReading]:
    return [read_standing(view.board, cluster, spec, now=view.now) for spec in cluster.endpoints]


def _process(reading: ProcessReading, now: float) -> Document:
    return {
        "pid": reading.pid,
        "state": reading.state,
        "process_uptime_s": round(now - reading.started_s, 3) if reading.pid else None,
        "starts_total": reading.starts_total,
        "stuck_total": reading.stuck_total,
        "last_exit_code": reading.last_exit_code if reading.starts_total > bool(reading.pid) else None,
    }


def _worker(reading: WorkerReading) -> Document:
    document = asdict(reading)
    # Thirty zeros tell nobody anything.
    document["refusals_total"] = {code: count for code, count in reading.refusals_total.items() if count}
    return document


def _cluster_summary(
    view: DaemonView, cluster: ClusterSpec, standings: Sequence[StandingReading]
) -> Document:
    reading = read_endpoints(view.board, [spec.slot for spec in cluster.endpoints])
    return {
        "name": cluster.name,
        "balancer": cluster.balancer,
        "endpoint_count": len(cluster.endpoints),
        "usable_endpoints": sum(each.is_usable for each in standings),
        "panic": in_panic(cluster, standings),
        "all_circuits_open": are_all_open([each.standing for each in standings]),
        "next_trial_in_s": _rounded(next_trial_s(standings, view.now)),
        **_queue(read_cluster(view.board, cluster)),
        "locality": _cluster_locality(view, cluster) if goes_by_data(cluster) else None,
        "scaler": _scaler(view, cluster),
        **_traffic(reading),
    }


def _scaler(view: DaemonView, cluster: ClusterSpec) -> Document | None:
    said = view.scalers.get(cluster.name)
    reading = read_scaling(view.board, cluster)
    if said is None or reading is None:
        return None
    return {
        **said,
        "starts_total": reading.starts_total,
        "start_failures_total": reading.starts_failed_total,
        "cold_starts_total": reading.cold_starts_total,
        "waited_requests_total": reading.waited_total,
        "instance_s_total": round(reading.instance_s_total, 3),
    }


def _queue(reading: ClusterReading) -> Document:
    return {
        "pending": reading.pending,
        "retrying": reading.retrying,
        "queued_total": reading.queued_total,
        "queue_wait_mean_s": _rounded(
            reading.queue_wait_s_total / reading.queued_total if reading.queued_total else None
        ),
        "queue_refused_total": reading.queue_refused_total,
        "queue_timed_out_total": reading.queue_timed_out_total,
        "queue_left_total": reading.queue_left_total,
        "request_retries_total": reading.retries_total,
        "retries_over_budget_total": reading.retries_over_budget_total,
        "panic_picks_total": reading.panic_picks_total,
    }


def _cluster_locality(view: DaemonView, cluster: ClusterSpec) -> Document:
    reading = read_cluster_data(view.board, cluster)
    shadow = {
        "balancer": cluster.shadow,
        "picks_total": reading.shadow_picks_total,
        "differing_total": reading.shadow_differing_total,
        "saved_s_total": _rounded(reading.shadow_saved_s_total),
        "lost_s_total": _rounded(reading.shadow_lost_s_total),
    }
    return {
        "known_keys": reading.known_keys,
        "untrusted_workers": reading.untrusted_workers,
        "predictions_total": reading.predictions_total,
        "prediction_error_mean_s": _rounded(reading.error_mean_s),
        "plain_prediction_error_mean_s": _rounded(reading.plain_error_mean_s),
        "news_total": reading.news_total,
        "news_dropped_total": reading.news_dropped_total,
        "shadow": shadow if cluster.shadow else None,
    }


def _endpoint_locality(view: DaemonView, spec: EndpointSpec) -> Document:
    reading = read_endpoint_data(view.board, spec.slot)
    return {
        "hits_total": reading.hits_total,
        "misses_total": reading.misses_total,
        "surprises_total": reading.surprises_total,
        "hit_ratio": None if reading.hit_ratio is None else round(reading.hit_ratio, 4),
        "moved_bytes_total": reading.moved_bytes_total,
        "predicted_work_s": _rounded(reading.work_s),
    }


def _standing(view: DaemonView, spec: EndpointSpec, reading: StandingReading) -> Document:
    is_open = not reading.circuit.state.lets_pass
    return {
        "standing": reading.standing.value,
        "why": reading.why(view.reasons.get(spec.id, {}), spec.veto),
        "circuit": reading.circuit_name,
        "circuit_trial_in_s": round(max(reading.circuit.until - view.now, 0.0), 3) if is_open else None,
        "health": health_name(reading),
        "ejected": reading.marks.is_ejected,
        "drained": reading.marks.is_drained,
        "load": reading.load,
        "circuit_openings_total": reading.openings_total,
        "ejections_total": reading.ejections_total,
        "health_checks_total": reading.checks_total,
        "health_checks_failed_total": reading.checks_failed_total,
    }


def _endpoint(
    view: DaemonView, cluster: ClusterSpec, spec: EndpointSpec, reading: StandingReading
) -> Document:
    return {
        "id": spec.id,
        "name": spec.name,
        "address": str(spec.address),
        "source": spec.source or "configuration",
        "instance": spec.instance or None,
        "zone": spec.zone or None,
        "tags": sorted(spec.tags),
        "weight": spec.weight,
        "max_connections": spec.max_connections or None,
        **_standing(view, spec, reading),
        "locality": _endpoint_locality(view, spec) if goes_by_data(cluster) else None,
        **_traffic(read_endpoints(view.board, [spec.slot])),
    }


def _traffic(reading: EndpointReading) -> Document:
    by_class = reading.by_class()
    answered = sum(by_class.values())
    return {
        "in_flight": reading.in_flight,
        "connections": reading.connections,
        "idle_connections": reading.idle,
        "requests_total": answered,
        "requests_by_status_total": by_class,
        "failures_total": reading.failures_total,
        "failures_by_kind_total": dict(zip(KINDS, reading.failure_kinds, strict=True)),
        "trials_total": reading.trials_total,
        "cancelled_total": reading.cancelled_total,
        "retries_total": reading.retries_total,
        "connects_total": reading.connects_total,
        "connect_failures_total": reading.connect_failures_total,
        "reused_connections_total": reading.reused_total,
        "sent_bytes_total": reading.sent_bytes_total,
        "received_bytes_total": reading.received_bytes_total,
        "latency": _latency(reading),
    }


def _latency(reading: EndpointReading) -> Document:
    """Estimates from the histogram; null without answers."""
    count = sum(reading.latency_counts)
    return {
        "count_total": count,
        "mean_s": _rounded(reading.latency_sum_s / count if count else None),
        "p50_s": _rounded(reading.quantile_s(0.5)),
        "p90_s": _rounded(reading.quantile_s(0.9)),
        "p99_s": _rounded(reading.quantile_s(0.99)),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
