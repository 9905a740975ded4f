"""Which endpoints of a cluster get requests: circuits, trials, health, panic, slow start; and what control is told."""

from collections import Counter

import pytest
from support.fleet import Fleet, World, cluster, endpoint, three

from proxy.cluster import TRIAL_PATIENCE_S
from proxy.errors import Reason, RoutingError
from proxy.model import NO_FACTS, Outcome, RequestFacts
from proxy.policy.balancer import BALANCERS
from proxy.policy.breaker import CONTROL_SILENT_S, BreakerParams, Circuit, CircuitState
from proxy.policy.failures import FailureKind
from proxy.policy.health import HealthState
from proxy.policy.slow_start import SlowStartParams
from proxy.policy.standing import Marks, PanicParams
from proxy.scoreboard import E_FAILURE_KINDS, E_IN_FLIGHT, E_TRIALS, K_PANIC_PICKS, X_CHECK_BY_MS
from proxy.snapshot import StickySpec
from proxy.standings import LOOK_S
from proxy.trials import VERDICT_S

OPEN = Circuit(CircuitState.OPEN, 1, until=100.0)
HALF_OPEN = Circuit(CircuitState.HALF_OPEN, 1)
DOWN = Marks(health=HealthState.UNHEALTHY)
RESET = FailureKind.RESET


@pytest.fixture
def world():
    made = World(now=50.0)
    made.beat()
    return made


def end(lease, now, kind=None):
    lease.release(Outcome.OK if kind is None else Outcome.UPSTREAM_FAILED, kind, now=now)


def names(one, count, now, **more):
    """Who gets so many requests, one after the other."""
    found = ""
    for _ in range(count):
        lease = one.acquire(NO_FACTS, now=now, **more)
        found += lease.endpoint.spec.name
        lease.release(Outcome.CLIENT_GONE, None, now=now)
    return found


def refusal(one, now, **more):
    with pytest.raises(RoutingError) as caught:
        one.acquire(NO_FACTS, now=now, **more)
    return caught.value


@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize(
    "said",
    [
        {"circuit": OPEN},
        {"marks": DOWN},
        {"marks": Marks(is_drained=True)},
        {"marks": Marks(is_ejected=True)},
    ],
)
def test_who_is_not_in_use_gets_nothing(world, balancer, said):
    """From the pick after control said so on; and again when it says otherwise."""
    one = Fleet(1, world).apply(three(balancer))
    assert set(names(one, 60, 50.0)) == set("abd")
    world.say(1, **said)
    assert set(names(one, 60, 50.0)) == set("ad")
    world.say(1, circuit=Circuit(), marks=Marks())
    assert set(names(one, 60, 50.0)) == set("abd")


def test_a_word_that_overtook_the_count_is_seen_within_a_tick(world):
    one = Fleet(1, world).apply(three("round_robin"))
    names(one, 1, 50.0)
    world.say(1, circuit=OPEN)
    world.scoreboard.control_row[12] -= 1
    assert "b" in names(one, 3, 50.0 + 0.9 * LOOK_S)
    assert "b" not in names(one, 3, 50.0 + LOOK_S)


def test_nothing_is_usable(world):
    one = Fleet(1, world).apply(three("round_robin"))
    for slot in range(3):
        world.say(slot, circuit=Circuit(CircuitState.OPEN, 1, until=52.5 + slot))
    error = refusal(one, 50.0)
    assert (error.reason, error.retry_after_s) == (Reason.NO_ENDPOINT, 3)
    assert str(error) == "all circuits are open, the next trial is in 3 s"
    for slot in range(3):
        world.say(slot, circuit=Circuit(), marks=Marks(is_drained=True))
    error = refusal(one, 50.0)
    assert (error.reason, error.retry_after_s) == (Reason.NO_ENDPOINT, 0)
    assert str(error) == "no endpoint is available"


def test_failed_are_not_picked_again(world):
    one = Fleet(1, world).apply(three("round_robin"))
    assert set(names(one, 6, 50.0, failed=["c/a", "c/d"])) == {"b"}
    assert refusal(one, 50.0, failed=["c/a", "c/b", "c/d"]).reason is Reason.NO_ENDPOINT


