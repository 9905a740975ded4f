"""Whom a smaller cluster does without."""

import pytest

from proxy.policy.retiring import HeldKey, Instance, cost_by_sole_copies, whom_to_retire


def serving(name, work_s=0.0, age_s=100.0):
    return Instance(name, False, work_s, age_s)


def starting(name, age_s):
    return Instance(name, True, 0.0, age_s)


def free(instance_id, staying):
    return 0.0


def going(*arguments):
    return [one.instance_id for one in whom_to_retire(*arguments)]


def test_starting_ones_go_before_those_that_serve():
    """Ray Serve once stopped running replicas before starting ones (ray#43034)."""
    fleet = [serving("a"), starting("b", 10), serving("c"), starting("d", 2)]
    assert going(fleet, 1, free) == ["d"]
    assert going(fleet, 3, free) == ["d", "b", "a"]


def test_the_one_whose_data_are_cheapest_to_lose():
    costs = {"a": 2.0, "b": 0.5, "c": 1.0}
    fleet = [serving("a"), serving("b", work_s=9), serving("c")]
    assert going(fleet, 2, lambda one, staying: costs[one]) == ["b", "c"]


@pytest.mark.parametrize(
    ("fleet", "first"),
    [
        ([serving("a", 2.0), serving("b", 0.5), serving("c", 1.0)], "b"),
        ([serving("a", age_s=50), serving("b", age_s=10), serving("c", age_s=20)], "b"),
        ([serving("c"), serving("b"), serving("a")], "a"),
    ],
)
def test_what_decides_between_equal_costs(fleet, first):
    assert going(fleet, 1, free) == [first]


@pytest.mark.parametrize(("count", "names"), [(-1, []), (0, []), (2, ["a", "b"]), (5, ["a", "b"])])
def test_how_many(count, names):
    assert going([serving("a"), serving("b")], count, free) == names


def test_a_pair_of_copies_does_not_go_together():
    """Each alone could go for nothing; after the first one the second holds the sole copy."""
    keys = {1: HeldKey(100e6, 2.0), 2: HeldKey(1e6, 0.1)}
    cost = cost_by_sole_copies({"a": [1], "b": [1], "c": [2]}, keys, 100e6)
    assert going([serving("a"), serving("b"), serving("c")], 2, cost) == ["a", "c"]


def test_cost_by_sole_copies():
    keys = {1: HeldKey(100e6, 2.0), 2: HeldKey(200e6, 0.25), 3: HeldKey(50e6, 1.0), 4: HeldKey(1e9, 0.0)}
    cost = cost_by_sole_copies({"a": {1, 2, 4}, "b": {2, 3}}, keys, 100e6)
    assert cost("a", ["b"]) == pytest.approx(2.0)
    assert cost("b", ["a"]) == pytest.approx(0.5)
    assert cost("a", []) == pytest.approx(2.5)
    assert cost("unheard of", ["a"]) == 0.0


def test_reasons():
    keys = {1: HeldKey(100e6, 2.0)}
    fleet = [serving("a", 1.5), starting("b", 3)]
    cost = cost_by_sole_copies({"a": [1]}, keys, 100e6)
    assert [one.reason for one in whom_to_retire(fleet, 2, cost)] == [
        "it was still starting, for 3 s",
        "its data cost 2 s of transfers a second, the least of all; 1.5 s of work in flight",
    ]
    reason = whom_to_retire(fleet[:1], 1, free)[0].reason
    assert reason == "others hold all its wanted data, the least of all; 1.5 s of work in flight"
