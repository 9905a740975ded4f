"""Every timeout, with short configured values. All scenes run at once in threads; each test looks at one
result."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from support import settings
from support.client import Client, request
from support.daemon import Daemon, StartDaemon
from support.origin import OK, Exchange, Origin
from support.wait import wait_for
from support.wire import Reply

Results = Callable[[str], Any]
Scene = Callable[[Client, Origin, str], Any]

SLACK_S = 8.0
"""How much later than configured a timeout may come on a busy machine."""

SHORT = {"header": "500ms", "body": "500ms", "keep_alive": "500ms", "write": "700ms"}
SCENES: dict[str, tuple[str, Scene]] = {}


def scene(daemon: str) -> Callable[[Scene], Scene]:
    """Run the function at once with the others: a client of `daemon`, the origin, and a path of its own."""

    def keep(function: Scene) -> Scene:
        SCENES[function.__name__] = daemon, function
        return function

    return keep


@pytest.fixture(scope="module")
def hasty(module_daemon: StartDaemon, shared_origin: Origin) -> Iterator[Daemon]:
    """A daemon that gives its clients little time."""
    daemon = module_daemon(
        settings.simple(
            shared_origin.address,
            timeouts=SHORT,
            limits={"min_rate": "1KiB", "min_rate_grace": "30s"},
        )
    )
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def strict(module_daemon: StartDaemon, shared_origin: Origin) -> Iterator[Daemon]:
    """A daemon that asks for a rate soon, and whose idle upstream connections do not last."""
    config = settings.simple(shared_origin.address, limits={"min_rate": "10KiB", "min_rate_grace": "500ms"})
    config["clusters"][0]["pool"] = {"idle_timeout": "400ms"}
    daemon = module_daemon(config)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def results(daemon: Daemon, hasty: Daemon, strict: Daemon, shared_origin: Origin) -> Iterator[Results]:
    """The result of each scene by its name."""
    daemons = {"shared": daemon, "hasty": hasty, "strict": strict}

    def run(name: str) -> Any:
        which, function = SCENES[name]
        with Client(daemons[which].address()) as client:
            return function(client, shared_origin, "/scene_" + name)

    with ThreadPoolExecutor(len(SCENES)) as pool:
        futures: dict[str, Future[Any]] = {name: pool.submit(run, name) for name in SCENES}
        yield lambda name: futures[name].result(60)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.monotonic()
    result = function()
    return result, time.monotonic() - start


def never(exchange: Exchange) -> None:
    """Send nothing, and report when the proxy gives up."""
    exchange.wait_gone()
    exchange.events.put("gone")


@scene("shared")
def connect(client: Client, origin: Origin, path: str) -> tuple[Reply, float]:
    return timed(lambda: client.get("/blackhole" + path))


def test_connect(results: Results) -> None:
    """`timeouts.connect`: an endpoint that neither accepts nor refuses is 504."""
    reply, seconds = results("connect")
    assert reply.status == 504
    assert b"connect_timeout" in reply.body
    assert 0.25 <= seconds < 0.3 + SLACK_S


@scene("shared")
def response(client: Client, origin: Origin, path: str) -> tuple[Reply, float, str]:
    origin.on("/impatient" + path, never)
    reply, seconds = timed(lambda: client.ask("POST", "/impatient" + path, body=b"x"))
    return reply, seconds, origin.only("/impatient" + path).events.get(timeout=6)


def test_response(results: Results) -> None:
    """`timeouts.response`: no first byte in time is 504; the endpoint's connection is closed, a POST is not
    resent."""
    reply, seconds, end = results("response")
    assert reply.status == 504
    assert b"response_timeout" in reply.body
    assert 0.35 <= seconds < 0.4 + SLACK_S
    assert end == "gone"


@scene("shared")
def response_counts_from_the_request(client: Client, origin: Origin, path: str) -> int:
    client.send(request("POST", "/impatient" + path, "Content-Length: 4"))
    for byte in b"abcd":
        time.sleep(0.2)  # the pace of the sender is what this scene is about
        client.send(bytes([byte]))
    return client.reply().status


def test_response_counts_from_the_request(results: Results) -> None:
    """`timeouts.response` begins with the last byte of the request: a slow upload is no slow endpoint."""
    assert results("response_counts_from_the_request") == 200


@scene("shared")
def idle(client: Client, origin: Origin, path: str) -> tuple[Reply | None, float, str]:
    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        never(exchange)

    origin.on("/impatient" + path, handler)
    reply, seconds = timed(lambda: client.send(request("GET", "/impatient" + path)).reply_or_cut())
    return reply, seconds, origin.only("/impatient" + path).events.get(timeout=6)


def test_idle(results: Results) -> None:
    """`timeouts.idle`: an endpoint that falls silent in its answer: the client sees a cut, not an end."""
    reply, seconds, end = results("idle")
    assert reply is None
    assert 0.35 <= seconds < 0.4 + SLACK_S
    assert end == "gone"


@scene("shared")
def idle_begins_anew(client: Client, origin: Origin, path: str) -> bytes:
    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for byte in b"steady":
            time.sleep(0.15)
            exchange.send(bytes([byte]))

    origin.on("/impatient" + path, handler)
    return client.get("/impatient" + path).body


def test_idle_begins_anew(results: Results) -> None:
    """`timeouts.idle` is between two bytes, not for all of them."""
    assert results("idle_begins_anew") == b"steady"


@scene("shared")
def total(client: Client, origin: Origin, path: str) -> tuple[Reply, float]:
    origin.on("/total" + path, never)
    return timed(lambda: client.get("/total" + path))


def test_total(results: Results) -> None:
    """`timeouts.total` before the reply began: 504."""
    reply, seconds = results("total")
    assert reply.status == 504
    assert b"total_timeout" in reply.body
    assert 0.55 <= seconds < 0.6 + SLACK_S


@scene("shared")
def total_in_body(client: Client, origin: Origin, path: str) -> tuple[Reply | None, float]:
    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            exchange.send(b".")
            time.sleep(0.05)

    origin.on("/total" + path, handler)
    return timed(lambda: client.send(request("GET", "/total" + path)).reply_or_cut())


def test_total_in_body(results: Results) -> None:
    """`timeouts.total` in the middle of a lively reply: cut."""
    reply, seconds = results("total_in_body")
    assert reply is None
    assert 0.55 <= seconds < 0.6 + SLACK_S


@scene("hasty")
def header(client: Client, origin: Origin, path: str) -> tuple[Reply, float, bool]:
    client.send(b"GET /slow HTTP/1.1\r\nHost: t.test\r\n")
    reply, seconds = timed(client.reply)
    client.assert_closed()
    return reply, seconds, bool(origin.seen("/slow"))


def test_header(results: Results) -> None:
    """`timeouts.header`: a head that stops is 408 and the end of the connection."""
    reply, seconds, seen = results("header")
    assert reply.status == 408
    assert "close" in reply.fields.tokens("connection")
    assert 0.45 <= seconds < 0.5 + SLACK_S
    assert not seen


@scene("hasty")
def header_drip(client: Client, origin: Origin, path: str) -> tuple[Reply | None, float]:
    def drip() -> Reply | None:
        client.sock.settimeout(0.1)
        client.send(b"GET /drip HTTP/1.1\r\nHost: t.test\r\nX-Drip: ")
        for _ in range(100):
            client.send(b"d")
            try:
                if not client.stream.fill():
                    break
            except TimeoutError:
                continue
            break
        client.sock.settimeout(15)
        return client.reply_or_cut()

    return timed(drip)


def test_header_drip(results: Results) -> None:
    """`timeouts.header` is for the whole head, however slowly it drips (slowloris)."""
    reply, seconds = results("header_drip")
    assert reply is None or reply.status == 408
    assert 0.45 <= seconds < 0.5 + SLACK_S


@scene("hasty")
def silent(client: Client, origin: Origin, path: str) -> tuple[Reply | None, float]:
    return timed(client.reply_or_cut)


def test_silent(results: Results) -> None:
    """`timeouts.header` counts from the accept for a client that says nothing: 408 or just closed."""
    reply, seconds = results("silent")
    assert reply is None or reply.status == 408
    assert seconds < 0.5 + SLACK_S


@scene("hasty")
def body(client: Client, origin: Origin, path: str) -> tuple[Reply, bool]:
    client.send(request("POST", path, "Content-Length: 10") + b"abc")
    reply = client.reply()
    client.assert_closed()
    return reply, any(one.complete for one in origin.seen(path))


def test_body(results: Results) -> None:
    """`timeouts.body`: a body that stops is 408; the endpoint never gets it as complete."""
    reply, complete = results("body")
    assert reply.status == 408
    assert not complete


@scene("hasty")
def keep_alive(client: Client, origin: Origin, path: str) -> float:
    assert client.get(path).status == 200
    return timed(client.assert_closed)[1]


def test_keep_alive(results: Results) -> None:
    """`timeouts.keep_alive`: an idle connection is closed without a word (a 408 would be taken for a
    reply)."""
    assert 0.4 <= results("keep_alive") < 0.5 + SLACK_S


@scene("hasty")
def waiting_is_not_idle(client: Client, origin: Origin, path: str) -> bytes:
    def handler(exchange: Exchange) -> None:
        time.sleep(1.5)
        exchange.send(OK)

    origin.on(path, handler)
    return client.get(path).body


def test_waiting_is_not_idle(results: Results) -> None:
    """While a client waits for its reply none of its own timeouts runs."""
    assert results("waiting_is_not_idle") == b"ok"


@scene("hasty")
def write(client: Client, origin: Origin, path: str) -> str:
    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        try:
            while True:
                exchange.send(b"x" * 65536)
        except OSError:
            exchange.events.put("gone")

    origin.on(path, handler)
    client.send(request("GET", path))
    end = origin.only(path).events.get(timeout=12)
    wait_for(client.is_cut, "the client's connection to be cut", 6)
    return end


def test_write(results: Results) -> None:
    """`timeouts.write`: a client that takes nothing of its reply is cut, and the endpoint's connection with
    it."""
    assert results("write") == "gone"


@scene("strict")
def slow_body(client: Client, origin: Origin, path: str) -> Reply | None:
    client.sock.settimeout(0.1)
    client.send(request("POST", path, "Content-Length: 100000"))
    for _ in range(150):
        client.send(b"d")
        try:
            client.stream.fill()
        except TimeoutError:
            continue
        break
    client.sock.settimeout(15)
    return client.reply_or_cut()


def test_slow_body(results: Results) -> None:
    """`limits.min_rate`: a body that dribbles is 408 or cut, though it never stops (slow POST)."""
    reply = results("slow_body")
    assert reply is None or reply.status == 408


@scene("strict")
def slow_reader(client: Client, origin: Origin, path: str) -> str:
    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        try:
            while True:
                exchange.send(b"x" * 65536)
        except OSError:
            exchange.events.put("gone")

    origin.on(path, handler)
    client.send(request("GET", path))
    end = origin.only(path).events.get(timeout=12)
    wait_for(client.is_cut, "the client's connection to be cut", 6)
    return end


def test_slow_reader(results: Results) -> None:
    """`limits.min_rate` for a reader that has bytes waiting."""
    assert results("slow_reader") == "gone"


@scene("strict")
def pool_idle(client: Client, origin: Origin, path: str) -> str:
    def handler(exchange: Exchange) -> None:
        exchange.send(OK)
        never(exchange)

    origin.on(path, handler)
    client.get(path)
    return origin.only(path).events.get(timeout=10)


def test_pool_idle(results: Results) -> None:
    """`pool.idle_timeout`: an idle upstream connection is closed by the proxy."""
    assert results("pool_idle") == "gone"
