"""Who the client is, as the endpoint is told.

X-Forwarded-*, Forwarded (RFC 7239), Client-Cert (RFC 9440), Via (RFC 9110 7.6.3), X-Request-Id.

From a peer that is not trusted the fields are replaced: whatever the client claims is dropped. From a trusted proxy the
lists are extended by the peer's address, and protocol, host and real address are passed on as that proxy saw them.
"""

import ipaddress
from collections.abc import Sequence

from proxy.dataplane.request_head import RequestHead

VIA_LINES = (b"\r\nVia: 1.0 homeport", b"\r\nVia: 1.1 homeport")
"""The line that says that a message of HTTP/1.0 or 1.1 came through here, by its minor version."""
_CLIENT_CERT_FIELDS = (b"client-cert", b"client-cert-chain")
_LISTS = (b"x-forwarded-for", b"forwarded")


class TrustedProxies:
    """The peers whose forwarded fields are believed: networks, and `unix` for peers on a Unix socket."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._trusts_unix = "unix" in networks
        self._networks = [ipaddress.ip_network(network) for network in networks if network != "unix"]

    def is_trusted(self, host: str) -> bool:
        """Whether the peer at `host` (an IP literal; empty for a Unix socket) is trusted."""
        if not host:
            return self._trusts_unix
        if not self._networks:
            return False
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def forwarded_node(host: str) -> bytes:
    """`host` as a node identifier of RFC 7239 6: IPv6 in brackets and quotes, `unknown` for a Unix socket."""
    if not host:
        return b"unknown"
    return b'"[%b]"' % host.encode() if ":" in host else host.encode()


def identity_lines(peer: str, host: bytes, scheme: bytes) -> bytes:
    """The lines that replace what an untrusted client claims; each begins with CRLF.

    `peer` is an IP literal, empty for a Unix socket; `host` the value of Host; `scheme` `http` or `https`.
    """
    lines = b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b" % (peer.encode() or b"unknown", scheme)
    element = b"for=%b;proto=%b" % (forwarded_node(peer), scheme)
    if host:
        lines += b"\r\nX-Forwarded-Host: %b" % host
        element += b';host="%b"' % host
    return lines + b"\r\nForwarded: " + element


def _is_single(name: bytes) -> bool:
    return name not in _LISTS and b"_" not in name and b"." not in name


def extended_lines(
    claimed: Sequence[tuple[bytes, bytes]],
    peer: str,
    host: bytes,
    scheme: bytes,
    own: Sequence[bytes] = (),
) -> bytes:
    """The lines for a trusted peer: its own `claimed` fields (lower-case name, value), extended by `peer`.

    `own` are names, in lower case, of fields that are ours to make, whatever the peer says.
    """
    chain = [value for name, value in claimed if name == b"x-forwarded-for" and value]
    elements = [value for name, value in claimed if name == b"forwarded" and value]
    # The first of each; spellings with `_` or `.` are nobody's to send.
    single = {
        name: value for name, value in reversed(claimed) if value and name not in own and _is_single(name)
    }
    single.setdefault(b"x-forwarded-proto", scheme)
    if host:
        single.setdefault(b"x-forwarded-host", host)
    chain.append(peer.encode() or b"unknown")
    element = b"for=%b;proto=%b" % (forwarded_node(peer), scheme)
    elements.append(element + (b';host="%b"' % host if host else b""))
    lines = [b"X-Forwarded-For: " + b", ".join(chain)]
    lines += [b"%b: %b" % (name.title(), value) for name, value in single.items()]
    lines.append(b"Forwarded: " + b", ".join(elements))
    return b"\r\n" + b"\r\n".join(lines)


class ClientIdentity:
    """What one connection's requests have in common: who sends them, and to which host the last one went.

    Most connections ask for one host, so what depends on it is made once and kept until another comes.
    """

    __slots__ = ("_client_cert", "_host", "_host_key", "_is_trusted", "_lines", "_peer", "_trusted", "scheme")

    def __init__(
        self, peer: str, trusted: TrustedProxies, scheme: bytes, client_cert: bytes | None = None
    ) -> None:
        """`client_cert` is the value of Client-Cert that endpoints are sent: empty = there is none, `None` = it is not
        ours to say."""
        self._peer = peer
        self._trusted = trusted
        self._is_trusted = trusted.is_trusted(peer)
        self.scheme = scheme
        """`http` or `https`, as the client used it."""
        self._client_cert = client_cert
        self._host: bytes | None = None
        self._host_key = ""
        self._lines = b""

    def host_key(self, host: bytes) -> str:
        """`host` in lower case without its port, as routes match it."""
        if host != self._host:
            self._see(host)
        return self._host_key

    def client(self, head: RequestHead) -> str:
        """The address of the client: the peer's, or, when that is a trusted proxy, the last of X-Forwarded-For that is
        not one. Empty when it came by a Unix socket and nobody says from where."""
        client = self._peer
        if head.forwarded is None or not self._is_trusted:
            return client
        values = [value for name, value in head.forwarded if name == b"x-forwarded-for"]
        for element in reversed(b",".join(values).split(b",")):
            address = element.strip(b" \t").decode("latin-1")
            try:
                is_trusted = self._trusted.is_trusted(address)
            except ValueError:
                break  # no address: what stands before it may be anybody's invention
            if address:
                client = address
            if not is_trusted:
                break
        return client

    def is_https(self, head: RequestHead) -> bool:
        """Whether the client came by https: to us, or to the trusted proxy in front, as that says."""
        if head.forwarded is not None and self._is_trusted:
            for name, value in head.forwarded:
                if name == b"x-forwarded-proto":
                    return value.lower() == b"https"
        return self.scheme == b"https"

    def lines(self, head: RequestHead) -> bytes:
        """The lines that tell the endpoint who the client is."""
        if head.forwarded is not None and self._is_trusted:
            own = () if self._client_cert is None else _CLIENT_CERT_FIELDS
            lines = extended_lines(head.forwarded, self._peer, head.host, self.scheme, own)
            return lines + self._client_cert_line()
        if head.host != self._host:
            self._see(head.host)
        return self._lines

    def _see(self, host: bytes) -> None:
        self._host = host
        name = host.decode("latin-1").lower()
        self._host_key = name[: name.rfind("]") + 1] if name.startswith("[") else name.partition(":")[0]
        self._lines = identity_lines(self._peer, host, self.scheme) + self._client_cert_line()

    def _client_cert_line(self) -> bytes:
        return b"\r\nClient-Cert: " + self._client_cert if self._client_cert else b""
