"""The admin API over real sockets, on both event loops."""

import asyncio
import http.client
import socket
import stat
from contextlib import asynccontextmanager

import aiohttp.http_parser
import orjson
import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from proxy.admin import api, streams
from proxy.admin.api import MAX_CONNECTIONS, AdminServer
from proxy.admin.listener import bound_socket
from proxy.answer_words import request_index
from proxy.clock import SystemClock
from proxy.config.faults import Fault
from proxy.controlplane.drains import DrainReport, UnknownTarget
from proxy.controlplane.events import EventLog, EventType
from proxy.controlplane.explaining import BadQuestion, NoAnswer, Question
from proxy.controlplane.reloading import ReloadOutcome, ReloadReport
from proxy.errors import ConfigError
from proxy.model import TcpAddress, UnixAddress
from proxy.scoreboard import P_PID, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot
from proxy.telemetry.metrics import MetricsPage
from proxy.telemetry.processes import State, WorkerReport
from proxy.telemetry.status import DaemonView

LIMIT_S = 20.0
LOOPBACK = TcpAddress("127.0.0.1", 0)
ENDPOINT = EndpointSpec("etl/10.0.0.1:9000", 0, TcpAddress("10.0.0.1", 9000), "query:9000")
SNAPSHOT = Snapshot(3, (), (ClusterSpec("etl", endpoints=(ENDPOINT,)), ClusterSpec("empty")), ())


class Daemon:
    """What the server sees of a daemon."""

    def __init__(self):
        self.board = Scoreboard(endpoints=4)
        self.board.endpoint_row(0, 0)[request_index(b"GET", 200)] = 5
        self.snapshot = SNAPSHOT
        self.report = WorkerReport(State.READY, 3, 1)
        self.events = EventLog(SystemClock())
        self.drains = []
        self.board.parent_row[P_PID] = 7
        self.fails = False
        self.reloaded = ReloadReport(ReloadOutcome.APPLIED, 4, ("workers: 1 → 2",))

    async def reload(self):
        if self.fails:
            raise RuntimeError("the path is /etc/secret")
        return self.reloaded

    def set_drained(self, name, is_drained):
        if name.startswith("unknown"):
            raise UnknownTarget(f"there is no endpoint {name!r}", ["etl/10.0.0.1:9000"])
        self.drains.append((name, is_drained))
        return DrainReport((name,), (name,), is_drained)

    async def set_listener_drained(self, name, is_drained):
        if name == "taken":
            raise ConfigError("listeners[0].bind", "127.0.0.1:80", "an address that can be bound")
        return self.set_drained(name, is_drained)

    def scale(self, name, count):
        if name == "plain":
            raise UnknownTarget("cluster 'plain' has no scaler")
        return {"cluster": name, "count": count}

    def retry_deploy(self, name):
        return self.scale(name, -1)

    async def explain(self, question):
        self.asked = question
        if question.cluster == "none":
            raise UnknownTarget("there is no cluster 'none'")
        if question.size == "much":
            raise BadQuestion("size", "it is not a size")
        if question.cluster == "stuck":
            raise NoAnswer([0, 2])
        return {"cluster": question.cluster}

    def view(self):
        if self.fails:
            raise RuntimeError("the path is /etc/secret")
        return DaemonView(self.board, self.snapshot, self.report, 1.0)


class Reply:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self):
        assert self.headers["Content-Type"] == "application/json"
        return orjson.loads(self.body)


class Client:
    def __init__(self, address):
        self.address = address

    def connect(self):
        connection = http.client.HTTPConnection(
            "127.0.0.1", getattr(self.address, "port", 80), timeout=LIMIT_S
        )
        if isinstance(self.address, UnixAddress):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(LIMIT_S)
            connection.sock.connect(self.address.path)
        return connection

    def ask(self, method, path, headers):
        connection = self.connect()
        try:
            connection.request(method, path, headers=headers)
            return Reply(connection.getresponse())
        finally:
            connection.close()

    async def get(self, path, method="GET", **headers):
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(self.ask, method, path, fields)


