"""Bad files: each fault with its exact place and words, and all of them at once."""

import os
from pathlib import Path

import pytest

from proxy.config.faults import Fault, InvalidConfig
from proxy.config.load import MAX_FAULTS, load_bytes, load_file

# What the cases are put into.
BASE = """\
listeners: [{name: edge, bind: "127.0.0.1:8080"}]
clusters:
  - name: etl
    endpoints: [{address: "127.0.0.1:9001"}]
routes:
  - {match: {path_prefix: /}, cluster: etl}
"""


def faults_of(text: str | bytes, **environment: str) -> list[str]:
    """The lines that `text` gives, without the file's name."""
    content = text.encode() if isinstance(text, str) else text
    with pytest.raises(InvalidConfig) as caught:
        load_bytes(content, "f", Path("/nonexistent"), environment)
    lines = str(caught.value).split("\n")
    assert all(line.startswith("f:") for line in lines)
    assert lines == [str(fault) for fault in caught.value.faults]
    return [line.removeprefix("f:") for line in lines]


def marked(text: str) -> tuple[str, str]:
    """`text` without its mark, and where that was: `LINE:COL`."""
    before, after = text.split("§")
    return before + after, f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def test_the_base_of_the_cases_has_no_fault():
    load_bytes(BASE.encode(), "f", Path("/nonexistent"), {})


