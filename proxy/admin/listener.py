"""The admin API's listening socket: TCP, or a Unix socket that only its owner may open."""

import os
import socket

from proxy.errors import ConfigError
from proxy.listening import remove_stale_socket
from proxy.model import Address, TcpAddress, UnixAddress

BACKLOG = 128
"""Connections the kernel keeps until they are accepted."""


def bound_socket(bind: Address) -> socket.socket:
    """A listening, non-blocking socket on `bind`. Raises ConfigError when it cannot be had."""
    try:
        return _tcp_socket(bind) if isinstance(bind, TcpAddress) else _unix_socket(bind)
    except OSError as error:
        expected = f"an address that can be bound ({error.strerror or error})"
        raise ConfigError("admin.bind", str(bind), expected) from error


def remove_socket(bind: Address) -> None:
    """Remove the file of a Unix socket; nothing for TCP, or when it is gone."""
    if isinstance(bind, UnixAddress):
        try:
            os.unlink(bind.path)
        except OSError:
            pass  # somebody was tidier, or the directory is read-only by now


def _tcp_socket(bind: TcpAddress) -> socket.socket:
    is_v6 = ":" in bind.host
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            # As a listener on `[::]` takes IPv6 alone.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((bind.host, bind.port))
        return _listening(sock)
    except OSError:
        sock.close()
        raise


def _unix_socket(bind: UnixAddress) -> socket.socket:
    remove_stale_socket(bind.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before bind, so that the file never exists with a wider mode: Linux makes it with the socket's own
        # (unix_bind in net/unix/af_unix.c). A umask would do it too, but for all threads.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(bind.path)
        return _listening(sock)
    except OSError:
        sock.close()
        raise


def _listening(sock: socket.socket) -> socket.socket:
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock
