"""The scoreboard as metrics and documents: each word shows where it should, under its name."""

import gzip

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import proxy
from proxy import scoreboard as sb
from proxy.answer_words import latency_index, request_index
from proxy.clock import SystemClock
from proxy.columns import LATENCY_BOUNDS_S, METHODS, STATUS_COLUMNS
from proxy.errors import REASON_INDEX, Reason
from proxy.model import TcpAddress, UnixAddress
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, ListenerSpec, Snapshot
from proxy.telemetry.metrics import MetricsPage
from proxy.telemetry.processes import State, WorkerReport
from proxy.telemetry.readings import quantile, read_endpoints
from proxy.telemetry.status import (
    DaemonView,
    cluster_document,
    clusters_document,
    status_document,
    unready_reason,
)

A = EndpointSpec(
    "etl/10.0.0.1:9000", 3, TcpAddress("10.0.0.1", 9000), "query:9000", 2, 7, "z1", frozenset("ba")
)
B = EndpointSpec("etl/10.0.0.2:9000", 5, TcpAddress("10.0.0.2", 9000), "query:9000")
C = EndpointSpec('odd/unix:/run/"x"', 0, UnixAddress('/run/"x"'), 'unix:/run/"x"')
EDGE = ListenerSpec("edge", TcpAddress("127.0.0.1", 0))
SNAPSHOT = Snapshot(
    4, (EDGE,), (ClusterSpec("etl", endpoints=(A, B)), ClusterSpec("odd", endpoints=(C,))), ()
)
READY = WorkerReport(State.READY, 4, 2, (("edge", TcpAddress("127.0.0.1", 8080)),))


@pytest.fixture
def board():
    """Two workers; each word holds a number that says which it is."""
    board = Scoreboard(workers=2, endpoints=8)
    for word in range(sb.PARENT_WORDS):
        board.parent_row[word] = word + 20
    board.parent_row[sb.P_USED_SLOTS] = 2
    board.control_row[sb.C_DNS_LOOKUPS] = 5
    for worker in range(2):
        row = board.slot_row(worker)
        for word in range(sb.SLOT_WORDS):
            row[word] = 10 * word + worker
        row[sb.S_STATE] = sb.SLOT_SERVING
        row = board.worker_row(worker)
        for word in range(sb.W_REFUSALS):
            row[word] = 100 * word + worker
        row[sb.W_REFUSALS + REASON_INDEX[Reason.NO_ROUTE]] = 11 + worker
        row = board.endpoint_row(worker, A.slot)
        for word in range(sb.E_LATENCY):
            row[word] = 1000 * word + worker
        row[request_index(b"GET", 200)] = 50 + worker
        row[request_index(b"BREW", 418)] = 3
        row[request_index(b"POST", 299)] = 2
        row[latency_index(0.0001)] = 10
        row[latency_index(0.3)] = 5
        row[latency_index(9999.0)] = 1
    return board


def families(board, snapshot=SNAPSHOT, accept="", parse=parse_text):
    body, headers = MetricsPage(board, lambda: snapshot, SystemClock()).render(accept, "")
    assert headers["Content-Type"].startswith("application/openmetrics" if accept else "text/plain")
    return {family.name: family for family in parse(body.decode())}


def values(family, *names):
    return {tuple(s.labels[name] for name in names): s.value for s in family.samples}


@pytest.mark.parametrize(
    "accept, parse", [("", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)]
)
def test_every_word_is_a_sample_with_help(board, accept, parse):
    found = families(board, accept=accept, parse=parse)
    assert all(family.documentation for family in found.values())
    workers = {
        "homeport_downstream_connections": sb.W_CONNECTIONS,
        "homeport_downstream_tunnels": sb.W_TUNNELS,
        "homeport_downstream_exchanges": sb.W_EXCHANGES,
        "homeport_buffered_bytes": sb.W_BUFFERED_BYTES,
        "homeport_downstream_accepted_connections": sb.W_ACCEPTED,
        "homeport_downstream_requests": sb.W_REQUESTS,
        "homeport_downstream_received_bytes": sb.W_RECEIVED_BYTES,
        "homeport_downstream_sent_bytes": sb.W_SENT_BYTES,
        "homeport_downstream_accept_errors": sb.W_ACCEPT_ERRORS,
        "homeport_downstream_evicted_connections": sb.W_EVICTED_IDLE,
        "homeport_access_log_dropped_records": sb.W_LOG_DROPPED,
        "homeport_messages_dropped": sb.W_MESSAGES_DROPPED,
    }
    for name, word in workers.items():
        assert values(found[name]) == {(): 2 * 100 * word + 1}, name
    endpoints = {
        "homeport_upstream_in_flight_requests": sb.E_IN_FLIGHT,
        "homeport_upstream_connections": sb.E_CONNECTIONS,
        "homeport_upstream_idle_connections": sb.E_IDLE,
        "homeport_upstream_connects": sb.E_CONNECTS,
        "homeport_upstream_connect_failures": sb.E_CONNECT_FAILURES,
        "homeport_upstream_reused_connections": sb.E_REUSED,
        "homeport_upstream_retries": sb.E_RETRIES,
        "homeport_upstream_failures": sb.E_FAILURES,
        "homeport_upstream_cancelled_requests": sb.E_CANCELLED,
        "homeport_upstream_sent_bytes": sb.E_SENT_BYTES,
        "homeport_upstream_received_bytes": sb.E_RECEIVED_BYTES,
    }
    for name, word in endpoints.items():
        got = values(found[name], "service_name", "endpoint")
        assert got[("etl", "10.0.0.1:9000")] == board.endpoint_sum(A.slot)[word], name
        assert got[("etl", "10.0.0.2:9000")] == got[("odd", 'unix:/run/"x"')] == 0
    refusals = values(found["homeport_refusals"], "reason")
    assert refusals[("no_route",)] == 23 and refusals[("bad_host",)] == 0 and len(refusals) == len(Reason)
    assert values(found["homeport_snapshot_generation"]) == {(): 4}
    assert values(found["homeport_worker_generation"], "worker") == {("0",): 400, ("1",): 401}


