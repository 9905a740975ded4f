"""Prometheus metrics: a collector that turns the scoreboard into families when it is asked.

Nothing is registered per endpoint and nothing is counted here; a scrape reads the memory that the workers
write and the names of the current snapshot. An endpoint that leaves the snapshot takes its series with it.

The label `endpoint` is the numeric address (`unix:PATH` for a Unix socket): a name that resolves to several
addresses is several endpoints, and their series must differ. `homeport_endpoint_info` joins the address to
the configured name.
"""

import gzip
import platform
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as PLAIN_TEXT
from prometheus_client.exposition import choose_encoder, generate_latest, gzip_accepted
from prometheus_client.registry import Collector

import proxy
from proxy.clock import Clock
from proxy.columns import LATENCY_BOUNDS_S
from proxy.scoreboard import (
    C_CERTIFICATE_RELOADS,
    C_CERTIFICATES_FAILING,
    C_DNS_FAILURES,
    C_DNS_LOOKUPS,
    C_RELOAD_REFUSED_LAST,
    C_RELOADED_AT,
    C_RESULTS_DROPPED,
    P_REEXECS,
    P_WANTED_WORKERS,
    RELOAD_WORDS,
    Row,
    Scoreboard,
)
from proxy.snapshot import CertificateSpec, EndpointSpec, Snapshot
from proxy.telemetry.discovery_metrics import discovery_families
from proxy.telemetry.families import Lines, counters, gauges
from proxy.telemetry.locality_metrics import locality_families
from proxy.telemetry.processes import (
    SLOT_NAMES,
    ProcessReading,
    live_workers,
    read_control,
    read_worker_process,
)
from proxy.telemetry.readings import (
    EndpointReading,
    WorkerReading,
    read_endpoints,
    read_totals,
    read_worker,
)
from proxy.telemetry.scaling import scaling_families
from proxy.telemetry.standing_metrics import ENDPOINT_LABELS, standing_families

# Upper bounds as labels, as Prometheus' clients write them.
_LE = (*(repr(bound) for bound in LATENCY_BOUNDS_S), "+Inf")

_WorkerValue = Callable[[WorkerReading], int]
_EndpointValue = Callable[[EndpointReading], int]

# (name, help, value) of the families without labels.
_WORKER_GAUGES: tuple[tuple[str, str, _WorkerValue], ...] = (
    ("homeport_downstream_connections", "Client connections open now.", lambda r: r.connections),
    ("homeport_downstream_tunnels", "Upgraded connections (WebSocket) relayed now.", lambda r: r.tunnels),
    ("homeport_downstream_exchanges", "Requests in progress.", lambda r: r.exchanges),
    (
        "homeport_buffered_bytes",
        "Bytes that wait in memory for slow readers, both directions.",
        lambda r: r.buffered_bytes,
    ),
)
_WORKER_COUNTERS: tuple[tuple[str, str, _WorkerValue], ...] = (
    (
        "homeport_downstream_accepted_connections",
        "Client connections accepted.",
        lambda r: r.accepted_total,
    ),
    (
        "homeport_downstream_requests",
        "Requests received, those that were refused included.",
        lambda r: r.requests_total,
    ),
    (
        "homeport_downstream_received_bytes",
        "Bytes of requests read from clients, counted when the exchange ends.",
        lambda r: r.received_bytes_total,
    ),
    (
        "homeport_downstream_sent_bytes",
        "Bytes sent to clients, counted when the exchange ends.",
        lambda r: r.sent_bytes_total,
    ),
    (
        "homeport_downstream_accept_errors",
        "Connections that could not be accepted (out of descriptors or memory).",
        lambda r: r.accept_errors_total,
    ),
    (
        "homeport_downstream_evicted_connections",
        "Idle client connections closed to make room for new ones.",
        lambda r: r.evicted_idle_total,
    ),
    (
        "homeport_access_log_dropped_records",
        "Access log records lost: too many at once, or the sink failed.",
        lambda r: r.access_log_dropped_total,
    ),
    (
        "homeport_messages_dropped",
        "Messages of workers to other workers and to control for which there was no room: results, news of data.",
        lambda r: r.messages_dropped_total,
    ),
)

