"""Results in, words out: pybreaker's decisions over one endpoint's life, with a clock of ours."""

import pytest
from resilience_world import A, B, World

from proxy.policy.breaker import Circuit, CircuitState
from proxy.policy.failures import FailureKind
from proxy.policy.health import HealthState
from proxy.scoreboard import X_CIRCUIT, X_OPENINGS

BREAKER = "circuit_breaker: {failure_threshold: 3, recovery_timeout: 10s, success_threshold: 2}"


@pytest.fixture
def world():
    return World(cluster=BREAKER)


def fail(world, times=3, endpoint=A, kind=FailureKind.CONNECT):
    return [world.result(endpoint, kind) for _ in range(times)]


def test_failures_in_a_row_open_it_and_trials_close_it(world, caplog):
    fail(world, 2)
    assert world.circuit(A) == Circuit(CircuitState.SUSPECT, 0)
    told = world.told
    fail(world, 1, kind=FailureKind.TIMEOUT)
    assert world.circuit(A) == Circuit(CircuitState.OPEN, 1, 1010.0)
    assert world.row(A)[X_OPENINGS] == 1 and world.told > told
    assert world.circuit(B) == Circuit()
    world.clock.now = 1010.0
    assert world.result(A, None)
    assert world.circuit(A) == Circuit(CircuitState.HALF_OPEN, 1, 1010.0)
    assert world.result(A, None)
    assert world.circuit(A) == Circuit(CircuitState.CLOSED, 2)
    kinds = [kind for kind, _ in world.types()]
    assert kinds == ["circuit_opened", "circuit_half_open", "circuit_closed"]
    opened = world.events.recent[0].text
    assert opened.startswith("3 failures in a row, the last: timeout; no requests until ")
    assert f"{A}: circuit opened: 3 failures" in caplog.text


def test_a_failed_trial_opens_it_anew(world):
    fail(world)
    world.clock.now = 1012.0
    assert world.result(A, FailureKind.RESET)
    assert world.circuit(A) == Circuit(CircuitState.OPEN, 2, 1022.0)
    world.clock.now = 1022.0
    world.result(A, None)
    world.result(A, FailureKind.RESET)
    assert world.circuit(A) == Circuit(CircuitState.OPEN, 3, 1032.0)
    assert world.row(A)[X_OPENINGS] == 3
    kinds = [kind for kind, _ in world.types()]
    assert kinds == ["circuit_opened", "circuit_opened", "circuit_half_open", "circuit_opened"]


def test_results_of_another_time_do_not_count(world):
    fail(world)
    assert not world.result(A, None, generation=0)
    assert not world.result(A, None), "nobody may have tried it yet"
    assert world.circuit(A).state is CircuitState.OPEN
    assert not world.resilience.on_result(7, 0, None), "nobody is there"
    assert not world.resilience.on_result(-1, 0, None)


def test_a_success_ends_the_row(world):
    fail(world, 2)
    world.result(A, None)
    assert world.circuit(A) == Circuit()
    fail(world, 2)
    assert world.circuit(A).state is CircuitState.SUSPECT


def test_the_wall_clock_does_not_matter(world, monkeypatch):
    """pybreaker asks it when it opens; nobody reads the answer."""
    fail(world)
    world.clock.now = 1010.0
    assert world.result(A, None), "ten seconds of ours have passed, none of the machine's"


def test_what_is_not_listed_is_no_failure():
    world = World(cluster="circuit_breaker: {failure_threshold: 1, failures: [timeout]}")
    world.result(A, FailureKind.STATUS)
    assert world.circuit(A) == Circuit()
    world.result(A, FailureKind.TIMEOUT)
    assert world.circuit(A).state is CircuitState.OPEN


def test_never():
    world = World(cluster="circuit_breaker: {failure_threshold: 0}")
    fail(world, 50)
    assert world.circuit(A) == Circuit() and world.types() == []


def test_control_goes_on_from_the_words(world):
    fail(world)
    fail(world, 1, endpoint=B)
    world.restart(cluster=BREAKER)
    assert world.circuit(A) == Circuit(CircuitState.OPEN, 1, 1010.0)
    assert not world.result(A, None)
    world.clock.now = 1010.0
    world.result(A, None)
    world.restart(cluster=BREAKER)
    assert world.circuit(A).state is CircuitState.HALF_OPEN
    world.result(A, None)
    assert world.circuit(A) == Circuit(CircuitState.CLOSED, 2)
    fail(world, 1, endpoint=B)
    assert world.circuit(B).state is CircuitState.SUSPECT
    fail(world, 1, endpoint=B)
    assert world.circuit(B).state is CircuitState.OPEN


