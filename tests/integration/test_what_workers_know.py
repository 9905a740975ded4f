"""What was learned of data outlives workers and reloads, and is given up when it is not true any more."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import settings
from support.client import Client
from support.daemon import Daemon, StartDaemon
from support.datasets import DataService
from support.wait import wait_for

from proxy.policy.residency import LOST_AFTER
from proxy.scoreboard import E_CACHE_BYTES, K_DATA_KEYS, Scoreboard

KEYS = [f"k{number}" for number in range(20)]
SIZE = 10**9
"""Of each: a minute or more to fetch, as far as the proxy knows. So the holder gets it, failures or not."""

CACHE = 10**12
"""Of each endpoint, by its own word."""


@pytest.fixture
def services() -> Iterator[list[DataService]]:
    services = [DataService(name) for name in "abc"]
    yield services
    for service in services:
        service.stop()


def config(
    services: list[DataService], workers: int, *, more: settings.Config | None = None, **locality: object
) -> settings.Config:
    cluster = settings.cluster(
        "data",
        *(service.address for service in services),
        balancer="data_locality_aware",
        locality={"bandwidth": "1MiB", **locality},
        **(more or {}),
    )
    data = {"data_key": {"header": "X-Dataset-Id"}, "size": {"header": "X-Dataset-Bytes"}}
    return {
        "listeners": [settings.listener()],
        "clusters": [cluster],
        "routes": [{**settings.route("data", path_prefix="/"), "locality": data}],
        "workers": workers,
    }


@contextmanager
def board(daemon: Daemon) -> Iterator[Scoreboard]:
    """The memory that its processes share."""
    for entry in Path(f"/proc/{daemon.pid}/fd").iterdir():
        if "homeport-scoreboard" in os.readlink(entry):
            break
    fd = os.open(entry, os.O_RDWR)
    try:
        yield Scoreboard(fd=fd)
    finally:
        os.close(fd)


def known(daemon: Daemon) -> dict[int, int]:
    """How many keys the worker in each slot knows, as it says itself."""
    with board(daemon) as words:
        return {worker: words.cluster_row(worker, 0)[K_DATA_KEYS] for worker in daemon.workers()}


def caches(daemon: Daemon) -> set[int]:
    """How large the cache of an endpoint is, as any worker believes; without those who do not know."""
    with board(daemon) as words:
        rows = [words.endpoint_row(worker, slot) for worker in daemon.workers() for slot in range(4)]
        return {row[E_CACHE_BYTES] for row in rows} - {0}


def surprises(daemon: Daemon) -> float:
    """Misses of data that were believed to be there."""
    return sum(
        value
        for name, value in daemon.metrics().items()
        if name.startswith("homeport_locality_surprises_total{")
    )


def standing(daemon: Daemon, service: DataService) -> str:
    code, body = daemon.admin("/api/v1/clusters/data")
    assert code == 200
    return next(one["standing"] for one in json.loads(body)["endpoints"] if one["address"] == service.address)


def news(daemon: Daemon) -> float:
    """What workers told each other and control."""
    return daemon.metrics()['homeport_locality_news_total{service_name="data"}']


def ask(client: Client, key: str) -> str:
    """Who answers a request for `key`."""
    reply = client.get("/", f"X-Dataset-Id: {key}", f"X-Dataset-Bytes: {SIZE}")
    assert reply.status == 200
    return reply.body.decode()


def connect_to(daemon: Daemon, pid: int) -> Client:
    """A connection to that worker."""
    others: list[Client] = []

    def found() -> Client | None:
        client = Client(daemon.address())
        if daemon.worker_of(client.sock) == pid:
            return client
        others.append(client)  # kept meanwhile: the worker with fewer connections takes the next
        return None

    try:
        return wait_for(found, f"a connection to worker {pid}")
    finally:
        for other in others:
            other.close()


def teach(daemon: Daemon, services: list[DataService], key: str = "first") -> str:
    """Have whoever is asked for `key` say that it holds all of `KEYS`; returns who that is."""
    for service in services:
        service.says = [
            ("X-Data-Cache-Bytes", str(CACHE)),
            ("X-Data-Resident", ", ".join(f"{one};bytes={SIZE}" for one in KEYS)),
        ]
    with Client(daemon.address()) as client:
        holder = ask(client, key)
    for service in services:
        service.says = [("X-Data-Cache-Bytes", str(CACHE))]
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


def test_what_endpoints_say_when_asked(start_daemon: StartDaemon, services: list[DataService]) -> None:
    """All workers send requests to whoever lists the data, and stop when it does not any more."""
    holder = services[1]
    holder.holds = set(KEYS)
    for service in services:
        listed = [{"key": key, "bytes": SIZE} for key in KEYS] if service is holder else []
        service.residency = {"resident": listed, "slots": 2, "cache_bytes": 10**12}
    residency = {"path": "/residency", "interval": "1s"}
    daemon = start_daemon(config(services, 2, residency=residency))
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
    labels = f'{{endpoint="{holder.address}",service_name="data"}}'
    polls = daemon.metrics()[f"homeport_locality_residency_polls_total{labels}"]
    assert polls >= 3 and holder.polls >= 3
    assert daemon.metrics()[f"homeport_locality_residency_poll_failures_total{labels}"] == 0
    daemon.stop()


def test_a_reload_loses_nothing(start_daemon: StartDaemon, services: list[DataService]) -> None:
    """Neither what is known of data, nor what endpoints said of themselves; endpoints may come and go meanwhile."""
    daemon = start_daemon(config(services, 2))
    holder = teach(daemon, services)
    with Client(daemon.address()) as client:
        assert ask(client, KEYS[0]) == holder
        wait_for(lambda: caches(daemon) == {CACHE}, "the size of its cache to be believed")
        misses = sum(service.misses for service in services)
        for service in services:
            service.says = []
        other = next(service for service in services if service.name != holder)
        new = DataService("d")
        try:
            for members in ([*services, new], [one for one in services if one is not other]):
                daemon.config["clusters"][0]["endpoints"] = [{"address": one.address} for one in members]
                daemon.config["clusters"][0]["timeouts"] = {"response": f"{30 + len(members)}s"}
                generation = daemon.status()["generation"]
                daemon.rewrite()
                wait_for(
                    lambda generation=generation: all(
                        one["generation"] > generation for one in daemon.status()["workers"]
                    ),
                    "the workers to reload",
                )
                for pid in daemon.workers().values():
                    with connect_to(daemon, pid) as other_client:
                        assert {ask(other_client, key) for key in KEYS} == {holder}
                assert {ask(client, key) for key in KEYS} == {holder}
        finally:
            new.stop()
    assert sum(service.misses for service in services) == misses
    assert caches(daemon) == {CACHE} and surprises(daemon) == 0
    daemon.stop()


FAST = {"failure_threshold": 3, "recovery_timeout": "1s", "success_threshold": 1}
CHECK = {"path": "/health", "interval": "100ms", "unhealthy_interval": "100ms", "jitter": 0}


@pytest.mark.parametrize(
    "more",
    [settings.STUBBORN, {"circuit_breaker": FAST}, {**settings.STUBBORN, "health_check": CHECK}],
    ids=["at once", "with its circuit open", "with its checks failing"],
)
def test_an_endpoint_comes_back_with_nothing(
    start_daemon: StartDaemon, services: list[DataService], more: settings.Config
) -> None:
    """What was believed of it is forgotten after some misses, by all workers, and then it learns again."""
    daemon = start_daemon(config(services, 2, more=more))
    name = teach(daemon, services)
    holder = next(service for service in services if service.name == name)
    well = standing(daemon, holder)
    first, second = daemon.workers().values()
    with connect_to(daemon, first) as client:
        assert ask(client, KEYS[0]) == name
        holder.stop()
        if "circuit_breaker" in more and more["circuit_breaker"] is FAST:
            for key in KEYS[-3:]:
                assert ask(client, key) != name  # it is tried, and then others are
        if more != settings.STUBBORN:
            wait_for(lambda: standing(daemon, holder) != well, "it to be left alone")
        holder.start()
        wait_for(lambda: client.get("/").status == 200 and standing(daemon, holder) == well, "it to be back")
        for key in KEYS[1:]:
            ask(client, key)
        assert surprises(daemon) == LOST_AFTER
        before = news(daemon)
        misses = sum(service.misses for service in services)
        for key in KEYS[1:]:
            ask(client, key)
        assert surprises(daemon) == LOST_AFTER
        # Keys that it fetched meanwhile may be asked for elsewhere, once; nothing is fetched a third time.
        wait_for(lambda: news(daemon) > before, "news to be sent")
    with connect_to(daemon, second) as client:
        for key in KEYS:
            ask(client, key)
    assert surprises(daemon) == LOST_AFTER
    assert sum(service.misses for service in services) <= misses + 2 * LOST_AFTER
    daemon.stop()
