"""Outlier detection over the workers' words: who is ejected, for how long, and who never is."""

import asyncio

from resilience_world import A, B, C, World

from proxy.answer_words import latency_index
from proxy.policy.failures import FailureKind
from proxy.policy.health import HealthState
from proxy.scoreboard import E_FAILURE_KINDS, E_RETRIES, X_EJECTIONS

THREE = ("10.0.0.1:9000", "10.0.0.2:9000", "10.0.0.3:9000")
OFF = "circuit_breaker: {failure_threshold: 0}"
WATCHED = "outlier_detection: {consecutive_failures: 3, base_ejection: 20s, jitter: 0, min_requests: 5}"
BOTH = f"{WATCHED}, {OFF}"


def run(main):
    asyncio.run(asyncio.wait_for(main(), 20.0))


def answers(world, endpoint_id, count, seconds=0.01, failed=0, worker=0):
    """`count` exchanges end at an endpoint, `failed` of them with a bad status."""
    row = world.board.endpoint_row(worker, world.slots.endpoints.slot(endpoint_id))
    row[latency_index(seconds)] += count
    row[E_FAILURE_KINDS + list(FailureKind).index(FailureKind.STATUS)] += failed


async def looks(world, times=1):
    for _ in range(times):
        await world.clock.advance(1.0)


def test_failures_in_a_row_eject_at_once_and_the_next_control_goes_on():
    async def main():
        world = World(endpoints=THREE, cluster=BOTH)
        for _ in range(3):
            world.result(A)
        assert world.marks(A).is_ejected and world.row(A)[X_EJECTIONS] == 1
        assert (
            world.types() == [("ejected", A)] and "3 failures in a row; until" in world.events.recent[0].text
        )
        world.restart(endpoints=THREE, cluster=BOTH)
        assert world.marks(A).is_ejected
        await looks(world, 19)
        assert world.marks(A).is_ejected
        await looks(world, 2)
        assert not world.marks(A).is_ejected and world.types() == [("returned", A)]
        assert world.marks(A).since == 1020.0
        world.resilience.stop()

    run(main)


def test_the_next_control_knows_how_long_and_how_often():
    async def main():
        world = World(endpoints=THREE, cluster=BOTH)

        def fails():
            for _ in range(3):
                world.result(A)

        async def lasts():
            """Whole seconds until it is back."""
            for second in range(100):
                if not world.marks(A).is_ejected:
                    return second
                await looks(world)

        fails()
        assert await lasts() == 20
        fails()
        world.restart(endpoints=THREE, cluster=BOTH)
        assert await lasts() == 40, "the second one goes on"
        world.restart(endpoints=THREE, cluster=BOTH)
        fails()
        assert await lasts() == 60, "the third one comes after two"
        world.restart(endpoints=THREE, cluster=BOTH)
        await looks(world, 60)
        fails()
        assert await lasts() == 20, "all are forgotten"
        world.resilience.stop()

    run(main)


def test_a_share_of_failures_over_all_workers():
    async def main():
        world = World(endpoints=THREE, cluster=BOTH)
        await looks(world)
        for worker in (0, 1):
            answers(world, A, 20, failed=10, worker=worker)
            answers(world, B, 20, worker=worker)
            answers(world, C, 20, worker=worker)
        await looks(world)
        assert [world.marks(one).is_ejected for one in (A, B, C)] == [True, False, False]
        assert "50% of 40 requests failed" in world.events.recent[0].text
        world.resilience.stop()

    run(main)


def test_tries_that_were_repeated_elsewhere_count_where_they_failed():
    async def main():
        world = World(endpoints=THREE, cluster=BOTH)
        await looks(world)
        row = world.board.endpoint_row(0, world.slots.endpoints.slot(A))
        row[E_FAILURE_KINDS] += 6
        row[E_RETRIES] += 6
        answers(world, A, 6)
        answers(world, B, 20)
        answers(world, C, 20)
        await looks(world)
        assert "50% of 12 requests failed" in world.events.recent[0].text
        world.resilience.stop()

    run(main)


def test_slow_ones_and_never_the_last():
    async def main():
        world = World(cluster=BOTH)
        await looks(world)
        answers(world, A, 30, seconds=4.0)
        answers(world, B, 30, seconds=0.01)
        await looks(world)
        assert world.marks(A).is_ejected and "times as long as the rest" in world.events.recent[0].text
        for _ in range(9):
            world.result(B)
        assert not world.marks(B).is_ejected
        world.resilience.stop()

    run(main)


def test_what_was_counted_before_is_not_held_against_it():
    async def main():
        world = World(endpoints=THREE, cluster=OFF)
        answers(world, A, 100, failed=100)
        answers(world, B, 100)
        answers(world, C, 100)
        world.serve(endpoints=THREE, cluster=BOTH)
        await looks(world, 2)
        assert world.types() == []
        world.resilience.stop()

    run(main)


def test_who_is_out_already_is_not_ejected_and_without_detection_nobody_is():
    async def main():
        world = World(endpoints=THREE, cluster=f"{WATCHED}, circuit_breaker: {{failure_threshold: 3}}")
        for _ in range(3):
            world.result(A)
        assert world.types() == [("circuit_opened", A)], "the circuit says it already"
        world.serve(endpoints=THREE, cluster=BOTH)
        for _ in range(3):
            world.result(B)
        assert world.marks(B).is_ejected
        world.serve(endpoints=THREE, cluster="")
        assert not world.marks(B).is_ejected
        world.resilience.stop()

    run(main)


def test_any_success_ends_a_row_where_nobody_reports_them():
    async def main():
        world = World(endpoints=THREE, cluster=BOTH)
        world.result(A)
        world.result(A)
        answers(world, A, 5)
        await looks(world)
        world.result(A)
        assert not world.marks(A).is_ejected
        world.resilience.stop()

    run(main)


def test_health_forgives():
    async def main():
        world = World(endpoints=THREE, cluster=BOTH)
        world.result(A)
        world.result(A)
        world.resilience._prober._on_up(world.member(A))
        world.result(A)
        assert not world.marks(A).is_ejected and world.marks(A).health is HealthState.HEALTHY
        world.resilience.stop()

    run(main)
