"""Requests that wait for an endpoint with room, over all workers, and limits on how many a client may send."""

import threading
import time
from collections.abc import Iterator

import pytest
from support import settings
from support.client import OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import Exchange, Origin
from support.wait import wait_for


class Gate:
    """An endpoint that answers when it is told to, and knows how many requests it had at once."""

    def __init__(self, origin: Origin, path: str) -> None:
        self.origin = origin
        self.path = path
        self.order: list[str] = []
        self.now = self.peak = 0
        self._lock = threading.Lock()
        self._free = threading.Semaphore(0)
        origin.on(path, self._serve)

    def _serve(self, exchange: Exchange) -> None:
        with self._lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
            self.order.append(exchange.target.partition("?")[2])
        self._free.acquire(timeout=20)
        with self._lock:
            self.now -= 1
        exchange.reply(200, b"ok")

    def open(self, count: int = 1) -> None:
        self._free.release(count)

    def wait_begun(self, count: int) -> None:
        wait_for(lambda: len(self.order) >= count, f"{count} requests to begin")


@pytest.fixture(scope="module")
def queued(module_daemon: StartDaemon, shared_origin: Origin) -> Iterator[Daemon]:
    one = {"address": shared_origin.address, "max_connections": 1}
    three = {"address": shared_origin.address, "max_connections": 3}
    clusters = [
        settings.cluster("one", one),
        settings.cluster("three", three),
        settings.cluster("hasty", one, queue={"timeout": "1s"}),
        settings.cluster("small", one, queue={"max_pending": 1}),
        settings.cluster("none", one, queue={"max_pending": 0}),
        settings.cluster("urgent", one, queue={"ageing": "10s"}),
    ]
    routes = [settings.route(each["name"], path_prefix="/" + each["name"]) for each in clusters]
    routes[-1]["priority"] = {"from_client": True}
    daemon = module_daemon(
        {"listeners": [settings.listener()], "clusters": clusters, "routes": routes, "workers": 2}
    )
    yield daemon
    daemon.stop()


def pending(daemon: Daemon, cluster: str) -> float:
    return daemon.metrics()[f'homeport_cluster_pending_requests{{service_name="{cluster}"}}']


