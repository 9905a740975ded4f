"""When a child process that died starts again, and which one hangs. Pure; the parent acts on it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartParams:
    """How eagerly a process that died is started again."""

    first_pause_s: float = 0.25
    """Pause before the second start in a row of a process that does not stay alive; doubles with each."""
    max_pause_s: float = 30.0
    """Longest pause between two starts."""
    settled_after_s: float = 5.0
    """Seconds of life after which a death is an accident and no loop: the next start comes at once."""


class Restarts:
    """The pauses between the starts of one process: none after an accident, doubling ones in a crash loop."""

    __slots__ = ("_params", "_short_lives")

    def __init__(self, params: RestartParams = RestartParams()) -> None:
        self._params = params
        self._short_lives = 0

    def __repr__(self) -> str:
        return f"Restarts({self._short_lives} short lives)"

    def on_death(self, lived_s: float) -> float:
        """Seconds until the next start. With the defaults, deaths after 9, 1, 1, 1 s give 0, 0, 0.25, 0.5 s."""
        if lived_s >= self._params.settled_after_s:
            self._short_lives = 0
            return 0.0
        self._short_lives += 1
        if self._short_lives == 1:
            return 0.0
        return min(self._params.first_pause_s * 2.0 ** (self._short_lives - 2), self._params.max_pause_s)


@dataclass(frozen=True, slots=True)
class PulseParams:
    """When a process without a heartbeat is taken as stuck."""

    stopped_s: float = 0.3
    """Silence of a process that the kernel says is stopped: two heartbeats, and no doubt about it."""
    silent_s: float = 0.5
    """Silence of one that burns CPU all the while."""
    burnt_s: float = 0.4
    """CPU seconds used since the last heartbeat that tell an endless loop from a process that gets no CPU."""
    blocked_s: float = 10.0
    """Silence of one that does neither: it may wait for a disk, or for its turn on a busy machine."""
    start_s: float = 30.0
    """Time from the start to the first heartbeat."""
    look_s: float = 0.15
    """Silence that the time between two looks counts for at most. Whoever looks late was kept from running too, perhaps
    with the whole machine, and the silence may be nobody's fault."""


class Pulse:
    """Watches the heartbeat of one process.

    Silence alone is no proof: on a machine with more work than cores a healthy process may get no CPU for a second, and
    killing it would cut all its connections. So silence counts when the process is stopped, when it used CPU all the
    time without coming round, or when it has lasted very long.
    """

    __slots__ = ("_beat_ms", "_burnt_at_beat_s", "_looked_at", "_params", "_silent_s")

    def __init__(self, started_at: float, params: PulseParams = PulseParams()) -> None:
        self._params = params
        self._beat_ms = 0
        self._burnt_at_beat_s = 0.0
        self._silent_s = 0.0
        self._looked_at = started_at

    def __repr__(self) -> str:
        return f"Pulse(beat_ms={self._beat_ms}, silent_s={self._silent_s:.3f})"

    def is_stuck(self, beat_ms: int, *, burnt_s: float, is_stopped: bool, now: float) -> bool:
        """Whether the process should be replaced. To be asked several times within `stopped_s`.

        `beat_ms` is its last heartbeat, 0 before the first; `burnt_s` its CPU time so far, in seconds.
        """
        params = self._params
        gap, self._looked_at = now - self._looked_at, now
        if beat_ms != self._beat_ms:
            self._beat_ms, self._burnt_at_beat_s, self._silent_s = beat_ms, burnt_s, 0.0
            return False
        self._silent_s += min(max(gap, 0.0), params.look_s)
        silent_s = self._silent_s
        if not beat_ms:
            return silent_s >= params.start_s
        if is_stopped and silent_s >= params.stopped_s:
            return True
        if silent_s >= params.silent_s and burnt_s - self._burnt_at_beat_s >= params.burnt_s:
            return True
        return silent_s >= params.blocked_s
