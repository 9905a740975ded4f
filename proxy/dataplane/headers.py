"""What heads of requests and replies have in common: picking fields out, leaving fields out, trailers.

Two views of a head must agree before anything is forwarded. llhttp (strict, through httptools) refuses what is
malformed: bare CR or LF, folded lines, space before a colon, control bytes, ambiguous lengths. Then one regular
expression picks out the few fields that the framing, the hop-by-hop rules and the forwarded identity need, and
everything between them is kept as slices of the original bytes. A callback per field would cost about 2 µs more for
twelve fields and give nothing.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

HEAD_END = b"\r\n\r\n"

# Fields that end at this hop (RFC 9110 7.6.1); the framing is made anew.
HOP_NAMES = ("connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade")
_TRAILER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*")

# Digits of a length; 10^18 bytes are a million terabytes.
_MAX_LENGTH_DIGITS = 18

# Fields that must not arrive as trailers (RFC 9110 6.5.1): framing, routing, authentication, request modifiers,
# response control and content format; and those that we set.
_NO_TRAILER_PREFIXES = (b"x-forwarded-", b"x-real-ip", b"x-request-id", b"client-cert")
_NO_TRAILER = frozenset(
    name.encode()
    for name in (
        *HOP_NAMES,
        *(f"proxy-{word}" for word in ("authenticate", "authorization", "authentication-info")),
        *("host", "content-length", "content-type", "content-encoding", "content-range", "trailer", "expect"),
        *("authorization", "authentication-info", "www-authenticate", "cookie", "set-cookie", "max-forwards"),
        *("cache-control", "pragma", "range", "if-match", "if-none-match", "if-modified-since"),
        *("if-unmodified-since", "if-range", "age", "date", "expires", "location", "retry-after", "vary"),
        *("warning", "via", "forwarded", "http2-settings"),
    )
)


def _alternatives(names: Iterable[Sequence[str]]) -> str:
    """A regular expression for one of `names`, each a sequence of expressions for one letter, as a tree: a wrong
    letter ends the attempt at once."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for letter in name:
            node = node.setdefault(letter, {})
        node[""] = {}

    def render(node: dict[str, Any]) -> str:
        parts = [letter + render(rest) for letter, rest in sorted(node.items()) if letter]
        if not parts:
            return ""
        text = "|".join(parts)
        return f"(?:{text}){'?' if '' in node else ''}" if len(parts) > 1 or "" in node else text

    return render(tree)


def field_pattern(names: Iterable[str], aliased: Iterable[str] = ()) -> re.Pattern[bytes]:
    """Lines of a lower-cased head whose field is one of `names`, or one of `aliased` with `_` or `.` for any `-`.

    A name of `aliased` that ends in `-` stands for all that it begins. Group 1 is the name, group 2 the value.
    """
    spelled: list[list[str]] = [[re.escape(letter) for letter in name] for name in names]
    for name in aliased:
        letters = ["[-_.]" if letter == "-" else letter for letter in name]
        spelled.append([*letters, r"[!#-'*+.^_`|~0-9a-z-]*+"] if name.endswith("-") else letters)
    return re.compile(rb"\n(" + _alternatives(spelled).encode() + rb"):[ \t]*+([^\r]*+)")


class HeadSink:
    """Notes that llhttp saw a whole head."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_length(value: bytes) -> int:
    """The value of Content-Length; -1 when it is malformed (RFC 9110 8.6)."""
    value = value.rstrip(b" \t")
    return int(value) if value.isdigit() and len(value) <= _MAX_LENGTH_DIGITS else -1


def find_field(raw: bytes, low: bytes, name: bytes) -> bytes | None:
    """Value of a field in a head, several joined by `, ` (RFC 9110 5.3); `None` when absent."""
    mark = b"\r\n" + name + b":"
    start = low.find(mark)
    if start < 0:
        return None
    start += len(mark)
    end = low.find(b"\r\n", start)
    value = raw[start:end].strip(b" \t")
    start = low.find(mark, end)
    while start >= 0:
        start += len(mark)
        end = low.find(b"\r\n", start)
        value += b", " + raw[start:end].strip(b" \t")
        start = low.find(mark, end)
    return value


def drop_fields(piece: bytes, names: set[bytes] | frozenset[bytes]) -> bytes:
    """`piece`, lines that each begin with CRLF, without the fields whose lower-case name is in `names`."""
    lines = piece.split(b"\r\n")
    return b"\r\n".join([line for line in lines if line.partition(b":")[0].lower() not in names or not line])


def safe_trailers(lines: list[bytes]) -> list[bytes]:
    """Those of a body's trailer lines that may pass. Raises `ValueError` for a line that is no field."""
    passed = []
    for line in lines:
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise ValueError("malformed trailer")
        name = match[1].lower().replace(b"_", b"-").replace(b".", b"-")
        if name not in _NO_TRAILER and not name.startswith(_NO_TRAILER_PREFIXES):
            passed.append(line)
    return passed
