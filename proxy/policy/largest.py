"""The largest value of the last seconds. Pure.

What a fleet shrinks to: a pause between two bursts must not cost the instances that the second one needs. Source: the
stabilisation window of Kubernetes' HPA; Knative's `aggregation/max/window.go` keeps its values as this does.
"""

from collections import deque


class RollingLargest:
    """The largest of the values of the last `window_s` seconds."""

    __slots__ = ("_values", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        """May be changed; what has left the window by then is gone."""
        self._values: deque[tuple[float, int]] = deque()
        """Largest first: a value that a later one reaches can never be the largest again."""

    def __repr__(self) -> str:
        return f"RollingLargest({self._values[0][1] if self._values else None} in {self.window_s:g} s)"

    def add(self, value: int, now: float) -> int:
        """Take in a value and return the largest. With a window of 10 s: 5 at 0 s is 5, 3 at 4 s is 5, 2 at 8 s is 5;
        at 10 s, with a 1, it is 3; at 14 s, with a 1, it is 2. `now` never goes backwards."""
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        self._values.append((now, value))
        while len(self._values) > 1 and self._values[0][0] <= now - self.window_s:
            self._values.popleft()
        return self._values[0][1]
