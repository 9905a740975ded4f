"""Listeners: IPv6, Unix sockets, and the PROXY protocol on connections from a load balancer."""

import ipaddress
import struct

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import Origin
from support.wait import wait_for
from support.wire import Fields

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, addresses: bytes) -> bytes:
    """A PROXY protocol v2 header; section 2.2 of its specification."""
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(addresses)) + addresses


def v2_tcp4(source: str, extra: bytes = b"") -> bytes:
    packed = ipaddress.ip_address(source).packed + ipaddress.ip_address("192.0.2.1").packed
    return v2(1, 0x11, packed + struct.pack("!HH", 5555, 443) + extra)


def v2_tcp6(source: str) -> bytes:
    packed = ipaddress.ip_address(source).packed + ipaddress.ip_address("2001:db8::1").packed
    return v2(1, 0x21, packed + struct.pack("!HH", 5555, 443))


@pytest.mark.parametrize("listener", ["six", "unix"])
def test_other_kinds(daemon: Daemon, connect: OpenClient, path: str, listener: str) -> None:
    """IPv6 and Unix sockets take requests as TCP does, bodies and keep-alive included."""
    client = connect(daemon, listener)
    for _ in range(3):
        assert client.ask("POST", path, body=b"x" * 100_000).body == b"ok"


def test_ipv6_peer(daemon: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """RFC 7239 6: an IPv6 peer is bare in X-Forwarded-For, bracketed and quoted in Forwarded."""
    assert connect(daemon, "six").get(path).status == 200
    fields = origin.only(path).fields
    assert fields.one("x-forwarded-for") == "::1"
    assert 'for="[::1]"' in fields.one("forwarded").replace("For=", "for=")


def test_unix_peer(daemon: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """RFC 7239 6.2: a peer without an address is `unknown`; what it claims is not believed."""
    assert connect(daemon, "unix").get(path, "X-Forwarded-For: 203.0.113.9").status == 200
    assert b"203.0.113.9" not in origin.only(path).head


def proxied(daemon: Daemon, connect: OpenClient, origin: Origin, path: str, header: bytes) -> Fields:
    """The fields that the origin saw of a request behind a PROXY protocol header."""
    client: Client = connect(daemon, "proxied")
    client.send(header + request("GET", path))
    assert client.reply().status == 200
    client.assert_open(path + "-again")
    return origin.only(path).fields


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 5555 443\r\n", "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 5555 443\r\n", "2001:db8::7"),
        (v2_tcp4("198.51.100.7"), "198.51.100.7"),
        (v2_tcp6("2001:db8::7"), "2001:db8::7"),
        (v2_tcp4("198.51.100.7", b"\x04\x00\x03abc"), "198.51.100.7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1"),
        (v2(0, 0x00, b""), "127.0.0.1"),
        (v2(0, 0x11, b"\1" * 12), "127.0.0.1"),
        (v2(1, 0x00, b""), "127.0.0.1"),
    ],
    ids=["v1-tcp4", "v1-tcp6", "v2-tcp4", "v2-tcp6", "v2-tlv", "v1-unknown", "v1-unknown-long", "v2-local",
         "v2-local-with-addresses", "v2-unspecified"],
)  # fmt: skip
def test_proxy_protocol(
    daemon: Daemon, connect: OpenClient, origin: Origin, path: str, header: bytes, peer: str
) -> None:
    """PROXY protocol 2.1, 2.2: the peer is whom the header names; LOCAL and UNKNOWN keep the real one."""
    assert proxied(daemon, connect, origin, path, header).one("x-forwarded-for") == peer