# What of BASE is replaced; by what, with § where the fault is; the fault after its line and column.
REPLACED = [
    (
        'bind: "127.0.0.1:8080"',
        "bind: §8080",
        "listeners[0].bind: is not an address with a port, got 8080, expected 127.0.0.1:8080, [::1]:8080"
        " or unix:/path; 0.0.0.0:8080 (IPv4) or [::]:8080 (IPv6) for all interfaces",
    ),
    (
        'bind: "127.0.0.1:8080"',
        'bind: §":8080"',
        "listeners[0].bind: has no host, got ':8080', expected 127.0.0.1:8080, [::1]:8080 or unix:/path;"
        " 0.0.0.0:8080 (IPv4) or [::]:8080 (IPv6) for all interfaces",
    ),
    (
        'bind: "127.0.0.1:8080"',
        "bind: §localhost:8080",
        "listeners[0].bind: is a name, not an address, got 'localhost:8080', expected 127.0.0.1:8080,"
        " [::1]:8080 or unix:/path; 0.0.0.0:8080 (IPv4) or [::]:8080 (IPv6) for all interfaces",
    ),
    (
        'bind: "127.0.0.1:8080"',
        "bind: §127.0.0.1:65536",
        "listeners[0].bind: has no valid port, got '127.0.0.1:65536', expected a port from 0 to 65535",
    ),
    (
        'listeners: [{name: edge, bind: "127.0.0.1:8080"}]',
        "listeners: [§{name: edge}]",
        "listeners[0].bind: is missing, expected 127.0.0.1:8080, [::1]:8080 or unix:/path; 0.0.0.0:8080"
        " (IPv4) or [::]:8080 (IPv6) for all interfaces",
    ),
    (
        "name: edge,",
        "name: edge, trusted_proxies: [§10.0.0.1/8],",
        "listeners[0].trusted_proxies[0]: has bits set beyond its mask, got '10.0.0.1/8', expected a"
        " network such as 10.0.0.0/8",
    ),
    (
        "name: edge,",
        "name: edge, proxy_protocol: §on,",
        "listeners[0].proxy_protocol: is not a boolean, got 'on', expected true or false",
    ),
    (
        "name: edge,",
        "name: edge, §trusted_proxy: [],",
        "listeners[0].trusted_proxy: is not a known key, got 'trusted_proxy', expected one of bind, name,"
        " proxy_protocol, tls, trusted_proxies; did you mean 'trusted_proxies'?",
    ),
    (
        '8080"}]',
        "8080\"}, {name: §edge, bind: '127.0.0.1:8081'}]",
        "listeners[1].name: is the same name as that of listeners[0], got 'edge', expected a name of its own",
    ),
    (
        '8080"}]',
        "8080\"}, {bind: §'0.0.0.0:8080'}]",
        "listeners[1].bind: takes the same address as listeners[0].bind, got '0.0.0.0:8080', expected an"
        " address of its own",
    ),
    (
        'listeners: [{name: edge, bind: "127.0.0.1:8080"}]',
        'listeners: [{name: edge, bind: §"127.0.0.1:9901"}]',
        "listeners[0].bind: takes the same address as admin.bind, got '127.0.0.1:9901', expected an"
        " address of its own",
    ),
    (
        '"127.0.0.1:9001"}',
        '"a:1", zone: §e/l}',
        "clusters[0].endpoints[0].zone: is not a valid name, got 'e/l', expected 1 to 63 letters, digits,"
        " '-', '_' or '.', beginning with a letter or digit",
    ),
    (
        "name: etl\n",
        "name: etl\n    balancer: §roundrobin\n",
        "clusters[0].balancer: is not known, got 'roundrobin', expected one of round_robin,"
        " weighted_round_robin, least_connections, least_response_time, consistent_hashing, data_locality_aware,"
        " random, p2c; did you mean 'round_robin'?",
    ),
    (
        "name: etl\n",
        "name: etl\n    §mirror: {}\n",
        "clusters[0].mirror: is not a known key, got 'mirror', expected one of balancer,"
        " circuit_breaker, discovery, dns, endpoints, hash, health_check, locality, name, outlier_detection,"
        " panic_percent, pool, queue, retry, scaler, shadow, slow_start, sticky, timeouts, tls",
    ),
    (
        "name: etl\n",
        "name: etl\n    timeouts: {connect: §5}\n",
        "clusters[0].timeouts.connect: has no unit, got 5, expected a duration such as 250ms, 30s, 5m or 1h",
    ),
    (
        "name: etl\n",
        "name: etl\n    timeouts:\n      idle: §12:30\n",
        "clusters[0].timeouts.idle: is not a duration, got '12:30', expected a duration such as 250ms,"
        " 30s, 5m or 1h",
    ),
    (
        "name: etl\n",
        "name: etl\n    timeouts:§\n",
        "clusters[0].timeouts: is not a mapping, got nothing, expected a mapping",
    ),
    (
        "name: etl\n",
        "name: etl\n    timeouts: §5s\n",
        "clusters[0].timeouts: is not a mapping, got '5s', expected a mapping",
    ),
    (
        "name: etl\n",
        "name: etl\n    §name: elt\n",
        "clusters[0].name: is a duplicate key, first given in line 3, expected each key once",
    ),
    (
        '{address: "127.0.0.1:9001"}',
        "§{weight: 1}",
        "clusters[0].endpoints[0].address: is missing, expected host:port, 10.0.0.1:9000, [::1]:9000 or"
        " unix:/path",
    ),
    (
        '"127.0.0.1:9001"',
        "§query-1",
        "clusters[0].endpoints[0].address: is not an address with a port, got 'query-1', expected"
        " host:port, 10.0.0.1:9000, [::1]:9000 or unix:/path",
    ),
    (
        '"127.0.0.1:9001"',
        "§127.1:80",
        "clusters[0].endpoints[0].address: is not a valid IP address, got '127.1:80', expected host:port,"
        " 10.0.0.1:9000, [::1]:9000 or unix:/path",
    ),
    (
        '"127.0.0.1:9001"}',
        '"a:1", weight: §0}',
        "clusters[0].endpoints[0].weight: is out of range, got 0, expected a whole number from 1 to 65535",
    ),
    (
        '"127.0.0.1:9001"}',
        '"a:1", weight: §"2"}',
        "clusters[0].endpoints[0].weight: is not a whole number, got '2', expected a whole number from 1"
        " to 65535",
    ),
    (
        '"127.0.0.1:9001"}',
        '"a:1"}, {address: §"A:1"}',
        "clusters[0].endpoints[1].address: is the same address as that of clusters[0].endpoints[0], got"
        " 'A:1', expected each address once in a cluster",
    ),
    (
        "cluster: etl",
        "cluster: §elt",
        "routes[0].cluster: is no cluster of this file, got 'elt', expected the name of a cluster; did"
        " you mean 'etl'?",
    ),
    (
        "path_prefix: /",
        "path_prefix: /, listener: §egde",
        "routes[0].match.listener: is no listener of this file, got 'egde', expected the name of a"
        " listener; did you mean 'edge'?",
    ),
    (
        "  - {match: {path_prefix: /}, cluster: etl}",
        "  - §{match: {path_prefix: /}}",
        "routes[0]: has no action, got a mapping, expected exactly one of cluster, split, respond, redirect",
    ),
    (
        "cluster: etl",
        "cluster: etl, respond: §{}",
        "routes[0].respond: is a second action beside cluster, got a mapping, expected exactly one of"
        " cluster, split, respond, redirect",
    ),
    (
        "cluster: etl",
        "respond: §",
        "routes[0].respond: is empty, got nothing, expected a mapping",
    ),
    (
        "cluster: etl",
        "split: §[{cluster: etl, weight: 0}]",
        "routes[0].split: sends nothing anywhere, got a list, expected at least one cluster with a weight"
        " above 0",
    ),
    (
        "cluster: etl",
        "split: §[]",
        "routes[0].split: is empty, got a list, expected at least one cluster with a weight above 0",
    ),
    (
        "cluster: etl",
        "split: [{cluster: etl}, {cluster: §etl}]",
        "routes[0].split[1].cluster: is in the split twice, got 'etl', expected each cluster once",
    ),
    (
        "cluster: etl",
        "cluster: etl, rewrite: {strip_prefix: §/query}",
        "routes[0].rewrite.strip_prefix: is not what the route matches, got '/query', expected"
        " match.path_prefix, or the beginning of it",
    ),
    (
        "cluster: etl",
        "respond: {}, rewrite: §{prefix: /a}",
        "routes[0].rewrite: has no effect with respond, got a mapping, expected no rewrite",
    ),
    (
        "cluster: etl",
        "cluster: etl, rewrite: {request_headers: {set: {§Connection: close}}}",
        "routes[0].rewrite.request_headers.set.Connection: cannot be edited, got 'Connection', expected a"
        " field that Homeport does not make itself",
    ),
    (
        "cluster: etl",
        "cluster: etl, rewrite: {request_headers: {remove: [§host]}}",
        "routes[0].rewrite.request_headers.remove[0]: cannot be edited here, got 'host', expected"
        " rewrite.host for the Host field",
    ),
    (
        "cluster: etl",
        'cluster: etl, rewrite: {request_headers: {set: {x-a: §"b\\r\\nc: d"}}}',
        "routes[0].rewrite.request_headers.set.x-a: is not a header value, got (hidden), expected visible"
        " ASCII characters, spaces and tabs, without line ends or space around them",
    ),
    (
        "cluster: etl",
        "cluster: etl, rewrite: {request_headers: {set: §{X-A: 1, x-a: 2}}}",
        "routes[0].rewrite.request_headers.set: has the same name twice in different case, got a mapping,"
        " expected each header field once",
    ),
    (
        "cluster: etl",
        "respond: §{status: 204, body: x}",
        "routes[0].respond: has a body with a status that allows none, got a mapping, expected no body"
        " with 204, 205 and 304",
    ),
    (
        "cluster: etl",
        "respond: {status: §600}",
        "routes[0].respond.status: is out of range, got 600, expected a whole number from 200 to 599",
    ),
    (
        "cluster: etl",
        "redirect: {status: §300, path: /a}",
        "routes[0].redirect.status: is not a redirect, got 300, expected one of 301, 302, 303, 307, 308",
    ),
    (
        "cluster: etl",
        "redirect: §{}",
        "routes[0].redirect: leads back to itself, got a mapping, expected at least one of scheme, host,"
        " path, path_prefix",
    ),
    (
        "{path_prefix: /}, cluster: etl",
        "{path: /a}, redirect: {path_prefix: §/b}",
        "routes[0].redirect.path_prefix: has nothing to replace, got '/b', expected a match.path_prefix"
        " in the same route",
    ),
    (
        "{path_prefix: /}",
        "§{path_prefix: /a, path: /b}",
        "routes[0].match: never holds: path is not below path_prefix, got a mapping, expected one of path"
        " and path_prefix",
    ),
    (
        "{path_prefix: /}",
        "{path: §/a/../b}",
        "routes[0].match.path: is not a valid path, got '/a/../b', expected a plain path that begins with"
        " '/', such as /query, without '.' or '..' segments, '?' or '#'",
    ),
    (
        "{path_prefix: /}",
        "{methods: §GET}",
        "routes[0].match.methods: is not a list, got 'GET', expected a list",
    ),
    (
        "{path_prefix: /}",
        "{methods: [§get]}",
        "routes[0].match.methods[0]: is not a method, got 'get', expected a method in upper case, such as"
        " GET",
    ),
    (
        "{path_prefix: /}",
        "{host: §'a.*.b'}",
        "routes[0].match.host: has a misplaced wildcard, got 'a.*.b', expected a host without a port,"
        " such as example.com, *.example.com, 10.0.0.1 or *",
    ),
    (
        "{path_prefix: /}",
        '{headers: {§"bad name": x}}',
        "routes[0].match.headers.bad name: is not a header name, got 'bad name', expected the name of a"
        " header field, such as X-Tenant",
    ),
    (
        "{path_prefix: /}",
        "{§[a]: b}",
        "routes[0].match: has a key that is no single value, expected a name as the key",
    ),
    (
        "{path_prefix: /}",
        "{§path_prefx: /}",
        "routes[0].match.path_prefx: is not a known key, got 'path_prefx', expected one of headers, host,"
        " listener, methods, path, path_prefix; did you mean 'path_prefix'?",
    ),
    (
        "cluster: etl}",
        "cluster: etl}\n  - {match: §{path_prefix: /, host: '*'}, respond: {}}",
        "routes[1].match: is the same as that of routes[0], so this route gets no request, got a mapping,"
        " expected a match of its own",
    ),
]


