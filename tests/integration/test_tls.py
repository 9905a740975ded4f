"""TLS on listeners: versions, certificates by name, clients' certificates, and everything that holds without TLS."""

import hashlib
import random
import re
import socket
import ssl
import subprocess
import threading
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import settings
from support.certificates import Authority, Files
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import Exchange, Origin
from support.wait import wait_for
from support.wire import Cut, chunked
from websockets.sync.client import connect as connect_websocket
from websockets.sync.server import ServerConnection, serve

MIB = 1024 * 1024


class Secrets:
    """An authority with the certificates that the tests ask for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.ca = self.authority.write_ca(folder)
        self.first = self.authority.write(folder, "first.example", "127.0.0.1")
        self.second = self.authority.write(folder, "second.example", "*.wild.example")
        self.client = self.authority.write(folder, "someone")
        self.stranger = Authority("stranger").write(folder, "other")

    def context(self, version: str = "", files: Files | None = None) -> ssl.SSLContext:
        """A client that trusts the authority, speaks `version` alone if given, and may show a certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        if version:
            context.minimum_version = context.maximum_version = VERSIONS[version]
        if files is not None:
            context.load_cert_chain(files.cert, files.key)
        return context


VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    return Secrets(tmp_path_factory.mktemp("certificates"))


def secure(name: str, *files: Files, **more: Any) -> dict[str, Any]:
    """A listener with TLS; `more` are further keys of `tls`."""
    return settings.listener(name, tls={"certificates": [each.config() for each in files], **more})


@pytest.fixture(scope="module")
def proxy(module_daemon: StartDaemon, shared_origin: Origin, secrets: Secrets) -> Iterator[Daemon]:
    both = secrets.first, secrets.second
    required = {"client_auth": "required", "client_ca": str(secrets.ca)}
    config = settings.simple(shared_origin.address)
    config["listeners"] = [
        settings.listener(),
        secure("tls", *both),
        secure("new", secrets.first, min_version="1.3"),
        secure("mutual", secrets.first, forward_client_cert=True, **required),
        secure("asking", secrets.first, client_auth="optional", client_ca=str(secrets.ca)),
        {**secure("proxied", secrets.first), "proxy_protocol": True},
        {**secure("trusting", secrets.first), "trusted_proxies": ["127.0.0.0/8"]},
        {**secure("unix", secrets.first), "bind": f"unix:{secrets.folder}/tls.sock"},
    ]
    config["routes"].append(
        {"match": {"listener": "plain", "path_prefix": "/moved"}, "redirect": {"scheme": "https"}}
    )
    config["limits"] = {"min_rate": 0}
    config["workers"] = 1  # whose sessions can be resumed
    config["timeouts"] = {"header": "3s", "write": "2s"}
    daemon = module_daemon(config)
    yield daemon
    daemon.stop()


@pytest.fixture
def tls_client(proxy: Daemon, connect: OpenClient, secrets: Secrets) -> Client:
    return connect(proxy, "tls", tls=secrets.context(), server_name="first.example")


def refusals(daemon: Daemon, reason: str) -> int:
    text = daemon.admin("/metrics")[1].decode()
    match = re.search(rf'^homeport_refusals_total{{reason="{reason}"}} ([0-9.]+)$', text, re.MULTILINE)
    assert match is not None
    return int(float(match[1]))


