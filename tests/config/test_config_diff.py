"""What is told of the difference between two configurations, and what never is."""

from pathlib import Path

import pytest

from proxy.config.diff import MAX_CHANGES, describe_changes
from proxy.config.load import load_bytes

BASE = """
listeners: [{name: edge, bind: "127.0.0.1:80"}, {bind: "127.0.0.1:81"}]
admin: {token: secret-one}
clusters:
  - name: etl
    endpoints: [{address: "10.0.0.1:1"}, {address: "10.0.0.2:1"}]
  - name: ml
    endpoints: [{address: "10.0.0.3:1"}]
routes:
  - {match: {path_prefix: /a}, cluster: etl}
  - {name: b, match: {path_prefix: /b}, cluster: ml, rewrite: {request_headers: {set: {X-Key: secret-one}}}}
"""


def load(text):
    return load_bytes(text.encode(), "f", Path("."), {})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", []),
        ("10.0.0.2:1", "10.0.0.9:1", ["10.0.0.2:1]: removed", "10.0.0.9:1]: added"]),
        ("127.0.0.1:80", "127.0.0.1:88", ["listeners[edge].bind: 127.0.0.1:80 → 127.0.0.1:88"]),
        ("127.0.0.1:81", "127.0.0.1:88", ["listeners[1].bind: 127.0.0.1:81 → 127.0.0.1:88"]),
        ("name: ml\n", "name: ml\n    balancer: random\n", ["clusters[ml].balancer: round_robin → random"]),
        ('"10.0.0.3:1"', '"10.0.0.3:1", weight: 4', ["clusters[ml].endpoints[10.0.0.3:1].weight: 1 → 4"]),
        (
            "admin:",
            "timeouts: {keep_alive: 30s}\nadmin:",
            ["timeouts.keep_alive: 75s → 30s"],
        ),
        (
            "admin:",
            "limits: {buffered_bytes: 1GiB, min_rate_grace: 1.5h, header_count: 7}\nadmin:",
            [
                "limits.header_count: 100 → 7",
                "limits.buffered_bytes: 256MiB → 1GiB",
                "limits.min_rate_grace: 30s → 90m",
            ],
        ),
        ("cluster: etl}", "cluster: ml}", ["routes[0].cluster: etl → ml"]),
        ("secret-one}\n", "secret-two}\n", ["admin.token: changed"]),
        ("{set: {X-Key: secret-one}}", "{set: {X-Key: secret-two}}", ["request_headers.set: changed"]),
        ("admin: {token: secret-one}", "admin: {}", ["admin.token: removed"]),
        (
            '[{address: "10.0.0.1:1"}, {address: "10.0.0.2:1"}]',
            '[{address: "10.0.0.2:1"}, {address: "10.0.0.1:1"}]',
            ["clusters[etl].endpoints: in another order"],
        ),
    ],
)
def test_changes(old, new, expected):
    found = describe_changes(load(BASE), load(BASE.replace(old, new, 1) if old else BASE))
    assert len(found) == len(expected)
    for line, part in zip(found, expected, strict=True):
        assert part in line
        assert "secret" not in line


def test_many_changes_are_counted():
    endpoints = ", ".join(f'{{address: "10.1.{n}.1:1"}}' for n in range(100))
    found = describe_changes(load(BASE), load(BASE.replace('{address: "10.0.0.3:1"}', endpoints)))
    assert len(found) == MAX_CHANGES + 1
    assert found[-1] == "and 51 more"


def test_what_is_to_be_said_of_a_change():
    one, three = (load(BASE + f"workers: {number}\n") for number in (1, 3))
    notes = {"workers": "without effect beside --workers 2", "limits": "whatever"}
    assert describe_changes(one, three, notes) == ["workers: 1 → 3, without effect beside --workers 2"]
    assert describe_changes(one, three) == ["workers: 1 → 3"]
