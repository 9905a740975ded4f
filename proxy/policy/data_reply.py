"""What an endpoint says, in the head of an answer, of the data that it holds and of itself.

    X-Data-Cache: hit | miss              whether the data of this request was there
    X-Data-Resident: KEY;bytes=N, KEY     what is there now; `bytes` may be left out
    X-Data-Evicted: KEY, KEY              what is there no more
    X-Data-Slots: N                       requests that it works on at once
    X-Data-Cache-Bytes: N                 data that it can hold
    X-Data-Bandwidth: N                   bytes a second at which it gets what it does not hold

A key with a comma, a semicolon or quotes in it is written as a quoted string (RFC 9110 5.6.4): `"a,b";bytes=7`. An
endpoint may be wrong, or lie: what makes no sense is left out and counted, and of a list the first 64 members are
looked at.
"""

import re
from typing import NamedTuple, Protocol

from proxy.policy.data_key import MAX_SIZE_BYTES, good_key, size_of
from proxy.policy.ignored import Ignored, OnIgnored

MAX_REPLY_KEYS = 64
"""Members of one field's list; what is beyond is left out."""
MAX_SLOTS = 65_536
"""More is no number of requests that a service works on at once."""

DATA_FIELDS = frozenset(
    (b"x-data-cache", b"x-data-resident", b"x-data-evicted", b"x-data-slots", b"x-data-cache-bytes")
    + (b"x-data-bandwidth",)
)
"""Lower-case names of all fields above."""

_MARK = b"\nx-data-"
_FIELD = re.compile(rb"\nx-data-(cache|resident|evicted|slots|cache-bytes|bandwidth):[ \t]*+([^\r]*+)")
# A key, quoted or not, and its parameters. Possessive, so that no input makes it try twice.
_MEMBER = re.compile(
    rb'[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^,;"]*+))((?:[ \t]*+;[^,;]*+)*+)[ \t]*+(?:,|\Z)', re.DOTALL
)
_BYTES = re.compile(rb"[ \t]*bytes[ \t]*=[ \t]*([^ \t]*)[ \t]*", re.IGNORECASE).fullmatch
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_HITS = {b"hit": True, b"miss": False}


class Head(Protocol):
    """What is looked at of an answer."""

    @property
    def raw(self) -> bytes:
        """Its head as it came."""
        ...

    @property
    def low(self) -> bytes:
        """The same in lower case."""
        ...


class DataReply(NamedTuple):
    """What one answer says. Keys are as `data_key.short_key` makes them."""

    hit: bool | None = None
    """Whether the data of the request was there; `None` = it does not say."""
    resident: tuple[tuple[bytes, int], ...] = ()
    """(key, bytes) that are there now; 0 bytes = it does not say how many."""
    evicted: tuple[bytes, ...] = ()
    """Keys that are there no more."""
    slots: int = 0
    """0 = it does not say, as for the next two."""
    cache_bytes: int = 0
    bandwidth_bytes_per_s: float = 0.0


def data_reply(head: Head, on_ignored: OnIgnored) -> DataReply | None:
    """What the answer with `head` says of data; `None` when it has none of these fields."""
    low = head.low
    start = low.find(_MARK)
    if start < 0:
        return None
    fields: dict[bytes, bytes] = {}
    for match in _FIELD.finditer(low, start):
        name, value = match[1], head.raw[match.start(2) : match.end()].rstrip(b" \t")
        fields[name] = fields[name] + b", " + value if name in fields else value
    if not fields:
        return None
    evicted = _members(fields.get(b"evicted"), Ignored.REPLY_EVICTED, on_ignored)
    return DataReply(
        _hit(fields.get(b"cache"), on_ignored),
        _members(fields.get(b"resident"), Ignored.REPLY_RESIDENT, on_ignored),
        tuple([key for key, _ in evicted]),
        _number(fields.get(b"slots"), MAX_SLOTS, on_ignored),
        _number(fields.get(b"cache-bytes"), MAX_SIZE_BYTES, on_ignored),
        float(_number(fields.get(b"bandwidth"), MAX_SIZE_BYTES, on_ignored)),
    )


def _hit(value: bytes | None, on_ignored: OnIgnored) -> bool | None:
    if value is None:
        return None
    hit = _HITS.get(value.lower())
    if hit is None:
        on_ignored(Ignored.REPLY_CACHE)
    return hit


def _number(value: bytes | None, high: int, on_ignored: OnIgnored) -> int:
    if value is None:
        return 0
    number = size_of(value)
    if not 0 < number <= high:
        on_ignored(Ignored.REPLY_ENDPOINT)
        return 0
    return number


def _members(value: bytes | None, why: Ignored, on_ignored: OnIgnored) -> tuple[tuple[bytes, int], ...]:
    """The keys of a list, each once, with what the last of them says: `a;bytes=7, b` is (a, 7), (b, 0)."""
    if value is None:
        return ()
    found: dict[bytes, int] = {}
    at = members = 0
    while at < len(value):
        match = _MEMBER.match(value, at) if members < MAX_REPLY_KEYS else None
        if match is None:
            # Too many; or a quote that is not closed, and what follows it is anybody's guess.
            on_ignored(why)
            break
        at = match.end()
        members += 1
        quoted, plain, parameters = match.groups()
        name = plain.strip(b" \t") if quoted is None else _QUOTED_PAIR.sub(rb"\1", quoted)
        size = _bytes(parameters) if parameters else 0
        if not name and quoted is None and not parameters:
            continue  # an empty member of a list says nothing (RFC 9110 5.6.1)
        key = good_key(name, _nobody) if size is not None else None
        if key is None or size is None:
            on_ignored(why)
        else:
            found[key] = size
    return tuple(found.items())


def _nobody(why: Ignored) -> None:
    """Whatever is wrong with a key of an answer is counted as the field's."""


def _bytes(parameters: bytes) -> int | None:
    """What `;bytes=N` says among `parameters`; 0 = nothing, `None` = it makes no sense."""
    for parameter in parameters.split(b";"):
        match = _BYTES(parameter)
        if match is not None:
            return size_of(match[1]) or None
    return 0