def names(client: Client) -> set[str]:
    """Whom the certificate of the proxy names."""
    assert isinstance(client.sock, ssl.SSLSocket)
    certificate = client.sock.getpeercert()
    assert certificate is not None
    return {value for _, value in certificate["subjectAltName"]}  # type: ignore[misc, union-attr]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_versions(proxy: Daemon, connect: OpenClient, secrets: Secrets, path: str, version: str) -> None:
    context = secrets.context(version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = connect(proxy, "tls", tls=context, server_name="first.example")
    assert isinstance(client.sock, ssl.SSLSocket)
    assert client.sock.version() == f"TLSv{version}"
    assert client.sock.selected_alpn_protocol() == "http/1.1"
    for _ in range(3):
        assert client.get(path).body == b"ok"


def test_a_version_below_the_lowest_is_refused(proxy: Daemon, connect: OpenClient, secrets: Secrets) -> None:
    before = refusals(proxy, "tls_handshake")
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        connect(proxy, "new", tls=secrets.context("1.2"), server_name="first.example")
    wait_for(lambda: refusals(proxy, "tls_handshake") == before + 1, "the refusal to be counted")
    connect(proxy, "new", tls=secrets.context("1.3"), server_name="first.example").assert_open("/")


def test_an_old_version_or_a_weak_suite_is_never_spoken(proxy: Daemon) -> None:
    host, port = proxy.address("tls")
    for options in (["-tls1"], ["-tls1_1"], ["-tls1_2", "-cipher", "AES128-SHA:AES256-SHA256"]):
        command = ["openssl", "s_client", "-connect", f"{host}:{port}", *options]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
        assert done.returncode != 0, options


@pytest.mark.parametrize(
    "asked, expected",
    [
        ("first.example", "first.example"),
        ("second.example", "second.example"),
        ("SECOND.example", "second.example"),
        ("a.wild.example", "second.example"),
        ("a.b.wild.example", "first.example"),
        ("wild.example", "first.example"),
        ("unknown.example", "first.example"),
        (None, "first.example"),
    ],
)
def test_the_certificate_is_chosen_by_name(
    proxy: Daemon, connect: OpenClient, secrets: Secrets, path: str, asked: str | None, expected: str
) -> None:
    context = secrets.context()
    context.check_hostname = False
    client = connect(proxy, "tls", tls=context, server_name=asked)
    assert expected in names(client)
    client.assert_open(path)


def test_what_endpoints_are_told(tls_client: Client, origin: Origin, path: str) -> None:
    """The scheme of the client, and not what it claims."""
    assert (
        tls_client.get(path, "X-Forwarded-Proto: http", "Client-Cert: :AAAA:", "client_cert: x").status == 200
    )
    fields = origin.only(path).fields
    assert fields.one("x-forwarded-proto") == "https"
    assert "proto=https" in fields.one("forwarded")
    assert "client-cert" not in fields and "client_cert" not in fields


def test_a_trusted_proxy_may_speak_of_its_client(
    proxy: Daemon, connect: OpenClient, secrets: Secrets, origin: Origin, path: str
) -> None:
    client = connect(proxy, "trusting", tls=secrets.context(), server_name="first.example")
    client.get(path, "Client-Cert: :AAAA:", "X-Forwarded-Proto: http")
    fields = origin.only(path).fields
    assert (fields.one("client-cert"), fields.one("x-forwarded-proto")) == (":AAAA:", "http")


def test_plain_http_on_a_tls_port_is_told_so(
    proxy: Daemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    before = refusals(proxy, "plain_http")
    client = connect(proxy, "tls")
    reply = client.get(path)
    assert reply.status == 400 and b"https" in reply.body
    client.assert_closed()
    wait_for(lambda: refusals(proxy, "plain_http") == before + 1, "the refusal to be counted")
    assert origin.seen(path) == []


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x00\x05hello", b"\x00" * 100, b"SSH-2.0-x\r\n", b"\x16" * 40000]
)
def test_noise_is_cut_and_counted(proxy: Daemon, connect: OpenClient, noise: bytes) -> None:
    names = ("tls_handshake", "plain_http", "bad_request_line")
    before = sum(refusals(proxy, name) for name in names)
    client = connect(proxy, "tls")
    client.send(noise)
    client.stream.rest()
    wait_for(lambda: sum(refusals(proxy, name) for name in names) == before + 1, "the refusal to be counted")


def test_a_handshake_takes_no_longer_than_a_head(proxy: Daemon, connect: OpenClient) -> None:
    before = refusals(proxy, "tls_handshake")
    silent, half = connect(proxy, "tls"), connect(proxy, "tls")
    half.send(b"\x16\x03\x01")
    for client in (silent, half):
        client.assert_closed()
    wait_for(lambda: refusals(proxy, "tls_handshake") == before + 2, "the refusals to be counted")


def test_a_look_whether_the_port_is_open_is_no_fault(proxy: Daemon, connect: OpenClient) -> None:
    before = refusals(proxy, "tls_handshake")
    connect(proxy, "tls").close()
    connect(proxy, "tls").reset()
    connect(proxy).assert_open("/")
    assert refusals(proxy, "tls_handshake") == before


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_without_the_required_certificate_is_refused(
    proxy: Daemon, connect: OpenClient, secrets: Secrets, origin: Origin, path: str, version: str
) -> None:
    before = refusals(proxy, "tls_handshake")
    for files in (None, secrets.stranger):
        with pytest.raises((ssl.SSLError, Cut), match="(?i)alert|certificate"):
            client = connect(
                proxy, "mutual", tls=secrets.context(version, files), server_name="first.example"
            )
            # With TLS 1.3 the client's handshake is over before its certificate is looked at.
            client.send(request("GET", path)).reply()
    # The alert is sent before the refusal is counted.
    wait_for(lambda: refusals(proxy, "tls_handshake") == before + 2, "the refusals to be counted")
    assert origin.seen(path) == []


def test_a_clients_certificate_is_passed_on(
    proxy: Daemon, connect: OpenClient, secrets: Secrets, origin: Origin, path: str
) -> None:
    """RFC 9440: as a byte sequence in Client-Cert; the client's own field does not get through."""
    context = secrets.context(files=secrets.client)
    client = connect(proxy, "mutual", tls=context, server_name="first.example")
    for _ in range(2):
        assert client.get(path, "Client-Cert: :AAAA:", "Client-Cert-Chain: :AAAA:").status == 200
    for exchange in origin.wait_seen(path, 2):
        value = exchange.fields.one("client-cert")
        assert value[0] == value[-1] == ":"
        pem = ssl.DER_cert_to_PEM_cert(b64decode(value[1:-1]))
        assert pem.split() == secrets.client.cert.read_text().split()
        assert "client-cert-chain" not in exchange.fields


def test_an_optional_certificate(
    proxy: Daemon, connect: OpenClient, secrets: Secrets, origin: Origin, path: str
) -> None:
    for files in (None, secrets.client):
        client = connect(proxy, "asking", tls=secrets.context(files=files), server_name="first.example")
        assert client.get(path).status == 200
    assert all("client-cert" not in one.fields for one in origin.wait_seen(path, 2))
    with pytest.raises((ssl.SSLError, Cut)):
        client = connect(
            proxy, "asking", tls=secrets.context(files=secrets.stranger), server_name="first.example"
        )
        client.send(request("GET", path)).reply()


@pytest.mark.parametrize("together", [True, False])
def test_the_proxy_protocol_comes_before_tls(
    proxy: Daemon, connect: OpenClient, secrets: Secrets, origin: Origin, path: str, together: bool
) -> None:
    header = b"PROXY TCP4 203.0.113.9 192.0.2.1 5555 443\r\n"
    if together:
        # Header and hello in one piece.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = secrets.context().wrap_bio(incoming, outgoing, server_hostname="first.example")
        client = connect(proxy, "proxied")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client.sock.sendall(header + outgoing.read())
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(client.sock.recv(65536))
        tls.write(request("GET", path))
        client.sock.sendall(outgoing.read())
    else:
        client = connect(
            proxy, "proxied", tls=secrets.context(), server_name="first.example", before_tls=header
        )
        assert client.get(path).status == 200
    fields = origin.only(path).fields
    assert (fields.one("x-forwarded-for"), fields.one("x-forwarded-proto")) == ("203.0.113.9", "https")


def test_a_unix_socket(proxy: Daemon, connect: OpenClient, secrets: Secrets, path: str) -> None:
    connect(proxy, "unix", tls=secrets.context(), server_name="first.example").assert_open(path)


def test_from_plain_to_tls(proxy: Daemon, connect: OpenClient, path: str) -> None:
    """The client's port belongs to plain HTTP; a made-up Host gets nowhere."""
    client = connect(proxy)
    reply = client.get(f"/moved{path}?a=1", host="first.example:8080")
    assert reply.status == 308
    assert reply.fields.one("location") == f"https://first.example/moved{path}?a=1"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_bodies_both_ways(
    proxy: Daemon,
    connect: OpenClient,
    secrets: Secrets,
    origin: Origin,
    path: str,
    version: str,
    framing: str,
) -> None:
    body = random.Random(1).randbytes(8 * MIB + 12345)

    def echo(exchange: Exchange) -> None:
        received = exchange.read_body()
        if framing == "length":
            exchange.reply(200, received)
        else:
            exchange.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(received, 50_000)
            )

    origin.on(path, echo)
    client = connect(proxy, "tls", tls=secrets.context(version), server_name="first.example")
    for _ in range(2):
        if framing == "length":
            client.send(request("POST", path, body=body))
        else:
            client.send(request("POST", path, "Transfer-Encoding: chunked") + chunked(body, 70_000))
        reply = client.reply()
        assert hashlib.sha256(reply.body).digest() == hashlib.sha256(body).digest()


