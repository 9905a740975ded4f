"""Accepting connections, with a cap that keeps descriptors back for the endpoints.

A listening socket is watched and accepts one connection per wake-up, so that several workers on one socket share
fairly. A client with a request needs a connection to an endpoint too, so a share of the descriptors is kept back; the
limit is read again with each accept, as it can be changed from outside. At the cap, a connection that has been idle
for a while makes room; when there is none, the rest waits in the kernel's backlog and costs nothing.
"""

import asyncio
import errno
import logging
import os
import resource
import socket
from collections import Counter
from typing import TYPE_CHECKING

from proxy.dataplane.downstream import Downstream
from proxy.dataplane.forwarding import TrustedProxies
from proxy.dataplane.gate import LOOK_S as GATE_LOOK_S
from proxy.dataplane.gate import AcceptGate
from proxy.errors import REASON_INDEX, Reason
from proxy.listener_counts import ListenerCount
from proxy.model import TcpAddress
from proxy.scoreboard import W_ACCEPT_ERRORS, W_ACCEPTED, W_ACCEPTING, W_CONNECTIONS, W_REFUSALS
from proxy.snapshot import ListenerSpec
from proxy.tasks import spawn

if TYPE_CHECKING:
    from proxy.dataplane.plane import Plane

_log = logging.getLogger(__name__)

# Descriptors that are neither a client's nor an endpoint's: standard streams, loop, listeners, admin API, log files.
# What is open at the start is counted on top of this.
SPARE_DESCRIPTORS = 8
# Descriptors kept back for endpoints before a share of all is.
KEEP_BACK = 1024
# Seconds until the next try when there is no room: 20 looks a second cost nothing and nobody notices the wait.
RETRY_S = 0.05
# An idle connection gives way to a new one once it has been idle this long: most that come back do so sooner.
EVICT_IDLE_S = 10.0
# For this long after the last client had to wait, clients that sent FIN are taken as gone.
CROWDED_S = 2.0


# The cap where there is no limit of descriptors.
NO_CAP = 1 << 20


