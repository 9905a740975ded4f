"""Permits over several workers, and the queue of a cluster: order, late binding, refusals, what the rows say."""

from collections import Counter
from dataclasses import replace
from math import inf
from random import Random
from types import SimpleNamespace

import pytest
from support.fleet import Fleet, World, cluster, endpoint, three

from proxy.dataplane.tries import Tries
from proxy.errors import Reason, RoutingError
from proxy.model import NO_FACTS, Outcome
from proxy.policy.admission import QueueParams
from proxy.policy.breaker import Circuit, CircuitState
from proxy.policy.standing import Marks
from proxy.scoreboard import (
    BY_OPERATOR,
    BY_SOURCE,
    C_STANDINGS,
    E_IN_FLIGHT,
    K_PENDING,
    K_QUEUE_LEFT,
    K_QUEUE_REFUSED,
    K_QUEUE_TIMED_OUT,
    K_QUEUE_WAIT_US,
    K_QUEUED,
    K_WANT_SINCE_MS,
    X_DRAINED,
    X_MARKS,
)
from proxy.snapshot import PrioritySpec
from proxy.waiting import TICK_S

QUEUE = QueueParams(timeout_s=2.0)


@pytest.fixture
def world():
    made = World(now=50.0)
    made.beat()
    return made


class Request:
    """Acquires as an exchange does, and waits if it has to."""

    def __init__(self, one, world, *, urgency=3, deadline=inf, failed=(), log=None, name=""):
        self.facts, self.failed, self.may_try = NO_FACTS, failed, True
        self.name, self.world = name, world
        self.lease = self.error = self.ticket = None
        self.log = log if log is not None else []
        self.is_inside = True
        self.is_gone = self.was_told = False
        try:
            self.lease = one.acquire(self.facts, now=world.now, failed=failed)
        except RoutingError as error:
            assert error.reason is Reason.OVERLOADED
            try:
                self.ticket = one.enqueue(self, urgency, deadline, now=world.now)
            except RoutingError as refused:
                self.error = refused
        self.is_inside = False

    def has_left(self, *, now):
        return self.is_gone

    def on_left(self):
        assert self.is_gone and self.lease is None
        self.was_told = True

    def on_admitted(self, lease):
        assert not self.is_inside and self.lease is None
        self.lease = lease
        self.log.append(self.name)

    def on_refused(self, error):
        assert not self.is_inside and self.error is None
        self.error = error

    def end(self, outcome=Outcome.OK):
        self.lease.release(outcome, None, now=self.world.now)


def one_permit(**more):
    return cluster(endpoint("a", 0, max_connections=1), queue=replace(QUEUE, **more))


def words(fleet):
    row = fleet.scoreboard.cluster_row(fleet.worker, 0)
    return row[K_PENDING], row[K_WANT_SINCE_MS], row[K_QUEUED]


def test_order_of_arrival_and_urgency(world):
    fleet = Fleet(1, world)
    one = fleet.apply(one_permit())
    log = []
    first = Request(one, world)
    waiting = [
        Request(one, world, name=name, urgency=urgency, log=log)
        for name, urgency in [("b", 3), ("c", 3), ("d", 0)]
    ]
    assert words(fleet) == (3, 50_000, 3)
    first.end()
    assert log == []  # never from inside
    for _ in range(3):
        world.turn()
        next(one for one in waiting if one.name == log[-1]).end()
    assert log == ["d", "b", "c"]
    assert words(fleet)[:2] == (0, 0)
    world.turn()
    assert one.active == 0


def test_a_new_request_does_not_overtake(world):
    """Neither who waits here, though a permit is free already, nor who waits in another worker."""
    fleets = [Fleet(worker, world) for worker in range(2)]
    one, other = (fleet.apply(one_permit()) for fleet in fleets)
    first, second = Request(one, world, name="1"), Request(one, world, name="2")
    first.end()
    third = Request(one, world)
    world.run(0.006)
    fourth = Request(other, world)
    assert second.lease and third.ticket and fourth.ticket
    second.end()
    world.turn()
    assert third.lease and not fourth.lease
    third.end()
    world.turn()
    assert fourth.lease


