"""TLS to endpoints: what is verified, what is shown, and that nothing looks complete that is not."""

import hashlib
import random
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import settings
from support.certificates import Authority
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import Exchange, Origin
from support.wait import wait_for
from support.wire import Cut, chunked, read_reply

MIB = 1024 * 1024
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Endpoints:
    """Origins with TLS, each with its own idea of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.ca = str(self.authority.write_ca(folder))
        self.client = self.authority.write(folder, "homeport")
        self.names: list[str | None] = []
        self.good = Origin(tls=self.context("good.example", "127.0.0.1"))
        self.old = Origin(tls=self.context("127.0.0.1", versions="1.2"))
        self.expired = Origin(tls=self.context("127.0.0.1", days=(-9, -2)))
        self.misnamed = Origin(tls=self.context("other.example"))
        self.unknown = Origin(tls=self.context("127.0.0.1", authority=Authority("unknown")))
        asking = self.context("127.0.0.1")
        asking.verify_mode = ssl.CERT_REQUIRED
        asking.load_verify_locations(self.ca)
        self.asking = Origin(tls=asking)
        self.asking_old = Origin(tls=self.context("127.0.0.1", versions="1.2", asks=True))
        self.unix = Origin(unix=folder / "tls.sock", tls=self.context("socket.example"))
        self.plain = Origin()
        self.all = [value for value in vars(self).values() if isinstance(value, Origin)]

    def context(
        self,
        *names: str,
        days: tuple[float, float] = (-1, 30),
        authority: Authority | None = None,
        versions: str = "",
        asks: bool = False,
    ) -> ssl.SSLContext:
        files = (authority or self.authority).write(self.folder, *names, days=days)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files.cert, files.key)
        if versions:
            context.minimum_version = context.maximum_version = VERSIONS[versions]
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)

        def note(sock: ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            self.names.append(name)

        context.sni_callback = note  # type: ignore[assignment]
        return context


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    made = Endpoints(tmp_path_factory.mktemp("endpoints"))
    yield made
    for origin in made.all:
        origin.stop()
        # A refused handshake is the endpoint's loss.
        assert all("SSL" in fault for fault in origin.faults), origin.faults


@pytest.fixture(scope="module")
def proxy(module_daemon: StartDaemon, endpoints: Endpoints) -> Iterator[Daemon]:
    trusted = {"ca": endpoints.ca}
    shown = {**trusted, **endpoints.client.config()}
    clusters: list[tuple[str, str, dict[str, Any]]] = [
        ("good", endpoints.good.address, trusted),
        ("old", endpoints.old.address, trusted),
        ("strict", endpoints.old.address, {**trusted, "min_version": "1.3"}),
        ("named", endpoints.good.address, {**trusted, "server_name": "good.example"}),
        ("expired", endpoints.expired.address, trusted),
        ("misnamed", endpoints.misnamed.address, trusted),
        ("renamed", endpoints.misnamed.address, {**trusted, "server_name": "other.example"}),
        ("unknown", endpoints.unknown.address, trusted),
        ("system", endpoints.good.address, {}),
        ("careless", endpoints.expired.address, {"verify": False}),
        ("asking", endpoints.asking.address, shown),
        ("shy", endpoints.asking.address, trusted),
        ("shy-old", endpoints.asking_old.address, trusted),
        ("unix", endpoints.unix.address, {**trusted, "server_name": "socket.example"}),
        ("plain", endpoints.plain.address, trusted),
    ]
    config = {
        "listeners": [settings.listener()],
        "clusters": [settings.cluster(name, address, tls=tls) for name, address, tls in clusters],
        "routes": [settings.route(name, path_prefix=f"/{name}") for name, _, _ in clusters],
    }
    daemon = module_daemon(config)
    yield daemon
    daemon.stop()


@pytest.fixture
def front(proxy: Daemon, connect: OpenClient) -> Client:
    return connect(proxy)


@pytest.mark.parametrize("name", ["good", "old", "named", "renamed", "careless", "asking", "unix"])
def test_endpoints_that_are_what_they_should_be(front: Client, path: str, name: str) -> None:
    for _ in range(3):
        assert front.get(f"/{name}{path}").body == b"ok"
    assert front.ask("POST", f"/{name}{path}", body=b"x" * 300_000).body == b"ok"


@pytest.mark.parametrize(
    "name, reason",
    [
        ("expired", "certificate_invalid"),
        ("misnamed", "certificate_invalid"),
        ("unknown", "certificate_invalid"),
        ("system", "certificate_invalid"),
        ("strict", "tls_failed"),
        ("shy-old", "tls_failed"),
    ],
)
def test_endpoints_that_are_not(proxy: Daemon, front: Client, path: str, name: str, reason: str) -> None:
    reply = front.get(f"/{name}{path}")
    assert reply.status == 502
    assert f'"{reason}"'.encode() in reply.body
    text = proxy.admin("/metrics")[1].decode()
    match = re.search(rf'homeport_refusals_total{{reason="{reason}"}} ([0-9.]+)', text)
    assert match is not None and float(match[1]) > 0
    match = re.search(rf'connect_failures_total{{.*service_name="{name}"}} ([0-9.]+)', text)
    assert match is not None and float(match[1]) == 1


def test_an_endpoint_that_misses_our_certificate(front: Client, path: str) -> None:
    """With TLS 1.3 it says so when the handshake is over for us; nothing of a reply has come."""
    assert front.get(f"/shy{path}").status == 502


def test_an_endpoint_that_speaks_no_tls(front: Client, endpoints: Endpoints, path: str) -> None:
    endpoints.plain.on(path, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    reply = front.get(f"/plain{path}")
    assert reply.status in (502, 504)
    endpoints.plain.faults.clear()  # it saw a hello and took it for a malformed request


@pytest.mark.parametrize(
    "name, expected", [("named", "good.example"), ("unix", "socket.example"), ("good", None)]
)
def test_the_name_that_is_asked_for(
    start_daemon: StartDaemon,
    connect: OpenClient,
    endpoints: Endpoints,
    path: str,
    name: str,
    expected: str | None,
) -> None:
    """The configured name, and none for an address (RFC 6066 3)."""
    address = endpoints.unix.address if name == "unix" else endpoints.good.address
    tls = {"ca": endpoints.ca, **({"server_name": expected} if expected else {})}
    cluster = settings.cluster("origin", address, tls=tls)
    daemon = start_daemon(
        {"listeners": [settings.listener()], "clusters": [cluster], "routes": [settings.route("origin")]}
    )
    endpoints.names.clear()
    assert connect(daemon).get(path).status == 200
    assert endpoints.names == [expected]
    daemon.stop()


def test_connections_are_used_again(front: Client, endpoints: Endpoints, path: str) -> None:
    for _ in range(10):
        assert front.get(f"/good{path}").status == 200
    assert len({one.connection for one in endpoints.good.seen(f"/good{path}")}) == 1


@pytest.mark.parametrize("name", ["good", "old"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_bodies_both_ways(
    front: Client, endpoints: Endpoints, path: str, name: str, framing: str
) -> None:
    body = random.Random(3).randbytes(8 * MIB + 321)
    origin = endpoints.good if name == "good" else endpoints.old

    def echo(exchange: Exchange) -> None:
        received = exchange.read_body()
        if framing == "length":
            exchange.reply(200, received)
        else:
            exchange.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(received, 50_000)
            )

    origin.on(f"/{name}{path}", echo)
    if framing == "length":
        front.send(request("POST", f"/{name}{path}", body=body))
    else:
        front.send(request("POST", f"/{name}{path}", "Transfer-Encoding: chunked") + chunked(body, 70_000))
    assert hashlib.sha256(front.reply().body).digest() == hashlib.sha256(body).digest()


@pytest.mark.parametrize("name", ["good", "old"])
def test_a_reply_that_ends_properly(front: Client, endpoints: Endpoints, path: str, name: str) -> None:
    """close_notify is the end of a reply without a length."""

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")
        assert isinstance(exchange.sock, ssl.SSLSocket)
        exchange.sock.unwrap().close()

    origin = endpoints.good if name == "good" else endpoints.old
    origin.on(f"/{name}{path}", handler)
    assert front.get(f"/{name}{path}").body == b"all of it"


@pytest.mark.parametrize("name", ["good", "old"])
def test_a_reply_that_is_cut(front: Client, endpoints: Endpoints, path: str, name: str) -> None:
    """FIN without close_notify may be anybody's (RFC 9112 9.8): the client must not take it for the end."""

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
        exchange.close()

    origin = endpoints.good if name == "good" else endpoints.old
    origin.on(f"/{name}{path}", handler)
    with pytest.raises(Cut):
        front.get(f"/{name}{path}")


