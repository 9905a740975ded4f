"""When the scoreboard row of an endpoint that left may serve another one.

A worker may still write to a row after the endpoint left the snapshot: its requests in flight finish, its
connections close. A row that changed hands too early would count them for the wrong endpoint. An endpoint
that comes back in the meantime, as addresses of a name do, finds its row and its counters as they were.
"""

from proxy.config.build import SlotAllocator
from proxy.scoreboard import C_ENDPOINT_SLOTS, E_CONNECTIONS, E_IN_FLIGHT, Scoreboard
from proxy.snapshot import Snapshot

KEEP_S = 60.0
"""Seconds a row is kept after its endpoint left: two of Prometheus' usual scrape intervals of 15 to 30 s, so
that the last counts are seen when it comes back, and longer than a worker takes to close connections."""


class SlotReaper:
    """Releases the slots of `slots` whose endpoints have left, and clears their rows."""

    def __init__(self, slots: SlotAllocator, board: Scoreboard) -> None:
        self._slots = slots
        self._board = board
        self._left: dict[str, tuple[float, int]] = {}

    def __repr__(self) -> str:
        return f"<SlotReaper waiting={sorted(self._left)}>"

    def on_snapshot(self, snapshot: Snapshot, *, now: float) -> None:
        """Note which endpoints `snapshot` leaves out, and which are back."""
        present = {spec.id for cluster in snapshot.clusters for spec in cluster.endpoints}
        gone = self._slots.ids - present
        self._left = {each: self._left.get(each, (now, snapshot.generation)) for each in sorted(gone)}

    def sweep(self, *, applied_generation: int, now: float) -> list[str]:
        """Release what is idle and long gone; returns the endpoint ids.

        `applied_generation` is the snapshot that every worker serves from: one that still serves an older
        snapshot may send the endpoint new requests.
        """
        released = []
        for endpoint_id, (since, generation) in list(self._left.items()):
            slot = self._slots.slot(endpoint_id)
            words = self._board.endpoint_sum(slot)
            is_idle = words[E_IN_FLIGHT] == 0 and words[E_CONNECTIONS] == 0
            if is_idle and now - since >= KEEP_S and applied_generation >= generation:
                self._board.clear_endpoint(slot)
                self._slots.release(endpoint_id)
                del self._left[endpoint_id]
                released.append(endpoint_id)
        return released


def held_slots(previous: Snapshot | None, board: Scoreboard) -> dict[str, int]:
    """The endpoint slots that are taken when control starts.

    Slots that were in use but are not in `previous` may still be written to; nobody remembers for which endpoint, so
    each is held by a name that no endpoint has until it can be released.
    """
    clusters = previous.clusters if previous is not None else ()
    held = {spec.id: spec.slot for cluster in clusters for spec in cluster.endpoints}
    used = set(range(board.control_row[C_ENDPOINT_SLOTS])) - set(held.values())
    return held | {f"(slot {slot})": slot for slot in sorted(used)}
