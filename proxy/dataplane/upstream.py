"""One connection to an endpoint: bytes in both directions, and whether it may be used again.

It knows nothing of HTTP. Whoever holds it (a relay, or nobody while it is idle in its pool) is told what arrives.
A connection on which anything unexpected happened (bytes nobody asked for, a parse error, a timeout, a cancelled
exchange) is closed and never used again: its next bytes could be taken for another exchange's reply.
"""

import asyncio
import os
import select
import socket
from typing import TYPE_CHECKING

from proxy.dataplane.relay import Relay
from proxy.dataplane.tls import TlsTransport
from proxy.dataplane.wire import Wire

if TYPE_CHECKING:
    from proxy.dataplane.pool import Pool

# What the kernel may hold of a reply whose client does not take it, once many clients do not (it doubles this for its
# own bookkeeping). Left to itself the buffer grows to 470 KB for a connection that was once fast; with this it stays at
# 65 KB. A 1 MB reply costs a quarter more with it, so it is for those only that are opened under such pressure.
RECEIVE_BUFFER_BYTES = 48 * 1024

# How long the kernel tries to deliver the last bytes of a tunnel.
CLOSE_TIMEOUT_MS = 30_000


class Upstream(asyncio.Protocol):
    """A connection to an endpoint."""

    __slots__ = ("idle_since", "place", "pool", "relay", "requests", "security", "wire")

    def __init__(self, pool: "Pool", place: int) -> None:
        self.pool = pool
        self.place = place
        """Number of its place among the connections that the endpoint may have; -1 = it has none."""
        self.wire = Wire(pool.outbox)
        self.security = pool.security
        """What the connection was asked for; it is not used any more when the pool asks for something else."""
        self.relay: Relay | None = None
        """Who uses it now; `None` while idle."""
        self.requests = 0
        """Exchanges it was used for."""
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire.open(transport)
        if self.pool.is_pressed:
            self.wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self.pool.add(self)

    def data_received(self, data: bytes) -> None:
        relay = self.relay
        if relay is None:
            # Nobody asked: a reply that comes now could only poison the next exchange.
            self.close()
        else:
            relay.on_reply_data(data)

    def eof_received(self) -> bool:
        if self.relay is not None:
            return self.relay.on_reply_eof()
        self.close()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.wire.drop()
        if error is not None and self.relay is not None:
            self._read_rest()
        pool = self.pool
        pool.remove(self)
        if self.relay is not None:
            self.relay.on_upstream_lost(error)
        else:
            pool.discard(self)

    def pause_writing(self) -> None:
        self.wire.is_blocked = True
        if self.relay is not None:
            self.relay.on_upstream_blocked()

    def resume_writing(self) -> None:
        self.wire.is_blocked = False
        if self.relay is not None:
            self.relay.on_upstream_writable()

    def _read_rest(self) -> None:
        """Pass on what came before a write failed: an endpoint that refuses an upload answers, then closes, and the
        next piece of the upload finds the connection reset before the answer was read."""
        transport = self.wire.transport
        fd = self.wire.socket.fileno()
        try:
            while self.relay is not None and (data := os.read(fd, RECEIVE_BUFFER_BYTES)):
                if isinstance(transport, TlsTransport):
                    data = transport.decrypt(data)
                if data:
                    self.relay.on_reply_data(data)
        except OSError:
            pass  # there is no more

    def has_word(self) -> bool:
        """Whether bytes or the end have come that were not read yet: then it cannot be used again."""
        poll = select.poll()
        poll.register(self.wire.socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def close_when_sent(self) -> None:
        """Close once the endpoint has taken what was written; the kernel gives up on one that does not."""
        self.relay = None
        wire = self.wire
        if wire.is_open:
            if wire.socket.family != socket.AF_UNIX:
                wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, CLOSE_TIMEOUT_MS)
            wire.close()
            wire.drop()

    def close(self) -> None:
        """Close at once; whatever was not sent is dropped. The holder is not told."""
        self.relay = None
        if self.wire.is_open:
            self.pool.discard(self)
            self.wire.abort()
