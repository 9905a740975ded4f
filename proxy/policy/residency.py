"""Who holds which data: what every endpoint of a cluster has in its cache, as far as a proxy can know.

Known from what was sent, and corrected by what services say. An endpoint keeps the data of the requests it was sent,
the least recently used leave first, and a cache has a size; so an LRU list per endpoint with the size of its cache
foretells what is still there. Assuming that nothing ever leaves, as vLLM's prefix-aware router once did, sends requests
to caches that have long forgotten.

The size of a cache is learned when nobody says it. Until something is missed that should be there, no end of it is
known. From then on, as in ARC (Megiddo and Modha, FAST 2003), data that left the list are remembered for a while: one
that is missed though listed makes the list a little shorter, one that hits though it left makes it a little longer, and
so its length settles.

Rules:
- Everything is bounded: keys by `max_keys`, of which the least recently asked for are forgotten, and what is remembered
  of those that left by as many as are there.
- A key is known by its point, 64 bits of blake2b that are the same in every process: that is what workers tell each
  other, and what finds its owners on the ring. Two of 50 000 keys share one with odds of 1:10^10, and then they share a
  size and their holders, which costs a transfer.
"""

from collections import OrderedDict
from collections.abc import Iterator

from proxy.policy.hashring import key_point

# Misses in a row of data that should be there, with not one hit between them: the cache was lost, as with a restart
# that nobody saw. Of a cache that is merely smaller than believed the most popular data still hit.
LOST_AFTER = 16
# Key's sizes by which the believed size of a cache moves with one surprise. Routing hides half of the surprises: what
# is believed to have left is seldom asked for there. So what is seen of them counts more; with the same step for both,
# caches were believed to be 22 % too small in the simulation, with these 10 to 15 %.
SHRINK = 0.5
GROW = 4.0
# Names whose points are remembered: hashing one takes 0.8 µs.
MOST_NAMES = 4096
# Keys that are remembered after they left, at least.
MIN_GHOSTS = 256


class DataKey:
    """What is known of one data key in a cluster."""

    __slots__ = (
        "heat", "holders", "is_given", "owners", "point", "ring_number", "samples", "size_bytes", "told_at",
    )  # fmt: skip

    def __init__(self, point: int) -> None:
        self.point = point
        self.size_bytes = 0.0
        """0 = nobody holds it and nothing is known."""
        self.is_given = False
        """The size is one that somebody gave."""
        self.samples = 0
        """Transfers that the size was learned from; 0 = it was given, or is a guess."""
        self.holders: tuple[Holdings, ...] = ()
        self.owners: tuple[int, ...] = ()
        """The first on the ring, as positions of members, of the ring with this number."""
        self.ring_number = 0
        self.told_at = 0.0
        """When the other workers were last told that somebody asked for it."""
        self.heat = 0.0
        """How often that was lately, as of then; only a `mirror.Mirror` needs to know."""

    def __repr__(self) -> str:
        return f"DataKey({self.point:016x}, {self.size_bytes:.0f} bytes, {len(self.holders)} holders)"


