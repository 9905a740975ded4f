"""One connection to an endpoint: bytes in both directions, and whether it may be used again.

It knows nothing of HTTP. Whoever holds it (a relay, or nobody while it is idle in its pool) is told what arrives.
A connection on which anything unexpected happened (bytes nobody asked for, a parse error, a timeout, a cancelled
exchange) is closed and never used again: its next bytes could be taken for another exchange's reply.
"""

import asyncio
import os
import socket
from typing import TYPE_CHECKING, cast

from proxy.dataplane.outbox import DIRECT_BYTES
from proxy.dataplane.relay import Relay
from proxy.scoreboard import E_CONNECTIONS

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

    __slots__ = (
        "_transport",
        "_unsent",
        "idle_since",
        "is_blocked",
        "is_closed",
        "is_paused",
        "pool",
        "relay",
        "requests",
    )

    _transport: asyncio.Transport

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.relay: Relay | None = None
        """Who uses it now; `None` while idle."""
        self.requests = 0
        """Exchanges it was used for."""
        self.idle_since = 0.0
        self.is_closed = False
        self.is_blocked = False
        """The endpoint does not take what was written."""
        self.is_paused = False
        self._unsent = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Report as soon as the kernel takes no more: nothing is kept here beyond one piece.
        self._transport.set_write_buffer_limits(high=0)
        if self.pool.is_pressed:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self.pool.open.add(self)
        self.pool.endpoint.row[E_CONNECTIONS] = len(self.pool.open)

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
        self.is_closed = True
        if error is not None and self.relay is not None:
            self._read_rest()
        pool = self.pool
        pool.open.discard(self)
        pool.endpoint.row[E_CONNECTIONS] = len(pool.open)
        if self.relay is not None:
            self.relay.on_upstream_lost(error)
        else:
            pool.discard(self)

    def pause_writing(self) -> None:
        self.is_blocked = True
        if self.relay is not None:
            self.relay.on_upstream_blocked()

    def resume_writing(self) -> None:
        self.is_blocked = False
        if self.relay is not None:
            self.relay.on_upstream_writable()

    def write(self, data: bytes) -> None:
        """Send `data`: at the end of this turn, or at once if it is large."""
        if self.is_closed:
            return
        if len(data) >= DIRECT_BYTES:
            self.flush()
            self._transport.write(data)
        elif self._unsent:
            self._unsent += data
        elif data:
            self._unsent = data
            self.pool.outbox.add(self)

    def flush(self) -> None:
        """Send what was collected in this turn."""
        data = self._unsent
        if data and not self.is_closed:
            self._unsent = b""
            self._transport.write(data)

    def write_eof(self) -> None:
        """Send no more after what was written."""
        if not self.is_closed and self._transport.can_write_eof():
            self.flush()
            self._transport.write_eof()

    @property
    def buffered_bytes(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return 0 if self.is_closed else self._transport.get_write_buffer_size() + len(self._unsent)

    def pause(self) -> None:
        """Stop reading until `resume`."""
        if not self.is_paused and not self.is_closed:
            self.is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            if not self.is_closed:
                self._transport.resume_reading()

    def _read_rest(self) -> None:
        """Pass on what came before a write failed: an endpoint that refuses an upload answers, then closes, and the
        next piece of the upload finds the connection reset before the answer was read."""
        fd = self._transport.get_extra_info("socket").fileno()
        try:
            while self.relay is not None and (data := os.read(fd, RECEIVE_BUFFER_BYTES)):
                self.relay.on_reply_data(data)
        except OSError:
            pass  # there is no more

    def close_when_sent(self) -> None:
        """Close once the endpoint has taken what was written; the kernel gives up on one that does not."""
        self.relay = None
        if not self.is_closed:
            self.flush()
            self.is_closed = True
            sock = self._transport.get_extra_info("socket")
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, CLOSE_TIMEOUT_MS)
            self._transport.close()

    def close(self) -> None:
        """Close at once; whatever was not sent is dropped. The holder is not told."""
        self.relay = None
        if not self.is_closed:
            self.is_closed = True
            self.pool.discard(self)
            self._transport.abort()
