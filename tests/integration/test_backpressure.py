"""A slow peer slows the other side down; it does not fill the daemon's memory."""

import time
from collections.abc import Callable, Iterator

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
