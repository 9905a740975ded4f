"""What an operator may call an endpoint, and what is said of names that are none."""

import pytest
from resilience_world import A, B, World

from proxy.controlplane.drains import (
    MAX_DRAINED,
    DrainReport,
    Drains,
    UnknownTarget,
    check_listener,
    find_endpoints,
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
    container = EndpointSpec(
        "ml/0123456789ab", 4, TcpAddress("10.0.0.4", 9000), "ml-1", instance="0123456789abcdef"
    )
    ml = ClusterSpec("ml", endpoints=(spec("ml", "10.0.0.3", 3, "10.0.0.3:9000"), container))
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
        ("ml/0123456789ab", ["ml/0123456789ab"]),
        ("ml/10.0.0.4:9000", ["ml/0123456789ab"]),
        ("ml-1", ["ml/0123456789ab"]),
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
            " ml/0123456789ab, ml/10.0.0.3:9000",
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
    left = Drains(frozenset({"b", "gone"}), ("etl/x",)).apply_to(Snapshot(1, specs, (), ()))
    assert [spec.name for spec in left.listeners] == ["a"] and left.drained_listeners == ("b",)
    assert left.drained_endpoints == ("etl/x",)


@pytest.mark.parametrize(
    "name, remembered",
    [
        (A, (A,)),
        ("10.0.0.1:9000", (A,)),
        ("query:9000", ("etl/query:9000",)),
        ("etl/query:9000", ("etl/query:9000",)),
        ("ml/10.0.0.3:9000", ("ml/10.0.0.3:9000",)),
    ],
)
def test_what_is_remembered_of_a_drain(standings, name, remembered):
    found = find_endpoints(standings, name)
    drains = Drains().with_endpoints(name, found, standings, True)
    assert drains.endpoints == remembered
    assert drains.with_endpoints(name, found, standings, True) == drains
    assert drains.with_endpoints(name, found, standings, False) == Drains()


def test_nobody_need_be_there_to_be_undrained(standings):
    drains = Drains(endpoints=("etl/gone:9000", A))
    assert find_endpoints(standings, "etl/gone:9000", away=drains.endpoints) == []
    assert drains.with_endpoints("etl/gone:9000", [], standings, False) == Drains(endpoints=(A,))


def test_the_last_names_are_remembered(standings):
    drains = Drains(endpoints=tuple(f"etl/{n}" for n in range(MAX_DRAINED)))
    left = drains.with_endpoints(A, find_endpoints(standings, A), standings, True).endpoints
    assert len(left) == MAX_DRAINED and left[-1] == A and left[0] == "etl/1"


def test_the_report():
    assert DrainReport(("a", "b"), ("a",), True).document() == {
        "drained": True,
        "targets": ["a", "b"],
        "changed": ["a"],
        "pending": False,
    }
