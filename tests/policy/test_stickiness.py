from dataclasses import dataclass

import pytest

from proxy.policy.stickiness import Stickiness, cookie_value, endpoint_token, secret_key, without_cookie
from proxy.snapshot import StickySpec


@dataclass
class Endpoint:
    id: str
    weight: int = 1
    in_flight: int = 0


A, B = Endpoint("c/10.0.0.1:80"), Endpoint("c/10.0.0.2:80")


def token_of(line):
    return line.split(b"=", 1)[1].split(b";")[0]


def test_tokens():
    """Opaque, of one length, and another with another secret, cluster or endpoint."""
    key = secret_key("s3cret", "c")
    token = endpoint_token(A.id, key)
    assert len(token) == 22
    assert token == endpoint_token(
        A.id, secret_key("s3cret", "other")
    )  # the secret alone is the key, if there is one
    others = [
        endpoint_token(B.id, key),
        endpoint_token(A.id, secret_key("other", "c")),
        endpoint_token(A.id, secret_key("", "c")),
        endpoint_token(A.id, secret_key("", "d")),
    ]
    assert len({token, *others}) == 5
    # Fixed for ever: another way to make them would move every client at an upgrade.
    assert token == b"yHLd6wj_hc0kr_x5BF7CUA"


def test_members_are_found_by_their_own_token_alone():
    sticky = Stickiness(StickySpec("hp", "s3cret"), [A, B], "c")
    token = token_of(sticky.set_line(A, None, is_https=False))
    assert sticky.member(token) is A
    assert sticky.member(token_of(sticky.set_line(B, None, is_https=False))) is B
    for bad in (None, b"", b"10.0.0.1:80", token[:-1], token + b"A", token.lower(), b"\xff" * 22):
        assert sticky.member(bad) is None
    assert Stickiness(StickySpec("hp", "s3cret"), [B], "c").member(token) is None
    assert Stickiness(StickySpec("hp", "other"), [A, B], "c").member(token) is None
    assert repr(sticky) == "<Stickiness b'hp', 2 members>"


def test_set_only_when_the_client_has_not_the_right_one():
    sticky = Stickiness(StickySpec("hp"), [A, B], "c")
    line = sticky.set_line(A, None, is_https=False)
    token = token_of(line)
    assert sticky.set_line(A, token, is_https=False) == b""
    assert sticky.set_line(A, b"forged", is_https=False) == line
    assert sticky.set_line(B, token, is_https=False) not in (b"", line)
    assert sticky.set_line(Endpoint("c/gone"), None, is_https=False) == b""


@pytest.mark.parametrize(
    ("options", "is_https", "expected"),
    [
        ({}, False, b"; Path=/; HttpOnly; SameSite=Lax"),
        ({}, True, b"; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"secure": "always", "same_site": "none"}, False, b"; Path=/; Secure; HttpOnly; SameSite=None"),
        ({"secure": "never", "same_site": "strict"}, True, b"; Path=/; HttpOnly; SameSite=Strict"),
        (
            {"path": "/query", "max_age_s": 3600, "http_only": False, "same_site": "unset"},
            False,
            b"; Path=/query; Max-Age=3600",
        ),
    ],
)
def test_attributes(options, is_https, expected):
    sticky = Stickiness(StickySpec("hp", **options), [A], "c")
    token = endpoint_token(A.id, secret_key("", "c"))
    expected = b"\r\nSet-Cookie: hp=" + token + expected + b"\r\nCache-Control: private"
    assert sticky.set_line(A, None, is_https=is_https) == expected


@pytest.mark.parametrize(
    ("field", "value", "rest"),
    [
        (b"hp=1", b"1", b""),
        (b"a=1; hp=2; b=3", b"2", b"a=1; b=3"),
        (b"hp=2;b=3", b"2", b"b=3"),
        (b"a=1;\thp = 2 ", b"2", b"a=1"),
        (b'hp="2"', b"2", b""),
        (b'hp="', b'"', b""),
        (b"hp=1; hp=2", b"1", b""),
        (b"xhp=1; hpx=2; HP=3", None, b"xhp=1; hpx=2; HP=3"),
        (b"a=hp=1", None, b"a=hp=1"),
        (b"hp=a=b", b"a=b", b""),
        (b"a=1; hp", None, b"a=1"),
        (b"", None, b""),
        (b"hp=", b"", b""),
    ],
)
def test_cookie_fields(field, value, rest):
    assert cookie_value(field, b"hp") == value
    assert without_cookie(field, b"hp") == rest
