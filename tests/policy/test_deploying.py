"""How a new version replaces an old one, and what calls that off. Times are seconds."""

import pytest

from proxy.policy.deploying import Answers, DeployParams, Rollout, Sizes, Stage, why_worse


def test_one_at_a_time_and_the_first_is_watched():
    rollout = Rollout(DeployParams())
    assert rollout.sizes(3, 3, 0, now=0) == Sizes(3, 0) and not rollout.is_under_way
    assert rollout.sizes(3, 0, 3, now=0) == Sizes(1, 3) and rollout.stage is Stage.STARTING
    assert rollout.sizes(3, 1, 3, now=5) == Sizes(1, 3) and rollout.stage is Stage.BAKING
    assert rollout.left_s(now=25) == 10
    assert rollout.sizes(3, 1, 3, now=34.9) == Sizes(1, 3)
    assert rollout.sizes(3, 1, 3, now=35) == Sizes(2, 2) and rollout.stage is Stage.ROLLING
    assert rollout.sizes(3, 1, 2, now=36) == Sizes(2, 2)
    assert rollout.sizes(3, 2, 2, now=37) == Sizes(3, 1)
    assert rollout.sizes(3, 3, 1, now=38) == Sizes(3, 0)
    assert rollout.sizes(3, 3, 0, now=39) == Sizes(3, 0) and rollout.stage is Stage.NONE
    assert rollout.took_s(now=39) == 39


def test_more_at_once_and_some_missing():
    rollout = Rollout(DeployParams(max_surge=2, max_unavailable=1, bake_s=0))
    assert rollout.sizes(4, 0, 4, now=0) == Sizes(2, 4)
    assert rollout.sizes(4, 2, 4, now=1) == Sizes(4, 1), "3 serve: 2 new and 1 old"


def test_the_size_may_change_meanwhile():
    rollout = Rollout(DeployParams())
    rollout.sizes(2, 0, 2, now=0)
    assert rollout.sizes(5, 0, 2, now=1) == Sizes(1, 5), (
        "more of the old ones, while nobody knows about the new"
    )
    rollout.sizes(5, 1, 5, now=2)
    assert rollout.sizes(2, 1, 5, now=32) == Sizes(2, 1)


@pytest.mark.parametrize("surge", range(1, 5))
@pytest.mark.parametrize("missing", range(3))
@pytest.mark.parametrize("desired", range(7))
def test_it_ends_and_neither_too_few_serve_nor_too_many_run(surge, missing, desired):
    rollout = Rollout(DeployParams(surge, missing, bake_s=0))
    new, old = 0, desired
    for now in range(30):
        sizes = rollout.sizes(desired, new, old, now=now)
        old = min(sizes.old, old)
        assert max(sizes.new, new) + old <= desired + surge
        assert new + old >= desired - missing
        new = max(new, sizes.new)
    assert (new, old) == (desired, 0)


def test_a_version_that_serves_already_is_not_watched():
    rollout = Rollout(DeployParams())
    assert rollout.sizes(3, 3, 1, now=0) == Sizes(3, 0) and not rollout.is_under_way


def test_what_is_called_off_stays_so_until_somebody_says_otherwise():
    rollout = Rollout(DeployParams())
    rollout.halt("nothing is under way")
    assert rollout.stage is Stage.NONE
    rollout.sizes(3, 0, 3, now=0)
    rollout.halt("it fails")
    assert rollout.sizes(3, 1, 3, now=1000) == Sizes(0, 3)
    assert repr(rollout) == "Rollout(halted: it fails)"
    rollout.forget()
    assert rollout.sizes(3, 0, 3, now=1001) == Sizes(1, 3)
    assert Rollout(DeployParams(), "before").sizes(3, 0, 3, now=0) == Sizes(0, 3)


OLD = Answers(200, 2, 200 * 0.1, 200)


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (Answers(50, 8, 5, 50), "16.0% of their requests fail, 1.0% of the others'"),
        (Answers(50, 2, 5, 50), None),
        (Answers(19, 19, 0, 0), "100.0% of their requests fail, 1.0% of the others'"),
        (Answers(3, 3, 0, 0), "100.0% of their requests fail, 1.0% of the others'"),
        (Answers(5, 2, 0, 3), None),
        (Answers(5, 3, 0, 2), "60.0% of their requests fail, 1.0% of the others'"),
        (Answers(2, 2, 0, 0), None),
        (Answers(20, 20, 0, 0), "100.0% of their requests fail, 1.0% of the others'"),
        (Answers(1000, 10, 100, 1000), None),
        (Answers(50, 0, 50 * 0.2, 50), None),
        (Answers(50, 0, 50 * 0.3, 50), "their requests take 0.3 s on average, the others' 0.1 s"),
        (Answers(19, 0, 19 * 3.0, 19), None),
    ],
)
def test_who_stands_out(new, why):
    assert why_worse(new, OLD) == why


def test_who_fails_as_much_as_the_others_does_not_stand_out():
    assert why_worse(Answers(100, 50, 10, 100), Answers(100, 45, 10, 100)) is None
    assert why_worse(Answers(100, 100), Answers(100, 100)) is None


def test_few_failures_say_little_while_nothing_is_known_of_the_others():
    assert why_worse(Answers(5, 5), Answers(0, 0)) is None
    assert why_worse(Answers(5, 5), Answers(10, 0)) is not None
    assert why_worse(Answers(5, 5), Answers(10, 9)) is None


def test_few_milliseconds_do_not_matter():
    assert why_worse(Answers(50, 0, 50 * 0.009, 50), Answers(50, 0, 50 * 0.001, 50)) is None


def test_counts():
    assert Answers(1, 2, 3.0, 4) + Answers(1, 1, 1.0, 1) == Answers(2, 3, 4.0, 5)
    assert Answers(5, 2, 3.0, 5).since(Answers(1, 1, 1.0, 1)) == Answers(4, 1, 2.0, 4)
    assert Answers(1, 0, 0.5, 1).since(Answers(5, 2, 3.0, 5)) == Answers(1, 0, 0.5, 1)
