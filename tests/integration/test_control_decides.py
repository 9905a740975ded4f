"""What control decides of endpoints and listeners in a running daemon, as the API, the command and the log tell it."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
from support import settings
from support.client import OpenClient, request
from support.daemon import ROOT, Daemon, StartDaemon, free_port
from support.origin import OK, Exchange, Origin
from support.wait import LIMIT_S, wait_for


def homeport(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments, "--admin", "http://" + daemon.config["admin"]["bind"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def post(daemon: Daemon, path: str) -> tuple[int, dict[str, Any]]:
    host, _, port = daemon.config["admin"]["bind"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=LIMIT_S)
    try:
        connection.request("POST", path)
        with connection.getresponse() as answer:
            return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def endpoints(daemon: Daemon, cluster: str = "origin") -> list[dict[str, Any]]:
    code, body = daemon.admin(f"/api/v1/clusters/{cluster}")
    assert code == 200
    return list(json.loads(body)["endpoints"])


def standing(daemon: Daemon, index: int = 0) -> str:
    return str(endpoints(daemon)[index]["standing"])


def kill_control(daemon: Daemon) -> None:
    """Have control replaced, and wait for the next one."""
    before = daemon.status()["control"]["pid"]
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        try:
            return daemon.status()["control"]["pid"] not in (None, before)
        except (OSError, http.client.HTTPException):
            return False

    wait_for(is_back, "the next control")


def reply(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Odd\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


CHECK = {"path": "/health", "interval": "100ms", "unhealthy_interval": "100ms", "timeout": "5s", "jitter": 0}


def checked(origin: Origin, **more: Any) -> dict[str, Any]:
    config = settings.simple(origin.address, workers=2)
    config["clusters"][0]["health_check"] = {**CHECK, **more}
    return config


def test_checks_take_an_endpoint_out_and_bring_it_back(start_daemon: StartDaemon, origin: Origin) -> None:
    origin.on("/health", OK)
    daemon = start_daemon(checked(origin))
    wait_for(lambda: standing(daemon) == "ready", "the first check")
    assert daemon.admin("/readyz?cluster=origin")[0] == 200
    origin.on("/health", reply(503, b"no"))
    wait_for(lambda: standing(daemon) == "unhealthy", "three failed checks")
    found = endpoints(daemon)[0]
    assert found["why"] == "checks fail: status 503" and found["health_checks_failed_total"] >= 3
    assert daemon.admin("/readyz?cluster=origin")[0] == 503 and daemon.admin("/readyz")[0] == 200
    metrics = daemon.metrics()
    values = {name: value for name, value in metrics.items() if name.startswith("homeport_upstream_healthy")}
    assert list(values.values()) == [0.0], values
    kill_control(daemon)
    assert standing(daemon) == "unhealthy"
    origin.on("/health", OK)
    wait_for(lambda: standing(daemon) == "ready", "two passed checks")
    assert "health down: its checks fail: status 503" in daemon.stderr()
    daemon.stop()


class Checks:
    """An origin whose checks pass when the test says so."""

    def __init__(self, origin: Origin) -> None:
        self.may_pass = threading.Event()
        origin.on("/health", self._answer)

    def _answer(self, exchange: Exchange) -> None:
        assert self.may_pass.wait(LIMIT_S)
        exchange.send(OK)


def test_nothing_is_sent_before_the_first_check(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """At a cold start requests wait for it, and the cluster is not ready."""
    origin.on(path, OK)
    checks = Checks(origin)
    daemon = start_daemon(checked(origin, timeout="15s"))
    client = connect(daemon)
    client.send(request("GET", path))
    origin.wait_seen("/health")
    code, body = daemon.admin("/readyz?cluster=origin")
    assert (code, json.loads(body)["reason"]) == (
        503,
        "the first checks of the cluster's endpoints are not over",
    )
    assert standing(daemon) == "not checked yet" and daemon.admin("/readyz")[0] == 200
    wait_for(lambda: daemon.status()["clusters"][0]["pending"] == 1, "the request to wait")
    assert origin.seen(path) == []
    checks.may_pass.set()
    assert client.reply().status == 200
    assert daemon.admin("/readyz?cluster=origin")[0] == 200
    daemon.stop()


def test_new_endpoints_wait_for_their_first_check(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """Also when they are most of the cluster: others that are ready do not make it panic."""
    new = [Origin() for _ in range(3)]
    checks = [Checks(one) for one in new]
    for one in (origin, *new):
        one.on(path, OK)
    origin.on("/health", OK)
    daemon = start_daemon(checked(origin, timeout="15s"))
    wait_for(lambda: standing(daemon) == "ready", "the first check")
    endpoints = daemon.config["clusters"][0]["endpoints"]
    endpoints += [{"address": one.address} for one in new]
    daemon.file.write_text(json.dumps(daemon.config))
    assert homeport(daemon, "reload").returncode == 0
    client = connect(daemon)
    for _ in range(8):
        assert client.get(path).status == 200
    assert len(origin.seen(path)) == 8
    for each in checks:
        each.may_pass.set()
    wait_for(lambda: client.get(path) and all(one.seen(path) for one in new), "requests for all")
    daemon.stop()
    for one in new:
        one.stop()


def test_a_service_that_says_it_drains(start_daemon: StartDaemon, origin: Origin) -> None:
    origin.on("/health", reply(200, b'{"draining": true, "load": 0.5}'))
    daemon = start_daemon(checked(origin))
    wait_for(lambda: standing(daemon) == "drained", "its word")
    assert endpoints(daemon)[0]["load"] == 0.5
    origin.on("/health", OK)
    wait_for(lambda: standing(daemon) == "ready", "its word taken back")
    daemon.stop()


def test_an_endpoint_is_drained_for_good(start_daemon: StartDaemon, origin: Origin) -> None:
    """Until it is undrained: over a reload and a new control."""
    daemon = start_daemon(settings.simple(origin.address, workers=2))
    name = f"origin/{origin.address}"
    done = homeport(daemon, "drain", name, "--wait")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}: drained\n", "")
    assert standing(daemon) == "drained"
    assert f"{name} is drained" in homeport(daemon, "status").stdout
    daemon.file.write_text(daemon.file.read_text() + "\n# a remark\n")
    assert homeport(daemon, "reload").returncode == 0
    kill_control(daemon)
    assert standing(daemon) == "drained"
    wrong = homeport(daemon, "drain", f"origins/{origin.address}")
    assert wrong.returncode == 1 and f"did you mean {name}" in wrong.stderr
    assert homeport(daemon, "undrain", origin.address, "--json").stdout.startswith('{"drained":false')
    assert standing(daemon) == "ready"
    daemon.stop()


def counts(daemon: Daemon) -> dict[str, int]:
    """Open connections by listener."""
    return {one["name"]: one["connections"] for one in daemon.status()["listeners"]}


def held(exchange: Exchange) -> None:
    exchange.events.get(timeout=2 * LIMIT_S)
    exchange.send(OK)


def can_connect(daemon: Daemon) -> bool:
    try:
        socket.create_connection(daemon.address(), timeout=LIMIT_S).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_listener_is_drained(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """New connections are refused, one that is open ends after its next exchange; reloads and new controls keep it."""
    origin.on(path, OK)
    config = settings.simple(origin.address, workers=2)
    config["listeners"].append({"name": "other", "bind": f"127.0.0.1:{free_port()}"})
    config["routes"] = [settings.route("origin", listener=name) for name in ("plain", "other")]
    daemon = start_daemon(config)
    client = connect(daemon)
    assert client.get(path).status == 200
    assert post(daemon, "/api/v1/listeners/plain/drain")[0] == 200
    wait_for(lambda: not can_connect(daemon), "the socket to be closed")
    last = client.get(path)
    assert last.status == 200 and "close" in last.fields.tokens("connection")
    assert connect(daemon, "other").get(path).status == 200
    assert daemon.admin("/readyz")[0] == 200
    daemon.config["workers"] = 1
    daemon.file.write_text(json.dumps(daemon.config, indent=1))
    assert homeport(daemon, "reload").returncode == 0
    kill_control(daemon)
    assert not can_connect(daemon)
    listeners = {one["name"]: one["drained"] for one in daemon.status()["listeners"]}
    assert listeners == {"plain": True, "other": False}
    assert "did you mean plain?" in homeport(daemon, "drain", "plian", "--listener").stderr
    done = homeport(daemon, "undrain", "plain", "--listener")
    assert (done.returncode, done.stdout) == (0, "listener plain: not drained any more\n")
    assert connect(daemon).get(path).status == 200
    daemon.stop()


def test_connections_of_a_drained_listener_are_waited_for(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """Those that are idle are closed soon, one with a request in progress after it; another listener's are not."""
    origin.on(path, OK)
    origin.on(path + "/held", held)
    config = settings.simple(origin.address, workers=2)
    config["listeners"].append({"name": "other", "bind": f"127.0.0.1:{free_port()}"})
    daemon = start_daemon(config)
    idle, busy, other = connect(daemon), connect(daemon), connect(daemon, "other")
    for client in (idle, busy, other):
        assert client.get(path).status == 200
    busy.send(request("GET", path + "/held"))
    exchange = origin.wait_seen(path + "/held")[0]
    wait_for(lambda: counts(daemon) == {"plain": 2, "other": 1}, "three connections")
    early = homeport(daemon, "drain", "plain", "--listener", "--wait", "--timeout", "0.1")
    assert early.returncode == 3
    assert re.search("[12] connections are still open after 0.1 s", early.stderr)
    idle.assert_closed()
    wait_for(lambda: counts(daemon) == {"plain": 1, "other": 1}, "the idle one to be closed")
    exchange.events.put("go on")
    last = busy.reply()
    assert last.status == 200 and "close" in last.fields.tokens("connection")
    done = homeport(daemon, "drain", "plain", "--listener", "--wait")
    assert (done.returncode, done.stdout) == (0, "listener plain: drained (as before)\n")
    assert other.get(path).status == 200
    daemon.stop()


