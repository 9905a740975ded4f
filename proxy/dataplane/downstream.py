"""One client connection: finds the heads in its bytes, keeps exchanges in order, and closes with care.

    phase      the next bytes are
    ---------  ------------------------------------------------------------------------------------
    PREFACE    what comes before HTTP, see `Preface`
    HEAD       a request's head, or the rest of one
    BUSY       the body of the request in progress, or later requests, which wait unparsed
    IDLE       a request's head, any time
    LINGERING  thrown away: an answer was sent before the request was read to its end
    CLOSED     none

One head is parsed at a time; what was pipelined behind it waits as bytes, up to a limit, and reading pauses beyond.
After an answer that left part of the request unread, the connection lingers: closing it at once would make the kernel
send a reset, which can destroy the answer in the client's buffers (RFC 9112 9.6).
"""

import asyncio
import logging
import select
from enum import Enum
from typing import TYPE_CHECKING

from proxy.dataplane.exchange import Exchange
from proxy.dataplane.forwarding import ClientIdentity
from proxy.dataplane.headers import HEAD_END
from proxy.dataplane.preface import Preface
from proxy.dataplane.relay import Relay
from proxy.dataplane.request_faults import check_size, skip_empty_lines
from proxy.dataplane.request_head import check_partial_request, parse_request
from proxy.dataplane.responses import render_refusal
from proxy.dataplane.stall import STALL_CHECK_S, ProbeTimes, Stall, unsent_bytes
from proxy.dataplane.wire import Wire
from proxy.errors import DownstreamError, Reason

if TYPE_CHECKING:
    from proxy.dataplane.listener import Listener
    from proxy.dataplane.plane import Plane

_log = logging.getLogger(__name__)


class Phase(Enum):
    """What the next bytes of a client are; see the module's table."""

    PREFACE = "preface"
    HEAD = "head"
    BUSY = "busy"
    IDLE = "idle"
    LINGERING = "lingering"
    CLOSED = "closed"


_PREFACE = Phase.PREFACE
_HEAD = Phase.HEAD
_BUSY = Phase.BUSY
_IDLE = Phase.IDLE
_LINGERING = Phase.LINGERING
_CLOSED = Phase.CLOSED

# Seconds that a client is given to read an answer it did not wait for (nginx's lingering_timeout is 5), and how much of
# what it still sends is thrown away meanwhile; beyond that it must wait.
LINGER_S = 5.0
LINGER_BYTES = 16 * 1024 * 1024