def test_an_early_answer_to_a_refused_upload(front: Client, endpoints: Endpoints, path: str) -> None:
    """The endpoint answers, closes, and the rest of the upload meets a reset: the answer gets through."""

    def handler(exchange: Exchange) -> None:
        exchange.reply(413, b"too much", "Connection: close")
        exchange.reset()

    endpoints.good.on(f"/good{path}", handler, early=True)
    front.sock.settimeout(15)
    front.send(request("POST", f"/good{path}", "Content-Length: 50000000") + b"x" * 200_000)
    endpoints.good.wait_seen(f"/good{path}")
    front.send(b"x" * 10_000_000)
    reply = front.reply_or_cut()
    assert reply is None or reply.status in (413, 502)


def test_a_connection_closed_while_idle(front: Client, endpoints: Endpoints, path: str) -> None:
    """A reused connection that is gone already is no failure."""
    endpoints.good.on(f"/good{path}", lambda one: (one.reply(200, b"ok"), one.close())[0])
    for _ in range(5):
        assert front.get(f"/good{path}").status == 200


def test_a_slow_handshake_counts_as_connecting(
    start_daemon: StartDaemon, connect: OpenClient, endpoints: Endpoints, blackhole: str, path: str
) -> None:
    """An endpoint that accepts and then says nothing: 504 by `timeouts.connect`, the connection goes."""
    silent = Origin()
    silent.on("/", lambda exchange: None)
    cluster = settings.cluster(
        "mute", silent.address, tls={"ca": endpoints.ca}, timeouts={"connect": "300ms", "response": "60s"}
    )
    config = {"listeners": [settings.listener()], "clusters": [cluster], "routes": [settings.route("mute")]}
    daemon = start_daemon(config)
    reply = connect(daemon).get(path)
    assert reply.status == 504 and b"connect_timeout" in reply.body
    wait_for(lambda: not silent._open, "the connection to be given up")
    daemon.stop()
    silent.stop()


def test_tls_on_both_sides(
    start_daemon: StartDaemon, endpoints: Endpoints, tmp_path: Path, path: str
) -> None:
    files = endpoints.authority.write(tmp_path, "front.example")
    config = settings.simple(endpoints.good.address)
    config["listeners"] = [settings.listener(tls={"certificates": [files.config()]})]
    config["clusters"] = [settings.cluster("origin", endpoints.good.address, tls={"ca": endpoints.ca})]
    daemon = start_daemon(config)
    body = random.Random(4).randbytes(5 * MIB)
    endpoints.good.on(path, lambda one: one.reply(200, one.read_body()))
    context = ssl.create_default_context(cafile=endpoints.ca)
    with Client(daemon.address(), tls=context, server_name="front.example") as client:
        client.send(request("POST", path, body=body))
        assert read_reply(client.stream).body == body
    daemon.stop()
