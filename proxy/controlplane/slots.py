"""When the scoreboard row of an endpoint or cluster that left may serve another one.

A worker may still write to a row after the endpoint left the snapshot: its requests in flight finish, its
connections close. A row that changed hands too early would count them for the wrong endpoint. An endpoint
that comes back in the meantime, as addresses of a name do, finds its row and its counters as they were.
"""

from collections.abc import Callable, Mapping

from proxy.config.slots import SlotAllocator, Slots
from proxy.scoreboard import (
    C_CLUSTER_SLOTS,
    C_ENDPOINT_SLOTS,
    E_CONNECTIONS,
    E_IN_FLIGHT,
    K_PENDING,
    K_RETRYING,
    Scoreboard,
)
from proxy.snapshot import Snapshot
from proxy.snapshot_codec import Legacy

KEEP_S = 60.0
"""Seconds a row is kept after its endpoint left: two of Prometheus' usual scrape intervals of 15 to 30 s, so
that the last counts are seen when it comes back, and longer than a worker takes to close connections."""


class SlotReaper:
    """Releases the slots of what has left, and clears their rows."""

    def __init__(self, slots: Slots, board: Scoreboard) -> None:
        self._endpoints = _Leaving(slots.endpoints, board.clear_endpoint, self._is_endpoint_idle)
        self._clusters = _Leaving(slots.clusters, board.clear_cluster, self._is_cluster_idle)
        self._board = board

    def __repr__(self) -> str:
        return f"<SlotReaper waiting={sorted([*self._endpoints.left, *self._clusters.left])}>"

    def on_snapshot(self, snapshot: Snapshot, *, now: float) -> None:
        """Note which endpoints and clusters `snapshot` leaves out, and which are back."""
        endpoints = {spec.id for cluster in snapshot.clusters for spec in cluster.endpoints}
        self._endpoints.note(endpoints, snapshot.generation, now)
        self._clusters.note({cluster.name for cluster in snapshot.clusters}, snapshot.generation, now)

    def sweep(self, *, applied_generation: int, now: float) -> list[str]:
        """Release what is idle and long gone; returns the endpoint ids and names of clusters.

        `applied_generation` is the snapshot that every worker serves from: one that still serves an older
        snapshot may send the endpoint new requests.
        """
        return [
            each for kind in (self._endpoints, self._clusters) for each in kind.sweep(applied_generation, now)
        ]

    def _is_endpoint_idle(self, slot: int) -> bool:
        words = self._board.endpoint_sum(slot)
        return words[E_IN_FLIGHT] == 0 and words[E_CONNECTIONS] == 0

    def _is_cluster_idle(self, slot: int) -> bool:
        words = self._board.cluster_sum(slot)
        return words[K_PENDING] == 0 and words[K_RETRYING] == 0


class _Leaving:
    """What has left, of one sort of row."""

    def __init__(
        self, slots: SlotAllocator, clear: Callable[[int], None], is_idle: Callable[[int], bool]
    ) -> None:
        self._slots = slots
        self._clear = clear
        self._is_idle = is_idle
        self.left: dict[str, tuple[float, int]] = {}
        """Since when, and as of which generation."""

    def note(self, present: set[str], generation: int, now: float) -> None:
        gone = self._slots.ids - present
        self.left = {each: self.left.get(each, (now, generation)) for each in sorted(gone)}

    def sweep(self, applied_generation: int, now: float) -> list[str]:
        released = []
        for key, (since, generation) in list(self.left.items()):
            slot = self._slots.slot(key)
            if now - since >= KEEP_S and applied_generation >= generation and self._is_idle(slot):
                self._clear(slot)
                self._slots.release(key)
                del self.left[key]
                released.append(key)
        return released


def held_slots(known: Legacy, board: Scoreboard) -> Slots:
    """The slots that are taken when control starts; `known` is whose they are.

    Slots that were in use but are not among them may still be written to; nobody remembers for what, so each is held
    by a name that no endpoint or cluster has until it can be released.
    """
    row = board.control_row
    endpoints = _fitting(known.endpoints, board.endpoints)
    clusters = _fitting(known.clusters, board.clusters)
    return Slots(
        SlotAllocator(board.endpoints, endpoints | _unknown(row[C_ENDPOINT_SLOTS], endpoints)),
        SlotAllocator(board.clusters, clusters | _unknown(row[C_CLUSTER_SLOTS], clusters), what="clusters"),
    )


def _fitting(slots: Mapping[str, int], capacity: int) -> dict[str, int]:
    """Without those that a version with a larger scoreboard gave."""
    return {key: slot for key, slot in slots.items() if slot < capacity}


def _unknown(used: int, known: Mapping[str, int]) -> dict[str, int]:
    return {f"(slot {slot})": slot for slot in sorted(set(range(used)) - set(known.values()))}
