"""The life of a cluster's instances, with the engine's words and the time given by hand. Times are seconds."""

import random
from dataclasses import replace

import pytest

from proxy.controlplane.events import EventType
from proxy.controlplane.instance_life import FleetParams, Phase, Probe, Remove, Start, Stop, Surroundings
from proxy.controlplane.instances import Fleet
from proxy.drivers.driver import EngineHealth, Instance, State
from proxy.drivers.spec import ProcessSpec
from proxy.model import TcpAddress
from proxy.policy.replacing import ReplacementParams

SPEC = ProcessSpec(("service",))
PARAMS = FleetParams(SPEC, start_timeout_s=60.0, drain_timeout_s=30.0, replacement=ReplacementParams())
QUIET = Surroundings()


class World:
    """A fleet and what is told of it."""

    def __init__(self, params=PARAMS, known=()):
        self.told = []
        self.now = 0.0
        self.fleet = Fleet(
            "etl",
            "us",
            params,
            rng=random.Random(1),
            tell=lambda *event: self.told.append(event),
            known=known,
        )

    def kinds(self):
        """What was told since the last call."""
        kinds = [kind for kind, _, _ in self.told]
        self.told.clear()
        return kinds

    def listed(self, *instances):
        self.fleet.on_listed(instances, now=self.now)

    def step(self, desired, around=QUIET, after=0.0):
        self.now += after
        return self.fleet.step(desired, around, now=self.now)

    def made(self, order, own=None, **more):
        """The engine has carried out an order."""
        made = instance(own or f"id of {order.name}", name=order.name, **more)
        self.fleet.on_changed(made, now=self.now)
        self.fleet.on_order(order.name, made, now=self.now)
        return made

    def passes(self, own):
        self.fleet.on_probe(own, "", now=self.now)

    def served(self, desired):
        """So many instances that serve; their ids."""
        if not self.fleet.is_known:
            self.listed()
        ids = [self.made(order).id for order in self.step(desired) if isinstance(order, Start)]
        self.step(desired)
        for own in ids:
            self.passes(own)
        assert self.fleet.serving == desired
        self.told.clear()
        return ids

    def life(self, own):
        return next(life for life in self.fleet.lives if life.instance.id == own)

    def changed(self, own, **more):
        self.fleet.on_changed(replace(self.life(own).instance, **more), now=self.now)


def instance(own, **more):
    more = {
        "name": own, "owner": "us", "state": State.RUNNING, "started_at": 1.0, "spec_digest": SPEC.digest(), **more,
    }  # fmt: skip
    return Instance(own, cluster="etl", addresses=(TcpAddress("127.0.0.1", 9000),), **more)


def of(actions, kind):
    return [one for one in actions if isinstance(one, kind)]


def test_nothing_is_ordered_before_the_engine_has_said_what_there_is():
    world = World()
    assert world.step(2) == []
    world.listed()
    assert len(of(world.step(2), Start)) == 2
    assert world.step(2) == [], "orders that are under way count"
    assert world.fleet.starting == 2


def test_from_the_order_to_serving():
    world = World()
    world.listed()
    (order,) = world.step(1)
    assert order.spec is SPEC and order.name.startswith("us-etl-")
    made = world.made(order)
    assert list(world.fleet.members()) == []
    assert world.step(1) == [Probe(made.id)]
    assert world.step(1, after=5) == [], "one check at a time"
    world.fleet.on_probe(made.id, "refused", now=world.now)
    assert world.step(1, after=0.1) == []
    assert world.step(1, after=0.11) == [Probe(made.id)]
    world.passes(made.id)
    (life,) = world.fleet.members()
    assert life.phase is Phase.SERVING and not life.leaving and not life.veto
    assert world.fleet.started == [pytest.approx(5.21)]
    assert world.kinds() == [EventType.INSTANCE_STARTING, EventType.INSTANCE_SERVING]


