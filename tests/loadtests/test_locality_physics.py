"""An endpoint's slots, line and cache, with numbers worked out by hand."""

from dataclasses import replace

from loadtests.locality.physics import Endpoint, Visit, fleet
from loadtests.locality.trace import BY_NAME, Dataset, Scenario

# One byte takes a second: a size is a time.
SMALL = Scenario("small", "", slots=2, cache_bytes=10, bandwidth_bytes_per_s=1.0)
A, B, C = Dataset("a", 4, 1.0), Dataset("b", 5, 1.0), Dataset("c", 3, 1.0)


def test_a_miss_takes_the_fetch_longer_than_a_hit():
    endpoint = Endpoint(SMALL)
    assert endpoint.admit(A, now=0.0) == Visit(0.0, 5.0, is_hit=False)
    assert endpoint.admit(A, now=10.0) == Visit(10.0, 11.0, is_hit=True)


def test_data_on_their_way_are_waited_for():
    endpoint = Endpoint(SMALL)
    endpoint.admit(A, now=0.0)
    assert endpoint.admit(A, now=1.0) == Visit(1.0, 5.0, is_hit=True)


def test_who_finds_no_slot_waits_in_line():
    endpoint = Endpoint(SMALL)
    endpoint.admit(A, now=0.0)  # until 5
    endpoint.admit(C, now=0.0)  # until 4
    assert endpoint.admit(A, now=1.0) == Visit(4.0, 5.0, is_hit=True)
    assert endpoint.admit(C, now=1.0) == Visit(5.0, 6.0, is_hit=True)
    assert endpoint.admit(C, now=1.0) == Visit(5.0, 6.0, is_hit=True)
    assert endpoint.admit(C, now=1.0) == Visit(6.0, 7.0, is_hit=True)


def test_the_least_recently_used_leave():
    endpoint = Endpoint(SMALL)
    endpoint.admit(A, now=0.0)
    endpoint.admit(B, now=0.0)  # 9 of 10 bytes
    endpoint.admit(A, now=20.0)
    assert endpoint.victims(C) == [B]
    assert not endpoint.admit(C, now=30.0).is_hit
    assert [endpoint.holds(each) for each in (A, B, C)] == [True, False, True]


def test_what_is_larger_than_the_cache_passes_through():
    endpoint = Endpoint(SMALL)
    endpoint.admit(A, now=0.0)
    large = Dataset("large", 11, 1.0)
    assert endpoint.admit(large, now=20.0) == Visit(20.0, 32.0, is_hit=False)
    assert endpoint.holds(A)
    assert not endpoint.holds(large)


def test_foreseeing_changes_nothing():
    endpoint = Endpoint(SMALL)
    assert endpoint.foresee(A, now=0.0) == endpoint.foresee(A, now=0.0) == endpoint.admit(A, now=0.0)


def test_a_slow_endpoint_is_slower_in_everything():
    assert Endpoint(SMALL, slowness=3.0).admit(A, now=0.0) == Visit(0.0, 15.0, is_hit=False)
    ends = [each.admit(A, now=0.0).end for each in fleet(replace(SMALL, slowness=3.0, endpoints=5))]
    assert ends == [5.0, 5.0, 5.0, 15.0, 5.0]
    assert len(fleet(BY_NAME["joins"])) == 8
