"""What became of a reload, in the words that the log, the admin API and the commands all use, and who remembers it."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
class ReloadReport:
    """What a reload did."""

    outcome: ReloadOutcome
    generation: int
    """Of the snapshot that is served now."""
    changes: tuple[str, ...] = ()
    """A line for each difference to what was served before."""
    faults: tuple[Fault, ...] = ()

    def document(self) -> dict[str, Any]:
        """As the admin API has it."""
        return {
            "outcome": self.outcome.value,
            "generation": self.generation,
            "changes": list(self.changes),
            "faults": [str(fault) for fault in self.faults],
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
        if faults:
            self._refuse(Trigger.START, faults)

    def __repr__(self) -> str:
        return f"Reloads(last={self.last})"

    def tell(self, report: ReloadReport, trigger: Trigger) -> None:
        """Count, remember and log what a reload came to."""
        self._row[RELOAD_WORDS[report.outcome.value]] += 1
        if report.outcome is ReloadOutcome.REFUSED:
            self._refuse(trigger, report.faults)
            return
        self._row[C_RELOAD_REFUSED_LAST] = 0
        self._row[C_RELOADED_AT] = int(self._clock.wall())
        self._remember(report.outcome, trigger, ())
        text = f"{report.outcome.value}, generation {report.generation} ({trigger.value})"
        self._events.tell(EventType.RELOAD, "configuration", text)
        for change in report.changes:
            _log.info("reload: %s", change)

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
            "time": datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="seconds"),
            "trigger": trigger.value,
            "fault_count": len(faults),
            "fault": None if first is None else {**asdict(first), "text": str(first)},
        }
