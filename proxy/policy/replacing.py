"""When an instance is replaced, and when the next start may come. Pure.

Two failures that look alike need opposite answers. An instance that served well and died is replaced at once. An image
that never gets healthy would be started again as quickly as it fails, each time with everything a start costs, and
with as many at once as the scaler wants: a storm. So starts that fail in a row are followed by pauses that double, and
until one succeeds there is one start at a time, whatever the target.

The engine's own restart policy acts too: it restarts in place, which is quicker and keeps the address. Homeport lets
it, and replaces only what that does not cure.
"""

from collections import deque
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class ReplacementParams:
    """How patient a cluster is with its instances."""

    first_pause_s: float = 1.0
    """Pause after the first start that failed; it doubles with each in a row."""
    max_pause_s: float = 300.0
    """Longest pause between two starts. Long saves the host, and is what an outage lasts on after its cause is
    cured."""
    settled_after_s: float = 60.0
    """Seconds of healthy life after which a death is an accident and no failed start."""
    restart_grace_s: float = 15.0
    """Seconds without health, while it runs or restarts in place, after which an instance is replaced."""
    max_restarts: int = 3
    """Restarts in place within `restarts_window_s` that replace an instance, ≥ 1."""
    restarts_window_s: float = 300.0
    """Seconds in which restarts in place are counted."""


class Starts:
    """When instances of one cluster may be started, and how many."""

    __slots__ = ("_failed", "_next_at", "_params")

    def __init__(self, params: ReplacementParams) -> None:
        self._params = params
        self._failed = 0
        self._next_at = -inf

    def __repr__(self) -> str:
        return f"Starts({self._failed} failed in a row, next at {self._next_at:.6g})"

    @property
    def failed(self) -> int:
        """Starts that failed in a row."""
        return self._failed

    def change(self, params: ReplacementParams) -> None:
        """Go by other parameters; a pause that has begun lasts as it was meant to."""
        self._params = params

    def next_at(self) -> float:
        """When the next start may come; in the past = now, as far as pauses go."""
        return self._next_at

    def allowed(self, starting: int, *, now: float) -> int | None:
        """How many more may be started beside those that are starting; `None` = any number."""
        if not self._failed:
            return None
        return max(1 - starting, 0) if now >= self._next_at else 0

    def on_failed(self, *, now: float) -> float:
        """An instance never got healthy; returns the seconds until the next start may come.

        With the defaults failures at 0, 10, 20 and 30 s pause for 1, 2, 4 and 8 s. Those in a pause were started before
        it, together with the one that began it, and count with that one.
        """
        if now >= self._next_at:
            self._failed += 1
            # Beyond 2^63 every pause is the longest, and floats end at 2^1024.
            pause_s = self._params.first_pause_s * 2.0 ** min(self._failed - 1, 63)
            self._next_at = now + min(pause_s, self._params.max_pause_s)
        return self._next_at - now

    def on_death(self, healthy_s: float, *, now: float) -> float:
        """An instance that was healthy for `healthy_s` seconds died; returns the seconds until it may be replaced."""
        if healthy_s < self._params.settled_after_s:
            return self.on_failed(now=now)
        return max(self._next_at - now, 0.0)

    def on_settled(self) -> None:
        """An instance has been healthy for `settled_after_s`: starts work."""
        self._failed, self._next_at = 0, -inf


class Patience:
    """How long one instance that runs is waited for."""

    __slots__ = ("_ill_since", "_params", "_restarts")

    def __init__(self, params: ReplacementParams) -> None:
        self._params = params
        self._ill_since: float | None = None
        self._restarts: deque[float] = deque(maxlen=params.max_restarts)

    def __repr__(self) -> str:
        return f"Patience(ill since {self._ill_since}, {len(self._restarts)} restarts)"

    def on_healthy(self) -> None:
        """It serves. Its restarts are not forgotten: who dies every minute is healthy in between."""
        self._ill_since = None

    def on_unhealthy(self, *, now: float) -> None:
        """It fails its checks, hangs, or exited and may be restarted in place. Again and again is since the first
        time."""
        if self._ill_since is None:
            self._ill_since = now

    def on_restart(self, *, now: float) -> None:
        """The engine restarted it in place."""
        self._restarts.append(now)
        self.on_unhealthy(now=now)

    def why_replace(self, *, now: float) -> str | None:
        """Why it is not waited for any longer; `None` = it is."""
        params = self._params
        if len(self._restarts) == params.max_restarts and now - self._restarts[0] < params.restarts_window_s:
            return f"{params.max_restarts} restarts in {now - self._restarts[0]:.0f} s"
        if self._ill_since is not None and now - self._ill_since >= params.restart_grace_s:
            return f"not healthy for {now - self._ill_since:.0f} s"
        return None
