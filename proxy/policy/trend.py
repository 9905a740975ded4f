"""Where a noisy figure is going: a straight line through its last values, by least squares. Pure.

Needed because an average over a minute is half a minute late, and an instance comes a start time later still. What a
line foretells from noise is noise, magnified by how far it looks ahead; so a slope counts only when it exceeds what
chance explains, and otherwise the average is the best guess.
"""

from collections import deque
from math import sqrt

# Values that are kept; more often than every 60th of the window nothing is learned.
MOST = 60
# Below this many values a slope is taken as chance.
FEWEST = 4
# Standard errors that a slope must exceed. With 15 values chance exceeds four upwards once in 1300 looks, every hour or
# so when looking every two seconds, and five once in 8000.
SIGNIFICANT = 5.0


class Trend:
    """The last `window_s` seconds of one figure."""

    __slots__ = ("_values", "_window_s")

    def __init__(self, window_s: float) -> None:
        assert window_s > 0
        self._window_s = window_s
        self._values: deque[tuple[float, float]] = deque()

    def __repr__(self) -> str:
        return f"Trend({len(self._values)} values in {self._window_s:g} s)"

    def add(self, value: float, now: float) -> None:
        """Take in the figure at `now`. Values closer than a 60th of the window to the last are left out, and so are
        those from before it."""
        if self._values and now < self._values[-1][0] + self._window_s / MOST:
            return
        self._values.append((now, value))
        while self._values[0][0] <= now - self._window_s:
            self._values.popleft()

    def rise_at(self, now: float) -> float:
        """By how much the figure rises in a second; 0 when it falls, or rises no more than chance explains.

        The slope is Σ(t - t̄)(v - v̄) / Σ(t - t̄)², its standard error the root of the mean squared residual, with n -
        2 degrees of freedom, over Σ(t - t̄)². Of 1, 2, 3, 4 in successive seconds it is 1.0; 1, 3, 1, 3 rises by 0.4 a
        second with an error of 0.57: chance.
        """
        values = [(at, value) for at, value in self._values if at > now - self._window_s]
        count = len(values)
        if count < FEWEST:
            return 0.0
        mean_at = sum(at for at, _ in values) / count
        mean = sum(value for _, value in values) / count
        spread = sum((at - mean_at) ** 2 for at, _ in values)
        slope = sum((at - mean_at) * (value - mean) for at, value in values) / spread
        residual = sum((value - mean - slope * (at - mean_at)) ** 2 for at, value in values)
        error = sqrt(residual / (count - 2) / spread)
        return slope if slope > SIGNIFICANT * error else 0.0
