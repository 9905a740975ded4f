"""What an operator may call an endpoint, and what is said of names that are none."""

import pytest
from resilience_world import A, B, World

from proxy.controlplane.drains import (
    DrainReport,
    UnknownTarget,
    check_listener,
    find_endpoints,
    without_listeners,
)
from proxy.model import TcpAddress
from proxy.snapshot import ClusterSpec, EndpointSpec, ListenerSpec, Snapshot


@pytest.fixture
def standings():
    """Two clusters: `etl` has a name with two addresses, `ml` shares an address with it."""
    world = World()

    def spec(cluster, host, slot, name):
        address = TcpAddress(host, 9000)
        return EndpointSpec(f"{cluster}/{address}", slot, address, name)

    etl = ClusterSpec(
        "etl",
        endpoints=(
            spec("etl", "10.0.0.1", 0, "query:9000"),
            spec("etl", "10.0.0.2", 1, "query:9000"),
            spec("etl", "10.0.0.3", 2, "10.0.0.3:9000"),
        ),
    )
    ml = ClusterSpec("ml", endpoints=(spec("ml", "10.0.0.3", 3, "10.0.0.3:9000"),))
    world.standings.update(Snapshot(2, (), (etl, ml), ()))
    return world.standings


@pytest.mark.parametrize(
    "name, found",
    [
        (A, [A]),
        ("10.0.0.1:9000", [A]),
        ("query:9000", [A, B]),
        ("etl/query:9000", [A, B]),
        ("ml/10.0.0.3:9000", ["ml/10.0.0.3:9000"]),
    ],
)
def test_names(standings, name, found):
    assert [member.spec.id for member in find_endpoints(standings, name)] == found


@pytest.mark.parametrize(
    "name, text",
    [
        ("etl/10.0.0.9:9000", "there is no endpoint 'etl/10.0.0.9:9000'; did you mean etl/10.0.0."),
        (
            "10.0.0.3:9000",
            "several clusters have an endpoint '10.0.0.3:9000'; did you mean etl/10.0.0.3:9000 or ml/",
        ),
        ("etl", "there is no endpoint 'etl'"),
        (
            "zzz",
            "there is no endpoint 'zzz'; there are etl/10.0.0.1:9000, etl/10.0.0.2:9000, etl/10.0.0.3:9000,"
            " ml/10.0.0.3:9000",
        ),
    ],
)
def test_names_that_are_none(standings, name, text):
    with pytest.raises(UnknownTarget) as caught:
        find_endpoints(standings, name)
    assert str(caught.value).startswith(text)


def test_listeners():
    check_listener(["edge"], "edge")
    with pytest.raises(UnknownTarget, match="there is no listener 'egde'; did you mean edge?"):
        check_listener(["edge", "admin"], "egde")
    with pytest.raises(UnknownTarget, match="there is no listener 'zz'; there is edge$"):
        check_listener(["edge"], "zz")
    many = UnknownTarget("there is no listener 'zz'", (), "abcdefg")
    assert str(many) == "there is no listener 'zz'; there are a, b, c, d, e and 2 more"
    specs = tuple(ListenerSpec(name, TcpAddress("127.0.0.1", 0)) for name in ("a", "b"))
    left = without_listeners(Snapshot(1, specs, (), ()), {"b", "gone"})
    assert [spec.name for spec in left.listeners] == ["a"] and left.drained_listeners == ("b",)


def test_the_report():
    assert DrainReport(("a", "b"), ("a",), True).document() == {
        "drained": True,
        "targets": ["a", "b"],
        "changed": ["a"],
        "pending": False,
    }