@asynccontextmanager
async def serving(daemon, bind=LOOPBACK, token=None):
    server = AdminServer(
        bind, token, daemon.view, MetricsPage(daemon.board, lambda: daemon.snapshot, SystemClock()), daemon
    )
    await server.start()
    try:
        yield Client(server.address)
    finally:
        await server.stop()
        await server.stop()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    def run(main):
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main(), LIMIT_S))

    return run


def test_health_and_readiness(run):
    async def main():
        daemon = Daemon()
        async with serving(daemon) as client:
            assert (await client.get("/healthz")).json == {"status": "ok"}
            assert (await client.get("/readyz")).json == {"ready": True}
            assert (await client.get("/readyz?cluster=etl")).status == 200
            empty = await client.get("/readyz?cluster=empty")
            assert (empty.status, empty.json["reason"]) == (503, "the cluster has no usable endpoint")
            unknown = await client.get("/readyz?cluster=%3Cnone%3E")
            assert (unknown.status, unknown.json["error"]) == (404, "not_found")
            daemon.report = WorkerReport(State.DRAINING, 3, 1)
            draining = await client.get("/readyz")
            assert (draining.status, draining.json["reason"]) == (503, "the daemon is draining")
            assert (await client.get("/healthz")).status == 200
            daemon.snapshot = None
            assert (await client.get("/readyz?cluster=etl")).status == 503

    run(main)


def test_status_and_clusters(run):
    async def main():
        async with serving(Daemon()) as client:
            status = (await client.get("/api/v1/status")).json
            assert (status["state"], status["generation"], status["pid"]) == ("ready", 3, 7)
            assert [cluster["requests_total"] for cluster in status["clusters"]] == [5, 0]
            clusters = (await client.get("/api/v1/clusters")).json
            one = await client.get("/api/v1/clusters/etl")
            assert one.json == clusters["clusters"][0]
            assert one.json["endpoints"][0]["id"] == ENDPOINT.id
            assert (one.headers["Cache-Control"], one.headers["Server"]) == ("no-store", "homeport")
            assert (await client.get("/api/v1/clusters/none")).status == 404

    run(main)


def test_metrics(run):
    async def main():
        async with serving(Daemon()) as client:
            plain = await client.get("/metrics")
            assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            found = {f.name: f for f in text_string_to_metric_families(plain.body.decode())}
            (sample,) = found["data_service_requests"].samples
            labels = {"service_name": "etl", "endpoint": "10.0.0.1:9000", "method": "GET", "status": "200"}
            assert (sample.labels, sample.value) == (labels, 5)
            packed = await client.get(
                "/metrics", Accept="application/openmetrics-text", Accept_Encoding="gzip"
            )
            assert packed.headers["Content-Encoding"] == "gzip" and packed.body[:2] == b"\x1f\x8b"
            assert packed.headers["Content-Type"].startswith("application/openmetrics-text")

    run(main)


def test_unknown_paths_methods_and_head_are_json(run):
    async def main():
        async with serving(Daemon()) as client:
            for path in ("/", "/nothing", "/api/v1/clusters/a/b", "/%0A", "/api/v1/status/"):
                reply = await client.get(path)
                assert (reply.status, reply.json["error"]) == (404, "not_found"), path
            reply = await client.get("/api/v1/status", method="POST")
            assert (reply.status, reply.json["error"]) == (405, "method_not_allowed")
            assert set(reply.headers["Allow"].replace(" ", "").split(",")) == {"GET", "HEAD"}
            for path in ("/healthz", "/readyz", "/metrics", "/api/v1/status", "/none"):
                full, head = await client.get(path), await client.get(path, method="HEAD")
                assert (head.status, head.body) == (full.status, b"")
                assert head.headers["Content-Type"] == full.headers["Content-Type"]

    run(main)


