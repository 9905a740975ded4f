"""Who may ask: tables of header fields and what becomes of the request."""

import pytest

from proxy.admin.guard import Asking, Guard, Refusal
from proxy.model import TcpAddress, UnixAddress

LOOPBACK = TcpAddress("127.0.0.1", 9901)
ANY = TcpAddress("0.0.0.0", 9901)
LAN = TcpAddress("10.1.2.3", 9901)
SOCKET = UnixAddress("/run/homeport.sock")
TOKEN = "s3cret"
BEARER = "Bearer s3cret"


def refusal(bind, *, token=None, host="127.0.0.1:9901", origin=None, authorization=None, is_open=False):
    asking = Asking([host] if host is not None else [], origin, authorization, is_http10=False)
    return Guard(bind, token).refusal(asking, is_open=is_open)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:9901",
        "[::1]:9901",
        "[::1]",
        "localhost",
        "LocalHost:1",
        "localhost.",
        "192.0.2.1:80",
    ],
)
def test_hosts_that_no_foreign_page_can_have(host):
    assert refusal(LOOPBACK, host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9901",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil",
        "",
        "127.0.0.1:",
        "127.0.0.1:x",
        "[::1",
        "[evil.example]",
        "127.0.0.1 evil",
        "user@127.0.0.1",
        "127.0.0.1,evil.example",
        "127.0.0.1\u0661",
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
def test_hosts_of_rebinding_pages(host, is_open):
    assert refusal(LOOPBACK, host=host, is_open=is_open) is Refusal.HOST_NOT_OURS


def test_host_must_be_there_once_unless_http10():
    for hosts, is_http10, expected in [
        ([], False, Refusal.HOST_MISSING),
        ([], True, None),
        (["127.0.0.1", "127.0.0.1"], False, Refusal.HOST_MISSING),
        (["127.0.0.1", "127.0.0.1"], True, Refusal.HOST_MISSING),
        (["evil.example"], True, Refusal.HOST_NOT_OURS),
    ]:
        assert Guard(LOOPBACK, None).refusal(Asking(hosts, None, None, is_http10), is_open=True) is expected


def test_beyond_loopback_containers_may_use_one_label_but_not_a_site():
    assert refusal(ANY, host="homeport:9901", is_open=True) is None
    assert refusal(ANY, host="evil.example:9901", is_open=True) is Refusal.HOST_NOT_OURS
    assert refusal(ANY, host="evil.example", token=TOKEN, is_open=True) is Refusal.HOST_NOT_OURS
    assert refusal(ANY, host="proxy.corp.example", token=TOKEN, authorization=BEARER) is None


@pytest.mark.parametrize(
    "origin, allowed",
    [
        (None, True),
        ("http://127.0.0.1:9901", True),
        ("https://127.0.0.1:9901", True),
        ("http://127.0.0.1:9902", False),
        ("http://127.0.0.1", False),
        ("http://evil.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_origin(origin, allowed):
    expected = None if allowed else Refusal.FOREIGN_ORIGIN
    assert refusal(LOOPBACK, origin=origin) is expected
    assert refusal(ANY, token=TOKEN, authorization=BEARER, origin=origin) is expected


@pytest.mark.parametrize(
    "authorization, expected",
    [
        (BEARER, None),
        ("bearer  s3cret ", None),
        (None, Refusal.NO_TOKEN),
        ("", Refusal.NO_TOKEN),
        ("Basic czNjcmV0", Refusal.NO_TOKEN),
        ("s3cret", Refusal.NO_TOKEN),
        ("Bearer", Refusal.WRONG_TOKEN),
        ("Bearer s3cre", Refusal.WRONG_TOKEN),
        ("Bearer s3cret2", Refusal.WRONG_TOKEN),
        ("Bearer s3cr\udcffet", Refusal.WRONG_TOKEN),
    ],
)
@pytest.mark.parametrize("bind", [ANY, LAN, LOOPBACK, SOCKET])
def test_a_configured_token_is_demanded_everywhere_but_on_open_paths(bind, authorization, expected):
    assert refusal(bind, token=TOKEN, authorization=authorization) is expected
    assert refusal(bind, token=TOKEN, authorization=authorization, is_open=True) is None


def test_without_a_token_only_loopback_and_sockets_are_open():
    assert refusal(LOOPBACK) is None
    assert refusal(TcpAddress("::1", 9901), host="[::1]:9901") is None
    assert refusal(SOCKET, host="anything.example", origin="http://anything.example") is None
    for bind in (ANY, LAN, TcpAddress("::", 9901)):
        assert refusal(bind) is Refusal.TOKEN_NOT_SET
        assert refusal(bind, authorization=BEARER) is Refusal.TOKEN_NOT_SET
        assert refusal(bind, is_open=True) is None


def test_the_token_is_not_in_the_repr():
    assert TOKEN not in repr(Guard(ANY, TOKEN))
