"""Which data a request needs, by what its route says of it: keys, their size, wished-for tags, and the processing type.

Everything here was written by clients, or by a site's own function, and steers no more than the choice among endpoints.
So nothing of it is an error: a value that makes no sense is left out and counted (`Ignored`), and the request goes on
with what is left. What is kept of a request has a bound: 16 keys of 64 bytes, 16 tags, a type of 64 bytes.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from proxy.errors import DownstreamError
from proxy.model import RequestFacts
from proxy.policy.ignored import Ignored, OnIgnored
from proxy.policy.path import routing_path
from proxy.policy.stickiness import cookie_value
from proxy.snapshot import DataSpec, SourceSpec

MAX_KEY_BYTES = 1024
"""A longer data key is left out."""
MAX_SHORT_KEY_BYTES = 64
"""A longer data key is known by a digest, so that what is remembered of keys has a bound."""
MAX_KEYS = 16
"""Data keys of a request; what is beyond is left out."""
MAX_TAGS = 16
MAX_TYPE_BYTES = 64
MAX_SIZE_BYTES = 2**50
"""A petabyte: more is no size but a mistake, and what is added up of sizes stays exact."""

# What is looked at of a list, however long it is; many of its pieces may be the same, or empty.
_MAX_PIECES = 64
# A key that needs no second look: visible ASCII without a comma.
_WORD = re.compile(rb"[!-+\--~]{1,64}").fullmatch
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]").search
_SIZE_DIGITS = len(str(MAX_SIZE_BYTES))
# What `tags` of an endpoint can be.
_TAG = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}").fullmatch


class Request(Protocol):
    """What is looked at of a request."""

    @property
    def path(self) -> bytes:
        """The target without its query, as it came."""
        ...

    @property
    def query(self) -> bytes:
        """The query with its `?`, or empty."""
        ...

    def field(self, name: bytes) -> bytes | None:
        """Value of the field with lower-case `name`, several joined by `, `; `None` when absent."""
        ...


Call = Callable[[SourceSpec, Any], Iterable[object] | None]
"""Calls a source's function with the request: what it returned, one by one; `None` when it failed, or is off."""

NO_DOCUMENT = object()
"""Stands for the body where there is none, or none that can be read."""


def short_key(key: bytes) -> bytes:
    """What stands for `key` everywhere: itself, or its 16-byte blake2b digest when it is longer than 64 bytes."""
    return key if len(key) <= MAX_SHORT_KEY_BYTES else blake2b(key, digest_size=16).digest()


def good_key(key: bytes, on_ignored: OnIgnored) -> bytes | None:
    """`key` as it is remembered; `None` for what is left out. An empty one is nothing, and not counted."""
    if len(key) > MAX_KEY_BYTES:
        on_ignored(Ignored.KEY_TOO_LONG)
        return None
    if _CONTROL(key):
        on_ignored(Ignored.KEY_CONTROL_BYTES)
        return None
    return short_key(key) if key else None


def size_of(value: bytes) -> int:
    """The bytes that `value` says, 1 to 2^50; 0 for anything else."""
    if not value.isdigit() or len(value) > _SIZE_DIGITS:
        return 0
    size = int(value)
    return size if size <= MAX_SIZE_BYTES else 0


# ---------------------------------------------------------------------- plain sources


class _Header:
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def values(self, request: Request) -> Sequence[bytes]:
        value = request.field(self._name)
        if value is None:
            return ()
        if b"," in value:
            return [piece.strip(b" \t") for piece in value.split(b",", _MAX_PIECES)]
        return (value,)


class _Query:
    """By `dataset`, `?v=2&dataset=a%2Fb&dataset=c` has `a/b` and `c`."""

    __slots__ = ("_pattern",)

    def __init__(self, name: str) -> None:
        self._pattern = re.compile(rb"[?&]" + re.escape(name.encode()) + rb"=([^&]*)")

    def values(self, request: Request) -> Sequence[bytes]:
        query = request.query
        if not query:
            return ()
        found: list[bytes] = self._pattern.findall(query)
        if b"%" in query or b"+" in query:
            return [unquote_to_bytes(value.replace(b"+", b" ")) for value in found]
        return found


