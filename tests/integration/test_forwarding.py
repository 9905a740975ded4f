"""What reaches the endpoint, and what comes back: targets, Host, hop-by-hop fields, forwarded fields,
identity."""

import re

import pytest
from support.client import Client, OpenClient, request
from support.daemon import Daemon
from support.origin import Exchange, Origin


def forwarded(client: Client, origin: Origin, path: str, *lines: str, method: str = "GET") -> Exchange:
    """What the origin saw of a request with the further fields `lines`."""
    assert client.ask(method, path, *lines).status == 200
    return origin.only(path)


@pytest.mark.parametrize(
    "query",
    ["?", "?a=1;b=%20+c&d=[x]&e=%zz|~'", "?u=%2F..%2f&v=%00", "?a?b/../c", "?x=//", "?q=%E2%82%AC"],
)
def test_query_verbatim(client: Client, origin: Origin, path: str, query: str) -> None:
    """RFC 9110 7.7: a proxy must not alter the query."""
    assert client.get(path + query).status == 200
    assert origin.only(path).target == path + query


@pytest.mark.parametrize(
    "tail", ["%0A", "%0a%0d", "//x", "/a/./b", "/a/../b", "/a%2e/b", "/%7Euser", ";p=1", "/%25", ":80@x"]
)
def test_path_verbatim(client: Client, origin: Origin, path: str, tail: str) -> None:
    """Routes are chosen on the decoded path with dot segments removed; the raw one is forwarded. `%0A` is
    legal."""
    assert client.get(path + tail).status == 200
    assert origin.only(path + tail).target == path + tail


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY", "PROPFIND"]
)
def test_method_passed_on(client: Client, origin: Origin, path: str, method: str) -> None:
    """RFC 9110 9.1: methods the proxy has no opinion about go through."""
    origin.on(path, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert forwarded(client, origin, path, method=method).method == method


def test_options_asterisk(client: Client, origin: Origin) -> None:
    """RFC 9112 3.2.4: `OPTIONS *` is legal and forwarded as it is."""
    before = len(origin.seen("*"))
    assert client.ask("OPTIONS", "*").status == 200
    assert len(origin.seen("*")) == before + 1


def test_trace_not_reflected(client: Client, path: str) -> None:
    """RFC 9110 9.3.8: the proxy itself never sends credentials back."""
    reply = client.ask("TRACE", path, "Cookie: secret=1", "Authorization: Basic c2VjcmV0")
    assert b"secret" not in reply.body + reply.head and b"c2VjcmV0" not in reply.body + reply.head


def test_host_unchanged(client: Client, origin: Origin, path: str) -> None:
    """Host is passed on as it came, port and case included."""
    client.get(path, host="T.Test:8080")
    assert origin.only(path).fields.one("host") == "T.Test:8080"


def test_absolute_form(client: Client, origin: Origin, path: str) -> None:
    """RFC 9112 3.2.2: the host of an absolute-form target replaces Host; the target goes on in
    origin-form."""
    assert client.get(f"http://real.test{path}?q=1", host="other.test").status == 200
    exchange = origin.only(path)
    assert exchange.target == f"{path}?q=1"
    assert exchange.fields.one("host") == "real.test"


def test_absolute_form_without_path(client: Client, origin: Origin) -> None:
    """RFC 9112 3.2.1: an empty path is sent as `/`."""
    assert client.get("http://empty.test?x=absolute").status == 200
    assert [one.target for one in origin.seen("/") if "absolute" in one.target] == ["/?x=absolute"]


def test_obs_text_kept(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 5.5: bytes above 0x7f in values are opaque and kept, both ways."""
    origin.on(path, b"HTTP/1.1 200 Caf\xe9\r\nX-Obs: caf\xe9\xff\r\nContent-Length: 0\r\n\r\n")
    reply = client.get(path, "X-Obs: caf\xe9\xff")
    assert reply.fields.one("x-obs") == "caf\xe9\xff"
    assert origin.only(path).fields.one("x-obs") == "caf\xe9\xff"


def test_end_to_end_fields_kept(client: Client, origin: Origin, path: str) -> None:
    """Fields that are not ours go through in order, repeats kept apart, empty values kept."""
    lines = ["X-A: 1", "Cookie: a=b; c=d", "X-A: 2", "X-Empty:", "Authorization: Bearer t", "X-B:  padded\t"]
    fields = forwarded(client, origin, path, *lines).fields
    assert fields.all("x-a") == ["1", "2"]
    assert fields.one("cookie") == "a=b; c=d"
    assert fields.one("x-empty") == ""
    assert fields.one("authorization") == "Bearer t"
    assert fields.one("x-b") == "padded"


def test_speaks_not_for_the_client(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.6: nothing that negotiates is added, and no body where there was none."""
    fields = forwarded(client, origin, path).fields
    for name in (
        "accept-encoding",
        "accept",
        "user-agent",
        "content-type",
        "content-length",
        "transfer-encoding",
        "te",
    ):
        assert name not in fields


@pytest.mark.parametrize(
    "name", ["Keep-Alive", "Proxy-Connection", "TE", "Upgrade", "Proxy-Authorization", "Trailer"]
)
def test_standard_hop_by_hop_removed(client: Client, origin: Origin, path: str, name: str) -> None:
    """RFC 9110 7.6.1: fields for one hop are removed even if Connection does not name them."""
    value = {"TE": "gzip;q=0.5", "Upgrade": "h2c", "Proxy-Authorization": "Basic YTpi"}.get(name, "timeout=5")
    fields = forwarded(client, origin, path, f"{name}: {value}").fields
    if name not in (
        "Proxy-Authorization",
        "Trailer",
    ):  # may go on: RFC 9110 11.7.2 and 6.6.2 leave it to the proxy
        assert name not in fields


@pytest.mark.parametrize("connection", ["Connection", "connection", "CONNECTION"])
def test_nominated_fields_removed(client: Client, origin: Origin, path: str, connection: str) -> None:
    """RFC 9110 7.6.1, CVE-2026-105299: what Connection names is removed, in any case, from any of its
    fields."""
    nominating = [f"{connection}: keep-alive, X-Drop", f"{connection}: x-also"]
    nominated = ["x-drop: 1", "X-Drop: 2", "X-Also: 3", "X-Keep: 4"]
    fields = forwarded(client, origin, path, *nominating, *nominated).fields
    assert "x-drop" not in fields and "x-also" not in fields
    assert fields.one("x-keep") == "4"
    assert not {"x-drop", "x-also"} & set(fields.tokens("connection"))


OURS = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Via", "X-Request-Id"]


@pytest.mark.parametrize("connection", ["Connection", "connection"])
@pytest.mark.parametrize("name", OURS)
def test_own_fields_cannot_be_nominated(
    client: Client, origin: Origin, path: str, name: str, connection: str
) -> None:
    """CVE-2024-45410, CVE-2026-29054, CVE-2022-31813: Connection never takes the proxy's own fields away."""
    fields = forwarded(client, origin, path, f"{connection}: close, {name}, {name.lower()}").fields
    assert name in fields


@pytest.mark.parametrize("name", ["Host", "Content-Length"])
def test_framing_cannot_be_nominated(client: Client, origin: Origin, path: str, name: str) -> None:
    """Host and the framing come from the parsed message, whatever Connection says."""
    assert client.ask("POST", path, f"Connection: {name}", body=b"abc").status == 200
    exchange = origin.only(path)
    assert exchange.fields.one("host") == "t.test"
    assert exchange.body == b"abc"


def test_reply_hop_by_hop_removed(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.6.1 for the way back."""
    origin.on(
        path,
        b"HTTP/1.1 200 OK\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: timeout=77\r\n"
        b"Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Kept: 2\r\nContent-Length: 2\r\n\r\nok",
    )
    reply = client.get(path)
    for name in ("x-secret", "proxy-connection", "upgrade"):
        assert name not in reply.fields
    assert not any("77" in value for value in reply.fields.all("keep-alive"))
    assert "x-secret" not in reply.fields.tokens("connection")
    assert reply.fields.one("x-kept") == "2"


def test_set_cookie_separate(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 5.3: Set-Cookie fields are never combined."""
    cookies = ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2", "c=3"]
    origin.on(path, lambda one: one.reply(200, b"ok", *(f"Set-Cookie: {cookie}" for cookie in cookies)))
    assert client.get(path).fields.all("set-cookie") == cookies


def test_content_coding_untouched(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.7: a coded body is opaque; the proxy never inflates."""
    body = b"\x1f\x8b\x08\x00" + bytes(range(60))
    origin.on(path, lambda one: one.reply(200, body, "Content-Encoding: gzip"))
    reply = client.get(path)
    assert reply.body == body
    assert reply.fields.one("content-encoding") == "gzip"


def test_via(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.6.3: a proxy adds itself to Via of a request; what came stays in front."""
    assert forwarded(client, origin, path, "Via: 1.0 inner").fields.all("via") == [
        "1.0 inner",
        "1.1 homeport",
    ]


@pytest.mark.parametrize("minor", [0, 1])
def test_via_names_the_version(client: Client, origin: Origin, path: str, minor: int) -> None:
    """RFC 9110 7.6.3: the version with which the message was received, in both directions."""
    version = 1 - minor
    origin.on(path, b"HTTP/1.%d 200 OK\r\nContent-Length: 2\r\n\r\nok" % version)
    reply = client.ask("GET", path, minor=minor)
    assert reply.fields.all("via") == [f"1.{version} homeport"]
    assert origin.only(path).fields.all("via") == [f"1.{minor} homeport"]


def test_forwarded_fields_added(client: Client, origin: Origin, path: str) -> None:
    """The endpoint learns the peer, the scheme and the host."""
    fields = forwarded(client, origin, path).fields
    assert fields.one("x-forwarded-for") == "127.0.0.1"
    assert fields.one("x-forwarded-proto") == "http"
    assert fields.one("x-forwarded-host") == "t.test"
    pairs = dict(pair.split("=", 1) for pair in fields.one("forwarded").lower().split(";"))
    assert pairs["for"].strip('"') in ("127.0.0.1",) or pairs["for"].strip('"').startswith("127.0.0.1:")
    assert pairs["proto"] == "http"
    assert pairs["host"].strip('"') == "t.test"


SPOOFS = [
    "X-Forwarded-For: 203.0.113.9",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.test",
    "Forwarded: for=203.0.113.9;proto=https;host=evil.test",
    "X-Real-IP: 203.0.113.9",
]


def test_untrusted_peer_replaced(client: Client, origin: Origin, path: str) -> None:
    """RFC 7239 8.1: from a peer that is not trusted nothing of these survives."""
    exchange = forwarded(client, origin, path, *SPOOFS)
    assert b"203.0.113.9" not in exchange.head
    assert b"evil.test" not in exchange.head
    assert b"https" not in exchange.head
    assert exchange.fields.one("x-forwarded-for") == "127.0.0.1"


ALIASES = [
    name.replace("-", mark)
    for name in ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "X-Request-Id")
    for mark in "_."
] + ["X_Forwarded-For", "x-forwarded_for", "X.Forwarded-For", "X-Forwarded_Port"]


@pytest.mark.parametrize("name", ALIASES)
def test_aliases_dropped(client: Client, origin: Origin, path: str, name: str) -> None:
    """CVE-2026-88011, Envoy's underscore rule: spellings that a CGI-like server takes for ours do not get
    through."""
    exchange = forwarded(client, origin, path, f"{name}: 203.0.113.9")
    assert b"203.0.113.9" not in exchange.head


def test_other_underscores_kept(client: Client, origin: Origin, path: str) -> None:
    """Only aliases of our own fields are dropped."""
    assert forwarded(client, origin, path, "my_field.name: 1").fields.one("my_field.name") == "1"


def test_trusted_peer_extended(connect: OpenClient, daemon: Daemon, origin: Origin, path: str) -> None:
    """From a trusted peer X-Forwarded-For and Forwarded are extended by the peer, the rest is believed."""
    client = connect(daemon, "trusting")
    fields = forwarded(client, origin, path, *SPOOFS).fields
    assert re.fullmatch(r"203\.0\.113\.9, ?127\.0\.0\.1", ",".join(fields.all("x-forwarded-for")))
    assert fields.one("x-forwarded-proto") == "https"
    assert fields.one("x-forwarded-host") == "evil.test"
    elements = ",".join(fields.all("forwarded")).split(",")
    assert elements[0].strip() == "for=203.0.113.9;proto=https;host=evil.test"
    assert len(elements) == 2 and "127.0.0.1" in elements[1]


def test_trusted_peer_without_fields(connect: OpenClient, daemon: Daemon, origin: Origin, path: str) -> None:
    """A trusted peer that says nothing is the client itself."""
    fields = forwarded(connect(daemon, "trusting"), origin, path).fields
    assert fields.one("x-forwarded-for") == "127.0.0.1"
    assert fields.one("x-forwarded-proto") == "http"


def test_request_id_made(client: Client, origin: Origin, path: str) -> None:
    """Each request gets an identity of its own."""
    ids = set()
    for _ in range(3):
        client.get(path)
    for exchange in origin.wait_seen(path, 3):
        ids.add(exchange.fields.one("x-request-id"))
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9A-Za-z-]{16,64}", one) for one in ids)


@pytest.mark.parametrize(
    "lines", [["X-Request-Id: a b"], ["X-Request-Id: " + "a" * 300], ["X-Request-Id: a"] * 2]
)
def test_request_id_replaced(client: Client, origin: Origin, path: str, lines: list[str]) -> None:
    """An identity that is odd, long or repeated does not get into logs."""
    fields = forwarded(client, origin, path, *lines).fields
    assert re.fullmatch(r"[0-9A-Za-z-]{16,64}", fields.one("x-request-id"))


def test_request_id_of_trusted_peer_kept(
    connect: OpenClient, daemon: Daemon, origin: Origin, path: str
) -> None:
    """A trusted proxy in front already named the request."""
    fields = forwarded(connect(daemon, "trusting"), origin, path, "X-Request-Id: chosen-by-the-edge").fields
    assert fields.one("x-request-id") == "chosen-by-the-edge"


def test_traceparent_passed_on(client: Client, origin: Origin, path: str) -> None:
    """W3C Trace Context: the trace id survives the hop."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    fields = forwarded(
        client, origin, path, f"traceparent: 00-{trace}-b7ad6b7169203331-01", "tracestate: a=b"
    ).fields
    assert fields.one("traceparent").split("-")[1] == trace
    assert fields.one("tracestate") == "a=b"


def test_max_forwards_is_left_alone(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 7.6.2: outside TRACE and OPTIONS Max-Forwards means nothing to a proxy."""
    assert forwarded(client, origin, path, "Max-Forwards: 3").fields.one("max-forwards") == "3"


@pytest.mark.parametrize("sent", [1, 3])
def test_max_forwards_counted_down(client: Client, origin: Origin, path: str, sent: int) -> None:
    """RFC 9110 7.6.2: each proxy takes one off."""
    fields = forwarded(client, origin, path, f"Max-Forwards: {sent}", method="OPTIONS").fields
    assert fields.one("max-forwards") == str(sent - 1)


@pytest.mark.parametrize("asterisk", [True, False])
def test_max_forwards_zero(client: Client, origin: Origin, path: str, asterisk: bool) -> None:
    """RFC 9110 7.6.2: an OPTIONS that may go no further is answered here; the connection goes on."""
    target = "*" if asterisk else path
    before = len(origin.seen(target))
    reply = client.ask("OPTIONS", target, "Max-Forwards: 0")
    assert (reply.status, reply.body) == (204, b"")
    assert client.ask("OPTIONS", target, "Max-Forwards: 0").status == 204
    assert len(origin.seen(target)) == before
    client.assert_open(path)


@pytest.mark.parametrize("value", ["", "-1", "x", "1, 2"])
def test_max_forwards_malformed(client: Client, origin: Origin, path: str, value: str) -> None:
    """RFC 9110 7.6.2: what is no number says nothing about how far the request may go."""
    assert client.ask("OPTIONS", path, f"Max-Forwards: {value}").status == 400
    assert origin.seen(path) == []


def test_httpoxy(client: Client, origin: Origin, path: str) -> None:
    """CVE-2016-5385: `Proxy` would become HTTP_PROXY in the environment of a CGI program."""
    assert "proxy" not in forwarded(client, origin, path, "Proxy: http://evil.test:8080").fields


@pytest.mark.parametrize("cluster", ["six", "unix"])
def test_other_kinds_of_endpoints(client: Client, path: str, cluster: str) -> None:
    """Endpoints on IPv6 and on Unix sockets serve as TCP ones do."""
    for _ in range(3):
        assert client.ask("POST", f"/{cluster}{path}", body=b"x" * 100_000).body == b"ok"


def test_leading_empty_line(client: Client, path: str) -> None:
    """RFC 9112 2.2: an empty line before the request line is ignored."""
    client.send(b"\r\n" + request("GET", path))
    assert client.reply().status == 200


def test_date_and_server_untouched(client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 6.6.1, 10.2.4: the origin's own Date and Server stay."""
    origin.on(
        path, lambda one: one.reply(200, b"", "Date: Sun, 06 Nov 1994 08:49:37 GMT", "Server: scripted")
    )
    reply = client.get(path)
    assert reply.fields.all("date") == ["Sun, 06 Nov 1994 08:49:37 GMT"]
    assert reply.fields.all("server") == ["scripted"]