def test_panic(world):
    """With fewer than half ready, all are used whose circuit lets them."""
    fleet = Fleet(1, world)
    one = fleet.apply(three("round_robin"))
    row = fleet.scoreboard.cluster_row(1, 0)
    world.say(0, marks=DOWN)
    assert set(names(one, 6, 50.0)) == set("bd")
    assert row[K_PANIC_PICKS] == 0
    world.say(1, marks=Marks(is_ejected=True))
    assert set(names(one, 6, 50.0)) == set("abd")
    assert row[K_PANIC_PICKS] == 6
    world.say(2, circuit=OPEN)
    assert set(names(one, 6, 50.0)) == set("ab")
    one = fleet.apply(three("round_robin", of={"panic": PanicParams(below_percent=0)}))
    assert refusal(one, 50.0).reason is Reason.NO_ENDPOINT


def say_new(world, slot, check_by):
    world.scoreboard.standing_row(slot)[X_CHECK_BY_MS] = int(check_by * 1000)
    world.say(slot, marks=Marks(health=HealthState.UNKNOWN))


def test_who_is_not_checked_yet_is_waited_for(world):
    """Until it is, or should have been long ago."""
    one = Fleet(1, world).apply(three("round_robin"))
    for slot in range(3):
        say_new(world, slot, 57.0)
    assert refusal(one, 50.0).reason is Reason.OVERLOADED
    world.say(1, marks=DOWN)
    assert refusal(one, 50.0).reason is Reason.OVERLOADED  # not in panic: the others may be well
    world.say(2, marks=Marks())
    assert set(names(one, 6, 50.0)) == {"d"}
    world.say(2, marks=DOWN)
    assert set(names(one, 6, 50.0)) == {"b", "d"}  # one of three, at best
    assert set(names(one, 6, 57.0)) == {"a", "b", "d"}


def test_checks_that_nobody_makes_are_not_waited_for(world):
    one = Fleet(1, world).apply(three("round_robin"))
    for slot in range(3):
        say_new(world, slot, 57.0)
    assert refusal(one, 56.9).reason is Reason.OVERLOADED
    assert set(names(one, 6, 57.0)) == {"a", "b", "d"}


def test_sticky_clients_move_when_theirs_is_not_usable(world):
    one = Fleet(1, world).apply(three("round_robin", of={"sticky": StickySpec("hp", "s3cret")}))
    b = one.endpoints[1]
    token = one.stickiness.set_line(b, None, is_https=False).split(b"=", 1)[1].split(b";")[0]
    facts = RequestFacts(affinity=token)
    assert one.acquire(facts, now=50.0).endpoint is b
    assert one.acquire(facts, now=50.0, failed=[b.id]).endpoint is not b
    world.say(1, marks=DOWN)
    assert one.acquire(facts, now=50.0).endpoint is not b
    world.say(1, marks=Marks())
    assert one.acquire(facts, now=50.0).endpoint is b


def test_hashing_moves_only_the_keys_of_who_is_out(world):
    one = Fleet(1, world).apply(three("consistent_hashing"))
    facts = [RequestFacts(hash_key=b"key-%d" % number) for number in range(60)]

    def owners():
        leases = []
        for fact in facts:
            leases.append(one.acquire(fact, now=50.0))
            leases[-1].release(Outcome.CLIENT_GONE, None, now=50.0)
        return [lease.endpoint.spec.name for lease in leases]

    before = owners()
    world.say(1, circuit=OPEN)
    after = owners()
    assert all(new == old if old != "b" else new in "ad" for old, new in zip(before, after, strict=True))
    world.say(1, circuit=Circuit(CircuitState.CLOSED, 2))
    assert owners() == before


# --- Trials


