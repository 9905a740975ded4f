"""Control's end of the channel to the parent."""

import asyncio
import gc
import os

import pytest

from proxy.controlplane import parent_link
from proxy.controlplane.parent_link import ParentGone, ParentLink, socket_key
from proxy.errors import ConfigError
from proxy.listening import encode_address
from proxy.mailbox import channel_pair, unsealed
from proxy.model import TcpAddress, UnixAddress
from proxy.snapshot import ListenerSpec, Snapshot
from proxy.snapshot_codec import decode_snapshot

EDGE = ListenerSpec("edge", TcpAddress("127.0.0.1", 80))
LOCAL = ListenerSpec("local", UnixAddress("/run/s"))
SNAPSHOT = Snapshot(3, (EDGE, LOCAL), (), ())


@pytest.fixture
def ends():
    made = channel_pair()
    yield made
    for end in made:
        end.close()


def publish(ends, answer):
    """Publishes `SNAPSHOT`, to a parent that does `answer(channel, message)`."""
    ours, theirs = ends

    async def main():
        asyncio.get_running_loop().add_reader(theirs.fileno(), lambda: answer(theirs, theirs.receive()))
        return await ParentLink(ours).publish(SNAPSHOT, 4, b"file")

    return asyncio.run(main())


def _target(path):
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""  # closed meanwhile, by the collector


def memory_files():
    """Open descriptors of memory files."""
    with os.scandir("/proc/self/fd") as entries:
        return sum("memfd:homeport" in _target(entry.path) for entry in entries)


def test_accepted(ends):
    seen = []

    def answer(channel, message):
        seen.append((message.body, *map(unsealed, message.fds)))
        message.close()
        channel.send({"accepted": 2, "addresses": []})  # an answer that comes late, to somebody before
        channel.send({"accepted": 3, "addresses": [encode_address(TcpAddress("127.0.0.1", 81)), ["/run/s"]]})

    assert publish(ends, answer) == (TcpAddress("127.0.0.1", 81), LOCAL.bind)
    ((body, snapshot, source),) = seen
    assert (decode_snapshot(snapshot), source) == (SNAPSHOT, b"file")
    assert body == {
        "generation": 3,
        "workers": 4,
        "drain_timeout_s": SNAPSHOT.drain_timeout_s,
        "listeners": [
            {"name": "edge", "key": "127.0.0.1:80", "bind": ["127.0.0.1", 80]},
            {"name": "local", "key": "unix:/run/s", "bind": ["/run/s"]},
        ],
    }


def test_refused(ends):
    def answer(channel, message):
        message.close()
        channel.send({"refused": 3, "key": "unix:/run/s", "error": "unix:/run/s: Permission denied"})

    with pytest.raises(ConfigError) as caught:
        publish(ends, answer)
    assert "listeners[1].bind" in str(caught.value) and "Permission denied" in str(caught.value)


def test_a_parent_that_closed_its_end(ends):
    with pytest.raises(ParentGone):
        publish(ends, lambda channel, message: (message.close(), channel.close()))
    with pytest.raises(ParentGone):
        ends[0].close()
        asyncio.run(ParentLink(ends[0]).publish(SNAPSHOT, 1, b""))


def test_a_parent_that_says_nothing(ends, monkeypatch):
    monkeypatch.setattr(parent_link, "_ANSWER_S", 0.05)
    with pytest.raises(ParentGone):
        publish(ends, lambda channel, message: message.close())


def test_no_descriptor_is_left(ends):
    gc.collect()  # of other tests' scoreboards
    before = memory_files()
    test_accepted(ends)
    assert memory_files() == before


def test_keys():
    """A listener may change its name and keep its socket; one on any free port is its own."""
    assert socket_key(EDGE) == socket_key(ListenerSpec("other", EDGE.bind))
    free = TcpAddress("127.0.0.1", 0)
    assert socket_key(ListenerSpec("a", free)) != socket_key(ListenerSpec("b", free))