# What is said of the cluster, or of the route, with § where the fault is; the fault after its path.
RESILIENCE = [
    ("health_check: {interval: §0}", "health_check.interval: is too short, got 0, expected at least 100ms"),
    (
        "health_check: {timeout: §1ms}",
        "health_check.timeout: is too short, got '1ms', expected at least 10ms",
    ),
    (
        "health_check: {type: tcp, path: §/up}",
        "health_check.path: has no effect with type: tcp, got '/up', expected type: http, or no such key",
    ),
    (
        "health_check: {path: §'/up?a b'}",
        "health_check.path: has a query that cannot be sent, got '/up?a b', expected a path, with or without a"
        " query in visible ASCII, such as /health?full=1",
    ),
    (
        "health_check: {statuses: §[]}",
        "health_check.statuses: lets no status pass, got a list, expected statuses such as [200-399]",
    ),
    (
        "outlier_detection: {window: §0}",
        "outlier_detection.window: is too short, got 0, expected at least 1s",
    ),
    ("slow_start: {min_percent: §0}", "slow_start.min_percent: is 0, got 0, expected a value above 0"),
    (
        "retry: {backoff: 5s, max_backoff: §1s}",
        "retry.max_backoff: is less than backoff, got '1s', expected at least as long as backoff",
    ),
    (
        "retry: {backoff: §2s}",
        "retry.backoff: is more than max_backoff, 250ms, got '2s', expected at most 250ms, or a longer max_backoff",
    ),
    (
        "outlier_detection: {base_ejection: §10m}",
        "outlier_detection.base_ejection: is more than max_ejection, 5m, got '10m', expected at most 5m, or a longer"
        " max_ejection",
    ),
    (
        "outlier_detection: {base_ejection: 2s, max_ejection: §1s}",
        "outlier_detection.max_ejection: is less than base_ejection, got '1s', expected at least as long as"
        " base_ejection",
    ),
]


