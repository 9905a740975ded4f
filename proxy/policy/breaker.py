"""What workers need to know of an endpoint's circuit: one word, and what to do when nobody keeps it up to date. Pure.

The state machine is pybreaker's, in control: it alone counts over all workers, decides and writes the word; workers
read it with every pick. So a worker that starts late, or was slow to be told, still obeys at once. What is here is the
glue: the word, what it allows, which results are worth a message, and which come too late to count.

    state       CLOSED     requests go
                SUSPECT    requests go; there are failures in a row, so successes are reported too, to end the row
                OPEN       no requests until `until`, then one trial at a time
                HALF_OPEN  a trial passed, more are wanted: one at a time
    generation  grows with each change between "requests go" and "they do not" (gobreaker's idea): a result of a request
                that began under another generation says nothing about the present one and is dropped
    until       when trials may begin, in milliseconds of the monotonic clock, which all processes share

A word of 0, which is what new memory holds, is a closed circuit.
"""

from dataclasses import dataclass
from enum import Enum
from math import ceil

from proxy.policy.failures import EVERY_KIND, FailureKind


@dataclass(frozen=True, slots=True)
class BreakerParams:
    """When an endpoint's circuit opens, and for how long."""

    failure_threshold: int = 5
    """Failures in a row, over all workers, that open the circuit. 0 = never; 1 = a single lost connection does."""
    recovery_timeout_s: float = 60.0
    """Seconds refused before one trial request is let through; less when no other circuit is closed, see `hurried_s`.
    Short ones try a dead endpoint often, with a client's request each time; long ones keep a recovered one out."""
    success_threshold: int = 3
    """Trials in a row, one at a time, that must pass before the circuit closes, ≥ 1."""
    half_open_max_trials: int = 1
    """Trials at once over all workers, ≥ 1."""
    failures: frozenset[FailureKind] = EVERY_KIND
    """What counts as a failure. Anything else that was answered counts as a success."""


class CircuitState(Enum):
    """The state in the word; pybreaker's, and whether failures are outstanding."""

    CLOSED = 0
    SUSPECT = 1
    OPEN = 2
    HALF_OPEN = 3

    @property
    def lets_pass(self) -> bool:
        """Whether ordinary requests go."""
        return self.value <= 1


_STATES = tuple(CircuitState)
# 41 bits of milliseconds are 69 years of uptime; 20 bits of generations are a million changes, of which only the last
# few can have requests in flight.
_STATE_BITS = 2
_GENERATION_BITS = 20
_UNTIL_BITS = 41
_STATE_MASK = (1 << _STATE_BITS) - 1
_GENERATION_MASK = (1 << _GENERATION_BITS) - 1
_UNTIL_SHIFT = _STATE_BITS + _GENERATION_BITS
_MAX_UNTIL_MS = (1 << _UNTIL_BITS) - 1


@dataclass(frozen=True, slots=True)
class Circuit:
    """The meaning of a word."""

    state: CircuitState = CircuitState.CLOSED
    generation: int = 0
    """0 to 2²⁰ - 1, then 0 again."""
    until: float = 0.0
    """Seconds of the monotonic clock; of no meaning unless OPEN or HALF_OPEN."""

    def pack(self) -> int:
        """The word, 0 to 2⁶³ - 1. `until` is rounded up to a millisecond, so that nobody is let through too early."""
        until_ms = min(max(ceil(self.until * 1000.0), 0), _MAX_UNTIL_MS)
        return until_ms << _UNTIL_SHIFT | self.generation << _STATE_BITS | self.state.value

    def changed(self, state: CircuitState, until: float = 0.0) -> "Circuit":
        """The circuit in another state. A suspicion, or its end, leaves the generation: requests in flight count. So
        does a trial that passed: others may be in flight."""
        is_same = state.lets_pass == self.state.lets_pass and state is not CircuitState.OPEN
        generation = self.generation if is_same else (self.generation + 1) & _GENERATION_MASK
        return Circuit(state, generation, until)


def unpack(word: int) -> Circuit:
    """The meaning of `word`."""
    return Circuit(_STATES[word & _STATE_MASK], generation_of(word), (word >> _UNTIL_SHIFT) / 1000.0)


def generation_of(word: int) -> int:
    """The generation that a pick remembers, and that its result is reported with."""
    return word >> _STATE_BITS & _GENERATION_MASK


def is_stale(generation: int, word: int) -> bool:
    """Whether a result of a request picked under `generation` comes too late to count."""
    return generation != generation_of(word)


def is_reported(passed: bool, word: int) -> bool:
    """Whether control is told of a result: of every failure, and of successes while they change anything.

    A success that ends before the other worker's failure is in the word goes unreported, so a row may be counted a few
    milliseconds longer than it was.
    """
    return not passed or word & _STATE_MASK != 0


# Seconds until the first trial when every circuit of a cluster is open.
FIRST_TRIAL_S = 1.0


def hurried_s(params: BreakerParams, failed_trials: int) -> float:
    """Seconds until the next trial in a cluster whose circuits are all open, after so many trials in a row that failed:
    1, 2, 4 and so on, at most `recovery_timeout_s`.

    Waiting spares an endpoint at the others' cost. With no others it spares nobody and refuses everybody; and five bad
    requests that were tried at each endpoint open all circuits of a fleet that is well.
    """
    return min(params.recovery_timeout_s, FIRST_TRIAL_S * 2.0 ** min(failed_trials, 32))


class Permission(Enum):
    """What a circuit allows."""

    SEND = "send"
    TRIAL = "trial"
    """Send if no other trial is in flight: the caller takes the lock of this endpoint's trials, or leaves it."""
    REFUSE = "refuse"


def permission(word: int, now: float) -> Permission:
    """What `word` allows at `now`."""
    if not word & 2:
        return Permission.SEND
    return Permission.REFUSE if now * 1000.0 < word >> _UNTIL_SHIFT else Permission.TRIAL


# Silence of control after which a worker looks after itself. Control beats every 100 ms or so; one that the machine
# gives no CPU for a while is not dead, and its word is still the best there is.
CONTROL_SILENT_S = 1.0


class LocalCircuit:
    """One worker's own count of an endpoint's failures, for when control is silent.

    While control beats, its word alone decides. When it is silent, an endpoint that this worker saw fail
    `failure_threshold` times in a row is left alone for `recovery_timeout_s` after the last failure, then tried once at
    a time; one success ends it. What was counted under an earlier generation does not count: control knew of it.
    """

    __slots__ = ("_failed_at", "_failures", "_generation")

    def __init__(self) -> None:
        self._failures = 0
        self._failed_at = 0.0
        self._generation = 0

    def __repr__(self) -> str:
        return f"LocalCircuit({self._failures} failures, generation {self._generation})"

    def record(self, passed: bool, generation: int, word: int, *, now: float) -> None:
        """Take in a result of a request that was picked under `generation`."""
        if is_stale(generation, word):
            return
        if generation != self._generation:
            self._generation, self._failures = generation, 0
        if passed:
            self._failures = 0
        else:
            self._failures += 1
            self._failed_at = now

    def permission(
        self, word: int, params: BreakerParams, *, control_silent_s: float, now: float
    ) -> Permission:
        """What `word` and the own failures allow; `control_silent_s` is the age of control's last heartbeat."""
        allowed = permission(word, now)
        if control_silent_s <= CONTROL_SILENT_S or allowed is Permission.REFUSE:
            return allowed
        if not 0 < params.failure_threshold <= self._failures or self._generation != generation_of(word):
            return allowed
        if now < self._failed_at + params.recovery_timeout_s:
            return Permission.REFUSE
        return Permission.TRIAL
