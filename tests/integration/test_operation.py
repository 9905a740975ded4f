"""The daemon's own life: access log, admin API's view of traffic, descriptors used up, bad starts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import settings
from support.client import Client, request
from support.client import connect as connect_socket
from support.daemon import ROOT, Daemon, StartDaemon
from support.origin import Exchange, Origin
from support.wait import wait_for


def records(file: Path, path: str) -> list[dict[str, Any]]:
    """The access log's lines about `path`."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [one for one in map(json.loads, lines) if path in (one["target"] or "")]


def record(file: Path, path: str) -> dict[str, Any]:
    """The one line about `path`, once it is written."""
    (only,) = wait_for(lambda: records(file, path), f"a line about {path}")
    return only


def test_log_of_a_good_exchange(client: Client, origin: Origin, access_log: Path, path: str) -> None:
    """Every field of a record has its documented meaning."""
    origin.on(path, lambda one: one.reply(201, b"z" * 1234))
    client.ask("POST", path + "?q=1", "User-Agent: tests/1", body=b"x" * 567)
    one = record(access_log, path)
    assert one["request_id"] == origin.only(path).fields.one("x-request-id")
    assert one["client"] == "127.0.0.1"
    assert one["listener"] == "plain"
    assert (one["method"], one["host"], one["target"]) == ("POST", "t.test", path + "?q=1")
    assert one["protocol"] in ("1.1", "HTTP/1.1")
    assert (one["status"], one["reason"], one["outcome"]) == (201, None, "ok")
    assert one["cluster"] == "origin"
    assert one["endpoint"] == f"origin/{origin.address}"
    assert one["attempts"] == 1
    assert one["bytes_in"] == 567
    assert 1234 < one["bytes_out"] < 1234 + 1000  # with the head
    assert 0 <= one["first_byte_s"] <= one["total_s"] < 30
    assert one["connect_s"] is None or 0 <= one["connect_s"] <= one["total_s"]
    assert one["user_agent"] == "tests/1"
    assert one["queue_s"] is None and one["data_key"] is None and one["data_bytes"] is None
    assert one["route"]
    stamp = time.strptime(one["time"][:19], "%Y-%m-%dT%H:%M:%S")
    assert one["time"].endswith("Z")
    assert stamp.tm_year >= 2024


