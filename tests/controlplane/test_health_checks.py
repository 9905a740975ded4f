"""The prober against real sockets: what passes, what fails and why, what a service says, and how states change."""

import asyncio
import ssl
from contextlib import asynccontextmanager

import pytest
import uvloop
from aiohttp import web
from resilience_world import A, World
from support.certificates import Authority

from proxy.config.resilience_schema import HealthCheck
from proxy.controlplane import health as prober_module
from proxy.controlplane.probes import BODY_BYTES, Probe
from proxy.model import TcpAddress, UnixAddress
from proxy.policy.health import HealthState, ServiceWord
from proxy.scoreboard import X_CHECKS, X_CHECKS_FAILED
from proxy.snapshot import ClusterTlsSpec, EndpointSpec
from proxy.tls import client_context

LIMIT_S = 20.0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    def run(main):
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main(), LIMIT_S))

    return run


class Service:
    """Answers as it is told and remembers what it was asked."""

    def __init__(self):
        self.status = 200
        self.body = b"all is well"
        self.type = "text/plain"
        self.pause = None
        self.seen = []

    async def answer(self, request):
        self.seen.append(request)
        if self.pause is not None:
            await self.pause.wait()
        if self.status == 0:
            request.transport.abort()
        return web.Response(status=self.status or 200, body=self.body, content_type=self.type)


@asynccontextmanager
async def serving(service, host="127.0.0.1", unix=None, tls=None):
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", service.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = (
        web.UnixSite(runner, unix, ssl_context=tls) if unix else web.TCPSite(runner, host, 0, ssl_context=tls)
    )
    await site.start()
    port = 0 if unix else site._server.sockets[0].getsockname()[1]
    try:
        yield UnixAddress(unix) if unix else TcpAddress(host, port)
    finally:
        for _ in range(10):
            await asyncio.sleep(0)  # connections that were only opened are accepted, and closed, first
        await runner.cleanup()


def probe(address, tls=None, server_name="", timeout_s=LIMIT_S, **check):
    spec = EndpointSpec(f"etl/{address}", 0, address, "query-1:9000", server_name=server_name)
    return Probe(HealthCheck.model_validate(check), spec, tls, timeout_s)


def test_a_request_as_configured(run):
    async def main():
        service = Service()
        async with serving(service) as address:
            assert (await probe(address, path="/up?full=%20&b").run(None)).failure == ""
            assert service.seen.pop().raw_path == "/up?full=%20&b"
            assert (await probe(address, path="/health/a b").run(None)).failure == ""
            asked = service.seen[0]
            assert (asked.method, asked.raw_path, asked.host) == ("GET", "/health/a%20b", "query-1:9000")
            assert asked.headers["User-Agent"].startswith("homeport/") and "Cookie" not in asked.headers
            named = probe(
                address,
                path="/x",
                method="HEAD",
                host="other.test",
                headers={"X-Key": "7", "user-agent": "me"},
            )
            assert (await named.run(None)).failure == ""
            asked = service.seen[1]
            assert (asked.method, asked.host, asked.headers["X-Key"]) == ("HEAD", "other.test", "7")
            assert asked.headers.getall("User-Agent") == ["me"]
            assert (await probe(address, type="http").run(None)).failure == ""
            assert service.seen[2].path == "/"

    run(main)


@pytest.mark.parametrize(
    "status, statuses, failure",
    [
        ("200", ["200-399"], ""),
        ("302", ["200-399"], ""),
        ("404", ["200-399"], "status 404"),
        ("404", ["200", "404"], ""),
        ("503", ["200-399", "503"], ""),
        ("204", ["200"], "status 204"),
    ],
)
def test_statuses(status, statuses, failure):
    async def main():
        service = Service()
        service.status = int(status)
        async with serving(service) as address:
            assert (await probe(address, path="/h", statuses=statuses).run(None)).failure == failure

    asyncio.run(main())