def test_one_that_never_gets_healthy_is_removed_with_its_last_words_and_there_is_no_storm():
    world = World()
    world.listed()
    orders = of(world.step(3), Start)
    made = [world.made(order) for order in orders]
    starts, now = 0, 60.0
    for own in made:
        world.fleet.on_probe(own.id, "refused", now=59.0)
    removed = of(world.step(3, after=60.0), Remove)
    for remove in of(world.step(3), Remove) + removed:
        told = remove.obituary
        assert told.kind is EventType.INSTANCE_FAILED
        assert told.text.startswith("not healthy within 60 s: refused; ")
        world.fleet.on_done(remove, now=world.now)
    assert {one.id for one in made}.isdisjoint(life.instance.id for life in world.fleet.lives)
    while now < 3660.0:
        now += 1.0
        world.now = now
        for action in world.step(3):
            if isinstance(action, Start):
                starts += 1
                world.made(action)
            elif isinstance(action, Probe):
                world.fleet.on_probe(action.id, "refused", now=now)
            else:
                world.fleet.on_done(action, now=now)
        assert world.fleet.starting <= 1
    assert 10 < starts < 25


def test_starts_that_the_engine_refuses_pause_and_those_without_an_answer_do_not_count():
    world = World()
    world.listed()
    (order,) = world.step(1)
    world.fleet.on_order(order.name, None, "no image", now=0.0)
    assert world.step(1, after=0.9) == []
    (order,) = world.step(1, after=0.2)
    world.fleet.on_order(order.name, None, "timed out", is_unknown=True, now=world.now)
    assert world.fleet.starts.failed == 1 and world.fleet.failed_total == 1
    assert world.step(1, after=1.9) == []
    assert len(world.step(1, after=0.2)) == 1


def test_an_order_whose_answer_got_lost_is_found_by_its_name():
    world = World()
    world.listed()
    (order,) = world.step(1)
    found = instance("c1", name=order.name)
    world.listed(found)
    world.fleet.on_order(order.name, None, "timed out", is_unknown=True, now=0.0)
    assert world.step(1, after=10) == [Probe("c1")]


def test_what_serves_goes_on_after_a_restart_of_control_and_the_rest_is_checked():
    world = World(known=["c1", "c3"])
    world.listed(instance("c1"), instance("c2"), instance("c3", state=State.PAUSED))
    assert [life.instance.id for life in world.fleet.members()] == ["c1"]
    assert world.step(3) == [Probe("c2")]
    assert world.kinds() == [EventType.INSTANCE_ADOPTED] * 3


def test_leftovers_go_and_what_is_not_ours_stays():
    world = World()
    world.listed(
        instance("half made", state=State.CREATED),
        instance("dead", state=State.ENDED, exit_code=1),
        instance("another's", owner="them"),
        instance("nobody's", owner=""),
        instance("another's created", owner="them", state=State.CREATED),
    )
    actions = world.step(0)
    assert sorted(one.id for one in of(actions, Remove)) == ["dead", "half made"] and len(actions) == 2
    assert {life.instance.owner for life in world.fleet.lives} == {"us"}


def test_one_that_is_being_made_is_no_leftover():
    world = World()
    world.listed()
    (order,) = world.step(1)
    world.fleet.on_changed(instance("c1", name=order.name, state=State.CREATED), now=1.0)
    assert of(world.step(1), Remove) == []


def test_one_that_died_is_replaced_at_once_and_its_end_told():
    world = World()
    own, _ = world.served(2)
    world.now = 100.0
    world.fleet.on_died(own, now=world.now)
    assert own not in [life.instance.id for life in world.fleet.members()], "no request goes there any more"
    world.changed(own, state=State.ENDED, exit_code=137, oom_killed=True)
    actions = world.step(2)
    assert len(of(actions, Start)) == 1
    (remove,) = of(world.step(2), Remove) or of(actions, Remove)
    told = remove.obituary
    assert (told.kind, told.text) == (EventType.INSTANCE_DIED, "it was killed for its memory")


def test_one_that_dies_soon_after_it_served_counts_as_a_failed_start():
    world = World()
    (own,) = world.served(1)
    world.now = 10.0
    world.changed(own, state=State.ENDED, exit_code=1)
    assert of(world.step(1), Start) == []
    assert len(of(world.step(1, after=1.1), Start)) == 1


def test_one_that_somebody_removed_is_replaced():
    world = World()
    own, _ = world.served(2)
    world.now = 100.0
    world.fleet.on_removed(own, now=world.now)
    assert len(of(world.step(2), Start)) == 1
    assert EventType.INSTANCE_DIED in world.kinds()


def test_one_that_vanished_while_nobody_looked_is_replaced():
    world = World()
    own, other = world.served(2)
    world.now = 100.0
    world.listed(world.life(other).instance)
    assert len(of(world.step(2), Start)) == 1


