"""What a peer that does not read, or not yet, does to the time that everybody is given.

Times are short and configured. That one is over is seen by a second exchange with the same limit that began later: once
that one is ended, the first has been spared.
"""

import threading
from collections.abc import Iterator

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import OK, Exchange, Origin
from support.wait import LIMIT_S

TOTAL = 400_000
PIECE = 60_000
LOCAL = "l" * 10_000
# Answered in one turn, these are more than the kernel takes for a client with a small receive buffer.
LOCALS = request("GET", "/local") * 30
MIB = 1 << 20


@pytest.fixture(scope="module")
def narrow_origin() -> Iterator[Origin]:
    origin = Origin(narrow=True)
    yield origin
    origin.stop()
    assert origin.faults == []


@pytest.fixture(scope="module")
def hasty(
    module_daemon: StartDaemon, shared_origin: Origin, narrow_origin: Origin, blackhole: str
) -> Iterator[Daemon]:
    """A daemon that gives everybody little time, except endpoints for taking an upload."""
    brief = {"response": "400ms", "idle": "400ms"}
    daemon = module_daemon(
        {
            "listeners": [settings.listener()],
            "clusters": [
                settings.cluster(
                    "origin", shared_origin.address, timeouts=brief, pool={"max_idle": 0}, **settings.STUBBORN
                ),
                # What a fresh connection takes is known.
                settings.cluster(
                    "narrow",
                    narrow_origin.address,
                    timeouts={"response": "400ms", "idle": "30s"},
                    pool={"max_idle": 0},
                    **settings.STUBBORN,
                ),
                settings.cluster("patient", shared_origin.address),
            ],
            "routes": [
                settings.route("origin", path_prefix="/"),
                settings.route("narrow", path_prefix="/narrow"),
                settings.route("patient", path_prefix="/patient"),
                settings.route({"respond": {"status": 200, "body": LOCAL}}, path="/local"),
            ],
            "timeouts": {"header": "400ms", "body": "400ms", "write": "700ms"},
            "limits": {"min_rate": "8KiB", "min_rate_grace": "400ms"},
        }
    )
    yield daemon
    daemon.stop()


def outlast_response(daemon: Daemon, origin: Origin, path: str) -> None:
    """Return when a request that is sent now has been refused for `timeouts.response`."""
    origin.on(path + "/clock", lambda exchange: exchange.wait_gone() and None)
    with Client(daemon.address()) as clock:
        assert b"response_timeout" in clock.get(path + "/clock").body


def outlast_body(daemon: Daemon, path: str) -> None:
    """Return when an upload that begins now and then stops has been refused for `timeouts.body`."""
    with Client(daemon.address()) as clock:
        clock.send(request("POST", path + "/clock", "Content-Length: 10") + b"abc")
        assert b"body_timeout" in clock.reply().body


def drip_until_refused(daemon: Daemon, path: str) -> None:
    """Return when an upload that begins now has been refused for `limits.min_rate`."""
    with Client(daemon.address()) as clock:
        clock.send(request("POST", path + "/clock", "Content-Length: 100000"))
        clock.sock.settimeout(0.05)
        for _ in range(1000):
            clock.send(b"d")
            try:
                clock.stream.fill()
                break
            except TimeoutError:
                continue
        clock.sock.settimeout(LIMIT_S)
        assert b"body_timeout" in clock.reply().body


# ---------------------------------------------------------------- an endpoint that does not read yet


def wait_for_go(exchange: Exchange) -> None:
    """Read nothing until told, then everything."""
    exchange.events.get(timeout=LIMIT_S)
    exchange.read_body()
    exchange.send(OK)


def test_whole_request_that_the_endpoint_has_not_taken(
    hasty: Daemon, connect: OpenClient, origin: Origin, narrow_origin: Origin, path: str
) -> None:
    """`timeouts.response` does not run before the endpoint has taken the request."""
    target = "/narrow" + path
    narrow_origin.on(target, wait_for_go, early=True)
    client = connect(hasty)
    client.send(request("POST", target, body=b"x" * PIECE))
    exchange = narrow_origin.only(target)
    outlast_response(hasty, origin, path)
    exchange.events.put("go")
    assert client.reply().status == 200
    assert exchange.body == b"x" * PIECE


def test_upload_that_the_endpoint_has_not_taken(
    hasty: Daemon, connect: OpenClient, narrow_origin: Origin, path: str
) -> None:
    """`timeouts.body` and `limits.min_rate` are not held against a client that the endpoint makes wait, and all of the
    upload arrives once the endpoint reads."""
    target = "/narrow" + path
    narrow_origin.on(target, wait_for_go, early=True)
    client = connect(hasty)
    client.send(request("POST", target, f"Content-Length: {TOTAL}") + b"x" * PIECE)
    exchange = narrow_origin.only(target)
    outlast_body(hasty, path)
    drip_until_refused(hasty, path)
    exchange.events.put("go")
    client.send(b"y" * (TOTAL - PIECE))
    assert client.reply().status == 200
    assert exchange.body == b"x" * PIECE + b"y" * (TOTAL - PIECE)


def test_client_is_held_back_by_the_first_write(
    start_daemon: StartDaemon, connect: OpenClient, narrow_origin: Origin, path: str
) -> None:
    """A fresh connection that does not take the first piece of an upload: no more is read from the client."""
    daemon = start_daemon(settings.simple(narrow_origin.address))
    narrow_origin.on(path, lambda exchange: exchange.events.get(timeout=LIMIT_S) and None, early=True)
    before = daemon.rss_bytes()
    client = connect(daemon)
    client.send(request("POST", path, f"Content-Length: {100 * MIB}") + b"x" * PIECE)
    exchange = narrow_origin.only(path)
    client.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        for _ in range(100):
            client.sock.sendall(b"x" * MIB)
    assert daemon.rss_bytes() - before < 32 * MIB
    client.reset()
    exchange.events.put("go")
    daemon.stop()


