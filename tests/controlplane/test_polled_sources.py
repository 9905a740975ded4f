"""Endpoints from names and files: what is asked, how often, and what holds when there is no answer."""

import asyncio
import random
import socket
import threading

import dns.asyncresolver
import dns.message
import dns.rrset
import pytest
from resilience_world import Clock
from support.wait import LIMIT_S

from proxy.config.discovery_schema import DnsDiscovery, FileDiscovery
from proxy.config.endpoint_file import parse_endpoints
from proxy.config.faults import InvalidConfig
from proxy.controlplane.dns_questions import AddressQuestion, Service, ServiceQuestion, system_services
from proxy.controlplane.events import EventLog
from proxy.controlplane.file_question import FileQuestion
from proxy.controlplane.membership import Membership
from proxy.controlplane.polled_source import PolledSource, SourceFailed
from proxy.controlplane.source_report import SourceReport
from proxy.scoreboard import Scoreboard


class World:
    """Names, and a source that asks `question`."""

    def __init__(self):
        self.clock = Clock()
        self.log = EventLog(self.clock)
        self.membership = Membership(lambda: None)
        self.hosts = {}
        self.services = {}

    async def lookup(self, host, port):
        if host not in self.hosts:
            raise socket.gaierror(-2, "Name or service not known")
        families = {each: socket.AF_INET6 if ":" in each else socket.AF_INET for each in self.hosts[host]}
        return [
            (family, 1, 6, "", (each, port, 0, 0) if ":" in each else (each, port))
            for each, family in families.items()
        ]

    async def find_services(self, name):
        if name not in self.services:
            raise SourceFailed(f"{name} cannot be resolved")
        return self.services[name]

    def addresses(self, section):
        return AddressQuestion("etl", DnsDiscovery.model_validate(section), self.lookup)

    def srv(self, section):
        section = DnsDiscovery.model_validate({"record": "srv", **section})
        return ServiceQuestion("etl", section, self.lookup, self.find_services)

    def file(self, path, refresh="5s", dns_refresh_s=30.0):
        section = FileDiscovery.model_validate({"path": str(path), "refresh": refresh})
        return FileQuestion(
            "etl", section, dns_refresh_s, self.lookup, clock=self.clock, rng=random.Random(1)
        )

    def source(self, question, kind="dns", retry_s=30.0):
        report = SourceReport(kind, "etl", Scoreboard(endpoints=2), self.log, self.clock)
        return PolledSource(
            question, self.membership, report, retry_s=retry_s, clock=self.clock, rng=random.Random(1)
        )

    @property
    def found(self):
        return [str(spec.address) for spec in self.membership.of("dns", "etl")]


def run(main):
    async def limited():
        async with asyncio.timeout(LIMIT_S):
            await main(World())

    asyncio.run(limited())


def told(specs):
    return [(spec.id, spec.name, spec.weight) for spec in specs]


def test_a_name_is_asked_again_and_keeps_its_addresses():
    async def main(world):
        source = world.source(world.addresses({"name": "Query.internal", "port": 9000, "refresh": "10s"}))
        source.start()
        await world.clock.advance(0.5)
        assert source.report.state == "failing" and not world.found
        world.hosts["query.internal"] = ["10.0.0.2", "10.0.0.1", "fd00::1"]
        await world.clock.advance(1.2)
        assert world.found == ["10.0.0.1:9000", "10.0.0.2:9000"] and source.report.state == "up"
        world.hosts["query.internal"] = ["fd00::1"]
        await world.clock.advance(8.0)
        assert len(world.found) == 2
        await world.clock.advance(3.5)
        assert world.found == ["[fd00::1]:9000"]
        del world.hosts["query.internal"]
        await world.clock.advance(11.5)
        assert world.found == ["[fd00::1]:9000"] and source.report.state == "failing"
        assert "Name or service not known" in source.report.document()["problem"]
        source.stop()

    run(main)


def test_services_have_targets_ports_and_weights():
    """Of the best priority; the answer's time to live counts when it is shorter."""

    async def main(world):
        question = world.srv({"name": "_http._tcp.query.internal", "refresh": "30s"})
        with pytest.raises(SourceFailed):
            await question.ask()
        world.hosts |= {"one.internal": ["10.0.0.1"], "two.internal": ["10.0.0.2"]}
        records = [
            Service(10, 5, 8001, "one.internal"),
            Service(10, 0, 8002, "two.internal"),
            Service(10, 1, 8003, "gone.internal"),
            Service(20, 1, 8004, "one.internal"),
        ]
        world.services["_http._tcp.query.internal"] = records, 12.0
        specs, good_s = await question.ask()
        assert told(specs) == [
            ("etl/10.0.0.1:8001", "one.internal:8001", 5),
            ("etl/10.0.0.2:8002", "two.internal:8002", 1),
        ]
        assert good_s == 12.0 and specs[0].server_name == "one.internal"
        world.services["_http._tcp.query.internal"] = [Service(0, 0, 1, "")], 0.0
        assert await question.ask() == ([], 1.0), "decidedly not there"
        world.services["_http._tcp.query.internal"] = [Service(0, 0, 1, "gone.internal")], 90.0
        with pytest.raises(SourceFailed, match=r"gone\.internal cannot be resolved"):
            await question.ask()

    run(main)


