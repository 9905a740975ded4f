"""Which route a request takes, and what routes do with it."""

from collections.abc import Iterator
from typing import Any

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import Origin
from support.settings import Config, route
from support.wire import Reply


def say(word: str) -> dict[str, object]:
    """A fixed response that tells which route it was."""
    return {"respond": {"status": 200, "body": word}}


def plain(target: str | Config, **match: Any) -> Config:
    """A route of the listener `plain` alone."""
    return route(target, listener="plain", **match)


ROUTES = [
    # Precedence; each less specific route comes first, so that the order of the file would be wrong.
    plain(say("any"), path_prefix="/p"),
    plain(say("short prefix"), path_prefix="/p/query"),
    plain(say("long prefix"), path_prefix="/p/query/deep"),
    plain(say("path"), path="/p/query/deep"),
    plain(say("wildcard"), host="*.wild.test", path_prefix="/p"),
    plain(say("long wildcard"), host="*.long.wild.test", path_prefix="/p"),
    plain(say("host"), host="one.wild.test", path_prefix="/p"),
    plain(say("header"), path_prefix="/p", headers={"x-tenant": "acme"}),
    plain(say("two headers"), path_prefix="/p", headers={"x-tenant": "acme", "x-debug": "*"}),
    plain(say("method"), path_prefix="/p", methods=["PUT", "PATCH"]),
    plain(say("decoded"), path_prefix="/b c"),
    # Actions.
    plain(say("created"), path_prefix="/methods", methods=["POST", "DELETE"]),
    plain({"respond": {"status": 418, "body": "short", "headers": {"X-Fixed": "yes"}}}, path="/fixed"),
    plain({"respond": {"status": 204}}, path="/nothing"),
    plain({"redirect": {"scheme": "https"}}, path_prefix="/secure"),
    plain({"redirect": {"status": 302, "host": "new.test:81"}}, path_prefix="/moved-host"),
    plain({"redirect": {"status": 301, "path": "/target"}}, path_prefix="/moved-path"),
    plain({"redirect": {"path_prefix": "/new"}}, path_prefix="/old"),
    plain({"split": [{"cluster": "a", "weight": 3}, {"cluster": "b", "weight": 1}]}, path_prefix="/split"),
    plain({"split": [{"cluster": "a", "weight": 1}, {"cluster": "b", "weight": 0}]}, path_prefix="/all-a"),
    plain({"cluster": "a", "rewrite": {"strip_prefix": "/strip"}}, path_prefix="/strip"),
    plain({"cluster": "a", "rewrite": {"prefix": "/added"}}, path_prefix="/add"),
    plain({"cluster": "a", "rewrite": {"strip_prefix": "/swap", "prefix": "/v2"}}, path_prefix="/swap"),
    plain({"cluster": "a", "rewrite": {"host": "inside.test"}}, path_prefix="/rehost"),
    plain(
        {
            "cluster": "a",
            "rewrite": {
                "request_headers": {"set": {"X-Set": "ours", "X-New": "new"}, "remove": ["X-Gone"]},
                "response_headers": {"set": {"X-Reply-Set": "ours"}, "remove": ["X-Reply-Gone", "Server"]},
            },
        },
        path_prefix="/edit",
    ),
    plain("empty", path_prefix="/empty"),
    # A listener whose routes all name a host.
    route(say("hosted"), listener="hosted", host="served.test", path_prefix="/only"),
]


@pytest.fixture(scope="module")
def origins() -> Iterator[tuple[Origin, Origin]]:
    pair = Origin(), Origin()
    yield pair
    for origin in pair:
        origin.stop()
        assert origin.faults == []


@pytest.fixture(scope="module")
def routed(module_daemon: StartDaemon, origins: tuple[Origin, Origin]) -> Iterator[Daemon]:
    daemon = module_daemon(
        {
            "listeners": [settings.listener(), settings.listener("hosted")],
            "clusters": [
                settings.cluster("a", origins[0].address),
                settings.cluster("b", origins[1].address),
                settings.cluster("empty"),
            ],
            "routes": ROUTES,
        }
    )
    yield daemon
    daemon.stop()


@pytest.fixture
def client(routed: Daemon, connect: OpenClient) -> Client:
    return connect(routed)


