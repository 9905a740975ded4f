"""Rows of the scoreboard, and to which endpoints and clusters they belong. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from proxy.errors import ConfigError
from proxy.scoreboard import MAX_CLUSTERS, MAX_ENDPOINTS


class SlotAllocator:
    """Which row of the scoreboard belongs to which endpoint id or name of a cluster, stable for as long as that is
    known."""

    def __init__(
        self, capacity: int = MAX_ENDPOINTS, held: Mapping[str, int] | None = None, *, what: str = "endpoints"
    ) -> None:
        """`held` are the slots that are taken already; `what` they are for is said when they run out."""
        self._what = what
        self._slots = dict(held or {})
        self._capacity = capacity
        # Lowest first, so that rows stay close together: pages that no endpoint uses cost nothing.
        self._free = sorted(set(range(capacity)) - set(self._slots.values()))

    def __repr__(self) -> str:
        return f"<SlotAllocator {len(self._slots)} of {self._capacity}>"

    def __contains__(self, key: str) -> bool:
        return key in self._slots

    @property
    def high_water(self) -> int:
        """One above the highest slot that is held."""
        return max(self._slots.values(), default=-1) + 1

    @property
    def ids(self) -> frozenset[str]:
        """Endpoint ids or names that hold a slot."""
        return frozenset(self._slots)

    def slot(self, key: str) -> int:
        """The slot of `key`, from 0; the lowest free one if it is new. Raises `ConfigError` when full."""
        slot = self._slots.get(key)
        if slot is None:
            if not self._free:
                expected = f"at most {self._capacity} {self._what}, those that just left included"
                raise ConfigError("clusters", key, expected)
            slot = self._slots[key] = heappop(self._free)
        return slot

    @property
    def is_full(self) -> bool:
        """Nothing new gets a slot."""
        return not self._free

    def has_room_for(self, key: str) -> bool:
        """Whether `key` has a slot, or could get one."""
        return key in self._slots or not self.is_full

    def release(self, key: str) -> None:
        """Free the slot of what is gone for good; a no-op for what has none."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            heappush(self._free, slot)

    def keep(self, ids: frozenset[str]) -> None:
        """Free all slots but those of `ids`."""
        for key in self.ids - ids:
            self.release(key)


@dataclass(frozen=True, slots=True)
class Slots:
    """The rows of the scoreboard."""

    endpoints: SlotAllocator = field(default_factory=SlotAllocator)
    """By endpoint id."""
    clusters: SlotAllocator = field(default_factory=lambda: SlotAllocator(MAX_CLUSTERS, what="clusters"))
    """By name."""
