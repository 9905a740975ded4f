"""Listening sockets: bound with their options, shared, kept and replaced."""

import errno
import gc
import os
import socket
import warnings

import pytest

from proxy.listening import BindFailed, ListeningSockets, bind_socket
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


@pytest.fixture
def sockets():
    made = ListeningSockets()
    yield made
    made.close()


def any_port(host="127.0.0.1"):
    return TcpAddress(host, 0)


def tuple_of(sock):
    return TcpAddress(*sock.getsockname()[:2])


def test_update_keeps_what_stays_and_closes_what_leaves(sockets):
    first, second = sockets.update({"a": any_port(), "b": any_port()})
    where_a, where_b = tuple_of(first), tuple_of(second)
    third, again = sockets.update({"c": any_port(), "a": any_port()})
    assert again is first and tuple_of(first) == where_a
    assert second.fileno() == -1 and third.fileno() >= 0
    bind_socket(where_b).close()


def test_update_is_all_or_nothing(sockets):
    (kept,) = sockets.update({"a": any_port()})
    free = tuple_of(kept)
    with bound(any_port()) as taken, pytest.raises(BindFailed) as caught:
        sockets.update({"b": any_port(), "c": tuple_of(taken)})
    assert caught.value.key == "c"
    assert str(caught.value) == "c: Address already in use"
    assert sockets.describe() == [("a", kept.fileno(), False)]
    assert sockets.update({"a": free}) == [kept]


def test_unix_socket_files_go_with_their_listener(sockets, tmp_path):
    first, second = (UnixAddress(str(tmp_path / name)) for name in "ab")
    sockets.update({"a": first, "b": second})
    sockets.update({"b": second})
    assert [each.name for each in tmp_path.iterdir()] == ["b"]
    sockets.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("old", "new"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")])
def test_a_listener_moves_to_an_overlapping_address(sockets, old, new):
    """A reload from 127.0.0.1:80 to 0.0.0.0:80, and back: both listen for a moment, then one does, and the port is as
    taken as ever."""
    (before,) = sockets.update({"old": TcpAddress(old, 0)})
    worker = before.dup()  # workers close theirs a moment later
    port = before.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        (after,) = sockets.update({"new": TcpAddress(new, port)})
        assert worker.accept()[0].close() is None
    worker.close()
    with socket.create_connection(("127.0.0.1", port)):
        after.accept()[0].close()
    assert after.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
    assert bind_error(TcpAddress(new, port))[0] == errno.EADDRINUSE


def test_an_overlap_with_what_stays_is_refused(sockets):
    (kept,) = sockets.update({"old": TcpAddress("0.0.0.0", 0)})
    port = kept.getsockname()[1]
    with pytest.raises(BindFailed):
        sockets.update({"old": TcpAddress("0.0.0.0", 0), "new": TcpAddress("127.0.0.1", port)})
    assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


@pytest.fixture
def inherited(tmp_path):
    """Sockets of a service manager, which keeps its own copies."""
    made = [bind_socket(any_port()), bind_socket(UnixAddress(str(tmp_path / "s")))]
    copies = [sock.dup() for sock in made]
    yield ListeningSockets(copies), copies
    for sock in [*made, *copies]:
        sock.close()


def test_inherited_sockets_are_used_and_stay_their_owners(inherited, tmp_path):
    """One that is not wanted any more is kept for later: nobody could bind its address again."""
    sockets, (tcp, unix) = inherited
    wanted = {"a": tuple_of(tcp), "b": UnixAddress(str(tmp_path / "s"))}
    assert sockets.update(wanted) == [tcp, unix]
    assert sockets.update({}) == []
    assert sorted(sockets.describe()) == sorted([("", tcp.fileno(), True), ("", unix.fileno(), True)])
    with bound(any_port()) as taken, pytest.raises(BindFailed):
        sockets.update(wanted | {"c": tuple_of(taken)})
    assert sockets.update(wanted) == [tcp, unix]
    sockets.close()
    assert tcp.fileno() == -1 and (tmp_path / "s").exists()


def test_restored_as_described(inherited, sockets):
    """What a re-exec hands over: which sockets, under which keys, and whose they are."""
    before, (tcp, _) = inherited
    (own,) = before.update({"own": any_port()})
    before.update({"own": any_port(), "a": tuple_of(tcp)})
    described = before.describe()
    assert len(described) == 3
    for key, fd, is_inherited in described:
        sockets.restore(key, socket.socket(fileno=os.dup(fd)), is_inherited=is_inherited)
    assert [(key, owned) for key, _, owned in sockets.describe()] == [(k, o) for k, _, o in described]
    assert [tuple_of(sock) for sock in sockets.update({"own": any_port()})] == [tuple_of(own)]
    sockets.close()
    before.close()
