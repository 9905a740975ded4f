"""The PROXY protocol header, versions 1 and 2, with which a balancer in front tells whom it speaks for.

Source: "The PROXY protocol, Versions 1 & 2" (HAProxy, proxy-protocol.txt). The header comes first on a
connection that is known to have one; what is no header is refused at the first byte that shows it, so nothing
of the connection is ever taken for a request. `parse` looks at all bytes so far and keeps no state: when it
answers or raises, it does the same however many more bytes follow.

Not looked at: the TLVs of version 2, its CRC-32C among them (TCP has checked the bytes, and the sender is
trusted or the listener would not have the protocol switched on).
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from proxy.errors import DownstreamError, Reason

V1_LIMIT_BYTES = 107
"""Longest line of version 1 with its CRLF (section 2.1: `PROXY UNKNOWN` with the longest addresses)."""
V2_LIMIT_BYTES = 4096
"""Longest block after the 16 fixed bytes of version 2. Addresses take at most 216; the rest is TLVs, of which
senders in use add some hundred bytes (the protocol's own limit is 65535)."""

_V1_OPENINGS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN")
_V1_LINE = re.compile(rb"PROXY (?:TCP[46] [0-9A-Fa-f:. ]*|UNKNOWN(?: [^\r\n]*)?)").fullmatch
_V1_PORT = re.compile("0|[1-9][0-9]{0,4}").fullmatch

_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED_BYTES = 16
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_INET, _INET6 = 1, 2
# Bytes that a block has at least, by address family: two addresses and, for IP, two ports.
_V2_ADDRESS_BYTES = {0: 0, _INET: 12, _INET6: 36, 3: 216}
_V2_TRANSPORTS = 3


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What the header said; without addresses (LOCAL, UNKNOWN, Unix) the connection's own peer counts."""

    consumed: int
    """Bytes that the header took; what follows is the client's."""
    source: str | None = None
    """The client's address as an IP literal, an IPv4 one if it was mapped into IPv6."""
    source_port: int | None = None
    destination: str | None = None
    """The address the client connected to."""
    destination_port: int | None = None


def parse(data: bytes) -> ProxyHeader | None:
    """The header that `data`, all bytes of the connection so far, begins with; `None` when more are needed.

    Raises `DownstreamError(BAD_PROXY_PROTOCOL)`.
    """
    if data.startswith(_V2_SIGNATURE):
        return _parse_v2(data)
    if data.startswith(b"P"):
        return _parse_v1(data)
    if _V2_SIGNATURE.startswith(data):
        return None
    raise _malformed()


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, V1_LIMIT_BYTES)
    if end < 0:
        # The CR may have come without its LF.
        if len(data) < V1_LIMIT_BYTES and (
            _V1_LINE(data.removesuffix(b"\r")) or any(opening.startswith(data) for opening in _V1_OPENINGS)
        ):
            return None
        raise _malformed()
    line = data[:end]
    if not _V1_LINE(line):
        raise _malformed()
    if line.startswith(b"PROXY UNKNOWN"):
        return ProxyHeader(end + 2)
    fields = line.decode("ascii").split(" ")
    if len(fields) != 6:
        raise _malformed()
    _, protocol, source, destination, source_port, destination_port = fields
    family = IPv4Address if protocol == "TCP4" else IPv6Address
    return ProxyHeader(
        end + 2,
        _address(family, source),
        _v1_port(source_port),
        _address(family, destination),
        _v1_port(destination_port),
    )


def _v1_port(text: str) -> int:
    if not _V1_PORT(text) or int(text) > 0xFFFF:
        raise _malformed()
    return int(text)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) > 12 and data[12] not in (_V2_LOCAL, _V2_PROXY):
        raise _malformed()
    if len(data) > 13 and not _is_v2_protocol(data[12], data[13]):
        raise _malformed()
    if len(data) < _V2_FIXED_BYTES:
        return None
    is_proxy = data[12] == _V2_PROXY
    family, transport = data[13] >> 4, data[13] & 15
    length = int.from_bytes(data[14:16], "big")
    if length > V2_LIMIT_BYTES or (is_proxy and length < _V2_ADDRESS_BYTES[family]):
        raise _malformed()
    consumed = _V2_FIXED_BYTES + length
    if len(data) < consumed:
        return None
    # A transport of 0 is one that the sender does not know. Datagrams count: a sender that takes HTTP/3 says
    # so.
    if not is_proxy or not transport or family not in (_INET, _INET6):
        return ProxyHeader(consumed)
    ip = IPv4Address if family == _INET else IPv6Address
    size = 4 if family == _INET else 16
    ports = _V2_FIXED_BYTES + 2 * size
    return ProxyHeader(
        consumed,
        _address(ip, data[_V2_FIXED_BYTES : _V2_FIXED_BYTES + size]),
        int.from_bytes(data[ports : ports + 2], "big"),
        _address(ip, data[_V2_FIXED_BYTES + size : ports]),
        int.from_bytes(data[ports + 2 : ports + 4], "big"),
    )


def _is_v2_protocol(command: int, protocol: int) -> bool:
    # Section 2.2: with LOCAL the family is ignored; otherwise unspecified values must be rejected.
    return command == _V2_LOCAL or (protocol >> 4 in _V2_ADDRESS_BYTES and protocol & 15 < _V2_TRANSPORTS)


def _address(family: type[IPv4Address] | type[IPv6Address], value: str | bytes) -> str:
    try:
        address = family(value)
    except AddressValueError:
        raise _malformed() from None
    # One client, one spelling: the address may be compared with a list of networks.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _malformed() -> DownstreamError:
    return DownstreamError(Reason.BAD_PROXY_PROTOCOL)