def test_one_trial_at_a_time_over_all_workers(world):
    """When the time has come, without a word from control; then all is as control says."""
    fleets = [Fleet(worker, world) for worker in range(2)]
    first, second = (fleet.apply(three("round_robin")) for fleet in fleets)
    world.say(1, circuit=OPEN)
    assert "b" not in names(first, 6, 99.9)
    trial = first.acquire(NO_FACTS, now=100.0)
    assert (trial.endpoint.spec.name, trial.is_trial) == ("b", True)
    assert "b" not in names(first, 6, 100.0) + names(second, 6, 100.0)
    end(trial, 100.0)
    assert world.reported == [{"result": 1, "circuit": 1, "kind": ""}]
    world.say(1, circuit=HALF_OPEN)
    trial = second.acquire(NO_FACTS, now=100.1)
    assert trial.is_trial
    assert "b" not in names(first, 6, 100.1)
    world.say(1, circuit=Circuit(CircuitState.CLOSED, 2))
    assert names(first, 6, 100.2).count("b") == 2
    assert world.scoreboard.endpoint_row(0, 1)[E_TRIALS] == 1
    end(trial, 100.2)


def test_a_trial_that_is_answered_has_passed(world):
    """What follows the answer, a tunnel perhaps, may take hours: it holds up nobody, and is not told twice."""
    fleet = Fleet(0, world)
    cluster = fleet.apply(three("round_robin"))
    world.say(1, circuit=OPEN)
    trial = cluster.acquire(NO_FACTS, now=100.0)
    assert trial.is_trial and trial.is_watched
    trial.on_answer(101, None, now=100.1)
    told = [{"result": 1, "circuit": 1, "kind": ""}]
    assert world.reported == told and not trial.is_trial
    world.say(1, circuit=HALF_OPEN)
    second = cluster.acquire(NO_FACTS, now=100.2)
    assert second.is_trial
    second.on_answer(500, FailureKind.STATUS, now=100.3)
    assert second.is_trial
    end(trial, 100.4)
    assert world.reported == told
    end(second, 100.5)


def test_after_a_failed_trial_control_decides(world):
    """Nobody tries again before its word changes, or it has been silent."""
    fleets = [Fleet(worker, world) for worker in range(2)]
    first, second = (fleet.apply(three("round_robin")) for fleet in fleets)
    world.say(1, circuit=HALF_OPEN)
    end(first.acquire(NO_FACTS, now=50.0), 50.0, RESET)
    assert world.reported == [{"result": 1, "circuit": 1, "kind": "reset"}]
    assert "b" not in names(first, 6, 50.0) + names(second, 6, 50.1)
    world.say(1, circuit=Circuit(CircuitState.OPEN, 2, until=60.0))
    assert "b" not in names(first, 6, 59.9) + names(second, 6, 59.9)
    assert names(second, 1, 60.0) == "b"
    world.run(10.0)
    end(first.acquire(NO_FACTS, now=60.0), 60.0, RESET)
    world.run(1.1)  # without a word from control; an idle worker lets go too
    assert "b" in names(second, 6, world.now)
    assert VERDICT_S == 1.0


def test_control_may_decide_while_it_is_told(world):
    """It may run on the same processor as soon as the message is sent: that is the verdict that is waited for."""
    one = Fleet(0, world).apply(three("round_robin"))
    world.say(1, circuit=HALF_OPEN)
    trial = one.acquire(NO_FACTS, now=50.0)
    decided = Circuit(CircuitState.OPEN, 2, until=50.1)
    world.on_report = lambda: world.say(1, circuit=decided)
    end(trial, 50.0, RESET)
    assert one.acquire(NO_FACTS, now=50.1).is_trial


def test_a_client_that_leaves_ends_its_trial(world):
    one = Fleet(1, world).apply(three("round_robin"))
    world.say(1, circuit=HALF_OPEN)
    trial = one.acquire(NO_FACTS, now=50.0)
    trial.release(Outcome.CLIENT_GONE, RESET, now=50.0)
    assert world.reported == []
    assert one.acquire(NO_FACTS, now=50.0).is_trial


def test_requests_that_cannot_be_repeated_try_last(world):
    """Not while another would come for it; but not never, and not when there is nothing else."""
    one = Fleet(1, world).apply(three("round_robin"))
    world.say(1, circuit=OPEN)
    assert "b" not in names(one, 6, 100.0 + 0.9 * TRIAL_PATIENCE_S, may_try=False)
    assert names(one, 1, 100.0 + TRIAL_PATIENCE_S, may_try=False) == "b"
    for slot in (0, 2):
        world.say(slot, circuit=Circuit(CircuitState.OPEN, 1, until=200.0))
    world.say(1, circuit=Circuit(CircuitState.OPEN, 3, until=150.0))
    trial = one.acquire(NO_FACTS, now=150.0, may_try=False)
    assert trial.is_trial
    assert refusal(one, 150.0).reason is Reason.OVERLOADED  # it may pass: there is something to wait for
    assert refusal(one, 150.0, failed=["c/b"]).reason is Reason.NO_ENDPOINT