@pytest.mark.parametrize("text, fault", RESILIENCE, ids=[case[0][:40] for case in RESILIENCE])
def test_faults_of_what_keeps_requests_alive(text, fault):
    text, place = marked(BASE.replace("routes:", f"    {text}\nroutes:"))
    assert faults_of(text) == [f"{place}: clusters[0].{fault}"]


@pytest.mark.parametrize("old, new, fault", REPLACED, ids=[case[1][:40] for case in REPLACED])
def test_a_fault_has_its_place_value_and_expectation(old, new, fault):
    assert BASE.count(old) == 1
    text, place = marked(BASE.replace(old, new))
    assert faults_of(text) == [f"{place}: {fault}"]


# A further top-level key, with § where the fault is; the fault after its line and column.
TOP = [
    (
        "admin: §{bind: '0.0.0.0:9901'}",
        "admin.token: is missing, though admin.bind can be reached from other machines, expected a token,"
        " or a bind on 127.0.0.1, [::1] or unix:",
    ),
    (
        "admin: {token: §}",
        "admin.token: is empty, got nothing, expected a token, or no such key",
    ),
    (
        "admin: {token: §a b}",
        "admin.token: is not a valid token, got (hidden), expected 1 to 1024 visible ASCII characters",
    ),
    (
        "workers: §many",
        "workers: is not a whole number, got 'many', expected auto or a whole number from 1 to 16",
    ),
    (
        "workers: §0",
        "workers: is out of range, got 0, expected auto or a whole number from 1 to 16",
    ),
    (
        "workers:§",
        "workers: is empty, got nothing, expected auto or a whole number from 1 to 16",
    ),
    (
        "drain_timeout: §30",
        "drain_timeout: has no unit, got 30, expected a duration such as 250ms, 30s, 5m or 1h",
    ),
    (
        "access_log: {sink: §false}",
        "access_log.sink: is not a place for a log, got false, expected off, stdout or an absolute path",
    ),
    (
        "limits: {header_bytes: §12}",
        "limits.header_bytes: is out of range, got 12, expected 1KiB to 16MiB",
    ),
    (
        "limits: {body_bytes: §10XB}",
        "limits.body_bytes: is not a size, got '10XB', expected a size such as 512B, 64KiB, 10MB or 2GiB",
    ),
    (
        "upgrades: [§h2c]",
        "upgrades[0]: is never relayed, got 'h2c', expected another protocol, such as websocket; HTTP/2"
        " is not spoken",
    ),
    (
        "§tls: {}",
        "tls: is not a known key, got 'tls', expected one of access_log, admin, clusters, docker,"
        " drain_timeout, host_budget, limits, listeners, routes, timeouts, upgrades, workers",
    ),
    (
        "drain_timeout: §!!str 5s",
        "has a tag, expected a value without a tag; quote what must be a string",
    ),
    (
        "drain_timeout: §*x",
        "has an alias without an anchor before it, expected an anchor such as &name",
    ),
    (
        "limits: &a {x: §*a}",
        "has an alias without an anchor before it, expected an anchor such as &name",
    ),
    (
        "limits: {<<: §5}",
        "limits: merges what is no mapping, expected <<: *anchor of a mapping",
    ),
    (
        "§--- {}",
        "has a second document, expected one document",
    ),
    (
        'drain_timeout: §"\\e[31m"',
        "drain_timeout: is not a duration, got '\\x1b[31m', expected a duration such as 250ms, 30s, 5m or 1h",
    ),
    (
        f"drain_timeout: §{'x' * 100}",
        f"drain_timeout: is not a duration, got '{'x' * 59}…', expected a duration such as 250ms, 30s, 5m or 1h",
    ),
    (
        '§"a\\nb": 1',
        "a\\nb: is not a known key, got 'a\\nb', expected one of access_log, admin, clusters,"
        " docker, drain_timeout, host_budget, limits, listeners, routes, timeouts, upgrades, workers",
    ),
    (
        "drain_timeout: §${NOPE}",
        "drain_timeout: needs the environment variable NOPE, which is not set, got '${NOPE}', expected it"
        " set, or a default",
    ),
    (
        "drain_timeout: §${file:nope}",
        "drain_timeout: refers to a file that cannot be read (no such file or directory), got"
        " '${file:nope}', expected a readable file of at most 64KiB",
    ),
    (
        "drain_timeout: §'${NOPE'",
        "drain_timeout: has a '${' without its '}', got '${NOPE', expected ${ENV_VAR},"
        " ${ENV_VAR:-default} or ${file:PATH}; $${ for a literal ${",
    ),
]


