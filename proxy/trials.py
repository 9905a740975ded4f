"""Single requests that show whether an open circuit may close: one at a time over all workers, by kernel locks."""

from proxy.endpoint import Endpoint
from proxy.policy.breaker import is_stale
from proxy.scoreboard import E_TRIALS, X_CIRCUIT
from proxy.standings import LOOK_S
from proxy.surroundings import Surroundings

# Seconds that a trial which failed is not followed by another: until control has said what comes of it, or is silent.
VERDICT_S = 1.0


class Trials:
    """The trials of one cluster's endpoints in one worker."""

    __slots__ = ("_failed", "_surroundings")

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._failed: list[tuple[Endpoint, int, int, float]] = []
        """Endpoint, number of the trial, its circuit's generation, and until when the next one is waited for."""

    def __repr__(self) -> str:
        return f"Trials({self._failed})"

    def take(self, endpoint: Endpoint, limit: int) -> int:
        """The number of a trial, of which `limit` may be at once; -1 = there is none."""
        return endpoint.locks.trials.take(limit)

    def on_begin(self, endpoint: Endpoint) -> None:
        """A trial is sent."""
        endpoint.row[E_TRIALS] += 1

    def give(self, endpoint: Endpoint, number: int) -> None:
        """Let another request try: this one was not sent, passed, or was given up."""
        endpoint.locks.trials.give(number)

    def on_failure(self, endpoint: Endpoint, number: int, generation: int, now: float) -> None:
        """A trial failed that was picked under `generation`: the next one is not before control's verdict, which begins
        another generation. It takes a moment to come, or is there already: control may run as soon as it is told."""
        self._failed.append((endpoint, number, generation, now + VERDICT_S))
        # A little later: timers may be early.
        self._surroundings.later(VERDICT_S + LOOK_S, lambda: self.look(self._surroundings.monotonic()))

    def look(self, now: float) -> None:
        """Let trials go on where control has said what comes of those that failed."""
        kept = []
        for failed in self._failed:
            endpoint, number, generation, until = failed
            if is_stale(generation, endpoint.standing[X_CIRCUIT]) or now >= until:
                self.give(endpoint, number)
            else:
                kept.append(failed)
        self._failed = kept
