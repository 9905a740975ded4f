import pytest

from proxy.policy.rewrite import FieldEdits, PathRewrite, Redirect, compile_edits, compile_host
from proxy.snapshot import HeaderEdits, RedirectSpec


@pytest.mark.parametrize(
    ("strip", "prefix", "raw", "forwarded"),
    [
        ("/query", "", b"/query/a/b", b"/a/b"),
        ("/query/", "", b"/query/a/b", b"/a/b"),
        ("/query", "", b"/query/", b"/"),
        ("/query", "", b"/query", b"/"),
        ("/query", "/v2", b"/query", b"/v2"),
        ("/query", "/v2/", b"/query/a", b"/v2/a"),
        ("", "/v2", b"/a/../b", b"/v2/a/../b"),
        ("/", "/v2", b"/a", b"/v2/a"),
        ("/query", "/", b"/query/a", b"/a"),
        # Nothing to take off.
        ("/query", "", b"/queryx/a", b"/queryx/a"),
        ("/query", "/v2", b"/other", b"/v2/other"),
        ("/a/b/c", "", b"/a/b", b"/a/b"),
        # The client's escapes stay, in what is left, however it wrote the prefix.
        ("/query", "", b"/query/a%26b%2e", b"/a%26b%2e"),
        ("/query", "", b"/%71uery/a%26b", b"/a%26b"),
        ("/my data", "", b"/my%20data/x", b"/x"),
        ("/my data", "", b"/m%79%20data/x", b"/x"),
        ("/ü", "/é", b"/%c3%bc/x", b"/%C3%A9/x"),
        # Dot segments are resolved before the prefix is taken off, so none can climb above the root.
        ("/query", "", b"/query/../query/x", b"/x"),
        ("/query", "", b"/query/./x", b"/x"),
        ("/query", "", b"/x/%2e%2e/query/y", b"/y"),
        ("/query", "", b"/query/.hidden", b"/.hidden"),
        ("/query", "", b"/query/x/../../admin", b"/query/x/../../admin"),
        # No authority comes out.
        ("/query", "", b"/query//evil.com/x", b"/evil.com/x"),
        ("/query", "", b"/%71uery///evil.com", b"/evil.com"),
        ("/query", "/v2", b"/query//evil.com", b"/v2//evil.com"),
        ("/query", "", b"//evil.com", b"/evil.com"),
        # The asterisk form is no path.
        ("/query", "/v2", b"*", b"*"),
    ],
)
def test_path(strip, prefix, raw, forwarded):
    assert PathRewrite(strip, prefix).apply(raw) == forwarded


def test_edits_remove_what_they_set():
    edits = HeaderEdits(set=(("X-A", "1"), ("x-b", "grün")), remove=("X-C",))
    assert compile_edits(edits) == FieldEdits(
        frozenset({b"x-a", b"x-b", b"x-c"}), "\r\nX-A: 1\r\nx-b: grün".encode()
    )
    assert compile_edits(HeaderEdits()) == FieldEdits()


@pytest.mark.parametrize(
    "edits",
    [
        HeaderEdits(set=(("X-A", "1\r\nX-Evil: 1"),)),
        HeaderEdits(set=(("X-A", "1\n"),)),
        HeaderEdits(set=(("X-A", "\0"),)),
        HeaderEdits(set=(("X A", "1"),)),
        HeaderEdits(set=(("", "1"),)),
        HeaderEdits(remove=("X-A:",)),
        HeaderEdits(remove=("X-Ä",)),
    ],
)
def test_edits_refuse_what_is_no_field(edits):
    with pytest.raises(ValueError, match="header field"):
        compile_edits(edits)


def test_host():
    assert compile_host("") == b""
    assert compile_host("[::1]:80") == b"[::1]:80"
    for host in ("a b", "a\r\nb", "user@a", "a/b", "ä"):
        with pytest.raises(ValueError, match="host"):
            compile_host(host)


@pytest.mark.parametrize(
    ("spec", "raw", "query", "location"),
    [
        # A scheme alone: the client's host, without its port.
        (RedirectSpec(scheme="https"), b"/a%20b", b"?c=1", b"https://a.example.com/a%20b?c=1"),
        (RedirectSpec(host="b.example.com:8443"), b"/a", b"", b"http://b.example.com:8443/a"),
        (RedirectSpec(scheme="https", host="b"), b"/a", b"", b"https://b/a"),
        # Neither: relative.
        (RedirectSpec(path="/new place"), b"/old/a", b"?c=1", b"/new%20place?c=1"),
        (RedirectSpec(path_prefix="/new"), b"/old/a", b"?c=1", b"/new/a?c=1"),
        (RedirectSpec(path_prefix="/"), b"/old/a", b"", b"/a"),
        (RedirectSpec(path_prefix="/"), b"/old", b"?c", b"/?c"),
        (RedirectSpec(), b"/old", b"", b"/old"),
        # Tricks.
        (RedirectSpec(), b"//evil.com", b"", b"/evil.com"),
        (RedirectSpec(path_prefix="/"), b"/old//evil.com", b"", b"/evil.com"),
        (RedirectSpec(path_prefix="/"), b"/old/\\evil.com", b"", b"/%5Cevil.com"),
        (RedirectSpec(path_prefix="/"), b"/old/.//evil.com", b"", b"/evil.com"),
        (RedirectSpec(scheme="https"), b"//evil.com", b"", b"https://a.example.com//evil.com"),
        (RedirectSpec(scheme="https"), b"@evil.com", b"", b"https://a.example.com/"),
        (RedirectSpec(), b"/a", b"?\r\nX-Evil: 1", b"/a?%0D%0AX-Evil:%201"),
        (RedirectSpec(), b"/a", b'?\xff#"<>', b"/a?%FF%23%22%3C%3E"),
        (RedirectSpec(scheme="https"), b"*", b"", b"https://a.example.com/"),
        (RedirectSpec(), b"*", b"", b"/"),
    ],
)
def test_location(spec, raw, query, location):
    assert Redirect(spec, "/old").location(b"http", b"a.example.com:8080", raw, query) == location


@pytest.mark.parametrize(
    ("host", "location"),
    [
        (b"[::1]:8080", b"https://[::1]/a"),
        (b"[::1]", b"https://[::1]/a"),
        (b"a:", b"https://a/a"),
        # Without a usable host there is only the path.
        (b"", b"/a"),
        (b"a@evil.com", b"/a"),
        (b"a/../b", b"/a"),
        (b"a\r\nX-Evil: 1", b"/a"),
    ],
)
def test_location_with_the_clients_host(host, location):
    assert Redirect(RedirectSpec(scheme="https"), "").location(b"http", host, b"/a", b"") == location
