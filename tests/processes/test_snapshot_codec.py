"""Snapshots as bytes."""

from dataclasses import dataclass, replace

import pytest

from proxy import snapshot as snapshot_module
from proxy import snapshot_codec
from proxy.controlplane.sources import known_addresses
from proxy.model import TcpAddress
from proxy.snapshot import ClusterSpec, EndpointSpec, ListenerSpec, MatchSpec, RouteSpec, Snapshot, SplitSpec
from proxy.snapshot_codec import (
    FORMAT,
    MARK,
    Legacy,
    OtherVersion,
    SnapshotDecoder,
    decode_legacy,
    decode_snapshot,
    encode_snapshot,
    legacy_of,
)
from proxy.table import Table

ENDPOINT = EndpointSpec("etl/10.0.0.1:80", 3, TcpAddress("10.0.0.1", 80), "10.0.0.1:80")
NAMED = EndpointSpec("etl/10.0.0.2:80", 4, TcpAddress("10.0.0.2", 80), "query:80")
FOUND = EndpointSpec("etl/7b1f", 5, TcpAddress("10.0.0.3", 80), "web-1", source="docker", instance="7b1f")
ROUTE = RouteSpec("r", MatchSpec(path_prefix="/"), SplitSpec((("etl", 1),)))
SNAPSHOT = Snapshot(
    generation=7,
    listeners=(ListenerSpec("edge", TcpAddress("127.0.0.1", 80)),),
    clusters=(ClusterSpec("etl", endpoints=(ENDPOINT, NAMED, FOUND), slot=1),),
    routes=(),
    drained_listeners=("spare",),
    drained_endpoints=("etl/query:80", "etl/10.0.0.9:80"),
)


def test_there_and_back():
    assert decode_snapshot(encode_snapshot(SNAPSHOT)) == SNAPSHOT


def test_what_has_not_changed_is_the_same_object():
    """So that a worker neither decodes nor compiles again what a name's new address left as it was."""
    moved = replace(SNAPSHOT.clusters[0], endpoints=(replace(ENDPOINT, address=TcpAddress("10.0.0.9", 80)),))
    before = replace(SNAPSHOT, clusters=(*SNAPSHOT.clusters, ClusterSpec("other", slot=2)), routes=(ROUTE,))
    after = replace(before, generation=8, clusters=(moved, before.clusters[1]))
    decoder = SnapshotDecoder()
    first = decoder.decode(encode_snapshot(before))
    second = decoder.decode(encode_snapshot(after))
    assert (first, second) == (before, after)
    assert second.clusters[1] is first.clusters[1] and second.clusters[0] is not first.clusters[0]
    assert second.routes is first.routes
    compiled = Table(first, {})
    assert Table(second, {}, compiled).routes is compiled.routes
    third = replace(after, routes=(replace(ROUTE, name="s"),))
    assert [route.name for route in Table(third, {}, compiled).routes.routes] == ["s"]


def other_version():
    return encode_snapshot(SNAPSHOT).replace(MARK, b"\0" * len(MARK))


@pytest.mark.parametrize("data", [b"", b"x", FORMAT, FORMAT + b"\0" * 9, other_version()])
def test_what_has_another_mark_is_never_read(data):
    with pytest.raises(OtherVersion):
        decode_snapshot(data)


def test_every_version_can_read_what_goes_on():
    expected = Legacy(
        {"etl/10.0.0.1:80": 3, "etl/10.0.0.2:80": 4, "etl/7b1f": 5},
        {"etl": 1},
        ["spare"],
        ["etl/query:80", "etl/10.0.0.9:80"],
        {"query:80": [("10.0.0.2", 80)]},
    )
    assert legacy_of(SNAPSHOT) == expected
    read = decode_legacy(other_version())
    assert known_addresses(read) == known_addresses(expected) == {"query:80": (NAMED.address,)}
    assert replace(read, addresses={}) == replace(expected, addresses={})
    with pytest.raises(OtherVersion):
        decode_legacy(b"whatever comes")


def test_a_legacy_with_more_or_less_is_read():
    text = b'{"clusters": {"etl": 1}, "later": 7}'
    assert decode_legacy(FORMAT + len(text).to_bytes(8, "big") + text) == Legacy(clusters={"etl": 1})


def test_the_mark_changes_with_the_version_and_with_any_field(monkeypatch):
    marks = {MARK}
    with monkeypatch.context() as changed:
        changed.setattr(snapshot_codec.proxy, "__version__", "0.0.0-other")
        marks.add(snapshot_codec._mark())

    @dataclass
    class Limits:
        more: int

    monkeypatch.setattr(snapshot_module, "Limits", Limits)
    marks.add(snapshot_codec._mark())
    assert len(marks) == 3
