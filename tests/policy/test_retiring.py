"""Whom a smaller cluster does without."""

import pytest

from proxy.policy.retiring import Instance, whom_to_retire


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
    """`a` and `b` hold the same 200 MB, `c` other 10 MB."""

    def cost(instance_id, staying):
        if instance_id == "c":
            return 10e6
        return 0.0 if {"a", "b"} & set(staying) else 200e6

    assert going([serving("a"), serving("b"), serving("c")], 2, cost) == ["a", "c"]


def test_reasons():
    (one,) = whom_to_retire([serving("a", 1.5)], 1, lambda *_: 95.4e6)
    assert one.reason == "95.4 MB would be fetched again, the least of all; 1.5 s of work in flight"
    (one,) = whom_to_retire([serving("a", 1.5)], 1, free)
    assert one.reason == "nobody would miss its data, the least of all; 1.5 s of work in flight"
    (one,) = whom_to_retire([starting("a", 4)], 1, free)
    assert one.reason == "it was still starting, for 4 s"
