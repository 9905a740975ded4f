"""Snapshots as bytes."""

from dataclasses import dataclass

import pytest

from proxy import snapshot as snapshot_module
from proxy import snapshot_codec
from proxy.model import TcpAddress
from proxy.snapshot import ClusterSpec, EndpointSpec, ListenerSpec, Snapshot
from proxy.snapshot_codec import (
    FORMAT,
    MARK,
    OtherVersion,
    Rows,
    decode_rows,
    decode_snapshot,
    encode_snapshot,
    rows_of,
)

ENDPOINT = EndpointSpec("etl/10.0.0.1:80", 3, TcpAddress("10.0.0.1", 80), "10.0.0.1:80")
SNAPSHOT = Snapshot(
    generation=7,
    listeners=(ListenerSpec("edge", TcpAddress("127.0.0.1", 80)),),
    clusters=(ClusterSpec("etl", endpoints=(ENDPOINT,), slot=1),),
    routes=(),
)


def test_there_and_back():
    assert decode_snapshot(encode_snapshot(SNAPSHOT)) == SNAPSHOT


def other_version():
    return encode_snapshot(SNAPSHOT).replace(MARK, b"\0" * len(MARK))


@pytest.mark.parametrize("data", [b"", b"x", FORMAT, FORMAT + b"\0" * 9, other_version()])
def test_what_has_another_mark_is_never_read(data):
    with pytest.raises(OtherVersion):
        decode_snapshot(data)


def test_every_version_can_read_whose_the_rows_are():
    expected = Rows({"etl/10.0.0.1:80": 3}, {"etl": 1})
    assert decode_rows(other_version()) == rows_of(SNAPSHOT) == expected
    with pytest.raises(OtherVersion):
        decode_rows(b"whatever comes")


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
