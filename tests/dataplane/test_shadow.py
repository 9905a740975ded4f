"""What a shadow would have saved or lost: counted once a request, by the score that data locality gives."""

import pytest
from support.fleet import Fleet, cluster, endpoint

from proxy.data_routing import MOST_SAVED_S
from proxy.errors import RoutingError
from proxy.model import RequestFacts
from proxy.policy.locality_params import LocalityParams
from proxy.scoreboard import K_SHADOW_DIFFERS, K_SHADOW_LOST_US, K_SHADOW_PICKS, K_SHADOW_SAVED_US

ABOUT_K = RequestFacts(data_keys=(b"k",))


def shadowed(*endpoints, balancer="round_robin", shadow="data_locality_aware", **more):
    """A cluster whose endpoints fetch 100 MB a second."""
    params = {"bandwidth_bytes_per_s": 100e6, **more.pop("locality", {})}
    spec = cluster(*endpoints, balancer=balancer, shadow=shadow, locality=LocalityParams(**params), **more)
    return Fleet().apply(spec)


def counted(one):
    """Picks, those that differ, seconds saved and seconds lost."""
    picks, differs, saved_us, lost_us = (
        one.row[word] for word in (K_SHADOW_PICKS, K_SHADOW_DIFFERS, K_SHADOW_SAVED_US, K_SHADOW_LOST_US)
    )
    return picks, differs, saved_us / 1e6, lost_us / 1e6


def test_a_transfer_that_the_shadow_saves():
    one = shadowed(endpoint("a", 0), endpoint("b", 1))
    facts = RequestFacts(data_keys=(b"k",), size_bytes=10_000_000)
    one.acquire(facts, now=0.0)
    before = counted(one)
    one.acquire(facts, now=1.0)  # it is the other's turn
    picks, differs, saved_s, lost_s = (new - old for new, old in zip(counted(one), before, strict=True))
    assert (picks, differs, lost_s) == (1, 1, 0.0)
    assert saved_s == pytest.approx(0.1, abs=0.01)


def test_where_an_endpoint_is_counts():
    """The near one saves the way to the far one."""
    one = shadowed(
        endpoint("far", 0, zone="far"), endpoint("near", 1), locality={"zone_distance_s": (("far", 0.5),)}
    )
    for _ in range(2):
        one.acquire(RequestFacts(), now=0.0)
    picks, differs, saved_s, lost_s = counted(one)
    assert (picks, differs, lost_s) == (2, 1, 0.0)
    assert saved_s == pytest.approx(0.5, abs=0.01)


def test_tags_that_a_request_would_like_count():
    one = shadowed(endpoint("a", 0), endpoint("b", 1, tags=frozenset({"gpu"})))
    for _ in range(2):
        one.acquire(RequestFacts(prefer=(("gpu", 0.25),)), now=0.0)
    assert counted(one)[2:] == (pytest.approx(0.25, abs=0.01), 0.0)


def test_one_size_is_not_all_that_the_sum_says():
    one = shadowed(endpoint("a", 0), endpoint("b", 1), locality={"sizes": ((b"k", 2**50),)})
    for now in (0.0, 1e9):  # by then it is there
        one.acquire(ABOUT_K, now=now)
    assert sum(counted(one)[2:]) == MOST_SAVED_S


def test_a_request_counts_once():
    one = shadowed(endpoint("a", 0), endpoint("b", 1))
    lease = one.acquire(ABOUT_K, now=0.0)
    one.acquire(ABOUT_K, now=0.0, failed=(lease.endpoint.id,))
    assert counted(one)[0] == 1


def test_a_request_that_finds_no_room_counts_when_it_has_some():
    one = shadowed(endpoint("a", 0, max_connections=1))
    first = one.acquire(ABOUT_K, now=0.0)
    with pytest.raises(RoutingError):
        one.acquire(ABOUT_K, now=0.0)
    assert counted(one)[0] == 1 and first.endpoint is one.endpoints[0]
