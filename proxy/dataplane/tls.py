"""TLS between a connection and its socket: one object that is the protocol of the socket's transport and the transport
of the connection above.

uvloop's own TLS buffers on its own account, ends half-closed connections and takes an unannounced end for a proper
one; a proxy must know what was taken, pass an end on as what it was, and cut where it says it cuts. OpenSSL works on
memory here: what the socket gives is decrypted in the same call, what the connection writes is encrypted and written in
the same call, and nothing is kept between. So limits, backpressure and deadlines above hold as they do without TLS.

    state      what the socket's bytes are                  leaves by
    ---------  -------------------------------------------  --------------------------------------------
    HANDSHAKE  the handshake                                OPEN, or CLOSED with a `TlsFailure`
    OPEN       records; the peer may end its direction by   close, abort, loss
               close_notify while ours goes on (RFC 8446 6.1)
    CLOSED     none

An end of the socket without close_notify may have been made by anybody (RFC 9112 9.8): it is a loss, not an end.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from typing import Any, cast

from proxy.snapshot import ClusterTlsSpec, ListenerTlsSpec, Snapshot
from proxy.tls import certificate_context, client_context, server_context

_log = logging.getLogger(__name__)

# The most that one record holds (RFC 8446 5.1): a read of this size takes a whole record.
RECORD_BYTES = 16 * 1024
# The beginning of a request; every TLS record begins with a byte below 32.
_HTTP_METHOD = re.compile(rb"[A-Z]{3}")
# Encrypted in one go: OpenSSL's memory keeps the size of the largest piece for the life of the connection.
SLICE_BYTES = 64 * 1024


class TlsFailure(Enum):
    """Why a handshake did not come to its end."""

    PLAIN = "the client speaks HTTP without TLS"
    CERTIFICATE = "the peer's certificate was refused"
    HANDSHAKE = "the handshake failed"
    GONE = "the peer left before it was complete"


OnHandshake = Callable[[TlsFailure | None, bytes], None]
"""Told once what a handshake came to: `None` when it is complete. A failure comes with the bytes that the peer sent
last; its alert, if there is one, has been written, and what is written from then on is not encrypted."""


class State(Enum):
    """See the module's table."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"


