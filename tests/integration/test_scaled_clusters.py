"""A daemon that starts, heals and retires the instances of a cluster: real processes, real requests."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import settings
from support.daemon import ROOT, Daemon, StartDaemon
from support.wait import LIMIT_S, wait_for

SLEEPER = Path(__file__).parents[1] / "support" / "sleeper.py"
LONG_S = 4 * LIMIT_S
Document = dict[str, Any]


def scaled(*options: str, process: Document | None = None, **scaler: Any) -> Document:
    """One cluster of sleepers."""
    command = [sys.executable, "-S", str(SLEEPER), "{port}", *options]
    quick = {
        "max_connections": 4,
        "stable_window": "3s",
        "panic_window": "1s",
        "scale_up_cooldown": "500ms",
        "scale_down_cooldown": "1s",
        "stabilisation": "3s",
        "start_time": "1s",
        "cpu_threshold": 0,
        "memory_threshold": 0,
    }
    return {
        "listeners": [settings.listener()],
        "workers": 2,
        "clusters": [
            {
                "name": "etl",
                "queue": {"timeout": "30s"},
                "health_check": {"path": "/", "interval": "500ms", "unhealthy_interval": "200ms"},
                "scaler": {
                    "driver": "process",
                    "process": {"command": command, "stop_grace": "5s", **(process or {})},
                    **quick,
                    **scaler,
                },
            }
        ],
        "routes": [settings.route("etl", path_prefix="/")],
    }


def section(daemon: Daemon) -> Document:
    """What the daemon says of the cluster's scaler."""
    return next(one["scaler"] for one in daemon.status()["clusters"] if one["name"] == "etl")


def has(daemon: Daemon, serving: int) -> bool:
    """Whether so many instances serve, and no other is there."""
    said = section(daemon)
    return (said["serving"], said["starting"], said["going"]) == (serving, 0, 0)


def pids(daemon: Daemon) -> list[int]:
    """Those of the instances that serve."""
    return [
        int(one["id"].rpartition("-")[2]) for one in section(daemon)["instances"] if one["phase"] == "serving"
    ]


def get(daemon: Daemon, target: str = "/") -> tuple[int, bytes]:
    host, port = daemon.address()
    connection = http.client.HTTPConnection(str(host), int(port), timeout=LONG_S)
    try:
        connection.request("GET", target)
        with connection.getresponse() as reply:
            return reply.status, reply.read()
    finally:
        connection.close()


def ask(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the command says."""
    admin = f"http://{daemon.config['admin']['bind']}"
    command = [sys.executable, "-m", "proxy", *arguments, "--admin", admin]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG_S)


def told(daemon: Daemon, text: str) -> str:
    """The log's first line with `text`, once it is there."""

    def found() -> str:
        return next((line for line in daemon.stderr().splitlines() if text in line), "")

    return wait_for(found, f"the log to say {text!r}", LONG_S)


class Load:
    """Clients that ask one after the other, for `seconds` of work each."""

    def __init__(self, daemon: Daemon, clients: int, seconds: float) -> None:
        self._daemon = daemon
        self._target = f"/?s={seconds}"
        self.answered = 0
        self.failures: list[str] = []
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                status, body = get(self._daemon, self._target)
            except OSError as error:
                self.failures.append(repr(error))
            else:
                if status != 200:
                    self.failures.append(f"{status} {body!r}")
                self.answered += 1

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(LONG_S)


@pytest.fixture
def start(start_daemon: StartDaemon) -> Iterator[Any]:
    """Starts a daemon, and stops it in order at the end."""
    started: list[Daemon] = []

    def run(config: Document) -> Daemon:
        started.append(start_daemon(config))
        return started[-1]

    yield run
    for daemon in started:
        daemon.stop()


def test_a_burst_is_answered_by_more_instances_and_none_is_lost_on_the_way_back(start: Any) -> None:
    daemon = start(scaled(max_instances=5))
    wait_for(lambda: has(daemon, 2), "two instances", LONG_S)
    load = Load(daemon, clients=16, seconds=0.1)
    wait_for(lambda: section(daemon)["serving"] >= 4, "more instances under load", LONG_S)
    victim = pids(daemon)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in pids(daemon), "its death to be seen", LONG_S)
    wait_for(lambda: section(daemon)["serving"] >= 4, "another one in its place", LONG_S)
    load.end()
    few = Load(daemon, clients=1, seconds=0.05)
    wait_for(lambda: has(daemon, 2), "two instances again", LONG_S)
    few.end()
    assert load.failures == [] == few.failures
    assert load.answered > 50
    said = section(daemon)
    assert said["starts_total"] >= 5 and said["instance_s_total"] > 0
    metrics = daemon.metrics()
    assert metrics['homeport_scaler_instances{service_name="etl",state="serving"}'] == 2
    assert metrics['homeport_scaler_changes_total{direction="up",service_name="etl"}'] >= 2
    assert "asks for" in told(daemon, "instances instead of 2")