@pytest.mark.parametrize(
    "header", [b"PROXY TCP4 198.51.100.7 192.0.2.1 5555 443\r\n", v2_tcp4("198.51.100.7")]
)
def test_proxy_protocol_in_pieces(
    daemon: Daemon, connect: OpenClient, origin: Origin, path: str, header: bytes
) -> None:
    """However the header is cut."""
    client = connect(daemon, "proxied")
    for byte in header:
        client.send(bytes([byte]))
    assert client.get(path).status == 200
    assert origin.only(path).fields.one("x-forwarded-for") == "198.51.100.7"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 5555\r\n",
        b"PROXY TCP4 198.51.100.777 192.0.2.1 5555 443\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 5555 65536\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 5555 443\r\n",
        b"PROXY TCP5 198.51.100.7 192.0.2.1 5555 443\r\n",
        b"PROXY  TCP4 198.51.100.7 192.0.2.1 5555 443\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 5555 443\n",
        b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
        b"proxy TCP4 198.51.100.7 192.0.2.1 5555 443\r\n",
        SIGNATURE + b"\x11\x11\x00\x0c" + b"\1" * 12,
        SIGNATURE + b"\x2f\x11\x00\x0c" + b"\1" * 12,
        v2(1, 0x11, b"\1" * 4),
        v2(1, 0x21, b"\1" * 12),
    ],
    ids=["none", "v1-short", "v1-bad-address", "v1-bad-port", "v1-wrong-family", "v1-unknown-family",
         "v1-two-spaces", "v1-bare-lf", "v1-too-long", "v1-lower-case", "v2-version", "v2-command",
         "v2-short-tcp4", "v2-short-tcp6"],
)  # fmt: skip
def test_bad_proxy_protocol(
    daemon: Daemon, connect: OpenClient, origin: Origin, path: str, header: bytes
) -> None:
    """A missing or malformed header: nothing is served; the answer is 400 or none, then the end."""
    client = connect(daemon, "proxied")
    client.send(header + request("GET", path))
    reply = client.reply_or_cut()
    assert reply is None or reply.status == 400
    client.assert_closed()
    assert origin.seen(path) == []


@pytest.mark.parametrize(
    "header", [b"PROXY TCP4 198.51.100.7 192.0.2.1 5555 443\r\n", v2_tcp4("198.51.100.7")]
)
def test_unexpected_proxy_protocol(client: Client, origin: Origin, path: str, header: bytes) -> None:
    """On a listener without it the header is a malformed request, and nobody gets to choose its address."""
    client.send(header + request("GET", path))
    reply = client.reply()
    assert reply.status in (400, 501)
    client.assert_closed()
    assert origin.seen(path) == []


def test_second_proxy_protocol_header(daemon: Daemon, connect: OpenClient, origin: Origin, path: str) -> None:
    """The header counts once, at the start of a connection."""
    header = b"PROXY TCP4 198.51.100.7 192.0.2.1 5555 443\r\n"
    client = connect(daemon, "proxied")
    client.send(header + request("GET", path) + header + request("GET", path))
    assert client.reply().status == 200
    assert client.reply().status in (400, 501)
    client.assert_closed()
    assert len(origin.seen(path)) == 1


def test_proxy_protocol_and_connections_per_client(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin
) -> None:
    """`connections_per_client` counts whom the header names, not the load balancer, which is one for all."""
    config = settings.simple(origin.address, limits={"connections_per_client": 2})
    config["listeners"] = [settings.listener(proxy_protocol=True)]
    daemon = start_daemon(config)

    def opened(source: str) -> Client | None:
        client = connect(daemon)
        client.send(b"PROXY TCP4 %b 192.0.2.1 5555 443\r\n" % source.encode() + request("GET", "/"))
        reply = client.reply_or_cut()
        return client if reply is not None and reply.status == 200 else None

    first = opened("198.51.100.7")
    assert first is not None
    assert opened("198.51.100.7") is not None
    assert opened("198.51.100.7") is None
    assert opened("198.51.100.8") is not None
    assert opened("198.51.100.8") is not None
    first.close()
    wait_for(lambda: opened("198.51.100.7"), "the place of the connection that ended")
    assert opened("198.51.100.7") is None
    daemon.stop()
