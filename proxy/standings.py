"""Which endpoints of a cluster get requests, read from the words that control writes, and kept until they change.

Control adds one to a single word after each change, so a pick looks at one word instead of all. The order between
words is not kept by every processor, times pass, and control may be silent, so everything is looked at again every
`LOOK_S` in any case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from proxy.endpoint import Endpoint
from proxy.policy.breaker import (
    CONTROL_SILENT_S,
    LocalCircuit,
    Permission,
    generation_of,
    is_reported,
    is_stale,
    permission,
    unpack,
)
from proxy.policy.failures import FailureKind
from proxy.policy.slow_start import odds
from proxy.policy.standing import (
    IN_USE,
    IN_USE_IN_PANIC,
    Marks,
    Standing,
    are_all_open,
    is_on_trial,
    is_panic,
    standing,
    unpack_marks,
)
from proxy.scoreboard import C_HEARTBEAT_MS, C_STANDINGS, X_CHECK_BY_MS, X_CIRCUIT, X_MARKS, Scoreboard
from proxy.snapshot import ClusterSpec

# Seconds that a picture is believed at most while no word says that it is old.
LOOK_S = 0.02

_READY = Marks()


@dataclass(frozen=True, slots=True)
class View:
    """A picture of a cluster."""

    usable: tuple[Endpoint, ...] = ()
    """Who gets requests, in the cluster's order."""
    trials: tuple[tuple[Endpoint, float], ...] = ()
    """Who may be tried by single requests, and since when."""
    ramping: tuple[tuple[Endpoint, float], ...] = ()
    """Those of `usable` that are in slow start, and since when."""
    in_panic: bool = False
    """Some of `usable` are so only because too few are ready."""
    until: float = inf
    """When a time passes that changes it."""
    trial_at: float = inf
    """When the next circuit may be tried."""
    are_all_open: bool = False
    """Nobody is usable because every circuit is open."""
    unchecked: tuple[Endpoint, ...] = ()
    """Who is usable as soon as its first check has passed."""


class Standings:
    """The present view of a cluster's endpoints."""

    __slots__ = ("_control_row", "_endpoints", "_spec", "_was_silent", "_words", "look_at", "seen", "view")

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._control_row = scoreboard.control_row
        self._endpoints: Sequence[Endpoint] = ()
        self._spec = ClusterSpec("")
        self._words = [-1]
        self._was_silent = False
        self.view = View()
        self.look_at = -inf
        """When to look again in any case."""
        self.seen = 0
        """Control's count of changes at the last look."""

    def __repr__(self) -> str:
        return f"Standings({self.view})"

    def update(self, spec: ClusterSpec, endpoints: Sequence[Endpoint]) -> None:
        """Go on with what a snapshot says."""
        self._spec = spec
        self._endpoints = endpoints
        self.expire()

    def expire(self) -> None:
        """Have the view made anew."""
        self._words = [-1]
        self.look_at = -inf

    def look(self, now: float) -> bool:
        """Bring the view up to date; whether it is another one."""
        row = self._control_row
        self.seen = row[C_STANDINGS]
        silent_s = now - row[C_HEARTBEAT_MS] / 1000.0
        is_silent = silent_s > CONTROL_SILENT_S
        words = [word for one in self._endpoints for word in (one.standing[X_CIRCUIT], one.standing[X_MARKS])]
        is_same = words == self._words and is_silent == self._was_silent and now < self.view.until
        if not is_same:
            self._words, self._was_silent = words, is_silent
            self.view = self._made(words, silent_s, now)
        self.look_at = min(now + LOOK_S, self.view.until)
        return not is_same

    def _made(self, words: list[int], silent_s: float, now: float) -> View:
        spec = self._spec
        until = trial_at = inf
        standings: list[Standing] = []
        trials: list[tuple[Endpoint, float]] = []
        ramping: list[tuple[Endpoint, float]] = []
        unchecked: list[Endpoint] = []
        for endpoint, word, marks_word in zip(self._endpoints, words[::2], words[1::2], strict=True):
            endpoint.generation = generation_of(word)
            marks = unpack_marks(marks_word) if marks_word else _READY
            allowed = self._permission(endpoint, word, silent_s, now)
            check_by = endpoint.standing[X_CHECK_BY_MS] / 1000.0
            what = standing(marks, allowed, slow_start_s=spec.slow_start.window_s, now=now, check_by=check_by)
            standings.append(what)
            if is_on_trial(marks, allowed):
                trials.append((endpoint, unpack(word).until))
            elif allowed is Permission.REFUSE:
                # The end of our own refusal is not in the word; what was decided so is looked at with every look.
                at = unpack(word).until
                until = min(until, at if at > now else now + LOOK_S)
                if not marks.is_drained:
                    trial_at = min(trial_at, max(at, now))
            elif what is Standing.SLOW_START:
                ramping.append((endpoint, marks.since))
                until = min(until, marks.since + spec.slow_start.window_s)
            elif what is Standing.UNCHECKED:
                unchecked.append(endpoint)
                until = min(until, check_by)
        in_use = IN_USE_IN_PANIC if is_panic(standings, spec.panic) else IN_USE
        usable = []
        for endpoint, what in zip(self._endpoints, standings, strict=True):
            endpoint.is_usable = what in in_use
            if endpoint.is_usable:
                usable.append(endpoint)
        return View(
            usable=tuple(usable),
            trials=tuple(trials),
            ramping=tuple(ramping),
            in_panic=any(what in in_use and what not in IN_USE for what in standings),
            until=until,
            trial_at=now if trials else trial_at,
            are_all_open=are_all_open(standings),
            unchecked=tuple(unchecked),
        )

    def _permission(self, endpoint: Endpoint, word: int, silent_s: float, now: float) -> Permission:
        if endpoint.local is None:
            return permission(word, now)
        return endpoint.local.permission(word, self._spec.breaker, control_silent_s=silent_s, now=now)

    def record(
        self, endpoint: Endpoint, generation: int, kind: FailureKind | None, retry_after_s: int, *, now: float
    ) -> dict[str, str | int] | None:
        """Take in a result of a request picked under `generation`. The message for control, with the failure's word,
        empty for a success; `None` = it need not know."""
        word = endpoint.standing[X_CIRCUIT]
        is_passed = kind is None or kind not in self._spec.breaker.failures
        if not is_passed:
            if endpoint.local is None:
                endpoint.local = LocalCircuit()
            endpoint.local.record(False, generation, word, now=now)
            if self._was_silent:
                self.expire()
        elif endpoint.local is not None and not is_stale(generation, word):
            endpoint.local = None
            if self._was_silent:
                self.expire()
        if not is_reported(is_passed, word):
            return None
        failure = "" if kind is None or is_passed else kind.value
        message: dict[str, str | int] = {"result": endpoint.spec.slot, "circuit": generation, "kind": failure}
        if retry_after_s and failure:
            message["retry_after"] = retry_after_s
        return message

    def shares(self, now: float) -> dict[Endpoint, float]:
        """The odds, up to 1, with which those in slow start, of which there are some, are among the candidates of a
        pick."""
        ramping = self.view.ramping
        shares = odds(self._spec.slow_start, [now - since for _, since in ramping], len(self.view.usable))
        return {endpoint: share for (endpoint, _), share in zip(ramping, shares, strict=True)}
