"""Which data a request needs: keys, sizes, tags, types; what makes no sense is left out and counted."""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from proxy.model import RequestFacts
from proxy.policy.data_key import NO_DOCUMENT, DataKeys, pointer_steps, short_key, value_at
from proxy.policy.ignored import Ignored
from proxy.snapshot import DataSpec, SourceSpec


@dataclass
class Request:
    path: bytes = b"/"
    query: bytes = b""
    fields: dict[bytes, bytes] = field(default_factory=dict)

    def field(self, name):
        return self.fields.get(name)


def found(spec, request=None, **more):
    """The facts, and how often what was left out."""
    left_out = Counter()
    facts = DataKeys(spec).facts(request or Request(), lambda why: left_out.update([why]), **more)
    return facts, left_out


def keys(*sources, body=NO_DOCUMENT, body_bytes=0, call=None, **request):
    spec = DataSpec(keys=sources)
    facts, left_out = found(spec, Request(**request), body=body, body_bytes=body_bytes, call=call)
    assert facts == RequestFacts(data_keys=facts.data_keys)
    return list(facts.data_keys), {why.value: count for why, count in left_out.items()}


HEADER = SourceSpec(header="x-id")
QUERY = SourceSpec(query="d")
COOKIE = SourceSpec(cookie="c")


def header(value):
    return {"fields": {b"x-id": value}}


@pytest.mark.parametrize(
    ("source", "request_", "expected"),
    [
        (HEADER, header(b"a"), [b"a"]),
        (HEADER, header(b"a, b,\tc ,,a"), [b"a", b"b", b"c"]),
        (HEADER, header(b""), []),
        (HEADER, header(b", ,"), []),
        (HEADER, header(b"\xe9t\xe9"), [b"\xe9t\xe9"]),
        (HEADER, {}, []),
        (QUERY, {"query": b"?d=a"}, [b"a"]),
        (QUERY, {"query": b"?xd=z&d=a%2Cb&v=1&d=c+d&d="}, [b"a,b", b"c d"]),
        (QUERY, {"query": b"?d"}, []),
        (QUERY, {}, []),
        (SourceSpec(query="a.b"), {"query": b"?axb=1"}, []),
        (COOKIE, {"fields": {b"cookie": b'a=1; c="k,1"'}}, [b"k,1"]),
        (COOKIE, {"fields": {b"cookie": b"a=1"}}, []),
        (COOKIE, {}, []),
    ],
)
def test_keys(source, request_, expected):
    assert keys(source, **request_) == (expected, {})


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("/datasets/{dataset}", b"/datasets/a", [b"a"]),
        ("/datasets/{dataset}", b"/datasets/a/rows/1", [b"a"]),
        ("/datasets/{dataset}", b"/datasets/a%20b%2c/", [b"a b,"]),
        ("/datasets/{dataset}", b"/x/../datasets/./a", [b"a"]),
        ("/datasets/{dataset}", b"/%64atasets/a", [b"a"]),
        ("/datasets/{dataset}", b"/datasets/", []),
        ("/datasets/{dataset}", b"/datasets", []),
        ("/datasets/{dataset}", b"/Datasets/a", []),
        ("/datasets/{dataset}", b"/v1/datasets/a", []),
        ("/datasets/{dataset}", b"*", []),
        ("/datasets/{dataset}", b"/datasets/%zz", []),
        ("/join/{left}/{right}.parquet", b"/join/a/b.parquet", [b"a", b"b"]),
        ("/join/{left}/{right}.parquet", b"/join/a/b.c.parquet/x", [b"a", b"b.c"]),
        ("/join/{left}/{right}.parquet", b"/join/a/b.parquetx", []),
        ("/d-{x}/rows", b"/d-1/rows", [b"1"]),
        ("/d-{x}/rows", b"/d-1/rowsets", []),
        ("/é/{x}", b"/%C3%A9/a", [b"a"]),
        ("/a.b/{x}", b"/axb/1", []),
    ],
)
def test_path_templates(template, path, expected):
    assert keys(SourceSpec(path=template), path=path) == (expected, {})


