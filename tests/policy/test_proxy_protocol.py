import pytest

from proxy.errors import DownstreamError, Reason
from proxy.policy.proxy_protocol import V1_LIMIT_BYTES, V2_LIMIT_BYTES, ProxyHeader, parse

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
IPV4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + (4321).to_bytes(2, "big") + (443).to_bytes(2, "big")
IPV6 = bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02" + "10e1" + "01bb")
MAPPED = bytes.fromhex("00" * 10 + "ffff" + "c0000201" + "00" * 10 + "ffff" + "c6336402" + "10e1" + "01bb")
TLV = b"\x04\x00\x03\x00\x00\x00"


def v2(command, protocol, block=b"", length=None):
    length = len(block) if length is None else length
    return SIGNATURE + bytes([command, protocol]) + length.to_bytes(2, "big") + block


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.2 4321 443\r\n",
            ProxyHeader(44, "192.0.2.1", 4321, "198.51.100.2", 443),
        ),
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            ProxyHeader(56, "255.255.255.255", 65535, "255.255.255.255", 65535),
        ),
        (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ProxyHeader(32, "0.0.0.0", 0, "0.0.0.0", 0)),
        (
            b"PROXY TCP6 2001:DB8::1 2001:db8:0:0:0:0:0:2 4321 443\r\n",
            ProxyHeader(54, "2001:db8::1", 4321, "2001:db8::2", 443),
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c633:6402 4321 443\r\n",
            ProxyHeader(55, "192.0.2.1", 4321, "198.51.100.2", 443),
        ),
        (b"PROXY UNKNOWN\r\n", ProxyHeader(15)),
        (b"PROXY UNKNOWN ffff::1 \x00 whatever\r\n", ProxyHeader(34)),
        (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", ProxyHeader(107)),
    ],
)
def test_v1(line, header):
    assert header.consumed == len(line)
    assert parse(line) == header
    assert parse(line + b"GET / HTTP/1.1\r\n\r\n") == header
    assert [parse(line[:cut]) for cut in range(len(line))] == [None] * len(line)


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (v2(0x21, 0x11, IPV4), ProxyHeader(28, "192.0.2.1", 4321, "198.51.100.2", 443)),
        (v2(0x21, 0x11, IPV4 + TLV), ProxyHeader(34, "192.0.2.1", 4321, "198.51.100.2", 443)),
        (v2(0x21, 0x12, IPV4), ProxyHeader(28, "192.0.2.1", 4321, "198.51.100.2", 443)),
        (v2(0x21, 0x21, IPV6 + TLV), ProxyHeader(58, "2001:db8::1", 4321, "2001:db8::2", 443)),
        (v2(0x21, 0x21, MAPPED), ProxyHeader(52, "192.0.2.1", 4321, "198.51.100.2", 443)),
        (v2(0x21, 0x31, b"/a".ljust(108, b"\0") * 2), ProxyHeader(232)),
        (v2(0x21, 0x00), ProxyHeader(16)),
        (v2(0x21, 0x00, TLV), ProxyHeader(22)),
        (v2(0x21, 0x10, IPV4), ProxyHeader(28)),
        (v2(0x20, 0x00), ProxyHeader(16)),
        # LOCAL: whatever the family says, or the block holds.
        (v2(0x20, 0x11, IPV4), ProxyHeader(28)),
        (v2(0x20, 0xFF, b"junk"), ProxyHeader(20)),
        (v2(0x20, 0x00, bytes(V2_LIMIT_BYTES)), ProxyHeader(16 + V2_LIMIT_BYTES)),
    ],
)
def test_v2(data, header):
    assert header.consumed == len(data)
    assert parse(data) == header
    assert parse(data + b"GET / HTTP/1.1\r\n\r\n") == header
    assert all(parse(data[:cut]) is None for cut in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        # No header at all, known by the last byte.
        b"G",
        b"\x16",
        b"PO",
        b"PROXY TCP5",
        b"PROXY  ",
        b"p",
        b"\r\n\r\n\r",
        SIGNATURE[:-1] + b"\r",
        # Version 1.
        b"PROXY TCP4\r",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rG",
        b"PROXY TCP4 1.2.3.4\t",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +",
        b"PROXY TCP6 fe80::1%",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWNX",
        b"PROXY UNKNOWN " + b"x" * (V1_LIMIT_BYTES - 14),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP6 1::2::3 ::2 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 123456\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 a 2\r\n",
        b"PROXY TCP4 \r\n",
        # Version 2: version, command, family, transport, length.
        SIGNATURE + b"\x11",
        SIGNATURE + b"\x31",
        SIGNATURE + b"\x22",
        SIGNATURE + b"\x21\x41",
        SIGNATURE + b"\x21\x13",
        v2(0x21, 0x11, length=11),
        v2(0x21, 0x21, length=35),
        v2(0x21, 0x31, length=215),
        v2(0x20, 0x00, length=V2_LIMIT_BYTES + 1),
    ],
)
def test_refuses_at_the_byte_that_shows_it(data):
    with pytest.raises(DownstreamError) as caught:
        parse(data)
    assert caught.value.reason is Reason.BAD_PROXY_PROTOCOL
    with pytest.raises(DownstreamError):
        parse(data + b"\r\n")
    assert parse(data[:-1]) is None or data.endswith(b"\r\n")
