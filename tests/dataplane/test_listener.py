"""How many clients a process takes, and the sockets it listens on."""

import errno
import gc
import os
import resource
import socket
import warnings

import pytest

from proxy.dataplane import listener
from proxy.dataplane.listener import KEEP_BACK, SPARE_DESCRIPTORS, ConnectionCap, bind_socket
from proxy.model import TcpAddress, UnixAddress
from proxy.snapshot import ListenerSpec


@pytest.fixture
def cap(monkeypatch):
    """A cap of a process with ten descriptors open at its start, and a way to set its limit."""
    monkeypatch.setattr(listener.os, "listdir", lambda path: ["0"] * 10)
    made = ConnectionCap()
    monkeypatch.undo()

    def current(configured, soft):
        monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, soft))
        return made.current(configured)

    return current


@pytest.mark.parametrize(
    ("configured", "free", "expected"),
    [
        (0, 1000, 500),
        (0, 1001, 501),
        (0, 2 * KEEP_BACK, KEEP_BACK),
        (0, 3 * KEEP_BACK, 2 * KEEP_BACK),
        (0, 4 * KEEP_BACK, 3 * KEEP_BACK),
        (0, 40 * KEEP_BACK, 30 * KEEP_BACK),
        (100, 1000, 100),
        (900, 1000, 500),
        (0, 2, 1),
        (0, 1, 1),
        (0, 0, 1),
        (5, -10, 1),
    ],
)
def test_cap(cap, configured, free, expected):
    """Descriptors are kept back for endpoints: half while they are few, then a quarter; never no client at all."""
    assert cap(configured, 10 + SPARE_DESCRIPTORS + free) == expected


@pytest.mark.parametrize(("configured", "expected"), [(0, 1 << 20), (7, 7)])
def test_cap_without_a_limit(cap, configured, expected):
    assert cap(configured, resource.RLIM_INFINITY) == expected


def bound(address):
    return bind_socket(ListenerSpec("l", address))


def bind_error(address):
    """The error of binding to `address`. The socket that could not be bound is left to the collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(OSError) as caught:
            bound(address)
        error = caught.value.errno, str(caught.value)
        del caught
        gc.collect()
    return error


def test_bind_tcp():
    with bound(TcpAddress("127.0.0.1", 0)) as sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert bind_error(TcpAddress(*sock.getsockname()))[0] == errno.EADDRINUSE


def test_bind_ipv6_alone():
    """An IPv6 listener takes no IPv4: the same port can have a listener of its own."""
    with bound(TcpAddress("::1", 0)) as sock:
        assert sock.family == socket.AF_INET6
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_bind_unix(tmp_path):
    """A socket file that nobody listens on is replaced, one in use is not."""
    path = str(tmp_path / "s")
    with bound(UnixAddress(path)):
        number, text = bind_error(UnixAddress(path))
        assert number == errno.EADDRINUSE
        assert "another process listens there" in text
    assert os.path.exists(path)
    with bound(UnixAddress(path)) as sock:
        assert sock.getsockname() == path


def test_bind_unix_over_a_file(tmp_path):
    """Nothing but a socket is ever removed."""
    path = tmp_path / "s"
    path.write_text("precious")
    try:
        bound(UnixAddress(str(path))).close()
    except OSError:
        pass
    assert path.is_file()
