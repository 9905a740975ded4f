"""What endpoints say of the data that they hold; what makes no sense is left out and counted."""

from collections import Counter
from types import SimpleNamespace

import pytest

from proxy.policy.data_key import short_key
from proxy.policy.data_reply import DATA_FIELDS, MAX_REPLY_KEYS, DataReply, data_reply


def said(*lines):
    raw = b"\r\n".join([b"HTTP/1.1 200 OK", *lines]) + b"\r\n\r\n"
    left_out = Counter()
    head = SimpleNamespace(raw=raw, low=raw.lower())
    return data_reply(head, lambda why: left_out.update([why.value])), dict(left_out)


def test_nothing():
    assert said() == (None, {})
    assert said(b"X-Cache: hit", b"X-Data: 1", b"X-Data-Other: x") == (None, {})


def test_everything():
    assert said(
        b"Content-Length: 2",
        b"x-data-cache: HIT",
        b"X-Data-Resident: a;bytes=7, b",
        b"X-Data-Evicted: c, d",
        b"X-Data-Slots: 4",
        b"X-Data-Cache-Bytes: 2147483648",
        b"X-Data-Bandwidth: 1000",
        b"X-Data-Resident: e;bytes=1 ",
    ) == (
        DataReply(True, ((b"a", 7), (b"b", 0), (b"e", 1)), (b"c", b"d"), 4, 2**31, 1000.0),
        {},
    )


@pytest.mark.parametrize(
    ("value", "hit"), [(b"hit", True), (b"Miss", False), (b"", None), (b"hit, miss", None), (b"1", None)]
)
def test_hits(value, hit):
    reply, left_out = said(b"X-Data-Cache: " + value)
    assert reply == DataReply(hit=hit)
    assert left_out == ({} if hit is not None else {"reply_cache": 1})


LONG = b"k" * 100


@pytest.mark.parametrize(
    ("value", "resident", "left_out"),
    [
        (b"a", {b"a": 0}, 0),
        (b" a ; bytes = 7 ,, b;x=1;BYTES=8, ", {b"a": 7, b"b": 8}, 0),
        (b"a;bytes=1,a;bytes=2", {b"a": 2}, 0),
        (b'"a,b;c\\"d";bytes=7, e', {b'a,b;c"d': 7, b"e": 0}, 0),
        (LONG + b";bytes=3", {short_key(LONG): 3}, 0),
        (b"\xc3\xa9", {b"\xc3\xa9": 0}, 0),
        (b"a b;bytes=1", {b"a b": 1}, 0),
        (b"", {}, 0),
        (b"a;bytes=0, b", {b"b": 0}, 1),
        (b"a;bytes=-1", {}, 1),
        (b"a;bytes=1000000000000000000", {}, 1),
        (b"a;bytes=", {}, 1),
        (b"a;bytes=x;bytes=1", {}, 1),
        (b";bytes=1", {}, 1),
        (b'""', {}, 1),
        (b"a\tb, c", {b"c": 0}, 1),
        (b"k" * 1025 + b", c", {b"c": 0}, 1),
        (b'"open, b', {}, 1),
        (b'a, "b" c, d', {b"a": 0}, 1),
        (b'a"b', {}, 1),
    ],
)
def test_members(value, resident, left_out):
    reply, counted = said(b"X-Data-Resident: " + value)
    assert dict(reply.resident) == resident
    assert counted == ({"reply_resident": left_out} if left_out else {})
    reply, counted = said(b"X-Data-Evicted: " + value)
    assert reply.evicted == tuple(resident)
    assert counted == ({"reply_evicted": left_out} if left_out else {})


def test_a_list_has_its_bound():
    reply, left_out = said(b"X-Data-Resident: " + b",".join(b"k%d;bytes=1" % n for n in range(5000)))
    assert len(reply.resident) == MAX_REPLY_KEYS and left_out == {"reply_resident": 1}
    reply, left_out = said(b"X-Data-Evicted: " + b"," * 5000)
    assert reply.evicted == () and left_out == {"reply_evicted": 1}
    reply, left_out = said(b"X-Data-Evicted: " + b",".join(b"k%d" % n for n in range(MAX_REPLY_KEYS)))
    assert len(reply.evicted) == MAX_REPLY_KEYS and not left_out


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"X-Data-Slots: 0", "slots"),
        (b"X-Data-Slots: 65537", "slots"),
        (b"X-Data-Slots: 4, 5", "slots"),
        (b"X-Data-Cache-Bytes: lots", "cache_bytes"),
        (b"X-Data-Cache-Bytes: 1000000000000000000", "cache_bytes"),
        (b"X-Data-Bandwidth: -1", "bandwidth_bytes_per_s"),
        (b"X-Data-Bandwidth: inf", "bandwidth_bytes_per_s"),
    ],
)
def test_what_an_endpoint_cannot_be(line, field):
    reply, left_out = said(line)
    assert getattr(reply, field) == 0 and left_out == {"reply_endpoint": 1}


def test_all_fields_are_known_by_name():
    for name in DATA_FIELDS:
        assert said(name + b": 1")[0] is not None