def test_all_sources_together():
    sources = (HEADER, QUERY, SourceSpec(path="/d/{x}"), COOKIE)
    fields = {b"x-id": b"b", b"cookie": b"c=a"}
    assert keys(*sources, path=b"/d/a", query=b"?d=c", fields=fields) == ([b"b", b"c", b"a"], {})
    assert keys(*sources) == ([], {})


LONG = b"k" * 65


@pytest.mark.parametrize(
    ("value", "expected", "left_out"),
    [
        (b"k" * 64, [b"k" * 64], {}),
        (LONG, [short_key(LONG)], {}),
        (b"k" * 1024, [short_key(b"k" * 1024)], {}),
        (b"k" * 1025, [], {"key_too_long": 1}),
        (b"k" * 8192, [], {"key_too_long": 1}),
        (b"a\tb", [], {"key_control_bytes": 1}),
        (b"a\x7f, b", [b"b"], {"key_control_bytes": 1}),
        (b"k" * 1025 + b",b", [b"b"], {"key_too_long": 1}),
        (b",".join(b"%d" % n for n in range(16)), [b"%d" % n for n in range(16)], {}),
        (b",".join(b"%d" % n for n in range(17)), [b"%d" % n for n in range(16)], {"too_many_keys": 1}),
        (b",".join(b"%d" % (n % 16) for n in range(60)), [b"%d" % n for n in range(16)], {}),
        (b"a," * 15_000, [b"a"], {"too_many_keys": 1}),
        (b"," * 70 + b"b", [], {"too_many_keys": 1}),
    ],
)
def test_keys_that_make_no_sense(value, expected, left_out):
    assert keys(HEADER, **header(value)) == (expected, left_out)


def test_a_long_key_is_told_from_others_by_a_digest():
    assert len(short_key(LONG)) == 16 and short_key(LONG) != short_key(LONG + b"k")
    assert short_key(b"") == b"" and short_key(b"a") == b"a"


# ---------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("/a", [b"x"]),
        ("/b/1", [b"z"]),
        ("/b", [b"y", b"z", b"7"]),
        ("/c/d~1e", [b"12"]),
        ("/c/~0f", ["é".encode()]),
        ("/c/", [b"empty"]),
        ("/b/01", []),
        ("/b/3", []),
        ("/b/-1", []),
        ("/b/99999999999", []),
        ("/a/0", []),
        ("/z", []),
        ("/n", []),
    ],
)
def test_json_pointers(pointer, expected):
    document = {
        "a": "x",
        "b": ["y", "z", 7],
        "c": {"d/e": 12, "~f": "é", "": "empty"},
        "n": None,
    }
    assert keys(SourceSpec(json=pointer), body=document) == (expected, {})


@pytest.mark.parametrize("value", [True, 1.5, {}, {"a": 1}, [[]], 2**70, ""])
def test_values_that_are_no_keys(value):
    got, left_out = keys(SourceSpec(json="/a"), body={"a": value})
    assert got == [] and left_out == ({} if value == "" else {"body": 1})


def test_documents_that_are_no_object():
    for document in (None, 1, "a", [], [1]):
        assert keys(SourceSpec(json="/a"), body=document) == ([], {})
    assert keys(SourceSpec(json="/0"), body=["a"]) == ([b"a"], {})
    assert keys(SourceSpec(json="/a"), body={"a": list(range(1000))})[1] == {"too_many_keys": 1}
    assert keys(SourceSpec(json="/a")) == ([], {})
    assert keys(SourceSpec(json="/a"), body={"a": "\ud800"})[0] == [b"\xed\xa0\x80"]


def test_each_pointer_has_its_own_limit():
    sources = (SourceSpec(json="/a", max_body_bytes=10), SourceSpec(json="/b", max_body_bytes=20))
    assert DataKeys(DataSpec(keys=sources)).max_body_bytes == 20
    assert keys(*sources, body={"a": 1, "b": 2}, body_bytes=11) == ([b"2"], {"body_too_large": 1})
    assert keys(*sources, body={"a": 1, "b": 2}, body_bytes=10) == ([b"1", b"2"], {})


def test_pointers():
    assert pointer_steps("/a~01/~1/0") == ("a~1", "/", "0")
    assert value_at({"a": 1}, ()) == {"a": 1}