def test_requests_by_method_and_status(board):
    family = families(board)["data_service_requests"]
    assert values(family, "service_name", "endpoint", "method", "status") == {
        ("etl", "10.0.0.1:9000", "GET", "200"): 101,
        ("etl", "10.0.0.1:9000", "OTHER", "418"): 6,
        ("etl", "10.0.0.1:9000", "POST", "2xx"): 4,
    }
    assert {sample.name for sample in family.samples} == {"data_service_requests_total"}


def test_duration_is_a_cumulative_histogram_in_seconds(board):
    family = families(board)["data_service_request_duration_seconds"]
    mine = [sample for sample in family.samples if sample.labels["endpoint"] == "10.0.0.1:9000"]
    buckets = {s.labels["le"]: s.value for s in mine if s.name.endswith("_bucket")}
    assert len(buckets) == len(LATENCY_BOUNDS_S) + 1
    assert (buckets["0.0001"], buckets["0.2"], buckets["0.5"]) == (20, 20, 30)
    assert (buckets["500.0"], buckets["+Inf"]) == (30, 32)
    rest = {s.name.rpartition("_")[2]: s.value for s in mine if not s.name.endswith("_bucket")}
    assert rest == {"count": 32, "sum": pytest.approx((2000 * sb.E_LATENCY_SUM_US + 1) / 1e6)}


def test_info_build_and_process(board):
    found = families(board)
    (build,) = found["homeport_build_info"].samples
    assert build.labels["version"] == proxy.__version__
    names = values(found["homeport_endpoint_info"], "endpoint", "name", "zone", "weight")
    assert ("10.0.0.1:9000", "query:9000", "z1", "2") in names and len(names) == 3
    assert found["process_resident_memory_bytes"].samples[0].value > 0


def test_counters_of_control(board):
    assert values(families(board)["homeport_dns_lookups"]) == {(): 5}


def test_processes(board):
    found = families(board)
    assert values(found["homeport_workers"], "state") == {("serving",): 2, ("retiring",): 0, ("waiting",): 0}
    assert values(found["homeport_workers_wanted"]) == {(): 20 + sb.P_WANTED_WORKERS}
    starts = values(found["homeport_process_starts"], "process")
    assert starts == {
        ("control",): 20 + sb.P_CONTROL_STARTS,
        ("worker-0",): 10 * sb.S_STARTS,
        ("worker-1",): 10 * sb.S_STARTS + 1,
    }
    stuck = values(found["homeport_process_stuck"], "process")
    assert stuck[("control",)] == 20 + sb.P_CONTROL_STUCK and stuck[("worker-1",)] == 10 * sb.S_STUCK + 1
    assert values(found["homeport_reexecs"]) == {(): 20 + sb.P_REEXECS}


def test_before_the_first_snapshot_there_are_no_endpoints(board):
    found = families(board, snapshot=None)
    assert values(found["homeport_snapshot_generation"]) == {(): 0}
    assert "data_service_requests" in found and not found["data_service_requests"].samples


def test_gzip_and_odd_accept_fields(board):
    page = MetricsPage(board, lambda: SNAPSHOT, SystemClock())
    plain, _ = page.render("", "")
    packed, headers = page.render("text/plain", "br, gzip;q=0.5")
    assert headers["Content-Encoding"] == "gzip"
    assert b"data_service_requests_total" in gzip.decompress(packed) and len(packed) < len(plain) / 4
    for accept in ("application/openmetrics-text; version=what", "*/*", ";;,=", "text/plain; version=x"):
        body, headers = page.render(accept, "identity")
        assert b"homeport_build_info" in body and "Content-Encoding" not in headers


