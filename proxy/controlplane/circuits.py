"""The circuit breaker of each endpoint: pybreaker decides, here its decisions become words, events and log lines.

Workers report results to control's mailbox; each is played to the endpoint's `pybreaker.CircuitBreaker` as a call that
fails or succeeds. pybreaker alone counts failures and trials and changes states; `policy.breaker` says what a word
means. Two things of pybreaker's do not suit many processes, and are kept from it:

- It measures `reset_timeout` with the wall clock, which jumps. It is never asked: the storage knows no `opened_at`, so
  an open breaker takes the next call for a trial, and a result counts as a trial only when the word's `until`, of the
  monotonic clock, has passed.
- It admits any number of trials while half open. Workers admit one at a time, by a lock.

The word is the memory: a breaker that is made anew, because control restarted or the endpoint came back, goes on from
it. How many failures in a row, or passed trials, stand behind it is not in the word; one is assumed.

When all circuits of a cluster are open, one at a time is tried sooner than `recovery_timeout` says, and when one of
them closes the others are tried at once: what opened them all is likelier something that they share.
"""

from datetime import datetime

import pybreaker

from proxy.clock import Clock
from proxy.controlplane.events import EventLog, EventType, clock_time
from proxy.controlplane.standings import Member, Standings
from proxy.policy.breaker import BreakerParams, Circuit, CircuitState, hurried_s, is_stale, unpack
from proxy.policy.failures import FailureKind
from proxy.policy.health import HealthState
from proxy.scoreboard import X_CIRCUIT, X_OPENINGS

_NAMES = {
    CircuitState.CLOSED: pybreaker.STATE_CLOSED,
    CircuitState.SUSPECT: pybreaker.STATE_CLOSED,
    CircuitState.OPEN: pybreaker.STATE_OPEN,
    CircuitState.HALF_OPEN: pybreaker.STATE_HALF_OPEN,
}


class _EndpointFailed(Exception):
    """What a failed call raises inside of pybreaker."""


def _succeed() -> None:
    pass


def _fail() -> None:
    raise _EndpointFailed


class WordStorage(pybreaker.CircuitBreakerStorage):
    """pybreaker's state of one endpoint, begun from its word."""

    def __init__(self, circuit: Circuit) -> None:
        super().__init__("word")
        self._state = _NAMES[circuit.state]
        self._failures = int(circuit.state is CircuitState.SUSPECT)
        self._passed = int(circuit.state is CircuitState.HALF_OPEN)

    @property
    def state(self) -> str:
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    def increment_counter(self) -> None:
        self._failures += 1

    def reset_counter(self) -> None:
        self._failures = 0

    def increment_success_counter(self) -> None:
        self._passed += 1

    def reset_success_counter(self) -> None:
        self._passed = 0

    @property
    def counter(self) -> int:
        return self._failures

    @property
    def success_counter(self) -> int:
        return self._passed

    @property
    def opened_at(self) -> datetime | None:
        """Unknown, always: pybreaker would compare it with the wall clock."""
        return None

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        """The word's `until` says it."""


class _Transitions(pybreaker.CircuitBreakerListener):
    """The states that a breaker went through during a call."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self.states.append(new_state.name)


class _Breaker:
    """pybreaker's breaker of one endpoint, with what it changed in the last call."""

    def __init__(self, member: Member, params: BreakerParams) -> None:
        self._transitions = _Transitions()
        self.params = params
        self.cause = "opened before control restarted"
        """Why the circuit is open."""
        self.not_before = 0.0
        """Until when the endpoint asked to be left alone."""
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=params.failure_threshold,
            reset_timeout=params.recovery_timeout_s,
            success_threshold=params.success_threshold,
            listeners=[self._transitions],
            state_storage=WordStorage(unpack(member.row[X_CIRCUIT])),
            name=member.spec.id,
            throw_new_error_on_trip=False,
        )

    def change(self, params: BreakerParams) -> None:
        """Count by other parameters from now on."""
        self.params = params
        self._breaker.fail_max = params.failure_threshold
        self._breaker.reset_timeout = params.recovery_timeout_s
        self._breaker.success_threshold = params.success_threshold

    @property
    def failures(self) -> int:
        """In a row."""
        return self._breaker.fail_counter

    @property
    def passed(self) -> int:
        """Trials in a row."""
        return self._breaker.success_counter

    @property
    def state(self) -> CircuitState:
        """As a word has it."""
        name = self._breaker.current_state
        if name == pybreaker.STATE_CLOSED:
            return CircuitState.SUSPECT if self.failures else CircuitState.CLOSED
        return CircuitState.OPEN if name == pybreaker.STATE_OPEN else CircuitState.HALF_OPEN

    def record(self, passed: bool) -> bool:
        """Play a result to the breaker; true when it went through any change of state."""
        self._transitions.states.clear()
        try:
            self._breaker.call(_succeed if passed else _fail)
        except _EndpointFailed:
            pass
        return bool(self._transitions.states)