def test_one_that_somebody_stops_drains_and_is_replaced():
    world = World()
    own, _ = world.served(2)
    world.fleet.on_stopping(own, 10.0, now=world.now)
    assert world.life(own).leaving
    assert len(of(world.step(2), Start)) == 1
    world.now = 3.0
    world.fleet.on_died(own, now=3.0)
    world.changed(own, state=State.ENDED, exit_code=0)
    assert of(world.step(2), Remove) == []
    world.step(2, after=2.1)
    (remove,) = of(world.step(2), Remove)
    assert remove.obituary is None and world.fleet.failed_total == 0


def test_one_that_somebody_restarts_is_not_taken_away_meanwhile():
    world = World()
    own, _ = world.served(2)
    around = Surroundings(room=3)
    world.fleet.on_stopping(own, 10.0, now=0.0)
    assert len(of(world.step(2, around), Start)) == 1
    world.fleet.on_died(own, now=1.0)
    world.changed(own, state=State.ENDED, exit_code=143)
    assert world.step(2, around, after=1.0) == []
    address = TcpAddress("127.0.0.1", 9001)
    world.changed(own, state=State.RUNNING, exit_code=None, started_at=2.0, addresses=(address,))
    assert world.life(own).is_active
    assert world.step(3, around) == [Probe(own)]


def test_one_that_was_told_to_end_and_runs_on_is_put_back():
    world = World()
    own, _ = world.served(2)
    world.fleet.on_stopping(own, 10.0, now=0.0)
    (order,) = of(world.step(2), Start)
    world.made(order)
    world.step(2, after=14.9)
    assert world.life(own).leaving
    world.step(2, after=0.2)
    assert not world.life(own).leaving
    assert world.fleet.starting == 0, "its replacement, which was still starting, goes"


def test_a_restart_in_place_by_the_engine_is_waited_for():
    world = World()
    own, _ = world.served(2)
    world.now = 100.0
    world.fleet.on_died(own, now=world.now)
    world.changed(own, state=State.RESTARTING, addresses=())
    assert world.step(2, after=10) == []
    world.changed(
        own, state=State.RUNNING, restarts=1, started_at=110.0, addresses=(TcpAddress("127.0.0.1", 9),)
    )
    assert world.step(2) == [Probe(own)]
    world.passes(own)
    assert world.fleet.serving == 2


@pytest.mark.parametrize("end", ["never comes back", "three times"])
def test_a_restart_in_place_that_does_not_help_is_no_longer_waited_for(end):
    world = World()
    own, _ = world.served(2)
    world.now = 100.0
    if end == "never comes back":
        world.changed(own, state=State.RESTARTING)
        world.step(2)
        actions = world.step(2, after=15)
    else:
        for count in (1, 2, 3):
            world.changed(own, state=State.RUNNING, restarts=count, started_at=100.0 + count)
            actions = world.step(2, after=10)
            if count < 3:
                world.passes(own)
    assert len(of(actions, Start)) == 1
    assert not world.life(own).is_active


def test_one_that_hangs_is_replaced_and_what_it_has_may_finish():
    world = World()
    own, _ = world.served(2)
    world.now = 100.0
    hung = Surroundings(in_flight={own: 1}, down={own})
    assert world.step(2, hung) == [] == world.step(2, hung, after=14.9)
    assert len(of(world.step(2, hung, after=0.2), Start)) == 1
    assert world.life(own).phase is Phase.DRAINING
    assert of(world.step(2, hung, after=29), Stop) == []
    assert of(world.step(2, hung, after=1.1), Stop) == [Stop(own)]


def test_the_engines_own_check_only_vetoes():
    world = World()
    world.listed()
    (order,) = world.step(1)
    own = world.made(order, health=EngineHealth.UNHEALTHY).id
    assert world.step(1) == []
    world.changed(own, health=EngineHealth.STARTING)
    assert world.step(1) == [Probe(own)]
    world.passes(own)
    world.changed(own, health=EngineHealth.UNHEALTHY)
    assert world.life(own).veto
    world.step(1)
    world.changed(own, health=EngineHealth.HEALTHY)
    world.step(1, after=14)
    assert not world.life(own).veto and world.fleet.serving == 1


def test_going_down_starting_ones_first_then_the_cheapest():
    world = World()
    a, b, c = world.served(3)
    (order,) = of(world.step(4), Start)
    starting = world.made(order).id
    costs = Surroundings(cost_of_losing=lambda own, staying: {a: 2.0, b: 1.0, c: 3.0}[own])
    world.step(3, costs)
    assert world.life(starting).phase is Phase.STOPPING
    world.step(2, costs)
    assert world.life(b).phase is Phase.DRAINING and world.fleet.serving == 2


