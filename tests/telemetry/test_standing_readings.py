"""Standings, circuits, queues and panic: the same words as documents and as metrics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy import scoreboard as sb
from proxy.admin.render import trouble_lines
from proxy.clock import SystemClock
from proxy.model import TcpAddress
from proxy.policy.breaker import Circuit, CircuitState
from proxy.policy.failures import FailureKind
from proxy.policy.health import HealthState
from proxy.policy.ignored import Ignored
from proxy.policy.slow_start import SlowStartParams
from proxy.policy.standing import Marks, PanicParams
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot
from proxy.telemetry.metrics import MetricsPage
from proxy.telemetry.processes import State, WorkerReport
from proxy.telemetry.status import (
    DaemonView,
    cluster_document,
    status_document,
    unusable_reason,
    usable_endpoints,
)

ENDPOINTS = tuple(
    EndpointSpec(f"etl/10.0.0.{n}:9000", n, TcpAddress(f"10.0.0.{n}", 9000), f"10.0.0.{n}:9000")
    for n in range(7)
)
ETL = ClusterSpec(
    "etl", endpoints=ENDPOINTS, slow_start=SlowStartParams(window_s=30.0), panic=PanicParams(60.0), slot=1
)
SNAPSHOT = Snapshot(1, (), (ETL,), (), drained_listeners=("edge",))
NOW = 100.0


class Clock(SystemClock):
    def monotonic(self):
        return NOW


@pytest.fixture
def board():
    """One endpoint of each standing, in the order of precedence."""
    board = Scoreboard(workers=2, endpoints=8, clusters=4)
    marks = [
        Marks(is_drained=True, health=HealthState.UNHEALTHY),
        Marks(),
        Marks(health=HealthState.UNHEALTHY, is_ejected=True),
        Marks(health=HealthState.UNKNOWN),
        Marks(is_ejected=True, since=99.0),
        Marks(since=90.0),
        Marks(since=10.0),
    ]
    for slot, each in enumerate(marks):
        board.standing_row(slot)[sb.X_MARKS] = each.pack()
    board.standing_row(1)[sb.X_CIRCUIT] = Circuit(CircuitState.OPEN, 3, 112.5).pack()
    board.standing_row(6)[sb.X_CIRCUIT] = Circuit(CircuitState.SUSPECT).pack()
    board.standing_row(3)[sb.X_CHECK_BY_MS] = int(NOW * 1000) + 1
    row = board.standing_row(6)
    row[sb.X_LOAD_PERMILLE] = 701
    for word in range(sb.STANDING_GAUGES, sb.STANDING_WORDS):
        row[word] = word
    for worker in range(2):
        for word in range(sb.CLUSTER_WORDS):
            board.cluster_row(worker, ETL.slot)[word] = 10 * word + worker
        row = board.endpoint_row(worker, 6)
        row[sb.E_TRIALS] = 4
        for index in range(len(FailureKind)):
            row[sb.E_FAILURE_KINDS + index] = index
    return board


def view(board, **reasons):
    report = WorkerReport(State.READY, 1, 2)
    return DaemonView(board, SNAPSHOT, report, NOW, {ENDPOINTS[1].id: reasons})


def test_standings_in_words(board):
    document = cluster_document(view(board, circuit="5 failures in a row"), ETL)
    told = [(each["standing"], each["circuit"], each["health"]) for each in document["endpoints"]]
    assert told == [
        ("drained", "closed", "unhealthy"),
        ("circuit open", "open", None),
        ("unhealthy", "closed", "unhealthy"),
        ("not checked yet", "closed", "unknown"),
        ("ejected", "closed", None),
        ("slow start", "closed", None),
        ("ready", "closed", "healthy"),
    ]
    whys = [each["why"] for each in document["endpoints"]]
    assert whys[1] == "5 failures in a row" and whys[6] is None and all(whys[:6])
    assert [each["circuit_trial_in_s"] for each in document["endpoints"]][:2] == [None, 12.5]
    last = document["endpoints"][6]
    assert (last["load"], last["trials_total"], document["endpoints"][0]["load"]) == (0.7, 8, None)
    names = ("circuit_openings", "ejections", "health_checks", "health_checks_failed")
    assert [last[f"{name}_total"] for name in names] == [
        sb.X_OPENINGS,
        sb.X_EJECTIONS,
        sb.X_CHECKS,
        sb.X_CHECKS_FAILED,
    ]
    assert last["failures_by_kind_total"]["connect_failure"] == 0
    assert last["failures_by_kind_total"]["429"] == 2 * (len(FailureKind) - 1)


def test_a_cluster_in_words(board):
    document = status_document(view(board))["clusters"][0]
    assert document["usable_endpoints"] == usable_endpoints(view(board), ETL) == 2
    assert document["panic"] is True, "2 of the 6 that are wanted, and one that may be"
    assert document["pending"] == 20 * sb.K_PENDING + 1
    assert document["panic_picks_total"] == 20 * sb.K_PANIC_PICKS + 1
    assert document["queue_wait_mean_s"] == pytest.approx(181e-6 / 161, abs=1e-6)
    assert status_document(view(board))["listeners"] == [
        {"name": "edge", "address": None, "drained": True, "connections": 0}
    ]


def test_all_circuits_are_open(board):
    """The next trial is that of the first whose checks do not fail; nobody panics, for nobody would get anything."""
    for spec in ENDPOINTS:
        board.standing_row(spec.slot)[sb.X_MARKS] = 0
        board.standing_row(spec.slot)[sb.X_CIRCUIT] = Circuit(
            CircuitState.OPEN, 3, NOW + 9 + spec.slot
        ).pack()
    seen = view(board)
    document = cluster_document(seen, ETL)
    first = min(spec.slot for spec in ENDPOINTS)
    assert (document["all_circuits_open"], document["next_trial_in_s"]) == (True, 9.0 + first)
    assert document["panic"] is False
    assert unusable_reason(seen, ETL) == "all circuits of the cluster's endpoints are open"
    (line, *_) = trouble_lines({"clusters": [document]})
    assert line.startswith("etl: ")
    assert line.endswith(f"requests wait, all circuits are open, the next trial is in {9 + first} s")
    assert "panic" not in line
    board.standing_row(first)[sb.X_CIRCUIT] = 0
    document = cluster_document(seen, ETL)
    assert (document["all_circuits_open"], document["next_trial_in_s"]) == (False, None)


def test_metrics(board):
    body, _ = MetricsPage(board, lambda: SNAPSHOT, Clock()).render("", "")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}

    def values(name):
        return [sample.value for sample in families[name].samples]

    assert values("homeport_upstream_usable") == [0, 0, 0, 0, 0, 1, 1]
    assert values("homeport_upstream_circuit_state") == [0, 1, 0, 0, 0, 0, 0]
    assert values("homeport_upstream_healthy") == [0, 1, 0, 0, 1, 1, 1]
    assert values("homeport_upstream_ejected") == [0, 0, 1, 0, 1, 0, 0]
    assert values("homeport_upstream_drained") == [1, 0, 0, 0, 0, 0, 0]
    assert values("homeport_upstream_reported_load_ratio") == [0.7]
    standings = [sample.labels["standing"] for sample in families["homeport_upstream_standing"].samples]
    assert standings[:2] == ["drained", "circuit open"] and len(standings) == 7
    assert values("homeport_upstream_circuit_openings")[6] == sb.X_OPENINGS
    assert values("homeport_upstream_ejections")[6] == sb.X_EJECTIONS
    assert values("homeport_upstream_health_checks")[6] == sb.X_CHECKS
    assert values("homeport_upstream_health_check_failures")[6] == sb.X_CHECKS_FAILED
    kinds = {
        sample.labels["kind"]: sample.value for sample in families["homeport_upstream_failed_tries"].samples
    }
    assert kinds["timeout"] == 2 and "connect_failure" not in kinds
    words = {
        "homeport_cluster_pending_requests": sb.K_PENDING,
        "homeport_cluster_retrying_requests": sb.K_RETRYING,
        "homeport_cluster_queued_requests": sb.K_QUEUED,
        "homeport_cluster_queue_refused_requests": sb.K_QUEUE_REFUSED,
        "homeport_cluster_queue_timed_out_requests": sb.K_QUEUE_TIMED_OUT,
        "homeport_cluster_queue_left_requests": sb.K_QUEUE_LEFT,
        "homeport_cluster_retries": sb.K_RETRIES,
        "homeport_cluster_retries_over_budget": sb.K_RETRIES_OVER_BUDGET,
        "homeport_cluster_panic_picks": sb.K_PANIC_PICKS,
    }
    for name, word in words.items():
        assert values(name) == [20 * word + 1], name
    assert values("homeport_cluster_panic") == [1] and values("homeport_cluster_usable_endpoints") == [2]
    reasons = {
        sample.labels["reason"]: sample.value
        for sample in families["homeport_cluster_ignored_data_values"].samples
    }
    assert reasons == {why.value: 20 * (sb.K_IGNORED + number) + 1 for number, why in enumerate(Ignored)}
    assert values("homeport_results_dropped") == [0]