class Circuits:
    """The circuits of all endpoints."""

    def __init__(self, standings: Standings, events: EventLog, clock: Clock) -> None:
        self._standings = standings
        self._events = events
        self._clock = clock
        self._breakers: dict[str, _Breaker] = {}
        self._failed_trials: dict[str, int] = {}
        """Clusters whose circuits are all open, and how many trials failed since."""

    def __repr__(self) -> str:
        return f"Circuits({len(self._breakers)})"

    def update(self) -> None:
        """The endpoints, or their parameters, have changed."""
        kept: dict[str, _Breaker] = {}
        for member in self._standings:
            params = member.cluster.breaker
            if not params.failure_threshold:
                self._switch_off(member)
                continue
            breaker = self._breakers.get(member.spec.id)
            if breaker is None:
                breaker = _Breaker(member, params)
            elif breaker.params != params:
                self._move_until(member, params.recovery_timeout_s - breaker.params.recovery_timeout_s)
                breaker.change(params)
            kept[member.spec.id] = breaker
        self._breakers = kept
        for name in {member.cluster.name for member in self._standings}:
            self.hurry(name)

    def on_result(
        self, member: Member, generation: int, kind: FailureKind | None, retry_after_s: int = 0
    ) -> bool:
        """Take in a result of a request that was picked under `generation`; `None` = it succeeded. Trials do not begin
        before the `retry_after_s` are over that the endpoint asks for. False when it comes too late, or too early, to
        count."""
        breaker = self._breakers.get(member.spec.id)
        word = member.row[X_CIRCUIT]
        if breaker is None or is_stale(generation, word):
            return False
        circuit = unpack(word)
        now = self._clock.monotonic()
        if not circuit.state.lets_pass and now < circuit.until:
            return False
        passed = kind is None or kind not in breaker.params.failures
        failures = breaker.failures + 1
        if not passed:
            breaker.not_before = max(breaker.not_before, now + retry_after_s)
        if breaker.record(passed):
            self._on_change(member, breaker, circuit, "" if kind is None else kind.value, failures, now)
        elif breaker.state is CircuitState.HALF_OPEN:
            member.reasons["circuit"] = self._passed_text(breaker)
        elif breaker.state is not circuit.state:
            self._standings.set_circuit(member, circuit.changed(breaker.state).pack())
        return True

    def _on_change(
        self, member: Member, breaker: _Breaker, circuit: Circuit, kind: str, failures: int, now: float
    ) -> None:
        """Write and tell what a result led to; changes on the way there, within one result, are nobody's concern."""
        state = breaker.state
        if state is CircuitState.OPEN:
            until = max(now + breaker.params.recovery_timeout_s, breaker.not_before)
            what = f"{failures} failures in a row, the last" if circuit.state.lets_pass else "a trial failed"
            breaker.cause = f"{what}: {kind}"
            text = self._open_text(breaker, until)
            member.row[X_OPENINGS] += 1
            self._write(member, circuit.changed(state, until), text, EventType.CIRCUIT_OPENED)
            self.hurry(member.cluster.name, failed_trials=int(not circuit.state.lets_pass))
        elif state is CircuitState.HALF_OPEN:
            text = self._passed_text(breaker)
            self._write(member, circuit.changed(state, circuit.until), text, EventType.CIRCUIT_HALF_OPEN)
        else:
            text = f"{breaker.params.success_threshold} trials in a row passed"
            self._write(member, circuit.changed(state), text, EventType.CIRCUIT_CLOSED)
            if self._failed_trials.pop(member.cluster.name, None) is not None:
                for other in self._standings.of_cluster(member.cluster.name):
                    self._try_by(other, now)

    def hurry(self, cluster: str, failed_trials: int = 0) -> None:
        """Have an endpoint tried soon when all circuits of `cluster` are open; `failed_trials` more have failed."""
        members = [one for one in self._standings.of_cluster(cluster) if not one.marks.is_drained]
        if not members or any(one.circuit.lets_pass for one in members):
            self._failed_trials.pop(cluster, None)
            return
        failed = self._failed_trials[cluster] = self._failed_trials.get(cluster, 0) + failed_trials
        # Nobody tries one whose checks fail.
        tried = [
            one for one in members if one.health is HealthState.HEALTHY and one.spec.id in self._breakers
        ]
        if tried:
            first = min(tried, key=lambda one: unpack(one.row[X_CIRCUIT]).until)
            params = self._breakers[first.spec.id].params
            self._try_by(first, self._clock.monotonic() + hurried_s(params, failed))

    def _try_by(self, member: Member, moment: float) -> None:
        """Let trials of an open circuit begin at `moment`, unless they may earlier, or the endpoint asked for more."""
        circuit = unpack(member.row[X_CIRCUIT])
        breaker = self._breakers.get(member.spec.id)
        moment = max(moment, breaker.not_before) if breaker is not None else moment
        if breaker is not None and circuit.state is CircuitState.OPEN and circuit.until > moment:
            member.reasons["circuit"] = self._open_text(breaker, moment)
            self._standings.set_circuit(member, Circuit(circuit.state, circuit.generation, moment).pack())

    def _open_text(self, breaker: _Breaker, until: float) -> str:
        return f"{breaker.cause}; no requests until {clock_time(self._clock, until)}, then one at a time"

    def _passed_text(self, breaker: _Breaker) -> str:
        return f"{breaker.passed} of {breaker.params.success_threshold} trials passed, one at a time"

    def _write(self, member: Member, circuit: Circuit, text: str, kind: EventType) -> None:
        member.reasons["circuit"] = text
        self._standings.set_circuit(member, circuit.pack())
        self._events.tell(kind, member.spec.id, text)

    def _move_until(self, member: Member, by_s: float) -> None:
        """The recovery timeout changed while the circuit is open: the new one counts from the same moment."""
        circuit = unpack(member.row[X_CIRCUIT])
        if circuit.state is CircuitState.OPEN and by_s:
            moved = Circuit(circuit.state, circuit.generation, max(circuit.until + by_s, 0.0))
            self._standings.set_circuit(member, moved.pack())

    def _switch_off(self, member: Member) -> None:
        """There is no circuit any more: nothing stays open, or suspicious, for good."""
        circuit = unpack(member.row[X_CIRCUIT])
        if circuit.state is CircuitState.CLOSED:
            return
        self._standings.set_circuit(member, circuit.changed(CircuitState.CLOSED).pack())
        if not circuit.state.lets_pass:
            self._events.tell(EventType.CIRCUIT_CLOSED, member.spec.id, "its breaker was switched off")
