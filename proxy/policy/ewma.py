"""A decayed average that follows peaks at once and forgets them slowly.

Why not a plain average: an endpoint that begins to hang must lose traffic after one slow answer, not after as many as
it takes to move a mean; one that recovers may prove it slowly. Source: Finagle's `PeakEwma.scala` and Linkerd's
`linkerd/ewma`. The weight of an old value depends on the time that passed, not on the number of samples, so busy and
idle endpoints forget alike.

Reads do not mutate: `value_at` projects, `add` changes.
"""

from math import exp

# Seconds after which an old value counts e⁻¹ = 37 %. Finagle's and Linkerd's default: longer than a burst or a pause
# of a garbage collector, shorter than a person's patience with an endpoint that is not tried again.
DECAY_S = 10.0


class PeakEwma:
    """The average of one endpoint, in the unit of its samples."""

    __slots__ = ("_at", "_decay_s", "_value", "is_known")

    def __init__(self, decay_s: float = DECAY_S) -> None:
        self._decay_s = decay_s
        self._value = 0.0
        self._at = 0.0
        self.is_known = False
        """Whether there was a sample."""

    def __repr__(self) -> str:
        return f"PeakEwma({self._value:.6g} at {self._at:.6g})" if self.is_known else "PeakEwma(unknown)"

    def add(self, value: float, now: float) -> None:
        """Take in a sample ≥ 0. One above the average becomes the average; one below moves it by its weight.

        With a decay of 10 s: 1.0 at 0 s, then 0.1 at 10 s gives 1.0·e⁻¹ + 0.1·(1 - e⁻¹) = 0.431; then 2.0 gives 2.0.
        Time that goes backwards counts as no time.
        """
        if not self.is_known or value >= self._value:
            self._value = value
        else:
            old = self._weight(now)
            self._value = self._value * old + value * (1.0 - old)
        self._at = max(now, self._at) if self.is_known else now
        self.is_known = True

    def value_at(self, now: float) -> float:
        """The average at `now`, decayed towards 0 since the last sample, so that nothing is held against an endpoint
        for ever; 0 when there was none."""
        return self._value * self._weight(now)

    def _weight(self, now: float) -> float:
        return exp((self._at - now) / self._decay_s) if now > self._at else 1.0