@pytest.mark.parametrize(
    "counts, ratio, expected",
    [
        ((4, 4, 0), 0.75, 1.5),  # the 6th of 8, half way into (1, 2]
        ((4, 4, 0), 0.25, 0.5),
        ((0, 4, 0), 1.0, 2.0),
        ((0, 4, 0), 0.0, 1.0),
        ((0, 0, 3), 0.5, 2.0),  # above all bounds: the last is all that is known
        ((1, 0, 1), 0.5, 1.0),
        ((0, 0, 0), 0.5, None),
    ],
)
def test_quantile_by_hand(counts, ratio, expected):
    assert quantile((1.0, 2.0), counts, ratio) == expected


def view(board, **changed):
    return DaemonView(
        **{"board": board, "snapshot": SNAPSHOT, "report": READY, "now": 1.23456 + 0.025} | changed
    )


def test_status_document(board):
    document = status_document(view(board))
    assert document["version"] == proxy.__version__
    assert (document["state"], document["unready_reason"], document["uptime_s"]) == ("ready", None, 1.235)
    assert (document["generation"], document["applied_generation"], document["pid"]) == (4, 4, 20)
    assert document["listeners"] == [
        {"name": "edge", "address": "127.0.0.1:8080", "drained": False, "connections": 0}
    ]
    assert [worker["id"] for worker in document["workers"]] == [0, 1]
    assert [worker["pid"] for worker in document["workers"]] == [None, 1]
    assert document["workers"][1]["last_exit_code"] == 10 * sb.S_EXIT + 1
    assert document["control"]["pid"] == 20 + sb.P_CONTROL_PID
    assert document["reexecs_total"] == 20 + sb.P_REEXECS
    assert document["workers"][1]["connections"] == 100 * sb.W_CONNECTIONS + 1
    assert document["totals"]["requests_total"] == 2 * 100 * sb.W_REQUESTS + 1
    assert document["totals"]["generation"] == 400
    assert document["totals"]["refusals_total"] == {"no_route": 23}
    etl, odd = document["clusters"]
    assert (etl["name"], etl["endpoint_count"], etl["requests_total"]) == ("etl", 2, 111)
    assert (odd["requests_total"], odd["latency"]["p99_s"]) == (0, None)


def test_cluster_document(board):
    document = cluster_document(view(board), SNAPSHOT.clusters[0])
    first = document["endpoints"][0]
    assert (first["id"], first["address"], first["name"]) == (A.id, "10.0.0.1:9000", "query:9000")
    assert (first["weight"], first["max_connections"], first["zone"], first["tags"]) == (
        2,
        7,
        "z1",
        ["a", "b"],
    )
    assert (first["in_flight"], first["connections"], first["idle_connections"]) == (1, 2001, 4001)
    assert first["requests_by_status_total"] == {
        "1xx": 0,
        "2xx": 105,
        "3xx": 0,
        "4xx": 6,
        "5xx": 0,
        "other": 0,
    }
    # 20 in (0, 0.1 ms], 10 in (0.2 s, 0.5 s], 2 above: the 16th is 80 % into the first bucket, the 28.8th
    # 88 % into the second.
    assert first["latency"]["p50_s"] == pytest.approx(0.00008)
    assert first["latency"]["p90_s"] == pytest.approx(0.2 + 0.3 * 0.88)
    assert first["latency"]["p99_s"] == 500.0
    assert document["endpoints"][1]["max_connections"] is None
    assert clusters_document(view(board))["clusters"][0] == document
    assert read_endpoints(board, []).requests == (0,) * (len(METHODS) * STATUS_COLUMNS)


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({}, None),
        ({"snapshot": None}, "no configuration is published yet"),
        ({"report": WorkerReport(State.STARTING, 0, 0)}, "the daemon is starting"),
        ({"report": WorkerReport(State.DRAINING, 4, 2, READY.listeners)}, "the daemon is draining"),
        ({"report": WorkerReport(State.READY, 4, 2)}, "not open yet: listener edge"),
        (
            {"report": WorkerReport(State.READY, 0, 0, READY.listeners)},
            "no worker serves",
        ),
        ({"report": WorkerReport(State.READY, 0, 1, READY.listeners)}, None),
        ({"report": WorkerReport(State.READY, 3, 2, READY.listeners)}, None),
        (
            {"snapshot": Snapshot(4, (), (), (), drained_listeners=("edge",))},
            "every listener is drained",
        ),
    ],
)
def test_unready_reason(board, changed, reason):
    assert unready_reason(view(board, **changed)) == reason