def test_the_first_request_of_a_cluster_at_rest_waits_for_its_instance(start: Any) -> None:
    daemon = start(
        scaled("--ready-after=1", min_instances=1, scale_to_zero=True, idle="1s", scale_down_cooldown="500ms")
    )
    wait_for(lambda: has(daemon, 0) and section(daemon)["desired"] == 0, "the cluster to be at rest", LONG_S)
    status, body = get(daemon)
    assert status == 200 and int(body) == pids(daemon)[0]
    said = section(daemon)
    assert said["cold_starts_total"] == 1 and said["waited_requests_total"] >= 1
    wait_for(lambda: has(daemon, 0), "it to be at rest again", LONG_S)


def test_what_never_gets_healthy_is_removed_with_its_last_words(start: Any) -> None:
    daemon = start(scaled("--never", start_timeout="1s", min_instances=3))
    line = told(daemon, "instance failed: not healthy within 1 s")
    assert "the next start in 1 s at least" in line
    told(daemon, "the catalogue is not there")
    wait_for(lambda: section(daemon)["failed_starts_in_a_row"] >= 2, "another try", LONG_S)
    assert section(daemon)["starting"] <= 1
    assert section(daemon)["start_failures_total"] <= 6


def test_an_instance_that_hangs_is_replaced(start: Any) -> None:
    daemon = start(scaled(restart_grace="1s", drain_timeout="1s", process={"stop_grace": "500ms"}))
    wait_for(lambda: has(daemon, 2), "two instances", LONG_S)
    victim = pids(daemon)[0]
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: has(daemon, 2) and victim not in pids(daemon), "another one in its place", LONG_S)
    wait_for(lambda: not Path(f"/proc/{victim}").exists(), "the end of the one that hung", LONG_S)


def test_a_size_set_by_hand_outlives_control_and_reloads(start: Any) -> None:
    daemon = start(scaled())
    wait_for(lambda: has(daemon, 2), "two instances", LONG_S)
    answer = ask(daemon, "scale", "etl", "4")
    assert answer.returncode == 0 and answer.stdout.startswith(
        "etl: 2 of 4 instances serve, 2 start; set to 4"
    )
    wait_for(lambda: has(daemon, 4), "four instances", LONG_S)
    first = pids(daemon)
    os.kill(daemon.status()["control"]["pid"], signal.SIGKILL)
    load = Load(daemon, clients=2, seconds=0.01)

    def are_others() -> bool:
        try:
            return set(pids(daemon)).isdisjoint(first) and has(daemon, 4)
        except (OSError, TypeError):
            return False  # nobody answers, or the next control has not begun to scale

    wait_for(are_others, "four others", LONG_S)
    load.end()
    assert section(daemon)["mode"] == "manual"
    daemon.config["clusters"][0]["scaler"]["max_instances"] = 3
    daemon.rewrite()
    wait_for(lambda: has(daemon, 3), "no more than may be", LONG_S)
    answer = ask(daemon, "scale", "etl", "--auto", "--json")
    assert json.loads(answer.stdout)["mode"] == "auto"
    wait_for(lambda: has(daemon, 2), "as few as the load needs", LONG_S)


