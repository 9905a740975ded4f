"""Snapshots as bytes."""

from dataclasses import dataclass

import pytest

from proxy import snapshot as snapshot_module
from proxy import snapshot_codec
from proxy.model import TcpAddress
from proxy.snapshot import ListenerSpec, Snapshot
from proxy.snapshot_codec import MARK, OtherVersion, decode_snapshot, encode_snapshot

SNAPSHOT = Snapshot(7, (ListenerSpec("edge", TcpAddress("127.0.0.1", 80)),), (), ())


def test_there_and_back():
    assert decode_snapshot(encode_snapshot(SNAPSHOT)) == SNAPSHOT


@pytest.mark.parametrize("data", [b"", b"x", MARK[:-1], b"\0" * len(MARK) + encode_snapshot(SNAPSHOT)])
def test_what_has_another_mark_is_never_read(data):
    with pytest.raises(OtherVersion):
        decode_snapshot(data)


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
