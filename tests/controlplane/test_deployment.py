"""Instances of one spec replaced by those of another. Times are seconds."""

from dataclasses import replace

import pytest
from test_instances import PARAMS, World, instance, of

from proxy.controlplane.events import EventType
from proxy.controlplane.instance_life import Start, Surroundings
from proxy.drivers.driver import State
from proxy.drivers.spec import ProcessSpec
from proxy.policy.deploying import Answers, DeployParams

NEW = ProcessSpec(("service", "--new"))
DEPLOY = replace(PARAMS, spec=NEW, deploy=DeployParams(bake_s=10.0))


class Deploying(World):
    """A world in which a spec changes while `count` of the old serve."""

    def __init__(self, count=2, **more):
        super().__init__(**more)
        self.old = self.served(count)
        self.count = count
        self.now = 100.0
        self.fleet.change(DEPLOY, "us")

    def versions(self):
        """How many start or serve of the new and of the old version."""
        active = [life.instance.spec_digest for life in self.fleet.lives if life.is_active]
        new = active.count(NEW.digest())
        return new, len(active) - new

    def turn(self, around=Surroundings(), after=0.0, passes=True):  # noqa: B008 it is frozen
        """One step; what is ordered is made, and passes its check or not."""
        actions = self.step(self.count, around, after=after)
        for order in of(actions, Start):
            self.made(order, spec_digest=order.spec.digest())
        for action in self.step(self.count, around):
            if (
                passes
                and hasattr(action, "id")
                and any(one.instance.id == action.id for one in self.fleet.lives)
            ):
                self.passes(action.id)
        return actions


def document(world):
    return world.fleet.deployment.document(world.fleet.old, now=world.now)


def test_a_changed_spec_replaces_instances():
    world = Deploying()
    world.turn()
    assert world.versions() == (1, 2) and document(world)["stage"] == "starting"
    world.turn()
    assert document(world) == {
        "stage": "baking", "version": NEW.digest(), "old": 2, "watched_for_s": 10.0, "reason": None,
    }  # fmt: skip
    world.turn(after=9.9)
    assert world.versions() == (1, 2)
    for _ in range(4):
        world.turn(after=0.3)
    assert world.versions() == (2, 0)
    texts = [text for kind, _, text in world.told if kind is EventType.DEPLOY]
    assert [text.split()[0] for text in texts] == ["version", "1", "version", "done,"]
    assert document(world)["stage"] == "none"


def test_the_same_spec_again_replaces_nothing():
    world = World()
    world.served(2)
    world.fleet.change(replace(PARAMS, start_timeout_s=5.0), "us")
    assert world.step(2) == [] and document(world)["stage"] == "none"


def test_a_new_one_that_never_gets_healthy_calls_it_off():
    world = Deploying()
    world.turn(passes=False)
    world.turn(after=61, passes=False)
    assert document(world)["stage"] == "halted"
    world.turn(passes=False)
    assert world.versions() == (0, 2)
    kind, subject, text = next(each for each in world.told if each[0] is EventType.DEPLOY_HALTED)
    assert subject == "cluster etl"
    assert text.startswith("called off, the old ones stay: a new one failed: not healthy within 60 s")
    world.turn(after=1000)
    assert world.versions() == (0, 2)


def test_a_start_that_the_engine_refuses_calls_it_off():
    world = Deploying()
    (order,) = of(world.step(2), Start)
    world.fleet.on_order(order.name, None, "no such image", now=world.now)
    assert document(world)["reason"] == "a new one failed: no such image"


@pytest.mark.parametrize("answers", [Answers(30, 15, 3.0, 30), Answers(30, 0, 9.0, 30)])
def test_new_ones_that_do_worse_call_it_off(answers):
    world = Deploying()
    world.turn()
    world.turn()
    (new,) = [life.instance.id for life in world.fleet.lives if life.instance.id not in world.old]
    before = {own: Answers(1000, 900, 900.0, 1000) for own in world.old}
    world.turn(Surroundings(answers=before), after=1)
    now = {own: Answers(1050, 900, 905.0, 1050) for own in world.old}
    world.turn(Surroundings(answers=now | {new: answers}), after=1)
    assert document(world)["reason"].startswith("the new ones stand out: ")
    world.turn()
    assert world.versions() == (0, 2), "the new one drains"


def test_called_off_half_way_the_old_ones_come_back():
    world = Deploying(count=3)
    for _ in range(5):
        world.turn(after=5.1)
    assert world.versions()[1] < 3
    new = next(life.instance.id for life in world.fleet.lives if life.instance.spec_digest == NEW.digest())
    world.changed(new, state=State.ENDED, exit_code=1)
    world.turn(after=2)
    world.turn(after=2)
    assert world.versions() == (0, 3)


def test_another_version_or_somebodys_word_tries_again():
    world = Deploying()
    world.turn()
    world.fleet.deployment.blame(NEW.digest(), "it fails")
    world.turn(after=1)
    world.fleet.deployment.retry()
    world.turn(after=100)
    assert document(world)["stage"] == "starting"
    world.fleet.deployment.blame(NEW.digest(), "it fails again")
    world.fleet.change(PARAMS, "us")
    world.turn()
    assert document(world)["stage"] == "none" and world.versions() == (0, 2)


def test_who_finds_old_ones_after_a_restart_replaces_them_unless_that_was_called_off():
    for halted, stage in (("", "starting"), ("before", "halted")):
        world = World()
        world.fleet.__init__(
            "etl", "us", DEPLOY, rng=world.fleet._rng, tell=print, known=["a"], halted=halted
        )
        world.listed(instance("a"))
        starts = of(world.step(1), Start)
        assert document(world)["stage"] == stage and len(starts) == (not halted)
        if not halted:
            continue
        world.fleet.on_removed("a", now=0.0)
        assert len(of(world.step(1, after=5), Start)) == 1, "nobody knows what the old one was made from"