class NameServer(threading.Thread):
    """Answers SRV questions on a loopback port."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def run(self):
        while True:
            data, sender = self.socket.recvfrom(4096)
            if data == b"end":
                break
            answer = dns.message.make_response(dns.message.from_wire(data))
            name = answer.question[0].name
            if str(name).startswith("_http"):
                records = ("10 5 8001 one.internal.", "20 5 8002 .")
                answer.answer.append(dns.rrset.from_text(name, 17, "IN", "SRV", *records))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self.socket.sendto(answer.to_wire(), sender)

    def end(self):
        self.socket.sendto(b"end", self.socket.getsockname())
        self.join(LIMIT_S)
        self.socket.close()


def test_srv_records_of_a_name_server():
    server = NameServer()
    server.start()

    async def main(world):
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], server.port
        services, good_s = await system_services("_http._tcp.query.internal", resolver)
        assert sorted(services, key=lambda one: one.priority) == [
            Service(10, 5, 8001, "one.internal"),
            Service(20, 5, 8002, ""),
        ]
        assert good_s == 17.0
        with pytest.raises(SourceFailed, match="_smtp._tcp.query.internal cannot be resolved"):
            await system_services("_smtp._tcp.query.internal", resolver)

    try:
        run(main)
    finally:
        server.end()


def test_a_file_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "endpoints.yaml"

    async def main(world):
        question = world.file(path)
        with pytest.raises(SourceFailed, match="endpoints.yaml:1:1"):
            await question.ask()
        path.write_text("- {address: '10.0.0.1:80', weight: 2, zone: z}\n- {address: 'query:80'}\n")
        specs, pause_s = await question.ask()
        assert told(specs) == [("etl/10.0.0.1:80", "10.0.0.1:80", 2)] and pause_s == 5.0
        world.hosts["query"] = ["10.0.0.2", "10.0.0.3"]
        assert len((await question.ask())[0]) == 1
        world.clock.now += 5.0
        assert told((await question.ask())[0])[1:] == [
            ("etl/10.0.0.2:80", "query:80", 1),
            ("etl/10.0.0.3:80", "query:80", 1),
        ]
        del world.hosts["query"]
        path.write_text('[{"address": "query:80"}]')
        assert len((await question.ask())[0]) == 2, "its last addresses hold"
        path.write_text("- {address: 'query:80', wieght: 1}\n- {}\n")
        with pytest.raises(SourceFailed) as caught:
            await question.ask()
        assert str(caught.value).startswith(
            f"{path}:1:25: [0].wieght: is not a known key, got 'wieght', expected one of address,"
        )
        assert str(caught.value).endswith("did you mean 'weight'? (and 1 more)")
        path.write_text("[]")
        assert (await question.ask())[0] == []

    run(main)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "f:1:1: is empty, expected a list of endpoints, or []"),
        ("{address: '10.0.0.1:80'}", "f:1:1: is not a list"),
        ("- 10.0.0.1:80", "f:1:3: [0]: is not a mapping, got '10.0.0.1:80'"),
        ("- address: 10.0.0.1\n", "f:1:12: [0].address: is not an address with a port, got 10.0.0.1"),
        ("- address: 10.0.0.1:80\n  weight: 0\n", "f:2:11: [0].weight: is out of range, got 0"),
        ("- {weight: 1}\n", "f:1:3: [0].address: is missing"),
        ("- [", "f:"),
        ("- {address: '10.0.0.1:80', zone: a, zone: b}", "f:1:37: [0].zone: "),
    ],
)
def test_faults_have_their_place(text, fault):
    with pytest.raises(InvalidConfig) as caught:
        parse_endpoints(text.encode(), "f")
    assert str(caught.value).startswith(fault), caught.value


def test_a_file_that_is_wrong_changes_nothing(tmp_path):
    path = tmp_path / "endpoints.yaml"
    path.write_text("- {address: '10.0.0.1:80'}\n")

    async def main(world):
        source = world.source(world.file(path, refresh="100ms"), kind="file", retry_s=0.1)
        source.start()
        await source.report.answered()
        path.write_text("- {address: '10.0.0.1'}\n")
        while source.report.state != "failing":
            await world.clock.advance(0.12)
            await asyncio.sleep(0.001)
        assert len(world.membership.of("file", "etl")) == 1
        assert world.log.recent[-1].subject == "discovery file of etl"
        assert f"{path}:1:13: [0].address" in world.log.recent[-1].text
        path.write_text("- {address: '10.0.0.2:80'}\n")
        while source.report.state != "up":
            await world.clock.advance(0.12)
            await asyncio.sleep(0.001)
        assert [spec.id for spec in world.membership.of("file", "etl")] == ["etl/10.0.0.2:80"]
        source.stop()

    run(main)
