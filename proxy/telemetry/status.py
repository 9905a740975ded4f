"""The documents of `/api/v1/status` and `/api/v1/clusters`: an API, so names stay and fields are only added.

Numbers that only grow end in `_total`, the others are of the moment; seconds end in `_s`, bytes in `_bytes`.
What is not known is null, never left out. Nothing here comes from secrets: tokens and header edits are not in
the documents.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import proxy
from proxy.scoreboard import P_PID, P_REEXECS, P_STARTED_MS, P_WANTED_WORKERS, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot
from proxy.telemetry.processes import (
    ProcessReading,
    State,
    WorkerReport,
    live_workers,
    read_control,
    read_worker_process,
)
from proxy.telemetry.readings import EndpointReading, WorkerReading, read_endpoints, read_totals, read_worker

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


def unready_reason(view: DaemonView) -> str | None:
    """Why the daemon must not get traffic now, for people; `None` when it may."""
    if view.snapshot is None:
        return "no configuration is published yet"
    if view.report.state is not State.READY:
        return f"the daemon is {view.report.state.value}"
    missing = {spec.name for spec in view.snapshot.listeners} - {name for name, _ in view.report.listeners}
    if missing:
        return f"not open yet: listener {', '.join(sorted(missing))}"
    # A daemon that serves the last snapshot while the next is on its way is ready; one without any is not.
    if view.report.applied_generation == 0:
        return "no configuration is applied by all workers yet"
    return None


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
        "listeners": [{"name": name, "address": str(address)} for name, address in report.listeners],
        "control": _process(read_control(board), view.now),
        "workers_wanted": parent[P_WANTED_WORKERS],
        "workers": workers,
        "totals": _worker(read_totals(view.board)),
        "clusters": [_cluster_summary(view.board, cluster) for cluster in _clusters(snapshot)],
    }


def clusters_document(view: DaemonView) -> Document:
    """Each cluster with its endpoints."""
    return {
        "generation": view.snapshot.generation if view.snapshot else 0,
        "clusters": [cluster_document(view.board, cluster) for cluster in _clusters(view.snapshot)],
    }


def cluster_document(board: Scoreboard, cluster: ClusterSpec) -> Document:
    """One cluster: its summary and its endpoints."""
    endpoints = [_endpoint(board, spec) for spec in cluster.endpoints]
    return {**_cluster_summary(board, cluster), "endpoints": endpoints}


def _clusters(snapshot: Snapshot | None) -> Sequence[ClusterSpec]:
    return snapshot.clusters if snapshot else ()


def _process(reading: ProcessReading, now: float) -> Document:
    return {
        "pid": reading.pid,
        "state": reading.state,
        "process_uptime_s": round(now - reading.started_s, 3) if reading.pid else None,
        "starts_total": reading.starts_total,
        "stuck_total": reading.stuck_total,
        "last_exit_code": reading.last_exit_code if reading.starts_total > 1 else None,
    }


def _worker(reading: WorkerReading) -> Document:
    document = asdict(reading)
    # Thirty zeros tell nobody anything.
    document["refusals_total"] = {code: count for code, count in reading.refusals_total.items() if count}
    return document


def _cluster_summary(board: Scoreboard, cluster: ClusterSpec) -> Document:
    reading = read_endpoints(board, [spec.slot for spec in cluster.endpoints])
    return {
        "name": cluster.name,
        "balancer": cluster.balancer,
        "endpoint_count": len(cluster.endpoints),
        **_traffic(reading),
    }


def _endpoint(board: Scoreboard, spec: EndpointSpec) -> Document:
    return {
        "id": spec.id,
        "name": spec.name,
        "address": str(spec.address),
        "zone": spec.zone or None,
        "tags": sorted(spec.tags),
        "weight": spec.weight,
        "max_connections": spec.max_connections or None,
        **_traffic(read_endpoints(board, [spec.slot])),
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
