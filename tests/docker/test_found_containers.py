"""Containers that come and go by hand, and a daemon on the host that finds them by their labels."""

import contextlib
import http.client
import json
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers import Container, docker
from support import settings
from support.client import Client
from support.daemon import Daemon, StartDaemon
from support.wait import LIMIT_S, wait_for

pytestmark = pytest.mark.docker

CLUSTER = f"found-{os.getpid()}"
# Answers with its name, at /slow after a signal; on TERM it goes on for a second, on HUP it only says so. Each request
# after TERM is told, with the time since.
SERVICE = """
import http.server, os, signal, sys, threading, time
asked, signalled = [], threading.Event()
def end(*_):
    asked.append(time.monotonic())
    signalled.set()
    threading.Timer(1.0, os._exit, (0,)).start()
signal.signal(signal.SIGTERM, end)
def hang_up(*_):
    signalled.set()
    print("hung up", flush=True)
signal.signal(signal.SIGHUP, hang_up)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if asked and self.path != "/health":
            print(f"late {time.monotonic() - asked[0]:.4f}", flush=True)
        if self.path == "/slow":
            print("slow\\n", end="", flush=True)
            signalled.wait(60)
        body = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("", 8000), Handler).serve_forever()
"""


class Found:
    """The daemon, and the containers that it is to find."""

    def __init__(self, daemon: Daemon, image: str) -> None:
        self.daemon = daemon
        self.image = image
        self.containers: list[Container] = []

    def start(self, name: str, *labels: str) -> Container:
        """A container that answers with `name`."""
        told = [f"homeport.cluster={CLUSTER}", "homeport.port=8000", *labels]
        options = [word for label in told for word in ("--label", label)]
        container = Container(
            self.image, "-u", "-c", SERVICE, name, options=("--entrypoint", "python3", *options)
        )
        self.containers.append(container)
        return container

    @property
    def endpoints(self) -> dict[str, dict[str, Any]]:
        """What is known of each, by the container's name."""
        code, body = self.daemon.admin(f"/api/v1/clusters/{CLUSTER}")
        assert code == 200, body
        return {each["name"]: each for each in json.loads(body)["endpoints"]}

    def wait_until_ready(self, *containers: Container) -> None:
        """Until exactly these are in use."""
        names = {each.name for each in containers}

        def is_so() -> bool:
            found = self.endpoints
            return names == set(found) and all(one["standing"] == "ready" for one in found.values())

        wait_for(is_so, f"{names} to be in use")

    def discovery(self) -> dict[str, Any]:
        return next(iter(self.daemon.status()["discovery"]))


class Load:
    """Clients that ask without a pause; what they were answered."""

    def __init__(self, daemon: Daemon, clients: int = 4) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._address = daemon.address()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(LIMIT_S)

    def wait_for_more(self, count: int = 50) -> set[str]:
        """Who answers `count` requests from now on."""
        before = len(self.answers)
        wait_for(lambda: len(self.answers) >= before + count, "more answers")
        return set(self.answers[before:])

    def _run(self) -> None:
        host, port = self._address
        connection = http.client.HTTPConnection(str(host), int(port), timeout=LIMIT_S)
        while not self._is_over.is_set():
            try:
                connection.request("GET", "/")
                reply = connection.getresponse()
                body = reply.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            (self.answers if reply.status == 200 else self.failures).append(body)
        connection.close()


