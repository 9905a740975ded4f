"""What systemd is told, and the sockets it passes."""

import os
import socket

import pytest

from proxy.systemd import Notifier, take_listen_fds


@pytest.fixture
def manager(tmp_path):
    """A service manager's notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def test_states_reach_the_manager(manager):
    environ = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "2500000",
        "WATCHDOG_PID": "7",
        "A": "b",
    }
    notifier = Notifier(environ, 7)
    assert environ == {"A": "b"}
    assert notifier.watchdog_s == 2.5
    notifier.tell("READY=1")
    assert manager.recv(100) == b"READY=1"
    assert notifier.restored_environ() == {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "2500000",
    }


def test_abstract_sockets():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0homeport-test-{os.getpid()}")
        notifier = Notifier({"NOTIFY_SOCKET": f"@homeport-test-{os.getpid()}"}, 7)
        notifier.tell("STOPPING=1")
        assert sock.recv(100) == b"STOPPING=1"
        assert notifier.restored_environ()["NOTIFY_SOCKET"].startswith("@")


def test_nobody_asks_or_nobody_listens(tmp_path):
    Notifier({}, 7).tell("READY=1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 7).tell("READY=1")
    assert Notifier({}, 7).restored_environ() == {}


@pytest.mark.parametrize(
    "environ", [{"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "8"}, {"WATCHDOG_PID": "7"}]
)
def test_a_watchdog_of_somebody_else(environ):
    assert Notifier(dict(environ), 7).watchdog_s == 0


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "8"},
        {"LISTEN_FDS": "many", "LISTEN_PID": "7"},
        {"LISTEN_FDS": "-1", "LISTEN_PID": "7", "LISTEN_FDNAMES": "a"},
    ],
)
def test_no_sockets_for_us(environ):
    environ = dict(environ)
    assert take_listen_fds(environ, 7) == []
    assert environ == {}


def test_a_manager_that_is_slow_to_read_misses_no_state(manager):
    """Its queue is full of signs of life when the service becomes ready."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()}, 1)
    for _ in range(2000):
        notifier.beat()
    notifier.tell("READY=1")
    notifier.beat()
    heard = set()
    while "READY=1" not in heard:
        notifier.flush()
        heard.add(manager.recv(100).decode())
    assert heard == {"WATCHDOG=1", "READY=1"}
