from dataclasses import dataclass, field

import pytest

from proxy.policy.hash_key import HashKey
from proxy.snapshot import HashSpec


@dataclass
class Request:
    path: bytes = b"/"
    query: bytes = b""
    fields: dict[bytes, bytes] = field(default_factory=dict)

    def field(self, name):
        return self.fields.get(name)


def key(spec, client="10.0.0.9", **request):
    return HashKey(spec).of(Request(**request), lambda: client)


@pytest.mark.parametrize(
    ("spec", "request_", "expected"),
    [
        (HashSpec(header="x-id"), {"fields": {b"x-id": b"a"}}, b"a"),
        (HashSpec(header="x-id"), {"fields": {b"x-id": b""}}, None),
        (HashSpec(header="x-id"), {}, None),
        (HashSpec(query="q"), {"query": b"?q=a"}, b"a"),
        (HashSpec(query="q"), {"query": b"?xq=b&q=a&q=c"}, b"a"),
        (HashSpec(query="q"), {"query": b"?q=a%2Fb+c"}, b"a/b c"),
        (HashSpec(query="q"), {"query": b"?qq=a&q"}, None),
        (HashSpec(query="q"), {"query": b"?q=&q=a"}, None),
        (HashSpec(query="a.b"), {"query": b"?axb=1"}, None),
        (HashSpec(query="q"), {}, None),
        (HashSpec(cookie="c"), {"fields": {b"cookie": b"b=1; c=2"}}, b"2"),
        (HashSpec(cookie="c"), {"fields": {b"cookie": b"b=1"}}, None),
        (HashSpec(path=True), {"path": b"/a/../b%20c", "query": b"?q=1"}, b"/b c"),
        (HashSpec(path=True), {"path": b"/%ff"}, b"/\xff"),
        (HashSpec(client_address=True), {}, b"10.0.0.9"),
        (HashSpec(client_address=True), {"client": ""}, None),
    ],
)
def test_key(spec, request_, expected):
    assert key(spec, **request_) == expected


def test_the_first_that_is_there():
    spec = HashSpec(header="x-id", query="q", cookie="c", path=True, client_address=True)
    request = {"fields": {b"x-id": b"h", b"cookie": b"c=k"}, "query": b"?q=v", "path": b"/p"}
    assert key(spec, **request) == b"h"
    del request["fields"][b"x-id"]
    assert key(spec, **request) == b"v"
    assert key(spec, **request | {"query": b""}) == b"k"
    assert key(spec, **request | {"query": b"", "fields": {}}) == b"/p"
    assert key(HashSpec(header="x-id", client_address=True), **request) == b"10.0.0.9"


def test_the_client_is_asked_for_only_when_it_counts():
    def never():
        raise AssertionError("asked")

    assert (
        HashKey(HashSpec(header="x-id", client_address=True)).of(Request(fields={b"x-id": b"a"}), never)
        == b"a"
    )
    assert HashKey(HashSpec(header="x-id")).of(Request(), never) is None
