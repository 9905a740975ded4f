"""LRU lists of keys by bytes, and sizes of caches that are learned from surprises."""

from collections import OrderedDict

import pytest

from proxy.policy.hashring import key_point
from proxy.policy.residency import (
    GROW,
    LOST_AFTER,
    MIN_GHOSTS,
    MOST_NAMES,
    SHRINK,
    DataKey,
    Holdings,
    Residency,
)


def sized(residency, point, size_bytes):
    key = residency.key(point)
    residency.resize(key, size_bytes)
    return key


def filled(sizes, capacity_bytes=0.0):
    """A cluster's keys 0, 1, … of these sizes, which one endpoint was asked for in this order."""
    residency, holdings = Residency(10_000), Holdings(capacity_bytes)
    keys = [sized(residency, point, size) for point, size in enumerate(sizes)]
    for key in keys:
        holdings.touch(key, 0.0)
    return residency, holdings, keys


def points(holdings):
    return [key.point for key in holdings.kept]


def agree(residency, holdings):
    """What keys say of holders and holders of keys is the same, and adds up."""
    assert holdings.held_bytes == pytest.approx(sum(key.size_bytes for key in holdings.kept))
    for key in residency:
        assert (holdings in key.holders) == (key in holdings.kept)
        assert len(set(key.holders)) == len(key.holders)


# ---------------------------------------------------------------------- what is kept


def test_nothing():
    holdings = Holdings()
    assert repr(holdings) == "Holdings(0 keys, 0 of 0 bytes)"
    assert repr(DataKey(255)) == "DataKey(00000000000000ff, 0 bytes, 0 holders)"
    assert not holdings.would_evict(2.0**50)
    holdings.trim()
    holdings.forget()
    holdings.drop(DataKey(1))


def test_what_was_sent_is_kept():
    residency, holdings, keys = filled([10, 20, 30])
    assert points(holdings) == [0, 1, 2]
    assert holdings.held_bytes == 60
    assert keys[0].holders == (holdings,)
    agree(residency, holdings)


def test_the_least_recently_used_leaves_first():
    residency, holdings, keys = filled([40, 30, 20], capacity_bytes=100)
    holdings.touch(keys[0], 0.0)
    holdings.touch(sized(residency, 3, 25), 0.0)  # 115 bytes: key 1, asked for longest ago, leaves
    assert points(holdings) == [2, 0, 3]
    assert holdings.held_bytes == 85
    assert keys[1].holders == ()
    assert holdings.has_left(keys[1])
    assert not holdings.has_left(keys[0])
    agree(residency, holdings)


def test_what_comes_back_has_not_left():
    residency, holdings, keys = filled([60, 60], capacity_bytes=100)
    assert holdings.has_left(keys[0])
    holdings.touch(keys[0], 0.0)
    assert not holdings.has_left(keys[0])
    assert holdings.has_left(keys[1])
    agree(residency, holdings)


def test_when_it_is_there():
    residency, holdings, keys = filled([10])
    key = sized(residency, 7, 10)
    holdings.touch(key, 5.0)
    assert holdings.kept[key] == 5.0
    holdings.touch(key, 9.0)  # on its way already
    assert holdings.kept[key] == 5.0
    holdings.on_arrived(key)
    assert holdings.kept[key] == 0.0
    stranger = DataKey(8)
    holdings.on_arrived(stranger)
    assert stranger not in holdings.kept


@pytest.mark.parametrize(
    ("size", "capacity", "held", "expected"),
    [
        (1, 100, 100, True),
        (1, 100, 99, False),
        (2.0**50, 100, 0, True),
        (2.0**50, 0, 100, False),  # nothing is known of its end
    ],
)
def test_would_evict(size, capacity, held, expected):
    holdings = Holdings(capacity)
    holdings.held_bytes = held
    assert holdings.would_evict(size) is expected


def test_the_last_one_stays_whatever_its_size():
    residency, holdings, keys = filled([2**50], capacity_bytes=100)
    assert points(holdings) == [0]
    assert holdings.held_bytes == 2**50
    holdings.touch(sized(residency, 1, 10), 0.0)
    assert points(holdings) == [1]
    assert holdings.held_bytes == 10
    agree(residency, holdings)


