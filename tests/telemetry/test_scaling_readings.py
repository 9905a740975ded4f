"""What is told of scaling: as documents, as metrics, and for people."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy import scoreboard as sb
from proxy.admin.render import render_plain
from proxy.clock import SystemClock
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec, Snapshot
from proxy.telemetry.metrics import MetricsPage
from proxy.telemetry.processes import State, WorkerReport
from proxy.telemetry.status import DaemonView, clusters_document, status_document

SNAPSHOT = Snapshot(1, (), (ClusterSpec("etl", slot=1), ClusterSpec("plain", slot=0)), ())
SAID = {
    "desired": 3,
    "serving": 2,
    "starting": 1,
    "going": 0,
    "dry_run": False,
    "reason": "a burst",
    "deploy": {"stage": "baking"},
}
WORDS = {
    sb.Z_TARGET: 4, sb.Z_PINNED: 4, sb.Z_SERVING: 2, sb.Z_STARTING: 1, sb.Z_GROWN: 5, sb.Z_SHRUNK: 4,
    sb.Z_STARTS: 9, sb.Z_STARTS_FAILED: 1, sb.Z_COLD_STARTS: 2, sb.Z_WAITED: 7, sb.Z_INSTANCE_MS: 12_500,
}  # fmt: skip


@pytest.fixture
def board():
    board = Scoreboard(endpoints=4, clusters=4)
    for word, value in WORDS.items():
        board.scaling_row(1)[word] = value
    return board


def view_of(board):
    return DaemonView(board, SNAPSHOT, WorkerReport(State.READY, 1, 1), 1.0, scalers={"etl": SAID})


def test_documents(board):
    etl, plain = clusters_document(view_of(board))["clusters"]
    assert plain["scaler"] is None
    counts = {
        "starts_total": 9, "start_failures_total": 1, "cold_starts_total": 2, "waited_requests_total": 7,
        "instance_s_total": 12.5,
    }  # fmt: skip
    assert etl["scaler"] == SAID | counts


def test_for_people(board):
    status = status_document(view_of(board))
    status["clusters"] = clusters_document(view_of(board))["clusters"]
    assert "etl: 2 of 3 instances serve, 1 start; a burst; deployment baking\n" in render_plain(status)


def test_metrics(board):
    body, _ = MetricsPage(board, lambda: SNAPSHOT, SystemClock()).render("", "")
    found = {
        (sample.name.removeprefix("homeport_scaler_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.startswith("homeport_scaler_")
    }
    assert found == {
        ("desired_instances", "etl"): 3,
        ("manual", "etl"): 1,
        ("starts_total", "etl"): 9,
        ("start_failures_total", "etl"): 1,
        ("cold_starts_total", "etl"): 2,
        ("waited_requests_total", "etl"): 7,
        ("instance_seconds_total", "etl"): 12.5,
        ("instances", "etl", "serving"): 2,
        ("instances", "etl", "starting"): 1,
        ("instances", "etl", "going"): 0,
        ("changes_total", "etl", "up"): 5,
        ("changes_total", "down", "etl"): 4,
    }


def test_a_row_that_serves_another_cluster_begins_anew(board):
    board.clear_cluster(1)
    assert board.scaling_row(1).tolist() == [0] * sb.SCALING_WORDS
