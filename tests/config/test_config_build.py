"""From a configuration to a snapshot, and the slots of endpoints."""

from pathlib import Path

import pytest

from proxy.config.build import build_snapshot, unresolved_names
from proxy.config.load import load_bytes
from proxy.config.schema import Config
from proxy.config.slots import SlotAllocator, Slots
from proxy.errors import ConfigError
from proxy.model import TcpAddress, UnixAddress
from proxy.snapshot import (
    DownstreamTimeouts,
    HeaderEdits,
    Limits,
    ListenerSpec,
    MatchSpec,
    PoolParams,
    RedirectSpec,
    RespondSpec,
    RewriteSpec,
    SplitSpec,
    UpstreamTimeouts,
)

ONE, TWO = TcpAddress("10.0.0.1", 80), TcpAddress("10.0.0.2", 80)


def load(text: str) -> Config:
    return load_bytes(
        f"listeners: [{{bind: '[::]:80', name: six}}]\n{text}".encode(), "f", Path("/nonexistent"), {}
    )


def clusters(*addresses: str, name: str = "a") -> Config:
    endpoints = ", ".join(f"{{address: '{address}'}}" for address in addresses)
    return load(f"clusters: [{{name: {name}, endpoints: [{endpoints}]}}]")


def test_names_to_resolve_are_listed_once():
    config = load(
        "clusters:\n"
        "- {name: a, endpoints: [{address: 'q:80'}, {address: '10.0.0.1:80'}, {address: 'q:81'}]}\n"
        "- {name: b, endpoints: [{address: 'q:80'}, {address: 'unix:/a'}, {address: 'r:80'}]}\n"
    )
    assert unresolved_names(config) == [("q", 80), ("q", 81), ("r", 80)]


def test_a_name_becomes_an_endpoint_for_each_address():
    config = load(
        "clusters: [{name: a, endpoints: [{address: 'Query:80', weight: 3, max_connections: 5, zone: z, tags: [t, u]},"
        " {address: 'unix:/run/q'}, {address: 'gone:80'}]}]"
    )
    snapshot = build_snapshot(config, generation=4, resolved={"query:80": [ONE, TWO]}, slots=Slots())
    first, second, third = snapshot.clusters[0].endpoints
    assert snapshot.generation == 4
    assert (first.id, first.slot, first.address, first.name) == ("a/10.0.0.1:80", 0, ONE, "query:80")
    assert (first.weight, first.max_connections, first.zone, first.tags) == (3, 5, "z", frozenset({"t", "u"}))
    assert (second.id, second.slot, second.weight) == ("a/10.0.0.2:80", 1, 3)
    assert (third.id, third.address) == ("a/unix:/run/q", UnixAddress("/run/q"))


def test_two_names_for_one_address_are_one_endpoint():
    resolved = {"q:80": [ONE], "r:80": [ONE, TWO]}
    snapshot = build_snapshot(clusters("q:80", "r:80"), generation=1, resolved=resolved, slots=Slots())
    assert [(each.name, each.address) for each in snapshot.clusters[0].endpoints] == [
        ("q:80", ONE),
        ("r:80", TWO),
    ]


def test_endpoints_keep_their_slots_until_they_are_released():
    slots = SlotAllocator()
    config = clusters("q:80")
    all_slots = Slots(endpoints=slots)

    def slots_of(*addresses: TcpAddress) -> list[int]:
        snapshot = build_snapshot(config, generation=1, resolved={"q:80": addresses}, slots=all_slots)
        return [endpoint.slot for endpoint in snapshot.clusters[0].endpoints]

    three = TcpAddress("10.0.0.3", 80)
    assert slots_of(ONE, TWO) == [0, 1]
    assert slots_of(TWO) == [1]
    assert slots_of(TWO, three) == [1, 2]
    assert slots_of(ONE) == [0]
    slots.release("a/10.0.0.2:80")
    slots.release("a/10.0.0.2:80")
    assert "a/10.0.0.2:80" not in slots
    assert slots.ids == {"a/10.0.0.1:80", "a/10.0.0.3:80"}
    assert slots_of(ONE, TcpAddress("10.0.0.4", 80)) == [0, 1]
    assert repr(slots) == "<SlotAllocator 3 of 1024>"