def test_whoever_waits_longest_over_all_workers_is_next(world):
    fleets = [Fleet(worker, world) for worker in range(2)]
    clusters = [fleet.apply(one_permit()) for fleet in fleets]
    log = []
    holder = Request(clusters[0], world)
    waiting = []
    for number in range(8):
        world.run(0.01)
        waiting.append(Request(clusters[number // 2 % 2], world, name=number, log=log))
    holder.end()
    for _ in range(8):
        world.turn()  # by message: no time passes
        waiting[log[-1]].end()
    assert log == list(range(8))
    assert world.now == pytest.approx(50.08)


def test_a_lost_message_costs_a_tick(world):
    fleets = [Fleet(worker, world) for worker in range(2)]
    clusters = [fleet.apply(one_permit()) for fleet in fleets]
    holder = Request(clusters[0], world)
    waiting = Request(clusters[1], world)
    world.turn()
    holder.end()
    world._soon.clear()
    world.run(TICK_S)
    assert waiting.lease


def test_a_worker_that_stands_still_holds_up_nobody(world):
    """Its request has waited longest, and it does not answer."""
    fleets = [Fleet(worker, world) for worker in range(2)]
    clusters = [fleet.apply(one_permit()) for fleet in fleets]
    holder = Request(clusters[1], world)
    stuck = Request(clusters[0], world)
    world.turn()
    del world.fleets[0]
    world._later.clear()
    world.run(0.1)
    mine = Request(clusters[1], world)
    holder.end()
    world.run(0.1)
    assert mine.lease and not stuck.lease


def test_what_the_eldest_cannot_use_goes_on(world):
    """It waits for another endpoint: who is next gets it without a tick."""
    fleets = [Fleet(worker, world) for worker in range(2)]
    spec = three("round_robin", max_connections=1, of={"queue": QUEUE})
    clusters = [fleet.apply(spec) for fleet in fleets]
    holders = {each.lease.endpoint.id: each for each in (Request(clusters[0], world) for _ in range(3))}
    picky = Request(clusters[1], world, failed=["c/a"])
    world.run(0.005)
    mine = Request(clusters[0], world)
    world.turn()
    holders["c/a"].end()
    world.turn()
    assert mine.lease and not picky.lease
    holders["c/b"].end()
    world.turn()
    assert picky.lease.endpoint.spec.name == "b"


def test_late_binding(world):
    """Whichever frees up first: another endpoint's permit, a new endpoint, a circuit whose time has come, a drain that
    is over, a higher limit."""
    fleet = Fleet(1, world)
    a, b = endpoint("a", 0, max_connections=1), endpoint("b", 1, max_connections=1)
    one = fleet.apply(cluster(a, b, queue=QUEUE))
    holders = [Request(one, world), Request(one, world)]
    waiting = Request(one, world)
    holders[1].end()
    world.turn()
    assert waiting.lease.endpoint is holders[1].lease.endpoint

    waiting = Request(one, world)
    assert fleet.apply(cluster(a, b, endpoint("d", 2, max_connections=1), queue=QUEUE)) is one
    world.turn()
    assert waiting.lease.endpoint.spec.name == "d"

    waiting = Request(one, world)
    assert fleet.apply(cluster(replace(a, max_connections=2), b, endpoint("d", 2), queue=QUEUE)) is one
    world.turn()
    assert waiting.lease


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"circuit": Circuit(CircuitState.OPEN, 1, until=50.5)}, {}),
        ({"marks": Marks(is_drained=True)}, {"marks": Marks()}),
        ({"marks": Marks(is_ejected=True)}, {"marks": Marks()}),
    ],
)
def test_late_binding_to_who_comes_back(world, before, after):
    fleet = Fleet(1, world)
    one = fleet.apply(
        cluster(endpoint("a", 0, max_connections=1), endpoint("b", 1, max_connections=1), queue=QUEUE)
    )
    world.say(1, **before)
    Request(one, world)
    waiting = Request(one, world)
    world.run(0.49)
    assert waiting.ticket and not waiting.lease
    if after:
        world.say(1, **after)
    world.run(0.01 + TICK_S)
    assert waiting.lease.endpoint.spec.name == "b"
    assert waiting.lease.is_trial is not bool(after)


