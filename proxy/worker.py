"""Composition root of the data plane: listeners, connections and the state they share, behind a snapshot.

Nothing of the control plane's libraries is imported here, directly or not; import-linter checks it.
"""

import asyncio
import random
import socket
from collections import Counter

from proxy.clock import Clock
from proxy.cluster import build_clusters
from proxy.dataplane.listener import ConnectionCap, Listener, bind_socket
from proxy.dataplane.plane import Plane
from proxy.errors import ConfigError
from proxy.model import Address
from proxy.scoreboard import W_GENERATION, Scoreboard
from proxy.snapshot import ListenerSpec, Snapshot
from proxy.table import Table
from proxy.telemetry.access_log import AccessLog

# Seconds between two looks whether a drain is over.
_DRAIN_LOOK_S = 0.05
# Seconds that the access log is given for its last lines.
_LOG_CLOSE_S = 2.0


def open_sockets(listeners: tuple[ListenerSpec, ...]) -> dict[str, socket.socket]:
    """A listening socket for each of `listeners`, by name; all of them, or none and `ConfigError`."""
    sockets: dict[str, socket.socket] = {}
    for index, spec in enumerate(listeners):
        try:
            sockets[spec.name] = bind_socket(spec)
        except OSError as error:
            for sock in sockets.values():
                sock.close()
            expected = f"an address that can be bound ({error.strerror or error})"
            raise ConfigError(f"listeners[{index}].bind", str(spec.bind), expected) from error
    return sockets


class Worker:
    """The data plane of one process. It serves nothing before the first snapshot."""

    def __init__(
        self,
        *,
        number: int,
        scoreboard: Scoreboard,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._number = number
        self._scoreboard = scoreboard
        self._loop = loop
        self._clock = clock
        self._rng = rng
        self._plane: Plane | None = None
        self._listeners: list[Listener] = []
        self.is_draining = False

    @property
    def generation(self) -> int:
        """Generation of the snapshot in use; 0 before the first."""
        return self._plane.table.generation if self._plane is not None else 0

    @property
    def addresses(self) -> tuple[tuple[str, Address], ...]:
        """Name and actual address of each open listener."""
        return tuple((listener.name, listener.address) for listener in self._listeners)

    def apply(self, snapshot: Snapshot) -> None:
        """Serve from `snapshot` from the next request on; with the first one, open the listeners.

        Raises `ConfigError` when a listener cannot be bound; then nothing has changed.
        """
        plane = self._plane
        clusters = build_clusters(
            snapshot,
            plane.table.clusters if plane is not None else {},
            scoreboard=self._scoreboard,
            worker=self._number,
            rng=self._rng,
        )
        table = Table(snapshot, clusters)
        if plane is None:
            self._open(table)
        else:
            plane.apply(table)
        self._scoreboard.worker_row(self._number)[W_GENERATION] = snapshot.generation

    def _open(self, table: Table) -> None:
        snapshot = table.snapshot
        sockets = open_sockets(snapshot.listeners)
        plane = self._plane = Plane(
            loop=self._loop,
            clock=self._clock,
            rng=self._rng,
            row=self._scoreboard.worker_row(self._number),
            table=table,
            access_log=AccessLog(snapshot.access_log.sink),
        )
        plane.start()
        cap = ConnectionCap()
        clients: Counter[str] = Counter()
        self._listeners = [
            Listener(spec, sockets[spec.name], plane, cap, clients) for spec in snapshot.listeners
        ]
        for listener in self._listeners:
            listener.start()

    def reopen_log(self) -> None:
        """Open the access log's file again, after it was renamed."""
        if self._plane is not None:
            self._plane.access_log.reopen()

    async def drain(self, timeout_s: float) -> int:
        """Accept no more, answer what is in flight with `Connection: close`, and end within `timeout_s`.

        Returns the number of connections that had to be cut.
        """
        self.is_draining = True
        plane = self._plane
        if plane is None:
            return 0
        plane.begin_drain()
        for listener in self._listeners:
            listener.stop()
        self._listeners = []
        deadline = self._clock.monotonic() + timeout_s
        while plane.connections and self._clock.monotonic() < deadline:
            await self._clock.sleep(_DRAIN_LOOK_S)
        return plane.connections

    def stop(self) -> None:
        """Cut what is left and write the last lines of the log."""
        for listener in self._listeners:
            listener.stop()
        self._listeners = []
        if self._plane is not None:
            self._plane.stop()
            self._plane.access_log.close(_LOG_CLOSE_S)
