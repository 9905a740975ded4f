"""Small writes of one turn go out together and in order; what is large does not wait, what is closed sends nothing."""

import socket
from types import SimpleNamespace

import pytest

from proxy.dataplane.downstream import Downstream
from proxy.dataplane.forwarding import TrustedProxies
from proxy.dataplane.outbox import Outbox
from proxy.dataplane.upstream import Upstream
from proxy.dataplane.wire import DIRECT_BYTES, Wire

LARGE = b"L" * DIRECT_BYTES


class Turns:
    """An event loop's `call_soon`, whose turns end when the test says so."""

    def __init__(self):
        self.calls = []

    def call_soon(self, call):
        self.calls.append(call)

    def end(self):
        """End the turn; what is asked for meanwhile is for the next one."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Transport:
    """Records what is sent over it."""

    def __init__(self, sock, *, can_half_close=True):
        self.sent = []
        self.can_half_close = can_half_close
        self._sock = sock

    def get_extra_info(self, name):
        assert name == "socket"
        return self._sock

    def set_write_buffer_limits(self, high):
        pass

    def get_write_buffer_size(self):
        return 0

    def can_write_eof(self):
        return self.can_half_close

    def write(self, data):
        self.sent.append(data)

    def write_eof(self):
        self.sent.append("eof")

    def pause_reading(self):
        self.sent.append("paused")

    def resume_reading(self):
        self.sent.append("reading")

    def is_closing(self):
        return False

    def close(self):
        self.sent.append("closed")

    def abort(self):
        self.sent.append("aborted")


@pytest.fixture
def turns():
    return Turns()


@pytest.fixture
def outbox(turns):
    return Outbox(turns)


def downstream(outbox):
    plane = SimpleNamespace(
        table=SimpleNamespace(timeouts=SimpleNamespace(header_s=0.0)),
        monotonic=lambda: 0.0,
        outbox=outbox,
        **{name: {} for name in ("active", "idle", "blocked", "unwatched")},
    )
    listener = SimpleNamespace(
        spec=SimpleNamespace(proxy_protocol=False, tls=None), trusted=TrustedProxies([])
    )
    return Downstream(plane, listener, "192.0.2.1", b"127.0.0.1:80")


def upstream(outbox):
    pool = SimpleNamespace(outbox=outbox, security=None, is_pressed=False)
    pool.add = pool.remove = pool.discard = lambda connection: None
    return Upstream(pool, -1)


@pytest.fixture(params=[downstream, upstream])
def connection(request, outbox):
    """Either side's connection, and what is sent over it."""
    made = request.param(outbox)
    with socket.socket() as sock:
        transport = Transport(sock)
        made.connection_made(transport)
        yield made, transport.sent


def test_outbox(turns, outbox):
    """One look at the end of a turn, in the order in which they were added; an added one waits for its turn's end."""
    order = []

    def add(name, then=None):
        def flush():
            order.append(name)
            if then is not None:
                add(then)

        outbox.add(SimpleNamespace(flush=flush))

    for name in "abc":
        add(name, then="d" if name == "a" else None)
    assert (len(turns.calls), order) == (1, [])
    turns.end()
    assert (len(turns.calls), order) == (1, ["a", "b", "c"])
    turns.end()
    assert (turns.calls, order) == ([], ["a", "b", "c", "d"])


def test_small_writes_go_together(turns, connection):
    """In order, in one piece, at the end of the turn; the next turn is another piece."""
    one, sent = connection
    for piece in (b"a", b"", b"b", b"c"):
        one.wire.write(piece)
    assert (sent, one.wire.buffered_bytes) == ([], 3)
    turns.end()
    assert (sent, one.wire.buffered_bytes) == ([b"abc"], 0)
    one.wire.write(b"")
    assert turns.calls == []
    one.wire.write(b"d")
    turns.end()
    assert sent == [b"abc", b"d"]


