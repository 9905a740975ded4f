"""What a route changes, compiled once per snapshot to bytes: paths, header fields, redirects.

Paths of the configuration are plain text (decoded, as routes match them) and are escaped here. A prefix ends
at a segment, and a `/` at its end means nothing: `/query/` is `/query`, and `/` is every path.
"""

import re
from dataclasses import dataclass

from proxy.policy.path import decode_path, encode_path, without_dot_segments
from proxy.snapshot import HeaderEdits, RedirectSpec

# What could end a field, open a fragment, or be read as another character by a browser (`\` as `/`).
_UNSAFE_IN_LOCATION = re.compile(rb"[^!-~]|[#\"<>\\]")
# A host with an optional port, of the characters of RFC 3986 3.2.2; `@` would turn it into user information.
_AUTHORITY = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:%\[\]]+").fullmatch
_PORT = re.compile(rb":[0-9]*\Z")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_FIELD_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*").fullmatch


def bare_prefix(prefix: str) -> str:
    """A configured prefix without its closing `/`."""
    return prefix.removesuffix("/")


class PathRewrite:
    """A prefix taken off the path, and one put in front of what is left."""

    __slots__ = ("_new", "_old", "_old_text")

    def __init__(self, strip: str, prefix: str) -> None:
        self._old_text = bare_prefix(strip)
        self._old = encode_path(self._old_text)
        self._new = encode_path(bare_prefix(prefix))

    def apply(self, raw_path: bytes) -> bytes:
        """The path to forward for `raw_path`, which `routing_path` must have accepted.

        What is left keeps the client's escapes: without `/query`, `/query/a%26b` and `/%71uery/a%26b` both
        give `/a%26b`. Without the prefix nothing is taken off. Dot segments are resolved first, since
        `/query/../x` without `/query` would climb above the root. The result begins with one `/`: a leading
        `//` would be an authority to whoever reads the target as a URL.
        """
        if raw_path[:1] != b"/":
            return raw_path  # `OPTIONS *` is about the endpoint, not about a path.
        path = self._new + (self._without_old(raw_path) if self._old else raw_path)
        if path[:1] != b"/" or path[:2] == b"//":
            return b"/" + path.lstrip(b"/")
        return path

    def _without_old(self, raw_path: bytes) -> bytes:
        size = len(self._old)
        path = without_dot_segments(raw_path)
        if path.startswith(self._old) and path[size : size + 1] in (b"", b"/"):
            return path[size:]
        # The client may have escaped other letters than we do: compare as many whole segments, decoded.
        head = b"/".join(path.split(b"/")[: self._old_text.count("/") + 1])
        return path[len(head) :] if decode_path(head) == self._old_text else raw_path


@dataclass(frozen=True, slots=True)
class FieldEdits:
    """Changes to a head: leave out what is `removed`, then put `added` at the end."""

    removed: frozenset[bytes] = frozenset()
    """Names in lower case, those of `added` among them: setting replaces."""
    added: bytes = b""
    r"""Lines with a CRLF before each and none after the last: `\r\nX-A: 1\r\nX-B: 2`. Empty = none."""


_NO_EDITS = FieldEdits()


def compile_edits(edits: HeaderEdits) -> FieldEdits:
    """`edits` as bytes (UTF-8). Raises `ValueError` for what could not be a header field."""
    if not edits.set and not edits.remove:
        return _NO_EDITS
    removed = [*edits.remove, *(name for name, _ in edits.set)]
    for name in removed:
        if not _FIELD_NAME(name):
            raise ValueError(f"header field name {name!r} is not a token")
    for name, value in edits.set:
        if not _FIELD_VALUE(value):
            raise ValueError(f"header field {name!r} has a control character in its value {value!r}")
    added = "".join(f"\r\n{name}: {value}" for name, value in edits.set)
    return FieldEdits(frozenset(name.lower().encode() for name in removed), added.encode())


def compile_host(host: str) -> bytes:
    """`host`, with an optional port, as bytes. Raises `ValueError` for what could not be a Host field."""
    value = host.encode()
    if host and not _AUTHORITY(value):
        raise ValueError(f"host {host!r} is not a host with an optional port")
    return value


class Redirect:
    """The Location of a redirect."""

    __slots__ = ("_host", "_path", "_rewrite", "_scheme")

    def __init__(self, spec: RedirectSpec, path_prefix: str) -> None:
        self._scheme = spec.scheme.encode()
        self._host = compile_host(spec.host)
        self._path = encode_path(spec.path)
        self._rewrite = PathRewrite(path_prefix, spec.path_prefix) if spec.path_prefix else None

    def location(self, scheme: bytes, host: bytes, raw_path: bytes, query_with_mark: bytes) -> bytes:
        """A URL that goes nowhere else than configured, whatever the request holds.

        Relative when neither scheme nor host is configured, so that a made-up Host gets nowhere. A configured
        scheme with the client's host drops the client's port, which belongs to the old scheme (as the Gateway
        API has it).
        """
        if self._path:
            path = self._path
        elif self._rewrite is not None:
            path = self._rewrite.apply(raw_path)
        else:
            path = raw_path
        tail = _UNSAFE_IN_LOCATION.sub(lambda match: b"%%%02X" % match[0][0], path + query_with_mark)
        authority = self._host or _PORT.sub(b"", host)
        if (self._scheme or self._host) and _AUTHORITY(authority):
            return (self._scheme or scheme) + b"://" + authority + (tail if tail[:1] == b"/" else b"/")
        return b"/" + tail.lstrip(b"/") if tail[:1] == b"/" else b"/"
