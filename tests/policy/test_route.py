from collections import Counter
from random import Random

import pytest

from proxy.errors import Reason
from proxy.policy.rewrite import FieldEdits
from proxy.policy.route import Miss, RouteTable
from proxy.snapshot import (
    HeaderEdits,
    MatchSpec,
    RedirectSpec,
    RespondSpec,
    RewriteSpec,
    RouteSpec,
    SplitSpec,
)

TO_A = SplitSpec((("a", 1),))


def table(*matches):
    """Routes named by their position."""
    return RouteTable(RouteSpec(str(i), match, TO_A) for i, match in enumerate(matches))


def taken(routes, path="/", *, listener="edge", host="", method=b"GET", fields=None):
    found = routes.match(listener, host, path, method, (fields or {}).get)
    return None if found is None else found.index


def missed(routes, path="/", *, listener="edge", host="", fields=None):
    return routes.miss(listener, host, path, (fields or {}).get)


def test_listener_first():
    routes = table(
        MatchSpec(host="a.example.com", path="/x"),
        MatchSpec(listener="inner"),
        MatchSpec(listener="edge", path_prefix="/y"),
    )
    assert taken(routes, "/x", host="a.example.com", listener="inner") == 1
    assert taken(routes, "/x", host="a.example.com") == 0
    assert taken(routes, "/y", host="a.example.com") == 2
    # One that no route names.
    assert taken(routes, "/x", host="a.example.com", listener="other") == 0
    assert taken(routes, "/y", listener="other") is None


def test_hosts():
    routes = table(
        MatchSpec(),
        MatchSpec(host="*.example.com"),
        MatchSpec(host="*.a.example.com"),
        MatchSpec(host="b.a.example.com"),
        MatchSpec(host="*", path="/any"),
    )
    expected = {
        "b.a.example.com": 3,
        "b.a.example.com.": 3,
        "c.a.example.com": 2,
        "c.b.a.example.com": 2,
        "a.example.com": 1,
        "d.e.example.com": 1,
        "d.e.example.com.": 1,
        "example.com": 0,
        ".example.com": 0,
        "xexample.com": 0,
        "[::1]": 0,
        "": 0,
    }
    assert {host: taken(routes, host=host) for host in expected} == expected
    assert taken(routes, "/any", host="example.com") == 4
    assert taken(routes, "/any", host="d.example.com") == 1


def test_falls_through_to_less_specific_hosts_and_listeners():
    routes = table(
        MatchSpec(path="/all"),
        MatchSpec(host="*.com", path="/com"),
        MatchSpec(host="*.example.com", path="/example"),
        MatchSpec(host="a.example.com", path="/a"),
        MatchSpec(listener="edge", host="a.example.com", path="/edge"),
        MatchSpec(listener="edge", path="/edge-all"),
    )
    for index, path in enumerate(["/all", "/com", "/example", "/a", "/edge", "/edge-all"]):
        assert taken(routes, path, host="a.example.com") == index
    assert taken(routes, "/a", host="b.example.com") is None
    assert taken(routes, "/com", host="b.example.com") == 1
    assert taken(routes, "/edge", host="a.example.com", listener="inner") is None


def test_paths():
    routes = table(
        MatchSpec(path_prefix="/"),
        MatchSpec(path_prefix="/query"),
        MatchSpec(path_prefix="/query/deep/"),
        MatchSpec(path="/query/deep/exact"),
        MatchSpec(),
    )
    expected = {
        "/": 0,
        "*": 0,
        "/queryx": 0,
        "//query": 0,
        "/query": 1,
        "/query/": 1,
        "/query/deepx": 1,
        "/query//deep": 1,
        "/query/deep": 2,
        "/query/deep/": 2,
        "/query/deep/exact/": 2,
        "/query/deep/" + "x/" * 5000: 2,
        "/query/deep/exact": 3,
    }
    assert {path: taken(routes, path) for path in expected} == expected


def test_path_and_prefix_must_both_hold():
    routes = table(MatchSpec(path="/a/b", path_prefix="/a"), MatchSpec(path="/c", path_prefix="/d"))
    assert taken(routes, "/a/b") == 0
    assert taken(routes, "/a/c") is None
    assert taken(routes, "/c") is None


def test_more_header_conditions_then_methods_then_the_files_order():
    routes = table(
        MatchSpec(),
        MatchSpec(),
        MatchSpec(methods=frozenset({"GET", "PUT"})),
        MatchSpec(headers=(("x-tenant", "acme"),)),
        MatchSpec(headers=(("x-tenant", "acme"),), methods=frozenset({"GET"})),
        MatchSpec(headers=(("x-tenant", "*"), ("x-b", "1"))),
    )
    assert taken(routes, method=b"POST") == 0
    assert taken(routes, method=b"PUT") == 2
    assert taken(routes, method=b"HEAD") == 0
    assert taken(routes, method=b"PUT", fields={b"x-tenant": b"acme"}) == 3
    assert taken(routes, fields={b"x-tenant": b"acme"}) == 4
    assert taken(routes, fields={b"x-tenant": b"Acme"}) == 2
    assert taken(routes, fields={b"x-tenant": b"", b"x-b": b"1"}) == 5