def test_no_trial_while_checks_fail(world):
    one = Fleet(1, world).apply(three("round_robin"))
    world.say(1, circuit=HALF_OPEN, marks=DOWN)
    assert "b" not in names(one, 6, 50.0)


def test_trials_keep_to_the_limit(world):
    one = Fleet(1, world).apply(three("round_robin", max_connections=1))
    before = [one.acquire(NO_FACTS, now=50.0) for _ in range(3)]
    world.say(1, circuit=HALF_OPEN)
    assert refusal(one, 50.0).reason is Reason.OVERLOADED
    next(lease for lease in before if lease.endpoint.spec.name == "b").release(Outcome.OK, None, now=50.0)
    assert one.acquire(NO_FACTS, now=50.0).is_trial


# --- Results


def test_what_control_is_told(world):
    """Every failure, and successes only while they change anything; with the circuit's generation at the pick."""
    fleet = Fleet(1, world)
    one = fleet.apply(cluster(endpoint("a", 3)))
    row = fleet.scoreboard.endpoint_row(1, 3)
    first = one.acquire(NO_FACTS, now=50.0)
    end(first, 50.0)
    assert world.reported == []
    late = one.acquire(NO_FACTS, now=50.0)
    end(one.acquire(NO_FACTS, now=50.0), 50.0, FailureKind.TIMEOUT)
    world.say(3, circuit=Circuit(CircuitState.SUSPECT, 4))
    end(one.acquire(NO_FACTS, now=50.0), 50.0)
    one.acquire(NO_FACTS, now=50.0).release(Outcome.OK, FailureKind.STATUS, now=50.0)
    end(late, 50.0, RESET)
    told = [(each["result"], each["circuit"], each["kind"]) for each in world.reported]
    assert told == [(3, 0, "timeout"), (3, 4, ""), (3, 4, "5xx"), (3, 0, "reset")]
    kinds = {kind: row[E_FAILURE_KINDS + index] for index, kind in enumerate(FailureKind)}
    assert {kind for kind, number in kinds.items() if number} == {
        FailureKind.TIMEOUT,
        FailureKind.STATUS,
        RESET,
    }


@pytest.mark.parametrize("outcome", [Outcome.CLIENT_GONE, Outcome.REFUSED, Outcome.UPSTREAM_FAILED])
def test_what_says_nothing_is_not_told(world, outcome):
    one = Fleet(1, world).apply(cluster(endpoint("a", 3)))
    world.say(3, circuit=Circuit(CircuitState.SUSPECT, 4))
    one.acquire(NO_FACTS, now=50.0).release(outcome, None, now=50.0)
    assert world.reported == []


def test_what_is_no_failure_of_this_cluster_counts_as_a_success(world):
    fleet = Fleet(1, world)
    one = fleet.apply(
        cluster(endpoint("a", 3), breaker=BreakerParams(failures=frozenset({FailureKind.CONNECT})))
    )
    one.acquire(NO_FACTS, now=50.0).release(Outcome.OK, FailureKind.STATUS, now=50.0)
    assert world.reported == []
    world.say(3, circuit=Circuit(CircuitState.SUSPECT, 1))
    one.acquire(NO_FACTS, now=50.0).release(Outcome.OK, FailureKind.STATUS, now=50.0)
    assert [each["kind"] for each in world.reported] == [""]


