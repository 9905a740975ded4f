"""The path a request is routed on, made from the raw one that is forwarded.

Routes are matched on the path decoded once and without dot segments, so that `/x/../admin`, `/./admin` and
`/%61dmin` cannot slip past a route for `/admin`. The endpoint gets the client's bytes untouched
(`/x/../admin` stays as it is), because decoding and encoding again would change what `%3B` or `%2B` mean to
it. That is only sound while both readings agree, so whatever common servers read in different ways is refused
with 400:

- `%2F`, `%5C` and a raw backslash, which some take for a separator and some for a letter; `%00`, which some
  stop at;
- escapes that are none (`%zz`, a `%` at the end), raw control bytes, spaces and bytes above 0x7E, `#`;
- `..` that climbs above the root, or that follows an empty segment: `/a//../b` is `/a/b` by RFC 3986, and
  `/b` to a server that merges slashes first;
- `..;x` and `.;x`, dot segments to servlet containers (path parameters), ordinary names by RFC 3986.

`//` is kept: it is a path of its own, and a route for `/admin` does not match `//admin`. Encoded control
bytes other than NUL are legal. Bytes are read as UTF-8, as the configuration is; those that are not UTF-8
become lone surrogates (`surrogateescape`), which no configured path holds. So a routing path is for matching,
not for logs or JSON.
"""

import re
from binascii import unhexlify

from proxy.errors import DownstreamError, Reason

# An absolute path without escapes, of bytes that mean the same to everybody.
_PLAIN = re.compile(rb"/[!\"$&->@-\[\]-~]*").fullmatch
_STRANGE_BYTE = re.compile(rb"[^!\"$->@-\[\]-~]").search
_REFUSED_ESCAPE = re.compile(rb"%(?:2[Ff]|5[Cc]|00|(?![0-9A-Fa-f]{2}))").search
_ENCODED_DOT = re.compile(rb"%2[Ee]")
_PARAMETER_DOTS = re.compile(rb"/\.{1,2}(?:;|%3[Bb])").search

# RFC 3986 3.3, `pchar` and the separator: what an encoded path may hold as it is.
_TO_ENCODE = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,;=:@/]")


def routing_path(target_path: bytes) -> str:
    """The path to route on, for the raw path of a request target (without its query).

    `/x/../a%20b` gives `/a b`. `*`, the target of `OPTIONS *`, is returned as it is; whether the method may
    have it is the caller's to check. Raises `DownstreamError(BAD_TARGET)`.
    """
    if _PLAIN(target_path):
        # Asked of the text, not of the bytes, nor by the expression: 0.03 µs here, 0.3 and 0.1 there.
        path = target_path.decode("ascii")
        if "/." not in path:
            return path
    if target_path == b"*":
        return "*"
    if target_path[:1] != b"/" or _STRANGE_BYTE(target_path) or _REFUSED_ESCAPE(target_path):
        raise DownstreamError(Reason.BAD_TARGET)
    return decode_path(without_dot_segments(target_path))


def without_dot_segments(raw_path: bytes) -> bytes:
    """`raw_path` without dot segments (RFC 3986 5.2.4), its other escapes as they were.

    It begins with `/`. As `%2F` is refused, its segments are those of the routing path, one for one. Raises
    `DownstreamError(BAD_TARGET)` for dot segments that are refused.
    """
    if raw_path.find(b"/.") < 0 and raw_path.find(b"/%2") < 0:
        return raw_path
    with_dots = _ENCODED_DOT.sub(b".", raw_path)
    if _PARAMETER_DOTS(with_dots):
        raise DownstreamError(Reason.BAD_TARGET)
    kept: list[bytes] = []
    segment = b""
    for raw_segment, segment in zip(raw_path.split(b"/"), with_dots.split(b"/"), strict=True):
        if segment == b"..":
            if not kept.pop():  # The root, or an empty segment.
                raise DownstreamError(Reason.BAD_TARGET)
        elif segment != b".":
            kept.append(raw_segment)
    if segment in (b".", b".."):
        kept.append(b"")  # `/a/.` is the directory `/a/`, and `/a/..` is `/`.
    return b"/".join(kept)


def decode_path(path: bytes) -> str:
    """`path` with its escapes decoded once; they must be valid, as in any path that `routing_path` takes."""
    plain, *escaped = path.split(b"%")
    decoded = plain + b"".join([unhexlify(part[:2]) + part[2:] for part in escaped])
    return decoded.decode("utf-8", "surrogateescape")


def encode_path(path: str) -> bytes:
    """The escaped form of a decoded path, for a request line or a Location: `/a b` gives `/a%20b`."""
    return _TO_ENCODE.sub(lambda match: b"%%%02X" % match[0][0], path.encode("utf-8", "surrogateescape"))