def test_refused_at_once(world):
    """With a permit held for 1 s each, who would wait for longer than 2 s is told so, and when to come again."""
    fleet = Fleet(1, world)
    one = fleet.apply(one_permit())
    first = Request(one, world)
    world.run(1.0)
    first.end()
    Request(one, world)
    waiting = [Request(one, world) for _ in range(3)]
    assert [bool(each.ticket) for each in waiting] == [True, False, False]
    assert (waiting[1].error.reason, waiting[1].error.retry_after_s) == (Reason.OVERLOADED, 2)
    assert fleet.scoreboard.cluster_row(1, 0)[K_QUEUE_REFUSED] == 2
    assert Request(one, world, deadline=world.now + 0.5).error.retry_after_s == 2


def test_all_workers_predict_the_same(world):
    """What one worker's requests took is known to all of them, for as long as nothing newer is, also beyond the end of
    the worker; another's that begins in its slot too."""
    fleets = [Fleet(worker, world) for worker in range(2)]
    clusters = [fleet.apply(one_permit(timeout_s=3.0)) for fleet in fleets]
    first = Request(clusters[0], world)
    world.run(13.0)
    first.end()
    world.run(40.0)
    second = Request(clusters[0], world)
    refused = [Request(one, world).error for _ in range(3) for one in clusters]
    assert {(error.reason, error.retry_after_s) for error in refused} == {(Reason.OVERLOADED, 13)}
    second.end(Outcome.CLIENT_GONE)
    world.scoreboard.clear_gauges(0)
    world.beat()
    third = Request(clusters[1], world)
    for one in (clusters[1], Fleet(0, world).apply(one_permit(timeout_s=3.0))):
        assert Request(one, world).error.retry_after_s == 13
    assert third.lease


def test_what_is_in_flight_says_how_long_it_takes_at_least(world):
    """Nothing has ended yet, or nothing that took so long."""
    fleets = [Fleet(worker, world) for worker in range(2)]
    clusters = [fleet.apply(one_permit(timeout_s=3.0)) for fleet in fleets]
    for _ in range(2):
        holder = Request(clusters[0], world)
        assert Request(clusters[1], world).ticket
        world.run(5.0)
        for one in clusters:
            error = Request(one, world).error
            assert (error.reason, error.retry_after_s) == (Reason.OVERLOADED, 5)
        holder.end()
        for _ in range(100):
            short = Request(clusters[0], world)
            world.run(0.5)
            short.end()


def test_the_queue_is_bounded_over_all_workers(world):
    fleets = [Fleet(worker, world) for worker in range(2)]
    clusters = [fleet.apply(one_permit(max_pending=3)) for fleet in fleets]
    Request(clusters[0], world)
    waiting = [Request(clusters[number % 2], world, urgency=5) for number in range(4)]
    assert [bool(each.ticket) for each in waiting] == [True, True, True, False]
    urgent = Request(clusters[0], world, urgency=0)
    assert urgent.ticket and waiting[2].error is None
    world.turn()
    assert waiting[2].error.reason is Reason.OVERLOADED and waiting[2].error.retry_after_s >= 1
    assert words(fleets[0])[0] + words(fleets[1])[0] == 3


def test_nobody_waits_without_a_queue(world):
    fleet = Fleet(1, world)
    one = fleet.apply(one_permit(max_pending=0))
    Request(one, world)
    assert Request(one, world).error.reason is Reason.OVERLOADED


def test_deadlines_and_leaving(world):
    fleet = Fleet(1, world)
    one = fleet.apply(one_permit())
    holder = Request(one, world)
    late, short, left = Request(one, world), Request(one, world, deadline=50.5), Request(one, world)
    one.leave(left.ticket, world.now)
    one.leave(left.ticket, world.now)
    world.run(0.5 + TICK_S)
    assert (short.error.reason, short.error.retry_after_s) == (Reason.QUEUE_TIMEOUT, 2)
    world.run(1.5)
    assert late.error.reason is Reason.QUEUE_TIMEOUT
    row = fleet.scoreboard.cluster_row(1, 0)
    assert (row[K_QUEUE_TIMED_OUT], row[K_QUEUE_LEFT], row[K_QUEUED], row[K_PENDING]) == (2, 1, 3, 0)
    assert left.error is None and left.lease is None
    holder.end()
    assert world._later == []  # nobody waits: nothing ticks


