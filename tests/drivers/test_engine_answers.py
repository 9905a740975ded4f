"""What the engine says, as instances, addresses and times."""

import pytest

from proxy.drivers.driver import EngineHealth, State
from proxy.drivers.engine_answers import (
    Vantage,
    addresses,
    asks_to_end,
    engine_time,
    instance_of,
    service_port,
    signal_number,
)
from proxy.drivers.labels import select
from proxy.drivers.spec import Selector
from proxy.drivers.vantage import container_vantage, own_container_id
from proxy.model import TcpAddress

HOST = Vantage(on_host=True)
BESIDE = Vantage(on_host=False, networks=frozenset({"data-id"}), host_address="172.18.0.1")
REMOTE = Vantage(on_host=False, host_address="192.0.2.7")
ANY = Selector("etl", ())


def answer(networks=None, ports=None, labels=None, exposed=("8000/tcp",), **config):
    """An inspected container, as Engine 20.10 describes it."""
    return {
        "Id": "0123456789abcdef" * 4,
        "Name": "/etl-1",
        "RestartCount": 2,
        "Config": {"Labels": labels, "ExposedPorts": dict.fromkeys(exposed, {}), **config},
        "State": {
            "Status": "running",
            "OOMKilled": False,
            "ExitCode": 0,
            "Error": "",
            "StartedAt": "2026-11-23T07:49:40.66909317Z",
            "Health": {"Status": "healthy"},
        },
        "HostConfig": {"NanoCpus": 500_000_000, "Memory": 64 << 20},
        "NetworkSettings": {"Networks": networks or {}, "Ports": ports or {}},
    }


def joined(address, network_id, v6=""):
    return {"NetworkID": network_id, "IPAddress": address, "GlobalIPv6Address": v6}


BOTH = {"bridge": joined("172.17.0.2", "bridge-id"), "data": joined("172.18.0.2", "data-id", "fd00::2")}
ANYWHERE = [{"HostIp": "0.0.0.0", "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32769"}]
PUBLISHED = {"8000/tcp": ANYWHERE, "9000/tcp": None}


def where(vantage, networks=BOTH, ports=PUBLISHED, port=8000, network=""):
    return [str(each) for each in addresses(answer(networks, ports), port, vantage, network)]


def test_on_the_host_every_bridge_then_the_published_port():
    assert where(HOST) == ["172.17.0.2:8000", "172.18.0.2:8000", "[fd00::2]:8000", "127.0.0.1:32768"]


def test_in_a_container_the_shared_network_then_the_host_by_its_gateway():
    assert where(BESIDE) == ["172.18.0.2:8000", "[fd00::2]:8000", "172.18.0.1:32768"]
    assert where(BESIDE, {"bridge": BOTH["bridge"]}) == ["172.18.0.1:32768"]


def test_from_another_machine_only_published_ports():
    assert where(REMOTE) == ["192.0.2.7:32768"]
    loopback = {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "1"}]}
    assert where(REMOTE, ports=loopback) == []
    assert where(HOST, {}, loopback) == ["127.0.0.1:1"]
    assert where(REMOTE, ports={"8000/tcp": [{"HostIp": "192.0.2.8", "HostPort": "1"}]}) == ["192.0.2.8:1"]


def test_one_network_alone_when_it_is_named():
    assert where(HOST, network="data") == ["172.18.0.2:8000", "[fd00::2]:8000"]
    assert where(HOST, network="other") == []


def test_the_network_of_the_host_has_its_address():
    host = {"host": joined("", "host-id")}
    assert where(HOST, host, {}) == ["127.0.0.1:8000"]
    assert where(BESIDE, host, {}) == ["172.18.0.1:8000"]


def test_without_a_port_there_is_no_address():
    assert where(HOST, port=0) == []