def test_it_waits_and_is_answered(queued: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    gate = Gate(origin, "/one" + path)
    clients = [connect(queued) for _ in range(5)]
    for client in clients:
        client.send(request("GET", gate.path))
    gate.wait_begun(1)
    wait_for(lambda: pending(queued, "one") == 4, "four to wait")
    gate.open(5)
    assert [client.reply().status for client in clients] == [200] * 5
    assert gate.peak == 1 and pending(queued, "one") == 0


def test_never_more_than_the_limit(queued: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """Over two workers: three at once, all the time, and none more."""
    gate = Gate(origin, "/three" + path)
    clients = [connect(queued) for _ in range(24)]
    assert len({queued.worker_of(client.sock) for client in clients}) == 2
    for client in clients:
        client.send(request("GET", gate.path))
    for number in range(24):
        gate.wait_begun(min(number + 3, 24))
        assert gate.peak <= 3
        gate.open()
    assert [client.reply().status for client in clients] == [200] * 24
    assert gate.peak == 3


def test_not_for_ever(queued: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    gate = Gate(origin, "/hasty" + path)
    first = connect(queued).send(request("GET", gate.path))
    gate.wait_begun(1)
    reply = connect(queued).get(gate.path)
    assert (reply.status, reply.document()["error"]) == (503, "queue_timeout")
    assert int(reply.fields.one("retry-after")) >= 1
    gate.open()
    assert first.reply().status == 200


@pytest.mark.parametrize("name, room", [("small", 1), ("none", 0)])
def test_not_beyond_the_bound(
    queued: Daemon, connect: OpenClient, origin: Origin, path: str, name: str, room: int
) -> None:
    gate = Gate(origin, f"/{name}{path}")
    clients = [connect(queued).send(request("GET", gate.path))]
    gate.wait_begun(1)
    for _ in range(room):
        clients.append(connect(queued).send(request("GET", gate.path)))
    wait_for(lambda: pending(queued, name) == room, "the queue to be full")
    reply = connect(queued).get(gate.path)
    assert (reply.status, reply.document()["error"]) == (503, "overloaded")
    assert int(reply.fields.one("retry-after")) >= 1
    gate.open(len(clients))
    assert [client.reply().status for client in clients] == [200] * len(clients)


def test_who_leaves_leaves_the_queue(queued: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    gate = Gate(origin, "/one" + path)
    first = connect(queued).send(request("GET", gate.path))
    gate.wait_begun(1)
    closing, cutting = (connect(queued).send(request("GET", gate.path)) for _ in range(2))
    wait_for(lambda: pending(queued, "one") == 2, "two to wait")
    cutting.reset()
    wait_for(lambda: pending(queued, "one") == 1, "one to leave")
    closing.close()
    wait_for(lambda: pending(queued, "one") == 0, "both to leave")
    gate.open()
    assert first.reply().status == 200
    assert len(gate.order) == 1


def has_waited(seconds: float) -> None:
    """Return when so long has passed."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= until, "time to pass")


def test_who_left_is_not_sent_on(queued: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """Whoever closed its connection before its turn came: nobody would take the answer."""
    gate = Gate(origin, "/one" + path)
    first = connect(queued).send(request("GET", gate.path + "?first"))
    gate.wait_begun(1)
    leaving = [connect(queued).send(request("GET", gate.path + "?left")) for _ in range(6)]
    last = connect(queued).send(request("GET", gate.path + "?last"))
    wait_for(lambda: pending(queued, "one") == 7, "seven to wait")
    has_waited(0.06)
    for client in leaving:
        client.close()
    gate.open(8)
    assert first.reply().status == last.reply().status == 200
    assert gate.order == ["first", "last"]
    wait_for(lambda: pending(queued, "one") == 0, "the queue to be empty")


@pytest.mark.parametrize("body", [None, b"x" * 150_000], ids=["read", "not read"])
def test_an_end_is_noticed_while_it_waits(
    queued: Daemon, connect: OpenClient, origin: Origin, path: str, body: bytes | None
) -> None:
    """Also one that came with the request, and one behind a body that is not read yet."""
    gate = Gate(origin, "/one" + path)
    first = connect(queued).send(request("GET", gate.path))
    gate.wait_begun(1)
    client = connect(queued).send(request("GET" if body is None else "POST", gate.path, body=body))
    client.half_close()
    if body is None:
        client.assert_closed()
    else:
        client.close()
    wait_for(lambda: pending(queued, "one") == 0, "it to leave")
    gate.open()
    assert first.reply().status == 200
    assert len(gate.order) == 1


def test_the_urgent_go_first(queued: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    gate = Gate(origin, "/urgent" + path)
    clients = [connect(queued).send(request("GET", gate.path + "?first"))]
    gate.wait_begun(1)
    same_worker = [
        client
        for client in (connect(queued) for _ in range(12))
        if queued.worker_of(client.sock) == queued.worker_of(clients[0].sock)
    ]
    for count, (client, urgency) in enumerate(zip(same_worker, (7, 3, 0), strict=False), 1):
        client.send(request("GET", f"{gate.path}?{urgency}", f"Priority: u={urgency}"))
        clients.append(client)
        wait_for(lambda count=count: pending(queued, "urgent") == count, "it to wait")  # type: ignore[misc]
    gate.open(4)
    assert [client.reply().status for client in clients] == [200] * 4
    assert gate.order == ["first", "0", "3", "7"]


def test_an_upload_waits_with_its_body(
    queued: Daemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    gate = Gate(origin, "/one" + path)
    first = connect(queued).send(request("GET", gate.path))
    gate.wait_begun(1)
    body = b"x" * 300_000
    second = connect(queued)
    sender = threading.Thread(target=second.send, args=(request("POST", gate.path, body=body),))
    sender.start()
    wait_for(lambda: pending(queued, "one") == 1, "it to wait")
    gate.open(2)
    assert first.reply().status == 200 and second.reply().status == 200
    sender.join()
    assert bytes(origin.seen(gate.path)[1].body) == body


def test_a_new_endpoint_takes_who_waits(start_daemon: StartDaemon, connect: OpenClient, path: str) -> None:
    """Late binding: nobody is tied to the endpoint that was busy when it came."""
    busy, fresh = Origin(), Origin()
    gate = Gate(busy, path)
    config = settings.simple(busy.address)
    config["clusters"] = [settings.cluster("origin", {"address": busy.address, "max_connections": 1})]
    daemon = start_daemon(config)
    first = connect(daemon).send(request("GET", path))
    gate.wait_begun(1)
    second = connect(daemon).send(request("GET", path))
    wait_for(lambda: pending(daemon, "origin") == 1, "it to wait")
    daemon.config["clusters"][0]["endpoints"].append({"address": fresh.address})
    daemon.rewrite()
    assert second.reply().status == 200
    assert len(fresh.seen(path)) == 1
    gate.open()
    assert first.reply().status == 200
    daemon.stop()
    for origin in (busy, fresh):
        origin.stop()


def test_a_limit_on_each_client(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """Counted over both workers; by address, and by a field that names the client."""
    config = settings.simple(origin.address, workers=2)
    rate = {"requests": 4, "per": "1h"}
    config["routes"] = [
        {**settings.route("origin", path_prefix="/address"), "rate_limit": rate},
        {**settings.route("origin", path_prefix="/key"), "rate_limit": {**rate, "header": "X-Api-Key"}},
        settings.route("origin", path_prefix="/"),
    ]
    daemon = start_daemon(config)
    clients = [connect(daemon) for _ in range(8)]
    assert len({daemon.worker_of(client.sock) for client in clients}) == 2
    replies = [client.get("/address" + path) for client in clients]
    assert [reply.status for reply in replies] == [200] * 4 + [429] * 4
    assert replies[-1].document()["error"] == "rate_limited"
    assert 800 <= int(replies[-1].fields.one("retry-after")) <= 900
    for key in ("a", "b"):
        statuses = [client.get("/key" + path, f"X-Api-Key: {key}").status for client in clients]
        assert statuses == [200] * 4 + [429] * 4
    assert {client.get(path).status for client in clients} == {200}
    daemon.stop()
