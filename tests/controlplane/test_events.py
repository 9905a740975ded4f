"""The ring of events and its readers."""

import asyncio

from resilience_world import Clock

from proxy.controlplane.events import BACKLOG, RING, EventLog, EventType, clock_time


def tell(log, count=1):
    for number in range(count):
        log.tell(EventType.EJECTED, "etl/a:1", f"reason {number}")


def test_readers_get_what_comes_and_what_they_missed():
    async def main():
        log = EventLog(Clock(1000.0))
        tell(log, 3)
        first = log.recent[0]
        assert first.document() == {
            "id": first.id,
            "time": "2023-11-14T22:30:00.000+00:00",
            "type": "ejected",
            "subject": "etl/a:1",
            "text": "reason 0",
        }
        fresh, back = log.subscribe(), log.subscribe(after=first.id)
        assert [event.text for event in await back.next()] == ["reason 1", "reason 2"]
        waiting = asyncio.ensure_future(fresh.next())
        await asyncio.sleep(0)
        tell(log)
        assert [event.id for event in await waiting] == [first.id + 3]
        log.unsubscribe(fresh)
        log.unsubscribe(fresh)
        tell(log)
        assert await fresh.next() == [] and len(await back.next()) == 2
        assert repr(log) == "EventLog(5 events, 1 readers)" and "0 waiting" in repr(back)

    asyncio.run(main())


def test_both_are_bounded():
    async def main():
        log = EventLog(Clock(1000.0))
        slow = log.subscribe()
        tell(log, RING + 5)
        assert len(log.recent) == RING
        assert len(await slow.next()) == BACKLOG and await slow.next() == []
        assert len(await log.subscribe(after=0).next()) == RING

    asyncio.run(main())


def test_ids_grow_over_restarts():
    clock = Clock(1000.0)
    before = EventLog(clock)
    tell(before, 10)
    clock.now += 0.1
    after = EventLog(clock)
    tell(after)
    assert after.recent[0].id > before.recent[-1].id
    assert len(clock_time(clock, 1005.0)) == len("14:03:27")