@pytest.mark.parametrize(
    "labels, given, exposed, port",
    [
        ({"homeport.port": "9000"}, 8000, ("1/tcp",), 9000),
        ({"homeport.port": "none"}, 8000, ("1/tcp",), 8000),
        ({"homeport.port": "70000"}, 0, ("1/tcp", "2/udp"), 1),
        ({}, 0, ("1/tcp", "2/tcp"), 0),
        ({}, 0, (), 0),
    ],
)
def test_the_port_is_that_of_the_label_the_selector_or_the_only_one(labels, given, exposed, port):
    assert service_port(answer(exposed=exposed), labels, Selector("etl", (), given)) == port


def test_a_running_container():
    labels = {"homeport.owner": "us", "homeport.spec": "abc", "a": "b"}
    instance = instance_of(answer(BOTH, labels=labels, StopTimeout=3, StopSignal="SIGINT"), ANY, HOST)
    assert (instance.name, instance.cluster, instance.state) == ("etl-1", "etl", State.RUNNING)
    assert (instance.owner, instance.spec_digest, instance.label("a"), instance.label("c")) == (
        "us",
        "abc",
        "b",
        None,
    )
    assert (instance.health, instance.restarts, instance.exit_code) == (EngineHealth.HEALTHY, 2, None)
    assert (instance.stop_signal, instance.stop_grace_s) == (2, 3.0)
    assert (instance.cpus, instance.memory_bytes) == (0.5, 64 << 20)
    assert instance.started_at == pytest.approx(1795420180.669093)
    assert instance.addresses[0] == TcpAddress("172.17.0.2", 8000)


def test_one_that_has_ended_has_no_address():
    ended = answer(BOTH)
    ended["State"] |= {"Status": "exited", "ExitCode": 137, "OOMKilled": True, "Error": "x", "Health": None}
    ended["HostConfig"] = {"CpuQuota": 150_000, "CpuPeriod": 100_000}
    instance = instance_of(ended, ANY, HOST)
    assert (instance.state, instance.addresses, instance.exit_code) == (State.ENDED, (), 137)
    assert (instance.oom_killed, instance.error, instance.health) == (True, "x", EngineHealth.NONE)
    assert (instance.cpus, instance.memory_bytes, instance.stop_signal, instance.stop_grace_s) == (
        1.5,
        0,
        15,
        10.0,
    )


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
        ("1970-01-01T00:01:00Z", 60.0),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        ("soon", None),
    ],
)
def test_times(text, seconds):
    assert engine_time(text) == seconds


@pytest.mark.parametrize(
    "text, number",
    [("15", 15), ("SIGTERM", 15), ("term", 15), ("SIGRTMIN+3", 37), ("SIGNO", 0), ("", 0), ("RTMIN+x", 0)],
)
def test_signals(text, number):
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "number, stop_signal, ends",
    [
        (15, "", True),
        (2, "", True),
        (3, "", True),
        (9, "", True),
        (1, "", False),
        (10, "", False),
        (1, "SIGHUP", True),
    ],
)
def test_which_signals_ask_to_end(number, stop_signal, ends):
    assert asks_to_end(number, instance_of(answer(StopSignal=stop_signal), ANY, HOST)) is ends
    assert asks_to_end(15, None) and not asks_to_end(1, None)


def test_the_first_selector_with_all_labels_takes_a_container():
    one = Selector("one", (("app", "x"), ("tier", "")))
    two = Selector("two", (("app", "x"),))
    assert select((one, two), {"app": "x", "tier": "any"}) is one
    assert select((one, two), {"app": "x"}) is two
    assert select((one, two), {"app": "y", "tier": "1"}) is None


def test_a_container_finds_its_own_id_and_view():
    own = "ab" * 32
    mounts = f"1 2 0:1 / / rw - overlay overlay rw\n3 2 8:1 /var/lib/docker/containers/{own}/hostname /etc/hostname rw"
    assert own_container_id(mounts) == own
    assert own_container_id("1 2 0:1 / / rw - ext4 /dev/sda1 rw") == ""
    networks = {"data": {**joined("172.18.0.9", "data-id"), "Gateway": "172.18.0.1"}}
    assert container_vantage(answer(networks)) == BESIDE
    assert container_vantage(answer({"host": joined("", "host-id")})) == HOST