# (name, help, value) of the families with ENDPOINT_LABELS.
_ENDPOINT_GAUGES: tuple[tuple[str, str, _EndpointValue], ...] = (
    ("homeport_upstream_in_flight_requests", "Requests the endpoint works on now.", lambda r: r.in_flight),
    ("homeport_upstream_connections", "Connections open to the endpoint.", lambda r: r.connections),
    ("homeport_upstream_idle_connections", "Connections kept for the next request.", lambda r: r.idle),
)
_ENDPOINT_COUNTERS: tuple[tuple[str, str, _EndpointValue], ...] = (
    ("homeport_upstream_connects", "Connections established.", lambda r: r.connects_total),
    (
        "homeport_upstream_connect_failures",
        "Connections refused, unreachable or not established in time.",
        lambda r: r.connect_failures_total,
    ),
    (
        "homeport_upstream_reused_connections",
        "Requests sent on a connection that had served one before.",
        lambda r: r.reused_total,
    ),
    (
        "homeport_upstream_retries",
        "Requests tried again after this endpoint failed.",
        lambda r: r.retries_total,
    ),
    (
        "homeport_upstream_failures",
        "Exchanges that failed by the endpoint's fault: not reached, timed out, answer broken.",
        lambda r: r.failures_total,
    ),
    (
        "homeport_upstream_cancelled_requests",
        "Exchanges ended because the client left.",
        lambda r: r.cancelled_total,
    ),
    (
        "homeport_upstream_sent_bytes",
        "Bytes of requests' bodies sent to the endpoint, counted when the exchange ends.",
        lambda r: r.sent_bytes_total,
    ),
    (
        "homeport_upstream_received_bytes",
        "Bytes of the endpoint's answers passed on, heads included, counted when the exchange ends.",
        lambda r: r.received_bytes_total,
    ),
)

# (name, help, word) of what control counts; the words outlive it.
_CONTROL_COUNTERS: tuple[tuple[str, str, int], ...] = (
    ("homeport_dns_lookups", "Lookups of endpoint names.", C_DNS_LOOKUPS),
    (
        "homeport_dns_failures",
        "Lookups that failed or took too long; the last addresses stay in use.",
        C_DNS_FAILURES,
    ),
    (
        "homeport_certificate_reloads",
        "Times that changed certificate files were taken into use.",
        C_CERTIFICATE_RELOADS,
    ),
    (
        "homeport_results_dropped",
        "Results of requests that workers reported too late to count, or that could not be understood.",
        C_RESULTS_DROPPED,
    ),
)

# (name, help, value) of the families with the label `process`: control, worker-0, …
_PROCESS_COUNTERS: Lines[ProcessReading] = (
    (
        "homeport_process_starts",
        "Starts of a process; each above the first replaces one.",
        lambda r: r.starts_total,
    ),
    ("homeport_process_stuck", "Times a process hung and was killed.", lambda r: r.stuck_total),
)

SnapshotSource = Callable[[], Snapshot | None]


class ScoreboardCollector(Collector):
    """The families of one daemon. `snapshot` gives the current one, `None` before the first."""

    def __init__(self, board: Scoreboard, snapshot: SnapshotSource, clock: Clock) -> None:
        self._board = board
        self._snapshot = snapshot
        self._clock = clock

    def describe(self) -> list[Metric]:
        # Without it, registering would scrape once to learn the names.
        return []

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        build = {"version": proxy.__version__, "python_version": platform.python_version()}
        yield InfoMetricFamily("homeport_build", "Version of the daemon and of its Python.", value=build)
        yield _gauge(
            "homeport_snapshot_generation",
            "Generation of the configuration snapshot that was published last.",
            snapshot.generation if snapshot else 0,
        )
        yield from self._worker_families()
        yield from self._process_families()
        row = self._board.control_row
        for name, text, word in _CONTROL_COUNTERS:
            yield CounterMetricFamily(name, text, value=row[word])
        yield from _reload_families(row)
        yield _gauge(
            "homeport_certificates_failing",
            "Listeners and clusters whose certificate files cannot be used; the last good ones are served.",
            row[C_CERTIFICATES_FAILING],
        )
        yield _certificate_ends(snapshot)
        yield from discovery_families(row)
        yield from self._endpoint_families(snapshot)
        yield from standing_families(self._board, snapshot, now=self._clock.monotonic())
        yield from locality_families(self._board, snapshot)
        yield from scaling_families(self._board, snapshot)

    def _worker_families(self) -> Iterator[Metric]:
        totals = read_totals(self._board)
        for name, text, value in _WORKER_GAUGES:
            yield _gauge(name, text, value(totals))
        for name, text, value in _WORKER_COUNTERS:
            yield CounterMetricFamily(name, text, value=value(totals))
        refusals = CounterMetricFamily(
            "homeport_refusals",
            "Exchanges that Homeport answered or cut itself, by reason.",
            labels=["reason"],
        )
        for reason, count in totals.refusals_total.items():
            refusals.add_metric([reason], count)
        yield refusals
        generations = GaugeMetricFamily(
            "homeport_worker_generation",
            "Generation of the snapshot the worker serves from.",
            labels=["worker"],
        )
        for worker in live_workers(self._board):
            generations.add_metric([str(worker)], read_worker(self._board, worker).generation)
        yield generations

    def _process_families(self) -> Iterator[Metric]:
        board = self._board
        workers = [read_worker_process(board, worker) for worker in board.used_workers]
        states = GaugeMetricFamily("homeport_workers", "Worker processes by state.", labels=["state"])
        for state in SLOT_NAMES.values():
            if state != "empty":
                states.add_metric([state], sum(each.state == state for each in workers))
        yield states
        yield _gauge(
            "homeport_workers_wanted",
            "Worker processes there should be.",
            board.parent_row[P_WANTED_WORKERS],
        )
        processes = [([reading.name], reading) for reading in (read_control(board), *workers)]
        yield from counters(_PROCESS_COUNTERS, ["process"], processes)
        yield CounterMetricFamily(
            "homeport_reexecs",
            "Times the whole daemon was replaced while it ran.",
            value=board.parent_row[P_REEXECS],
        )

    def _endpoint_families(self, snapshot: Snapshot | None) -> Iterator[Metric]:
        endpoints = _endpoints(snapshot)
        readings = [
            ((cluster, str(spec.address)), read_endpoints(self._board, [slot]))
            for slot, (cluster, spec) in endpoints.items()
        ]
        yield _requests_family(readings)
        yield _duration_family(readings)
        yield from gauges(_ENDPOINT_GAUGES, ENDPOINT_LABELS, readings)
        yield from counters(_ENDPOINT_COUNTERS, ENDPOINT_LABELS, readings)
        yield _endpoint_info(endpoints)