class ConnectionCap:
    """How many client connections this process has descriptors for."""

    def __init__(self) -> None:
        self._base = len(os.listdir("/proc/self/fd")) + SPARE_DESCRIPTORS

    @property
    def current(self) -> int:
        """The cap now."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return NO_CAP if soft == resource.RLIM_INFINITY else connection_cap(soft - self._base)


def connection_cap(descriptors: int) -> int:
    """Client connections, ≥ 1, when this many descriptors are free for them and for the endpoints' connections.

    Half is kept back while that is few: each client may be busy. Beyond, a quarter: most of many clients are idle.
    """
    return max(descriptors - max(min(descriptors // 2, KEEP_BACK), descriptors // 4), 1)


class Listener:
    """One listening socket of a worker."""

    def __init__(
        self,
        spec: ListenerSpec,
        sock: socket.socket,
        plane: "Plane",
        cap: ConnectionCap,
        gate: AcceptGate,
        clients: Counter[str],
    ) -> None:
        self._sock = sock
        self._plane = plane
        self._cap = cap
        self._gate = gate
        self._clients = clients
        """Connections by address, over all listeners."""
        self._count = ListenerCount(plane.row, spec.name)
        self.update(spec)
        self._retry: asyncio.TimerHandle | None = None
        self._is_open = False
        self.drained_at: float | None = None
        """When it was closed: its connections end after the exchange in progress; `None` = it is not."""

    def __repr__(self) -> str:
        return f"Listener({self.name!r}, {self.spec.bind})"

    @property
    def is_drained(self) -> bool:
        """Whether it was closed, by an operator or by a reload."""
        return self.drained_at is not None

    @property
    def connections(self) -> int:
        """Client connections that came by it and are open."""
        return self._count.connections

    def update(self, spec: ListenerSpec) -> None:
        """Take over what a new snapshot says of this listener: its name, for all its connections, and the rest for
        those that come from now on."""
        self.name = spec.name
        self._count.rename(spec.name)
        self.spec = spec
        self.trusted = TrustedProxies(spec.trusted_proxies)
        # Not looked up for each connection: that costs 0.2 µs for each of its certificates.
        self.tls = self._plane.tls.server(spec.tls) if spec.tls is not None else None

    def start(self) -> None:
        """Take connections."""
        self._is_open = True
        self._plane.loop.add_reader(self._sock.fileno(), self._on_readable)

    def stop(self) -> None:
        """Take what is in the backlog already, then no more: closing with connections in it would reset them."""
        if not self._is_open:
            return
        self._is_open = False
        if self._retry is not None:
            self._retry.cancel()
        self._plane.loop.remove_reader(self._sock.fileno())
        while self._has_room() and self._accept():
            pass
        self._sock.close()
        if not self.connections:
            self._count.close()

    def _on_readable(self) -> None:
        if not self._has_room():
            self._wait_for_room()
        elif not self._gate.is_open():
            self._wait(GATE_LOOK_S)
        else:
            self._accept()

    def _has_room(self) -> bool:
        plane = self._plane
        limit = plane.table.limits.connections
        own = plane.connections
        has_room = own < self._cap.current and (not limit or own + self._gate.other_connections < limit)
        if not has_room:
            has_room = plane.evict_idle(EVICT_IDLE_S)
        if not has_room:
            plane.crowded_until = plane.monotonic() + CROWDED_S
        return has_room

    def _wait(self, seconds: float) -> None:
        """Look away for a moment: a listening socket that is not read stays ready and would burn a core."""
        loop = self._plane.loop
        loop.remove_reader(self._sock.fileno())
        self._retry = loop.call_later(seconds, self.start)

    def _wait_for_room(self) -> None:
        """Look away, and say until the next connection that was taken that the others need not leave any to us."""
        self._plane.row[W_ACCEPTING] = 0
        self._wait(RETRY_S)

    def _accept(self) -> bool:
        """Take one connection; false when there is none, or no descriptor for it."""
        try:
            sock, address = self._sock.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            self._plane.row[W_ACCEPT_ERRORS] += 1
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM) and self._is_open:
                self._wait_for_room()
            return error.errno == errno.ECONNABORTED
        row = self._plane.row
        if self._is_open:
            row[W_ACCEPTING] = 1
        row[W_ACCEPTED] += 1
        peer = address[0] if isinstance(address, tuple) else ""
        if not self.spec.proxy_protocol and self._is_crowded_by(peer):
            row[W_REFUSALS + REASON_INDEX[Reason.TOO_MANY_CONNECTIONS]] += 1
            sock.close()
            return True
        row[W_CONNECTIONS] += 1
        self._count.add(1)
        self._clients[peer] += 1
        self._plane.adopting += 1
        spawn(self._adopt(sock, peer), name="adopt")
        return True

    async def _adopt(self, sock: socket.socket, peer: str) -> None:
        try:
            sock.setblocking(False)
            local = sock.getsockname()
            if isinstance(local, tuple):
                authority = str(TcpAddress(local[0], local[1])).encode()
            else:
                authority = b"localhost"
            await self._plane.loop.connect_accepted_socket(
                lambda: Downstream(self._plane, self, peer, authority), sock
            )
        except OSError as error:
            # The client was gone before it was taken.
            _log.debug("listener %s: %s", self.name, error)
            sock.close()
            self._forget(peer)
        finally:
            self._plane.adopting -= 1

    def _is_crowded_by(self, peer: str) -> bool:
        """Whether `peer` has as many connections as one client may. Each worker sees its own, of which the gate gives
        it an even share, so it allows that share of the limit."""
        limit = self._plane.table.limits.connections_per_client
        return limit > 0 and peer != "" and self._clients[peer] >= -(-limit // self._gate.workers)

    def admit(self, downstream: Downstream, source: str) -> bool:
        """The PROXY protocol says that `downstream` comes from `source`: count it there; false when it has too many."""
        if self._is_crowded_by(source):
            return False
        self._forget_client(downstream.peer_key)
        self._clients[source] += 1
        return True

    def on_closed(self, downstream: Downstream) -> None:
        """A connection of this listener has ended."""
        self._forget(downstream.peer_key)

    def _forget(self, peer: str) -> None:
        self._plane.row[W_CONNECTIONS] -= 1
        self._count.add(-1)
        if not self._is_open and not self.connections:
            self._count.close()
        self._forget_client(peer)

    def _forget_client(self, peer: str) -> None:
        self._clients[peer] -= 1
        if not self._clients[peer]:
            del self._clients[peer]
