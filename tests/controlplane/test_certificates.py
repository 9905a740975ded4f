"""The watcher of certificate files, on a clock that the tests move."""

import asyncio
import logging
import os
import time

import pytest
from support.certificates import Authority

from proxy.clock import SystemClock
from proxy.config.load import load_bytes
from proxy.config.material import BadMaterial
from proxy.controlplane.certificates import LOOK_S, CertificateWatcher

DAY_S = 86400.0
AUTHORITY = Authority()
TEXT = b"""
listeners: [{name: edge, bind: "127.0.0.1:0", tls: {certificates: [{cert: tls/cert, key: tls/key}]}}]
clusters: [{name: etl, endpoints: [{address: "127.0.0.1:1"}], tls: {ca: ca}}]
routes: [{cluster: etl}]
"""


class Clock(SystemClock):
    """Wall time that is ahead by as much as the test says; a sleep lasts until the test ends it."""

    def __init__(self):
        self.ahead_s = 0.0
        self.slept = []
        self.wake = asyncio.Event()

    def wall(self):
        return time.time() + self.ahead_s

    async def sleep(self, seconds):
        self.slept.append(seconds)
        await self.wake.wait()
        self.wake.clear()


class World:
    def __init__(self, folder):
        self.folder = folder
        (folder / "first").mkdir()
        (folder / "tls").symlink_to("first")
        (folder / "ca").write_bytes(AUTHORITY.pem)
        self.write(AUTHORITY.issue("one.example"))
        self.changes = 0
        self.clock = Clock()
        config = load_bytes(TEXT, "f", folder, {})
        self.watcher = CertificateWatcher(config, self.on_change, clock=self.clock)

    def on_change(self):
        self.changes += 1

    def write(self, pair, directory="first"):
        for name, data in zip(("cert", "key"), pair, strict=True):
            path = self.folder / directory / name
            path.write_bytes(data)
            path.chmod(0o600)

    def look(self):
        asyncio.run(self.watcher.look())

    @property
    def name(self):
        return self.watcher.material.listeners["edge"].certificates[0].names[0]


@pytest.fixture
def world(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    return World(tmp_path)


def test_what_is_there_at_the_start(world):
    world.look()
    assert (world.name, world.changes, world.watcher.failing) == ("one.example", 0, 0)
    assert world.watcher.material.clusters["etl"].ca == AUTHORITY.pem


def test_what_is_told_of_them(world):
    (listener, cluster) = world.watcher.documents()
    left_s = listener.pop("expires_in_s")
    assert listener == {"kind": "listener", "name": "edge", "problem": None} and left_s > 0
    assert cluster == {"kind": "cluster", "name": "etl", "problem": None, "expires_in_s": None}
    (world.folder / "first" / "cert").write_text("garbage")
    world.clock.ahead_s = left_s + 60
    world.look()
    listener, _ = world.watcher.documents()
    assert "listeners[0].tls.certificates[0].cert" in listener["problem"]
    assert -90 < listener["expires_in_s"] < -30


def test_files_written_over(world, caplog):
    world.write(AUTHORITY.issue("two.example"))
    world.look()
    world.look()
    assert (world.name, world.changes, world.watcher.reloads_total) == ("two.example", 1, 1)
    assert "listener edge: certificates were replaced: two.example" in caplog.text


def test_files_renamed_into_place(world):
    (world.folder / "new").mkdir()
    world.write(AUTHORITY.issue("two.example"), "new")
    for name in ("cert", "key"):
        os.replace(world.folder / "new" / name, world.folder / "first" / name)
    world.look()
    assert world.name == "two.example"


def test_a_directory_swapped_by_a_link(world):
    """As Kubernetes replaces a mounted secret; size and times of the files may be the same."""
    (world.folder / "second").mkdir()
    world.write(AUTHORITY.issue("two.example"), "second")
    (world.folder / "next").symlink_to("second")
    os.replace(world.folder / "next", world.folder / "tls")
    world.look()
    assert world.name == "two.example"


def test_a_pair_between_two_writes(world, caplog):
    cert, key = AUTHORITY.issue("two.example")
    (world.folder / "first" / "cert").write_bytes(cert)
    world.look()
    assert (world.name, world.changes, world.watcher.failing) == ("one.example", 0, 1)
    assert "the last good certificates stay in use: listeners[0].tls.certificates[0].key" in caplog.text
    (world.folder / "first" / "key").write_bytes(key)
    world.look()
    assert (world.name, world.changes, world.watcher.failing) == ("two.example", 1, 0)


def test_what_the_thread_sees_counts_at_once(world, monkeypatch):
    """The loop runs beside the thread that reads: it must not see a fault gone before the reload is counted."""
    cert, key = AUTHORITY.issue("two.example")
    (world.folder / "first" / "cert").write_bytes(cert)
    world.look()
    (world.folder / "first" / "key").write_bytes(key)
    meanwhile = []

    async def to_thread(read):
        found = read()
        meanwhile.append((world.name, world.watcher.failing, world.watcher.reloads_total))
        return found

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    world.look()
    assert meanwhile == [("one.example", 1, 0)]
    assert (world.name, world.watcher.failing, world.watcher.reloads_total) == ("two.example", 0, 1)


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (lambda folder: (folder / "first" / "key").unlink(), "cannot be read"),
        (lambda folder: (folder / "first" / "cert").write_bytes(b""), "holds no certificate"),
        (lambda folder: (folder / "tls").unlink(), "cannot be read"),
    ],
)
def test_the_last_good_ones_stay(world, caplog, spoil, problem):
    spoil(world.folder)
    for _ in range(3):
        world.look()
    assert (world.name, world.changes, world.watcher.failing) == ("one.example", 0, 1)
    assert problem in caplog.text and caplog.text.count("stay in use") == 1


