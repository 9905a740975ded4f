"""How many clients a process takes."""

import resource

import pytest

from proxy.dataplane import listener
from proxy.dataplane.listener import KEEP_BACK, NO_CAP, SPARE_DESCRIPTORS, ConnectionCap


@pytest.fixture
def cap(monkeypatch):
    """A cap of a process with ten descriptors open at its start, and a way to set its limit."""
    monkeypatch.setattr(listener.os, "listdir", lambda path: ["0"] * 10)
    made = ConnectionCap()
    monkeypatch.undo()

    def current(soft):
        monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, soft))
        return made.current

    return current


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (1000, 500),
        (1001, 501),
        (2 * KEEP_BACK, KEEP_BACK),
        (3 * KEEP_BACK, 2 * KEEP_BACK),
        (4 * KEEP_BACK, 3 * KEEP_BACK),
        (40 * KEEP_BACK, 30 * KEEP_BACK),
        (2, 1),
        (1, 1),
        (0, 1),
        (-10, 1),
    ],
)
def test_cap(cap, free, expected):
    """Descriptors are kept back for endpoints: half while they are few, then a quarter; never no client at all."""
    assert cap(10 + SPARE_DESCRIPTORS + free) == expected


def test_cap_without_a_limit(cap):
    assert cap(resource.RLIM_INFINITY) == NO_CAP