@pytest.mark.parametrize("key, fault", TOP, ids=[case[0][:40] for case in TOP])
def test_faults_of_top_level_keys(key, fault):
    text, place = marked(f"{BASE}{key}\n")
    assert faults_of(text) == [f"{place}: {fault}"]


@pytest.mark.parametrize(
    "content, fault",
    [
        (b"", "1:1: is empty, expected a mapping with listeners, clusters and routes"),
        (b"# nothing\n", "1:1: is empty, expected a mapping with listeners, clusters and routes"),
        (b"a\n", "1:1: is not a mapping, got 'a', expected a mapping"),
        (b"---\n", "2:1: is not a mapping, got nothing, expected a mapping"),
        (b"a: b\nc: \xff\n", "2:4: is not UTF-8, got byte 0xff, expected UTF-8 text"),
        ("a: b".encode("utf-16"), "1:1: is not UTF-8, got byte 0xff, expected UTF-8 text"),
        (b"a: b\nc: \x00\n", "2:4: has a control character, got U+0000, expected printable text"),
        (b"a: \x1b[31m", "1:4: has a control character, got U+001B, expected printable text"),
        (b"[" * 100, "1:34: is nested too deeply, expected at most 32 levels"),
        (b"- " * 100 + b"a", "1:67: is nested too deeply, expected at most 32 levels"),
        (b"[" + b"a," * 100_001 + b"]", "1:200000: has too many values, expected at most 100000"),
    ],
)
def test_files_that_say_nothing(content, fault):
    assert faults_of(content) == [fault]


