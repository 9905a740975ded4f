"""Two Homeports with one name at one engine: one acts."""

import pytest
from fake_engine import api_error, run

from proxy.drivers.lease import LEASE_S, RENEW_S, Lease
from proxy.errors import EngineUnavailable

IMAGE = "query:1"


def leases(world, *holders):
    return [
        Lease(world.driver.engine, owner="homeport", holder=holder, clock=world.clock) for holder in holders
    ]


def test_the_first_holds_it_and_keeps_it():
    async def test(world):
        one, two = leases(world, "one", "two")
        assert await one.hold(IMAGE) and one.is_held
        for _ in range(10):
            assert not await two.hold(IMAGE) and not two.is_held
            world.clock.now += RENEW_S
            assert await one.hold(IMAGE)
        assert repr(one) == "<Lease of homeport: held>" and repr(two) == "<Lease of homeport: not held>"
        assert await world.driver.list() == ()
        assert not world.engine.names("start")

    run(test)


def test_one_that_says_nothing_loses_it():
    async def test(world):
        one, two = leases(world, "one", "two")
        assert await one.hold(IMAGE)
        assert not await two.hold(IMAGE)
        world.clock.now += LEASE_S - 0.5
        assert not await two.hold(IMAGE) and one.is_held
        world.clock.now += 0.5
        assert not one.is_held
        assert await two.hold(IMAGE)
        assert not await one.hold(IMAGE)
        assert not await one.hold(IMAGE)

    run(test)


def test_a_lease_that_was_given_up_is_free():
    async def test(world):
        one, two = leases(world, "one", "two")
        assert await one.hold(IMAGE)
        await one.release()
        await one.release()
        assert not one.is_held
        assert await two.hold(IMAGE)

    run(test)


def test_an_answer_that_got_lost_is_no_obstacle():
    async def test(world):
        (one,) = leases(world, "one")
        assert await one.hold(IMAGE)
        (again,) = leases(world, "one")  # as if the answer to its creation had never come
        assert await again.hold(IMAGE)

    run(test)


def test_a_lease_that_was_removed_by_hand_is_made_again():
    async def test(world):
        (one,) = leases(world, "one")
        assert await one.hold(IMAGE)
        world.engine.containers_by_id.clear()
        assert await one.hold(IMAGE)

    run(test)


def test_two_that_take_it_at_once():
    async def test(world):
        one, two = leases(world, "one", "two")
        world.engine.fail["inspect"] = [
            api_error(404, "No such container"),
            api_error(404, "No such container"),
        ]
        assert await one.hold(IMAGE)
        assert not await two.hold(IMAGE)

    run(test)


def test_a_holder_that_cannot_reach_the_engine_stops_believing():
    async def test(world):
        (one,) = leases(world, "one")
        assert await one.hold(IMAGE)
        world.engine.down = ConnectionRefusedError(111, "Connection refused")
        world.clock.now += LEASE_S - 0.5
        with pytest.raises(EngineUnavailable):
            await one.hold(IMAGE)
        assert one.is_held
        world.clock.now += 0.5
        assert not one.is_held

    run(test)
