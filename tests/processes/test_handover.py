"""What one parent hands to the next."""

import json
from dataclasses import replace

import pytest

from proxy.handover import Handover, NoRoom, OldWorker, Publication, PublishedListener, UnknownHandover
from proxy.model import TcpAddress, UnixAddress

PUBLISHED = Publication(
    generation=7,
    workers=2,
    drain_timeout_s=30.0,
    listeners=(
        PublishedListener("edge", "[::]:80", TcpAddress("::", 80)),
        PublishedListener("side", "unix:/run/edge", UnixAddress("/run/edge")),
    ),
)
STATE = Handover(
    board=3,
    control=100,
    workers=(OldWorker(0, 101, 0.0), OldWorker(5, 102, 12.5)),
    posts=((4, 5), (6, 7)),
    locks=(8, 9),
    sockets=(("[::]:80", 10, True), ("unix:/run/edge", 11, False)),
    kept={"snapshot": 12, "last-good": 13},
    published=PUBLISHED,
    is_ready=True,
)


def test_there_and_back():
    assert Handover.decode(STATE.encode()) == STATE
    assert sorted(STATE.fds) == list(range(3, 14))


def test_what_a_newer_version_adds_is_left_alone():
    assert Handover.decode(json.dumps(json.loads(STATE.encode()) | {"more": 1}).encode()) == STATE


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"board": None},
        {"workers": [{"slot": 1}]},
        {"posts": [[1]]},
        {"kept": [1]},
        {"published": {}},
    ],
)
def test_what_cannot_be_read_is_said(change):
    data = json.dumps(json.loads(STATE.encode()) | change).encode()
    with pytest.raises(UnknownHandover, match="cannot be read"):
        Handover.decode(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff"])
def test_what_is_no_handover_at_all(data):
    with pytest.raises(UnknownHandover):
        Handover.decode(data)


def test_a_version_with_fewer_slots_has_no_room():
    """Workers are in slots 0 and 5, the latter until it is killed; two are to serve beside the first."""
    STATE.check_room(6)
    with pytest.raises(NoRoom, match="has slot 5, expected a slot below 5"):
        STATE.check_room(5)
    serving = replace(STATE, workers=(OldWorker(0, 101, 0.0), OldWorker(1, 102, 0.0)))
    serving.check_room(4)
    with pytest.raises(
        NoRoom, match="has 2 workers, beside which 2 new ones are to serve, expected at most 3"
    ):
        serving.check_room(3)
    replace(STATE, workers=(), published=None).check_room(1)