def test_what_is_larger_than_the_cache_passes_through():
    """A size that is a lie would else cost all that is known."""
    residency, holdings, keys = filled([10, 20, 2**50], capacity_bytes=100)
    assert points(holdings) == [0, 1]
    assert holdings.has_left(keys[2])
    agree(residency, holdings)
    residency.resize(keys[1], 2**50)
    assert points(holdings) == [0]
    assert holdings.has_left(keys[1])
    agree(residency, holdings)


def test_drop():
    residency, holdings, keys = filled([60, 50, 40], capacity_bytes=100)
    holdings.drop(keys[2])
    assert points(holdings) == [1]
    assert holdings.held_bytes == 50
    assert not holdings.has_left(keys[2])  # somebody said so; nothing is learned when it hits
    holdings.drop(keys[0])
    assert not holdings.has_left(keys[0])
    agree(residency, holdings)


def test_forget():
    residency, holdings, keys = filled([60, 50, 40], capacity_bytes=100)
    other = Holdings()
    other.touch(keys[2], 0.0)
    holdings.forget()
    assert points(holdings) == []
    assert holdings.held_bytes == 0.0
    assert holdings.capacity_bytes == 100
    assert keys[2].holders == (other,)
    assert not holdings.has_left(keys[0])
    agree(residency, holdings)
    agree(residency, other)


def test_what_is_remembered_of_those_that_left_is_bounded():
    residency, holdings, keys = filled([1] * 2000, capacity_bytes=10)
    assert len(holdings._ghosts) == MIN_GHOSTS
    assert holdings.has_left(keys[1989]) and not holdings.has_left(keys[0])
    residency, holdings, keys = filled([1] * 5000, capacity_bytes=1000)
    assert len(holdings._ghosts) == 2 * 1000


# ---------------------------------------------------------------------- sizes


def test_resize():
    residency, holdings, keys = filled([10, 20])
    other = Holdings()
    other.touch(keys[0], 0.0)
    residency.resize(keys[0], 15)
    assert (holdings.held_bytes, other.held_bytes) == (35, 15)
    residency.resize(keys[0], 1)
    assert (holdings.held_bytes, other.held_bytes) == (21, 1)


def test_what_grows_pushes_others_out():
    residency, holdings, keys = filled([40, 30, 20], capacity_bytes=100)
    residency.resize(keys[1], 60)
    assert points(holdings) == [1, 2]
    residency.resize(keys[1], 2**50)  # also itself, when it was asked for longest ago
    assert points(holdings) == [2]
    agree(residency, holdings)


# ---------------------------------------------------------------------- sizes of caches


def test_a_given_size_is_not_learned():
    residency, holdings, keys = filled([40, 40], capacity_bytes=100)
    holdings.on_miss(keys[0])
    holdings.on_hit(keys[0], had_left=True)
    assert holdings.capacity_bytes == 100
    holdings.limit(50)
    assert points(holdings) == [1]
    holdings.limit(0)
    assert holdings.capacity_bytes == 0.0
    holdings.touch(keys[0], 0.0)
    holdings.on_miss(keys[0])
    assert holdings.capacity_bytes == 80 - SHRINK * 40


def test_nothing_given_changes_nothing_that_was_learned():
    residency, holdings, keys = filled([40, 40])
    holdings.on_miss(keys[0])
    holdings.limit(0)
    assert holdings.capacity_bytes == 60


def test_an_unexpected_miss_says_where_the_end_is():
    residency, holdings, keys = filled([40, 30, 20])
    assert holdings.capacity_bytes == 0.0
    holdings.on_miss(keys[1])
    assert holdings.capacity_bytes == 90 - SHRINK * 30 == 75
    assert points(holdings) == [1, 2]
    holdings.on_miss(keys[2])
    assert holdings.capacity_bytes == 75 - SHRINK * 20 == 65
    agree(residency, holdings)