def test_scaling_what_cannot_be_scaled_says_why(start: Any) -> None:
    config = scaled()
    config["clusters"].append({"name": "plain", "endpoints": [{"address": "127.0.0.1:9"}]})
    daemon = start(config)
    assert ask(daemon, "scale", "plain", "3").stderr == "homeport: cluster 'plain' has no scaler\n"
    refused = ask(daemon, "scale", "elt", "3")
    assert refused.returncode == 1 and "did you mean etl?" in refused.stderr
    assert ask(daemon, "scale", "etl").returncode == 2
    wait_for(lambda: has(daemon, 2), "two instances", LONG_S)


def test_without_its_scaler_a_clusters_instances_go(start: Any) -> None:
    config = scaled()
    daemon = start(config)
    wait_for(lambda: has(daemon, 2), "two instances", LONG_S)
    gone = pids(daemon)
    del daemon.config["clusters"][0]["scaler"]
    daemon.config["clusters"][0]["endpoints"] = []
    daemon.rewrite()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in gone), "them to end", LONG_S)
    assert daemon.status()["clusters"][0]["scaler"] is None
    assert get(daemon)[0] == 503


def test_a_dry_run_says_what_it_would_do(start: Any) -> None:
    daemon = start(scaled(dry_run=True))
    line = told(daemon, "would be 2 instances instead of 0")
    assert "min_instances is 2" in line
    began = time.monotonic()
    assert get(daemon)[0] == 503 and time.monotonic() - began < LIMIT_S
    assert section(daemon)["starts_total"] == 0


def versions(daemon: Daemon) -> set[str]:
    """Those of all instances that there are."""
    return {one["version"] for one in section(daemon)["instances"]}


def test_a_changed_process_replaces_instances_without_a_failed_request(start: Any) -> None:
    daemon = start(scaled(deploy={"bake": "1s"}))
    wait_for(lambda: has(daemon, 2), "two instances", LONG_S)
    first = versions(daemon)
    load = Load(daemon, clients=3, seconds=0.02)
    daemon.config["clusters"][0]["scaler"]["process"]["environment"] = {"RELEASE": "2"}
    daemon.rewrite()
    told(daemon, "is to replace 2 instances")
    shown = ask(daemon, "deploy", "etl")
    wait_for(lambda: has(daemon, 2) and versions(daemon).isdisjoint(first), "others in their place", LONG_S)
    load.end()
    assert shown.returncode == 0 and "all of version" in shown.stdout.splitlines()[-1]
    assert load.failures == [] and load.answered > 20


def test_a_version_that_never_gets_healthy_is_called_off(start: Any) -> None:
    daemon = start(scaled(start_timeout="1s", deploy={"bake": "1s"}))
    wait_for(lambda: has(daemon, 2), "two instances", LONG_S)
    first = pids(daemon)
    command = daemon.config["clusters"][0]["scaler"]["process"]["command"]
    daemon.config["clusters"][0]["scaler"]["process"]["command"] = [*command, "--never"]
    daemon.rewrite()
    told(daemon, "called off, the old ones stay: a new one failed: not healthy within 1 s")
    wait_for(lambda: has(daemon, 2), "the new one to be gone", LONG_S)
    assert pids(daemon) == first
    os.kill(first[0], signal.SIGKILL)
    wait_for(lambda: has(daemon, 2) and first[0] not in pids(daemon), "an old one in its place", LONG_S)
    shown = ask(daemon, "deploy", "etl")
    assert shown.returncode == 1 and "called off: a new one failed" in shown.stdout
    daemon.config["clusters"][0]["scaler"]["process"]["command"] = command
    daemon.rewrite()
    wait_for(
        lambda: section(daemon)["deploy"]["stage"] == "none", "the old version to be right again", LONG_S
    )
    wait_for(lambda: has(daemon, 2), "two instances still", LONG_S)
