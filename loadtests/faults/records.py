"""What `pace` saw: a record for each request, and what follows from many. Times are of the monotonic clock, which all
processes of a machine share."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, inf
from statistics import median

UNANSWERED = 0
"""In place of a status: no whole answer came."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request."""

    due: float
    """When it was to be sent."""
    done: float
    """When its answer was whole, or it was clear that none would come."""
    status: int
    endpoint: str
    """The one that answered, by its own word; empty when none did."""
    arrived: float
    """When that one had the request's head; 0 when none did."""
    reason: str
    """What Homeport said when it answered by itself, or what became of the connection."""

    @property
    def took_s(self) -> float:
        """Seconds from when it was due."""
        return self.done - self.due

    @property
    def is_failed(self) -> bool:
        """Anything but a whole 200."""
        return self.status != 200


class Records:
    """Many of them, in no order."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._all = tuple(records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def where(self, condition: Callable[[Record], bool]) -> "Records":
        """Those for which `condition` holds."""
        return Records(filter(condition, self._all))

    def due_between(self, begin: float, end: float = inf) -> "Records":
        """Those that were to be sent then."""
        return self.where(lambda one: begin <= one.due < end)

    @property
    def failed(self) -> "Records":
        """Those without a whole 200."""
        return self.where(lambda one: one.is_failed)

    def percentile_ms(self, percent: float) -> float:
        """Milliseconds that so many of them took at most; 0 when there are none."""
        ordered = sorted(one.took_s for one in self._all)
        return ordered[max(ceil(len(ordered) * percent / 100.0), 1) - 1] * 1000.0 if ordered else 0.0

    @property
    def p99_ms(self) -> float:
        """The 99th percentile."""
        return self.percentile_ms(99.0)

    def slice_p99_ms(self, slice_s: float = 1.0) -> float:
        """The median, over slices of time, of each slice's 99th percentile: one that other work on the machine spoils
        does not count."""
        if not self._all:
            return 0.0
        first = min(one.due for one in self._all)
        slices: dict[int, list[Record]] = {}
        for one in self._all:
            slices.setdefault(int((one.due - first) / slice_s), []).append(one)
        return median(Records(each).p99_ms for each in slices.values())

    def reasons(self) -> str:
        """What the failures were, in words."""
        found = Counter(
            f"{one.status} {one.reason}".strip() if one.status else one.reason for one in self.failed
        )
        return ", ".join(f"{count} × {name}" for name, count in found.most_common())
