"""What was learned of data outlives workers and reloads, and is given up when it is not true any more."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import settings
from support.client import Client
from support.daemon import Daemon, StartDaemon
from support.datasets import DataService
from support.wait import wait_for

from proxy.scoreboard import K_DATA_KEYS, Scoreboard

KEYS = [f"k{number}" for number in range(20)]
LARGE = "X-Dataset-Bytes: 100000000"
"""A second to fetch, as far as the proxy knows: worth to be sent to whoever holds it."""


@pytest.fixture
def services() -> Iterator[list[DataService]]:
    services = [DataService(name) for name in "abc"]
    yield services
    for service in services:
        service.stop()


def config(services: list[DataService], workers: int, **locality: object) -> settings.Config:
    cluster = settings.cluster(
        "data",
        *(service.address for service in services),
        balancer="data_locality_aware",
        locality={"bandwidth": "100MiB", **locality},
    )
    data = {"data_key": {"header": "X-Dataset-Id"}, "size": {"header": "X-Dataset-Bytes"}}
    return {
        "listeners": [settings.listener()],
        "clusters": [cluster],
        "routes": [{**settings.route("data", path_prefix="/"), "locality": data}],
        "workers": workers,
    }


def known(daemon: Daemon) -> dict[int, int]:
    """How many keys the worker in each slot knows, as it says itself."""
    for entry in Path(f"/proc/{daemon.pid}/fd").iterdir():
        if "homeport-scoreboard" in os.readlink(entry):
            break
    fd = os.open(entry, os.O_RDWR)
    try:
        board = Scoreboard(fd=fd)
        return {worker: board.cluster_row(worker, 0)[K_DATA_KEYS] for worker in daemon.workers()}
    finally:
        os.close(fd)


def news(daemon: Daemon) -> float:
    """What workers told each other and control."""
    return daemon.metrics()['homeport_locality_news_total{service_name="data"}']


def ask(client: Client, key: str) -> str:
    """Who answers a request for `key`."""
    reply = client.get("/", f"X-Dataset-Id: {key}", LARGE)
    assert reply.status == 200
    return reply.body.decode()


def connect_to(daemon: Daemon, pid: int) -> Client:
    """A connection to that worker."""

    def found() -> Client | None:
        client = Client(daemon.address())
        if daemon.worker_of(client.sock) == pid:
            return client
        client.close()
        return None

    return wait_for(found, f"a connection to worker {pid}")


def teach(daemon: Daemon, services: list[DataService], key: str = "first") -> str:
    """Have whoever is asked for `key` say that it holds all of `KEYS`; returns who that is."""
    for service in services:
        service.says = [("X-Data-Resident", ", ".join(f"{one};bytes=100000000" for one in KEYS))]
    with Client(daemon.address()) as client:
        holder = ask(client, key)
    for service in services:
        service.says = []
        service.holds |= set(KEYS) if service.name == holder else set()
    wait_for(lambda: min(known(daemon).values()) > len(KEYS), "all workers to know")
    # With one worker: control is told.
    wait_for(lambda: news(daemon) > len(KEYS), "news to be sent")
    return holder


def kill(daemon: Daemon, slot: int) -> int:
    """Kill the worker in `slot`; returns the process id of the next one, once it serves and knows the data."""
    pid = daemon.workers()[slot]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: daemon.workers().get(slot, pid) != pid, "the next worker")
    wait_for(lambda: known(daemon).get(slot, 0) > len(KEYS), "it to know what the last one did")
    return daemon.workers()[slot]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_worker_knows_what_the_dead_one_learned(
    start_daemon: StartDaemon, services: list[DataService], workers: int
) -> None:
    daemon = start_daemon(config(services, workers))
    holder = teach(daemon, services)
    for slot in daemon.workers():
        with connect_to(daemon, kill(daemon, slot)) as client:
            assert {ask(client, key) for key in KEYS} == {holder}
    assert sum(service.misses for service in services) == 1
    daemon.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_endpoints_say_when_asked(
    start_daemon: StartDaemon, services: list[DataService], workers: int
) -> None:
    """All workers send requests to whoever lists the data, and stop when it does not any more."""
    holder = services[1]
    holder.holds = set(KEYS)
    for service in services:
        listed = [{"key": key, "bytes": 100_000_000} for key in KEYS] if service is holder else []
        service.residency = {"resident": listed, "slots": 2, "cache_bytes": 10**12}
    residency = {"path": "/residency", "interval": "1s"}
    daemon = start_daemon(config(services, workers, residency=residency))
    wait_for(lambda: min(known(daemon).values()) == len(KEYS), "all workers to know")
    for pid in daemon.workers().values():
        with connect_to(daemon, pid) as client:
            assert {ask(client, key) for key in KEYS} == {holder.name}
    holder.holds = set()
    holder.residency = []
    polls = holder.polls
    wait_for(lambda: holder.polls > polls + 1, "the endpoint to be asked again")
    with Client(daemon.address()) as client:

        def is_shared() -> bool:
            return len({ask(client, key) for key in KEYS}) > 1

        wait_for(is_shared, "others to be asked too")
    daemon.stop()
