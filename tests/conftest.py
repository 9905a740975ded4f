"""Fixtures for the integration tests: the scripted origin, the daemons and the clients in front of it."""

import itertools
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import settings
from support.client import Client, OpenClient
from support.daemon import Daemon, StartDaemon, free_port
from support.origin import Origin

import proxy

_numbers = itertools.count(1)
PACKAGE = Path(proxy.__file__).resolve().parent
CHECKOUT = Path(__file__).resolve().parents[1]


def pytest_report_header() -> str:
    """Which build is tested."""
    build = "compiled" if any(PACKAGE.rglob("*.so")) else "pure"
    return f"homeport: {build}, in {PACKAGE}"


def pytest_configure() -> None:
    """An extension module that a build left in the checkout goes before its source, whatever that says by now."""
    if left := sorted((CHECKOUT / "proxy").rglob("*.so")):
        raise pytest.UsageError(f"extension modules among the sources, remove them: {left[0]} …")


@pytest.fixture(scope="session")
def shared_origin() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.stop()


@pytest.fixture
def origin(shared_origin: Origin) -> Iterator[Origin]:
    """The scripted origin behind the cluster `origin`; whatever reached it during the test was
    well-formed."""
    shared_origin.faults.clear()
    yield shared_origin
    assert shared_origin.faults == []


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """A path of the test's own, so that tests share an origin without meeting."""
    return "/" + re.sub(r"[^A-Za-z0-9_]+", "-", request.node.name).strip("-") + f"-{next(_numbers)}"


def _starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDaemon]:
    started: list[Daemon] = []

    def start(config: dict[str, Any], **options: Any) -> Daemon:
        daemon = Daemon(config, tmp_path_factory.mktemp("daemon"), **options)
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.kill()


@pytest.fixture(scope="module")
def module_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDaemon]:
    """Starts daemons that live as long as the module; `stop` is the caller's."""
    yield from _starter(tmp_path_factory)


@pytest.fixture
def start_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDaemon]:
    """Starts daemons for one test; `stop` is the caller's, what is left is killed."""
    yield from _starter(tmp_path_factory)


@pytest.fixture(scope="session")
def blackhole() -> Iterator[str]:
    """An address where connections are neither accepted nor refused: a listener whose backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        yield f"127.0.0.1:{address[1]}"
        for filler in fillers:
            filler.close()


@pytest.fixture(scope="session")
def daemon(
    shared_origin: Origin, blackhole: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """The daemon that most tests share: generous limits, every kind of listener, clusters that fail in every
    way."""
    folder = tmp_path_factory.mktemp("shared")
    origin_six, origin_unix = Origin("::1"), Origin(unix=folder / "origin.sock")
    addresses = {
        "origin": shared_origin.address,
        "six": origin_six.address,
        "unix": origin_unix.address,
        "refused": f"127.0.0.1:{free_port()}",
        "blackhole": blackhole,
    }
    daemon = Daemon(settings.shared(addresses, folder), folder)
    yield daemon
    daemon.stop()
    for one in (origin_six, origin_unix):
        one.stop()
        assert one.faults == []


@pytest.fixture
def connect() -> Iterator[OpenClient]:
    """Opens clients to a daemon's listener and closes them at the end of the test."""
    clients: list[Client] = []

    def open_client(daemon: Daemon, listener: str = "plain", **options: Any) -> Client:
        client = Client(daemon.address(listener), **options)
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.close()


@pytest.fixture
def client(daemon: Daemon, connect: OpenClient) -> Client:
    """A connection to the shared daemon."""
    return connect(daemon)


@pytest.fixture
def access_log(daemon: Daemon) -> Path:
    """The shared daemon's access log."""
    return Path(daemon.config["access_log"]["sink"])