def test_text_in_the_first_part_of_the_body(run):
    async def main():
        service = Service()
        async with serving(service) as address:
            assert (await probe(address, path="/h", body="is well").run(None)).failure == ""
            missing = await probe(address, path="/h", body="unwell").run(None)
            assert missing.failure == "'unwell' is not in the answer"
            service.body = b"x" * (BODY_BYTES - 4) + b"here and not here"
            assert (await probe(address, path="/h", body="here").run(None)).failure == ""
            assert (await probe(address, path="/h", body="not").run(None)).failure

    run(main)


def test_what_a_service_says_of_itself(run):
    async def main():
        service = Service()
        service.body, service.type = b'{"draining": true, "load": 0.7}', "application/json"
        async with serving(service) as address:
            assert (await probe(address, path="/h").run(None)).word == ServiceWord(True, 0.7)
            service.status = 500
            assert (await probe(address, path="/h").run(None)).word == ServiceWord()

    run(main)


def test_failures_are_told_in_few_words(run):
    async def main():
        service = Service()
        async with serving(service) as address:
            service.pause = asyncio.Event()
            slow = await probe(address, path="/h", timeout_s=0.05).run(None)
            assert slow.failure == "no answer within 0.05 s"
            service.pause.set()
            service.status = 0
            closed = await probe(address, path="/h").run(None)
            assert closed.failure in (
                "it closed the connection without an answer",
                "connection reset by peer",
            )
        for check in ({"type": "tcp"}, {"path": "/h"}):
            refused = await probe(address, **check).run(None)
            assert "refused" in refused.failure and len(refused.failure) < 120
        nowhere = await probe(UnixAddress("/nonexistent/socket"), path="/h").run(None)
        assert "no such file" in nowhere.failure

    run(main)


def test_what_is_no_http_fails(run):
    async def main():
        async def babble(reader, writer):
            writer.write(b"SSH-2.0-OpenSSH_9.0\r\n")
            await writer.drain()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        address = TcpAddress(*server.sockets[0].getsockname())
        assert (await probe(address, path="/h").run(None)).failure
        assert (await probe(address, type="tcp").run(None)).failure == ""
        assert (await probe(address).run(None)).failure == "", "tcp unless there is a path"
        server.close()
        await server.wait_closed()

    run(main)


def test_ipv6_and_unix_sockets(run, tmp_path):
    async def main():
        for where in ({"host": "::1"}, {"unix": str(tmp_path / "s.sock")}):
            service = Service()
            async with serving(service, **where) as address:
                for check in ({"type": "tcp"}, {"path": "/h"}):
                    assert (await probe(address, **check).run(None)).failure == ""
                assert len(service.seen) == 1

    run(main)


def test_tls_with_the_clusters_name_and_authority(run, tmp_path):
    async def main():
        authority = Authority()
        files = authority.write(tmp_path, "query.test")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        good = ClusterTlsSpec(ca=authority.pem)
        for where in ({}, {"unix": str(tmp_path / "tls.sock")}):
            async with serving(Service(), tls=context, **where) as address:
                for check in ({"type": "tcp"}, {"path": "/h"}):
                    ours = probe(address, good, "query.test", **check)
                    assert (await ours.run(client_context(good))).failure == ""
                    foreign = await probe(address, good, "other.test", **check).run(client_context(good))
                    assert foreign.failure.startswith("its certificate was refused")
                    trusting = ClusterTlsSpec(verify=False)
                    anyone = probe(address, trusting, "other.test", **check)
                    assert (await anyone.run(client_context(trusting))).failure == ""
        async with serving(Service()) as address:
            plain = await probe(address, good, "query.test", path="/h").run(client_context(good))
            assert plain.failure.startswith("TLS failed") or "tls" in plain.failure.lower()

    run(main)


# ---------------------------------------------------------------- states


CHECKED = "health_check: {path: /h, interval: 30s, unhealthy_interval: 5s, unhealthy_after: 2, jitter: 0}"