def test_who_is_gone_at_its_turn_gets_nothing(world):
    """The next one does within a tick; also if it was left to another worker because of one that is gone."""
    fleets = [Fleet(worker, world) for worker in range(2)]
    clusters = [fleet.apply(one_permit()) for fleet in fleets]
    holder = Request(clusters[0], world)
    gone = [Request(clusters[number % 2], world) for number in range(4)]
    next_one = Request(clusters[0], world)
    world.run(0.1)
    for each in gone:
        each.is_gone = True
    holder.end()
    world.turn()
    world.run(TICK_S)
    assert next_one.lease
    assert clusters[0].active + clusters[1].active == 1
    next_one.end()
    world.turn()
    world.run(TICK_S)
    assert all(each.was_told and each.lease is None for each in gone)
    rows = [fleet.scoreboard.cluster_row(fleet.worker, 0) for fleet in fleets]
    assert [sum(row[word] for row in rows) for word in (K_QUEUE_LEFT, K_PENDING)] == [4, 0]
    assert clusters[0].active + clusters[1].active == 0


def test_the_wait_is_counted(world):
    fleet = Fleet(1, world)
    one = fleet.apply(one_permit())
    holder = Request(one, world)
    Request(one, world)
    world.run(0.25)
    holder.end()
    world.turn()
    assert fleet.scoreboard.cluster_row(1, 0)[K_QUEUE_WAIT_US] == pytest.approx(250_000)


def test_nothing_is_left_to_wait_for(world):
    fleet = Fleet(1, world)
    one = fleet.apply(one_permit())
    Request(one, world)
    waiting = Request(one, world)
    world.say(0, circuit=Circuit(CircuitState.OPEN, 1, until=51.0))
    world.run(2 * TICK_S)
    assert waiting.error is None  # it can be tried before the deadline
    world.say(0, circuit=Circuit(CircuitState.OPEN, 2, until=60.0))
    world.run(2 * TICK_S)
    assert (waiting.error.reason, waiting.error.retry_after_s) == (Reason.NO_ENDPOINT, 10)


def test_who_waits_survives_a_cluster_that_goes(world):
    """It was accepted when there was one."""
    fleet = Fleet(1, world)
    one = fleet.apply(one_permit())
    holder, waiting = Request(one, world), Request(one, world)
    fleet.apply()
    holder.end()
    world.run(TICK_S)
    assert waiting.lease
    waiting.end()
    assert fleet.scoreboard.endpoint_row(1, 0)[E_IN_FLIGHT] == 0


def test_limits_change_by_reload(world):
    """Lowered, or set where there was none: nothing new until fewer are in flight. Raised: more at once."""
    fleet = Fleet(1, world)

    def limited(limit):
        return fleet.apply(cluster(endpoint("a", 0, max_connections=limit), queue=QUEUE))

    one = limited(0)
    open_ended = [Request(one, world) for _ in range(3)]
    limited(2)
    assert Request(one, world, deadline=50.5).lease is None
    world.run(1.0)
    for each in open_ended[:2]:
        each.end()
    second = Request(one, world)
    assert second.lease
    limited(4)
    more = [Request(one, world), Request(one, world)]
    assert all(each.lease for each in more)
    limited(1)
    waiting = Request(one, world)
    for each in (*more, second):
        each.end()
        world.turn()
        assert waiting.lease is None
    open_ended[2].end()
    world.run(TICK_S)  # it had no permit to give back
    assert waiting.lease


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_storm_over_three_workers(seed):
    """Requests come, end, leave and fail at random. No endpoint ever has more than its limit, nobody is forgotten, and
    nothing is left in the end."""
    rng = Random(seed)
    world = World(workers=3, now=50.0)
    fleets = [Fleet(worker, world) for worker in range(3)]
    limits = {"a": 2, "b": 1, "d": 3}
    spec = cluster(
        *(endpoint(name, slot, max_connections=limit) for slot, (name, limit) in enumerate(limits.items())),
        balancer="least_connections",
        queue=QueueParams(timeout_s=5.0, max_pending=40),
    )
    clusters = [fleet.apply(spec) for fleet in fleets]
    world.beat()
    alive = []
    worst = Counter()
    for _ in range(3000):
        world.run(rng.choice([0.0, 0.001, 0.01]))
        running = [each for each in alive if each.lease]
        waiting = [each for each in alive if each.ticket and not each.lease and not each.error]
        if running and rng.random() < 0.45:
            each = rng.choice(running)
            each.end(rng.choice([Outcome.OK, Outcome.CLIENT_GONE]))
            alive.remove(each)
        elif waiting and rng.random() < 0.1:
            each = rng.choice(waiting)
            clusters[each.name].leave(each.ticket, world.now)
            alive.remove(each)
        elif len(alive) < 60:
            worker = rng.randrange(3)
            failed = rng.choice([(), (), (), ("c/a",), ("c/b", "c/d")])
            alive.append(
                Request(clusters[worker], world, name=worker, failed=failed, urgency=rng.randrange(8))
            )
        alive = [each for each in alive if not each.error]
        busy = Counter(each.lease.endpoint.spec.name for each in alive if each.lease)
        assert all(busy[name] <= limit for name, limit in limits.items())
        worst |= busy
    assert worst == limits
    while alive:
        for each in [each for each in alive if each.lease]:
            each.end()
            alive.remove(each)
        world.run(TICK_S)
        alive = [each for each in alive if not each.error]
    for worker in range(3):
        row = world.scoreboard.cluster_row(worker, 0)
        assert (row[K_PENDING], row[K_WANT_SINCE_MS]) == (0, 0)
        assert [world.scoreboard.endpoint_row(worker, slot)[E_IN_FLIGHT] for slot in range(3)] == [0, 0, 0]
        assert all(len(fleets[worker].locks.of(slot).permits) == 0 for slot in range(3))


