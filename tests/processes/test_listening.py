"""Listening sockets: bound with their options, shared, kept and replaced."""

import errno
import gc
import os
import socket
import warnings

import pytest

from proxy.listening import bind_socket
from proxy.model import TcpAddress, UnixAddress


def bound(address):
    return bind_socket(address)


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