def test_listeners_are_required_and_something_to_do():
    assert faults_of("{}") == [
        "1:1: has neither clusters nor routes, got a mapping, expected at least one cluster or route",
        "1:1: listeners: is missing, expected a list",
    ]
    assert faults_of("listeners: []\nclusters: [{name: a, endpoints: []}]") == [
        "1:12: listeners: has too few or too many items, got a list, expected 1 to 128 listeners"
    ]


@pytest.mark.parametrize(
    "text, place", [("a: b: c\n", "7:5"), ("a: 'x\n", "8:1"), ("\ta: b\n", "7:1"), ("a: [1\n", "8:1")]
)
def test_syntax_errors_have_a_place(text, place):
    (fault,) = faults_of(BASE + text)
    # The C and the Python parser of the YAML library differ by a column here and there, and in their words.
    assert fault.split(":")[0] in (place.split(":")[0], "7")
    assert "is not valid YAML: " in fault


def test_all_faults_are_told_at_once_in_order_of_the_file():
    text = """\
listeners:
  - {bind: 8080, nam: a}
  - {bind: "[::1]:80", trusted_proxies: [foo, unix, 10.0.0.0/33]}
clusters:
  - {name: etl, timeouts: {connect: 5, idle: x}, pool: {max_idle: -1}, endpoints: []}
  - {name: etl, endpoints: []}
routes:
  - {match: {path: a}, cluster: elt}
  - {match: {listener: nope}}
drain_timeout: ${NOPE}
unknown: 1
"""
    assert [":".join(line.split(":")[:3]) for line in faults_of(text)] == [
        "2:12: listeners[0].bind",
        "2:18: listeners[0].nam",
        "3:42: listeners[1].trusted_proxies[0]",
        "3:53: listeners[1].trusted_proxies[2]",
        "5:37: clusters[0].timeouts.connect",
        "5:46: clusters[0].timeouts.idle",
        "5:67: clusters[0].pool.max_idle",
        "6:12: clusters[1].name",
        "8:20: routes[0].match.path",
        "8:33: routes[0].cluster",
        "9:5: routes[1]",
        "9:24: routes[1].match.listener",
        "10:16: drain_timeout",
        "11:1: unknown",
    ]


def test_aliases_cannot_multiply_without_bound():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (fault,) = faults_of("\n".join(lines))
    assert "has too many values through aliases, expected at most 100000" in fault


def test_more_than_1024_endpoints_are_a_fault_once():
    endpoints = ", ".join(f'{{address: "10.0.{n // 250}.{n % 250}:80"}}' for n in range(1026))
    (fault,) = faults_of(BASE.replace('{address: "127.0.0.1:9001"}', endpoints))
    assert "clusters[0].endpoints[1024]: is endpoint number 1025 of the file" in fault
    assert fault.endswith("expected at most 1024 endpoints in all clusters")


