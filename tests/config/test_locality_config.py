"""How a file says which data requests need and what is known of endpoints: values, faults, and the snapshot."""

import pickle
from pathlib import Path

import pytest

from proxy.config.build import build_snapshot
from proxy.config.faults import InvalidConfig
from proxy.config.load import find_doubts, load_bytes
from proxy.config.slots import Slots
from proxy.policy.data_key import short_key
from proxy.policy.hashring import ring_points
from proxy.policy.locality import LocalityParams
from proxy.snapshot import DataSpec, ResidencySpec, SourceSpec

BASE = """\
listeners: [{bind: "127.0.0.1:8080"}]
clusters:
  - name: etl
    endpoints: [{address: "10.0.0.1:80", slots: 4, cache: 2GiB, bandwidth: 10MB}, {address: "10.0.0.2:80"}]
"""
AWARE = "balancer: data_locality_aware"
ROUTE = "{cluster: etl, locality: %s}"


def text_of(keys=(), routes=()):
    text = BASE + "".join(f"    {key}\n" for key in keys)
    if routes:
        text += "routes:\n" + "".join(f"  - {route}\n" for route in routes)
    return text


def load(keys=(), routes=()):
    return load_bytes(text_of(keys, routes).encode(), "f", Path("/nonexistent"), {})


def snapshot(keys=(), routes=()):
    return build_snapshot(load(keys, routes), generation=1, resolved={}, slots=Slots())


def fault(keys=(), routes=()):
    """The one fault of a file that has it where § stands."""
    text = text_of(keys, routes)
    before = text.partition("§")[0]
    place = f"f:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "
    with pytest.raises(InvalidConfig) as error:
        load_bytes(text.replace("§", "").encode(), "f", Path("/nonexistent"), {})
    told = str(error.value)
    assert told.startswith(place)
    return told.removeprefix(place)


def data(text):
    spec = snapshot([AWARE], [ROUTE % text]).routes[0].locality
    assert pickle.loads(pickle.dumps(spec)) == spec
    return spec


def test_endpoints_need_no_balancer_for_what_they_are():
    one, other = snapshot().clusters[0].endpoints
    assert (one.slots, one.cache_bytes, one.bandwidth_bytes_per_s) == (4, 2**31, 1e7)
    assert (other.slots, other.cache_bytes, other.bandwidth_bytes_per_s) == (0, 0, 0.0)


def test_a_cluster_that_goes_by_data_has_a_ring_and_defaults():
    spec = snapshot([AWARE]).clusters[0]
    assert spec.locality == LocalityParams()
    assert spec.ring == ring_points(("etl/10.0.0.1:80", "etl/10.0.0.2:80"))
    assert (spec.shadow, spec.strip_data_headers, spec.explain_header, spec.residency) == (
        "",
        False,
        "",
        None,
    )


def test_what_is_known_of_a_cluster():
    long = "k" * 65
    spec = snapshot(
        [
            AWARE,
            "shadow: least_connections",
            "locality:",
            "  bandwidth: 200MiB",
            "  cache: 2GiB",
            "  slots: 4",
            f"  sizes: {{a: 10MiB, {long}: 1KiB}}",
            "  zones: {east: 2ms}",
            "  max_keys: 7",
            "  max_load_percent: 150",
            "  strip_headers: true",
            "  explain_header: X-Why",
            "  residency: {path: /residency, timeout: 1s}",
        ]
    ).clusters[0]
    assert spec.locality == LocalityParams(
        slots=4,
        cache_bytes=2**31,
        bandwidth_bytes_per_s=200.0 * 2**20,
        sizes=((b"a", 10 * 2**20), (short_key(long.encode()), 1024)),
        zone_distance_s=(("east", 0.002),),
        max_keys=7,
        max_load_percent=150,
    )
    assert (spec.shadow, spec.strip_data_headers, spec.explain_header) == ("least_connections", True, "X-Why")
    assert spec.residency == ResidencySpec("/residency", 30.0, 1.0)
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_shadow_that_goes_by_data_makes_it_worth_saying():
    spec = snapshot(
        ["shadow: data_locality_aware", "locality: {slots: 2}"], [ROUTE % "{data_key: {query: d}}"]
    )
    assert spec.clusters[0].ring and spec.clusters[0].locality.slots == 2