def test_an_expired_one_is_not_taken(world):
    world.write(AUTHORITY.issue("two.example", days=(-9, -1)))
    world.look()
    assert (world.name, world.watcher.failing) == ("one.example", 1)


def test_the_old_files_back_again_are_no_change(world):
    old = [(world.folder / "first" / name).read_bytes() for name in ("cert", "key")]
    world.write((b"", b""))
    world.look()
    world.write(old)
    world.look()
    assert (world.changes, world.watcher.failing) == (0, 0)


def test_one_that_becomes_valid_is_taken_then(world):
    world.write(AUTHORITY.issue("two.example", days=(1, 9)))
    world.look()
    assert world.name == "one.example"
    world.clock.ahead_s = 2 * DAY_S
    world.look()
    assert (world.name, world.changes) == ("two.example", 1)


def test_authorities_are_watched_too(world):
    (world.folder / "ca").write_bytes(AUTHORITY.pem + Authority("second").pem)
    world.look()
    assert world.changes == 1
    assert world.watcher.material.clusters["etl"].ca.startswith(AUTHORITY.pem)


def test_an_end_is_told_in_time_and_once(world, caplog):
    for days, lines in ((1, 0), (17, 1), (17.1, 1), (28, 2), (29.5, 3), (31, 4), (32, 4)):
        world.clock.ahead_s = days * DAY_S
        world.look()
        assert caplog.text.count("certificate one.example") == lines, days
    assert "certificate one.example ended, and is still served, on " in caplog.text
    assert (world.name, world.changes) == ("one.example", 0)


def test_a_key_that_everybody_can_read_is_told(world, caplog):
    path = world.folder / "first" / "key"
    path.chmod(0o644)
    config = load_bytes(TEXT, "f", world.folder, {})
    CertificateWatcher(config, world.on_change, clock=world.clock)
    assert f"every user of this machine can read the key {world.folder}/tls/key" in caplog.text


def test_wrong_files_at_the_start(world):
    config = load_bytes(TEXT, "f", world.folder, {})
    world.write((b"", b""))
    with pytest.raises(
        BadMaterial, match=r"^listeners\[0\]\.tls\.certificates\[0\]\.key: holds no private key"
    ):
        CertificateWatcher(config, world.on_change, clock=world.clock)


def test_it_looks_by_itself(world):
    asyncio.run(looks_by_itself(world))


async def looks_by_itself(world):
    clock = world.clock
    world.watcher.start()
    world.write(AUTHORITY.issue("two.example"))
    clock.wake.set()
    for _ in range(2000):
        if world.changes:
            break
        await asyncio.sleep(0.005)
    assert (world.changes, clock.slept[0]) == (1, LOOK_S)
    await world.watcher.stop()
    await world.watcher.stop()