def test_log_of_a_refusal(client: Client, access_log: Path, path: str) -> None:
    """A request that the proxy refuses says why."""
    client.send(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    assert client.reply().status == 400
    one = record(access_log, path)
    assert (one["status"], one["reason"], one["outcome"]) == (400, "bad_host", "refused")
    assert one["endpoint"] is None


def test_log_of_a_failed_endpoint(client: Client, access_log: Path, path: str) -> None:
    """A 502 names the endpoint and the reason."""
    assert client.get("/refused" + path).status == 502
    one = record(access_log, path)
    assert (one["status"], one["reason"], one["outcome"]) == (502, "connect_failed", "upstream_failed")
    assert one["endpoint"].startswith("refused/")


def test_log_of_a_cut_reply(client: Client, origin: Origin, access_log: Path, path: str) -> None:
    """A reply that was cut after its head keeps the status that was sent, with the reason beside it."""

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
        exchange.close()

    origin.on(path, handler)
    assert client.send(request("GET", path)).reply_or_cut() is None
    one = record(access_log, path)
    assert (one["status"], one["outcome"]) == (200, "upstream_failed")
    assert one["reason"] in ("reply_cut", "upstream_closed")
    assert 10 <= one["bytes_out"] < 1000


def test_log_of_a_client_that_left(client: Client, origin: Origin, access_log: Path, path: str) -> None:
    """A client that leaves is no failure of the endpoint."""
    origin.on(path, lambda exchange: exchange.wait_gone() and None)
    client.send(request("GET", path))
    origin.only(path)
    client.reset()
    one = record(access_log, path)
    assert (one["outcome"], one["reason"]) == ("client_gone", "client_gone")
    assert one["status"] in (0, 499)


def test_log_is_no_injection(client: Client, access_log: Path, path: str) -> None:
    """CWE-117: a line is always one line, whatever the client sends."""
    client.get(path, 'User-Agent: a\x85b\xff"}{\\', "X-Forwarded-For: 1\t2")
    one = record(access_log, path)
    assert "\x85" not in access_log.read_text()
    assert one["user_agent"].endswith('"}{\\')


def test_log_reopened(start_daemon: StartDaemon, origin: Origin, tmp_path: Path, path: str) -> None:
    """SIGUSR1 after a rotation: new lines go to the new file, none is lost."""
    file, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    daemon = start_daemon(settings.simple(origin.address, access_log={"sink": str(file)}))
    with Client(daemon.address()) as client:
        client.get(path + "/before")
        record(file, path + "/before")
        file.rename(rotated)
        daemon.signal(signal.SIGUSR1)

        def is_reopened() -> bool:
            client.get(path + "/after")
            return bool(records(file, path + "/after"))

        wait_for(is_reopened, "a line in the new file")
        count = len(origin.seen(path + "/after"))
    daemon.stop()
    written = len(records(file, path + "/after")) + len(records(rotated, path + "/after"))
    assert written == count


def test_log_to_stdout(start_daemon: StartDaemon, origin: Origin, path: str) -> None:
    """`sink: stdout`; what was logged before a stop is written by its end."""
    daemon = start_daemon(settings.simple(origin.address, access_log={"sink": "stdout"}))
    with Client(daemon.address()) as client:
        for number in range(50):
            client.get(f"{path}/{number}")
    daemon.stop()
    lines = [json.loads(line) for line in daemon.stdout().splitlines() if line.startswith("{")]
    assert [one["target"] for one in lines] == [f"{path}/{number}" for number in range(50)]


def test_status_sees_traffic(start_daemon: StartDaemon, origin: Origin) -> None:
    """The admin API tells listeners with their addresses; metrics count requests."""
    daemon = start_daemon(settings.simple(origin.address))
    with Client(daemon.address()) as client:
        for _ in range(7):
            assert client.get("/").status == 200
    status, body = daemon.admin("/api/v1/status")
    assert status == 200
    host, port = daemon.address()
    assert f"{host}:{port}" in [one["address"] for one in json.loads(body)["listeners"]]
    text = daemon.admin("/metrics")[1].decode()
    counted = [line for line in text.splitlines() if line.startswith("data_service_requests_total{")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in counted) == 7
    assert 'status="200"' in counted[0] and 'method="GET"' in counted[0]
    assert daemon.admin("/healthz")[0] == 200
    assert daemon.admin("/readyz", host="evil.test")[0] in (200, 400, 403, 421)
    assert daemon.admin("/api/v1/status", host="evil.test")[0] in (400, 403, 421)
    daemon.stop()


def test_port_zero(start_daemon: StartDaemon, origin: Origin) -> None:
    """A listener on port 0 takes a free port, which the status tells."""
    config = settings.simple(origin.address)
    config["listeners"][0]["bind"] = "127.0.0.1:0"
    daemon = start_daemon(config)
    (one,) = json.loads(daemon.admin("/api/v1/status")[1])["listeners"]
    host, _, port = one["address"].rpartition(":")
    assert int(port) > 0
    with Client((host, int(port))) as client:
        assert client.get("/").status == 200
    daemon.stop()


@pytest.fixture
def starved(start_daemon: StartDaemon, origin: Origin) -> Iterator[Daemon]:
    """A daemon with so few descriptors that clients can use them up; the hard limit keeps it from raising
    them."""
    daemon = start_daemon(settings.simple(origin.address), nofile=(96, 96))
    yield daemon
    daemon.stop()


def test_descriptors_used_up(starved: Daemon) -> None:
    """EMFILE: established clients are served, the CPU stays idle, and room is found again."""
    with Client(starved.address()) as established:
        established.assert_open("/")
        crowd = [connect_socket(starved.address()) for _ in range(300)]
        try:
            for _ in range(10):
                established.assert_open("/")
            used, start = starved.cpu_s(), time.monotonic()
            # A busy loop shows in the ratio of CPU time to time; both are measured while nothing is asked.
            wait_for(lambda: time.monotonic() - start > 1.0, limit_s=5)
            assert (starved.cpu_s() - used) / (time.monotonic() - start) < 0.5
            established.assert_open("/")
        finally:
            for sock in crowd:
                sock.close()
        wait_for(lambda: _is_served(starved), "a new client to be served")


def _is_served(daemon: Daemon) -> bool:
    with connect_socket(daemon.address()) as sock:
        sock.settimeout(1.0)
        try:
            sock.sendall(request("GET", "/"))
            return sock.recv(65536).startswith(b"HTTP/1.1 200")
        except (TimeoutError, ConnectionError):
            return False


def test_many_requests_with_few_descriptors(starved: Daemon) -> None:
    """More clients than descriptors that all ask at once: each is served or turned away, none hangs for
    ever."""
    clients = [Client(starved.address()) for _ in range(120)]
    try:
        for client in clients:
            client.send(request("GET", "/", "Connection: close"))
        replies = [client.reply_or_cut() for client in clients]
        assert sum(reply is not None and reply.status == 200 for reply in replies) >= 20
        assert all(reply is None or reply.status in (200, 502, 503) for reply in replies)
    finally:
        for client in clients:
            client.close()


def run(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", "run", "-c", str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=file.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_bad_configuration(tmp_path: Path) -> None:
    """A faulty file: exit code 2, the faults in words, no traceback."""
    file = tmp_path / "bad.yaml"
    file.write_text("listeners: [{bind: '127.0.0.1:0', bindd: 1}]\nroutes: [{cluster: nobody}]\n")
    done = run(file)
    assert done.returncode == 2
    assert "bindd" in done.stderr + done.stdout and "nobody" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_missing_configuration(tmp_path: Path) -> None:
    """A file that is not there is the same kind of fault."""
    done = run(tmp_path / "missing.yaml")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_address_in_use(tmp_path: Path, origin: Origin) -> None:
    """A bind address that is taken: an error that names it, no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = settings.simple(origin.address, admin={"bind": "127.0.0.1:0"})
        config["listeners"][0]["bind"] = f"127.0.0.1:{taken.getsockname()[1]}"
        file = tmp_path / "taken.yaml"
        file.write_text(json.dumps(config))
        done = run(file)
    assert done.returncode == 1
    assert "control: cannot start: listeners[0].bind" in done.stderr
    assert str(taken and config["listeners"][0]["bind"]) in done.stderr
    assert "Traceback" not in done.stderr