def test_a_split_needs_one_cluster_that_goes_by_data():
    text = BASE + f"    {AWARE}\n  - name: other\n    endpoints: []\n"
    text += "routes: [{split: [{cluster: etl}, {cluster: other}], locality: {data_key: {query: d}}}]\n"
    assert load_bytes(text.encode(), "f", Path("/nonexistent"), {}).routes[0].locality is not None


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("{data_key: {header: X-Dataset-Id}}", DataSpec(keys=(SourceSpec(header="x-dataset-id"),))),
        (
            '{data_key: [{query: d}, {path: "/d/{d}/…"}, {cookie: c}]}',
            DataSpec(keys=(SourceSpec(query="d"), SourceSpec(path="/d/{d}"), SourceSpec(cookie="c"))),
        ),
        (
            "{data_key: [{json: /a/b~1c, max_body: 1MiB}]}",
            DataSpec(keys=(SourceSpec(json="/a/b~1c", max_body_bytes=2**20),)),
        ),
        (
            "{size: {header: X-Bytes}, processing_type: {query: type}}",
            DataSpec(size=SourceSpec(header="x-bytes"), work_class=SourceSpec(query="type")),
        ),
        (
            "{tags: {header: X-Data-Affinity}}",
            DataSpec(tags=SourceSpec(header="x-data-affinity"), tag_distance_s=0.05),
        ),
        (
            "{tags: {cookie: t, as: require}, require: [gpu], prefer: {ssd: 20ms}}",
            DataSpec(
                tags=SourceSpec(cookie="t"),
                requires_tags=True,
                tag_distance_s=0.05,
                require=frozenset({"gpu"}),
                prefer=(("ssd", 0.02),),
            ),
        ),
    ],
)
def test_what_tells_the_data_of_a_request(text, spec):
    assert data(text) == spec


SOURCES = "header, query, path, cookie, json, function"
PLAIN = "header, query, path, cookie"
TEMPLATE = "a path such as /datasets/{dataset}, at most one {name} between two slashes"
POINTER = "a JSON pointer such as /dataset or /query/tables/0"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("§{}", "routes[0].locality: names nothing, got a mapping, expected where the data key is, such as data_key:"
         " {header: X-Dataset-Id}"),
        ("§", "routes[0].locality: is empty, got nothing, expected a mapping, or no such key"),
        ("{data_key: §{}}", f"routes[0].locality.data_key: names no source, got a mapping, expected exactly one"
         f" of {SOURCES}"),
        ("{data_key: §{header: a, json: /b}}", "routes[0].locality.data_key: names several sources: header, json,"
         f" got a mapping, expected exactly one of {SOURCES}"),
        ("{data_key: §[]}", "routes[0].locality.data_key: has too few or too many items, got a list, expected 1"
         " to 8 sources"),
        ("{data_key: §X-Id}", "routes[0].locality.data_key: is not a list, got 'X-Id', expected a list"),
        ("{data_key: {§headr: a}}", "routes[0].locality.data_key.headr: is not a known key, got 'headr', expected"
         " one of cookie, function, header, json, max_body, path, query, timeout; did you mean 'header'?"),
        ("{data_key: [{query: a}, {path: §/datasets}]}", "routes[0].locality.data_key[1].path: has no {name}, so"
         f" it would name the same data for all, got '/datasets', expected {TEMPLATE}"),
        ('{data_key: {path: §"/d/{a}{b}"}}', "routes[0].locality.data_key.path: is not a path template, got"
         f" '/d/{{a}}{{b}}', expected {TEMPLATE}"),
        ('{data_key: {path: §"/d/{a/b}"}}', "routes[0].locality.data_key.path: is not a path template, got"
         f" '/d/{{a/b}}', expected {TEMPLATE}"),
        ("{data_key: {json: §dataset}}", "routes[0].locality.data_key.json: is not a JSON pointer, got 'dataset',"
         f" expected {POINTER}"),
        ("{data_key: {json: §/a~2}}", "routes[0].locality.data_key.json: has a ~ that is no escape, got '/a~2',"
         " expected ~0 for ~ and ~1 for /"),
        ("{data_key: §{header: a, max_body: 1KiB}}", "routes[0].locality.data_key: has a max_body without json,"
         " got a mapping, expected json, or no such key"),
        ("{data_key: {json: /a, max_body: §1GiB}}", "routes[0].locality.data_key.max_body: is out of range, got"
         " '1GiB', expected 1B to 1MiB"),
        ("{data_key: §{header: a, timeout: 1ms}}", "routes[0].locality.data_key: has a timeout without function,"
         " got a mapping, expected function, or no such key"),
        ('{data_key: {function: §"keys_of"}}', "routes[0].locality.data_key.function: is not a function's name,"
         " got 'keys_of', expected module:function, such as site_keys:keys_of"),
        ("{size: {§json: /a, header: b}}", "routes[0].locality.size.json: is not a known key, got 'json', expected one"
         " of cookie, header, path, query"),
        ("{size: §{}}", f"routes[0].locality.size: names no source, got a mapping, expected exactly one of {PLAIN}"),
        ("{tags: {header: a, as: §prefers}}", "routes[0].locality.tags.as: is not known, got 'prefers', expected"
         " one of prefer, require; did you mean 'prefer'?"),
        ("{require: [§a b]}", "routes[0].locality.require[0]: is not a valid name, got 'a b', expected 1 to 63"
         " letters, digits, '-', '_' or '.', beginning with a letter or digit"),
    ],
)  # fmt: skip
def test_faults_of_a_route(text, told):
    assert fault([AWARE], [ROUTE % text]) == told


