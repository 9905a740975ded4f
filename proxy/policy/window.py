"""Sums over the last seconds, in rolling buckets.

Why buckets and not a list of samples: memory and the time to add are the same for one sample and for a million, and
what is older than the window goes away without anybody having to look. Why no running total: adding and subtracting
floats drifts, so a read adds the buckets up. Linkerd's and Finagle's windows have ten buckets too (`unified.rs`,
`WindowedAdder`).

The newest bucket is only partly over, so a sum covers between (buckets - 1)/buckets of the window and all of it.
"""

from collections.abc import Sequence

# A tenth of the window is precise enough for thresholds that are guesses themselves, and quick to add up.
BUCKETS = 10


class RollingSums:
    """Several sums over the same last `window_s` seconds, `columns` of them; whole numbers stay exact."""

    __slots__ = ("_bucket_s", "_buckets", "_columns", "_newest")

    def __init__(self, columns: int, window_s: float, buckets: int = BUCKETS) -> None:
        assert columns > 0 and window_s > 0 and buckets > 0
        self._columns = columns
        self._bucket_s = window_s / buckets
        self._buckets = [[0.0] * columns for _ in range(buckets)]
        self._newest: int | None = None
        """Number of the bucket of the last sample, counted from time 0; `None` before the first."""

    def __repr__(self) -> str:
        return f"RollingSums({self._columns} columns, {len(self._buckets)} × {self._bucket_s:g} s)"

    def add(self, values: Sequence[float], now: float) -> None:
        """Take in one sample, a value for each column. Time that goes backwards counts as no time."""
        number = int(now // self._bucket_s)
        size = len(self._buckets)
        if self._newest is None:
            self._newest = number
        elif number > self._newest:
            for stale in range(max(self._newest + 1, number - size + 1), number + 1):
                self._buckets[stale % size] = [0.0] * self._columns
            self._newest = number
        bucket = self._buckets[self._newest % size]
        for column, value in enumerate(values):
            bucket[column] += value

    def sums_at(self, now: float) -> list[float]:
        """The sum of each column. With a window of 10 s in 5 buckets, 1 added at 0, 4 and 9 s: at 9 s 3, at 10 s 2 (the
        bucket of 0 to 2 s is over), at 14 s 1, at 18 s 0. Does not mutate."""
        if self._newest is None:
            return [0.0] * self._columns
        size = len(self._buckets)
        oldest = max(int(now // self._bucket_s), self._newest) - size + 1
        found = [self._buckets[number % size] for number in range(oldest, self._newest + 1)]
        return [sum(column) for column in zip(*found, strict=True)] or [0.0] * self._columns

    def clear(self) -> None:
        """Forget everything."""
        self._newest = None
        self._buckets = [[0.0] * self._columns for _ in self._buckets]


class RollingCount:
    """One count over the last `window_s` seconds."""

    __slots__ = ("_sums",)

    def __init__(self, window_s: float, buckets: int = BUCKETS) -> None:
        self._sums = RollingSums(1, window_s, buckets)

    def __repr__(self) -> str:
        return f"RollingCount({self._sums!r})"

    def add(self, count: int, now: float) -> None:
        """Count `count` more. Time that goes backwards counts as no time."""
        self._sums.add((count,), now)

    def total_at(self, now: float) -> int:
        """The count at `now`. Does not mutate."""
        return int(self._sums.sums_at(now)[0])
