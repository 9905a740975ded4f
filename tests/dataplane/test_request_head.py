"""Request heads: what is understood, what is kept byte for byte, and every refusal with its reason."""

import pytest

from proxy.dataplane.request_head import check_partial_request, parse_request
from proxy.errors import DownstreamError, Reason

HOST = b"Host: t.test\r\n"


def parse(raw, max_fields=100, upgrades=frozenset({"websocket"})):
    return parse_request(raw, max_fields, upgrades)


def get(fields=b"", *, line=b"GET / HTTP/1.1", host=HOST):
    return line + b"\r\n" + host + fields + b"\r\n"


def post(fields):
    return get(fields, line=b"POST / HTTP/1.1")


def reason_for(raw, **options):
    with pytest.raises(DownstreamError) as caught:
        parse(raw, **options)
    return caught.value.reason


def kept(fields, **options):
    """What passes on of a request with `fields`, without its Host."""
    return b"".join(parse(get(fields, **options)).kept).removeprefix(b"\r\nHost: t.test")


REQUEST_LINES = [
    (b"GET /", Reason.BAD_REQUEST_LINE),  # HTTP/0.9
    (b"GET / ", Reason.BAD_REQUEST_LINE),
    (b"GET", Reason.BAD_REQUEST_LINE),
    (b"GET  / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"GET /  HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"GET / HTTP/1.1 ", Reason.BAD_REQUEST_LINE),
    (b"GET / / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"GET /\tHTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b" GET / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"GET / http/1.1", Reason.BAD_REQUEST_LINE),
    (b"GET / HTTP/1.10", Reason.BAD_REQUEST_LINE),
    (b"GET / HTTP/11", Reason.BAD_REQUEST_LINE),
    (b"GET / HTTP/1,1", Reason.BAD_REQUEST_LINE),
    (b"GET / HTTP/+1.1", Reason.BAD_REQUEST_LINE),
    (b"GET / RTSP/1.0", Reason.BAD_REQUEST_LINE),
    (b"SOURCE / ICE/1.0", Reason.BAD_REQUEST_LINE),
    (b"GET /\x01 HTTP/1.1", Reason.BAD_TARGET),
    (b"G\x01ET / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"G{T / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"X" * 33 + b" / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"\nGET / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"\rGET / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"\r\r\nGET / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"\nTRACE / HTTP/1.1", Reason.BAD_REQUEST_LINE),
    (b"FOO / HTTP/1.1", Reason.METHOD_UNKNOWN),
    (b"get / HTTP/1.1", Reason.METHOD_UNKNOWN),
    (b"GETX / HTTP/1.1", Reason.METHOD_UNKNOWN),
    (b"X" * 32 + b" / HTTP/1.1", Reason.METHOD_UNKNOWN),
    (b"DESCRIBE / HTTP/1.1", Reason.METHOD_UNKNOWN),  # RTSP's, known to llhttp
    (b"CONNECT t.test:443 HTTP/1.1", Reason.METHOD_UNKNOWN),
    (b"CONNECT / HTTP/1.1", Reason.METHOD_UNKNOWN),
    (b"TRACE / HTTP/1.1", Reason.METHOD_UNKNOWN),
    (b"TRACE * HTTP/1.1", Reason.METHOD_UNKNOWN),
    (b"GET / HTTP/0.9", Reason.VERSION_UNSUPPORTED),
    (b"GET / HTTP/1.10", Reason.BAD_REQUEST_LINE),
    (b"GET / HTTP/1.1.2", Reason.BAD_REQUEST_LINE),
    (b"GET / HTTP/3.0", Reason.VERSION_UNSUPPORTED),
    (b"GET / HTTP/2.0", Reason.VERSION_UNSUPPORTED),
    (b"GET / HTTP/9.9", Reason.VERSION_UNSUPPORTED),
]


@pytest.mark.parametrize(("line", "reason"), REQUEST_LINES)
def test_request_line_refused(line, reason):
    """RFC 9112 2.2, 3: one method, one target and one version, between single spaces."""
    assert reason_for(get(line=line)) is reason


TARGETS = [
    b"/#fragment", b"/x?a#b", b"*", b"x", b"t.test", b"t.test:80", b"?x", b"ftp://t.test/", b"http:/t.test/",
    b"http:///x", b"http://", b"http://user@t.test/", b"http://t.test:port/", b"http://a,b/", b"http://t.test:80:80/",
    b"http://[::1/", b"http://t.test\\x/", b"file:///x", b"ws://t.test/",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_target_refused(target):
    """RFC 9112 3.2: origin form, absolute form of http and https, and `*` for OPTIONS alone."""
    assert reason_for(get(line=b"GET " + target + b" HTTP/1.1")) is Reason.BAD_TARGET


@pytest.mark.parametrize("target", [b"/\xe9", b"/x?\xe9", b"/\x7f", b"/\x00", b"http://t\xe9st/"])
def test_target_of_other_bytes(target):
    """Raw bytes above ASCII and control bytes mean different things to different readers."""
    assert reason_for(get(line=b"GET " + target + b" HTTP/1.1")) in (
        Reason.BAD_TARGET,
        Reason.BAD_REQUEST_LINE,
    )


FIELDS = [
    b"X-A : a\r\n", b"X-A\t: a\r\n", b": a\r\n", b"X A: a\r\n", b"X/A: a\r\n", b"X-\xe9: a\r\n", b"X\x00A: a\r\n",
    b"X-A\r\n", b"X-A: a\x00b\r\n", b"X-A: a\x01b\r\n", b"X-A: a\x7fb\r\n", b"X-A: a\rb\r\n", b"X-A: a\nX-B: b\r\n",
    b"X-A: a\r\n b\r\n", b"X-A: a\r\n\tb\r\n", b"X-A: a\r\r\n", b" X-A: a\r\n", b"X-A: \x0bchunked\r\n",
    b'"X": a\r\n', b"X(: a\r\n", b"X-A: a\r\n : b\r\n",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("first", [True, False])
def test_field_refused(field, first):
    """RFC 9112 5, RFC 9110 5.5: token names, no space before the colon, no folding, no control bytes."""
    raw = get(line=b"GET / HTTP/1.1\r\n" + field[:-2]) if first else get(field)
    assert reason_for(raw) is Reason.BAD_HEADER


@pytest.mark.parametrize("field", FIELDS)
def test_field_refused_in_upgrade(field):
    """llhttp stops at an Upgrade: everything before the stop is still checked."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    assert reason_for(get(upgrade + field)) is Reason.BAD_HEADER
    assert reason_for(get(field + upgrade)) is Reason.BAD_HEADER


@pytest.mark.parametrize("minor", [b"2", b"9"])
@pytest.mark.parametrize("target", [b"/x?y", b"http://t.test/x?y"])
def test_later_minor_version(minor, target):
    """RFC 9110 2.5: a minor version that is not known yet is taken as the latest that is, wherever the head is cut."""
    raw = get(line=b"GET %b HTTP/1.%b" % (target, minor))
    head = parse(raw)
    assert (head.minor, head.keep_alive, head.target) == (1, True, b"/x?y")
    for end in range(1, len(raw)):
        check_partial_request(raw[:end])


HOSTS = [
    b"", b"Host: \r\n", b"Host:\t \r\n", HOST * 2, b"Host: a\r\nhOST: b\r\n", b"Host: a b\r\n", b"Host: u@a\r\n",
    b"Host: a/b\r\n", b"Host: a,b\r\n", b"Host: a?b\r\n", b"Host: a#b\r\n", b"Host: a:1:2\r\n", b"Host: a:b\r\n",
    b"Host: a:123456\r\n", b"Host: [::1\r\n", b"Host: ::1\r\n", b"Host: :80\r\n", b"Host: a\xe9\r\n",
    b"Host: [::1]x\r\n", b'Host: a"b\r\n', b"Host: a\\b\r\n", b"Host: http://a\r\n", b"Host: a:+1\r\n",
    b"Host: a%2\r\n", b"Host: a%zz\r\n", b"Host: %\r\n", b"Host: a%%20\r\n", b"Host: a:65536\r\n",
    b"Host: [1::2::3]\r\n", b"Host: [1.2.3.4]\r\n", b"Host: [12345::]\r\n", b"Host: a:0065536\r\n",
    b"Host: a:99999\r\n", b"Host: a:080808\r\n", b"Host: [::1]:70000\r\n", b"Host: :\r\n",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("target", [b"/", b"http://t.test/"])
def test_host_refused(host, target):
    """RFC 9112 3.2: exactly one valid Host, also when an absolute target replaces it."""
    assert reason_for(get(line=b"GET " + target + b" HTTP/1.1", host=host)) is Reason.BAD_HOST


@pytest.mark.parametrize(
    "host",
    [
        b"a",
        b"A.Test",
        b"a:80",
        b"a.",
        b"127.0.0.1:8080",
        b"[::1]",
        b"[2001:db8::1]:443",
        b"a_b",
        b"a%20",
        b"%C3%bc",
        b"a:",
        b"[::1]:",
        b"a:0",
        b"a:9999",
        b"a:59999",
        b"a:60000",
        b"a:64999",
        b"a:65499",
        b"a:65529",
        b"a:65535",
        b"a:0080",
        b"a:00080",
        b"a:0000000000065535",
        b"[::ffff:1.2.3.4]:00",
        b"a!$&'()*+;=~-",
    ],  # fmt: skip
)
def test_host_accepted(host):
    assert parse(get(host=b"Host: " + host + b" \t\r\n")).host == host


def test_host_of_http10():
    """HTTP/1.0 may leave Host out, but not send a bad one."""
    assert parse(get(line=b"GET / HTTP/1.0", host=b"")).host == b""
    assert parse(get(line=b"GET / HTTP/1.0")).host == b"t.test"
    assert reason_for(get(line=b"GET / HTTP/1.0", host=HOST * 2)) is Reason.BAD_HOST
    assert reason_for(get(line=b"GET / HTTP/1.0", host=b"Host: a/b\r\n")) is Reason.BAD_HOST


FRAMINGS = [
    (b"Content-Length: 3\r\nContent-Length: 4\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 3\r\nContent-Length: 3\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 3\r\ncontent-length: 3\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 3, 3\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: +3\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: -3\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 0x3\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 1 3\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 1_3\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 3;\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: \xb2\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: \r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 1234567890123456789\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 99999999999999999999999\r\n", Reason.BAD_FRAMING),
    (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: \r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: chunked, gzip\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: identity\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: gzip\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: xchunked\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: chunkedx\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: chunked;a=b\r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: chunked,\r\n", Reason.BAD_FRAMING),
    (b'Transfer-Encoding: "chunked"\r\n', Reason.BAD_FRAMING),
    (b"Transfer-Encoding: \r\n", Reason.BAD_FRAMING),
    (b"Transfer-Encoding: gzip, chunked\r\n", Reason.CODING_UNKNOWN),
    (b"Transfer-Encoding: , chunked\r\n", Reason.CODING_UNKNOWN),
]


@pytest.mark.parametrize(("fields", "reason"), FRAMINGS)
def test_framing_refused(fields, reason):
    """RFC 9112 6.1, 6.3: one plain length, or exactly `chunked`; also in an Upgrade, where llhttp stops."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    assert reason_for(post(fields)) is reason
    assert reason_for(post(fields + upgrade)) in (Reason.BAD_FRAMING, Reason.CODING_UNKNOWN)
    assert reason_for(post(upgrade + fields)) in (Reason.BAD_FRAMING, Reason.CODING_UNKNOWN)


def test_framing_of_http10():
    """RFC 9112 6.1: HTTP/1.0 knows no transfer codings."""
    fields = b"Transfer-Encoding: chunked\r\n"
    assert reason_for(get(fields, line=b"POST / HTTP/1.0")) is Reason.BAD_FRAMING
    assert parse(get(b"Content-Length: 3\r\n", line=b"POST / HTTP/1.0")).length == 3


@pytest.mark.parametrize(
    ("fields", "length", "chunked", "has_body"),
    [
        (b"", -1, False, False),
        (b"Content-Length: 0\r\n", 0, False, False),
        (b"Content-Length:5\r\n", 5, False, True),
        (b"CONTENT-LENGTH: \t005 \t\r\n", 5, False, True),
        (b"Content-Length: 123456789012345678\r\n", 123456789012345678, False, True),
        (b"Transfer-Encoding: chunked\r\n", -1, True, True),
        (b"transfer-encoding:\tChUnKeD \r\n", -1, True, True),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"HEAD", b"QUERY"])
def test_framing(method, fields, length, chunked, has_body):
    head = parse(get(fields, line=method + b" / HTTP/1.1"))
    assert (head.length, head.chunked, head.has_body) == (length, chunked, has_body)
    assert b"".join(head.kept) == b"\r\nHost: t.test"


def test_kept_bytes():
    """Everything else passes exactly as it came: case, order, spaces, obs-text, repetition."""
    fields = (
        b"accept:*/*\r\nX-Empty:\r\nX-Space: \t a  b \t\r\nX-Obs: \xe9\xff\r\nCookie: a=1\r\n"
        b"cookie: b=2\r\nTrailer: x\r\nTransfer-Encodings: x\r\nX!#$%&'*+-.^_`|~9: y\r\n"
    )
    assert kept(fields) == b"\r\n" + fields[:-2]


TAKEN_OUT = [
    b"Connection: close", b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers",
    b"Upgrade: h2c", b"Proxy-Authorization: Basic YTpi", b"HTTP2-Settings: AAMAAABk", b"Expect: 100-continue",
    b"Forwarded: for=1.2.3.4", b"X-Forwarded-For: 1.2.3.4", b"x-forwarded-anything: 1", b"X-Real-IP: 1.2.3.4",
    b"X-Request-Id: a", b"X_Forwarded_For: 1", b"X.Forwarded.For: 1", b"X-Forwarded_Proto: 1", b"x_real_ip: 1",
    b"X.Real.IP: 1", b"X_Request_Id: 1", b"Content_Length: 5", b"Content.Length: 5", b"Transfer_Encoding: chunked",
    b"Proxy: http://evil.test:8080",
]  # fmt: skip


@pytest.mark.parametrize("field", TAKEN_OUT)
def test_taken_out(field):
    """Hop-by-hop, identity and framing fields, and their aliases, never pass (RFC 9110 7.6.1)."""
    for spelled in (field, field.swapcase()):
        assert kept(b"A: 1\r\n" + spelled + b"\r\nB: 2\r\n") == b"\r\nA: 1\r\nB: 2"
    head = parse(get(field + b"\r\n"))
    assert (head.length, head.chunked) == (-1, False)


NOMINATED = [
    (b"X-A", b"\r\nX-B: 2"),
    (b"x-a", b"\r\nX-B: 2"),
    (b"close, X-A", b"\r\nX-B: 2"),
    (b"X-A ,\t x-b", b""),
    (b",, X-A,", b"\r\nX-B: 2"),
    (b"X", b"\r\nX-A: 1\r\nX-B: 2"),
    (b"X-A: 1", b"\r\nX-A: 1\r\nX-B: 2"),
    (b'"X-A"', b"\r\nX-A: 1\r\nX-B: 2"),
]


@pytest.mark.parametrize(("tokens", "left"), NOMINATED)
@pytest.mark.parametrize("name", [b"Connection", b"connection", b"CONNECTION"])
def test_nominated(name, tokens, left):
    """Traefik CVE-2026-29054: what Connection names is removed, wherever it stands and in any case."""
    fields = b"X-A: 1\r\n%b: %b\r\nX-B: 2\r\n"
    assert kept(fields % (name, tokens)) == left
    assert kept(b"X-A: 1\r\nX-B: 2\r\n" + name + b": " + tokens + b"\r\n") == left
    assert kept(b"%b: %b\r\n" % (name, tokens) + b"X-A: 1\r\nX-B: 2\r\n") == left


def test_nominated_by_two_fields():
    assert kept(b"Connection: x-a\r\nX-A: 1\r\nConnection: x-b\r\nX-B: 2\r\nX-C: 3\r\n") == b"\r\nX-C: 3"


def test_nomination_spares_host_and_framing():
    """Host and the length are not the client's to take away."""
    head = parse(post(b"Connection: host, content-length, transfer-encoding\r\nContent-Length: 3\r\n"))
    assert (head.host, head.length) == (b"t.test", 3)
    assert b"".join(head.kept) == b"\r\nHost: t.test"


KEEP_ALIVE = [
    (1, b"", True),
    (1, b"Connection: close\r\n", False),
    (1, b"Connection: Close\r\n", False),
    (1, b"connection: x , CLOSE\r\n", False),
    (1, b"Connection: keep-alive\r\n", True),
    (1, b"Connection: close, keep-alive\r\n", False),
    (1, b"Connection: keep-alive\r\nConnection: close\r\n", False),
    (1, b"Connection: closed\r\n", True),
    (1, b"Proxy-Connection: close\r\n", True),
    (0, b"", False),
    (0, b"Connection: keep-alive\r\n", True),
    (0, b"Connection: Keep-Alive \r\n", True),
    (0, b"Connection: x, keep-alive\r\n", True),
    (0, b"Connection: keep-alive, close\r\n", False),
    (0, b"Proxy-Connection: keep-alive\r\n", False),
]


@pytest.mark.parametrize(("minor", "fields", "keep_alive"), KEEP_ALIVE)
def test_keep_alive(minor, fields, keep_alive):
    """RFC 9112 9.3."""
    head = parse(get(fields, line=b"GET / HTTP/1.%d" % minor))
    assert (head.minor, head.keep_alive) == (minor, keep_alive)


@pytest.mark.parametrize(
    ("target", "forwarded", "path", "query", "authority"),
    [
        (b"/", b"/", b"/", b"", b""),
        (b"/a/b?c=d?e", b"/a/b?c=d?e", b"/a/b", b"?c=d?e", b""),
        (b"/a?", b"/a?", b"/a", b"?", b""),
        (b"//x/%0A/..", b"//x/%0A/..", b"//x/%0A/..", b"", b""),
        (b"http://u.test", b"/", b"/", b"", b"u.test"),
        (b"HTTP://u.test:81/a?b", b"/a?b", b"/a", b"?b", b"u.test:81"),
        (b"https://[::1]:81/a", b"/a", b"/a", b"", b"[::1]:81"),
        (b"http://u.test?a=/b", b"/?a=/b", b"/", b"?a=/b", b"u.test"),
    ],
)
def test_target(target, forwarded, path, query, authority):
    """RFC 9112 3.2.2: an absolute target becomes origin form, and its authority replaces Host."""
    head = parse(get(b"X-A: 1\r\n", line=b"GET " + target + b" HTTP/1.1"))
    assert (head.target, head.path, head.query, head.authority) == (forwarded, path, query, authority)
    assert head.raw_target == target
    assert head.host == (authority or b"t.test")
    assert b"".join(head.kept) == (b"\r\nX-A: 1" if authority else b"\r\nHost: t.test\r\nX-A: 1")


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        (b"*", b"*"),
        (b"/", b"/"),
        (b"http://u.test", b"*"),
        (b"http://u.test/", b"/"),
        (b"http://u.test?a", b"/?a"),
    ],
)
def test_options(target, forwarded):
    """RFC 9112 3.2.4: OPTIONS about the server as a whole, also in absolute form."""
    head = parse(get(line=b"OPTIONS " + target + b" HTTP/1.1"))
    assert head.target == forwarded
    assert head.path == forwarded.partition(b"?")[0]


@pytest.mark.parametrize(
    ("minor", "fields", "expect"),
    [
        (1, b"", False),
        (1, b"Expect: 100-continue\r\n", True),
        (1, b"expect: 100-Continue \t\r\n", True),
        (1, b"Expect: 100-continue\r\n" * 2, True),
        (0, b"Expect: 100-continue\r\n", False),
    ],
)
def test_expect(minor, fields, expect):
    """RFC 9110 10.1.1: that of an HTTP/1.0 client is ignored."""
    head = parse(get(b"Content-Length: 3\r\n" + fields, line=b"POST / HTTP/1.%d" % minor))
    assert head.expect is expect


@pytest.mark.parametrize(
    ("fields", "expect"),
    [
        (b"", False),
        (b"Content-Length: 0\r\n", False),
        (b"Content-Length: 1\r\n", True),
        (b"Transfer-Encoding: chunked\r\n", True),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_expect_needs_content(method, fields, expect):
    """RFC 9110 10.1.1: a request without content expects nothing, wherever the field stands."""
    field = b"Expect: 100-continue\r\n"
    for both in (field + fields, fields + field):
        assert parse(get(both, line=method + b" / HTTP/1.1")).expect is expect


MAX_FORWARDS = [
    (b"", False, b""),
    (b"Max-Forwards: 0\r\n", True, b"\r\nMax-Forwards: 0"),
    (b"max-forwards:\t000 \r\n", True, b"\r\nMax-Forwards: 0"),
    (b"Max-Forwards: 1\r\n", False, b"\r\nMax-Forwards: 0"),
    (b"MAX-FORWARDS: 10\r\n", False, b"\r\nMax-Forwards: 9"),
    (b"Max-Forwards: 999999999\r\n", False, b"\r\nMax-Forwards: 999999998"),
    (b"X-Max-Forwards: 0\r\n", False, b"\r\nX-Max-Forwards: 0"),
]


@pytest.mark.parametrize(("fields", "is_for_us", "passed"), MAX_FORWARDS)
@pytest.mark.parametrize("target", [b"/", b"*", b"http://t.test"])
def test_max_forwards(target, fields, is_for_us, passed):
    """RFC 9110 7.6.2: an OPTIONS that may go no further is ours, any other counts down."""
    head = parse(get(b"A: 1\r\n" + fields + b"B: 2\r\n", line=b"OPTIONS " + target + b" HTTP/1.1"))
    assert head.is_for_us is is_for_us
    assert sorted(b"".join(head.kept).removeprefix(b"\r\nHost: t.test").split(b"\r\n")) == sorted(
        (b"\r\nA: 1\r\nB: 2" + passed).split(b"\r\n")
    )


@pytest.mark.parametrize(
    "fields",
    [
        *(
            b"Max-Forwards: %b\r\n" % value
            for value in (b"", b"-1", b"+1", b"x", b"1.5", b"0x1", b"1 0", b"1" * 10)
        ),
        b"Max-Forwards: 1, 1\r\n",
        b"Max-Forwards: 1\r\n" * 2,
        b"Max-Forwards: \xb2\r\n",
    ],
)
def test_max_forwards_refused(fields):
    """One number, or it is not known how far the request may go; other methods do not care."""
    assert reason_for(get(fields, line=b"OPTIONS / HTTP/1.1")) is Reason.BAD_HEADER
    assert kept(fields) == b"\r\n" + fields[:-2]


@pytest.mark.parametrize("value", [b"", b"x", b"100-continue, x", b"100-continue;a=b", b"200-ok"])
@pytest.mark.parametrize("minor", [0, 1])
def test_expect_refused(value, minor):
    raw = get(b"Expect: " + value + b"\r\n", line=b"POST / HTTP/1.%d" % minor)
    assert reason_for(raw) is Reason.EXPECTATION_FAILED


UPGRADES = [
    (b"GET", 1, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"websocket"),
    (b"GET", 1, b"connection: keep-alive, uPGRADE\r\nUPGRADE: WebSocket\r\n", b"websocket"),
    (b"GET", 1, b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n", b"websocket"),
    (b"GET", 1, b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n", b"websocket"),
    (b"GET", 1, b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n", b"websocket"),
    (b"GET", 1, b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n", b""),
    (b"GET", 1, b"Connection: Upgrade\r\nUpgrade: websocket/13\r\n", b""),
    (b"GET", 1, b"Connection: Upgrade\r\nUpgrade: websockets\r\n", b""),
    (b"GET", 1, b"Connection: Upgrade\r\n", b""),
    (b"GET", 1, b"Connection: Upgrade\r\nUpgrade: \r\n", b""),
    (b"GET", 1, b"Upgrade: websocket\r\n", b""),
    (b"GET", 1, b"Connection: close\r\nUpgrade: websocket\r\n", b""),
    (b"GET", 0, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b""),
    (b"POST", 1, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b""),
    (b"HEAD", 1, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b""),
    (b"GET", 1, b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n", b""),
    (b"GET", 1, b"Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n", b""),
]


@pytest.mark.parametrize(("method", "minor", "fields", "token"), UPGRADES)
def test_upgrade(method, minor, fields, token):
    """Only known tokens, only of a GET without a body; any other request goes on without its Upgrade."""
    head = parse(get(fields, line=b"%b / HTTP/1.%d" % (method, minor)))
    assert head.upgrade == token
    assert b"".join(head.kept) == b"\r\nHost: t.test"


def test_upgrades_are_configurable():
    raw = get(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    assert parse(raw, upgrades=frozenset()).upgrade == b""
    raw = get(b"Connection: Upgrade\r\nUpgrade: h2c, Other/1\r\n")
    assert parse(raw, upgrades=frozenset({"other/1"})).upgrade == b"other/1"


@pytest.mark.parametrize(
    ("fields", "request_id"),
    [
        (b"", b""),
        (b"X-Request-Id: aB-1 \r\n", b"aB-1"),
        (b"X-Request-Id: " + b"a" * 128 + b"\r\n", b"a" * 128),
        (b"X-Request-Id: " + b"a" * 129 + b"\r\n", b""),
        (b"X-Request-Id: a b\r\n", b""),
        (b"X-Request-Id: \xe9\r\n", b""),
        (b"X-Request-Id: \r\n", b""),
        (b"X-Request-Id: a\r\n" * 2, b""),
        (b"X-Request-Id: a\r\n" * 3, b""),
        (b"X_Request_Id: a\r\n", b""),
        (b"X_Request_Id: b\r\nX-Request-Id: a\r\n", b"a"),
    ],
)
def test_request_id(fields, request_id):
    assert parse(get(fields)).request_id == request_id


def test_forwarded_fields():
    """What a trusted peer may say, in order; aliases are no claim."""
    head = parse(
        get(
            b"X-Forwarded-For: A, b \t\r\nx_forwarded_for: no\r\nforwarded: For=c\r\nX-Real-IP: d\r\n"
            b"X-FORWARDED-FOR: e\r\n"
        )
    )
    claims = [
        (b"x-forwarded-for", b"A, b"), (b"forwarded", b"For=c"), (b"x-real-ip", b"d"), (b"x-forwarded-for", b"e"),
    ]  # fmt: skip
    assert head.forwarded == claims
    assert parse(get()).forwarded is None
    assert parse(get(b"X.Forwarded.For: no\r\n")).forwarded is None


@pytest.mark.parametrize(
    "content_type",
    [b"application/grpc", b"Application/gRPC", b"application/grpc+proto", b"\tapplication/grpc;a=b"],
)
def test_grpc_refused(content_type):
    assert reason_for(post(b"Content-Type: " + content_type + b"\r\n")) is Reason.HTTP2_UNSUPPORTED


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Type: application/grpc-web\r\n",
        b"X-A: application/grpc\r\n",
        b"Accept: application/grpc\r\n",
    ],
)
def test_not_grpc(fields):
    assert parse(post(fields)).method == b"POST"


@pytest.mark.parametrize("raw", [b"PRI * HTTP/2.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_http2_preface(raw):
    assert reason_for(raw) is Reason.HTTP2_UNSUPPORTED


@pytest.mark.parametrize("raw", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HT"])
def test_incomplete(raw):
    assert isinstance(reason_for(raw), Reason)


@pytest.mark.parametrize("limit", [1, 5, 100])
def test_field_limit(limit):
    """`limit` fields pass, one more does not, however short they are."""
    assert parse(get(b"a:\r\n" * (limit - 1)), max_fields=limit).host == b"t.test"
    assert reason_for(get(b"a:\r\n" * limit), max_fields=limit) is Reason.HEADER_TOO_LARGE
    raw = b"GET / HTTP/1.0\r\n" + b"a:\r\n" * (limit + 1) + b"\r\n"
    assert reason_for(raw, max_fields=limit) is Reason.HEADER_TOO_LARGE


def test_field_lookup():
    """Values by lower-case name, several joined (RFC 9110 5.3); not in the request line, not by suffix."""
    head = parse(get(b"X-A: One \r\nMy-X-A: no\r\nx-a:two\r\nX-Empty:\r\n", line=b"GET /x-a: HTTP/1.1"))
    assert head.field(b"x-a") == b"One, two"
    assert head.field(b"x-empty") == b""
    assert head.field(b"a") is None
    assert head.field(b"host") == b"t.test"


WHOLE = get(
    b"Connection: Upgrade, x-a\r\nUpgrade: websocket\r\nX-A: \xe9\r\nExpect: 100-continue\r\n",
    line=b"GET http://u.test/x?y HTTP/1.1",
)


def test_partial_accepted():
    """No beginning of a valid head is refused."""
    for raw in (WHOLE, post(b"Transfer-Encoding: chunked\r\n"), get(line=b"OPTIONS * HTTP/1.0", host=b"")):
        for cut in range(len(raw)):
            check_partial_request(raw[:cut])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nX-A : ", Reason.BAD_HEADER),
        (b"GET / HTTP/1.1\r\nX-A: a\x00", Reason.BAD_HEADER),
        (b"GET / HTTP/1.1\nH", Reason.BAD_REQUEST_LINE),
        (b"FOO ", Reason.METHOD_UNKNOWN),
        (b"\x16\x03\x01", Reason.BAD_REQUEST_LINE),
        (b"\n", Reason.BAD_REQUEST_LINE),
        (b"\rG", Reason.BAD_REQUEST_LINE),
        (b"GET / HTTP/3.0\r\n", Reason.VERSION_UNSUPPORTED),
        (b"GET /x\r\n", Reason.BAD_REQUEST_LINE),
        (b"GET /x\n", Reason.BAD_REQUEST_LINE),
        (b"GET /x \r\n", Reason.BAD_REQUEST_LINE),
        (b"GET /x HTTP/1.1 \r\n", Reason.BAD_REQUEST_LINE),
        (b"GET /x#y HTTP/1.1\r\n", Reason.BAD_TARGET),
        (b"GET  /x HTTP/1.1\r\nHost: a\r\n", Reason.BAD_REQUEST_LINE),
    ],
)
def test_partial_refused(data, reason):
    """What can no longer become a request is refused at once, not at the header timeout."""
    with pytest.raises(DownstreamError) as caught:
        check_partial_request(data)
    assert caught.value.reason is reason
