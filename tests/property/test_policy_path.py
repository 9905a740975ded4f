"""Paths: what is accepted has one reading, and rewriting keeps it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import DownstreamError, Reason
from proxy.policy.path import encode_path, routing_path
from proxy.policy.rewrite import PathRewrite, Redirect
from proxy.snapshot import RedirectSpec

PIECES = st.sampled_from(
    [
        b"/",
        b"/",
        b"/",
        b"a",
        b"b",
        b".",
        b"..",
        b"%2e",
        b"%61",
        b"%25",
        b"%2F",
        b";",
        b"%20",
        b"\xff",
        b"%",
        b"\\",
    ]
)
RAW = st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces))
ANY = RAW | st.binary(max_size=30) | st.binary(max_size=30).map(lambda tail: b"/" + tail)


def accepted(raw):
    try:
        return routing_path(raw)
    except DownstreamError as error:
        assert error.reason is Reason.BAD_TARGET
        return None


@settings(deadline=None)
@given(ANY)
def test_routing_path_is_clean_and_stable(raw):
    path = accepted(raw)
    if path is None or path == "*":
        return
    assert path.startswith("/")
    assert not {".", ".."} & set(path.split("/"))
    assert "\\" not in path and "\0" not in path
    # Escaped and routed again it is the same path.
    assert routing_path(encode_path(path)) == path


@settings(deadline=None)
@given(RAW)
def test_stripping_a_prefix_commutes_with_routing(raw):
    path = accepted(raw)
    if path is None:
        return
    forwarded = PathRewrite("/a", "").apply(raw)
    routed = routing_path(forwarded)
    if path == "/a" or path.startswith("/a/"):
        rest = path[2:]
        # Slashes at the front are made one, so that no authority comes out.
        assert routed == "/" + rest.lstrip("/")
    assert not forwarded.startswith(b"//")


@settings(deadline=None)
@given(RAW)
def test_a_prefix_in_front_holds_the_path_beneath_it(raw):
    path = accepted(raw)
    if path is not None:
        assert routing_path(PathRewrite("/a", "/v2").apply(raw)).startswith("/v2")


@settings(deadline=None)
@given(ANY, st.binary(max_size=20), st.binary(max_size=20), st.sampled_from(["", "https"]))
def test_location_holds_what_is_configured(raw, query, host, scheme):
    location = Redirect(RedirectSpec(scheme=scheme), "/a").location(b"http", host, raw, query)
    assert all(0x21 <= byte <= 0x7E for byte in location)
    assert not location.startswith(b"//")
    assert location.startswith(b"/") or location.startswith(b"https://")
    if location.startswith(b"https://"):
        authority = location[8:].split(b"/")[0].split(b"?")[0]
        assert host.startswith(authority) and b"@" not in authority