def test_a_full_allocator_refuses_and_takes_nothing():
    slots = SlotAllocator(capacity=3)
    slots.slot("x")
    all_slots = Slots(endpoints=slots)
    with pytest.raises(ConfigError, match="at most 3 endpoints"):
        build_snapshot(
            clusters("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"), generation=1, resolved={}, slots=all_slots
        )
    assert slots.ids == {"x"} and not all_slots.clusters.ids
    assert slots.slot("y") == 1


FULL = """\
listeners:
  - {bind: "[::]:80", name: six}
  - {bind: "unix:/run/a", trusted_proxies: [unix, 10.0.0.0/8], proxy_protocol: true}
clusters:
  - name: a
    balancer: random
    timeouts: {connect: 1s, response: 2s, idle: 3s, tunnel: 5s, total: 4s}
    pool: {max_idle: 1, idle_timeout: 2s, max_requests: 3}
    endpoints: []
  - {name: b, endpoints: []}
routes:
  - name: all
    match: {listener: six, host: "*.A.b", path_prefix: /q, methods: [GET, PUT], headers: {X-A: "1", x-b: "*"}}
    split: [{cluster: a, weight: 95}, {cluster: b, weight: 5}]
    rewrite:
      strip_prefix: /q
      prefix: /v2
      host: h
      request_headers: {set: {X-A: "1"}, remove: [B]}
      response_headers: {set: {C: d}, remove: [E, F]}
  - {match: {path: /r}, respond: {status: 404, body: "ü", headers: {a: b}}}
  - {match: {path_prefix: /s}, redirect: {status: 301, scheme: https, host: "h:1", path_prefix: /t}}
  - {match: {path: /u}, redirect: {path: /v}}
upgrades: [WebSocket, x]
drain_timeout: 9s
timeouts: {header: 1s, body: 2s, keep_alive: 3s, write: 4s}
limits: {request_line_bytes: 1KiB, header_bytes: 2KiB, header_count: 3, body_bytes: 4, connections: 5,
  connections_per_client: 6, requests_per_connection: 7, pipelined_requests: 8, pipelined_bytes: 9KiB,
  buffered_bytes: 10, min_rate: 11, min_rate_grace: 12s}
access_log: {sink: stdout}
"""


def test_everything_of_the_file_is_in_the_snapshot():
    config = load_bytes(FULL.encode(), "f", Path("/nonexistent"), {})
    snapshot = build_snapshot(config, generation=1, resolved={}, slots=Slots())
    assert snapshot.listeners == (
        ListenerSpec("six", TcpAddress("::", 80)),
        ListenerSpec("listener-2", UnixAddress("/run/a"), ("unix", "10.0.0.0/8"), True),
    )
    cluster = snapshot.clusters[0]
    assert (cluster.name, cluster.balancer, cluster.endpoints) == ("a", "random", ())
    assert cluster.timeouts == UpstreamTimeouts(
        connect_s=1.0, response_s=2.0, idle_s=3.0, tunnel_s=5.0, total_s=4.0
    )
    assert cluster.pool == PoolParams(1, 2.0, 3)
    assert snapshot.timeouts == DownstreamTimeouts(1.0, 2.0, 3.0, 4.0)
    assert snapshot.limits == Limits(1024, 2048, 3, 4, 5, 6, 7, 8, 9216, 10, 11, 12.0)
    assert snapshot.upgrades == {"websocket", "x"}
    assert (snapshot.drain_timeout_s, snapshot.access_log.sink) == (9.0, "stdout")


def test_routes_in_the_snapshot():
    config = load_bytes(FULL.encode(), "f", Path("/nonexistent"), {})
    routes = build_snapshot(config, generation=1, resolved={}, slots=Slots()).routes
    assert [route.name for route in routes] == ["all", "route-2", "route-3", "route-4"]
    assert routes[0].match == MatchSpec(
        "six", "*.a.b", "", "/q", frozenset({"GET", "PUT"}), (("x-a", "1"), ("x-b", "*"))
    )
    edits = HeaderEdits((("X-A", "1"),), ("B",)), HeaderEdits((("C", "d"),), ("E", "F"))
    assert routes[0].rewrite == RewriteSpec("/q", "/v2", "h", *edits)
    assert [route.action for route in routes] == [
        SplitSpec((("a", 95), ("b", 5))),
        RespondSpec(404, "ü".encode(), (("a", "b"),)),
        RedirectSpec(301, "https", "h:1", "", "/t"),
        RedirectSpec(308, "", "", "/v", ""),
    ]