_HANDSHAKE = State.HANDSHAKE
_OPEN = State.OPEN
_CLOSED = State.CLOSED


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One end of a TLS connection, the server's unless it has a `server_name` to ask for and to verify."""

    __slots__ = (
        "_above", "_eof_waits", "_has_peer_ended", "_has_shut", "_incoming", "_is_fresh", "_is_paused", "_loop",
        "_on_handshake", "_outgoing", "_raw", "_ssl", "_stays_open", "state",
    )  # fmt: skip

    _raw: asyncio.Transport

    def __init__(
        self,
        above: asyncio.Protocol,
        context: ssl.SSLContext,
        loop: asyncio.AbstractEventLoop,
        on_handshake: OnHandshake,
        *,
        is_server: bool,
        server_name: str | None = None,
    ) -> None:
        self._above = above
        self._loop = loop
        self._on_handshake: OnHandshake | None = on_handshake
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=is_server, server_hostname=server_name
        )
        self.state = _HANDSHAKE
        self._is_fresh = is_server
        """Nothing has come from the client yet."""
        self._has_peer_ended = False
        """close_notify came: the peer sends no more."""
        self._has_shut = False
        """close_notify went: we send no more."""
        self._stays_open = False
        """The connection above has something to say after the peer's end."""
        self._is_paused = False
        self._eof_waits = False

    def __repr__(self) -> str:
        return f"TlsTransport({self.state.value})"

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER), if it showed one that was verified."""
        return self._ssl.getpeercert(binary_form=True)

    # ------------------------------------------------------------------ the socket's events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.attach(transport)
        self._shake_hands(b"")

    def attach(self, transport: asyncio.BaseTransport) -> None:
        """Take over a socket's transport; the handshake begins with the next `data_received`."""
        self._raw = cast(asyncio.Transport, transport)
        self._raw.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        if self.state is _OPEN:
            self._incoming.write(data)
        elif self.state is _CLOSED or not self._shake_hands(data):
            return
        plain = self._decrypt()
        if plain:
            self._above.data_received(plain)
        if self._has_peer_ended and self.state is _OPEN:
            self._pass_end()

    def eof_received(self) -> bool:
        if self.state is _HANDSHAKE:
            self._conclude(TlsFailure.GONE, b"")
        elif self._has_peer_ended:
            return self._stays_open
        elif self._raw.get_write_buffer_size():
            self._raw.abort()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self.state is _HANDSHAKE:
            self._conclude(TlsFailure.GONE, b"")
        self.state = _CLOSED
        above = self._above
        # Both sides know each other: without this only the garbage collector could free them.
        del self._above
        self._on_handshake = None
        above.connection_lost(error)

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    # ------------------------------------------------------------------ records

    def _shake_hands(self, data: bytes) -> bool:
        """Go on with the handshake; true when it is complete."""
        if self._is_fresh and data:
            self._is_fresh = False
            if _HTTP_METHOD.match(data):
                self._conclude(TlsFailure.PLAIN, data)
                return False
        self._incoming.write(data)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._send_outgoing()
            return False
        except ssl.SSLCertVerificationError as error:
            _log.debug("TLS handshake: %s", error)
            self._conclude(TlsFailure.CERTIFICATE, data)
            return False
        except ssl.SSLError as error:
            _log.debug("TLS handshake: %s", error)
            self._conclude(TlsFailure.HANDSHAKE, data)
            return False
        self._send_outgoing()
        self.state = _OPEN
        self._conclude(None, b"")
        return self.state is _OPEN

    def _conclude(self, failure: TlsFailure | None, data: bytes) -> None:
        if failure is not None:
            self._send_outgoing()
            self.state = _CLOSED
        on_handshake = self._on_handshake
        self._on_handshake = None
        assert on_handshake is not None
        on_handshake(failure, data)

    def decrypt(self, data: bytes) -> bytes:
        """What `data`, read from the socket behind our back, holds for the connection above."""
        self._incoming.write(data)
        return self._decrypt()

    def _decrypt(self) -> bytes:
        """All that can be read of what the socket gave."""
        read, incoming = self._ssl.read, self._incoming
        pieces = []
        try:
            while plain := read(RECORD_BYTES):
                pieces.append(plain)
                if not incoming.pending:
                    break
            else:
                self._has_peer_ended = True
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLZeroReturnError:
            self._has_peer_ended = True  # as an empty read, once we have said that we send no more
        except ssl.SSLError as error:
            _log.debug("TLS: %s", error)
            self._break()
        if self._outgoing.pending:
            self._send_outgoing()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _send_outgoing(self) -> None:
        """Write what OpenSSL has made."""
        data = self._outgoing.read()
        if data and not self._raw.is_closing():
            self._raw.write(data)

    def _break(self) -> None:
        """The peer sent what is no valid record, or an alert: nothing more can be believed."""
        self._send_outgoing()
        self.state = _CLOSED
        self._raw.abort()

    def _pass_end(self) -> None:
        """Tell the connection above that the peer sends no more, after what it paused for."""
        if self._is_paused:
            self._eof_waits = True
            return
        self._stays_open = bool(self._above.eof_received())
        if not self._stays_open:
            self.close()

    def _pass_late_end(self) -> None:
        if self._eof_waits and not self._is_paused and self.state is _OPEN:
            self._eof_waits = False
            self._pass_end()

    def _shut(self) -> None:
        """Say that we send no more."""
        if self.state is not _OPEN or self._has_shut:
            return
        self._has_shut = True
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            pass  # the peer has not said the same yet
        self._send_outgoing()

    # ------------------------------------------------------------------ what the connection above asks for

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        if self.state is not _OPEN or self._has_shut or not data:
            return
        encrypt, outgoing, raw = self._ssl.write, self._outgoing, self._raw
        try:
            if len(data) <= SLICE_BYTES:
                encrypt(data)
                raw.write(outgoing.read())
                return
            view = memoryview(data)
            for at in range(0, len(data), SLICE_BYTES):
                encrypt(view[at : at + SLICE_BYTES])
                raw.write(outgoing.read())
        except ssl.SSLError:
            self._break()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._shut()
        self._raw.write_eof()

    def pause_reading(self) -> None:
        self._is_paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._is_paused = False
        self._raw.resume_reading()
        if self._eof_waits:
            self._loop.call_soon(self._pass_late_end)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self.state is _CLOSED or self._raw.is_closing()

    def close(self) -> None:
        """End the connection when what was written has gone out."""
        self._shut()
        self.state = _CLOSED
        self._raw.close()

    def abort(self) -> None:
        """End the connection at once; nothing more is sent, and the connection above is told of the loss."""
        self.state = _CLOSED
        self._raw.abort()

    def detach(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give the socket's transport back, for `protocol`, after a failed handshake."""
        assert self.state is _CLOSED
        self._raw.set_protocol(protocol)
        return self._raw


class TlsContexts:
    """The contexts of a worker, made once for each content and kept while a snapshot has it."""

    __slots__ = ("_certificates", "_clients", "_servers")

    def __init__(self) -> None:
        self._servers: dict[ListenerTlsSpec, ssl.SSLContext] = {}
        self._clients: dict[ClusterTlsSpec, ssl.SSLContext] = {}
        self._certificates: dict[ListenerTlsSpec, ssl.SSLContext] = {}
        """For one certificate each, so that a new one among many does not have all of them made anew."""

    def __repr__(self) -> str:
        return f"TlsContexts({len(self._servers)} for listeners, {len(self._clients)} for clusters)"

    def prepare(self, snapshot: Snapshot) -> Iterator[None]:
        """Make what `snapshot` needs and is not there, one context with each step: it takes about a millisecond, with
        a list of every public authority 30. Raises `ssl.SSLError` or `ValueError` for what cannot be used."""
        for listener in snapshot.listeners:
            if listener.tls is not None and listener.tls not in self._servers:
                yield from self._prepare_server(listener.tls)
        for cluster in snapshot.clusters:
            if cluster.tls is not None and cluster.tls not in self._clients:
                self._clients[cluster.tls] = client_context(cluster.tls)
                yield

    def _prepare_server(self, spec: ListenerTlsSpec) -> Iterator[None]:
        others = []
        for alone in _others(spec):
            context = self._certificates.get(alone)
            if context is None:
                context = self._certificates[alone] = certificate_context(alone, alone.certificates[0])
                yield
            others.append(context)
        self._servers[spec] = server_context(spec, others)
        yield

    def apply(self, snapshot: Snapshot) -> None:
        """Make what `snapshot` needs and is not there, then forget what it does not need. Raises as `prepare`, and then
        what was there still is."""
        for _ in self.prepare(snapshot):
            pass
        servers = {each.tls for each in snapshot.listeners if each.tls is not None}
        clients = {each.tls for each in snapshot.clusters if each.tls is not None}
        certificates = {alone for spec in servers for alone in _others(spec)}
        self._servers = {spec: self._servers[spec] for spec in servers}
        self._clients = {spec: self._clients[spec] for spec in clients}
        self._certificates = {alone: self._certificates[alone] for alone in certificates}

    def server(self, spec: ListenerTlsSpec) -> ssl.SSLContext:
        """The context of a listener."""
        context = self._servers.get(spec)
        if context is None:
            context = self._servers[spec] = server_context(spec)
        return context

    def client(self, spec: ClusterTlsSpec) -> ssl.SSLContext:
        """The context for connections to a cluster's endpoints."""
        context = self._clients.get(spec)
        if context is None:
            context = self._clients[spec] = client_context(spec)
        return context


def _others(spec: ListenerTlsSpec) -> list[ListenerTlsSpec]:
    """`spec` with each of its certificates but the first alone."""
    return [replace(spec, certificates=(certificate,)) for certificate in spec.certificates[1:]]
