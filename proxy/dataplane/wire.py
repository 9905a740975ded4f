"""The bytes of one connection, a client's or an endpoint's: small writes together, reading switched off and on.

What both sides of an exchange need of a transport, and all they need; what the bytes mean is the owner's business. A
wire that is not open, not yet or no more, does nothing when asked to, so that no owner has to look first.
"""

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from proxy.dataplane.outbox import Outbox

# Pieces of this size or more are written at once: they fill the peer's buffers by themselves.
DIRECT_BYTES = 16 * 1024
# {on, 0 seconds}: close with a reset, and give up what was not sent (socket(7)).
_LINGER_RESET = struct.pack("ii", 1, 0)


class Wire:
    """A transport with what waits to be written to it."""

    __slots__ = ("_outbox", "_transport", "_unsent", "has_sent_eof", "is_blocked", "is_open", "is_paused")

    _transport: asyncio.Transport

    def __init__(self, outbox: "Outbox") -> None:
        self._outbox = outbox
        self._unsent = b""
        self.is_open = False
        self.is_blocked = False
        """The peer does not take what was written. Its owner says so, who is told by the transport."""
        self.is_paused = False
        self.has_sent_eof = False

    def __repr__(self) -> str:
        return f"Wire({'open' if self.is_open else 'closed'}, {self.buffered_bytes} bytes waiting)"

    def open(self, transport: asyncio.BaseTransport) -> None:
        """Write to `transport` from now on."""
        self._transport = cast(asyncio.Transport, transport)
        # Report as soon as the kernel takes no more: nothing is kept here beyond one piece.
        self._transport.set_write_buffer_limits(high=0)
        self.is_open = True

    @property
    def buffered_bytes(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() + len(self._unsent) if self.is_open else 0

    @property
    def socket(self) -> socket.socket:
        """The socket, to set options and to look at; never to read or write."""
        return cast(socket.socket, self._transport.get_extra_info("socket"))

    @property
    def transport(self) -> asyncio.Transport:
        """What is written to."""
        return self._transport

    def write(self, data: bytes) -> None:
        """Send `data`: at the end of this turn, or at once if it is large."""
        if not self.is_open:
            return
        if len(data) >= DIRECT_BYTES:
            self.flush()
            self._transport.write(data)
        elif self._unsent:
            self._unsent += data
        elif data:
            self._unsent = data
            self._outbox.add(self)

    def flush(self) -> None:
        """Send what was collected in this turn."""
        data = self._unsent
        if data and self.is_open:
            self._unsent = b""
            self._transport.write(data)

    def write_eof(self) -> bool:
        """Send no more after what was written; false when the transport cannot end one direction alone."""
        if not self.is_open:
            return True
        self.flush()
        if not self._transport.can_write_eof():
            return False
        self.has_sent_eof = True
        self._transport.write_eof()
        return True

    def pause(self) -> None:
        """Stop reading until `resume`."""
        if self.is_open and not self.is_paused:
            self.is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.is_paused:
            self.is_paused = False
            if self.is_open:
                self._transport.resume_reading()

    def rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read no more in this turn. From a peer that sends as fast as its bytes are taken the loop reads up to 32
        times at once (libuv), which is long for the others when the bytes are laborious."""
        if self.is_open and not self.is_paused:
            self._transport.pause_reading()
            loop.call_soon(self._end_rest)

    def _end_rest(self) -> None:
        if self.is_open and not self.is_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> bool:
        """Close when what was written has gone out; true when it has. It stays open here for `abort` to be possible."""
        self.flush()
        is_sent = not self._transport.get_write_buffer_size()
        self._transport.close()
        return is_sent

    def abort(self) -> None:
        """Close at once; whatever was not sent is dropped."""
        if self.is_open:
            self.drop()
            self._transport.abort()

    def reset(self) -> None:
        """Close at once, with a reset.

        A reply that was cut must not look complete to a client that reads up to the end of the connection, and the
        kernel must not keep unsent bytes for a client that does not take them.
        """
        if self.is_open:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self.abort()

    def drop(self) -> None:
        """The connection is given up or lost: what was not sent never will be."""
        self.is_open = False
        self._unsent = b""