@pytest.mark.parametrize(
    ("target", "host", "lines", "word"),
    [
        ("/p", "t.test", [], "any"),
        ("/p/other", "t.test", [], "any"),
        ("/p/query", "t.test", [], "short prefix"),
        ("/p/query/", "t.test", [], "short prefix"),
        ("/p/query/x?y=/p/query/deep", "t.test", [], "short prefix"),
        ("/p/queryx", "t.test", [], "any"),
        ("/p/query/deep", "t.test", [], "path"),
        ("/p/query/deep?q", "t.test", [], "path"),
        ("/p/query/deep/", "t.test", [], "long prefix"),
        ("/p/query/deep/er", "t.test", [], "long prefix"),
        ("/p/qu%65ry/x", "t.test", [], "short prefix"),
        ("/p/x/../query/x", "t.test", [], "short prefix"),
        ("/p/./query/%2e/deep", "t.test", [], "path"),
        ("/p/query/../x", "t.test", [], "any"),
        ("/p/%2571uery", "t.test", [], "any"),
        ("/b%20c/x", "t.test", [], "decoded"),
        ("/p", "one.wild.test", [], "host"),
        ("/p", "ONE.Wild.Test", [], "host"),
        ("/p", "one.wild.test:8080", [], "host"),
        ("/p", "two.wild.test", [], "wildcard"),
        ("/p", "a.b.wild.test", [], "wildcard"),
        ("/p", "a.long.wild.test", [], "long wildcard"),
        ("/p", "wild.test", [], "any"),
        ("/p", "xwild.test", [], "any"),
        ("http://one.wild.test/p", "t.test", [], "host"),
        ("/p", "t.test", ["X-Tenant: acme"], "header"),
        ("/p", "t.test", ["x-tenant: acme", "X-DEBUG: no"], "two headers"),
        ("/p", "t.test", ["X-Tenant: ACME"], "any"),
        ("/p", "t.test", ["X-Tenant: acme2"], "any"),
    ],
)
def test_precedence(client: Client, target: str, host: str, lines: list[str], word: str) -> None:
    """Listener, then host, path, header conditions, methods: the most specific wins whatever the file's
    order."""
    reply = client.get(target, *lines, host=host)
    assert (reply.status, reply.body.decode()) == (200, word)


def test_precedence_of_methods(client: Client) -> None:
    """A route with methods is taken before one without, for its methods alone."""
    assert client.ask("PUT", "/p").body == b"method"
    assert client.ask("POST", "/p").body == b"any"


def test_no_route(client: Client) -> None:
    """RFC 9110 15.5.5: nothing matches: 404 with a JSON reason; the connection goes on."""
    for _ in range(2):
        reply = client.get("/nowhere")
        assert reply.status == 404
        assert b"no_route" in reply.body


def test_no_route_with_body(client: Client) -> None:
    """An answer that needs no endpoint does not leave the body to be read as a request."""
    hidden = request("GET", "/p")
    client.send(request("POST", "/nowhere", body=hidden) + request("GET", "/fixed"))
    assert client.reply().status == 404
    second = client.reply_or_cut()
    assert second is None or second.status == 418


def test_method_not_allowed(client: Client) -> None:
    """RFC 9110 15.5.6: the path is there, the method is not: 405, and Allow says which are."""
    reply = client.get("/methods/x")
    assert reply.status == 405
    assert {"post", "delete"} <= set(reply.fields.tokens("allow"))
    assert "get" not in reply.fields.tokens("allow")
    assert client.ask("POST", "/methods/x").body == b"created"


def test_misdirected(routed: Daemon, connect: OpenClient) -> None:
    """RFC 9110 15.5.20: a listener that serves only named hosts answers 421 to others, 404 to other paths."""
    client = connect(routed, "hosted")
    assert client.get("/only", host="served.test").body == b"hosted"
    assert client.get("/other", host="served.test").status == 404
    assert client.get("/only", host="other.test").status == 421


def test_listener_of_route(routed: Daemon, connect: OpenClient) -> None:
    """A route of one listener does not exist on another."""
    assert connect(routed, "hosted").get("/fixed", host="served.test").status == 404


def test_no_endpoint(client: Client) -> None:
    """A cluster without endpoints is 503."""
    reply = client.get("/empty")
    assert reply.status == 503
    assert b"no_endpoint" in reply.body


def test_fixed_response(client: Client) -> None:
    """`respond`: status, body and fields as configured; HEAD gets the same without the body."""
    reply = client.get("/fixed")
    assert (reply.status, reply.body, reply.fields.one("x-fixed")) == (418, b"short", "yes")
    head = client.ask("HEAD", "/fixed")
    assert (head.status, head.fields.one("content-length")) == (418, "5")
    assert client.get("/nothing").status == 204
    assert client.get("/fixed").body == b"short"