def test_host_origin_and_token(run):
    async def main():
        async with serving(Daemon(), TcpAddress("0.0.0.0", 0), "s3cret") as client:
            for path in ("/healthz", "/readyz", "/metrics"):
                assert (await client.get(path)).status == 200
            for path in ("/api/v1/status", "/api/v1/clusters/etl", "/nothing"):
                refused = await client.get(path)
                assert (refused.status, refused.json["error"]) == (401, "unauthorized")
                assert refused.headers["WWW-Authenticate"].startswith("Bearer")
                assert b"s3cret" not in refused.body
            assert (await client.get("/api/v1/status", Authorization="Bearer s3cre")).status == 401
            granted = await client.get("/api/v1/status", Authorization="Bearer s3cret")
            assert granted.status == 200 and b"s3cret" not in granted.body
            foreign = await client.get("/metrics", Origin="http://evil.example")
            assert (foreign.status, foreign.json["error"]) == (403, "forbidden")
        async with serving(Daemon()) as client:
            rebound = await client.get("/metrics", Host="evil.example")
            assert (rebound.status, rebound.json["error"]) == (421, "misdirected")
            assert (await client.get("/api/v1/status", Host="localhost")).status == 200

    run(main)


def test_unix_socket(run, tmp_path):
    path = tmp_path / "admin.sock"
    bind = UnixAddress(str(path))

    async def main():
        async with serving(Daemon(), bind) as client:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert (await client.get("/api/v1/status", Host="any.example")).status == 200
            with pytest.raises(ConfigError, match="in use"):
                async with serving(Daemon(), bind):
                    pass
            assert (await client.get("/healthz")).status == 200
        assert not path.exists()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with serving(Daemon(), bind) as client:
            assert (await client.get("/healthz")).status == 200
        path.write_text("a file")
        with pytest.raises(ConfigError, match="no socket"):
            async with serving(Daemon(), bind):
                pass
        assert path.read_text() == "a file"

    run(main)


def test_ipv6(run):
    async def main():
        server = AdminServer(
            TcpAddress("::1", 0),
            None,
            Daemon().view,
            MetricsPage(Scoreboard(), lambda: None, SystemClock()),
            Daemon(),
        )
        await server.start()
        with socket.create_connection(("::1", server.address.port), timeout=LIMIT_S) as raw:
            raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: [::1]:1\r\nConnection: close\r\n\r\n")
            head = await asyncio.to_thread(raw.recv, 65536)
        assert head.startswith(b"HTTP/1.1 200 OK")
        await server.stop()

    run(main)


def test_all_interfaces_of_ipv6_are_not_those_of_ipv4():
    """As a listener on the same address."""
    with bound_socket(TcpAddress("::", 0)) as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_a_port_in_use_is_a_fault_of_the_configuration(run):
    async def main():
        async with serving(Daemon()) as client:
            with pytest.raises(ConfigError, match=r"admin.bind: got '127.0.0.1:\d+'.*in use"):
                async with serving(Daemon(), client.address):
                    pass

    run(main)


def test_an_exception_says_nothing_of_the_inside(run, caplog):
    async def main():
        daemon = Daemon()
        async with serving(daemon) as client:
            daemon.fails = True
            reply = await client.get("/api/v1/status")
            assert (reply.status, reply.json["error"]) == (500, "internal")
            assert b"secret" not in reply.body

    run(main)
    assert "the path is /etc/secret" in caplog.text


def test_connections_that_say_nothing_do_not_shut_out_the_health_check(run):
    async def main():
        async with serving(Daemon()) as client:
            silent = [await asyncio.to_thread(client.connect) for _ in range(MAX_CONNECTIONS + 5)]
            await asyncio.to_thread(lambda: [connection.connect() for connection in silent])
            assert (await client.get("/healthz")).status == 200
            assert await asyncio.to_thread(silent[0].sock.recv, 1) == b""
            for connection in silent:
                connection.close()

    run(main)


