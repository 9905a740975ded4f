from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest

from proxy.model import NO_FACTS
from proxy.policy.picker import (
    BALANCERS,
    FORGET_SLACK,
    LeastLoaded,
    RandomPick,
    RoundRobin,
    SmoothWeightedRoundRobin,
    connections_per_weight,
    make_picker,
)


@dataclass
class Endpoint:
    id: str
    weight: int = 1
    in_flight: int = 0


A, B, C = Endpoint("a"), Endpoint("b"), Endpoint("c")


def picks(picker, candidates, count):
    return "".join(picker.pick(candidates, NO_FACTS).id for _ in range(count))


@pytest.mark.parametrize("name", BALANCERS)
def test_every_balancer(name):
    picker = make_picker(name, Random(1))
    assert picker.pick([], NO_FACTS) is None
    assert picker.pick([A], NO_FACTS) is A
    assert picker.pick((A, B), NO_FACTS) in (A, B)
    # Over 300 picks random misses one of three with odds of 3 · (2/3)^300; the others never do.
    assert set(picks(picker, [A, B, C], 300)) == {"a", "b", "c"}


def test_names():
    assert BALANCERS == ("round_robin", "weighted_round_robin", "least_connections", "random")
    with pytest.raises(
        ValueError, match="balancer 'best' is unknown, expected one of round_robin, weighted_"
    ):
        make_picker("best", Random(1))


def test_round_robin():
    picker = RoundRobin()
    assert picks(picker, [A, B, C], 7) == "abcabca"
    assert picks(picker, [A, B], 3) == "bab"
    assert picks(picker, [C], 2) == "cc"


def test_round_robin_is_not_in_step_with_retries():
    # `a` fails every time, and each failure is followed by a pick among the rest.
    picker = RoundRobin()
    first = []
    for _ in range(4):
        first.append(picks(picker, [A, B], 1))
        if first[-1] == "a":
            assert picks(picker, [B], 1) == "b"
    assert first == ["a", "b", "a", "b"]


def test_smooth_weighted_round_robin():
    # The example of nginx's commit message.
    weighted = [Endpoint("a", 5), Endpoint("b", 1), Endpoint("c", 1)]
    assert picks(SmoothWeightedRoundRobin(), weighted, 14) == "aabacaaaabacaa"


def test_smooth_weighted_round_robin_follows_a_changed_weight():
    picker = SmoothWeightedRoundRobin()
    a, b = Endpoint("a", 1), Endpoint("b", 1)
    assert picks(picker, [a, b], 4) == "abab"
    b.weight = 3
    assert Counter(picks(picker, [a, b], 8)) == {"a": 2, "b": 6}


def test_smooth_weighted_round_robin_keeps_the_place_of_who_is_away_for_a_moment():
    picker = SmoothWeightedRoundRobin()
    assert picks(picker, [A, B, C], 1) == "a"
    assert picks(picker, [A, C], 1) == "c"
    assert picks(picker, [A, B, C], 1) == "b"


def test_smooth_weighted_round_robin_forgets_who_is_gone():
    picker = SmoothWeightedRoundRobin()
    for number in range(10 * FORGET_SLACK):
        picker.pick([A, Endpoint(f"replaced-{number}")], NO_FACTS)
    assert len(picker._current) <= 4 + FORGET_SLACK


def test_least_connections():
    picker = make_picker("least_connections", Random(1))
    loaded = [Endpoint("a", 1, 3), Endpoint("b", 1, 1), Endpoint("c", 4, 5)]
    # 3, 1 and 5/4 per unit of weight.
    assert picks(picker, loaded, 2) == "bb"
    loaded[1].in_flight = 2
    assert picks(picker, loaded, 1) == "c"


def test_least_connections_shares_ties_by_weight():
    picker = make_picker("least_connections", Random(1))
    assert Counter(picks(picker, [Endpoint("a", 2), Endpoint("b", 1)], 9)) == {"a": 6, "b": 3}
    # A loaded one takes no part in the turn.
    assert picks(picker, [Endpoint("x", 1, 1), B, C], 4) in ("bcbc", "cbcb")


def test_least_loaded_takes_any_measure():
    def longest_name(candidate, facts):
        return -len(candidate.id) if facts is NO_FACTS else 0

    picker = LeastLoaded(longest_name, ties=RoundRobin())
    assert picker.pick([A, Endpoint("long"), B], NO_FACTS).id == "long"
    assert connections_per_weight(Endpoint("a", 4, 6), NO_FACTS) == 1.5


def test_random_by_weight():
    class Dice(Random):
        def random(self):
            return draws.pop(0)

    draws = [0.0, 0.2499, 0.25, 0.9999999999999999]
    assert picks(RandomPick(Dice()), [Endpoint("a", 1), Endpoint("b", 3)], 4) == "aabb"