def test_a_route_whose_cluster_does_not_look_at_it():
    assert fault([], [ROUTE % "§{data_key: {query: d}}"]) == (
        "routes[0].locality: has no effect: its cluster's balancer is round_robin, got a mapping, expected"
        " balancer: data_locality_aware in that cluster, or no such key"
    )
    assert fault([AWARE], ["{respond: {}, locality: §{data_key: {query: d}}}"]) == (
        "routes[0].locality: has no effect with respond, got a mapping, expected no locality"
    )


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["locality: §{slots: 4}"], "clusters[0].locality: has no effect with round_robin, got a mapping,"
         " expected balancer: data_locality_aware"),
        (["balancer: p2c", "shadow: §p2c"], "clusters[0].shadow: is the balancer itself, got 'p2c', expected"
         " another balancer, or no such key"),
        ([AWARE, "locality:§"], "clusters[0].locality: is not a mapping, got nothing, expected a mapping"),
        ([AWARE, "locality: {max_keys: §0}"], "clusters[0].locality.max_keys: is out of range, got 0, expected a"
         " whole number of at least 1"),
        ([AWARE, "locality: {residency: {path: §residency}}"], "clusters[0].locality.residency.path: is not a"
         " valid path, got 'residency', expected a plain path that begins with '/', such as /query, without '.' or"
         " '..' segments, '?' or '#'"),
        ([AWARE, "locality: {residency: {path: /r, interval: §10ms}}"], "clusters[0].locality.residency.interval:"
         " is too short, got '10ms', expected at least 1s"),
        ([AWARE, "locality: {sizes: {k: §0}}"], "clusters[0].locality.sizes.k: is out of range, got 0, expected 1B"
         " to 1024TiB"),
        ([AWARE, 'locality: {sizes: {§"a\\tb": 1KiB}}'], "clusters[0].locality.sizes.a\\tb: is not a data key, got"
         " 'a\\tb', expected 1 to 1024 bytes without control characters"),
    ],
)  # fmt: skip
def test_faults_of_a_cluster(keys, told):
    assert fault(keys) == told


def doubts(tmp_path, keys, routes=()):
    """What is odd about a file without faults, as (path, problem)."""
    file = tmp_path / "homeport.yaml"
    file.write_text(text_of(keys, routes))
    load_bytes(file.read_bytes(), "f", tmp_path, {})
    return [(doubt.path, doubt.message) for doubt in find_doubts(file, {})]


def test_tags_that_nobody_has_are_told(tmp_path):
    tagged = ROUTE % "{data_key: {query: d}, require: [gpu]}"
    problem = "has tags that no endpoint of cluster etl has together, so none may have such a request"
    assert doubts(tmp_path, [AWARE], [tagged]) == [("routes[0].locality.require", problem)]
    assert doubts(tmp_path, [AWARE, "discovery: {docker: {}}"], [tagged]) == [], "who knows"
    assert doubts(tmp_path, ["shadow: data_locality_aware"], [tagged]) == [], "the balancer does not look"
    assert doubts(tmp_path, [AWARE], [ROUTE % "{data_key: {query: d}}"]) == []


def test_zones_without_endpoints_and_tiny_caches_are_told(tmp_path):
    found = doubts(tmp_path, [AWARE, "locality: {zones: {moon: 1s}, cache: 1B}"])
    assert found == [
        ("clusters[0].locality.zones.moon", "is the distance of a zone that no endpoint is in"),
        ("clusters[0].locality.cache", "holds next to no data"),
    ]
    assert doubts(tmp_path, [AWARE, "discovery: {docker: {}}", "locality: {zones: {moon: 1s}}"]) == []
    assert doubts(tmp_path, [AWARE, "locality: {cache: 0}"]) == []


def test_both_times_of_residency_are_told():
    with pytest.raises(InvalidConfig) as error:
        load([AWARE, "locality: {residency: {path: /r, interval: 10ms, timeout: 1ms}}"])
    assert [fault.path.rpartition(".")[2] for fault in error.value.faults] == ["interval", "timeout"]


def test_a_shadow_that_hashes_needs_to_know_what():
    with pytest.raises(
        InvalidConfig, match="clusters.0..hash: is missing, though the shadow is consistent_hashing"
    ):
        load([AWARE, "shadow: consistent_hashing"])
    assert load([AWARE, "shadow: consistent_hashing", "hash: {path: true}"]).clusters[0].hash is not None