class Holdings:
    """What one endpoint holds."""

    __slots__ = (
        "_ghosts", "_is_learned", "_misses", "_sure_bytes", "capacity_bytes", "held_bytes", "kept", "losses",
    )  # fmt: skip

    def __init__(self, capacity_bytes: float = 0.0) -> None:
        """`capacity_bytes` is the size of its cache; 0 = to be learned."""
        self.kept: OrderedDict[DataKey, float] = OrderedDict()
        """The least recently used first, each with the time (monotonic) at which it is expected to be all there."""
        self.held_bytes = 0.0
        self._ghosts: OrderedDict[DataKey, None] = OrderedDict()
        self._misses = 0
        self._sure_bytes = 0.0
        """Size of the cache before the misses that are in a row."""
        self.capacity_bytes = 0.0
        """0 = no end of it is known."""
        self.losses = 0
        """How often it was found to be lost."""
        self._is_learned = True
        self.limit(capacity_bytes)

    def __repr__(self) -> str:
        return f"Holdings({len(self.kept)} keys, {self.held_bytes:.0f} of {self.capacity_bytes:.0f} bytes)"

    def limit(self, capacity_bytes: float) -> None:
        """Take over what the configuration or the service says of the cache's size; 0 = nothing."""
        if capacity_bytes > 0:
            self._is_learned = False
            self.capacity_bytes = self._sure_bytes = capacity_bytes
            self.trim()
        elif not self._is_learned:
            self._is_learned = True
            self.capacity_bytes = self._sure_bytes = 0.0

    def expect(self, capacity_bytes: float) -> None:
        """Begin with what somebody else learned of the cache's size; 0 = nothing."""
        if self._is_learned and not self.capacity_bytes:
            self.capacity_bytes = self._sure_bytes = capacity_bytes
            self.trim()

    def would_evict(self, size_bytes: float) -> bool:
        """Whether so many bytes more would push others out."""
        return 0 < self.capacity_bytes < self.held_bytes + size_bytes

    def has_left(self, key: DataKey) -> bool:
        """Whether it was there and is believed to have left since."""
        return key in self._ghosts

    def touch(self, key: DataKey, there_at: float) -> None:
        """A request for `key`, which has a size, was sent there. Unless it is there, it will be at `there_at`."""
        kept = self.kept
        if key in kept:
            kept.move_to_end(key)
            return
        self._ghosts.pop(key, None)
        kept[key] = there_at
        key.holders += (self,)
        self.held_bytes += key.size_bytes
        self.trim()

    def drop(self, key: DataKey) -> None:
        """It is not there."""
        if self.kept.pop(key, None) is not None:
            self._left(key)
        self._ghosts.pop(key, None)

    def forget(self) -> None:
        """Nothing is there any more: another instance, or a cache that was lost."""
        for key in self.kept:
            key.holders = tuple([one for one in key.holders if one is not self])
        self.kept.clear()
        self._ghosts.clear()
        self.held_bytes = 0.0

    def lose(self) -> None:
        """The cache was lost: nothing is there, and what was missed says nothing of its size."""
        if self._misses:
            self.capacity_bytes = self._sure_bytes
        self._misses = 0
        self.losses += 1
        self.forget()

    def on_arrived(self, key: DataKey) -> None:
        """The request that brought it was answered."""
        if key in self.kept:
            self.kept[key] = 0.0

    def on_hit(self, key: DataKey, *, had_left: bool) -> None:
        """It was there; `had_left` = it was not expected to be."""
        self._misses = 0
        if had_left and self._is_learned and self.capacity_bytes:
            self.capacity_bytes += min(GROW * key.size_bytes, self.capacity_bytes)

    def on_miss(self, key: DataKey) -> None:
        """It was not there though it should have been. (It is now: the request fetched it.)"""
        self._misses += 1
        if self._misses == 1:
            self._sure_bytes = self.capacity_bytes
        elif self._misses >= LOST_AFTER:
            there_at = self.kept.get(key)
            self.lose()
            # One that is not listed any more may be none of the cluster's keys any more either.
            if there_at is not None:
                self.touch(key, there_at)
            return
        if self._is_learned:
            # A list that is not full says nothing of its end, but one that was never full has none yet.
            believed = (self.capacity_bytes or self.held_bytes) - SHRINK * key.size_bytes
            self.capacity_bytes = max(believed, key.size_bytes, 1.0)
            self.trim()

    def trim(self) -> None:
        """Let the least recently used leave while there is too much. The last one stays, whatever its size."""
        limit = self.capacity_bytes
        if not limit or self.held_bytes <= limit:
            return
        kept, ghosts = self.kept, self._ghosts
        last = next(reversed(kept))
        if last.size_bytes > limit and len(kept) > 1:
            # It passes through, or one wrong size would cost all that is known.
            del kept[last]
            self._left(last)
            ghosts[last] = None
        while self.held_bytes > limit and len(kept) > 1:
            key, _ = kept.popitem(last=False)
            self._left(key)
            ghosts[key] = None
        while len(ghosts) > max(MIN_GHOSTS, 2 * len(kept)):
            ghosts.popitem(last=False)

    def _left(self, key: DataKey) -> None:
        self.held_bytes -= key.size_bytes
        key.holders = tuple([one for one in key.holders if one is not self])


class Residency:
    """The keys of a cluster."""

    __slots__ = ("_keys", "_named", "max_keys")

    def __init__(self, max_keys: int) -> None:
        self._keys: OrderedDict[int, DataKey] = OrderedDict()
        self._named: dict[bytes, int] = {}
        """Points of names that were asked for lately."""
        self.max_keys = max_keys

    def __repr__(self) -> str:
        return f"Residency({len(self._keys)} of {self.max_keys} keys)"

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[DataKey]:
        """The keys, those first that nobody asked for the longest."""
        return iter(self._keys.values())

    def find(self, point: int) -> DataKey | None:
        """The key at `point`, if it is known."""
        return self._keys.get(point)

    def named(self, name: bytes) -> DataKey:
        """The key of that name, which somebody asks for."""
        point = self._named.get(name)
        if point is None:
            if len(self._named) >= MOST_NAMES:
                self._named.clear()
            point = self._named[name] = key_point(name)
        return self.key(point)

    def key(self, point: int) -> DataKey:
        """The key at `point`, which somebody asks for; one that nobody knew takes the place of the eldest."""
        keys = self._keys
        key = keys.get(point)
        if key is not None:
            keys.move_to_end(point)
            return key
        while len(keys) >= self.max_keys:
            self._forget(keys.popitem(last=False)[1])
        key = keys[point] = DataKey(point)
        return key

    def mentioned(self, point: int) -> DataKey | None:
        """The key at `point`, which an endpoint names though perhaps nobody asks for it: one that nobody knew is the
        first to be forgotten again. `None` = it is not taken in, because as many are known as may be."""
        keys = self._keys
        key = keys.get(point)
        if key is None and len(keys) < self.max_keys:
            key = keys[point] = DataKey(point)
            keys.move_to_end(point, last=False)
        return key

    def resize(self, key: DataKey, size_bytes: float) -> None:
        """`key` has `size_bytes`, > 0."""
        more = size_bytes - key.size_bytes
        key.size_bytes = size_bytes
        for holdings in key.holders:
            holdings.held_bytes += more
        for holdings in key.holders:
            holdings.trim()

    def limit(self, max_keys: int) -> None:
        """Know no more than so many keys, ≥ 1, from now on."""
        self.max_keys = max_keys
        while len(self._keys) > max_keys:
            self._forget(self._keys.popitem(last=False)[1])

    @staticmethod
    def _forget(key: DataKey) -> None:
        for holdings in key.holders:
            holdings.drop(key)
