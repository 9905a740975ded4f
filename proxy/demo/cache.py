"""The data cache of a sample service: which datasets it holds, the one unused for longest going first.

Only names and sizes are kept. What a real service would move and hold is waited for and counted, so that eight of them
fit on a laptop.
"""

from collections import OrderedDict


class DataCache:
    """Datasets of at most `capacity_bytes` in all (LRU); 0 = none is ever held."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<DataCache {len(self._sizes)} datasets, {self.held_bytes} of {self._capacity_bytes} bytes>"

    def touch(self, dataset: str) -> bool:
        """Whether it is held; it counts as used just now."""
        if dataset not in self._sizes:
            return False
        self._sizes.move_to_end(dataset)
        return True

    def put(self, dataset: str, size_bytes: int) -> None:
        """Hold it, and let others go that there is no room for. One larger than the cache is not held."""
        self.held_bytes -= self._sizes.pop(dataset, 0)
        if size_bytes > self._capacity_bytes:
            return
        self._sizes[dataset] = size_bytes
        self.held_bytes += size_bytes
        while self.held_bytes > self._capacity_bytes:
            self.held_bytes -= self._sizes.popitem(last=False)[1]