# ---------------------------------------------------------------------- functions


def test_functions():
    source = SourceSpec(function="m:f")
    asked = []

    def call(spec, request):
        asked.append((spec, request.path))
        return ["a", b"b", 3, None, 1.5]

    assert keys(HEADER, source, call=call, path=b"/p", **header(b"h")) == (
        [b"h", b"a", b"b", b"3"],
        {"function": 1},
    )
    assert asked == [(source, b"/p")]


# ---------------------------------------------------------------------- size, tags, type


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (b"1", 1),
        (b"0123", 123),
        (b"%d" % 2**50, 2**50),
        (b"%d" % (2**50 + 1), None),
        (b"0", None),
        (b"-1", None),
        (b"+1", None),
        (b"1.5", None),
        (b"1e9", None),
        (b"1 000", None),
        (b"12, 13", None),
        (b"1" + b"0" * 18, None),
        (b"9" * 8000, None),
        (b"nan", None),
        (b"\xb2", None),
        (b"", None),
    ],
)
def test_sizes(value, size):
    facts, left_out = found(DataSpec(size=SourceSpec(header="x-id")), Request(**header(value)))
    assert facts.size_bytes == size
    assert left_out == ({} if size else {Ignored.SIZE: 1})
    assert found(DataSpec(size=SourceSpec(header="x-id")))[0] == RequestFacts()


def test_tags_that_are_preferred():
    spec = DataSpec(
        tags=SourceSpec(header="x-id"),
        tag_distance_s=0.05,
        prefer=(("gpu", 0.02),),
        require=frozenset({"r"}),
    )
    facts, left_out = found(spec, Request(**header(b"ssd, big_memory,ssd")))
    assert facts.tags == {"ssd", "big_memory"} and facts.require == {"r"} and not left_out
    assert facts.prefer == (("gpu", 0.02), ("big_memory", 0.05), ("ssd", 0.05))
    assert found(spec)[0] == RequestFacts(require=frozenset({"r"}), prefer=(("gpu", 0.02),))


def test_tags_that_are_required():
    spec = DataSpec(tags=SourceSpec(query="d"), requires_tags=True, require=frozenset({"r"}))
    facts, _ = found(spec, Request(query=b"?d=a,b&d=c"))
    assert facts.tags == {"a", "b", "c"} and facts.require == {"a", "b", "c", "r"} and facts.prefer == ()


@pytest.mark.parametrize(
    ("value", "count", "left_out"),
    [
        (b"a b", 0, 1),
        (b"-a", 0, 1),
        (b"a" * 64, 0, 1),
        (b"\xff, ok", 1, 1),
        (b",".join(b"t%d" % n for n in range(20)), 16, 4),
        (b"", 0, 0),
    ],
)
def test_tags_that_make_no_sense(value, count, left_out):
    facts, counted = found(DataSpec(tags=SourceSpec(header="x-id")), Request(**header(value)))
    assert len(facts.tags) == count and counted[Ignored.TAG] == left_out


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (b"Scan", b"scan"),
        (b"  full scan ", b"full scan"),
        (b"a" * 64, b"a" * 64),
        (b"a" * 65, None),
        (b"a\tb", None),
        (b"a, b", None),
        (b"", b""),
    ],
)
def test_types(value, word):
    facts, left_out = found(DataSpec(work_class=SourceSpec(header="x-id")), Request(**header(value)))
    assert facts.work_class == (word or b"")
    assert left_out == ({Ignored.TYPE: 1} if word is None else {})


def test_what_else_pickers_go_by_is_passed_on():
    facts, _ = found(DataSpec(keys=(HEADER,)), Request(**header(b"k")), hash_key=b"h", affinity=b"a")
    assert facts == RequestFacts(data_keys=(b"k",), hash_key=b"h", affinity=b"a")


@pytest.mark.parametrize(
    "value", [b"sales", b"a b", b"a,b", b"k" * 64, b"k" * 65, b"caf\xc3\xa9", b"", b"\x7f"]
)
def test_one_field_alone_says_what_it_says_among_others(value):
    among = SourceSpec(header="x-other")
    assert keys(HEADER, **header(value)) == keys(HEADER, among, **header(value))
