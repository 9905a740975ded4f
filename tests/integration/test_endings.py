"""The end of a connection: whoever is slow to take a last answer, or leaves while a connection is being made for it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
from support import settings
from support.client import Client, request
from support.daemon import Daemon, StartDaemon
from support.origin import Exchange, Origin
from support.wait import wait_for

SIZE = 260_000
HELD = 160_000
BODY = bytes(range(256)) * (SIZE // 256 + 1)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + BODY[:SIZE]


@pytest.fixture(scope="module")
def hasty(module_daemon: StartDaemon, shared_origin: Origin) -> Iterator[Daemon]:
    """A daemon that waits 700 ms for a client that takes nothing."""
    daemon = module_daemon(settings.simple(shared_origin.address, timeouts={"write": "700ms"}))
    yield daemon
    daemon.stop()


def take_slowly(client: Client) -> bytes:
    """Take the rest of an answer of `SIZE` bytes: from the moment when all of it is here but for what the proxy and the
    kernel hold, some every fifth of a second, which takes eight seconds."""
    taken = bytearray()
    while len(taken) < SIZE:
        piece = client.sock.recv(4096)
        if not piece:
            break
        taken += piece
        if SIZE - len(taken) < HELD:
            time.sleep(0.2)  # the pace of the reader is what this scene is about
    return bytes(taken)


def wait_cut(client: Client) -> bytes:
    """Take nothing until the proxy gives up; what the kernel had of the answer by then."""
    wait_for(client.is_cut, "the client's connection to be cut", 10)
    return client.stream.rest()


Ending = Callable[[Client], bytes]
Scene = Callable[[Client, str, Ending], bytes]


def last_answer(client: Client, path: str, ending: Ending) -> bytes:
    """The client asked for the end; the answer waits in the proxy when the exchange is over."""
    client.send(request("GET", path, "Connection: close"))
    client.stream.until(b"\r\n\r\n")
    return client.stream.take(len(client.stream.buffer)) + ending(client)


def early_answer(client: Client, path: str, ending: Ending) -> bytes:
    """The answer came before the upload was read: the connection lingers."""
    client.send(request("POST", path + "/early", "Content-Length: 100000000") + b"x" * 1000)
    client.stream.until(b"\r\n\r\n")
    return client.stream.take(len(client.stream.buffer)) + ending(client)


@pytest.fixture(scope="module")
def results(hasty: Daemon, shared_origin: Origin) -> Iterator[Callable[[Scene, Ending], bytes]]:
    """What each client got: all combinations of scene and reader, which run at once."""

    def answer(exchange: Exchange) -> None:
        exchange.send(ANSWER)
        if exchange.method == "POST":
            exchange.wait_gone()

    def run(scene: Scene, ending: Ending) -> bytes:
        path = f"/{scene.__name__}/{ending.__name__}"
        shared_origin.on(path, answer)
        shared_origin.on(path + "/early", answer, early=True)
        with Client(hasty.address(), receive_buffer=4096) as client:
            return scene(client, path, ending)

    pairs = [(scene, ending) for scene in (last_answer, early_answer) for ending in (take_slowly, wait_cut)]
    with ThreadPoolExecutor(len(pairs)) as pool:
        futures: dict[tuple[Scene, Ending], Future[bytes]] = {pair: pool.submit(run, *pair) for pair in pairs}
        yield lambda scene, ending: futures[scene, ending].result(60)


@pytest.mark.parametrize("scene", [last_answer, early_answer])
def test_slow_reader_of_the_last_answer(results: Callable[[Scene, Ending], bytes], scene: Scene) -> None:
    """A client that takes its last answer slowly, but does, gets all of it (RFC 9112 9.6)."""
    assert results(scene, take_slowly) == BODY[:SIZE]


@pytest.mark.parametrize("scene", [last_answer, early_answer])
def test_stalled_reader_of_the_last_answer(results: Callable[[Scene, Ending], bytes], scene: Scene) -> None:
    """A client that takes nothing of its last answer for `timeouts.write` is cut."""
    assert len(results(scene, wait_cut)) < SIZE


def open_connections(daemon: Daemon) -> int:
    """Connections to endpoints, as the daemon counts them."""
    clusters = orjson.loads(daemon.admin("/api/v1/clusters")[1])["clusters"]
    return sum(one["connections"] for cluster in clusters for one in cluster["endpoints"])


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_client_gone_while_connecting(
    start_daemon: StartDaemon, origin: Origin, tmp_path: Path, kind: str
) -> None:
    """Clients that leave at any moment of the making of a connection for them leave none behind."""
    other = Origin(unix=tmp_path / "origin.sock") if kind == "unix" else Origin()
    config = settings.simple(other.address)
    config["clusters"][0]["pool"] = {"max_idle": 0}
    daemon = start_daemon(config)
    for number in range(400):
        client = Client(daemon.address())
        client.send(request("GET", "/"))
        # Between nothing and about as long as a connection takes to be made.
        for _ in range(number % 40 * 10):
            pass
        client.reset()
    with Client(daemon.address()) as client:
        assert client.get("/").status == 200
    wait_for(lambda: open_connections(daemon) == 0, "no connection to the endpoint to be left")
    daemon.stop()
    other.stop()