class Verdicts:
    """Checks come to what the test says."""

    def __init__(self, monkeypatch):
        self.failing = set()
        self.word = ServiceWord()
        self.asked = []
        self.under_way = 0
        self.most = 0

        async def run(probe, context):
            self.asked.append(probe.endpoint.id)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1
            if probe.endpoint.id in self.failing:
                return prober_module.Verdict("status 500")
            return prober_module.Verdict(word=self.word)

        monkeypatch.setattr(Probe, "run", run)


@pytest.fixture
def verdicts(monkeypatch):
    return Verdicts(monkeypatch)


def test_rise_and_fall_in_words_and_events(verdicts):
    async def main():
        verdicts.failing = {A}
        world = World(cluster=CHECKED)
        await world.clock.advance(0.0)
        assert world.marks(A).health is HealthState.UNHEALTHY
        assert world.types() == [("health_down", A), ("health_up", "etl/10.0.0.2:9000")]
        assert world.events.recent[0].text == "its checks fail: status 500"
        verdicts.failing = set()
        await world.clock.advance(5.0)
        assert world.marks(A).health is HealthState.UNHEALTHY
        await world.clock.advance(5.0)
        assert world.marks(A).health is HealthState.HEALTHY and world.marks(A).since == 1010.0
        verdicts.failing = {A}
        await world.clock.advance(30.0)
        assert world.marks(A).health is HealthState.HEALTHY
        await world.clock.advance(5.0)
        assert world.marks(A).health is HealthState.UNHEALTHY
        row = world.row(A)
        assert (row[X_CHECKS], row[X_CHECKS_FAILED]) == (5, 3)
        world.resilience.stop()
        world.resilience.stop()

    asyncio.run(main())


def test_an_endpoint_that_says_it_drains(verdicts):
    async def main():
        verdicts.word = ServiceWord(True, 1.5)
        world = World(cluster=CHECKED)
        await world.clock.advance(0.0)
        assert world.marks(A).is_drained and ("drained", A) in world.types()
        verdicts.failing = {A}
        await world.clock.advance(30.0)
        assert world.marks(A).is_drained, "one failed check takes nothing back"
        await world.clock.advance(5.0)
        assert world.marks(A).health is HealthState.UNHEALTHY
        world.resilience.stop()

    asyncio.run(main())


def test_reloads_and_restarts_keep_what_was_learned(verdicts):
    async def main():
        world = World(cluster=CHECKED)
        await world.clock.advance(0.0)
        asked = len(verdicts.asked)
        world.serve(cluster=f"{CHECKED}, panic_percent: 10")
        await world.clock.advance(1.0)
        assert len(verdicts.asked) == asked, "nothing that concerns checks has changed"
        verdicts.failing = {A}
        world.serve(cluster=CHECKED.replace("/h", "/other").replace("30s", "3s"))
        await world.clock.advance(3.0)
        assert len(verdicts.asked) == asked + 2 and world.marks(A).health is HealthState.HEALTHY
        world.restart(cluster=CHECKED)
        await world.clock.advance(0.0)
        assert world.marks(A).health is HealthState.HEALTHY, "the next control asks again before it doubts"
        await world.clock.advance(5.0)
        assert world.marks(A).health is HealthState.UNHEALTHY
        world.serve(cluster="")
        assert world.marks(A).health is HealthState.HEALTHY
        asked = len(verdicts.asked)
        await world.clock.advance(100.0)
        assert len(verdicts.asked) == asked
        world.resilience.stop()

    asyncio.run(main())


def test_so_many_at_once(verdicts, monkeypatch):
    async def main():
        monkeypatch.setattr(prober_module, "AT_ONCE", 2)
        world = World(endpoints=tuple(f"10.0.0.{n}:9000" for n in range(1, 8)), cluster=CHECKED)
        await world.clock.advance(0.0)
        await world.clock.advance(0.0)
        assert len(verdicts.asked) == 7 and verdicts.most == 2
        world.resilience.stop()

    asyncio.run(main())