def test_an_unexpected_hit_says_that_there_is_more():
    residency, holdings, keys = filled([40, 30, 20], capacity_bytes=0.0)
    holdings.on_hit(keys[0], had_left=True)
    assert holdings.capacity_bytes == 0.0  # no end is known: nothing can be beyond it
    holdings.on_miss(keys[1])
    holdings.on_hit(keys[0], had_left=True)
    assert holdings.capacity_bytes == 2 * 75  # no more than twice as much
    holdings.on_hit(keys[2], had_left=True)
    assert holdings.capacity_bytes == 150 + GROW * 20
    holdings.on_hit(keys[0], had_left=False)
    assert holdings.capacity_bytes == 150 + GROW * 20


def test_a_cache_is_never_smaller_than_what_it_just_fetched():
    residency, holdings, keys = filled([100])
    for _ in range(LOST_AFTER - 1):
        holdings.on_miss(keys[0])
    assert holdings.capacity_bytes == 100


class Cache:
    """An LRU cache by bytes."""

    def __init__(self, capacity_bytes):
        self.capacity_bytes = capacity_bytes
        self.kept = OrderedDict()
        self.used_bytes = 0

    def ask(self, point, size):
        if point in self.kept:
            self.kept.move_to_end(point)
            return True
        self.kept[point] = size
        self.used_bytes += size
        while self.used_bytes > self.capacity_bytes:
            self.used_bytes -= self.kept.popitem(last=False)[1]
        return False


@pytest.mark.parametrize("capacity", [200, 500])
def test_the_size_of_a_cache_is_learned(capacity):
    """Keys of 1 to 9 bytes, asked for at random, of which about half find room; whoever asks does not mind whether
    they are expected there. Within a quarter after 3 000 requests."""
    from random import Random

    rng = Random(1)
    residency, holdings, cache = Residency(10_000), Holdings(), Cache(capacity)
    for _ in range(3000):
        point = int(rng.paretovariate(0.7)) % 300
        size = 1 + point % 9
        key = sized(residency, point, size)
        is_expected, had_left = key in holdings.kept, holdings.has_left(key)
        holdings.touch(key, 0.0)
        if cache.ask(point, size):
            holdings.on_hit(key, had_left=had_left)
        elif is_expected:
            holdings.on_miss(key)
    assert holdings.capacity_bytes == pytest.approx(capacity, rel=0.25)
    agree(residency, holdings)


# ---------------------------------------------------------------------- a cache that was lost


def test_a_cache_that_was_lost_is_forgotten():
    """16 misses in a row: nothing else is there any more, and its size is what it was before them."""
    residency, holdings, keys = filled([10] * 40)
    holdings.on_miss(keys[39])
    holdings.on_hit(keys[38], had_left=False)
    before = holdings.capacity_bytes
    assert before == 395
    for key in keys[20 : 20 + LOST_AFTER - 1]:
        holdings.on_miss(key)
    assert len(holdings.kept) > 20
    holdings.on_miss(keys[39])
    assert points(holdings) == [39]
    assert holdings.capacity_bytes == before
    agree(residency, holdings)


def test_one_hit_says_that_it_was_not_lost():
    residency, holdings, keys = filled([10] * 40)
    for _ in range(3):
        for key in keys[-LOST_AFTER + 1 :]:
            holdings.on_miss(key)
        holdings.on_hit(keys[-1], had_left=False)
    assert len(holdings.kept) > 1


def test_a_lost_cache_of_unknown_size_has_none_afterwards():
    residency, holdings, keys = filled([10] * 40)
    for key in keys[:LOST_AFTER]:
        holdings.on_miss(key)
    assert holdings.capacity_bytes == 0.0


def test_what_endpoints_mention_takes_no_room():
    residency = Residency(3)
    asked = [residency.key(point) for point in (1, 2)]
    third = residency.mentioned(3)
    assert third is not None and residency.mentioned(1) is asked[0]
    assert residency.mentioned(4) is None and len(residency) == 3
    # Nobody asked for it: it is the first to go.
    assert residency.key(5) is not None and residency.find(3) is None
    assert [residency.find(key.point) for key in asked] == asked