def test_fields_are_looked_up_only_when_asked_for():
    def field(name):
        raise AssertionError(name)

    routes = table(MatchSpec(path="/a", headers=(("x-a", "1"),)), MatchSpec())
    assert routes.match("edge", "", "/b", b"GET", field).index == 1


def test_miss_by_host():
    named = table(MatchSpec(host="a.example.com"), MatchSpec(listener="inner"))
    assert missed(named, host="b.example.com") == Miss(Reason.MISDIRECTED)
    assert missed(named, host="") == Miss(Reason.MISDIRECTED)
    path_only = table(MatchSpec(host="a.example.com"), MatchSpec(path="/x"))
    assert missed(path_only, "/y", host="b.example.com") == Miss(Reason.NO_ROUTE)


def test_miss_without_any_route():
    assert missed(table(), host="a") == Miss(Reason.NO_ROUTE)
    assert missed(table(MatchSpec(listener="inner", host="a")), host="b") == Miss(Reason.NO_ROUTE)


def test_miss_by_method():
    routes = table(
        MatchSpec(path_prefix="/a", methods=frozenset({"PUT", "GET"})),
        MatchSpec(path="/a/b", methods=frozenset({"POST"})),
        MatchSpec(path="/a/b", methods=frozenset({"DELETE"}), headers=(("x-admin", "*"),)),
    )
    assert taken(routes, "/a/b", method=b"PATCH") is None
    assert missed(routes, "/a/b") == Miss(Reason.METHOD_NOT_ALLOWED, b"GET, POST, PUT")
    assert missed(routes, "/a/c") == Miss(Reason.METHOD_NOT_ALLOWED, b"GET, PUT")
    assert missed(routes, "/a/b", fields={b"x-admin": b"1"}).allow == b"DELETE, GET, POST, PUT"
    assert missed(routes, "/b") == Miss(Reason.NO_ROUTE)


def compiled(action=TO_A, rewrite=RewriteSpec(), match=MatchSpec()):  # noqa: B008 - frozen
    return RouteTable([RouteSpec("r", match, action, rewrite)]).routes[0]


def test_route_without_rewrite_leaves_the_target_alone():
    route = compiled()
    assert route.rewrite_target(b"//a/../b%2e", b"?x=%zz") == b"//a/../b%2e?x=%zz"
    assert (route.host, route.request_edits, route.response_edits) == (b"", FieldEdits(), FieldEdits())
    assert repr(route) == "<CompiledRoute 0 'r'>"


def test_route_with_rewrite():
    edits = HeaderEdits(set=(("X-A", "1"),))
    route = compiled(rewrite=RewriteSpec("/query", "/v2", "inner:80", edits, HeaderEdits(remove=("Server",))))
    assert route.rewrite_target(b"/query/a", b"?/query") == b"/v2/a?/query"
    assert route.host == b"inner:80"
    assert route.request_edits == FieldEdits(frozenset({b"x-a"}), b"\r\nX-A: 1")
    assert route.response_edits == FieldEdits(frozenset({b"server"}), b"")


def test_redirect_replaces_the_prefix_that_matched():
    route = compiled(RedirectSpec(path_prefix="/new"), match=MatchSpec(path_prefix="/old"))
    assert route.redirect_location(b"http", b"a", b"/old/x", b"?y") == b"/new/x?y"
    assert route.only_cluster is None


def test_fixed_response_has_its_lines():
    assert compiled(RespondSpec(headers=(("X-A", "1"),))).respond_fields == b"\r\nX-A: 1"


def test_one_cluster_needs_no_chance():
    route = compiled(SplitSpec((("a", 0), ("b", 3), ("c", 0))))
    assert route.only_cluster == "b"
    assert route.choose_cluster(None) == "b"


def test_split_by_weight():
    class Dice(Random):
        def random(self):
            return draws.pop(0)

    route = compiled(SplitSpec((("a", 1), ("never", 0), ("b", 3))))
    draws = [0.0, 0.2499, 0.25, 0.9999999999999999]
    assert [route.choose_cluster(Dice()) for _ in range(4)] == ["a", "a", "b", "b"]
    rng = Random(1)
    counts = Counter(route.choose_cluster(rng) for _ in range(10_000))
    # Four standard deviations of a binomial with p = 0.25: 173.
    assert abs(counts["a"] - 2500) < 173
    assert counts["never"] == 0


def test_impossible_fields_are_refused_when_the_table_is_built():
    with pytest.raises(ValueError, match="control character"):
        compiled(rewrite=RewriteSpec(request_headers=HeaderEdits(set=(("X-A", "\n"),))))