class Downstream(asyncio.Protocol):
    """A connection from a client."""

    __slots__ = (
        "_buffer", "_is_reading_heads", "_lingered_bytes", "_plane", "_preface", "_probe_times", "_requests", "_stall",
        "deadline", "deadline_reason", "identity", "idle_since", "listener", "local_authority", "peer", "peer_key",
        "phase", "relay", "total_deadline", "wire",
    )  # fmt: skip

    def __init__(self, plane: "Plane", listener: "Listener", peer: str, local_authority: bytes) -> None:
        self._plane = plane
        self.wire = Wire(plane.outbox)
        self.listener = listener
        self.peer = peer
        """IP literal of the client; empty on a Unix socket."""
        self.peer_key = peer
        """What the connection counts under in the limit per client."""
        self.local_authority = local_authority
        """Our own address, as a Host for clients that send none."""
        self.relay: Relay | None = None
        """Who takes the client's bytes now: an exchange or its tunnel."""
        has_preface = listener.spec.proxy_protocol or listener.spec.tls is not None
        self._preface = Preface(self, plane) if has_preface else None
        self.phase = _PREFACE if has_preface else _HEAD
        self._buffer = b""
        """Bytes that came and were not parsed yet."""
        self._requests = 0
        self._is_reading_heads = False
        self.idle_since = 0.0
        timeout = plane.table.timeouts.header_s
        self.deadline = plane.monotonic() + timeout if timeout else 0.0
        """When `deadline_reason` ends what is going on; 0 = never."""
        self.deadline_reason = Reason.HEADER_TIMEOUT
        self.total_deadline = 0.0
        self.identity = ClientIdentity(peer, listener.trusted, b"http")
        self._stall: Stall | None = None
        """How it takes what waits for it, once that could not be sent at once."""
        self._lingered_bytes = 0
        self._probe_times: ProbeTimes | None = None
        """When to ask whether it is still there; `None` until it has sent FIN."""

    def __repr__(self) -> str:
        return f"Downstream({self.peer!r}, {self.phase.value}, {len(self._buffer)} bytes, {self.relay!r})"

    @property
    def is_half_closed(self) -> bool:
        """Whether the client has sent FIN, and waits for its answer."""
        return self._probe_times is not None

    def has_sent_end(self) -> bool:
        """Whether the client has sent FIN or a reset, read or not."""
        if self.is_half_closed or not self.wire.is_open:
            return True
        poll = select.poll()
        poll.register(self.wire.socket.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    @property
    def buffered_bytes(self) -> int:
        """Bytes held for this connection's peers."""
        if self.phase is _CLOSED:
            return 0
        held = self.relay.buffered_bytes if self.relay is not None else 0
        return held + self.wire.buffered_bytes + len(self._buffer)

    # ------------------------------------------------------------------ the connection's events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire.open(transport)
        self._plane.active[self] = None
        if self._preface is not None:
            self._preface.begin()

    def data_received(self, data: bytes) -> None:
        try:
            phase = self.phase
            if phase is _IDLE:
                self._wake()
                self._read_heads(data)
            elif phase is _BUSY:
                relay = self.relay
                if relay is not None and relay.is_receiving:
                    relay.on_request_data(data)
                else:
                    self.hold(data)
            elif phase is _HEAD:
                self._read_heads(self._buffer + data if self._buffer else data)
            elif phase is _PREFACE:
                assert self._preface is not None
                self._preface.on_data(data)
            elif phase is _LINGERING:
                self._lingered_bytes += len(data)
                if self._lingered_bytes > LINGER_BYTES:
                    self.pause()
        except Exception:
            _log.exception("internal error on %r", self)
            self.abort(Reason.INTERNAL)

    def eof_received(self) -> bool:
        if self.phase is not _BUSY:
            self.close()
            return False
        if self.relay is not None and self.relay.is_receiving:
            return self.relay.on_client_eof()
        if self._plane.monotonic() < self._plane.crowded_until:
            # A client that has closed looks the same, and others wait for its place.
            self.abort(Reason.CLIENT_GONE)
            return False
        self._probe_times = ProbeTimes(self._plane.monotonic())
        self._plane.unwatched[self] = None
        if self.relay is not None:
            self.relay.on_client_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._forget()
        if self.relay is not None:
            self.relay.on_client_gone()
        self.listener.on_closed(self)

    def pause_writing(self) -> None:
        self.wire.is_blocked = True
        plane = self._plane
        plane.blocked[self] = None
        plane.buffers.on_blocked(self.wire.buffered_bytes)
        if self.phase is _IDLE:
            # Not idle before the client has taken its answer.
            self._wake()
            self.phase = _BUSY
        if self.relay is not None:
            self.relay.on_downstream_blocked()
        self._stall = None
        self.set_deadline(plane.monotonic() + STALL_CHECK_S, Reason.SLOW_CLIENT)

    def resume_writing(self) -> None:
        self.wire.is_blocked = False
        self._plane.blocked.pop(self, None)
        if self.relay is not None:
            self.relay.on_downstream_writable()
        elif self.phase is _BUSY:
            self._continue(self._plane.monotonic())
        elif self.phase is _HEAD:
            self._start_header_time()

    # ------------------------------------------------------------------ what relays ask for

    def pause(self) -> None:
        """Stop reading until `resume`."""
        if self.phase is not _CLOSED:
            self._plane.unwatched[self] = None
            self.wire.pause()

    def resume(self) -> None:
        """Read again."""
        if self.wire.is_paused:
            self.wire.resume()
            if not self.is_half_closed:
                self._plane.unwatched.pop(self, None)

    def set_deadline(self, at: float, reason: Reason) -> None:
        """Let `reason` end what is going on at `at` (monotonic seconds; 0 = never)."""
        self.deadline = at
        self.deadline_reason = reason

    def hold(self, data: bytes) -> None:
        """Keep bytes that belong to later requests; beyond the limit reading pauses."""
        self._buffer = self._buffer + data if self._buffer else data
        if len(self._buffer) > self._plane.table.limits.pipelined_bytes:
            self.pause()

    def release_held(self) -> bytes:
        """Hand out the bytes that were held: they belong to a tunnel."""
        data = self._buffer
        self._buffer = b""
        self.resume()
        return data

    def on_exchange_end(self, now: float) -> None:
        """The exchange is over, and so is its answer: read the next request."""
        self.relay = None
        self.total_deadline = 0.0
        if not self._is_reading_heads:
            self._continue(now)

    def on_last_exchange_end(self, *, unread: bool, ends_answer: bool) -> None:
        """The exchange is over, and no other follows: close. `unread` = the client may still be sending;
        `ends_answer` = nothing but the end of the connection tells it where its answer ends."""
        self.relay = None
        self.total_deadline = 0.0
        if self.phase is not _CLOSED:
            self._close_after_answer(unread=unread, ends_answer=ends_answer)

    def on_exchange_cut(self) -> None:
        """The exchange is over, with its answer incomplete or useless: cut the connection."""
        self.relay = None
        self.total_deadline = 0.0
        if self.phase is not _CLOSED:
            self._reset()

    # ------------------------------------------------------------------ heads

    def begin_http(self, identity: ClientIdentity, data: bytes) -> None:
        """What comes before HTTP is over: `identity` is who the client is, `data` the first bytes of what follows."""
        self._preface = None
        self.identity = identity
        self.phase = _HEAD
        self.deadline_reason = Reason.HEADER_TIMEOUT
        if data:
            self._read_heads(data)

    def _wake(self) -> None:
        plane = self._plane
        del plane.idle[self]
        plane.active[self] = None
        self.phase = _HEAD

    def _continue(self, now: float) -> None:
        """Read on with what is held; idle if that is nothing. The next request waits until the client has taken the
        last answer."""
        if self.phase is not _BUSY or self.relay is not None or self.wire.is_blocked:
            return
        data = self._buffer
        if data:
            self._buffer = b""
            self.phase = _HEAD
            self.resume()
            self._read_heads(data)
        elif self._probe_times is not None:
            self.close()
        else:
            if self.wire.is_paused:
                self.resume()
            self.phase = _IDLE
            self.idle_since = now
            self.deadline = 0.0
            plane = self._plane
            del plane.active[self]
            plane.idle[self] = None

    def _read_heads(self, data: bytes) -> None:
        """Serve the requests in `data` up to one that is not answered at once, or not all here."""
        table = self._plane.table
        turns = table.limits.pipelined_requests
        self._buffer = b""
        self._is_reading_heads = True
        try:
            while True:
                end = data.find(HEAD_END) + 4
                if end < 4 or data[0] in b"\r\n":
                    data = skip_empty_lines(data)
                    end = data.find(HEAD_END) + 4
                    if end < 4:
                        self._await_head(data)
                        return
                exchange = self._open(data[:end])
                exchange.begin(data[end:])
                if self._probe_times is not None and self.relay is exchange and exchange.is_receiving:
                    # The rest of this request will not come.
                    exchange.on_client_eof()
                if self.relay is not None or self.phase is not _BUSY:
                    return
                turns -= 1
                if not turns:
                    # Other connections first. Bytes that come meanwhile are held: the phase is BUSY.
                    self._plane.loop.call_soon(self._continue, self._plane.monotonic())
                    return
                if self.wire.is_blocked or not self._buffer:
                    break
                data = self._buffer
                self._buffer = b""
        except DownstreamError as error:
            self.refuse(error.reason, data)
            return
        finally:
            self._is_reading_heads = False
        self._continue(self._plane.monotonic())

    def _open(self, raw: bytes) -> Exchange:
        """Make an exchange of a whole head. Raises `DownstreamError`."""
        plane = self._plane
        table = plane.table
        limits = table.limits
        if len(raw) > limits.request_line_bytes or len(raw) > limits.header_bytes:
            check_size(raw, limits)
        head = parse_request(raw, limits.header_count, table.upgrades)
        self._requests += 1
        self.phase = _BUSY
        self.deadline = 0.0
        exchange = Exchange(self, plane, head, plane.monotonic())
        if 0 < limits.requests_per_connection <= self._requests:
            exchange.reply.keep_alive = False
        self.relay = exchange
        plane.exchanges += 1
        return exchange

    def _await_head(self, data: bytes) -> None:
        """Wait for the rest of a head, unless it can no longer become one."""
        check_size(data, self._plane.table.limits)
        check_partial_request(data)
        if self.is_half_closed:
            self.close()
            return
        if not self.deadline or self.deadline_reason is not Reason.HEADER_TIMEOUT:
            self._start_header_time()
        self.phase = _HEAD
        self._buffer = data
        self.resume()

    def _start_header_time(self) -> None:
        timeout = self._plane.table.timeouts.header_s
        self.set_deadline(self._plane.monotonic() + timeout if timeout else 0.0, Reason.HEADER_TIMEOUT)

    def refuse(self, reason: Reason, data: bytes) -> None:
        """Answer bytes that are no acceptable request, and close."""
        plane = self._plane
        is_head = data.startswith(b"HEAD ")
        response = render_refusal(
            reason, plane.new_request_id(), date_line=plane.date_line, with_body=not is_head
        )
        self.wire.write(response)
        plane.record_refusal(self, reason, data, len(response))
        self._close_after_answer(unread=True, ends_answer=False)

    def refuse_silently(self, reason: Reason) -> None:
        """Close what has come to nothing before the first head."""
        self._plane.record_refusal(self, reason, b"", 0)
        self._close_after_answer(unread=True, ends_answer=False)

    # ------------------------------------------------------------------ deadlines and endings

    def on_deadline(self, now: float) -> None:
        """Called by the tick when a deadline has passed."""
        relay = self.relay
        if 0.0 < self.total_deadline <= now and relay is not None:
            self.total_deadline = 0.0
            relay.on_deadline(Reason.TOTAL_TIMEOUT)
            return
        reason = self.deadline_reason
        if reason is Reason.SLOW_CLIENT:
            self._check_stall(now)
        elif relay is not None:
            self.deadline = 0.0
            relay.on_deadline(reason)
        elif self.phase is _HEAD and self._buffer:
            self.refuse(reason, self._buffer)
        elif self.phase is _HEAD:
            self.close()
        else:
            self.abort(reason)

    def _check_stall(self, now: float) -> None:
        """Cut a client that takes nothing, or too little, of what waits for it; after its last answer, also one for
        which nothing waits any more."""
        if self.phase is not _LINGERING and not self.wire.is_blocked:
            self.deadline = 0.0
            return
        waiting = self.wire.buffered_bytes + unsent_bytes(self.wire.socket.fileno())
        if self._stall is None:
            self._stall = Stall(now, waiting)
        table = self._plane.table
        is_hopeless = self._stall.is_hopeless(waiting, table.timeouts.write_s, table.limits, now=now)
        if is_hopeless or (self.phase is _LINGERING and not waiting):
            self.abort(Reason.SLOW_CLIENT)
        else:
            self.set_deadline(now + STALL_CHECK_S, Reason.SLOW_CLIENT)

    def watch_fd(self, now: float) -> int:
        """The descriptor to look at for a loss that reading would not notice; -1 when there is none."""
        if self.phase is _CLOSED:
            return -1
        times, relay = self._probe_times, self.relay
        if times is not None and relay is not None and not self.wire.is_blocked and times.is_due(now):
            relay.probe_client()
        return self.wire.socket.fileno()

    def _close_after_answer(self, *, unread: bool, ends_answer: bool) -> None:
        """Close once the answer is out; linger when the client may still be sending."""
        if self.phase is _CLOSED:
            return
        if not unread and not self._buffer:
            self.close()
            return
        self._buffer = b""
        self.phase = _LINGERING
        self._stall = None
        self.resume()
        is_ended = self.wire.write_eof()
        self.set_deadline(self._plane.monotonic() + LINGER_S, Reason.SLOW_CLIENT)
        if self.is_half_closed or (ends_answer and not is_ended):
            self.close()

    def close(self) -> None:
        """Close when what was written has gone out."""
        if self.phase is _CLOSED:
            return
        if self.wire.close():
            self._forget()
            return
        # Not forgotten before the client has taken it, nor kept if it never does.
        self._plane.idle.pop(self, None)
        self._plane.active[self] = None
        self.phase = _LINGERING
        self._stall = None
        self.set_deadline(self._plane.monotonic() + STALL_CHECK_S, Reason.SLOW_CLIENT)

    def abort(self, reason: Reason) -> None:
        """Cut the connection at once."""
        if self.phase is _CLOSED:
            return
        relay = self.relay
        if relay is not None:
            relay.abort(reason)
        elif self.phase is not _IDLE and self.phase is not _LINGERING:
            self._plane.record_refusal(self, reason, self._buffer, 0)
        if self.phase is not _CLOSED:
            self._reset()

    def _reset(self) -> None:
        self.wire.reset()
        self._forget()

    def _forget(self) -> None:
        """Leave all the plane's collections."""
        self.phase = _CLOSED
        self._preface = None
        self._buffer = b""
        self.wire.drop()
        plane = self._plane
        plane.active.pop(self, None)
        plane.idle.pop(self, None)
        plane.blocked.pop(self, None)
        plane.unwatched.pop(self, None)