def test_a_size_that_is_given_between_the_misses_stays():
    residency, holdings, keys = filled([10] * 40)
    for key in keys[-LOST_AFTER:-1]:
        holdings.on_miss(key)
    holdings.limit(1000)
    for key in keys[-LOST_AFTER:]:
        holdings.on_miss(key)
    assert holdings.capacity_bytes == 1000


def test_a_lost_cache_does_not_bring_back_what_nobody_knows():
    """The key was forgotten while its request was under way; kept, it would stay for ever."""
    residency, holdings, keys = filled([10] * 40)
    residency.limit(39)
    assert keys[0] not in holdings.kept
    for key in keys[1:LOST_AFTER]:
        holdings.on_miss(key)
    holdings.on_miss(keys[0])
    assert points(holdings) == []
    assert keys[0].holders == ()


# ---------------------------------------------------------------------- the keys


def test_keys():
    residency = Residency(3)
    keys = [residency.key(point) for point in (1, 2, 3)]
    assert residency.key(1) is keys[0]
    assert residency.find(2) is keys[1]
    assert residency.find(9) is None
    assert [key.point for key in residency] == [2, 3, 1]
    assert repr(residency) == "Residency(3 of 3 keys)"


def test_the_key_asked_for_longest_ago_makes_room():
    residency, holdings, keys = filled([10, 20, 30])
    residency.limit(3)
    residency.key(0)
    residency.key(9)
    assert [key.point for key in residency] == [2, 0, 9]
    assert points(holdings) == [0, 2]
    assert holdings.held_bytes == 40
    agree(residency, holdings)
    residency.limit(1)
    assert len(residency) == 1
    assert points(holdings) == []
    assert holdings.held_bytes == 0


def test_keys_by_name():
    """Names keep their points, for so many names at once."""
    residency = Residency(2)
    key = residency.named(b"k")
    assert key.point == key_point(b"k")
    assert residency.named(b"k") is key
    for number in range(MOST_NAMES + 10):
        residency.named(b"%d" % number)
    assert len(residency._named) <= MOST_NAMES
    assert residency.named(b"k").point == key_point(b"k")


def test_a_look_changes_nothing():
    residency = Residency(2)
    residency.key(1)
    residency.key(2)
    residency.find(1)
    residency.key(3)
    assert [key.point for key in residency] == [2, 3]


# ---------------------------------------------------------------------- what others learned


def test_a_size_that_others_learned():
    residency, holdings, keys = filled([10, 10, 10])
    holdings.expect(0.0)
    assert holdings.capacity_bytes == 0.0
    holdings.expect(25.0)
    assert points(holdings) == [1, 2] and holdings.capacity_bytes == 25.0
    # What it knows by itself counts more; and it goes on learning.
    holdings.expect(5.0)
    assert holdings.capacity_bytes == 25.0
    holdings.on_hit(keys[0], had_left=True)
    assert holdings.capacity_bytes == 2 * 25.0
    given = Holdings(50.0)
    given.expect(10.0)
    assert given.capacity_bytes == 50.0


def test_it_is_lost_without_a_miss():
    residency, holdings, keys = filled([10] * 5, capacity_bytes=40.0)
    holdings.lose()
    assert (points(holdings), holdings.capacity_bytes, holdings.losses) == ([], 40.0, 1)
    agree(residency, holdings)


def test_others_found_it_lost():
    residency, holdings, keys = filled([10] * 5, capacity_bytes=0.0)
    holdings.expect(100.0)
    holdings.on_miss(keys[0])
    holdings.on_miss(keys[1])
    assert holdings.capacity_bytes == 100.0 - 2 * SHRINK * 10
    holdings.lose()
    assert points(holdings) == [] and holdings.capacity_bytes == 100.0 and holdings.losses == 1
    agree(residency, holdings)
    # The misses until then do not count for the next loss.
    for key in keys[: LOST_AFTER - 1]:
        holdings.touch(key, 0.0)
        holdings.on_miss(key)
    assert holdings.losses == 1