def test_the_address_of_a_drained_listener_may_be_lost(start_daemon: StartDaemon, origin: Origin) -> None:
    daemon = start_daemon(settings.simple(origin.address))
    assert homeport(daemon, "drain", "plain", "--listener").returncode == 0
    code, body = daemon.admin("/readyz")
    assert (code, json.loads(body)["reason"]) == (503, "every listener is drained")
    with socket.create_server(daemon.address()):
        failed = homeport(daemon, "undrain", "plain", "--listener")
        assert failed.returncode == 1 and "an address that can be bound" in failed.stderr
    assert homeport(daemon, "undrain", "plain", "--listener").returncode == 0
    assert can_connect(daemon)
    daemon.stop()


def test_events_come_as_they_happen(start_daemon: StartDaemon, origin: Origin) -> None:
    daemon = start_daemon(settings.simple(origin.address))
    host, _, port = daemon.config["admin"]["bind"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_S) as sock:
        sock.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = sock.recv(65536)
        assert b"text/event-stream" in received
        post(daemon, f"/api/v1/endpoints/origin/{origin.address}/drain")
        while b'"type":"drained"' not in received:
            received += sock.recv(65536)
        assert f'"subject":"origin/{origin.address}"'.encode() in received
        daemon.stop()


@pytest.mark.parametrize("workers", [2])
def test_one_worker_that_serves_is_enough_to_be_ready(
    start_daemon: StartDaemon, origin: Origin, workers: int
) -> None:
    """While another is replaced, again and again, and so with longer and longer pauses."""
    daemon = start_daemon(settings.simple(origin.address, workers=workers))
    for _ in range(3):
        pid = wait_for(lambda: daemon.workers().get(0), "a worker in slot 0")
        os.kill(pid, signal.SIGKILL)

        def is_replaced(pid: int = pid) -> bool:
            assert daemon.admin("/readyz")[0] == 200
            return daemon.workers().get(0) not in (None, pid)

        wait_for(is_replaced, "the next worker")
    daemon.stop()
