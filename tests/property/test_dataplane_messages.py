"""Spoiled messages in the pure modules: only their own errors, the same verdict as h11's, and output that is valid.

Where Homeport takes a message, h11 must take it too and read the same; Homeport may be stricter."""

import re

import pytest
from hypothesis import given, settings
from support.fuzz import (
    LAXER,
    Seen,
    chunked_bodies,
    cut,
    h11_reply,
    h11_request,
    mutated,
    opinion,
    replies,
    requests,
)

from proxy.dataplane.compose import compose_interim, compose_reply, compose_request, frame_reply
from proxy.dataplane.forwarding import ClientIdentity, TrustedProxies
from proxy.dataplane.framing import BadBody, ChunkedBody, LengthBody
from proxy.dataplane.headers import HEAD_END
from proxy.dataplane.reply_head import parse_reply
from proxy.dataplane.request_head import check_partial_request, parse_request
from proxy.errors import DownstreamError, UpstreamError
from proxy.policy.route import CompiledRoute
from proxy.snapshot import MatchSpec, RouteSpec, SplitSpec

ROUTE = CompiledRoute(RouteSpec("r", MatchSpec(), SplitSpec((("c", 1),))), 0)
UPGRADES = frozenset({"websocket"})
IDENTITIES = [
    ClientIdentity("192.0.2.1", TrustedProxies(trusted), b"http") for trusted in ([], ["0.0.0.0/0"])
]
TRAILER_BYTES = 1000
OURS = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via", b"x-request-id"}


def take_head(data, parse):
    """The head that begins `data`, and what follows it; `None` when it is incomplete."""
    end = data.find(HEAD_END) + len(HEAD_END)
    if end < len(HEAD_END):
        return None
    return parse(data[:end]), data[end:]


def take_request(data):
    return take_head(data, lambda raw: parse_request(raw, 100, UPGRADES))


def request_body(head):
    if head.chunked:
        return ChunkedBody(keep_chunks=False, trailer_bytes=TRAILER_BYTES)
    return LengthBody(max(head.length, 0))


def our_request(data):
    """The first request in `data` as we read it; `None` when we have no opinion: refused, or incomplete."""
    try:
        taken = take_request(data)
        if taken is None:
            return None
        head, rest = taken
        body = request_body(head)
        payload = b"" if body.done else body.feed(rest)
    except (DownstreamError, BadBody):
        return None
    framing = "chunked" if head.chunked else str(head.length) if head.length >= 0 else "none"
    extra = rest if head.length <= 0 and not head.chunked else body.extra
    first = head.method, head.raw_target, head.minor
    return Seen(first, framing, payload, body.done, extra, [])


# RFC 9112 7.1.1 allows space before an extension (BWS), which a recipient must take; h11 does not. It goes no further.
SPACED_EXTENSION = re.compile(
    r"refused in the body: illegal chunk header: bytearray\(b(['\"])[0-9A-Fa-f]{1,16}(?: |\\t)+;.*\1\)"
)


def is_documented(theirs):
    """Whether h11 refuses what we take, and it is documented why."""
    return isinstance(theirs, str) and (theirs in LAXER or SPACED_EXTENSION.fullmatch(theirs) is not None)


def agree(ours, theirs):
    """Both read the same, but for what is documented."""
    if is_documented(theirs):
        assert ours.framing == "chunked"
        return
    assert isinstance(theirs, Seen), (ours, theirs)
    assert (ours.first, ours.framing, ours.payload) == (theirs.first, theirs.framing, theirs.payload)
    assert ours.is_complete == theirs.is_complete
    if ours.is_complete:
        assert ours.rest == theirs.rest


@settings(max_examples=600)
@given(mutated(requests()))
def test_request_as_h11(data):
    """Never laxer than h11; where both take it, they take the same."""
    ours = our_request(data)
    if ours is not None:
        agree(ours, opinion(lambda: h11_request(data)))


@settings(max_examples=150)
@given(mutated(requests()))
def test_request_beginnings(data):
    """Every beginning raises nothing but our own error, and none of a head that is taken is refused."""
    try:
        taken = take_request(data)
    except DownstreamError:
        taken = None
    size = len(data) - len(taken[1]) if taken else len(data)
    for at in range(1, size):
        try:
            check_partial_request(data[:at])
        except DownstreamError:
            assert taken is None, data[:at]


@settings(max_examples=400)
@given(mutated(requests()))
def test_composed_request(data):
    """What goes to an endpoint is one valid request with the same meaning, and fields of ours that nobody took."""
    try:
        taken = take_request(data)
        if taken is None:
            return
        head, rest = taken
        bodies = request_body(head), ChunkedBody(keep_chunks=True, trailer_bytes=TRAILER_BYTES)
        out = payload = b""
        if head.has_body:
            payload = bodies[0].feed(rest)
            out = bodies[1].feed(rest) if head.chunked else payload
            if not bodies[0].done:
                return
    except (DownstreamError, BadBody):
        return
    for identity in IDENTITIES:
        raw = compose_request(
            head, ROUTE, identity=identity.lines(head), request_id=b"id-1", local_authority=b"l.test"
        )
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\r\n[ \t]", raw)
        seen = opinion(lambda raw=raw: h11_request(raw + out))
        assert isinstance(seen, Seen), (seen, raw)
        assert seen.first == (head.method, head.target, 1)
        assert (seen.payload, seen.is_complete, seen.rest) == (payload, True, b"")
        names = [name for name, _ in seen.fields]
        assert names.count(b"host") == names.count(b"x-request-id") == 1
        assert names.count(b"content-length") + names.count(b"transfer-encoding") == (
            head.chunked or head.length >= 0
        )
        assert (b"via", b"1.%d homeport" % head.minor) in seen.fields
        assert head.has_body or b"expect" not in names
        assert set(names) >= OURS - ({b"x-forwarded-host"} if not head.host else set())
        assert not {
            b"te",
            b"keep-alive",
            b"proxy-connection",
            b"x_forwarded_for",
            b"content_length",
            b"proxy",
        } & set(names)
        assert (b"connection" in names) == (b"upgrade" in names) == bool(head.upgrade)