# ---------------------------------------------------------------- a client that does not read yet


def test_blocked_before_its_reply(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """A client that does not take its earlier answers: the next one, whose connection to the endpoint was only being
    made meanwhile, is held back at the endpoint."""
    config = settings.simple(origin.address)
    config["routes"] += [settings.route({"respond": {"status": 200, "body": LOCAL}}, path="/local")]
    daemon = start_daemon(config)

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * MIB))
        exchange.sock.settimeout(0.5)
        try:
            for _ in range(100):
                exchange.sock.sendall(b"x" * MIB)
        except TimeoutError:
            exchange.events.put("held back")
        else:
            exchange.events.put("all sent")
        exchange.close()

    origin.on(path, endless, early=True)
    before = daemon.rss_bytes()
    client = connect(daemon, receive_buffer=4096)
    client.send(LOCALS + request("GET", path))
    assert origin.only(path).events.get(timeout=LIMIT_S) == "held back"
    assert daemon.rss_bytes() - before < 32 * MIB
    client.reset()
    daemon.stop()


def test_response_timeout_of_one_that_was_blocked(
    hasty: Daemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """A client that first did not read and then did still gets its 504 when the endpoint is silent."""
    origin.on(path, lambda exchange: exchange.wait_gone() and None)
    client = connect(hasty, receive_buffer=4096)
    client.send(LOCALS + request("GET", path))
    origin.wait_seen(path)
    for _ in range(30):
        assert len(client.reply().body) == len(LOCAL)
    reply = client.reply()
    assert (reply.status, b"response_timeout" in reply.body) == (504, True)


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost:", b"header_timeout"),
        (request("POST", "/", "Content-Length: 4"), b"body_timeout"),
    ],
    ids=["head", "body"],
)
def test_unfinished_request_of_one_that_was_blocked(
    hasty: Daemon, connect: OpenClient, rest: bytes, reason: bytes
) -> None:
    """A client that first did not read and then did is not given for ever to finish its next request."""
    client = connect(hasty, receive_buffer=4096)
    client.send(LOCALS + rest)
    for _ in range(30):
        assert len(client.reply().body) == len(LOCAL)
    reply = client.reply()
    assert (reply.status, reason in reply.body) == (408, True)


def test_response_timeout_after_interim_replies(
    hasty: Daemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """Interim replies that fill the client's buffers do not take the endpoint's deadline away."""

    def handler(exchange: Exchange) -> None:
        exchange.send((b"HTTP/1.1 103 Early Hints\r\nLink: </%b>\r\n\r\n" % (b"a" * 30_000)) * 12)
        exchange.events.put("sent")
        exchange.wait_gone()

    origin.on(path, handler)
    client = connect(hasty, receive_buffer=4096)
    client.send(request("GET", path))
    assert origin.only(path).events.get(timeout=LIMIT_S) == "sent"
    reply = client.reply()
    assert [one.status for one in reply.interim] == [103] * 12
    assert (reply.status, b"response_timeout" in reply.body) == (504, True)


def test_response_timeout_after_an_interim_reply(
    hasty: Daemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """An endpoint that says 102 and no more is 504 too."""

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        exchange.wait_gone()

    origin.on(path, handler)
    reply = connect(hasty).get(path)
    assert [one.status for one in reply.interim] == [102]
    assert (reply.status, b"response_timeout" in reply.body) == (504, True)


# ---------------------------------------------------------------- an upload while others are silent


def test_upload_that_outlasts_the_idle_time(
    hasty: Daemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """`timeouts.idle` does not end an exchange whose reply has begun while its upload makes progress."""

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        exchange.read_body()
        exchange.send(b"cd")

    def silent(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        exchange.wait_gone()

    origin.on(path, handler, early=True)
    origin.on(path + "/clock", silent)
    client = connect(hasty)
    client.send(request("POST", path, "Transfer-Encoding: chunked") + b"1000\r\n" + b"x" * 4096 + b"\r\n")
    client.stream.until(b"\r\n\r\n")
    over = threading.Event()

    def clock() -> None:
        with Client(hasty.address()) as other:
            assert other.send(request("GET", path + "/clock")).reply_or_cut() is None
        over.set()

    thread = threading.Thread(target=clock)
    thread.start()
    sent = 4096
    while not over.wait(0.05):
        client.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        sent += 4096
    thread.join()
    client.send(b"0\r\n\r\n")
    assert client.stream.exactly(4) == b"abcd"
    assert len(origin.only(path).body) == sent


def test_rate_counts_from_100_continue(hasty: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """`limits.min_rate` does not count the time in which the client waited for the endpoint's 100."""
    target = "/patient" + path

    def handler(exchange: Exchange) -> None:
        exchange.events.get(timeout=LIMIT_S)
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.body += exchange.stream.exactly(1)
        # Proof that the first byte has been judged.
        exchange.send(b"HTTP/1.1 103 Early Hints\r\nX-Seen: 1\r\n\r\n")
        exchange.body += exchange.stream.exactly(4)
        exchange.complete = True
        exchange.send(OK)

    origin.on(target, handler, early=True)
    client = connect(hasty)
    client.send(request("POST", target, "Expect: 100-continue", "Content-Length: 5"))
    exchange = origin.only(target)
    drip_until_refused(hasty, path)
    exchange.events.put("go")
    assert client.stream.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    client.send(b"h")
    assert client.stream.until(b"\r\n\r\n").startswith(b"HTTP/1.1 103 ")
    client.send(b"ello")
    assert client.reply().body == b"ok"
    assert exchange.body == b"hello"
