"""Which members a key belongs to, in order, so that few keys move when members come and go.

A ring: every member has points on a circle of 64-bit numbers, and a key belongs to the member of the next point.
Source: Karger et al., "Consistent Hashing and Random Trees" (STOC 1997); points per member as in ketama and nginx.
Measured against its rivals (Python 3.11; evenness is the least and the greatest share of the circle, 1 = fair; needless
moves are keys that go from one survivor to another when a member leaves, relative to the leaver's own):

    members  method      build     find     memory     evenness     needless moves
         10  ring        1.7 ms   0.6 µs    12.5 KiB   0.89..1.10   0
             Maglev       44 ms   0.1 µs     128 KiB   1            0.02
             rendezvous      –    5.3 µs        –      1            0
       1000  ring         82 ms   0.7 µs    1.2 MiB    0.75..1.34   0
             Maglev       52 ms   0.1 µs     128 KiB   0.99..1.01   5.6
             rendezvous      –    349 µs        –      1            0

Maglev moves keys that need not move, and for a service that holds data each is a copy over the network; rendezvous
takes time with every member. The ring's unevenness is mended by the bound on loads (`picker.ConsistentHash`). It also
gives what neither Maglev's table has: the next owners of a key, for when the first cannot take it.

Weights do not change a member's points, but how far away they count: of all points after a key the member of the least
distance/weight has it. Source: Schindelhauer and Schomaker, "Weighted Distributed Hash Tables" (SPAA 2005), the linear
method. Distances to the next point of each member are exponentially distributed, and of those divided by their weights
the least is a member's with odds of its weight, so shares are as weights are. What a member bids for a key depends on
nothing but itself, so whoever comes, leaves or changes weight moves keys to or from itself alone. Points in
proportion to weights do not give that: a million points have to be scaled down by something that all share, such as
the mean weight, and each change of the scale moved keys between members that had stayed as they were.

The points are made once per membership, by whoever makes the snapshot, and travel in it as bytes: workers only look up,
and cannot but agree. Positions come from blake2b and SHAKE, which give the same in every process and release; Python's
`hash()` does not.
"""

from array import array
from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b, shake_128
from heapq import heappop, heappush
from struct import unpack

# Points of a member. The shares' standard deviation is about 1/√points, 8 %.
POINTS = 160
# The low bits of a point hold the member's position in the list. 48 bits are left for the place: of a million points
# two share one with odds of 1:560.
_OWNER_BITS = 16
_OWNER_MASK = (1 << _OWNER_BITS) - 1
MAX_MEMBERS = 1 << _OWNER_BITS
_CIRCLE = 1 << 64
# Points looked at for one key. With nine of ten members unusable all are missed with odds of 0.9^256, about 10^-12.
MAX_STEPS = 256
# With weights the first owner may be further away: after as many points as the greatest weight is times the mean, on
# average, and this many times further with odds of e^-16, about 10^-7. A point looked at takes about 0.3 µs.
_MEANS = 16


def key_point(key: bytes) -> int:
    """The place of `key` on the ring, the same in all processes: blake2b with 8 bytes, the first the highest."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


@lru_cache(maxsize=64)
def ring_points(members: tuple[str, ...]) -> bytes:
    """The ring of `members` (ids), for `HashRing`. The same members in another order have their points in the same
    places. Remembered, because most snapshots change nothing here."""
    assert len(members) <= MAX_MEMBERS
    points: list[int] = []
    for position, member_id in enumerate(members):
        places = unpack(f">{POINTS}Q", shake_128(member_id.encode()).digest(8 * POINTS))
        points += [place & ~_OWNER_MASK | position for place in places]
    points.sort()
    return array("Q", points).tobytes()


class HashRing:
    """Finds the owners of keys, as positions in the list of members that `points` was made from."""

    __slots__ = ("_greatest", "_points", "_steps", "_weights")

    def __init__(self, points: bytes, weights: Sequence[int]) -> None:
        """`weights` are the members', ≥ 1 each, in their order."""
        self._points = array("Q")
        self._points.frombytes(points)
        self._greatest = max(weights, default=1)
        self._weights = weights if min(weights, default=1) != self._greatest else ()
        """Empty when all are equal: then distances alone decide, and the order is that of the points."""
        ratio = self._greatest * len(weights) / sum(weights) if weights else 1.0
        self._steps = min(len(self._points), max(MAX_STEPS, round(_MEANS * ratio)))

    def __repr__(self) -> str:
        return f"<HashRing {len(self._points)} points>"

    def owners(self, point: int) -> Iterator[int]:
        """Owners of a key at `point`, the first choice first, from at least `MAX_STEPS` points, or all if there are no
        more. One may come again; its answer will be the same."""
        return self._by_bid(point) if self._weights else self._by_distance(point)

    def _by_distance(self, point: int) -> Iterator[int]:
        points = self._points
        count = len(points)
        at = bisect(points, point)
        for step in range(at, at + self._steps):
            yield points[step if step < count else step - count] & _OWNER_MASK

    def _by_bid(self, point: int) -> Iterator[int]:
        points, weights = self._points, self._weights
        count = len(points)
        at = bisect(points, point)
        bids: list[tuple[float, int]] = []
        for step in range(at, at + self._steps):
            place = points[step] if step < count else points[step - count] + _CIRCLE
            # Whatever comes from here on bids no less than this.
            least = (place - point) / self._greatest
            while bids and bids[0][0] <= least:
                yield heappop(bids)[1]
            owner = place & _OWNER_MASK
            heappush(bids, ((place - point) / weights[owner], owner))
        while bids:
            yield heappop(bids)[1]
