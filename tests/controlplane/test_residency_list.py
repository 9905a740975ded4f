"""Answers of endpoints that are asked what they hold."""

import json
import random

import pytest

from proxy.controlplane.residency_list import BadList, ResidencyList, parse_list
from proxy.policy.data_key import short_key
from proxy.policy.hashring import key_point


def parse(document, max_keys=100):
    return parse_list(json.dumps(document).encode(), max_keys)


def at(**sizes):
    return {key_point(short_key(name.encode())): size for name, size in sizes.items()}


def test_all_that_can_be_said():
    document = {
        "resident": [{"key": "a", "bytes": 7}, {"key": "b"}, "c"],
        "slots": 4,
        "cache_bytes": 2**30,
        "bandwidth": 5_000_000,
        "complete": False,
        "more": 1,
    }
    assert parse(document) == ResidencyList(at(a=7, b=0, c=0), False, 4, 2**30, 5_000_000)


def test_a_plain_list():
    assert parse(["a", "b", "a"]) == ResidencyList(at(a=0, b=0))
    assert parse([]) == ResidencyList({})
    assert parse({"resident": []}) == ResidencyList({})


def test_keys_are_as_those_of_requests():
    long = "x" * 500
    assert parse([long]).resident == {key_point(short_key(long.encode())): 0}
    assert parse(["ü"]).resident == {key_point("ü".encode()): 0}


def test_what_makes_no_sense_is_left_out():
    members = ["", "a\n", "x" * 1025, 7, None, ["b"], {"key": 1}, {"bytes": 3}, {"key": ""}, True, 1.5]
    sizes = [0, -1, 2**50 + 1, 10**30, 1.5, "7", None, True]
    members += [{"key": f"k{index}", "bytes": size} for index, size in enumerate(sizes)]
    found = parse({"resident": members, "slots": -1, "cache_bytes": "1GiB"})
    assert found == ResidencyList({key_point(f"k{index}".encode()): 0 for index in range(len(sizes))})
    assert parse({"resident": [], "slots": 65_537, "cache_bytes": True, "bandwidth": -1}) == ResidencyList({})
    assert not parse({"resident": [], "complete": "yes"}).is_complete
    assert not parse({"resident": [], "complete": None}).is_complete


def test_a_long_list_is_not_complete():
    assert parse([*"abc"], max_keys=3).is_complete
    assert parse([*"abca"], max_keys=3).is_complete
    found = parse([{"key": "a", "bytes": 5}, *"bcd"], max_keys=3)
    assert found == ResidencyList(at(a=5, b=0, c=0), False)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"7", b'"a"', b"null", b"{}", b'{"resident": {}}', b'{"resident": "a"}', b"[" * 10**5]
)  # fmt: skip
def test_other_answers(body):
    with pytest.raises(BadList, match=r"^its answer (is not JSON|has no list)"):
        parse_list(body, 10)


def test_any_bytes():
    rng = random.Random(2)
    good = json.dumps({"resident": [{"key": "a", "bytes": 7}, "b"], "slots": 4}).encode()
    for _ in range(2000):
        cut = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            cut[rng.randrange(len(cut))] = rng.randrange(256)
        try:
            found = parse_list(bytes(cut[: rng.randrange(len(cut) + 1)] if rng.random() < 0.3 else cut), 10)
        except BadList:
            continue
        assert all(0 <= point < 2**64 and 0 <= size <= 2**50 for point, size in found.resident.items())
