"""What became of a reload, in the words that the log, the admin API and the commands all use, and who remembers it."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from proxy.clock import Clock
from proxy.config.faults import Fault
from proxy.controlplane.events import EventLog, EventType
from proxy.scoreboard import C_RELOAD_REFUSED_LAST, C_RELOADED_AT, RELOAD_WORDS, Scoreboard

_log = logging.getLogger("homeport")


class ReloadOutcome(Enum):
    """How a reload ended."""

    APPLIED = "applied"
    """Every worker serves the new configuration."""
    UNCHANGED = "unchanged"
    """The file says what is served already."""
    REFUSED = "refused"
    """The file has faults; everything stays as it was."""
    PENDING = "pending"
    """The new configuration is served, but not by every worker yet."""


class Trigger(Enum):
    """What made control read the file; the value is for people."""

    FILE = "a file changed"
    SIGNAL = "SIGHUP"
    REQUEST = "the admin API"
    """Also `homeport reload`."""
    START = "control started"


@dataclass(frozen=True, slots=True)
class Applied:
    """The reload that brought what is served."""

    time: str
    """ISO 8601, UTC."""
    trigger: Trigger
    changes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As the admin API has it."""
        return {"time": self.time, "trigger": self.trigger.value, "changes": list(self.changes)}


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What a reload did."""

    outcome: ReloadOutcome
    generation: int
    """Of the snapshot that is served now."""
    changes: tuple[str, ...] = ()
    """A line for each difference to what was served before."""
    faults: tuple[Fault, ...] = ()
    last_applied: Applied | None = None
    """When nothing changed: what did before, since control started. Mostly a change of the file is seen before somebody
    asks for the reload."""

    def document(self) -> dict[str, Any]:
        """As the admin API has it."""
        return {
            "outcome": self.outcome.value,
            "generation": self.generation,
            "changes": list(self.changes),
            "faults": [str(fault) for fault in self.faults],
            "last_applied": None if self.last_applied is None else self.last_applied.document(),
        }


class Reloads:
    """The counts of reloads, and the last one. `faults` are those of the file that this control began with, while it
    goes on with what was served before."""

    def __init__(
        self, board: Scoreboard, events: EventLog, clock: Clock, faults: Sequence[Fault] = ()
    ) -> None:
        self._row = board.control_row
        self._events = events
        self._clock = clock
        self.last: dict[str, Any] | None = None
        """The last reload since this control started, as `/api/v1/status` has it."""
        self._applied: Applied | None = None
        if faults:
            self._refuse(Trigger.START, faults)

    def __repr__(self) -> str:
        return f"Reloads(last={self.last})"

    def tell(self, report: ReloadReport, trigger: Trigger) -> ReloadReport:
        """Count, remember and log what a reload came to; returns it with what there is to add."""
        self._row[RELOAD_WORDS[report.outcome.value]] += 1
        if report.outcome is ReloadOutcome.REFUSED:
            self._refuse(trigger, report.faults)
            return report
        self._row[C_RELOAD_REFUSED_LAST] = 0
        self._row[C_RELOADED_AT] = int(self._clock.wall())
        self._remember(report.outcome, trigger, ())
        text = f"{report.outcome.value}, generation {report.generation} ({trigger.value})"
        self._events.tell(EventType.RELOAD, "configuration", text)
        for change in report.changes:
            _log.info("reload: %s", change)
        if report.outcome is ReloadOutcome.UNCHANGED:
            return replace(report, last_applied=self._applied)
        self._applied = Applied(self._time(), trigger, report.changes)
        return report

    def _refuse(self, trigger: Trigger, faults: Sequence[Fault]) -> None:
        self._row[C_RELOAD_REFUSED_LAST] = 1
        self._remember(ReloadOutcome.REFUSED, trigger, faults)
        text = f"refused, the last configuration is served on ({trigger.value}): {faults[0]}"
        self._events.tell(EventType.RELOAD, "configuration", text, level=logging.ERROR)
        for fault in faults[1:]:
            _log.error("reload: refused also for: %s", fault)

    def _remember(self, outcome: ReloadOutcome, trigger: Trigger, faults: Sequence[Fault]) -> None:
        first = faults[0] if faults else None
        self.last = {
            "outcome": outcome.value,
            "time": self._time(),
            "trigger": trigger.value,
            "fault_count": len(faults),
            "fault": None if first is None else {**asdict(first), "text": str(first)},
        }

    def _time(self) -> str:
        return datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="seconds")
