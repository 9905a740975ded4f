"""The cookie that is Homeport's own leaves the request, and nothing else does."""

import pytest

from proxy.dataplane.facts import take_cookie
from proxy.dataplane.forwarding import ClientIdentity, TrustedProxies
from proxy.dataplane.request_head import parse_request


def head(*lines):
    raw = b"\r\n".join([b"GET / HTTP/1.1", b"Host: h", *lines]) + b"\r\n\r\n"
    return parse_request(raw, 100, frozenset())


@pytest.mark.parametrize(
    ("lines", "value", "kept"),
    [
        ([b"Cookie: hp=1"], b"1", b""),
        ([b"Cookie: a=1; hp=2; b=3"], b"2", b"\r\nCookie: a=1; b=3"),
        ([b"cOOKIE:hp=1;a=2"], b"1", b"\r\ncOOKIE: a=2"),
        ([b"Cookie: hp=1", b"A: b", b"Cookie: hp=2; c=3"], b"1", b"\r\nA: b\r\nCookie: c=3"),
        ([b"Cookie: a=1;b=2;  php=3", b"X: hp=1"], None, b"\r\nCookie: a=1;b=2;  php=3\r\nX: hp=1"),
        ([b"X-hp: 1"], None, b"\r\nX-hp: 1"),
        ([], None, b""),
    ],
)
def test_take_cookie(lines, value, kept):
    request = head(*lines)
    assert take_cookie(request, b"hp") == value
    assert b"".join(request.kept) == b"\r\nHost: h" + kept


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", [b"X-Forwarded-For: 1.2.3.4"], "192.0.2.1"),  # not trusted
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"X-Forwarded-For: 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", [b"X-Forwarded-For: 6.6.6.6, 1.2.3.4 , 10.0.0.2"], "1.2.3.4"),
        ("10.0.0.1", [b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-For: 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", [b"X-Forwarded-For: 10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [b"X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b"X-Forwarded-For: 6.6.6.6,"], "10.0.0.1"),
        ("10.0.0.1", [b"X-Forwarded-For: 2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", [b"Forwarded: for=1.2.3.4"], "10.0.0.1"),
    ],
)
def test_client(peer, lines, client):
    identity = ClientIdentity(peer, TrustedProxies(["10.0.0.0/8"]), b"http")
    assert identity.client(head(*lines)) == client


def test_client_of_a_unix_socket():
    trusted = TrustedProxies(["unix", "10.0.0.0/8"])
    assert ClientIdentity("", trusted, b"http").client(head()) == ""
    assert ClientIdentity("", trusted, b"http").client(head(b"X-Forwarded-For: 1.2.3.4")) == "1.2.3.4"


@pytest.mark.parametrize(
    ("peer", "scheme", "lines", "is_https"),
    [
        ("192.0.2.1", b"http", [], False),
        ("192.0.2.1", b"https", [], True),
        ("192.0.2.1", b"http", [b"X-Forwarded-Proto: https"], False),  # not trusted
        ("10.0.0.1", b"http", [b"X-Forwarded-Proto: https"], True),
        ("10.0.0.1", b"https", [b"X-Forwarded-Proto: http"], False),
        ("10.0.0.1", b"https", [b"X-Forwarded-For: 1.2.3.4"], True),
    ],
)
def test_is_https(peer, scheme, lines, is_https):
    assert ClientIdentity(peer, TrustedProxies(["10.0.0.0/8"]), scheme).is_https(head(*lines)) is is_https