def test_when_control_is_silent_each_looks_after_itself(world):
    """Three failures in a row, and control does not answer: left alone, then tried, then back."""
    fleet = Fleet(1, world)
    params = BreakerParams(failure_threshold=3, recovery_timeout_s=10)
    one = fleet.apply(three("round_robin", of={"breaker": params}))
    world.is_control_alive = False
    for _ in range(3):
        end(one.acquire(NO_FACTS, now=50.5, failed=["c/a", "c/d"]), 50.5, RESET)
    assert "b" in names(one, 3, 50.5)  # it may just be busy
    silent = 50.0 + CONTROL_SILENT_S + 0.1
    assert "b" not in names(one, 6, silent)
    assert "b" not in names(one, 6, 60.4)
    trial = one.acquire(NO_FACTS, now=60.6)
    assert trial.is_trial
    end(trial, 60.6)
    assert names(one, 6, 60.7).count("b") == 2


def test_when_control_is_silent_failures_count_at_once(world):
    one = Fleet(1, world).apply(three("round_robin", of={"breaker": BreakerParams(failure_threshold=1)}))
    world.is_control_alive = False
    assert "b" in names(one, 3, 60.0)
    end(one.acquire(NO_FACTS, now=60.0, failed=["c/a", "c/d"]), 60.0, RESET)
    assert "b" not in names(one, 6, 60.0)


# --- Slow start


@pytest.mark.parametrize("balancer", BALANCERS)
def test_slow_start_with_every_balancer(world, balancer):
    """b came back 10 s ago, with a window of 40 s: a quarter of a third. 600 requests have a deviation of 12 at most
    (odds by hashing are those of its own keys: 200 of the 600, then a quarter of them)."""
    one = Fleet(1, world).apply(three(balancer, of={"slow_start": SlowStartParams(window_s=40)}))
    world.say(1, marks=Marks(since=40.0))

    def shares(now):
        found = Counter()
        for number in range(600):
            lease = one.acquire(RequestFacts(hash_key=b"%d" % number), now=now)
            found[lease.endpoint.spec.name] += 1
            lease.release(Outcome.CLIENT_GONE, None, now=now)
        return found["b"]

    ramped = shares(50.0)
    assert 10 <= ramped <= 100
    assert shares(80.0) >= 140


def test_nobody_is_held_back_when_all_begin(world):
    one = Fleet(1, world).apply(three("round_robin", of={"slow_start": SlowStartParams(window_s=40)}))
    for slot in range(3):
        world.say(slot, marks=Marks(since=50.0))
    assert Counter(names(one, 30, 50.0)) == {"a": 10, "b": 10, "d": 10}


def test_one_in_slow_start_is_better_than_none(world):
    one = Fleet(1, world).apply(three("round_robin", of={"slow_start": SlowStartParams(window_s=40)}))
    world.say(1, marks=Marks(since=50.0))
    assert names(one, 20, 50.0, failed=["c/a", "c/d"]) == "b" * 20


# --- Rows


def test_gauges_of_an_endpoint_that_comes_back(world):
    """Requests from before are still in flight, under another object and the same row."""
    fleet = Fleet(1, world)
    spec = cluster(endpoint("a", 0), endpoint("b", 1))
    one = fleet.apply(spec)
    row = fleet.scoreboard.endpoint_row(1, 0)
    before = [one.acquire(NO_FACTS, now=50.0, failed=["c/b"]) for _ in range(3)]
    fleet.apply(cluster(endpoint("b", 1)))
    before.pop().release(Outcome.OK, None, now=50.0)
    one = fleet.apply(spec)
    after = one.acquire(NO_FACTS, now=50.0, failed=["c/b"])
    assert after.endpoint is not before[0].endpoint
    assert row[E_IN_FLIGHT] == 3
    before.pop().release(Outcome.OK, None, now=50.0)
    after.release(Outcome.OK, None, now=50.0)
    assert row[E_IN_FLIGHT] == 1
    before.pop().release(Outcome.OK, None, now=50.0)
    assert row[E_IN_FLIGHT] == 0


def test_control_is_told_how_long_to_leave_it_alone(world):
    one = Fleet(1, world).apply(cluster(endpoint("a", 0)))
    lease = one.acquire(NO_FACTS, now=50.0)
    lease.retry_after_s = 7
    lease.release(Outcome.OK, FailureKind.RATE_LIMITED, now=50.0)
    assert world.reported == [{"result": 0, "circuit": 0, "kind": "429", "retry_after": 7}]
