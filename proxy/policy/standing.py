"""Whether an endpoint gets requests, when several things are true of it at once; and the panic rule. Pure.

    removed > drained > circuit open > unhealthy, not checked yet, never checked > ejected > slow start > ready

The first that holds is what an endpoint is called, in the log, the metrics and `explain`. Removal and drain are
somebody's wish, and an open circuit rests on what requests just met; they hold always. Health checks and ejections
are guesses from outside: with too few endpoints left, the likelier explanation is that the guess is wrong (a check
that asks for the wrong path, a shared database), so all are used rather than none. Source: Envoy's panic threshold;
Finagle's `PanicMode`.

Who waits for its first check is no guess that may be wrong: the answer comes in seconds, and nobody sends requests to a
service that still starts. Such endpoints count as ready for the panic rule, for most will be, and get nothing even in
panic. When the answer should have come and has not, nobody is there to ask, and they count as unhealthy ones do.

In a fleet of three with two really dead, panic sends two requests of three to dead ones; but those failures open their
circuits, which panic does not override, so it costs `failure_threshold` requests each, and they are retried.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from math import ceil, inf

from proxy.policy.breaker import Permission
from proxy.policy.health import HealthState


@dataclass(frozen=True, slots=True)
class PanicParams:
    """When health and ejection are no longer believed."""

    below_percent: float = 50.0
    """Share of endpoints that are ready, in percent, below which all are used whose circuit lets them. 0 = never: then
    with none ready every request is refused; 100 = as soon as one is not."""


class Standing(Enum):
    """What an endpoint is, in order of precedence; the value is its name for people."""

    REMOVED = "removed"
    DRAINED = "drained"
    CIRCUIT_OPEN = "circuit open"
    UNHEALTHY = "unhealthy"
    UNCHECKED = "not checked yet"
    OVERDUE = "never checked"
    """Its first check should be over: whoever checks does not."""
    EJECTED = "ejected"
    SLOW_START = "slow start"
    READY = "ready"


IN_USE = frozenset({Standing.READY, Standing.SLOW_START})
"""Gets requests."""
IN_USE_IN_PANIC = IN_USE | {Standing.UNHEALTHY, Standing.OVERDUE, Standing.EJECTED}
"""Gets requests in panic."""
WANTED = frozenset(Standing) - {Standing.REMOVED, Standing.DRAINED}
"""Is meant to get requests: what the panic rule counts."""

_FLAG_BITS = 4
_DRAINED, _UNHEALTHY, _UNCHECKED, _EJECTED = 1, 2, 4, 8
_MAX_SINCE_MS = (1 << 41) - 1


@dataclass(frozen=True, slots=True)
class Marks:
    """What control knows of an endpoint besides its circuit; fits into one word, of which 0 is ready since ever."""

    is_drained: bool = False
    """By an operator, by discovery, or by the service's own word."""
    health: HealthState = HealthState.HEALTHY
    """HEALTHY too where there are no checks."""
    is_ejected: bool = False
    since: float = 0.0
    """When it came or came back, in seconds of the monotonic clock: the start of its slow start. 0 = long ago."""

    def pack(self) -> int:
        """The word, 0 to 2⁴⁵ - 1. `since` is rounded up to a millisecond."""
        flags = _DRAINED * self.is_drained | _EJECTED * self.is_ejected
        flags |= _UNHEALTHY * (self.health is HealthState.UNHEALTHY)
        flags |= _UNCHECKED * (self.health is HealthState.UNKNOWN)
        return min(max(ceil(self.since * 1000.0), 0), _MAX_SINCE_MS) << _FLAG_BITS | flags


def unpack_marks(word: int) -> Marks:
    """The meaning of a word made by `Marks.pack`."""
    health = HealthState.HEALTHY
    if word & _UNHEALTHY:
        health = HealthState.UNHEALTHY
    elif word & _UNCHECKED:
        health = HealthState.UNKNOWN
    return Marks(bool(word & _DRAINED), health, bool(word & _EJECTED), (word >> _FLAG_BITS) / 1000.0)


def standing(
    marks: Marks,
    circuit: Permission,
    *,
    slow_start_s: float,
    now: float,
    check_by: float = inf,
    is_removed: bool = False,
) -> Standing:
    """What an endpoint is called. A circuit that allows a trial is still open: see `is_on_trial`. `check_by` is when
    the first check of one that is not checked yet is over at the latest."""
    if is_removed:
        return Standing.REMOVED
    if marks.is_drained:
        return Standing.DRAINED
    if circuit is not Permission.SEND:
        return Standing.CIRCUIT_OPEN
    if marks.health is HealthState.UNHEALTHY:
        return Standing.UNHEALTHY
    if marks.health is HealthState.UNKNOWN:
        return Standing.UNCHECKED if now < check_by else Standing.OVERDUE
    if marks.is_ejected:
        return Standing.EJECTED
    return Standing.SLOW_START if marks.since and now - marks.since < slow_start_s else Standing.READY


def is_on_trial(marks: Marks, circuit: Permission) -> bool:
    """Whether a single request may try an endpoint with an open circuit: not while its checks say that it is down."""
    return circuit is Permission.TRIAL and not marks.is_drained and marks.health is HealthState.HEALTHY


def are_all_open(standings: Iterable[Standing]) -> bool:
    """Whether nobody gets requests because every circuit is open: of those who are meant to get any."""
    wanted = [one for one in standings if one in WANTED]
    return bool(wanted) and all([one is Standing.CIRCUIT_OPEN for one in wanted])


def is_panic(standings: Iterable[Standing], params: PanicParams) -> bool:
    """Whether too few are ready. Of four endpoints and one drained: 2 of 3 ready are 67 %, no panic; 1 of 3 is one."""
    wanted = [one for one in standings if one in WANTED]
    ready = sum([one in IN_USE or one is Standing.UNCHECKED for one in wanted])
    return ready * 100.0 < params.below_percent * len(wanted)