def test_pipelined_requests_in_one_record(tls_client: Client, path: str) -> None:
    tls_client.send(b"".join(request("GET", path) for _ in range(50)))
    assert [tls_client.reply().body for _ in range(50)] == [b"ok"] * 50


def test_records_of_single_bytes(tls_client: Client, path: str) -> None:
    for byte in request("POST", path, body=b"hello"):
        tls_client.sock.send(bytes([byte]))
    assert tls_client.reply().body == b"ok"


def test_records_cut_anywhere(proxy: Daemon, connect: OpenClient, secrets: Secrets, path: str) -> None:
    """A record that comes byte by byte is one record."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = secrets.context().wrap_bio(incoming, outgoing, server_hostname="first.example")
    client = connect(proxy, "tls")
    sock = client.sock
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def step(do: Any) -> Any:
        while True:
            try:
                result = do()
            except ssl.SSLWantReadError:
                result = None
            for byte in outgoing.read():
                sock.send(bytes([byte]))
            if result is not None:
                return result
            incoming.write(sock.recv(65536))

    step(lambda: tls.do_handshake() or True)
    tls.write(request("GET", path))
    assert step(lambda: tls.read(65536)).startswith(b"HTTP/1.1 200")


def test_the_end_of_a_connection_is_announced(
    proxy: Daemon, connect: OpenClient, secrets: Secrets, path: str
) -> None:
    """close_notify comes before FIN, so that a client knows that nothing is missing (RFC 9112 9.8)."""
    raw = socket.create_connection(proxy.address("tls"), timeout=15)  # type: ignore[arg-type]
    with secrets.context().wrap_socket(
        raw, server_hostname="first.example", suppress_ragged_eofs=False
    ) as sock:
        sock.sendall(request("GET", path, "Connection: close"))
        received = b""
        while piece := sock.recv(65536):  # an unannounced end would raise SSLEOFError
            received += piece
        assert received.endswith(b"ok")


def test_a_cut_reply_is_not_announced_as_complete(
    proxy: Daemon, connect: OpenClient, secrets: Secrets, origin: Origin, path: str
) -> None:
    """A reply to HTTP/1.0 that only the end of the connection delimits: cut, it must not end properly."""
    origin.on(
        path, lambda one: (one.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), one.close())[0]
    )
    client = connect(proxy, "tls", tls=secrets.context(), server_name="first.example")
    client.send(request("GET", path, minor=0))
    with pytest.raises(Cut):
        client.reply()


def test_a_half_closed_client_gets_its_answer(tls_client: Client, origin: Origin, path: str) -> None:
    """close_notify ends one direction (RFC 8446 6.1)."""
    origin.on(path, lambda one: (one.events.get(timeout=15), one.reply(200, b"late"))[1])
    tls_client.send(request("GET", path))
    exchange = origin.only(path)
    assert isinstance(tls_client.sock, ssl.SSLSocket)
    tls_client.sock.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        tls_client.sock.unwrap()
    tls_client.sock.settimeout(15)
    exchange.events.put("go")
    assert tls_client.stream.rest().endswith(b"late")


def test_a_client_that_ends_unannounced_is_gone(
    tls_client: Client, origin: Origin, path: str, proxy: Daemon
) -> None:
    """FIN without close_notify may be anybody's (RFC 9112 9.8): the endpoint's work is given up."""
    origin.on(path, lambda one: one.events.put(repr(one.wait_gone())))
    tls_client.send(request("GET", path))
    exchange = origin.only(path)
    tls_client.sock.shutdown(socket.SHUT_WR)
    assert exchange.events.get(timeout=15) == "b''"


def test_a_truncated_upload_reaches_no_end(tls_client: Client, origin: Origin, path: str) -> None:
    origin.on(path, lambda one: one.events.put("complete"))
    tls_client.send(request("POST", path, "Content-Length: 100000") + b"x" * 50000)
    exchange = origin.only(path)
    tls_client.sock.shutdown(socket.SHUT_WR)
    tls_client.stream.rest()
    assert exchange.events.empty() and not exchange.complete


def test_a_reader_that_stalls_is_cut(
    proxy: Daemon, connect: OpenClient, secrets: Secrets, origin: Origin, path: str
) -> None:
    """What waits for it is bounded, and after `timeouts.write` it is gone."""
    sent = []

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            exchange.send(b"x" * 65536)
            sent.append(65536)

    origin.on(path, endless)
    before = proxy.rss_bytes()
    client = connect(proxy, "tls", receive_buffer=65536, tls=secrets.context(), server_name="first.example")
    client.send(request("GET", path))
    wait_for(client.is_cut, "the stalled reader to be cut")
    assert sum(sent) < 40 * MIB
    assert proxy.rss_bytes() - before < 40 * MIB


def test_a_session_is_resumed(start_daemon: StartDaemon, secrets: Secrets, origin: Origin, path: str) -> None:
    """By the worker that it began with: others have other keys for their tickets."""
    config = settings.simple(origin.address, workers=1)
    config["listeners"] = [secure("tls", secrets.first)]
    daemon = start_daemon(config)
    context = secrets.context("1.2")
    host, port = daemon.address("tls")
    sessions = []
    for session in (None, "last"):
        raw = socket.create_connection((host, port), timeout=15)  # type: ignore[arg-type]
        with context.wrap_socket(
            raw, server_hostname="first.example", session=sessions[-1] if session else None
        ) as sock:
            sock.sendall(request("GET", path))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            sessions.append(sock.session)
            assert sock.session_reused is bool(session)
    daemon.stop()


def test_a_foreign_ticket_means_a_full_handshake(
    start_daemon: StartDaemon, secrets: Secrets, origin: Origin, path: str
) -> None:
    """Tickets of another process, as another worker is one: no resumption, and no failure."""
    config = settings.simple(origin.address)
    config["listeners"] = [secure("tls", secrets.first)]
    for version in ("1.2", "1.3"):
        context, session = secrets.context(version), None
        for _ in range(2):
            daemon = start_daemon(config)
            raw = socket.create_connection(daemon.address("tls"), timeout=15)  # type: ignore[arg-type]
            with context.wrap_socket(raw, server_hostname="first.example", session=session) as sock:
                sock.sendall(request("GET", path))
                assert sock.recv(65536).startswith(b"HTTP/1.1 200")
                assert not sock.session_reused
                session = sock.session
            daemon.stop()


def test_websocket(module_daemon: StartDaemon, secrets: Secrets) -> None:
    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        config = settings.simple(f"127.0.0.1:{server.socket.getsockname()[1]}")
        config["listeners"] = [secure("tls", secrets.first)]
        daemon = module_daemon(config)
        host, port = daemon.address("tls")
        with connect_websocket(
            f"wss://{host}:{port}/", ssl=secrets.context(), server_hostname="first.example", max_size=None
        ) as connection:
            for message in ("hello", random.Random(2).randbytes(3 * MIB), b""):
                connection.send(message)
                assert connection.recv(timeout=15) == message
        daemon.stop()
        server.shutdown()
        thread.join()


def test_curl(proxy: Daemon, secrets: Secrets, origin: Origin, path: str) -> None:
    host, port = proxy.address("tls")
    command = [
        "curl",
        "--silent",
        "--fail",
        "--cacert",
        str(secrets.ca),
        f"https://first.example:{port}{path}",
    ]
    for version in ("1.2", "1.3"):
        options = ["--resolve", f"first.example:{port}:{host}", "--tlsv" + version, "--tls-max", version]
        done = subprocess.run([*command, *options], capture_output=True, timeout=30)
        assert (done.returncode, done.stdout) == (0, b"ok"), done.stderr


def test_idle_connections_are_dropped_at_a_drain(
    start_daemon: StartDaemon, secrets: Secrets, origin: Origin
) -> None:
    config = settings.simple(origin.address)
    config["listeners"] = [secure("tls", secrets.first)]
    daemon = start_daemon(config)
    with Client(daemon.address("tls"), tls=secrets.context(), server_name="first.example") as client:
        client.assert_open("/")
        daemon.stop()
        client.assert_closed()
