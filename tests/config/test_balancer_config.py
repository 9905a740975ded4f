"""How a file says what is hashed and which cookie keeps clients: values, faults, and the snapshot made from them."""

import pickle
from pathlib import Path

import pytest

from proxy.config.build import build_snapshot
from proxy.config.faults import InvalidConfig
from proxy.config.load import load_bytes
from proxy.config.slots import Slots
from proxy.policy.hashring import ring_points
from proxy.snapshot import HashSpec, StickySpec

BASE = """\
listeners: [{bind: "127.0.0.1:8080"}]
clusters:
  - name: etl
    endpoints: [{address: "10.0.0.1:80", weight: 2}, {address: "10.0.0.2:80"}]
"""


def load(keys):
    return load_bytes(
        (BASE + "".join(f"    {key}\n" for key in keys)).encode(), "f", Path("/nonexistent"), {}
    )


def cluster(*keys):
    config = load(keys)
    return build_snapshot(config, generation=1, resolved={}, slots=Slots()).clusters[0]


def test_hash():
    spec = cluster("balancer: consistent_hashing", "hash: {header: X-Dataset-Id, client_address: true}")
    assert spec.hash == HashSpec(header="x-dataset-id", client_address=True, max_load_percent=125)
    assert spec.ring == ring_points(("etl/10.0.0.1:80", "etl/10.0.0.2:80"))
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert "ring" not in repr(spec)
    spec = cluster(
        "balancer: consistent_hashing", "hash: {query: q, cookie: c, path: true, max_load_percent: 0}"
    )
    assert spec.hash == HashSpec(query="q", cookie="c", path=True, max_load_percent=0)


def test_sticky():
    assert cluster("sticky: {cookie: hp}").sticky == StickySpec("hp")
    assert cluster("sticky: {cookie: hp}").ring == b""  # only hashing needs one
    spec = cluster(
        "sticky: {cookie: hp, secret: s3cret, path: /q, max_age: 1.5h, secure: always, http_only: false,"
        " same_site: none}"
    )
    assert spec.sticky == StickySpec("hp", "s3cret", "/q", 5400, "always", False, "none")
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert "s3cret" not in repr(spec)


HASHING = "balancer: consistent_hashing"
SOURCES = "header, query, cookie, path, client_address"


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (
            [HASHING],
            "3:5: clusters[0].hash: is missing, though the balancer is consistent_hashing, expected what to hash, such"
            " as {header: X-Dataset-Id}",
        ),
        (
            ["hash: {path: true}"],
            "5:11: clusters[0].hash: has no effect with round_robin, got a mapping, expected balancer:"
            " consistent_hashing",
        ),
        (
            ["balancer: p2c", "hash: {path: true}"],
            "6:11: clusters[0].hash: has no effect with p2c, got a mapping, expected balancer: consistent_hashing",
        ),
        (
            [HASHING, "hash:"],
            "6:10: clusters[0].hash: is empty, got nothing, expected a mapping, or no such key",
        ),
        (["sticky:"], "5:12: clusters[0].sticky: is empty, got nothing, expected a mapping, or no such key"),
        (
            [HASHING, "hash: {path: false}"],
            f"6:11: clusters[0].hash: names nothing to hash, got a mapping, expected at least one of {SOURCES}",
        ),
        (
            [HASHING, "hash: {headr: a, path: true}"],
            "6:12: clusters[0].hash.headr: is not a known key, got 'headr', expected one of client_address, cookie,"
            " header, max_load_percent, path, query; did you mean 'header'?",
        ),
        (
            [HASHING, "hash: {path: true, max_load_percent: 100}"],
            "6:42: clusters[0].hash.max_load_percent: leaves no room: all together would have less than there is,"
            " got 100, expected 0, or a whole number from 101 to 10000",
        ),
        (
            [HASHING, "hash: {path: true, max_load_percent: -1}"],
            "6:42: clusters[0].hash.max_load_percent: is out of range, got -1, expected 0, or a whole number from 101"
            " to 10000",
        ),
        (
            [HASHING, 'hash: {query: "a=b"}'],
            "6:19: clusters[0].hash.query: is not the name of a query parameter, got 'a=b', expected 1 to 64 letters,"
            " digits, '-', '_', '.' or '~'",
        ),
        (
            [HASHING, "hash: {cookie: hp}", "sticky: {cookie: hp}"],
            "6:20: clusters[0].hash.cookie: is the cookie of sticky, which stands for an endpoint, got 'hp', expected"
            " another cookie",
        ),
        (
            ["sticky: {}"],
            "5:13: clusters[0].sticky.cookie: is missing, expected a cookie",
        ),
        (
            ['sticky: {cookie: "a b"}'],
            "5:22: clusters[0].sticky.cookie: is not a cookie's name, got 'a b', expected a cookie's name: up to 64"
            " letters, digits and characters such as '-' and '_'",
        ),
        (
            ["sticky: {cookie: hp, secret: ''}"],
            "5:34: clusters[0].sticky.secret: is not a valid token, got (hidden), expected 1 to 1024 visible ASCII"
            " characters",
        ),
        (
            ['sticky: {cookie: hp, path: "/a;b"}'],
            "5:32: clusters[0].sticky.path: is not a cookie's path, got '/a;b', expected a path that begins with '/',"
            " in visible ASCII without ';'",
        ),
        (
            ["sticky: {cookie: hp, max_age: 500ms}"],
            "5:13: clusters[0].sticky: has a max_age below one second, got a mapping, expected 0, or at least 1s",
        ),
        (
            ["sticky: {cookie: hp, same_site: none}"],
            "5:13: clusters[0].sticky: has same_site: none without secure: always, got a mapping, expected both, or"
            " browsers drop the cookie",
        ),
        (
            ["sticky: {cookie: __Host-hp}"],
            "5:13: clusters[0].sticky: has a cookie that browsers take with Secure alone, got a mapping, expected"
            " secure: always",
        ),
        (
            ["sticky: {cookie: hp, same_site: laxx}"],
            "5:37: clusters[0].sticky.same_site: is not known, got 'laxx', expected one of lax, strict, none, unset;"
            " did you mean 'lax'?",
        ),
    ],
)
def test_faults(keys, fault):
    with pytest.raises(InvalidConfig) as caught:
        load(keys)
    assert str(caught.value) == f"f:{fault}"
