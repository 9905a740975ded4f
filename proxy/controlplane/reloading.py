"""What became of a reload, in the words that the log, the admin API and the command all use."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from proxy.config.faults import Fault


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
