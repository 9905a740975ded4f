"""What becomes of an endpoint: marks from several hands, and when slow start begins."""

import pytest
from resilience_world import A, B, C, World

from proxy.policy.failures import FailureKind
from proxy.policy.health import HealthState, ServiceWord
from proxy.policy.standing import Marks
from proxy.scoreboard import X_DRAINED, X_LOAD_PERMILLE

CHECKED = "health_check: {path: /health}, circuit_breaker: {failure_threshold: 1, recovery_timeout: 5s, success_threshold: 1}"  # noqa: E501


@pytest.fixture
def world(monkeypatch):
    """Without a loop: nobody checks, the test says what checks came to."""
    monkeypatch.setattr("proxy.controlplane.health.spawn", lambda coro, name: coro.close())
    return World(cluster=CHECKED)


def drain(world, endpoint_id, is_drained=True):
    return world.resilience.set_drained([world.member(endpoint_id)], is_drained)


def test_nobody_is_held_back_at_a_cold_start(world):
    assert world.marks(A) == Marks(health=HealthState.UNKNOWN)
    world.standings.set_health(world.member(A), HealthState.HEALTHY)
    assert world.marks(A) == Marks()


def test_who_comes_later_or_comes_back_warms_up(world):
    for one in (A, B):
        world.standings.set_health(world.member(one), HealthState.HEALTHY)
    world.clock.now = 1100.0
    world.serve(endpoints=("10.0.0.1:9000", "10.0.0.2:9000", "10.0.0.3:9000"), cluster=CHECKED)
    assert world.marks(C) == Marks(health=HealthState.UNKNOWN, since=1100.0)
    world.clock.now = 1103.0
    world.standings.set_health(world.member(C), HealthState.HEALTHY)
    assert world.marks(C) == Marks(since=1103.0)
    member = world.member(A)
    world.standings.set_health(member, HealthState.UNHEALTHY)
    world.clock.now = 1110.0
    world.standings.set_health(member, HealthState.HEALTHY)
    assert world.marks(A).since == 1110.0
    world.standings.set_ejected(member, True)
    assert world.marks(A) == Marks(is_ejected=True, since=1110.0)
    drain(world, A)
    world.clock.now = 1120.0
    world.standings.set_ejected(member, False)
    assert world.marks(A) == Marks(is_drained=True, since=1110.0), "still out for another reason"
    drain(world, A, False)
    assert world.marks(A) == Marks(since=1120.0)
    world.result(A, FailureKind.RESET)
    world.clock.now = 1125.0
    world.result(A, None)
    assert world.marks(A).since == 1125.0


def test_a_cluster_that_was_empty_begins(world):
    world.serve(endpoints=(), cluster=CHECKED)
    world.clock.now = 1100.0
    world.serve(endpoints=("10.0.0.3:9000",), cluster=CHECKED)
    world.standings.set_health(world.member(C), HealthState.HEALTHY)
    assert world.marks(C) == Marks()


def test_a_drain_outlives_reloads_and_control(world):
    world.standings.set_health(world.member(A), HealthState.HEALTHY)
    assert [member.spec.id for member in drain(world, A)] == [A] and drain(world, A) == []
    world.serve(cluster="")
    assert world.marks(A) == Marks(is_drained=True)
    world.restart(cluster="")
    assert world.marks(A).is_drained and world.row(A)[X_DRAINED] == 1
    drain(world, A, False)
    assert not world.marks(A).is_drained
    assert [kind for kind, _ in world.types()] == ["undrained"]


def test_the_service_says_so_itself(world):
    member = world.member(A)
    world.standings.set_health(member, HealthState.HEALTHY, ServiceWord(True, 0.25))
    assert world.marks(A).is_drained and world.row(A)[X_LOAD_PERMILLE] == 251
    world.restart(cluster=CHECKED)
    assert world.marks(A).is_drained and not world.member(A).is_drained
    world.standings.set_health(world.member(A), HealthState.HEALTHY, ServiceWord(False, 0.0))
    assert not world.marks(A).is_drained and world.row(A)[X_LOAD_PERMILLE] == 1
    world.serve(cluster="")
    assert world.row(A)[X_LOAD_PERMILLE] == 1 and world.marks(B) == Marks()


def test_the_next_control_takes_nobody_out(world):
    world.standings.set_health(world.member(A), HealthState.HEALTHY)
    world.standings.set_health(world.member(B), HealthState.UNHEALTHY)
    world.restart(cluster=CHECKED)
    assert world.marks(A) == Marks() and world.marks(B).health is HealthState.UNHEALTHY


def test_checks_that_are_new_doubt_nobody_who_serves(world):
    world.serve(cluster="")
    assert world.marks(A) == Marks()
    world.serve(cluster=CHECKED)
    assert world.marks(A) == Marks()


def test_nothing_new_is_not_told(world):
    member = world.member(A)
    world.standings.set_health(member, HealthState.HEALTHY)
    told = world.told
    world.standings.set_health(member, HealthState.HEALTHY)
    world.standings.set_ejected(member, False)
    assert world.told == told
    assert "HEALTHY" in repr(member) and repr(world.standings) == "Standings(2 endpoints)"
