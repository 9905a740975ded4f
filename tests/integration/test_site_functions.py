"""A site's own functions find keys, over real connections; one that fails costs no request."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import settings
from support.client import OpenClient
from support.daemon import Daemon, StartDaemon
from support.origin import Origin
from support.wait import wait_for

MODULE = """
def keys_of(request):
    return [request.headers.get("x-tenant", "nobody"), request.path, request.method]

def raising(request):
    raise ValueError("no such tenant")

def endless(request):
    while True:
        pass

def stuck(request):
    return sum(range(10**13))  # never comes back to Python
"""


def config(origin: Origin, folder: Path, workers: int = 1) -> settings.Config:
    names = ("keys_of", "raising", "endless", "stuck")
    routes = [
        {
            **settings.route("aware", path_prefix=f"/{name}"),
            "locality": {"data_key": [{"function": f"site_keys:{name}"}, {"header": "X-Id"}]},
        }
        for name in names
    ]
    return {
        "listeners": [settings.listener()],
        "clusters": [settings.cluster("aware", origin.address, balancer="data_locality_aware")],
        "routes": routes,
        "access_log": {"sink": str(folder / "access.log")},
        "workers": workers,
    }


@pytest.fixture
def aware(start_daemon: StartDaemon, origin: Origin, tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "site_keys.py").write_text(MODULE)
    daemon = start_daemon(config(origin, tmp_path), environ={"PYTHONPATH": str(tmp_path)})
    yield daemon
    daemon.stop()


def keys(daemon: Daemon, path: str) -> Any:
    file = Path(daemon.config["access_log"]["sink"])

    def lines() -> list[dict[str, Any]]:
        written = file.read_text().rpartition("\n")[0] if file.exists() else ""
        return [one for one in map(json.loads, written.splitlines()) if one["target"] == path]

    (only,) = wait_for(lines, f"a line about {path}")
    return only["data_key"]


def function_failures(daemon: Daemon) -> float:
    name = 'homeport_cluster_ignored_data_values_total{reason="function",service_name="aware"}'
    return daemon.metrics().get(name, 0.0)


def test_keys_of_a_function(aware: Daemon, connect: OpenClient) -> None:
    client = connect(aware)
    for number in range(50):
        assert client.get(f"/keys_of/{number}", "X-Tenant: acme", "X-Id: a").status == 200
    assert keys(aware, "/keys_of/49") == "a, acme, /keys_of/49, GET"
    assert function_failures(aware) == 0


@pytest.mark.parametrize(
    ("name", "why"), [("raising", "it raised ValueError at "), ("endless", "it took longer than 5 ms")]
)
def test_a_function_that_fails_is_switched_off(
    aware: Daemon, connect: OpenClient, name: str, why: str
) -> None:
    client = connect(aware)
    began = time.monotonic()
    for number in range(20):
        assert client.get(f"/{name}/{number}", "X-Id: a").status == 200
    assert time.monotonic() - began < 10
    assert keys(aware, f"/{name}/0") == "a" and keys(aware, f"/{name}/19") == "a"
    assert function_failures(aware) == 20
    told = [line for line in aware.stderr().splitlines() if why in line]
    assert len([line for line in told if " worker 0: " in line]) == 1
    event = wait_for(
        lambda: [line for line in aware.stderr().splitlines() if f"function site_keys:{name}: key" in line],
        "control to tell of it",
    )
    assert len(event) == 1 and why in event[0]
    # The others are called on, and the loop has seen nothing of it.
    assert client.get("/keys_of/x").status == 200
    assert keys(aware, "/keys_of/x") == "nobody, /keys_of/x, GET"


def test_back_on_when_its_settings_change(aware: Daemon, connect: OpenClient, tmp_path: Path) -> None:
    client = connect(aware)
    assert client.get("/raising/1").status == 200
    assert client.get("/keys_of/1").status == 200
    assert function_failures(aware) == 1
    before = aware.status()["generation"]
    for route in aware.config["routes"]:
        route["locality"]["data_key"][0]["timeout"] = "50ms"
    aware.rewrite()
    wait_for(lambda: aware.status()["generation"] > before, "the file to be served")
    wait_for(lambda: aware.admin("/readyz")[0] == 200, "all workers to serve it")
    assert client.get("/raising/2").status == 200
    assert aware.stderr().count(" worker 0: key function site_keys:raising") == 2
    assert client.get("/keys_of/2").status == 200
    assert keys(aware, "/keys_of/2") == "nobody, /keys_of/2, GET"


def test_a_function_that_hangs_a_worker_is_called_no_more(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, tmp_path: Path
) -> None:
    """One worker has to be replaced, and no worker calls it again."""
    (tmp_path / "site_keys.py").write_text(MODULE)
    daemon = start_daemon(config(origin, tmp_path, 2), environ={"PYTHONPATH": str(tmp_path)})
    before = set(daemon.workers().values())
    lost = connect(daemon)
    lost.send(b"GET /stuck/0 HTTP/1.1\r\nHost: h\r\n\r\n")
    wait_for(lambda: len(set(daemon.workers().values()) - before) == 1, "another worker")
    wait_for(lambda: daemon.admin("/readyz")[0] == 200, "it to serve")
    # Connections enough for both to get some.
    for number in range(20):
        assert connect(daemon).get(f"/stuck/{number + 1}", "X-Id: a").status == 200
    assert keys(daemon, "/stuck/20") == "a"
    assert len(set(daemon.workers().values()) - before) == 1
    told = "function site_keys:stuck: key"
    (event, *_) = wait_for(
        lambda: [line for line in daemon.stderr().splitlines() if told in line], "control to tell of it"
    )
    assert "a worker hung or ended while it ran" in event
    daemon.stop()