def our_reply(data, method):
    """The final reply in `data`, which ends with its connection, as we read and pass it on to HTTP/1.1.

    `None` when we have no opinion, else what we read, and the bytes for the client."""
    request = parse_request(method + b" / HTTP/1.1\r\nHost: t.test\r\n\r\n", 100, frozenset())
    out = b""
    try:
        while True:
            taken = take_head(data, lambda raw: parse_reply(raw, 100))
            if taken is None:
                return None
            head, data = taken
            if head.status == 101:
                return None
            if head.status >= 200:
                break
            out += compose_interim(head)
        body, framing, _ = frame_reply(request, head, TRAILER_BYTES)
        parts = compose_reply(
            head, ROUTE, framing=framing, date_line=b"\r\nDate: now", minor=1, keep_alive=True
        )
        out += b"".join(parts)
        plain = frame_reply(
            parse_request(method + b" / HTTP/1.0\r\n\r\n", 100, frozenset()), head, TRAILER_BYTES
        )[0]
        payload, rest, is_complete = b"", data, True
        if body is not None and not body.done:
            payload, out = plain.feed(data), out + body.feed(data)
            rest = body.extra
            if not body.done:
                end = body.on_eof()
                is_complete = end is not None
                out += end or b""
    except (UpstreamError, BadBody):
        return None
    kind = "none"
    if body is not None:
        kind = "chunked" if head.chunked else str(head.length) if head.length >= 0 else "eof"
    return Seen((head.reason, head.status, int(head.is_http11)), kind, payload, is_complete, rest, []), out


@settings(max_examples=600)
@given(mutated(replies()))
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_reply(method, data):
    """Never laxer than h11; where both take it, they take the same; what goes to the client is the same reply."""
    ours = our_reply(data, method)
    if ours is None:
        return
    seen, out = ours
    agree(seen, opinion(lambda: h11_reply(data, method)))
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\r\n[ \t]", out[: out.rindex(HEAD_END)].split(HEAD_END)[0])
    passed = opinion(lambda: h11_reply(out, method))
    assert isinstance(passed, Seen), (passed, out)
    assert passed.first == (seen.first[0], seen.first[1], 1)
    assert (passed.payload, passed.is_complete) == (seen.payload, seen.is_complete)
    assert passed.rest == b""
    names = [name for name, _ in passed.fields]
    assert names.count(b"date") >= 1
    assert passed.fields[-1] == (b"via", b"1.%d homeport" % seen.first[2])
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert not {b"connection", b"keep-alive", b"te", b"upgrade", b"proxy-connection"} & set(names)


def verdict(pieces, *, keep):
    """What a chunked body that comes in `pieces` is: refused, or its output, leftover and state."""
    body = ChunkedBody(keep_chunks=keep, trailer_bytes=TRAILER_BYTES)
    out = b""
    for index, piece in enumerate(pieces):
        try:
            out += body.feed(piece)
        except BadBody:
            return "refused"
        if body.done:
            return out, body.extra + b"".join(pieces[index + 1 :]), body.payload_bytes
    return out, "incomplete", body.payload_bytes


@settings(max_examples=400)
@given(cut(mutated(chunked_bodies)))
def test_chunked_at_any_cut(pieces):
    """A verdict depends on the bytes alone, and the payload is the same whether chunks are kept or not."""
    data = b"".join(pieces)
    whole = verdict([data], keep=True)
    plain = verdict([data], keep=False)
    assert (whole == "refused") == (plain == "refused")
    single = [data[at : at + 1] for at in range(len(data))]
    for keep, expected in ((True, whole), (False, plain)):
        for way in (pieces, single):
            found = verdict(way, keep=keep)
            if expected[1:2] == ("incomplete",):
                assert found[1:] == expected[1:]
            else:
                assert found == expected


HEAD = b"POST / HTTP/1.1\r\nHost: t.test\r\nTransfer-Encoding: chunked\r\n\r\n"


@settings(max_examples=600)
@given(mutated(chunked_bodies))
def test_chunked_as_h11(data):
    """Never laxer than h11; what is passed on is to h11 the same body."""
    found = verdict([data], keep=True)
    if found == "refused":
        return
    theirs = opinion(lambda: h11_request(HEAD + data))
    passed = opinion(lambda: h11_request(HEAD + found[0]))
    assert isinstance(passed, Seen), passed
    if is_documented(theirs):
        return
    assert isinstance(theirs, Seen), theirs
    assert passed.payload == theirs.payload
    assert passed.is_complete == theirs.is_complete == (found[1] != "incomplete")
    if passed.is_complete:
        assert (passed.rest, theirs.rest) == (b"", found[1])