class Relay:
    """The engine's socket at another path, which the test can close."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "engine.sock"
        self._sockets: set[socket.socket] = set()
        self.open()

    def open(self) -> None:
        """Let everybody through."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(64)
        self._sockets = {listener}
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """The engine is gone, with all that was open."""
        self.path.unlink(missing_ok=True)
        for each in tuple(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect("/var/run/docker.sock")
            self._sockets |= {client, engine}
            threading.Thread(target=self._carry, args=(client, engine), daemon=True).start()

    def _carry(self, client: socket.socket, engine: socket.socket) -> None:
        other = {client: engine, engine: client}
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as chosen:
            for each in other:
                chosen.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in chosen.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    if not data:
                        return
                    other[source].sendall(data)
        for each in other:
            each.close()


def config(**more: Any) -> dict[str, Any]:
    cluster = {
        "name": CLUSTER,
        "discovery": {"docker": {}},
        "health_check": {"path": "/health", "interval": "1s", "unhealthy_interval": "100ms"},
    }
    return {
        "listeners": [settings.listener()],
        "clusters": [cluster],
        "routes": [settings.route(CLUSTER, path_prefix="/")],
        "workers": 2,
        **more,
    }


@pytest.fixture
def relay(tmp_path: Path, base_image: str) -> Iterator[Relay]:
    relay = Relay(tmp_path)
    yield relay
    relay.close()


@pytest.fixture
def found(relay: Relay, base_image: str, start_daemon: StartDaemon) -> Iterator[Found]:
    found = Found(start_daemon(config(docker={"host": f"unix://{relay.path}"})), base_image)
    yield found
    for container in found.containers:
        container.remove()


def log(container: Container) -> list[str]:
    return container.logs()[0].splitlines()


def test_containers_come_and_go_under_load(found: Found) -> None:
    """Nobody notices a `docker stop`, and who was stopped got nothing new once that was known."""
    one, two = found.start("one"), found.start("two", "homeport.zone=z1", "homeport.weight=2")
    found.wait_until_ready(one, two)
    known = found.endpoints[two.name]
    assert (known["source"], known["zone"], known["weight"]) == ("docker", "z1", 2)
    assert known["instance"] == two.inspect()["Id"] and known["id"] == f"{CLUSTER}/{known['instance'][:12]}"
    with Load(found.daemon) as load:
        assert load.wait_for_more() == {"one", "two"}
        docker("stop", one.name)
        wait_for(lambda: set(found.endpoints) == {two.name}, "the stopped one to be gone")
        assert load.wait_for_more() == {"two"}
        three = found.start("three")
        found.wait_until_ready(two, three)
        assert load.wait_for_more() == {"two", "three"}
        docker("restart", two.name)
        found.wait_until_ready(two, three)
        assert load.wait_for_more() == {"two", "three"}
    assert load.failures == []
    late = [float(line.split()[1]) for line in log(one) if line.startswith("late")]
    print(f"{len(late)} requests within {max(late, default=0.0):.4f} s of SIGTERM")
    assert len(late) < 100, "it went on getting requests"


def test_requests_wait_for_the_only_one_to_be_started_again(found: Found) -> None:
    one = found.start("one")
    found.wait_until_ready(one)
    with Load(found.daemon) as load:
        load.wait_for_more()
        docker("restart", one.name)
        assert load.wait_for_more() == {"one"}
    assert load.failures == []


def test_what_is_in_flight_is_answered(found: Found) -> None:
    one, two = found.start("one"), found.start("two")
    found.wait_until_ready(one, two)
    clients = [Client(found.daemon.address()) for _ in range(4)]
    for client in clients:
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_for(lambda: log(one).count("slow") + log(two).count("slow") == 4, "all to be at work")
    docker("stop", one.name)
    two.signal("HUP")
    for client in clients:
        assert client.reply().status == 200
        client.close()


def test_a_hang_up_is_no_end_and_a_pause_is_one(found: Found) -> None:
    one, two = found.start("one"), found.start("two")
    found.wait_until_ready(one, two)
    one.signal("HUP")
    wait_for(lambda: "hung up" in log(one), "the signal")
    docker("pause", two.name)
    wait_for(lambda: found.endpoints[two.name]["standing"] == "drained", "the paused one to be left out")
    assert found.endpoints[two.name]["why"] == "it leaves: it is paused"
    assert found.endpoints[one.name]["standing"] == "ready"
    with Load(found.daemon) as load:
        assert load.wait_for_more() == {"one"}
    assert load.failures == []
    docker("unpause", two.name)
    found.wait_until_ready(one, two)


def test_without_the_engine_traffic_goes_on(found: Found, relay: Relay) -> None:
    """And what happened meanwhile is caught up with; the same for a control that starts meanwhile."""
    one, two = found.start("one"), found.start("two")
    found.wait_until_ready(one, two)
    with Load(found.daemon) as load:
        relay.close()
        wait_for(lambda: found.discovery()["state"] == "failing", "the loss to be noticed")
        wait_for(lambda: found.daemon.metrics()["homeport_engine_circuit_open"] == 1.0, "the circuit to open")
        assert found.daemon.metrics()['homeport_discovery_failing{source="docker"}'] == 1.0
        assert load.wait_for_more() == {"one", "two"}
        control = found.daemon.status()["control"]["pid"]
        os.kill(control, 9)
        wait_for(lambda: is_another(found.daemon, control), "another control")
        found.wait_until_ready(one, two)
        assert load.wait_for_more() == {"one", "two"}
        three = found.start("three")
        docker("stop", one.name)
        relay.open()
        found.wait_until_ready(two, three)
        assert load.wait_for_more() == {"two", "three"}
        assert found.discovery()["state"] == "up"
    assert load.failures == []
    assert found.daemon.metrics()['homeport_discovery_failing{source="docker"}'] == 0.0


def is_another(daemon: Daemon, control: int) -> bool:
    try:
        return bool(daemon.status()["control"]["pid"] != control)
    except (OSError, http.client.HTTPException):
        return False


def test_a_reload_keeps_what_was_found(found: Found) -> None:
    one, two = found.start("one"), found.start("two", "com.example.kind=other")
    found.wait_until_ready(one, two)
    clusters = found.daemon.config["clusters"]
    with Load(found.daemon) as load:
        clusters[0]["timeouts"] = {"connect": "3s"}
        found.daemon.rewrite()
        wait_for(lambda: found.daemon.status()["last_reload"], "the reload")
        found.wait_until_ready(one, two)
        clusters[0]["discovery"]["docker"] = {"labels": {"com.example.kind": "", "homeport.cluster": CLUSTER}}
        found.daemon.rewrite()
        wait_for(lambda: load.wait_for_more() == {"two"}, "the labelled one alone to be asked")
        del clusters[0]["discovery"]
        clusters[0]["endpoints"] = [{"address": f"{address(one)}:8000"}]
        found.daemon.rewrite()
        wait_for(lambda: load.wait_for_more() == {"one"}, "the listed one alone to be asked")
        clusters[0]["discovery"] = {"docker": {}}
        del clusters[0]["endpoints"]
        found.daemon.rewrite()
        found.wait_until_ready(one, two)
    assert load.failures == []


def address(container: Container) -> str:
    return str(container.inspect()["NetworkSettings"]["IPAddress"])
