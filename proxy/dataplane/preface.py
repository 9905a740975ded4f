"""What comes before HTTP on a client's connection: the PROXY protocol's header, then the TLS handshake, as configured.

Both count as the time of the first head. Whoever fails here gets no answer, because it could be anything, but for one
who speaks plain HTTP where TLS is expected.
"""

from base64 import b64encode
from typing import TYPE_CHECKING

from proxy.dataplane.forwarding import ClientIdentity
from proxy.dataplane.tls import TlsFailure, TlsTransport
from proxy.errors import DownstreamError, Reason
from proxy.policy.proxy_protocol import parse as parse_proxy_header

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.plane import Plane


class Preface:
    """The beginning of one connection; gone once HTTP begins."""

    __slots__ = ("_buffer", "_downstream", "_plane", "_tls")

    def __init__(self, downstream: "Downstream", plane: "Plane") -> None:
        self._downstream = downstream
        self._plane = plane
        self._buffer = b""
        self._tls: TlsTransport | None = None

    def begin(self) -> None:
        """The connection is there."""
        if not self._downstream.listener.spec.proxy_protocol:
            self._begin_tls(b"")

    def on_data(self, data: bytes) -> None:
        """Take the client's address from a PROXY protocol header."""
        downstream = self._downstream
        data = self._buffer + data
        try:
            header = parse_proxy_header(data)
        except DownstreamError as error:
            downstream.abort(error.reason)
            return
        if header is None:
            self._buffer = data
            return
        self._buffer = b""
        if header.source is not None:
            if not downstream.listener.admit(downstream, header.source):
                downstream.abort(Reason.TOO_MANY_CONNECTIONS)
                return
            downstream.peer = downstream.peer_key = header.source
        rest = data[header.consumed :]
        if downstream.listener.spec.tls is None:
            downstream.begin_http(self._identity(b"http"), rest)
        else:
            self._begin_tls(rest)

    def _identity(self, scheme: bytes, client_cert: bytes | None = None) -> ClientIdentity:
        downstream = self._downstream
        return ClientIdentity(downstream.peer, downstream.listener.trusted, scheme, client_cert)

    def _begin_tls(self, rest: bytes) -> None:
        """Put TLS between the connection and its socket."""
        downstream, plane = self._downstream, self._plane
        context = downstream.listener.tls
        assert context is not None
        downstream.deadline_reason = Reason.TLS_HANDSHAKE
        self._tls = tls = TlsTransport(downstream, context, plane.loop, self._on_handshake, is_server=True)
        wire = downstream.wire
        tls.attach(wire.transport)
        wire.open(tls)
        if rest:
            tls.data_received(rest)

    def _on_handshake(self, failure: TlsFailure | None, data: bytes) -> None:
        downstream, tls = self._downstream, self._tls
        spec = downstream.listener.spec.tls
        if failure is None:
            assert tls is not None
            client_cert = None
            if spec is not None and spec.forward_client_cert:
                client_cert = _client_cert(tls.peer_certificate)
            downstream.begin_http(self._identity(b"https", client_cert), b"")
        elif failure is TlsFailure.GONE:
            # Nobody's fault: somebody looked whether the port is open, or has no more patience.
            downstream.close()
        elif failure is TlsFailure.PLAIN:
            assert tls is not None
            downstream.wire.open(tls.detach(downstream))
            downstream.refuse(Reason.PLAIN_HTTP, data)
        else:
            downstream.refuse_silently(Reason.TLS_HANDSHAKE)


def _client_cert(der: bytes | None) -> bytes:
    """The value of Client-Cert (RFC 9440 2.2): a byte sequence of structured fields. Empty without a certificate."""
    return b":%b:" % b64encode(der) if der else b""
