"""Routing by data: the same words as documents, as metrics, and for people."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy import scoreboard as sb
from proxy.admin.render import data_lines, render_plain
from proxy.clock import SystemClock
from proxy.model import TcpAddress
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot
from proxy.telemetry.metrics import MetricsPage
from proxy.telemetry.processes import State, WorkerReport
from proxy.telemetry.status import DaemonView, clusters_document, status_document


def endpoint(cluster, slot):
    address = TcpAddress("10.0.0.1", 9000 + slot)
    return EndpointSpec(f"{cluster}/{address}", slot, address, str(address))


DATA = ClusterSpec(
    "data", "data_locality_aware", (endpoint("data", 0), endpoint("data", 1)), ring=bytes(8), slot=0
)
SHADOWED = ClusterSpec(
    "shadowed", "round_robin", (endpoint("shadowed", 2),), shadow="data_locality_aware", slot=1
)
PLAIN = ClusterSpec("plain", "round_robin", (endpoint("plain", 3),), slot=2)
SNAPSHOT = Snapshot(1, (), (DATA, SHADOWED, PLAIN), ())
ENDPOINT_WORDS = {
    sb.E_WORK_US: 250_000,
    sb.E_DATA_HITS: 9,
    sb.E_DATA_MISSES: 1,
    sb.E_DATA_SURPRISES: 1,
    sb.E_DATA_MOVED_BYTES: 10_485_760,
}
CLUSTER_WORDS = {
    sb.K_DATA_KEYS: 40,
    sb.K_UNTRUSTED: 1,
    sb.K_PREDICTIONS: 10,
    sb.K_ERROR_US: 500_000,
    sb.K_PLAIN_ERROR_US: 1_000_000,
    sb.K_SHADOW_PICKS: 8,
    sb.K_SHADOW_DIFFERS: 3,
    sb.K_SHADOW_SAVED_US: 1_500_000,
    sb.K_SHADOW_LOST_US: 250_000,
    sb.K_NEWS_SENT: 70,
    sb.K_NEWS_DROPPED: 2,
}


@pytest.fixture
def board():
    """Two workers that counted the same, but for a key more."""
    board = Scoreboard(workers=2, endpoints=8, clusters=4)
    for worker in range(2):
        for slot in (0, 2):
            for word, value in ENDPOINT_WORDS.items():
                board.endpoint_row(worker, slot)[word] = value
        for slot in (0, 1):
            for word, value in CLUSTER_WORDS.items():
                board.cluster_row(worker, slot)[word] = value
        board.cluster_row(worker, 0)[sb.K_DATA_KEYS] += worker
    board.standing_row(0)[sb.X_RESIDENCY_ASKED] = 12
    board.standing_row(0)[sb.X_RESIDENCY_FAILED] = 5
    return board


def view(board):
    return DaemonView(board, SNAPSHOT, WorkerReport(State.READY, 1, 2), 100.0)


def test_documents(board):
    data, shadowed, plain = clusters_document(view(board))["clusters"]
    assert data["locality"] == {
        "known_keys": 41,
        "untrusted_workers": 2,
        "predictions_total": 20,
        "prediction_error_mean_s": 0.05,
        "plain_prediction_error_mean_s": 0.1,
        "news_total": 140,
        "news_dropped_total": 4,
        "shadow": None,
    }
    assert shadowed["locality"]["shadow"] == {
        "balancer": "data_locality_aware",
        "picks_total": 16,
        "differing_total": 6,
        "saved_s_total": 3.0,
        "lost_s_total": 0.5,
    }
    assert plain["locality"] is None and plain["endpoints"][0]["locality"] is None
    assert data["endpoints"][0]["locality"] == {
        "hits_total": 18,
        "misses_total": 2,
        "surprises_total": 2,
        "hit_ratio": 0.9,
        "moved_bytes_total": 20_971_520,
        "predicted_work_s": 0.5,
    }
    assert data["endpoints"][1]["locality"]["hit_ratio"] is None


def test_without_answers_there_is_no_mean():
    data = clusters_document(view(Scoreboard(workers=1, endpoints=8, clusters=4)))["clusters"][0]["locality"]
    assert data["prediction_error_mean_s"] is data["plain_prediction_error_mean_s"] is None


def labels_of(sample):
    return [sample.labels[name] for name in ("service_name", "endpoint") if name in sample.labels]


def test_metrics(board):
    page, _ = MetricsPage(board, lambda: SNAPSHOT, SystemClock()).render("", "")
    samples = {
        (sample.name.removeprefix("homeport_locality_"), *labels_of(sample)): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.name.startswith("homeport_locality_")
    }
    assert {key[1] for key in samples} == {"data", "shadowed"}
    of_endpoint = {key[0]: value for key, value in samples.items() if key[1:] == ("data", "10.0.0.1:9000")}
    assert of_endpoint == {
        "hits_total": 18,
        "misses_total": 2,
        "surprises_total": 2,
        "moved_bytes_total": 20_971_520,
        "residency_polls_total": 12,
        "residency_poll_failures_total": 5,
        "predicted_work_seconds": 0.5,
    }
    of_cluster = {key[0]: value for key, value in samples.items() if key[1:] == ("data",)}
    assert of_cluster == {
        "known_keys": 41,
        "untrusted_workers": 2,
        "prediction_error_seconds_count": 20,
        "prediction_error_seconds_sum": 1.0,
        "plain_prediction_error_seconds_count": 20,
        "plain_prediction_error_seconds_sum": 2.0,
        "news_total": 140,
        "news_dropped_total": 4,
    }
    of_shadow = {key[0]: value for key, value in samples.items() if key[1:] == ("shadowed",)}
    assert {name: value for name, value in of_shadow.items() if name.startswith("shadow_")} == {
        "shadow_picks_total": 16,
        "shadow_differing_picks_total": 6,
        "shadow_saved_seconds_total": 3.0,
        "shadow_lost_seconds_total": 0.5,
    }


def test_for_people(board):
    status = status_document(view(board))
    status["clusters"] = clusters_document(view(board))["clusters"]
    lines = data_lines(status)
    told = "data were there for 90.0 %, predictions are off by 50ms, without data by 100ms"
    assert lines == [
        f"data: {told}, 2 workers leave data out",
        f"shadowed: {told}, 2 workers leave data out",
    ]
    assert lines[0] in render_plain(status)