def test_large_write_flushes_first(turns, connection):
    """What is large goes at once, behind what was written before it."""
    one, sent = connection
    one.wire.write(LARGE)
    one.wire.write(b"a")
    one.wire.write(b"b")
    one.wire.write(LARGE)
    one.wire.write(b"c")
    assert sent == [LARGE, b"ab", LARGE]
    turns.end()
    assert sent == [LARGE, b"ab", LARGE, b"c"]


def test_below_the_size_it_waits(turns, connection):
    one, sent = connection
    one.wire.write(LARGE[1:])
    assert sent == []
    turns.end()
    assert sent == [LARGE[1:]]


def test_end_flushes_first(turns, connection):
    """FIN comes behind what was written."""
    one, sent = connection
    one.wire.write(b"a")
    one.wire.write_eof()
    turns.end()
    assert sent == [b"a", "eof"]


def test_no_half_close(turns, outbox):
    """TLS cannot end one direction alone: what was written goes out, and the owner is told."""
    with socket.socket() as sock:
        wire = Wire(outbox)
        transport = Transport(sock, can_half_close=False)
        wire.open(transport)
        wire.write(b"a")
        assert (wire.write_eof(), wire.has_sent_eof, transport.sent) == (False, False, [b"a"])
        wire.write(b"b")
        turns.end()
        assert transport.sent == [b"a", b"b"]


@pytest.mark.parametrize(
    ("can_half_close", "ends_answer", "ended"),
    [(True, False, ["eof"]), (True, True, ["eof"]), (False, False, []), (False, True, ["closed"])],
)
def test_lingering(outbox, can_half_close, ends_answer, ended):
    """A client that may still send is lingered for; over TLS only while it can see where its answer ends."""
    with socket.socket() as sock:
        client = downstream(outbox)
        transport = Transport(sock, can_half_close=can_half_close)
        client.connection_made(transport)
        client.wire.write(b"answer")
        client.on_last_exchange_end(unread=True, ends_answer=ends_answer)
        assert transport.sent == [b"answer", *ended]


def test_wire_that_is_not_open(turns, outbox):
    """Nothing happens, before as after."""
    wire = Wire(outbox)
    wire.write(b"a")
    wire.pause()
    wire.resume()
    wire.abort()
    assert (wire.write_eof(), wire.buffered_bytes, turns.calls) == (True, 0, [])


def test_nothing_after_close(turns, connection):
    """A closed connection sends nothing; a client's is first given what was written."""
    one, sent = connection
    one.wire.write(b"a")
    one.close()
    ended = [b"a", "closed"] if isinstance(one, Downstream) else ["aborted"]
    assert sent == ended
    one.wire.write(b"b")
    one.wire.write(LARGE)
    one.wire.write_eof()
    turns.end()
    assert (sent, one.wire.buffered_bytes) == (ended, 0)


def test_nothing_after_a_loss(turns, outbox, connection):
    """What waits when the connection is lost is dropped; others in the same turn are sent."""
    one, sent = connection
    if isinstance(one, Downstream):
        one.listener.on_closed = lambda closed: None
    other = upstream(outbox)
    with socket.socket() as sock:
        transport = Transport(sock)
        other.connection_made(transport)
        one.wire.write(b"a")
        other.wire.write(b"b")
        one.connection_lost(None)
        turns.end()
    assert (sent, transport.sent) == ([], [b"b"])


def test_rest(turns, outbox):
    """A rest ends with the turn, unless reading was paused meanwhile or the connection is no more."""
    with socket.socket() as sock:
        transport = Transport(sock)
        wire = Wire(outbox)
        wire.open(transport)
        wire.rest(turns)
        assert transport.sent == ["paused"]
        turns.end()
        assert transport.sent == ["paused", "reading"]
        wire.rest(turns)
        wire.pause()
        turns.end()
        assert "reading" not in transport.sent[2:]
        wire.resume()
        wire.rest(turns)
        wire.drop()
        transport.sent.clear()
        turns.end()
        assert transport.sent == []
