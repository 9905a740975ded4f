"""Spoiled messages against the running daemon, both ways: it answers or cuts, never hangs, never mixes replies up."""

import itertools
import json
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import settings as configs
from support.client import Client
from support.fuzz import LAXER, Seen, cut, h11_reply, mutated, opinion, replies, requests
from support.fuzz_origin import NumberingOrigin
from support.wait import wait_for
from support.wire import Cut, framing, parse_status, read_reply

LIMIT_S = 8.0
"""Longest that one example may take; no timeout of the daemon is as short."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def numbering():
    origin = NumberingOrigin()
    yield origin
    origin.stop()
    assert origin.faults == []


@pytest.fixture(scope="module")
def fuzzed(numbering, module_daemon):
    """A daemon in front of that origin; at the end it must stop as usual, with nothing in its error output."""
    daemon = module_daemon(configs.simple(numbering.address))
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def bystander(fuzzed):
    """A well-behaved client whose connection stays open all the time."""
    with Client(fuzzed.address()) as client:
        yield client


def assert_own_reply(client, origin):
    """A plain request gets the reply that the origin made for it."""
    path = f"/control-{next(_numbers)}"
    reply = client.get(path)
    assert reply.status == 200, reply.head
    serial = int(reply.fields.one("x-serial"))
    assert origin.seen()[serial - 1].target == path
    assert reply.body == origin.body_for(serial)


def assert_others_unharmed(daemon, bystander, origin):
    """Those who ask next, on a fresh connection and on an old one, get their own replies."""
    with Client(daemon.address()) as fresh:
        assert_own_reply(fresh, origin)
    assert_own_reply(bystander, origin)


def send_pieces(client, pieces):
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces:
        client.send(piece)


def read_replies(client, origin):
    """Numbers of the origin's replies up to the end of the connection; only the last may be our own refusal."""
    serials = []
    stream = client.stream
    while True:
        try:
            reply = parse_status(stream.until(b"\r\n\r\n"))
        except Cut as end:
            assert end.received == b"", "a reply was cut in its head"
            return serials
        if reply.status < 200:
            continue
        if "x-serial" not in reply.fields:
            assert reply.status >= 400
            assert "close" in reply.fields.tokens("connection")
            body = stream.rest()
            assert body == b"" or len(body) == framing(reply.fields)
            assert body == b"" or json.loads(body)["status"] == reply.status
            return serials
        serial = int(reply.fields.one("x-serial"))
        serials.append(serial)
        if origin.seen()[serial - 1].method != "HEAD":
            length = framing(reply.fields)
            assert length is not None
            assert stream.exactly(length) == origin.body_for(serial)


def settled(origin, start):
    """The requests from number `start` on, once each of them was read to its end or given up."""
    return wait_for(
        lambda: (
            all(one.complete or one.sock.fileno() < 0 for one in origin.seen()[start:])
            and [origin.seen()[start:]]
        ),
        "the origin to be done with all requests",
    )[0]


@settings(max_examples=250)
@given(cut(st.lists(mutated(requests()), min_size=1, max_size=2).map(b"".join)))
def test_requests(fuzzed, numbering, bystander, pieces):
    """Whatever a client sends: what reached the origin whole was answered to this client, in order, once, and
    nothing else reached it whole."""
    began = time.monotonic()
    start = len(numbering.seen())
    with Client(fuzzed.address()) as client:
        send_pieces(client, pieces)
        client.half_close()
        serials = read_replies(client, numbering)
    arrived = settled(numbering, start)
    assert serials == [start + 1 + at for at, one in enumerate(arrived) if one.complete]
    assert sum(not one.complete for one in arrived) <= 1
    assert_others_unharmed(fuzzed, bystander, numbering)
    assert time.monotonic() - began < LIMIT_S


@settings(max_examples=250)
@given(cut(mutated(replies())), st.sampled_from(["GET", "HEAD", "POST"]))
def test_replies(fuzzed, numbering, bystander, pieces, method):
    """Whatever an endpoint sends: the client gets the same reply as h11 reads, or a 502, or sees that it was cut;
    nobody else gets any of it."""
    began = time.monotonic()
    path = f"/spoiled-{next(_numbers)}"
    data = b"".join(pieces)
    expected = opinion(lambda: h11_reply(data, method.encode()))
    is_framed = isinstance(expected, Seen) and expected.is_complete and expected.framing != "eof"
    if not is_framed or expected.rest:
        # What follows a reply must be there with its end: later it could not be told from the next reply.
        pieces = [data]
    numbering.script(path, pieces, stay=is_framed)
    with Client(fuzzed.address()) as client:
        client.send(f"{method} {path} HTTP/1.1\r\nHost: t.test\r\n\r\n".encode())
        try:
            reply = read_reply(client.stream, method)
        except Cut:
            reply = None
        if reply is not None and reply.fields.all("content-type") == ["application/json"]:
            assert reply.status == 502
        elif reply is not None and not (isinstance(expected, str) and expected in LAXER):
            assert isinstance(expected, Seen), (expected, reply)
            assert expected.is_complete
            assert (reply.status, reply.body) == (expected.first[1], expected.payload)
        if reply is not None and "close" not in reply.fields.tokens("connection"):
            assert_own_reply(client, numbering)
    assert_others_unharmed(fuzzed, bystander, numbering)
    assert time.monotonic() - began < LIMIT_S


def test_end_in_second_body(fuzzed, numbering):
    """A client that half-closes in the middle of a pipelined request's body is gone, as it is in the first's."""
    start = len(numbering.seen())
    with Client(fuzzed.address()) as client:
        client.sock.settimeout(2.0)
        client.send(
            b"GET / HTTP/1.1\r\nHost: t.test\r\n\r\nPOST / HTTP/1.1\r\nHost: t.test\r\nContent-Length: 5\r\n\r\nhel"
        )
        client.half_close()
        try:
            assert read_replies(client, numbering) == [start + 1]
        except TimeoutError:
            pytest.fail("the connection stays")