class _Path:
    """By `/join/{left}/{right}.parquet`, `/join/a/b%20c.parquet/rows` has `a` and `b c`."""

    __slots__ = ("_match",)

    def __init__(self, template: str) -> None:
        # One value to a segment, so that no two of them compete for the same letters.
        pattern = "/".join(
            "([^/]+)".join(re.escape(text) for text in re.split(r"\{[^{}]*\}", segment))
            for segment in template.split("/")
        )
        self._match = re.compile(pattern.encode() + rb"(?=/|\Z)", re.DOTALL).match

    def values(self, request: Request) -> Sequence[bytes]:
        path = request.path
        if b"%" in path or b"/." in path:
            try:
                path = routing_path(path).encode("utf-8", "surrogateescape")
            except DownstreamError:
                return ()  # no request that was routed has such a path
        found = self._match(path)
        return found.groups() if found is not None else ()


class _Cookie:
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def values(self, request: Request) -> Sequence[bytes]:
        value = cookie_value(request.field(b"cookie") or b"", self._name)
        return () if value is None else (value,)


_Plain = _Header | _Query | _Path | _Cookie


def _plain(spec: SourceSpec) -> _Plain:
    if spec.header:
        return _Header(spec.header)
    if spec.query:
        return _Query(spec.query)
    return _Path(spec.path) if spec.path else _Cookie(spec.cookie)


# ---------------------------------------------------------------------- bodies


def pointer_steps(pointer: str) -> tuple[str, ...]:
    """The steps of a JSON pointer (RFC 6901 4): `/a~1b/0` leads to `a/b`, then to `0`."""
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def value_at(document: object, steps: Sequence[str]) -> object:
    """What `steps` lead to in a JSON document; `None` where they lead nowhere."""
    for step in steps:
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list):
            # RFC 6901 4: an index without leading zeros.
            is_index = step.isdecimal() and len(step) < 7 and (step == "0" or step[0] != "0")
            index = int(step) if is_index else len(document)
            document = document[index] if index < len(document) else None
        else:
            return None
    return document


def key_bytes(value: object) -> bytes | None:
    """The key that a text, bytes, or a whole number is; `None` for anything else."""
    if isinstance(value, str):
        # A lone surrogate is nothing that can be sent on, but can be told from others.
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    # More digits than that are no number that anybody counts data by, and take quadratic time to write.
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
        return b"%d" % value
    return None


# ---------------------------------------------------------------------- a route's


