"""What a client gets of an endpoint's bytes, and what is left of both connections, without either."""

from types import SimpleNamespace

import pytest

from proxy.dataplane.reply import MAX_INTERIM, Reply
from proxy.dataplane.request_head import parse_request
from proxy.errors import Reason, UpstreamError
from proxy.policy.route import CompiledRoute
from proxy.snapshot import Limits, MatchSpec, RouteSpec, SplitSpec

LIMITS = Limits()
ROUTE = CompiledRoute(RouteSpec("r", MatchSpec(), SplitSpec((("c", 1),))), 0)
DATE = b"\r\nDate: now"
HEAD = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\n"


class Client:
    """A client's connection that only remembers."""

    def __init__(self):
        self.sent = []
        self.ended = None
        self.wire = SimpleNamespace(write=self.sent.append)

    def on_exchange_end(self, now):
        self.ended = "goes on"

    def on_last_exchange_end(self, *, unread, ends_answer):
        self.ended = (unread, ends_answer)

    def on_exchange_cut(self):
        self.ended = "cut"


def make(line=b"GET / HTTP/1.1", fields=b"\r\nHost: h"):
    client = Client()
    return Reply(parse_request(line + fields + b"\r\n\r\n", 100, frozenset({"websocket"})), client), client


def begin(reply, data):
    head = reply.read_head(data, LIMITS, now=1.0)
    reply.begin(head, ROUTE, DATE, LIMITS)


def test_whole():
    """Head and body in one piece leave in one piece."""
    reply, client = make()
    begin(reply, HEAD + b"hello")
    (sent,) = client.sent
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n") and sent.endswith(b"\r\n\r\nhello")
    assert sent.count(b"Content-Length: 5\r\n") == 1
    assert (reply.is_complete, reply.upstream_keep_alive, reply.rest) == (True, True, b"")
    assert (reply.status, reply.first_byte_at, reply.sent_bytes) == (200, 1.0, len(sent))
    reply.end(reset=False, is_receiving=False, now=1.0)
    assert client.ended == "goes on"


@pytest.mark.parametrize("cut", range(1, len(HEAD) + 5))
def test_in_two_pieces(cut):
    """Whatever the cut, the client gets the same, and nothing is kept that was sent."""
    whole, expected = make()
    begin(whole, HEAD + b"hello")
    reply, client = make()
    data = HEAD + b"hello"
    if cut < len(HEAD):
        assert reply.read_head(data[:cut], LIMITS, now=1.0) is None
        assert reply.is_head_cut
        begin(reply, data[cut:])
    else:
        begin(reply, data[:cut])
        assert (reply.is_complete, reply.rest) == (False, b"")
        reply.feed(data[cut:])
    assert b"".join(client.sent) == b"".join(expected.sent)
    assert (reply.is_complete, reply.upstream_keep_alive, reply.rest) == (True, True, b"")


@pytest.mark.parametrize(
    ("line", "status", "fields", "rest", "keeps", "extra"),
    [
        (b"GET / HTTP/1.1", b"200 OK", b"\r\nContent-Length: 0", b"", True, b""),
        (b"GET / HTTP/1.1", b"200 OK", b"\r\nContent-Length: 2", b"okHTTP", True, b"HTTP"),
        (b"HEAD / HTTP/1.1", b"200 OK", b"\r\nContent-Length: 2", b"", True, b""),
        (b"HEAD / HTTP/1.1", b"200 OK", b"\r\nContent-Length: 2", b"ok", True, b"ok"),
        (b"GET / HTTP/1.1", b"204 No Content", b"", b"", True, b""),
        (b"GET / HTTP/1.1", b"204 No Content", b"\r\nContent-Length: 2", b"ok", False, b"ok"),
        (b"GET / HTTP/1.1", b"304 Not Modified", b"\r\nContent-Length: 2", b"", False, b""),
        (b"GET / HTTP/1.1", b"200 OK", b"\r\nContent-Length: 2\r\nConnection: close", b"ok", False, b""),
    ],
)
def test_connection_to_the_endpoint(line, status, fields, rest, keeps, extra):
    """It is used again only when nothing can come on it that belongs to nobody; what came already is told apart."""
    reply, _ = make(line)
    begin(reply, b"HTTP/1.1 " + status + fields + b"\r\n\r\n" + rest)
    assert (reply.is_complete, reply.upstream_keep_alive, reply.rest) == (True, keeps, extra)


