"""From the text of one scalar to an address, a host or a network. See `values` for the parsers' promise."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_network

from proxy.config.faults import BadValue
from proxy.config.values import scalar_text
from proxy.model import TcpAddress, UnixAddress


@dataclass(frozen=True, slots=True)
class NamedAddress:
    """A host name and port, to be resolved."""

    host: str
    """Lower case."""
    port: int
    """1–65535."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


EndpointAddress = TcpAddress | UnixAddress | NamedAddress

# Underscores are not in RFC 1123 but in the service names of Docker Compose.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT = re.compile(r"[0-9]{1,5}")
# Longest path of a Unix socket: sun_path has 108 bytes with the final zero (unix(7)).
_MAX_SOCKET_PATH_BYTES = 107
ADDRESS_EXPECTED = "host:port, 10.0.0.1:9000, [::1]:9000 or unix:/path"
BIND_EXPECTED = (
    "127.0.0.1:8080, [::1]:8080 or unix:/path; 0.0.0.0:8080 (IPv4) or [::]:8080 (IPv6) for all interfaces"
)


def parse_address(value: object) -> EndpointAddress:
    """Where an endpoint is: a host name, an IP address in its usual form, or a Unix socket."""
    text = scalar_text(value, ADDRESS_EXPECTED)
    if text.startswith("unix:"):
        return _parse_socket_path(text)
    host, port = _split_port(text, ADDRESS_EXPECTED, low=1)
    numeric = _parse_numeric(host, ADDRESS_EXPECTED)
    return NamedAddress(parse_host_name(host), port) if numeric is None else TcpAddress(numeric, port)


def parse_bind(value: object) -> TcpAddress | UnixAddress:
    """Where a listener listens: an IP address or a Unix socket; port 0 takes a free one."""
    text = scalar_text(value, BIND_EXPECTED)
    if text.startswith("unix:"):
        return _parse_socket_path(text)
    host, port = _split_port(text, BIND_EXPECTED, low=0)
    numeric = _parse_numeric(host, BIND_EXPECTED)
    if numeric is None:
        raise BadValue("has no host" if not host else "is a name, not an address", BIND_EXPECTED)
    return TcpAddress(numeric, port)


def is_loopback(address: TcpAddress | UnixAddress) -> bool:
    """Whether only this machine can reach `address`."""
    if isinstance(address, UnixAddress):
        return True
    return (IPv6Address if ":" in address.host else IPv4Address)(address.host).is_loopback


def _parse_socket_path(text: str) -> UnixAddress:
    path = text[len("unix:") :]
    expected = f"unix: and an absolute path of at most {_MAX_SOCKET_PATH_BYTES} bytes"
    if not path.startswith("/") or path.endswith("/") or "\0" in path or not path.isprintable():
        raise BadValue("is not a socket path", expected)
    if len(path.encode()) > _MAX_SOCKET_PATH_BYTES:
        raise BadValue("is too long for a socket path", expected)
    return UnixAddress(path)


def _split_port(text: str, expected: str, low: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    # An IPv6 address without brackets also has a last colon; its port would be a guess.
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise BadValue("is not an address with a port", expected)
    if not _PORT.fullmatch(port) or not low <= int(port) <= 65535:
        raise BadValue("has no valid port", f"a port from {low} to 65535")
    return host, int(port)


def _parse_numeric(host: str, expected: str) -> str | None:
    """The shortest form of an IP address, or `None` for a name. Brackets must hold IPv6."""
    try:
        if host.startswith("["):
            if "%" in host:
                raise BadValue("has a zone", "an IPv6 address without a zone")
            return str(IPv6Address(host[1:-1]))
        return str(IPv4Address(host))
    except AddressValueError as error:
        # What ends in a label of digits is meant as an address (WHATWG URL, "ends in a number checker"): as a
        # name, `127.1` or `256.1.1.1` would be looked up and might be found.
        if host.startswith("[") or host.rstrip(".").rpartition(".")[2].isdecimal():
            raise BadValue("is not a valid IP address", expected) from error
        return None


def parse_host_name(text: str) -> str:
    """A DNS name in lower case, without the final dot; letters outside ASCII must come as punycode."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if not text.isascii() or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadValue("is not a valid host name", "letters, digits, '-' and '.', as in query-1.example.com")
    return name


def parse_host_pattern(value: object) -> str:
    """The host of a match: a name, `*.` and a name, an address (IPv6 in brackets), or `*`. No port."""
    expected = "a host without a port, such as example.com, *.example.com, 10.0.0.1 or *"
    text = scalar_text(value, expected).lower()
    if text == "*":
        return text
    base = text.removeprefix("*.")
    if "*" in base:
        raise BadValue("has a misplaced wildcard", expected)
    try:
        numeric = _parse_numeric(base, expected)
        if numeric is not None and base != text:
            raise BadValue("has a wildcard before an address", expected)
        if numeric is not None:
            return f"[{numeric}]" if ":" in numeric else numeric
        return text.removesuffix(base) + parse_host_name(base)
    except BadValue as error:
        raise BadValue("is not a valid host pattern", expected) from error


def parse_authority(value: object) -> str:
    """A host with an optional port, as a Host field has it."""
    expected = "a host with an optional port, such as example.com or example.com:8443"
    text = scalar_text(value, expected)
    with_port = text.endswith("]") is False and ":" in text
    try:
        host, port = _split_port(text, expected, low=1) if with_port else (text, 0)
        numeric = _parse_numeric(host, expected)
        if numeric is None:
            numeric = parse_host_name(host)
    except BadValue as error:
        raise BadValue("is not a valid host", expected) from error
    host = f"[{numeric}]" if ":" in numeric else numeric
    return f"{host}:{port}" if with_port else host


def parse_server_name(value: object) -> str:
    """What a certificate is to name: a host name in lower case, or an IP address without brackets."""
    expected = "a host name or an IP address"
    text = scalar_text(value, expected)
    try:
        numeric = _parse_numeric(f"[{text}]" if ":" in text else text, expected)
        return parse_host_name(text) if numeric is None else numeric
    except BadValue as error:
        raise BadValue("is not a valid name", expected) from error


def parse_network(value: object) -> str:
    """A network in CIDR form, a single address, or `unix`."""
    expected = "a network such as 10.0.0.0/8 or fd00::/8, an address, or unix"
    text = scalar_text(value, expected)
    if text == "unix":
        return text
    try:
        return str(ip_network(str(text)))
    except ValueError as error:
        if "host bits" in str(error):
            raise BadValue("has bits set beyond its mask", "a network such as 10.0.0.0/8") from error
        raise BadValue("is not a network", expected) from error
