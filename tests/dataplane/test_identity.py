"""Who the client is, as the endpoint is told: from peers that are trusted, and from all others."""

import pytest

from proxy.dataplane.forwarding import ClientIdentity, TrustedProxies, forwarded_node
from proxy.dataplane.request_head import parse_request

CLAIMS = (
    b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n"
    b"X-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Server: s\r\nx_forwarded_for: 7.7.7.7\r\n"
)


def head(fields=b"", host=b"t.test"):
    return parse_request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n" + fields + b"\r\n", 100, frozenset())


def lines(identity, *request):
    return identity.lines(head(*request)).decode().split("\r\n")[1:]


@pytest.mark.parametrize(
    ("networks", "peer", "trusted"),
    [
        ([], "127.0.0.1", False),
        ([], "", False),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.0/8"], "", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8"], "::10.1.2.3", False),
        (["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["2001:db8::/32"], "10.1.2.3", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["0.0.0.0/0"], "::1", False),
        (["0.0.0.0/0", "::/0"], "", False),
        (["unix"], "", True),
        (["unix"], "127.0.0.1", False),
        (["unix", "192.0.2.7/32"], "192.0.2.7", True),
        (["192.0.2.7"], "192.0.2.8", False),
    ],
)
def test_trust(networks, peer, trusted):
    assert TrustedProxies(networks).is_trusted(peer) is trusted


@pytest.mark.parametrize(
    ("peer", "node"),
    [("192.0.2.1", b"192.0.2.1"), ("2001:db8::1", b'"[2001:db8::1]"'), ("", b"unknown")],
)
def test_forwarded_node(peer, node):
    """RFC 7239 6."""
    assert forwarded_node(peer) == node


@pytest.mark.parametrize("claims", [b"", CLAIMS])
def test_untrusted(claims):
    """Whatever an untrusted client claims is replaced."""
    identity = ClientIdentity("192.0.2.1", TrustedProxies(["10.0.0.0/8"]), b"http")
    assert lines(identity, claims) == [
        "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: t.test",
        'Forwarded: for=192.0.2.1;proto=http;host="t.test"',
    ]  # fmt: skip


def test_untrusted_ipv6():
    identity = ClientIdentity("2001:db8::1", TrustedProxies([]), b"https")
    assert lines(identity, CLAIMS, b"[::1]:80") == [
        "X-Forwarded-For: 2001:db8::1", "X-Forwarded-Proto: https", "X-Forwarded-Host: [::1]:80",
        'Forwarded: for="[2001:db8::1]";proto=https;host="[::1]:80"',
    ]  # fmt: skip


def test_untrusted_unix():
    identity = ClientIdentity("", TrustedProxies([]), b"http")
    assert lines(identity, CLAIMS)[:1] == ["X-Forwarded-For: unknown"]
    assert lines(identity)[3] == 'Forwarded: for=unknown;proto=http;host="t.test"'


def test_without_host():
    """An HTTP/1.0 client that names no host: nothing is said of it."""
    raw = parse_request(b"GET / HTTP/1.0\r\n\r\n", 100, frozenset())
    identity = ClientIdentity("192.0.2.1", TrustedProxies([]), b"http")
    assert identity.lines(raw).decode().split("\r\n")[1:] == [
        "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: http", "Forwarded: for=192.0.2.1;proto=http",
    ]  # fmt: skip


def test_trusted():
    """A trusted peer's lists are extended by its address; what it saw of the client passes on."""
    identity = ClientIdentity("10.0.0.1", TrustedProxies(["10.0.0.0/8"]), b"http")
    assert sorted(lines(identity, CLAIMS)) == [
        'Forwarded: for=6.6.6.6, for=10.0.0.1;proto=http;host="t.test"',
        "X-Forwarded-For: 6.6.6.6, 10.0.0.1", "X-Forwarded-Host: evil.test", "X-Forwarded-Port: 1",
        "X-Forwarded-Proto: https", "X-Forwarded-Server: s", "X-Real-Ip: 6.6.6.6",
    ]  # fmt: skip


def test_trusted_lists():
    """Several fields are one list, in order; of single values the first counts; empty ones are none."""
    identity = ClientIdentity("::ffff:10.0.0.1", TrustedProxies(["10.0.0.0/8"]), b"http")
    found = lines(
        identity,
        b"X-Forwarded-For: a, b\r\nX-Forwarded-Proto:\r\nX-Forwarded-For:\r\nForwarded: for=a\r\n"
        b"X-Forwarded-For: c\r\nForwarded: for=b;by=c\r\nX-Forwarded-Host: one\r\nX-Forwarded-Host: two\r\n",
    )
    assert sorted(found) == [
        'Forwarded: for=a, for=b;by=c, for="[::ffff:10.0.0.1]";proto=http;host="t.test"',
        "X-Forwarded-For: a, b, c, ::ffff:10.0.0.1", "X-Forwarded-Host: one",
        "X-Forwarded-Proto: http",
    ]  # fmt: skip


def test_trusted_that_claims_nothing():
    identity = ClientIdentity("", TrustedProxies(["unix"]), b"http")
    untrusted = ClientIdentity("", TrustedProxies([]), b"http")
    assert lines(identity) == lines(untrusted)
    assert lines(identity, b"x_forwarded_for: 7.7.7.7\r\n") == lines(untrusted)


def test_host_changes():
    """One connection, several hosts: each request is told its own."""
    identity = ClientIdentity("192.0.2.1", TrustedProxies([]), b"http")
    for host in (b"a.test", b"b.test", b"b.test", b"A.test:80"):
        assert f"X-Forwarded-Host: {host.decode()}" in lines(identity, b"", host)


@pytest.mark.parametrize(
    ("host", "key"),
    [
        (b"a.test", "a.test"), (b"A.Test:80", "a.test"), (b"", ""), (b"[2001:DB8::1]:80", "[2001:db8::1]"),
        (b"[::1]", "[::1]"), (b"a.", "a."),
    ],
)  # fmt: skip
def test_host_key(host, key):
    identity = ClientIdentity("192.0.2.1", TrustedProxies([]), b"http")
    for _ in range(2):
        assert identity.host_key(host) == key
