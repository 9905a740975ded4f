"""The route table agrees with the stated precedence, applied literally to a list."""

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Reason
from proxy.policy.route import RouteTable
from proxy.snapshot import MatchSpec, RouteSpec, SplitSpec

LISTENERS = ("edge", "inner")
HOSTS = ["a.b.com", "b.com", "x.a.b.com", "a.org", "com", ""]
PATTERNS = ["", "", "*", "*.b.com", "*.com", "*.a.b.com", "a.b.com", "b.com", "a.org"]
PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "//a", "/b/a/a", "*"]
PREFIXES = ["", "", "/", "/a", "/a/", "/a/b", "/b/a", "/ab"]
FIELDS = [(), (("x-a", "1"),), (("x-a", "*"),), (("x-a", "2"), ("x-b", "*"))]
METHODS = ["GET", "PUT", "POST"]

matches = st.builds(
    MatchSpec,
    listener=st.sampled_from(["", "", *LISTENERS]),
    host=st.sampled_from(PATTERNS),
    path=st.sampled_from(["", "", "", *PATHS[:-1]]),
    path_prefix=st.sampled_from(PREFIXES),
    methods=st.frozensets(st.sampled_from(METHODS), max_size=2),
    headers=st.sampled_from(FIELDS),
)
requests = st.tuples(
    st.sampled_from([*LISTENERS, "gone"]),
    st.sampled_from(HOSTS),
    st.sampled_from(PATHS),
    st.sampled_from([method.encode() for method in METHODS]),
    st.dictionaries(st.sampled_from([b"x-a", b"x-b"]), st.sampled_from([b"1", b"2"])),
)


def host_holds(pattern, host):
    if pattern in ("", "*"):
        return True
    return host.endswith(pattern[1:]) if pattern.startswith("*") else host == pattern


def prefix_holds(prefix, path):
    bare = prefix.rstrip("/")
    return not bare or path == bare or path.startswith(bare + "/")


def holds(match, listener, host, path, fields):
    return (
        match.listener in ("", listener)
        and host_holds(match.host, host)
        and match.path in ("", path)
        and prefix_holds(match.path_prefix, path)
        and all(
            fields.get(name.encode()) is not None
            and (value == "*" or fields[name.encode()] == value.encode())
            for name, value in match.headers
        )
    )


def rank(match, index):
    is_exact_host = bool(match.host) and not match.host.startswith("*")
    wildcard = len(match.host) if match.host.startswith("*.") else 0
    # Without a path, `/` and no prefix are both every path: `MatchSpec` cannot tell them apart.
    prefix = 0 if match.path else len(match.path_prefix.rstrip("/"))
    return (
        not match.listener,
        not is_exact_host,
        -wildcard,
        not match.path,
        -prefix,
        -len(match.headers),
        not match.methods,
        index,
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(matches, max_size=8), st.lists(requests, min_size=1, max_size=6))
def test_agrees_with_the_precedence(specs, asked):
    table = RouteTable(RouteSpec(str(i), match, SplitSpec((("c", 1),))) for i, match in enumerate(specs))
    for listener, host, path, method, fields in asked:
        here = [(rank(m, i), m) for i, m in enumerate(specs) if holds(m, listener, host, path, fields)]
        fitting = [key for key, match in here if not match.methods or method.decode() in match.methods]
        found = table.match(listener, host, path, method, fields.get)
        assert (found.index if found else None) == (min(fitting)[-1] if fitting else None)
        if found is None:
            miss = table.miss(listener, host, path, fields.get)
            assert (miss.reason, miss.allow) == refusal(specs, listener, host, here)


def refusal(specs, listener, host, here):
    of_listener = [match for match in specs if match.listener in ("", listener)]
    if of_listener and not any(host_holds(match.host, host) for match in of_listener):
        return Reason.MISDIRECTED, b""
    allowed = {name.encode() for _, match in here for name in match.methods}
    if allowed:
        return Reason.METHOD_NOT_ALLOWED, b", ".join(sorted(allowed))
    return Reason.NO_ROUTE, b""
