"""The sample service's cache: bounded by bytes, the one unused for longest goes first."""

from proxy.demo.cache import DataCache


def test_what_was_put_is_held():
    cache = DataCache(100)
    assert not cache.touch("a")
    cache.put("a", 60)
    assert cache.touch("a")
    assert cache.held_bytes == 60


def test_the_one_unused_for_longest_makes_room():
    cache = DataCache(100)
    for name in "abc":
        cache.put(name, 30)
    assert cache.touch("a")
    cache.put("d", 30)
    assert [cache.touch(name) for name in "abcd"] == [True, False, True, True]
    cache.put("e", 70)
    assert [cache.touch(name) for name in "acde"] == [False, False, True, True]
    assert cache.held_bytes == 100


def test_one_put_twice_counts_once():
    cache = DataCache(100)
    cache.put("a", 60)
    cache.put("a", 60)
    assert cache.held_bytes == 60


def test_what_is_larger_than_the_cache_is_not_held():
    cache = DataCache(100)
    cache.put("a", 60)
    cache.put("b", 101)
    assert (cache.touch("a"), cache.touch("b"), cache.held_bytes) == (True, False, 60)
