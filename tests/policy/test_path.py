import pytest

from proxy.errors import DownstreamError, Reason
from proxy.policy.path import decode_path, encode_path, routing_path, without_dot_segments


@pytest.mark.parametrize(
    ("raw", "routed"),
    [
        (b"/", "/"),
        (b"/api/v1/rows", "/api/v1/rows"),
        (b"/a/", "/a/"),
        (b"*", "*"),
        # Escapes are decoded once.
        (b"/%61dmin", "/admin"),
        (b"/a%20b", "/a b"),
        (b"/a%252fb", "/a%2fb"),
        (b"/%252e%252e/admin", "/%2e%2e/admin"),
        (b"/%3Fx%23y", "/?x#y"),
        (b"/a%0Ab%01%7f", "/a\nb\x01\x7f"),
        (b"/caf%C3%A9", "/café"),
        (b"/caf%E9", "/caf\udce9"),
        # Dot segments are removed (the examples of RFC 3986 5.2.4 and 5.4 among them).
        (b"/x/../admin", "/admin"),
        (b"/./admin", "/admin"),
        (b"/x/%2e%2E/admin", "/admin"),
        (b"/x/.%2e/%61dmin", "/admin"),
        (b"/%2e/admin", "/admin"),
        (b"/a/b/c/./../../g", "/a/g"),
        (b"/b/c/..", "/b/"),
        (b"/b/c/.", "/b/c/"),
        (b"/b/c/../", "/b/"),
        (b"/b/%2e%2e", "/"),
        (b"/.", "/"),
        (b"/..a/...", "/..a/..."),
        (b"/.well-known/x..y", "/.well-known/x..y"),
        (b"/%2egit", "/.git"),
        # Empty segments stay.
        (b"//", "//"),
        (b"//a///b//", "//a///b//"),
        (b"/a//./b", "/a//b"),
        # Visible characters that should be escaped, but are not by everybody.
        (b'/a|b{c}"<>^`[]', '/a|b{c}"<>^`[]'),
        (b"/a;v=1/b", "/a;v=1/b"),
    ],
)
def test_routes_on(raw, routed):
    assert routing_path(raw) == routed


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"admin",
        b"**",
        b"http://a/",
        b"/a%2fb",
        b"/a%2Fb",
        b"/..%2fadmin",
        b"/a%5cb",
        b"/a%5Cb",
        b"/a\\b",
        b"/a%00",
        b"/a%zz",
        b"/a%",
        b"/a%4",
        b"/a%4/b",
        b"/%%41",
        b"/..",
        b"/../admin",
        b"/a/../../admin",
        b"/%2e%2e/admin",
        b"/./../admin",
        b"/a//../b",
        b"//..",
        b"/..;/admin",
        b"/x/..;a=1/admin",
        b"/x/.;/admin",
        b"/x/%2e%2e%3b/admin",
        b"/a#b",
        b"/a?b",
        b"/a b",
        b"/a\tb",
        b"/a\x00b",
        b"/a\x7fb",
        b"/caf\xc3\xa9",
        b"/./caf\xe9",
    ],
)
def test_refuses(raw):
    with pytest.raises(DownstreamError) as caught:
        routing_path(raw)
    assert caught.value.reason is Reason.BAD_TARGET


def test_removing_dot_segments_keeps_other_escapes():
    assert without_dot_segments(b"/x/%2E%2e/%71uery/./a%26b%2Ec") == b"/%71uery/a%26b%2Ec"


def test_encode_and_decode():
    assert encode_path("/a b/ü%?#\n") == b"/a%20b/%C3%BC%25%3F%23%0A"
    assert encode_path("/a-b._~!$&'()*+,;=:@") == b"/a-b._~!$&'()*+,;=:@"
    assert decode_path(b"/a%20b/%c3%BC%25%3F%23%0A") == "/a b/ü%?#\n"
    assert encode_path(decode_path(b"/caf%E9")) == b"/caf%E9"
