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

The points are made once per membership, by whoever makes the snapshot, and travel in it as bytes: workers only look up,
and cannot but agree. Positions come from blake2b and SHAKE, which give the same in every process and release; Python's
`hash()` does not.
"""

from array import array
from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b, shake_128
from struct import unpack

# Points of a member of average weight (160 to 320, see `_points_per_weight`). The shares' standard deviation is about
# 1/√points, 8 % at 160.
POINTS = 160
# The low bits of a point hold the member's position in the list. 48 bits are left for the place: of a million points
# two share one with odds of 1:560.
_OWNER_BITS = 16
_OWNER_MASK = (1 << _OWNER_BITS) - 1
MAX_MEMBERS = 1 << _OWNER_BITS
# Points looked at for one key. With nine of ten members unusable all are missed with odds of 0.9^256, about 10^-12.
MAX_STEPS = 256


def key_point(key: bytes) -> int:
    """The place of `key` on the ring, the same in all processes: blake2b with 8 bytes, the first the highest."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def _points_per_weight(weights: Sequence[int]) -> float:
    """Points for each unit of weight: `POINTS` for the greatest power of two that is not above the mean weight.

    So 1 and 65535 do not make 65535 times the points. Not the mean itself, of which every change would move everybody's
    points: 2, 3 and 4 give 80 (mean 3, power 2), and still do when 4 becomes 2. All of equal weight always have the
    same number.
    """
    mean = sum(weights) // len(weights)
    return POINTS / (1 << (mean.bit_length() - 1))


@lru_cache(maxsize=64)
def ring_points(members: tuple[tuple[str, int], ...]) -> bytes:
    """The ring of `members` (id, weight ≥ 1), for `HashRing`. The same members in another order have their points in
    the same places.

    A member's points are the first of an endless sequence that its id alone gives; a weight says how many, at least
    one. So a change of weight adds or removes points and moves none. Remembered, because most snapshots change
    nothing here.
    """
    if not members:
        return b""
    assert len(members) <= MAX_MEMBERS
    per_weight = _points_per_weight([weight for _, weight in members])
    points: list[int] = []
    for position, (member_id, weight) in enumerate(members):
        count = max(1, round(per_weight * weight))
        places = unpack(f">{count}Q", shake_128(member_id.encode()).digest(8 * count))
        points += [place & ~_OWNER_MASK | position for place in places]
    points.sort()
    return array("Q", points).tobytes()


class HashRing:
    """Finds the owners of keys, as positions in the list of members that `points` was made from."""

    __slots__ = ("_points",)

    def __init__(self, points: bytes) -> None:
        self._points = array("Q")
        self._points.frombytes(points)

    def __repr__(self) -> str:
        return f"<HashRing {len(self._points)} points>"

    def owners(self, point: int) -> Iterator[int]:
        """Owners of a key at `point`, the first choice first, at most `MAX_STEPS`. One may come again; its answer
        will be the same."""
        points = self._points
        count = len(points)
        at = bisect(points, point)
        for step in range(at, at + min(count, MAX_STEPS)):
            yield points[step if step < count else step - count] & _OWNER_MASK
