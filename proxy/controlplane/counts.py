"""What sources count, in words of the scoreboard that outlive them, and this process."""

from collections.abc import Callable

from proxy.controlplane.sources import Sources
from proxy.scoreboard import (
    C_CERTIFICATE_RELOADS,
    C_CERTIFICATES_FAILING,
    C_DNS_FAILURES,
    C_DNS_LOOKUPS,
    Scoreboard,
)

_COUNTERS: dict[int, Callable[[Sources], int]] = {
    C_DNS_LOOKUPS: lambda sources: sources.resolver.lookups_total,
    C_DNS_FAILURES: lambda sources: sources.resolver.failures_total,
    C_CERTIFICATE_RELOADS: lambda sources: sources.certificates.reloads_total,
}


class SourceCounts:
    """Adds what the present sources counted to what those before them did."""

    def __init__(self, board: Scoreboard) -> None:
        self._row = board.control_row
        self._before = {word: self._row[word] for word in _COUNTERS}

    def __repr__(self) -> str:
        return f"SourceCounts({self._before})"

    def show(self, sources: Sources) -> None:
        """Write the sums, with what the present `sources` have come to."""
        self._row[C_CERTIFICATES_FAILING] = sources.certificates.failing
        for word, read in _COUNTERS.items():
            self._row[word] = self._before[word] + read(sources)

    def keep(self, sources: Sources) -> None:
        """Add up what `sources` counted, before they go."""
        for word, read in _COUNTERS.items():
            self._before[word] += read(sources)
