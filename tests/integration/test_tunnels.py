"""Tunnels (after a 101): what is said in one direction arrives whole, whatever happens in the other."""

import random
import socket
import threading
from collections.abc import Iterator

import pytest
from support import settings
from support.client import Client, OpenClient
from support.daemon import Daemon, StartDaemon
from support.origin import Exchange, Origin
from support.wait import LIMIT_S, wait_for

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
DATA = random.Random(5).randbytes(3 << 20)


@pytest.fixture(scope="module")
def narrow_origin() -> Iterator[Origin]:
    origin = Origin(narrow=True)
    yield origin
    origin.stop()
    assert origin.faults == []


@pytest.fixture(scope="module")
def relaying(module_daemon: StartDaemon, shared_origin: Origin, narrow_origin: Origin) -> Iterator[Daemon]:
    config = settings.simple(shared_origin.address, timeouts={"header": "2500ms", "write": "2s"})
    config["clusters"] += [
        settings.cluster("narrow", narrow_origin.address),
        settings.cluster("idle", shared_origin.address, timeouts={"tunnel": "500ms"}),
    ]
    config["routes"] += [settings.route(name, path_prefix=f"/{name}") for name in ("narrow", "idle")]
    daemon = module_daemon(config)
    yield daemon
    daemon.stop()


@pytest.fixture
def client(relaying: Daemon, connect: OpenClient) -> Client:
    return connect(relaying, receive_buffer=4096)


def outlast_looks_at_clients(daemon: Daemon) -> None:
    """Return when the daemon has looked at least twice for clients that left while it did not read from them."""
    with Client(daemon.address()) as clock:
        clock.stream.rest()  # cut for `timeouts.header`


def send_and_end(client: Client, data: bytes) -> None:
    """Send `data` and FIN in one segment, so that both are noticed at once."""
    client.sock.send(data, socket.MSG_MORE)
    client.half_close()


def switch(exchange: Exchange) -> None:
    exchange.send(SWITCHING)
    exchange.stream.take(len(exchange.stream.buffer))


def end_and_listen(exchange: Exchange) -> None:
    """End our direction first, then hear the other's to its end."""
    switch(exchange)
    exchange.sock.shutdown(socket.SHUT_WR)
    exchange.body += exchange.stream.rest()
    exchange.events.put("heard")
    exchange.complete = True
    exchange.close()


def test_last_words_to_an_endpoint_that_ended(client: Client, origin: Origin, path: str) -> None:
    """The endpoint ends first; what the client says last, together with its own end, still arrives."""
    origin.on(path, end_and_listen, early=True)
    assert client.get(path, *UPGRADE).status == 101
    client.assert_closed()
    send_and_end(client, b"last words")
    exchange = origin.only(path)
    assert exchange.events.get(timeout=LIMIT_S) == "heard"
    assert exchange.body == b"last words"


def test_last_words_to_a_client_that_ended(client: Client, origin: Origin, path: str) -> None:
    """The client ends first; what the endpoint says last, together with its own end, still arrives."""

    def handler(exchange: Exchange) -> None:
        switch(exchange)
        heard = exchange.stream.rest()
        exchange.send(b"heard: " + heard)
        exchange.close()

    origin.on(path, handler, early=True)
    assert client.get(path, *UPGRADE).status == 101
    send_and_end(client, b"that is all")
    assert client.stream.rest() == b"heard: that is all"


def test_bulk_to_an_endpoint_that_ended(
    relaying: Daemon, client: Client, narrow_origin: Origin, path: str
) -> None:
    """The endpoint ends first and reads late: it gets everything that the client sent before it ended as well."""
    target = "/narrow" + path

    def handler(exchange: Exchange) -> None:
        switch(exchange)
        exchange.sock.shutdown(socket.SHUT_WR)
        exchange.events.get(timeout=LIMIT_S)
        exchange.body += exchange.stream.rest()
        exchange.complete = True
        exchange.events.put("heard")
        exchange.close()

    narrow_origin.on(target, handler, early=True)
    assert client.get(target, *UPGRADE).status == 101
    client.assert_closed()
    client.send(DATA[:120_000])
    client.half_close()
    exchange = narrow_origin.only(target)
    outlast_looks_at_clients(relaying)
    exchange.events.put("go")
    wait_for(lambda: exchange.complete, "the endpoint to hear the end")
    assert exchange.body == DATA[:120_000]


def test_stalled_client_loses_nothing(client: Client, origin: Origin, path: str) -> None:
    """The endpoint sends much and ends, the client reads late but speaks meanwhile: it gets every byte, and its own
    words arrive."""

    def handler(exchange: Exchange) -> None:
        switch(exchange)
        sender = threading.Thread(target=exchange.send, args=(DATA,))
        sender.start()
        exchange.body += exchange.stream.exactly(5)
        exchange.events.put("heard")
        sender.join()
        exchange.complete = True
        exchange.close()

    origin.on(path, handler, early=True)
    assert client.get(path, *UPGRADE).status == 101
    exchange = origin.only(path)
    client.send(b"hello")
    assert exchange.events.get(timeout=LIMIT_S) == "heard"
    assert client.stream.rest() == DATA


def test_words_to_an_endpoint_that_left(client: Client, origin: Origin, path: str) -> None:
    """The endpoint has said everything and closed; what the client says then goes nowhere, and takes nothing of what is
    still on its way to the client with it."""

    def handler(exchange: Exchange) -> None:
        switch(exchange)
        exchange.complete = True
        exchange.send(DATA[:50_000])
        exchange.close()
        exchange.events.put("closed")

    origin.on(path, handler, early=True)
    assert client.get(path, *UPGRADE).status == 101
    assert origin.only(path).events.get(timeout=LIMIT_S) == "closed"
    for _ in range(3):
        with Client(client.address) as other:
            assert other.get("/").status == 200
        client.send(b"still there?")
    assert client.stream.rest() == DATA[:50_000]


def test_stalled_client_that_speaks_is_cut(client: Client, origin: Origin, path: str) -> None:
    """`timeouts.write` holds in a tunnel for a client that reads nothing, however much it sends."""

    def handler(exchange: Exchange) -> None:
        switch(exchange)
        reader = threading.Thread(target=exchange.stream.rest)
        reader.start()
        try:
            while True:
                exchange.send(DATA)
        except OSError:
            exchange.complete = True
            exchange.events.put("gone")
        reader.join()

    origin.on(path, handler, early=True)
    assert client.get(path, *UPGRADE).status == 101

    def is_cut() -> bool:
        client.send(b"x")
        return client.is_cut()

    wait_for(is_cut, "the client to be cut", 10)
    assert origin.only(path).events.get(timeout=LIMIT_S) == "gone"


def test_idle_after_a_stall(client: Client, origin: Origin, path: str) -> None:
    """`timeouts.tunnel` holds again once a client that stalled has taken everything."""
    target = "/idle" + path

    def handler(exchange: Exchange) -> None:
        switch(exchange)
        exchange.send(DATA[: 1 << 20])
        exchange.stream.rest()
        exchange.complete = True
        exchange.events.put("gone")

    origin.on(target, handler, early=True)
    assert client.get(target, *UPGRADE).status == 101
    assert client.stream.exactly(1 << 20) == DATA[: 1 << 20]
    client.assert_closed()
    assert origin.only(target).events.get(timeout=LIMIT_S) == "gone"