def location(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.fields.one("location")


def test_redirect(client: Client) -> None:
    """`redirect`: what is not given comes from the request; the query always stays."""
    assert location(client.get("/secure/a%20b?q=%2F")) == (308, "https://t.test/secure/a%20b?q=%2F")
    assert location(client.get("/moved-host/x?q")) == (302, "http://new.test:81/moved-host/x?q")
    assert location(client.get("/moved-path/x?q=1"))[0] == 301
    assert location(client.get("/moved-path/x?q=1"))[1] in ("/target?q=1", "http://t.test/target?q=1")
    assert location(client.get("/old/x/y?q=1"))[1] in ("/new/x/y?q=1", "http://t.test/new/x/y?q=1")


@pytest.mark.parametrize(
    "target", ["/secure/%0d%0aSet-Cookie:x=1", "/secure//evil.test", "/old//evil.test/x"]
)
def test_redirect_is_no_injection(client: Client, target: str) -> None:
    """CWE-113, CWE-601: what the client wrote stays in its place in Location."""
    reply = client.get(target)
    where = reply.fields.one("location")
    assert "set-cookie" not in reply.fields
    assert where.startswith(("https://t.test/", "http://t.test/", "/"))
    assert not where.startswith("//")


def test_split(client: Client, origins: tuple[Origin, Origin], path: str) -> None:
    """`split` by weight 3 to 1: 400 requests; the odds of being outside 40–160 at B are below 1 in 10^8."""
    target = "/split" + path
    for _ in range(4):
        client.send(request("GET", target) * 100)
        assert [client.reply().status for _ in range(100)] == [200] * 100
    counts = [len(origin.seen(target)) for origin in origins]
    assert sum(counts) == 400
    assert 40 <= counts[1] <= 160


def test_split_weight_zero(client: Client, origins: tuple[Origin, Origin], path: str) -> None:
    """A part of weight 0 gets nothing."""
    for _ in range(30):
        assert client.get("/all-a" + path).status == 200
    assert len(origins[0].seen("/all-a" + path)) == 30


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/strip/strip-1/a%20b?q=/strip", "/strip-1/a%20b?q=/strip"),
        ("/strip", "/"),
        ("/strip?strip-2", "/?strip-2"),
        ("/add/add-1?q", "/added/add/add-1?q"),
        ("/swap/swap-1", "/v2/swap-1"),
        ("/swap//swap-2", "/v2//swap-2"),
    ],
)
def test_path_rewritten(client: Client, origins: tuple[Origin, Origin], target: str, sent: str) -> None:
    """`strip_prefix` and `prefix` change the path; what is left of it and the query stay byte for byte."""
    before = len(origins[0].seen())
    assert client.get(target).status == 200
    assert [one.target for one in origins[0].seen()[before:]] == [sent]


def test_strip_never_leaves_a_foreign_authority(client: Client, origins: tuple[Origin, Origin]) -> None:
    """A stripped path that begins with two slashes is still a path."""
    before = len(origins[0].seen())
    assert client.get("/strip//evil.test/x").status in (200, 400)
    for exchange in origins[0].seen()[before:]:
        assert exchange.fields.one("host") == "t.test"
        assert exchange.target.startswith("/")


def test_host_rewritten(client: Client, origins: tuple[Origin, Origin], path: str) -> None:
    """`rewrite.host`: the endpoint sees that host, and the client's in X-Forwarded-Host."""
    assert client.get("/rehost" + path).status == 200
    fields = origins[0].only("/rehost" + path).fields
    assert fields.one("host") == "inside.test"
    assert fields.one("x-forwarded-host") == "t.test"


def test_fields_edited(client: Client, origins: tuple[Origin, Origin], path: str) -> None:
    """`request_headers` and `response_headers`: set replaces every spelling, remove takes all away."""
    target = "/edit" + path
    origins[0].on(
        target,
        lambda one: one.reply(
            200, b"", "x-reply-set: a", "X-REPLY-SET: b", "X-Reply-Gone: c", "Server: s", "X-Stays: d"
        ),
    )
    reply = client.get(target, "x-set: theirs", "X-SET: theirs too", "x-gone: 1", "X-Stays: 2")
    fields = origins[0].only(target).fields
    assert fields.all("x-set") == ["ours"]
    assert fields.one("x-new") == "new"
    assert "x-gone" not in fields
    assert fields.one("x-stays") == "2"
    assert reply.fields.all("x-reply-set") == ["ours"]
    assert "x-reply-gone" not in reply.fields and "server" not in reply.fields
    assert reply.fields.one("x-stays") == "d"


def test_set_fields_cannot_be_nominated(client: Client, origins: tuple[Origin, Origin], path: str) -> None:
    """RFC 9110 7.6.1 with CVE-2022-31813 in mind: Connection takes no field away that a route sets."""
    assert client.get("/edit" + path, "Connection: close, X-Set, X-New").status == 200
    assert origins[0].only("/edit" + path).fields.one("x-set") == "ours"


def test_local_answers_close_and_pipeline(client: Client) -> None:
    """Fixed responses follow the rules of connections too."""
    client.send(request("GET", "/fixed") * 3 + request("GET", "/fixed", "Connection: close"))
    replies = [client.reply() for _ in range(4)]
    assert [reply.status for reply in replies] == [418] * 4
    assert "close" in replies[-1].fields.tokens("connection")
    client.assert_closed()


def test_expect_for_local_answer(client: Client) -> None:
    """RFC 9110 10.1.1: a final answer instead of 100 when nobody wants the body."""
    client.send(request("POST", "/fixed", "Expect: 100-continue", "Content-Length: 5"))
    reply = client.reply()
    assert reply.status == 418
    assert reply.interim == []
    assert "close" in reply.fields.tokens("connection")