def test_other_parameters(world):
    fail(world, 2)
    world.serve(cluster="circuit_breaker: {failure_threshold: 5, recovery_timeout: 10s}")
    fail(world, 2)
    assert world.circuit(A).state is CircuitState.SUSPECT
    fail(world, 1)
    world.clock.now = 1004.0
    world.serve(cluster="circuit_breaker: {failure_threshold: 5, recovery_timeout: 3s}")
    assert world.circuit(A) == Circuit(CircuitState.OPEN, 1, 1003.0)
    told = world.told
    world.serve(cluster="circuit_breaker: {failure_threshold: 0}")
    assert world.circuit(A) == Circuit(CircuitState.CLOSED, 2) and world.told > told
    assert world.types()[-1] == ("circuit_closed", A)
    world.serve(cluster=BREAKER)
    fail(world, 2)
    assert world.circuit(A).state is CircuitState.SUSPECT


def test_an_endpoint_that_leaves_and_returns_keeps_its_circuit(world):
    fail(world)
    world.serve(endpoints=("10.0.0.2:9000",), cluster=BREAKER)
    assert not world.result(A, None)
    world.serve(cluster=BREAKER)
    assert world.circuit(A) == Circuit(CircuitState.OPEN, 1, 1010.0)
    world.clock.now = 1010.0
    assert world.result(A, None)


def trial(world, endpoint, kind):
    """A trial at the moment when it is allowed."""
    world.clock.now = world.circuit(endpoint).until
    assert world.result(endpoint, kind)


def test_when_all_are_open_one_after_the_other_is_tried_soon(world):
    """After 1, 2, 4, 8 and at most 10 s; whoever would be tried first."""
    fail(world, 3)
    assert world.circuit(A).until == 1010.0
    world.clock.now = 1000.5
    fail(world, 3, endpoint=B)
    assert (world.circuit(A).until, world.circuit(B).until) == (1001.5, 1010.5)
    assert "no requests until" in world.member(A).reasons["circuit"]
    trial(world, A, FailureKind.RESET)
    assert (world.circuit(A).until, world.circuit(B).until) == (1011.5, 1003.5)
    trial(world, B, FailureKind.RESET)
    assert (world.circuit(A).until, world.circuit(B).until) == (1007.5, 1013.5)
    trial(world, A, FailureKind.RESET)
    assert (world.circuit(A).until, world.circuit(B).until) == (1017.5, 1013.5)
    trial(world, B, None)
    trial(world, B, None)
    assert world.circuit(B).state is CircuitState.CLOSED
    assert world.circuit(A).until == world.clock.now, "what was wrong with all is over"
    trial(world, A, FailureKind.RESET)
    assert world.circuit(A).until == world.clock.now + 10.0, "another one serves"


def test_who_asks_to_be_left_alone_is(world):
    """For longer than the recovery timeout, and also when nobody else is left."""
    for wait_s in (20, 3, 5):
        world.result(A, FailureKind.RATE_LIMITED, retry_after_s=wait_s)
    assert world.circuit(A) == Circuit(CircuitState.OPEN, 1, 1020.0)
    world.resilience.set_drained([world.member(B)], True)
    assert world.circuit(A).until == 1020.0
    trial(world, A, FailureKind.RESET)
    assert world.circuit(A).until < 1030.0


def test_who_is_left_by_a_drain_is_tried_soon(world):
    fail(world)
    world.resilience.set_drained([world.member(B)], True)
    assert world.circuit(A).until == 1001.0
    world.serve(cluster=BREAKER)
    assert world.circuit(A).until == 1001.0


def test_generations_start_over(world):
    row = world.row(A)
    row[X_CIRCUIT] = Circuit(CircuitState.CLOSED, (1 << 20) - 1).pack()
    fail(world)
    assert world.circuit(A) == Circuit(CircuitState.OPEN, 0, 1010.0)


def test_who_passes_its_checks_again_is_tried_soon_when_all_are_open(monkeypatch):
    """Nobody tried it while they failed."""
    monkeypatch.setattr("proxy.controlplane.health.spawn", lambda coro, name: coro.close())
    world = World(endpoints=("10.0.0.1:9000",), cluster=f"{BREAKER}, health_check: {{path: /health}}")
    world.standings.set_health(world.member(A), HealthState.UNHEALTHY)
    fail(world)
    assert world.circuit(A).until == 1010.0
    world.standings.set_health(world.member(A), HealthState.HEALTHY)
    world.resilience._prober._on_up(world.member(A))
    assert world.circuit(A).until < 1010.0
