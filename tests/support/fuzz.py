"""Messages of HTTP/1.1 for property tests: valid ones, some of them unusual, and ways to spoil them."""

from collections.abc import Callable
from dataclasses import dataclass

import h11
from hypothesis import strategies as st

CRLF = b"\r\n"
# What attackers and broken peers put where it does not belong.
TOKENS = [
    b"\r\n", b"\r", b"\n", b"\n\r", b"\r\n\r\n", b"\r\n ", b"\r\n\t", b" ", b"\t", b":", b": ", b",", b";", b"=", b"\0",
    b"\x01", b"\x0b", b"\x7f", b"\x80", b"\xff", b"#", b"?", b"%", b"@", b"/", b"0", b"5", b"+", b"-", b"x", b"0x",
    b"chunked", b"gzip, chunked", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close",
    b"HTTP/1.1", b"HTTP/1.0", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n",
]  # fmt: skip

_fields = st.sampled_from(
    [
        b"Accept: */*", b"X-A: 1", b"x-a:2", b"X-Empty:", b"X-Space: \t a  b \t", b"X-Obs: \xe9\xff",
        b"Cookie: a=1; b=2",
        b"Connection: close", b"Connection: keep-alive", b"connection: X-A, Via", b"Connection: host, content-length",
        b"Connection: x-forwarded-for,X-Request-Id", b"Keep-Alive: timeout=5", b"TE: trailers", b"Trailer: X-Sum",
        b"Via: 1.1 a", b"X-Forwarded-For: 6.6.6.6", b"X_Forwarded_For: 6.6.6.6", b"Forwarded: for=6.6.6.6",
        b"X-Request-Id: abc", b"Content_Length: 7", b"Transfer.Encoding: chunked", b"Proxy-Connection: close",
        b"Upgrade: h2c", b"Date: Sun, 06 Nov 1994 08:49:37 GMT", b"Content-Type: text/plain", b"Set-Cookie: a=1",
    ]
)  # fmt: skip
_doubtful_fields = st.sampled_from(
    [
        b"Content-Length: 5", b"Content-Length: 05", b"content-length: 3, 3", b"Content-Length: +3", b"Content-Length:",
        b"Transfer-Encoding: chunked", b"transfer-encoding: CHUNKED", b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity", b"Transfer-Encoding:", b"Transfer-Encoding: \x0bchunked", b"Host: b.test",
        b"Host:", b"Expect: 100-continue", b"Connection: upgrade", b"Upgrade: websocket", b"X-A : 1", b" folded: 1",
        b"No-Colon", b": no name", b"X-Ctl: \x01", b"X-Nul: \0", b"Content-Type: application/grpc",
    ]
)  # fmt: skip
_extensions = st.sampled_from([b"", b"", b"", b";a", b";a=b", b';a="b;c"', b";\xe9"])
_trailers = st.sampled_from(
    [b"", b"", b"X-Sum: 1\r\n", b"X-Sum:\r\nx-b: \xe9\r\n", b"Content-Length: 7\r\nX-Sum: 1\r\n"]
)
_payload = st.binary(max_size=12) | st.sampled_from(
    [b"0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"hello"]
)


@st.composite
def _chunks(draw: st.DrawFn) -> bytes:
    """A chunked body, with extensions, odd sizes and trailers that are all valid."""
    out = b""
    for payload in draw(st.lists(_payload.filter(bool), max_size=3)):
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%016x"])) % len(payload)
        out += size + draw(_extensions) + CRLF + payload + CRLF
    return out + b"0" + draw(_extensions) + CRLF + draw(_trailers) + CRLF


chunked_bodies = _chunks()


@st.composite
def _framed(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Framing fields and the body that goes with them."""
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    if kind == "length":
        payload = draw(_payload)
        return [b"Content-Length: %d" % len(payload)], payload
    if kind == "chunked":
        return [b"Transfer-Encoding: chunked"], draw(chunked_bodies)
    return [], b""


@st.composite
def _messages(draw: st.DrawFn, first: st.SearchStrategy[bytes], always: list[bytes]) -> bytes:
    framing, body = draw(_framed())
    fields = draw(st.lists(_fields, max_size=4)) + draw(st.lists(_doubtful_fields, max_size=1))
    lines = draw(st.permutations([*always, *framing, *fields]))
    return CRLF.join([draw(first), *lines, CRLF]) + body


def requests(target: bytes = b"") -> st.SearchStrategy[bytes]:
    """Requests that are valid or nearly so; `target` is that of all of them, any when empty."""
    methods = [b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"DELETE", b"PATCH", b"M-SEARCH"]
    targets = (
        [target]
        if target
        else [b"/", b"/a/b?c=d", b"//x", b"*", b"http://u.test/x?y", b"http://u.test", b"/%2e/%0A"]
    )
    versions = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]
    first = st.tuples(*map(st.sampled_from, (methods, targets, versions))).map(b" ".join)
    return _messages(first, [b"Host: t.test"])


def replies() -> st.SearchStrategy[bytes]:
    """Replies that are valid or nearly so."""
    first = [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 204 No Content",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 304 ", b"HTTP/1.1 500", b"HTTP/1.1 200 \xe9 a\t", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
        b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 201 Made", b"HTTP/1.1 206 Part",
    ]  # fmt: skip
    return _messages(st.sampled_from(first), [])


def _mutate(draw: st.DrawFn, data: bytearray) -> None:
    """Change one place of `data`."""
    at = draw(st.integers(0, len(data)))
    kind = draw(st.sampled_from(["delete", "insert", "replace", "copy", "ends", "case", "line"]))
    if kind == "delete":
        del data[at : at + draw(st.integers(1, 4))]
    elif kind == "insert":
        data[at:at] = draw(st.sampled_from(TOKENS))
    elif kind == "replace":
        data[at : at + 1] = bytes([draw(st.integers(0, 255))])
    elif kind == "copy":
        data[at:at] = data[at : at + draw(st.integers(1, 20))]
    elif kind == "case":
        data[at : at + 20] = bytes(data[at : at + 20]).swapcase()
    else:
        start = data.find(CRLF, at)
        if start >= 0 and kind == "ends":
            data[start : start + 2] = draw(
                st.sampled_from([b"\n", b"\r", b"\n\r", b"\r\r\n", b" \r\n", b"\r\n\r\n", b""])
            )
        elif start >= 0:
            end = data.find(CRLF, start + 2)
            line = bytes(data[start : end if end >= 0 else len(data)])
            data[start:start] = draw(st.sampled_from([line, line.upper(), line.replace(b":", b" :", 1)]))


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """One of `messages`, changed in up to three places."""
    data = bytearray(draw(messages))
    for _ in range(draw(st.integers(0, 3))):
        _mutate(draw, data)
    return bytes(data)


@st.composite
def cut(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> list[bytes]:
    """One of `messages` in up to five pieces, none of them empty."""
    data = draw(messages)
    places = draw(st.lists(st.integers(1, max(1, len(data) - 1)), max_size=4, unique=True).map(sorted))
    pieces = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


# Where Homeport is laxer than h11, by the opinion of h11, and why that is sound.
LAXER = {
    # h11 checks framing fields in a trailer section as if they framed something. RFC 9110 6.5.1 lets a recipient
    # ignore them; Homeport drops them unread, so that nobody behind it sees them.
    "refused in the body: conflicting Content-Length headers",
    "refused in the body: bad Content-Length",
    "refused in the body: multiple Transfer-Encoding headers",
    "refused in the body: Only Transfer-Encoding: chunked is supported",
}


class RefusedBody(Exception):
    """h11 took the head, but not the body."""


@dataclass
class Seen:
    """A message as somebody understands it."""

    first: tuple[bytes, bytes | int, int]
    """Method, target and minor version; or reason phrase, status and minor version."""
    framing: str
    """`none`, `chunked`, `eof`, or the length in digits."""
    payload: bytes
    is_complete: bool
    rest: bytes
    """What follows it."""
    fields: list[tuple[bytes, bytes]]
    """Names in lower case, values without space around them."""


def _framing(fields: list[tuple[bytes, bytes]]) -> str:
    found = dict(fields)
    if found.get(b"transfer-encoding") == b"chunked":
        return "chunked"
    return str(int(found[b"content-length"])) if b"content-length" in found else "none"


def h11_request(data: bytes) -> Seen | None:
    """The first request in `data` as h11 reads it, `None` when its head is incomplete.

    Raises `h11.RemoteProtocolError` and `RefusedBody`."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    event = connection.next_event()
    if not isinstance(event, h11.Request):
        return None
    fields = list(event.headers)
    first = event.method, event.target, int(event.http_version[-1:])
    return _read_body(connection, Seen(first, _framing(fields), b"", False, b"", fields))


def h11_reply(data: bytes, method: bytes) -> Seen | None:
    """The final reply in `data`, which ends with its connection, to `method`; else as `h11_request`."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"t.test")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    event = connection.next_event()
    while isinstance(event, h11.InformationalResponse):
        event = connection.next_event()
    if not isinstance(event, h11.Response):
        return None
    fields = list(event.headers)
    framing = _framing(fields)
    if method == b"HEAD" or event.status_code in (204, 304):
        framing = "none"
    elif framing == "none":
        framing = "eof"
    first = event.reason, event.status_code, int(event.http_version[-1:])
    seen = _read_body(connection, Seen(first, framing, b"", False, b"", fields))
    if framing == "eof":
        connection.receive_data(b"")
        seen = _read_body(connection, seen)
    return seen


def _read_body(connection: h11.Connection, seen: Seen) -> Seen:
    while not seen.is_complete:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise RefusedBody(str(error)) from None
        if isinstance(event, h11.Data):
            seen.payload += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            seen.is_complete = True
            seen.rest = connection.trailing_data[0]
        else:
            break
    return seen


def opinion(read: Callable[[], Seen | None]) -> Seen | str:
    """What h11 makes of bytes: a message, `incomplete`, or where they are refused with its words."""
    try:
        return read() or "incomplete"
    except RefusedBody as error:
        return f"refused in the body: {error}"
    except h11.RemoteProtocolError as error:
        return f"refused in the head: {error}"