def test_interim():
    """Passed on to HTTP/1.1 alone; 100 is remembered, and endless ones are no reply."""
    for minor, passed in ((b"1", [b"HTTP/1.1 100 Continue\r\n\r\n"]), (b"0", [])):
        reply, client = make(b"GET / HTTP/1." + minor)
        assert reply.read_head(b"HTTP/1.1 100 Continue\r\n\r\n", LIMITS, now=1.0) is None
        assert ([sent for sent in client.sent if sent], reply.has_continued) == (passed, True)
    reply, _ = make()
    with pytest.raises(UpstreamError) as caught:
        reply.read_head(b"HTTP/1.1 102 Processing\r\n\r\n" * (MAX_INTERIM + 1), LIMITS, now=1.0)
    assert caught.value.reason is Reason.BAD_REPLY


def test_expect_without_continue():
    """An endpoint that has not said 100 may wait for the body: its connection is not used again."""
    fields = b"\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue"
    for before, keeps in ((b"", False), (b"HTTP/1.1 100 Continue\r\n\r\n", True)):
        reply, _ = make(b"POST / HTTP/1.1", fields)
        begin(reply, before + HEAD + b"hello")
        assert reply.upstream_keep_alive is keeps


def test_ends_by_close():
    """HTTP/1.0 learns the end of such a reply from the end of the connection."""
    reply, client = make(b"GET / HTTP/1.0", b"\r\nConnection: keep-alive")
    begin(reply, b"HTTP/1.1 200 OK\r\n\r\nhel")
    reply.feed(b"lo")
    assert not reply.is_complete and reply.ends_by_close and not reply.keep_alive
    reply.on_eof()
    assert reply.is_complete and not reply.upstream_keep_alive
    reply.end(reset=False, is_receiving=False, now=1.0)
    assert client.ended == (True, True)


def test_malformed_body():
    """The client has seen how it began, and that it did not end."""
    reply, client = make()
    with pytest.raises(UpstreamError) as caught:
        begin(reply, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert caught.value.reason is Reason.BAD_REPLY
    assert client.sent[0].startswith(b"HTTP/1.1 200 OK\r\n")
    reply.keep_alive = False
    reply.end(reset=False, is_receiving=False, now=1.0)
    assert client.ended == (True, True)


def test_cut_body():
    reply, _ = make()
    begin(reply, HEAD + b"hel")
    with pytest.raises(UpstreamError) as caught:
        reply.on_eof()
    assert caught.value.reason is Reason.REPLY_CUT


def test_switch():
    """A 101 must be to the request's own Upgrade; what follows it goes out with it."""
    fields = b"\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket"
    reply, client = make(fields=fields)
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\nhi"
    reply.switch(reply.read_head(answer % b"WebSocket", LIMITS, now=1.0))
    assert client.sent[0].endswith(b"\r\n\r\nhi")
    assert (reply.status, reply.keep_alive, reply.rest) == (101, False, b"")
    reply, client = make(fields=fields)
    with pytest.raises(UpstreamError):
        reply.switch(reply.read_head(answer % b"chat", LIMITS, now=1.0))
    assert client.sent == []


def test_respond():
    reply, client = make()
    reply.respond(404, b"none", [(b"X-A", b"b")], date_line=DATE)
    assert client.sent == [b"HTTP/1.1 404 Not Found\r\nX-A: b\r\nContent-Length: 4\r\nDate: now\r\n\r\nnone"]
    assert (reply.status, reply.sent_bytes) == (404, len(client.sent[0]))
    reply.end(reset=True, is_receiving=False, now=1.0)
    assert client.ended == "cut"