def test_a_flood_of_faults_is_cut():
    assert len(faults_of("\n".join(f"k{n}: 1" for n in range(3000)))) == MAX_FAULTS


@pytest.mark.parametrize("section", ["listeners", "clusters", "routes", "admin", "limits"])
def test_any_shape_of_a_section_is_a_fault_and_nothing_worse(section):
    for value in ("5", "a", "", "[]", "{}", "[1]", "[[]]", "[{}]", "{a: b}", "[null]", "'${X}'"):
        content = f"{section}: {value}\n".encode()
        with pytest.raises(InvalidConfig):
            load_bytes(content, "f", Path("/nonexistent"), {"X": "secret"})


# --- Secrets


def test_what_interpolation_brings_in_is_never_shown():
    text = """\
listeners: [{bind: "${S}", name: "${S}", trusted_proxies: ["${S}"], proxy_protocol: "${S}"}]
admin: {bind: "${S}", token: "${S} "}
workers: ${S}
clusters:
  - name: "${S}"
    balancer: "${S}"
    endpoints: [{address: "${S}", weight: "${S}", zone: "${S}"}]
    timeouts: {connect: "${S}"}
  - name: "${S}"
  - name: "${T}"
routes:
  - match: {listener: "${S}", host: "${S}", path: "${S}", methods: ["${S}"], headers: {a: "${S}"}}
    cluster: "${S}"
  - {match: {path: /a}, cluster: s3cr3t-toke}
  - {match: {path: /b}, redirect: {host: "${S}", status: "${S}"}}
limits: {header_bytes: "${S}"}
access_log: {sink: "${S}"}
upgrades: ["${S}"]
"""
    faults = faults_of(text, S="s3cr3t/token\n", T="s3cr3t-token")
    assert len(faults) > 20
    assert not any("s3cr3t/" in fault or "s3cr3t-token" in fault for fault in faults)


def test_a_token_in_the_file_is_not_shown_either():
    faults = faults_of(f"{BASE}admin: {{token: 'hunter2 hunter2'}}\n")
    assert faults == [
        "7:16: admin.token: is not a valid token, got (hidden), expected 1 to 1024 visible ASCII characters"
    ]


# --- Files


def test_places_where_no_log_can_be(tmp_path, monkeypatch):
    def faults(sink):
        text = BASE + f"access_log: {{sink: {sink}}}\n"
        try:
            load_bytes(text.encode(), "f", tmp_path, {})
        except InvalidConfig as error:
            return [str(fault).split("sink: ", 1)[1] for fault in error.faults]
        return []

    (tmp_path / "log").mkdir()
    (tmp_path / "old").touch()
    (folder,) = faults(tmp_path / "log")
    assert folder.startswith("is a directory, got ") and folder.endswith(", expected the path of a file")
    (missing,) = faults(tmp_path / "none" / "log")
    assert missing.startswith("is in a directory that does not exist, got ")
    (inside,) = faults(tmp_path / "old" / "log")
    assert inside.startswith("is in a directory that does not exist, got ")
    assert [faults(sink) for sink in (tmp_path / "new", tmp_path / "old", "/dev/null", "off", "stdout")] == [
        []
    ] * 5
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for name in ("old", "new"):
        (denied,) = faults(tmp_path / name)
        assert denied.startswith("cannot be written, got ")
    # What is served already goes on: nobody asks.
    load_bytes((BASE + "access_log: {sink: /none/log}\n").encode(), "f", tmp_path, {}, wall=None)


def test_files_that_cannot_be_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    for path, problem in [
        (tmp_path / "none.yaml", "cannot be read (no such file or directory)"),
        (tmp_path, "is a directory"),
        (pipe, "is not a regular file"),
        (large, "is too large"),
        (Path("a\0b"), "cannot be read (invalid name)"),
    ]:
        with pytest.raises(InvalidConfig) as caught:
            load_file(path)
        expected = "a readable file of at most 4096KiB"
        assert caught.value.faults == (Fault(str(path), 1, 1, "", problem, None, expected),)
