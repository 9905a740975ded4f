"""The only place that reads the time; everything else takes a `Clock`."""

import time
from typing import Protocol


class Clock(Protocol):
    """What drivers need of time. Policies take `now` instead."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes backwards."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch, for stamps that people read."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` (≥ 0)."""
        ...


class SystemClock:
    """The clock of the machine."""

    # Bound as they are: a wrapper would cost a call on every event of the request path.
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        # Whoever sleeps has it loaded; whoever only reads the clock need not.
        import asyncio

        await asyncio.sleep(seconds)