def test_where_instances_are_started_requests_wait_for_the_first(world):
    fleet = Fleet(1, world)
    one = fleet.apply(cluster(queue=QUEUE, is_scaled=True))
    waiting = Request(one, world)
    assert waiting.ticket is not None
    world.run(1.0)
    assert waiting.lease is None and waiting.error is None
    fleet.apply(cluster(endpoint("a", 0), queue=QUEUE, is_scaled=True))
    world.run(0.1)
    assert waiting.lease.endpoint.id == "c/a"


def test_where_instances_are_started_a_request_waits_for_one_that_has_not_failed_it(world):
    fleet = Fleet(1, world)
    fleet.apply(cluster(endpoint("a", 0), queue=QUEUE, is_scaled=True))
    one = fleet.clusters["c"]
    assert one.is_hopeful({"c/a"})
    late = Request(one, world, failed={"c/a"})
    world.run(2.1)
    assert late.error.reason is Reason.QUEUE_TIMEOUT
    plain = fleet.apply(cluster(endpoint("a", 0), queue=QUEUE))
    assert not plain.is_hopeful({"c/a"})


def test_a_client_that_leaves_before_it_is_told_that_it_was_displaced(world):
    """Its exchange is over by then; it waited once."""
    fleet = Fleet(1, world)
    one = fleet.apply(one_permit(max_pending=1))
    Request(one, world)
    plane = SimpleNamespace(monotonic=lambda: world.now, queued={})
    exchange = SimpleNamespace(
        plane=plane,
        route=SimpleNamespace(priority=PrioritySpec(urgency=7)),
        downstream=SimpleNamespace(total_deadline=0.0),
        wait=lambda: None,
    )
    humble = Tries(exchange, one, SimpleNamespace(facts=NO_FACTS, may_try=True))
    humble.enqueue(world.now)
    world.run(1.0)
    assert Request(one, world, urgency=0).ticket
    humble.end(world.now)
    world.turn()
    assert humble.queue_s == 1.0 and not plane.queued


def test_where_instances_come_and_go_requests_wait_for_one_to_come_back(world):
    """While all that there are leave, or there is none; one that has failed is not waited for."""
    fleet = Fleet(1, world)
    one = fleet.apply(cluster(endpoint("a", 0), queue=QUEUE, is_awaited=True))
    assert not one.is_hopeful({"c/a"})
    row = world.scoreboard.standing_row(0)
    row[X_DRAINED], row[X_MARKS] = BY_OPERATOR, Marks(is_drained=True).pack()
    world.scoreboard.control_row[C_STANDINGS] += 1
    with pytest.raises(RoutingError) as caught:
        one.acquire(NO_FACTS, now=world.now)
    assert caught.value.reason is Reason.NO_ENDPOINT
    row[X_DRAINED] = BY_SOURCE
    waiting = Request(one, world)
    world.run(0.5)
    fleet.apply(cluster(queue=QUEUE, is_awaited=True))
    world.run(0.5)
    assert waiting.lease is None and waiting.error is None
    fleet.apply(cluster(endpoint("b", 1), queue=QUEUE, is_awaited=True))
    world.run(0.1)
    assert waiting.lease.endpoint.id == "c/b"