def _reload_families(row: Row) -> Iterator[Metric]:
    reloads = CounterMetricFamily("homeport_config_reloads", "Reloads by how they ended.", labels=["outcome"])
    for outcome, word in RELOAD_WORDS.items():
        reloads.add_metric([outcome], row[word])
    yield reloads
    yield _gauge(
        "homeport_config_last_reload_successful",
        "0 when the file has faults and the last good configuration is served.",
        not row[C_RELOAD_REFUSED_LAST],
    )
    yield _gauge(
        "homeport_config_last_reload_success_timestamp_seconds",
        "When the file was last found good after the start, in Unix time; 0 = not since.",
        row[C_RELOADED_AT],
    )


_Readings = list[tuple[tuple[str, str], EndpointReading]]


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _endpoints(snapshot: Snapshot | None) -> dict[int, tuple[str, EndpointSpec]]:
    """Cluster name and endpoint by slot; a slot has one owner, so no series appears twice."""
    clusters = snapshot.clusters if snapshot else ()
    return {spec.slot: (cluster.name, spec) for cluster in clusters for spec in cluster.endpoints}


def _requests_family(readings: _Readings) -> Metric:
    family = CounterMetricFamily(
        "data_service_requests",
        "Requests that an endpoint answered. Rare methods count as OTHER, rare statuses as 2xx to 5xx.",
        labels=(*ENDPOINT_LABELS, "method", "status"),
    )
    for labels, reading in readings:
        # Only what occurred: each endpoint has room for 8 methods × 64 statuses.
        for method, status, count in reading.answered():
            family.add_metric((*labels, method, status), count)
    return family


def _duration_family(readings: _Readings) -> Metric:
    family = HistogramMetricFamily(
        "data_service_request_duration_seconds",
        "Time from the request's head to the end of the endpoint's answer.",
        labels=ENDPOINT_LABELS,
    )
    for labels, reading in readings:
        cumulative = accumulate(reading.latency_counts)
        family.add_metric(labels, list(zip(_LE, cumulative, strict=True)), reading.latency_sum_s)
    return family


def _certificate_ends(snapshot: Snapshot | None) -> Metric:
    """When the certificates that are shown to others end."""
    family = GaugeMetricFamily(
        "homeport_certificate_expiry_timestamp_seconds",
        "End of a certificate, or of one that signs it if that is sooner, in seconds since the Unix epoch.",
        labels=["kind", "name", "position", "certificate"],
    )
    shown: list[tuple[str, str, Sequence[CertificateSpec]]] = []
    for listener in snapshot.listeners if snapshot else ():
        if listener.tls is not None:
            shown.append(("listener", listener.name, listener.tls.certificates))
    for cluster in snapshot.clusters if snapshot else ():
        if cluster.tls is not None and cluster.tls.certificate is not None:
            shown.append(("cluster", cluster.name, (cluster.tls.certificate,)))
    for kind, name, certificates in shown:
        for position, each in enumerate(certificates):
            labels = [kind, name, str(position), each.names[0] if each.names else ""]
            family.add_metric(labels, each.expires_at)
    return family


def _endpoint_info(endpoints: dict[int, tuple[str, EndpointSpec]]) -> Metric:
    info = InfoMetricFamily(
        "homeport_endpoint", "The endpoint's configured name, zone and weight.", labels=ENDPOINT_LABELS
    )
    for cluster, spec in endpoints.values():
        known = {"name": spec.name, "zone": spec.zone, "weight": str(spec.weight)}
        info.add_metric((cluster, str(spec.address)), known)
    return info


class MetricsPage:
    """What `/metrics` answers: the scoreboard's families, and those of this process."""

    def __init__(self, board: Scoreboard, snapshot: SnapshotSource, clock: Clock) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(ScoreboardCollector(board, snapshot, clock))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        """The page and its Content-Type and Content-Encoding, as the two request fields ask for.

        Takes about 10 µs a series, so a large fleet's page is better made in a thread.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = generate_latest, PLAIN_TEXT
        body = encode(self._registry)
        headers = {"Content-Type": content_type}
        if gzip_accepted(accept_encoding):
            # Level 1: a page shrinks 10 to 20 times already, higher levels take several times longer.
            body = gzip.compress(body, compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        return body, headers
