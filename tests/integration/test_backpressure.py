"""A slow peer slows the other side down; it does not fill the daemon's memory."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import Exchange, Origin
from support.wait import wait_for
from support.wire import chunked

MIB = 1 << 20
TOTAL = 200 * MIB
BOUND = 64 * MIB


@pytest.fixture(scope="module")
def alone(module_daemon: StartDaemon, shared_origin: Origin) -> Iterator[Daemon]:
    """A daemon whose memory nobody else moves."""
    daemon = module_daemon(settings.simple(shared_origin.address))
    yield daemon
    daemon.stop()


def settled(count: Callable[[], int]) -> int:
    """`count()` once it has stopped growing for half a second: whoever sends is blocked."""
    last, since = -1, time.monotonic()

    def is_settled() -> bool:
        nonlocal last, since
        now, value = time.monotonic(), count()
        if value != last:
            last, since = value, now
        return now - since > 0.5 and value > 0

    wait_for(is_settled, "the sender to be blocked", 30)
    return last


class Source:
    """An endpoint's endless sender that counts what the proxy took."""

    def __init__(self, head: bytes, piece: bytes, total: int = TOTAL) -> None:
        self.head, self.piece, self.total = head, piece, total
        self.sent = 0

    def __call__(self, exchange: Exchange) -> None:
        exchange.sock.settimeout(60)
        exchange.send(self.head)
        while self.sent < self.total:
            exchange.send(self.piece)
            self.sent += len(self.piece)


def source(framing: str) -> Source:
    if framing == "length":
        return Source(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % TOTAL, b"x" * 65536)
    return Source(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(b"x" * 65536)[:-5])


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_slow_readers(alone: Daemon, connect: OpenClient, origin: Origin, path: str, framing: str) -> None:
    """Four clients that read nothing of 200 MB each: the endpoint is held back, memory stays."""
    sources = [source(framing) for _ in range(4)]
    clients = []
    before = alone.rss_bytes()
    for number, one in enumerate(sources):
        origin.on(f"{path}/{number}", one)
        client = connect(alone, receive_buffer=65536)
        clients.append(client.send(request("GET", f"{path}/{number}")))
    assert settled(lambda: sum(one.sent for one in sources)) < 4 * BOUND
    assert alone.rss_bytes() - before < BOUND
    with Client(alone.address()) as other:
        assert other.get("/").status == 200
    for client in clients:
        client.reset()


def test_whole_body_in_bounded_memory(alone: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """200 MB go through whole while memory stays."""
    origin.on(path, source("length"))
    before = alone.rss_bytes()
    client = connect(alone)
    client.send(request("GET", path))
    client.stream.until(b"\r\n\r\n")
    left = TOTAL - len(client.stream.take(len(client.stream.buffer)))
    buffer = bytearray(MIB)
    while left:
        taken = client.sock.recv_into(buffer)
        assert taken, f"cut {left} bytes before the end"
        left -= taken
    assert alone.rss_bytes() - before < BOUND


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_deaf_endpoint(alone: Daemon, connect: OpenClient, origin: Origin, path: str, framing: str) -> None:
    """Uploads to an endpoint that reads nothing: the clients are held back, memory stays."""
    origin.on(path, lambda exchange: exchange.events.get(timeout=60), early=True)
    before = alone.rss_bytes()
    clients = [connect(alone) for _ in range(4)]
    sent = [0] * len(clients)
    piece = b"x" * 65536
    head = f"Content-Length: {TOTAL}" if framing == "length" else "Transfer-Encoding: chunked"
    # One chunk holds all, so that it does not matter how much of a piece the kernel takes.
    beginning = b"" if framing == "length" else b"%x\r\n" % TOTAL
    for client in clients:
        client.send(request("POST", path, head) + beginning)
        client.sock.setblocking(False)

    def push() -> int:
        for number, client in enumerate(clients):
            try:
                while sent[number] < TOTAL:
                    sent[number] += client.sock.send(piece)
            except BlockingIOError:
                pass
        return sum(sent)

    assert settled(push) < 4 * BOUND
    assert alone.rss_bytes() - before < BOUND
    for client in clients:
        client.reset()
    for exchange in origin.seen(path):
        exchange.events.put("go")


def test_buffer_budget(start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """`buffered_bytes`: beyond what may wait for slow readers in all, the worst are cut; others are
    served."""
    daemon = start_daemon(settings.simple(origin.address, limits={"buffered_bytes": "1KiB"}))
    clients = []
    for number in range(40):
        origin.on(f"{path}/{number}", source("length"))
        client = connect(daemon, receive_buffer=4096)
        clients.append(client.send(request("GET", f"{path}/{number}")))

    wait_for(lambda: any(client.is_cut() for client in clients), "a slow reader to be cut", 6)
    with Client(daemon.address()) as other:
        assert other.get("/").status == 200
    for client in clients:
        client.close()
    daemon.stop()


def test_endpoint_that_blocks_on_the_first_write(
    start_daemon: StartDaemon, connect: OpenClient, tmp_path: Path
) -> None:
    """An endpoint whose socket is full before the upload's first piece went out holds the client back too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        daemon = start_daemon(settings.simple(f"unix:{tmp_path / 'deaf'}"))
        before = daemon.rss_bytes()
        client = connect(daemon)
        client.send(request("POST", "/", f"Content-Length: {TOTAL}") + b"x" * 65536)
        client.sock.setblocking(False)
        sent = 0

        def push() -> int:
            nonlocal sent
            try:
                while sent < TOTAL:
                    sent += client.sock.send(b"x" * 65536)
            except BlockingIOError:
                pass
            return sent

        assert settled(push) < BOUND
        assert daemon.rss_bytes() - before < BOUND
        client.reset()
    daemon.stop()


def test_client_that_blocked_before_its_reply(
    alone: Daemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """A client that did not take its earlier answers is not sent a large one into memory."""
    origin.on(path, b"HTTP/1.1 200 OK\r\nContent-Length: 12000\r\n\r\n" + b"s" * 12000)
    huge = source("length")
    origin.on(path + "/huge", huge, early=True)
    before = alone.rss_bytes()
    client = connect(alone, receive_buffer=4096)
    for _ in range(24):
        client.send(request("GET", path))
    client.send(request("GET", path + "/huge"))
    wait_for(lambda: len(origin.seen(path)) > 0, "the first request", 10)
    assert alone.rss_bytes() - before < BOUND
    for _ in range(24):
        assert len(client.reply().body) == 12000
    settled(lambda: huge.sent)
    assert alone.rss_bytes() - before < BOUND
    client.reset()


def test_paused_for_pipelined_requests(start_daemon: StartDaemon, connect: OpenClient) -> None:
    """Reading goes on when what was held back ends in the middle of a head."""
    config = settings.simple("127.0.0.1:1")
    config["routes"] = [settings.route({"respond": {"status": 200, "body": "hi"}}, path_prefix="/")]
    daemon = start_daemon(config)
    client = connect(daemon)
    one = request("GET", "/", "X-Pad: " + "p" * 8000)
    client.send(one * 20 + one[:4000])
    for _ in range(20):
        assert client.reply().body == b"hi"
    client.send(one[4000:])
    assert client.reply().body == b"hi"
    daemon.stop()