def test_a_retired_one_is_stopped_when_nothing_is_in_flight_and_then_removed():
    world = World()
    own, _ = world.served(2)
    busy = Surroundings(in_flight={own: 1}, cost_of_losing=lambda each, _: each != own)
    assert world.step(1, busy) == []
    assert [bool(life.leaving) for life in world.fleet.members()] == [True, False]
    idle = replace(busy, in_flight={})
    assert world.step(1, idle, after=5) == []
    assert world.step(1, busy, after=0.4) == [], "a worker had picked it before it knew"
    assert world.step(1, idle, after=1) == []
    assert world.step(1, idle, after=0.5) == [Stop(own)]
    assert world.step(1, idle, after=9) == []
    world.fleet.on_stopping(own, 10.0, now=world.now)
    world.fleet.on_died(own, now=world.now)
    world.changed(own, state=State.ENDED)
    assert world.step(1, idle) == [Remove(own)]
    world.fleet.on_done(Stop(own), now=world.now)
    assert world.fleet.total == 2, "the answer to the stop comes late and says nothing new"
    world.fleet.on_removed(own, now=world.now)
    world.fleet.on_done(Remove(own), now=world.now)
    assert world.fleet.total == 1
    assert world.kinds() == [EventType.INSTANCE_DRAINING, EventType.INSTANCE_REMOVED]


def test_a_drain_that_takes_too_long_ends():
    world = World()
    own, _ = world.served(2)
    busy = Surroundings(in_flight={own: 3}, cost_of_losing=lambda each, _: each != own)
    assert world.step(1, busy) == [] == world.step(1, busy, after=29.9)
    assert world.step(1, busy, after=0.2) == [Stop(own)]
    assert world.life(own).reason.endswith("3 requests were cut after 30 s")


def test_orders_that_fail_are_given_again_after_a_pause():
    world = World(replace(PARAMS, drain_timeout_s=0.0))
    own, _ = world.served(2)
    cheap = Surroundings(cost_of_losing=lambda each, _: each != own)
    world.step(1, cheap)
    assert world.step(1, cheap) == [Stop(own)]
    world.fleet.on_done(Stop(own), "engine down", now=world.now)
    assert world.step(1, cheap, after=0.9) == []
    assert world.step(1, cheap, after=0.2) == [Stop(own)]
    world.fleet.on_done(Stop(own), "engine down", now=world.now)
    assert world.step(1, cheap, after=1.9) == []
    assert world.step(1, cheap, after=0.2) == [Stop(own)]


def test_while_the_engine_is_away_nothing_is_ordered_and_membership_stays():
    world = World()
    own, other = world.served(2)
    away = Surroundings(may_act=False)
    assert world.step(5, away) == [] == world.step(1, away)
    assert [life.instance.id for life in world.fleet.members()] == [own, other]
    assert world.fleet.going == 0
    assert len(of(world.step(5), Start)) == 3


def test_never_more_than_the_host_has_room_for():
    world = World()
    world.served(2)
    assert len(of(world.step(9, Surroundings(room=4)), Start)) == 2
    own = next(iter(world.fleet.members())).instance.id
    world.now = 100.0
    world.fleet.on_stopping(own, 10.0, now=world.now)
    assert of(world.step(9, Surroundings(room=4)), Start) == [], (
        "one that goes takes its room until it is gone"
    )


def test_starts_work_again_once_one_has_settled():
    world = World()
    (own,) = world.served(1)
    world.fleet.starts.on_failed(now=0.0)
    world.step(1, after=59)
    assert world.fleet.starts.failed == 1
    world.step(1, after=2)
    assert world.fleet.starts.failed == 0


def test_what_the_engine_makes_for_others_is_a_failed_start():
    world = World()
    world.listed()
    (order,) = world.step(1)
    world.fleet.on_order(order.name, instance("c1", owner="them"), now=0.0)
    assert world.fleet.starts.failed == 1 and world.step(1) == []


def test_with_another_owners_name_what_there_was_is_not_ours():
    world = World()
    world.served(2)
    world.fleet.change(PARAMS, "we")
    assert world.fleet.total == 0 and world.step(1) == []
    world.listed(instance("c1"), instance("c2", owner="we"))
    assert world.step(1) == [Probe("c2")]
