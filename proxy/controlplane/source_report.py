"""How a source of endpoints fares: events when it begins and ceases to fail, counts, and a line in the status.

The counts are words of the scoreboard, which outlive this process.
"""

import asyncio
from typing import Any

from proxy.clock import Clock
from proxy.controlplane.events import EventLog, EventType
from proxy.scoreboard import D_ANSWERS, D_FAILING, D_FAILURES, Scoreboard, discovery_word


class SourceReport:
    """What became of asking one source. `kind` is docker, dns or file; `cluster` is whose endpoints it finds, empty =
    those of several."""

    def __init__(self, kind: str, cluster: str, board: Scoreboard, events: EventLog, clock: Clock) -> None:
        self.kind = kind
        self.cluster = cluster
        self._row = board.control_row
        self._events = events
        self._clock = clock
        self._answered = asyncio.Event()
        self._problem = ""
        self._since = clock.monotonic()

    def __repr__(self) -> str:
        return f"<SourceReport of {self._subject}: {self.state}>"

    @property
    def state(self) -> str:
        """asking (for the first time), up or failing."""
        if self._problem:
            return "failing"
        return "up" if self._answered.is_set() else "asking"

    @property
    def _subject(self) -> str:
        return f"discovery {self.kind}" + (f" of {self.cluster}" if self.cluster else "")

    def begin(self) -> None:
        """Something else is asked from now on."""
        self._answered.clear()

    async def answered(self) -> None:
        """Wait until it has been asked once, with success or not."""
        await self._answered.wait()

    def answer(self) -> None:
        """It answered."""
        self._row[discovery_word(self.kind, D_ANSWERS)] += 1
        if self._problem:
            self._row[discovery_word(self.kind, D_FAILING)] -= 1
            failed_s = self._clock.monotonic() - self._since
            self._turn("")
            self._events.tell(EventType.SOURCE_BACK, self._subject, f"it answers, after {failed_s:.1f} s")
        elif not self._answered.is_set():
            self._turn("")
        self._answered.set()

    def failure(self, problem: str) -> None:
        """It cannot be asked: what it said last is believed on."""
        self._row[discovery_word(self.kind, D_FAILURES)] += 1
        if not self._problem:
            self._row[discovery_word(self.kind, D_FAILING)] += 1
            self._turn(problem)
            self._events.tell(EventType.SOURCE_LOST, self._subject, f"its last answer holds: {problem}")
        self._problem = problem
        self._answered.set()

    def end(self) -> None:
        """Nobody asks it any more."""
        if self._problem:
            self._row[discovery_word(self.kind, D_FAILING)] -= 1
            self._problem = ""

    def document(self) -> dict[str, Any]:
        """As the admin API has it."""
        return {
            "kind": self.kind,
            "cluster": self.cluster or None,
            "state": self.state,
            "since_s": round(self._clock.monotonic() - self._since, 3),
            "problem": self._problem or None,
        }

    def _turn(self, problem: str) -> None:
        self._problem = problem
        self._since = self._clock.monotonic()