class DataKeys:
    """Finds what a route says of its requests' data."""

    __slots__ = (
        "_distance_s", "_functions", "_only", "_plain", "_pointers", "_prefer", "_require", "_requires_tags", "_size",
        "_tags", "_type", "max_body_bytes",
    )  # fmt: skip

    def __init__(self, spec: DataSpec) -> None:
        keys = spec.keys
        self._plain = tuple(_plain(each) for each in keys if not each.json and not each.function)
        self._pointers = tuple((each, pointer_steps(each.json)) for each in keys if each.json)
        self._functions = tuple(each for each in keys if each.function)
        self._size = _plain(spec.size) if spec.size is not None else None
        self._tags = _plain(spec.tags) if spec.tags is not None else None
        self._type = _plain(spec.work_class) if spec.work_class is not None else None
        self._requires_tags = spec.requires_tags
        self._distance_s = spec.tag_distance_s
        self._require = spec.require
        self._prefer = spec.prefer
        is_only = len(keys) == 1 and (spec.size or spec.tags or spec.work_class) is None
        self._only = keys[0].header.encode() if is_only else b""
        """Name of the field that is all there is to look at; empty = there is more, or something else."""
        self.max_body_bytes = max((each.max_body_bytes for each, _ in self._pointers), default=0)
        """Larger bodies are not looked at; 0 = none is."""

    def __repr__(self) -> str:
        return f"<DataKeys {len(self._plain)} plain, {len(self._pointers)} json, {len(self._functions)} functions>"

    def facts(
        self,
        request: Request,
        on_ignored: OnIgnored,
        *,
        body: object = NO_DOCUMENT,
        body_bytes: int = 0,
        call: Call | None = None,
        hash_key: bytes | None = None,
        affinity: bytes | None = None,
    ) -> RequestFacts:
        """What pickers are told of `request`. `body` is its JSON document, of `body_bytes`; `call` calls functions."""
        if self._only:
            value = request.field(self._only)
            # 1 µs less than the way of all others, for what most are: one field with one short word.
            if value is not None and _WORD(value):
                return RequestFacts(
                    (value,), None, _NO_TAGS, b"", self._require, self._prefer, hash_key, affinity
                )
        plain = self._plain
        values = plain[0].values(request) if plain else ()
        if len(plain) > 1 or self._pointers or self._functions:
            values = self._all_values(values, request, on_ignored, body, body_bytes, call)
        keys: tuple[bytes, ...] = ()
        if len(values) == 1:
            key = good_key(values[0], on_ignored)
            keys = (key,) if key is not None else ()
        elif values:
            keys = _distinct_keys(values, on_ignored)
        tags = self._tags_of(request, on_ignored) if self._tags is not None else _NO_TAGS
        require, prefer = self._require, self._prefer
        if tags:
            if self._requires_tags:
                require = require | tags
            else:
                prefer = (*prefer, *[(tag, self._distance_s) for tag in sorted(tags)])
        return RequestFacts(
            keys,
            self._size_of(request, on_ignored) if self._size is not None else None,
            tags,
            self._type_of(request, on_ignored) if self._type is not None else b"",
            require,
            prefer,
            hash_key,
            affinity,
        )

    def _all_values(
        self,
        first: Sequence[bytes],
        request: Request,
        on_ignored: OnIgnored,
        body: object,
        body_bytes: int,
        call: Call | None,
    ) -> Sequence[bytes]:
        values = [*first]
        for source in self._plain[1:]:
            values += source.values(request)
        if body is not NO_DOCUMENT:
            for spec, steps in self._pointers:
                if body_bytes > spec.max_body_bytes:
                    on_ignored(Ignored.BODY_TOO_LARGE)
                else:
                    found = value_at(body, steps)
                    found = found[: MAX_KEYS + 1] if isinstance(found, list) else (found,)
                    _add_keys(values, found, on_ignored, Ignored.BODY)
        if call is not None:
            for spec in self._functions:
                returned = call(spec, request)
                if returned is None:
                    on_ignored(Ignored.FUNCTION)
                else:
                    _add_keys(values, returned, on_ignored, Ignored.FUNCTION)
        return values

    def _size_of(self, request: Request, on_ignored: OnIgnored) -> int | None:
        assert self._size is not None
        values = self._size.values(request)
        if not values:
            return None
        size = size_of(values[0]) if len(values) == 1 else 0
        if not size:
            on_ignored(Ignored.SIZE)
        return size or None

    def _tags_of(self, request: Request, on_ignored: OnIgnored) -> frozenset[str]:
        assert self._tags is not None
        tags: set[str] = set()
        for piece in self._tags.values(request):
            for value in piece.split(b",", _MAX_PIECES):
                tag = value.strip(b" \t")
                if tag and _TAG(tag) and len(tags) < MAX_TAGS:
                    tags.add(tag.decode("ascii"))
                elif tag:
                    on_ignored(Ignored.TAG)
        return frozenset(tags)

    def _type_of(self, request: Request, on_ignored: OnIgnored) -> bytes:
        assert self._type is not None
        values = self._type.values(request)
        if not values:
            return b""
        word = values[0].strip(b" \t")
        if len(values) > 1 or len(word) > MAX_TYPE_BYTES or _CONTROL(word):
            on_ignored(Ignored.TYPE)
            return b""
        return word.lower()


_NO_TAGS: frozenset[str] = frozenset()


def _distinct_keys(values: Sequence[bytes], on_ignored: OnIgnored) -> tuple[bytes, ...]:
    """The keys among `values`, each once, in their order."""
    keys: dict[bytes, None] = {}
    if len(values) > _MAX_PIECES:
        on_ignored(Ignored.TOO_MANY_KEYS)
        values = values[:_MAX_PIECES]
    for value in values:
        if len(keys) == MAX_KEYS:
            if value and short_key(value) not in keys:
                on_ignored(Ignored.TOO_MANY_KEYS)
                break
            continue
        key = good_key(value, on_ignored)
        if key is not None:
            keys[key] = None
    return tuple(keys)


def _add_keys(values: list[bytes], found: Iterable[object], on_ignored: OnIgnored, reason: Ignored) -> None:
    """Add what is found in a body, or a function returned, to `values`."""
    for each in found:
        key = key_bytes(each)
        if key is not None:
            values.append(key)
        elif each is not None:
            on_ignored(reason)