def test_requests_sent_at_once_on_one_connection(run):
    async def main():
        async with serving(Daemon()) as client:
            reader, writer = await asyncio.open_connection("127.0.0.1", client.address.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
            for _ in range(3):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                assert await reader.readline() == b'{"status":"ok"}\n'
            writer.close()
            await writer.wait_closed()

    run(main)


def test_it_refuses_to_run_on_the_pure_python_parser(monkeypatch):
    api.require_c_parser()
    monkeypatch.setenv("AIOHTTP_NO_EXTENSIONS", "1")
    with pytest.raises(ConfigError, match="AIOHTTP_NO_EXTENSIONS"):
        api.require_c_parser()
    monkeypatch.delenv("AIOHTTP_NO_EXTENSIONS")
    monkeypatch.setattr(aiohttp.http_parser, "HttpRequestParser", aiohttp.http_parser.HttpRequestParserPy)
    with pytest.raises(ConfigError, match="C parser"):
        api.require_c_parser()


def test_reload(run):
    async def main():
        daemon = Daemon()
        async with serving(daemon) as client:
            done = await client.get("/api/v1/reload", "POST")
            assert (done.status, done.json) == (
                200,
                {
                    "outcome": "applied",
                    "generation": 4,
                    "changes": ["workers: 1 → 2"],
                    "faults": [],
                    "last_applied": None,
                },
            )
            fault = Fault("f.yaml", 3, 9, "limits.body_bytes", "is no size", "'x'", "a size")
            daemon.reloaded = ReloadReport(ReloadOutcome.REFUSED, 4, faults=(fault,))
            refused = await client.get("/api/v1/reload", "POST")
            assert refused.status == 422
            assert refused.json["outcome"] == "refused" and refused.json["error"] == "invalid_config"
            assert refused.json["faults"] == [
                "f.yaml:3:9: limits.body_bytes: is no size, got 'x', expected a size"
            ]
            assert (await client.get("/api/v1/reload")).status == 405
            foreign = await client.get("/api/v1/reload", "POST", Origin="http://evil.example")
            assert foreign.status == 403
            daemon.fails = True
            broken = await client.get("/api/v1/reload", "POST")
            assert broken.status == 500 and b"secret" not in broken.body

    run(main)


def test_drains(run):
    async def main():
        daemon = Daemon()
        async with serving(daemon) as client:
            for path in ("etl/10.0.0.1:9000", "etl%2F10.0.0.1%3A9000", "etl/unix:/run/x.sock"):
                assert (await client.get(f"/api/v1/endpoints/{path}/drain", "POST")).status == 200
            done = await client.get("/api/v1/endpoints/etl/10.0.0.1:9000/undrain", "POST")
            assert done.json["targets"] == ["etl/10.0.0.1:9000"] and done.json["drained"] is False
            assert daemon.drains == [
                ("etl/10.0.0.1:9000", True),
                ("etl/10.0.0.1:9000", True),
                ("etl/unix:/run/x.sock", True),
                ("etl/10.0.0.1:9000", False),
            ]
            unknown = await client.get("/api/v1/endpoints/unknown/drain", "POST")
            assert (unknown.status, unknown.json["error"]) == (404, "not_found")
            assert "did you mean etl/10.0.0.1:9000?" in unknown.json["message"]
            assert (await client.get("/api/v1/listeners/edge/drain", "POST")).status == 200
            taken = await client.get("/api/v1/listeners/taken/undrain", "POST")
            assert (taken.status, taken.json["error"]) == (409, "conflict")
            assert (await client.get("/api/v1/endpoints/etl/x/drain")).status == 405
            assert (await client.get("/api/v1/endpoints/etl/x/stop", "POST")).status == 404
            assert (await client.get("/api/v1/listeners/unknown/drain", "POST")).status == 404

    run(main)


async def stream(client, last_id=None):
    """An open stream of events, past its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.address.port)
    again = f"Last-Event-ID: {last_id}\r\n" if last_id is not None else ""
    writer.write(f"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{again}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"text/event-stream" in head
    await reader.readuntil(b"retry: 2000\n\n")
    return reader, writer


async def next_event(reader):
    text = (await reader.readuntil(b"}\n\n")).decode()
    number = int(text[text.index("id: ") + 4 :].split("\n")[0])
    document = orjson.loads(text[text.index("data: ") + 6 :])
    assert document["id"] == number
    return document


def test_events(run, monkeypatch):
    async def main():
        daemon = Daemon()
        daemon.events.tell(EventType.RELOAD, "configuration", "applied")
        async with serving(daemon) as client:
            reader, writer = await stream(client)
            daemon.events.tell(EventType.DRAINED, "etl/a:1", "by an\noperator")
            event = await next_event(reader)
            assert (event["type"], event["subject"], event["text"]) == (
                "drained",
                "etl/a:1",
                "by an\noperator",
            )
            again, other = await stream(client, event["id"] - 2)
            assert [(await next_event(again))["type"] for _ in range(2)] == ["reload", "drained"]
            writer.close()
            await writer.wait_closed()
            monkeypatch.setattr(streams, "MAX_STREAMS", 0)
            assert (await client.get("/api/v1/events")).status == 503
        assert not (await again.read()).endswith(b"}\n\n"), "the server's stop ends streams"
        other.close()
        await other.wait_closed()

    run(main)


def test_a_silent_stream_says_that_it_lives(run, monkeypatch):
    async def main():
        monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.01)
        async with serving(Daemon()) as client:
            reader, writer = await stream(client)
            assert await reader.readuntil(b":\n\n")
            writer.close()
            await writer.wait_closed()

    run(main)


def test_explain(run):
    async def main():
        daemon = Daemon()
        async with serving(daemon) as client:
            asked = "cluster=etl&data_key=a%20b&data_key=c%2Fd&size=10MiB&tag=x&tag=y&type=join&route=r"
            assert (await client.get(f"/api/v1/explain?{asked}")).json == {"cluster": "etl"}
            assert daemon.asked == Question("etl", ["a b", "c/d"], "10MiB", ["x", "y"], "join", "r")
            assert (await client.get("/api/v1/explain?cluster=etl")).status == 200
            assert daemon.asked == Question("etl", [], None, [], "")
            for query, status, error in (
                ("cluster=none", 404, "not_found"),
                ("cluster=etl&size=much", 400, "bad_request"),
                ("cluster=stuck", 504, "timeout"),
            ):
                reply = await client.get(f"/api/v1/explain?{query}")
                assert (reply.status, reply.json["error"]) == (status, error)
            assert reply.json["message"] == "no answer within 1 s each from worker 0, 2"
        async with serving(daemon, TcpAddress("0.0.0.0", 0), token="t" * 16) as client:
            assert (await client.get("/api/v1/explain?cluster=etl")).status == 401

    run(main)


def test_scale(run):
    async def main():
        async with serving(Daemon()) as client:
            for asked, count in (("instances=5", 5), ("instances=0", 0), ("mode=auto", None)):
                reply = await client.get(f"/api/v1/clusters/etl/scale?{asked}", method="POST")
                assert reply.json == {"cluster": "etl", "count": count}
            for asked in (
                "",
                "instances=5&mode=auto",
                "mode=manual",
                "instances=-1",
                "instances=1e3",
                "instances=9999999",
            ):
                assert (await client.get(f"/api/v1/clusters/etl/scale?{asked}", method="POST")).status == 400
            refused = await client.get("/api/v1/clusters/plain/scale?instances=1", method="POST")
            assert (refused.status, refused.json["message"]) == (404, "cluster 'plain' has no scaler")
            assert (await client.get("/api/v1/clusters/etl/scale?mode=auto")).status == 405

    run(main)


def test_a_deployment_is_tried_again(run):
    async def main():
        async with serving(Daemon()) as client:
            reply = await client.get("/api/v1/clusters/etl/deploy/retry", method="POST")
            assert reply.json == {"cluster": "etl", "count": -1}
            assert (await client.get("/api/v1/clusters/plain/deploy/retry", method="POST")).status == 404

    run(main)
