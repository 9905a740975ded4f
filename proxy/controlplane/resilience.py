"""All that keeps requests away from endpoints that fail: circuits, health checks, outlier detection, drains.

Each has its own module and its own idea of an endpoint; `standings` makes one of them. This is what control owns: it
starts and stops them, hands them what a snapshot changed, and results that workers report.
"""

import random
from collections.abc import Iterable, Mapping

from proxy.clock import Clock
from proxy.config.schema import Config
from proxy.controlplane.circuits import Circuits
from proxy.controlplane.events import EventLog, EventType
from proxy.controlplane.health import AT_ONCE, HealthProber
from proxy.controlplane.mail import ControlMail, Taker, taker_of_functions, taker_of_results
from proxy.controlplane.outliers import Outliers
from proxy.controlplane.standings import Member, Standings
from proxy.mailbox import Channel
from proxy.policy.breaker import CircuitState
from proxy.policy.failures import FailureKind
from proxy.scoreboard import C_RESULTS_DROPPED, Scoreboard
from proxy.snapshot import Snapshot

FIRST_CHECK_SLACK_S = 2.0
"""What a first check may take beyond its timeout: from the announcement of an endpoint until its checks begin, and
until workers know what came of it."""


class Resilience:
    """What control knows of endpoints, and does about it. `known` are the ids of endpoints whose rows the control
    before this one left; `takers` get the messages of workers that say something else, by their words."""

    def __init__(
        self,
        board: Scoreboard,
        events: EventLog,
        *,
        clock: Clock,
        rng: random.Random,
        known: Iterable[str],
        mailbox: Channel | None,
        takers: Mapping[str, Taker] | None = None,
    ) -> None:
        self._board = board
        self._events = events
        self._known = frozenset(known)
        self.standings = Standings(board, clock)
        self._circuits = Circuits(self.standings, events, clock)
        self._outliers = Outliers(board, self.standings, events, clock=clock, rng=rng)
        self._prober = HealthProber(self.standings, events, clock=clock, rng=rng, on_up=self._on_up)
        takers = {
            "result": taker_of_results(self.on_result),
            "key_function": taker_of_functions(self._on_function_off),
            **(takers or {}),
        }
        self._mail = ControlMail(mailbox, takers, self._on_dropped) if mailbox is not None else None
        self._is_reading = False

    def __repr__(self) -> str:
        return f"Resilience({self.standings!r})"

    def announce(self, config: Config, snapshot: Snapshot) -> None:
        """Before `snapshot` is published: have the words of new endpoints right."""
        rounds = 1 + sum([len(cluster.endpoints) for cluster in snapshot.clusters]) // AT_ONCE
        checked = {
            cluster.name: rounds * cluster.health_check.timeout + FIRST_CHECK_SLACK_S
            for cluster in config.clusters
            if cluster.health_check is not None
        }
        self.standings.announce(snapshot, self._known, checked)

    def update(self, config: Config, snapshot: Snapshot) -> None:
        """`snapshot`, made from `config`, is served from now on."""
        self._known = frozenset(spec.id for cluster in snapshot.clusters for spec in cluster.endpoints)
        self.standings.update(snapshot)
        self._circuits.update()
        self._outliers.update(
            {one.name: one.outlier_detection for one in config.clusters if one.outlier_detection is not None}
        )
        self._prober.update(
            {one.name: one.health_check for one in config.clusters if one.health_check is not None}
        )
        if self._mail is not None and not self._is_reading:
            self._is_reading = True
            self._mail.start()

    def stop(self) -> None:
        """Check, look and listen no more. Idempotent."""
        if self._mail is not None and self._is_reading:
            self._mail.stop()
        self._is_reading = False
        self._outliers.stop()
        self._prober.stop()

    def on_result(self, slot: int, generation: int, kind: FailureKind | None, retry_after_s: int = 0) -> bool:
        """A worker reports a result, and how long the endpoint asks to be left alone; false when it does not count."""
        member = self.standings.in_slot(slot)
        if member is None:
            return False
        is_off = not member.cluster.breaker.failure_threshold
        was_open = not member.circuit.lets_pass
        if not is_off and not self._circuits.on_result(member, generation, kind, retry_after_s):
            return False
        if was_open and member.circuit is CircuitState.CLOSED:
            self._outliers.forgive(member)
        self._outliers.on_result(member, kind is not None and kind in member.cluster.breaker.failures)
        return True

    def set_drained(self, members: list[Member], is_drained: bool) -> list[Member]:
        """An operator drains endpoints, or ends that; returns those for which that is new."""
        changed = self.standings.set_drained(members, is_drained)
        for member in changed:
            kind = EventType.DRAINED if is_drained else EventType.UNDRAINED
            self._events.tell(kind, member.spec.id, "by an operator")
        for name in {member.cluster.name for member in changed}:
            self._circuits.hurry(name)  # those that are left may all be open
        return changed

    def set_leaving(self, departures: Mapping[str, str]) -> None:
        """Sources say why endpoints get nothing new from now on, by id; all others that sources found may."""
        for member in self.standings:
            if not member.spec.source:
                continue
            why = departures.get(member.spec.id, "")
            if self.standings.set_leaving(member, why):
                kind = EventType.DRAINED if why else EventType.UNDRAINED
                self._events.tell(kind, member.spec.id, why or f"by {member.spec.source}")
                self._circuits.hurry(member.cluster.name)

    def reasons(self) -> Mapping[str, Mapping[str, str]]:
        """Why endpoints are what they are, in words, by id: see `Member.reasons`."""
        return {member.spec.id: dict(member.reasons) for member in self.standings if member.reasons}

    def _on_up(self, member: Member) -> None:
        self._outliers.forgive(member)
        # Nobody tried its circuit while its checks failed; it may be the one to be tried now.
        self._circuits.hurry(member.cluster.name)

    def _on_function_off(self, name: str, worker: int, why: str) -> None:
        text = f"worker {worker} finds no data keys by it any more: {why}"
        self._events.tell(EventType.KEY_FUNCTION_OFF, f"function {name}", text)

    def _on_dropped(self) -> None:
        self._board.control_row[C_RESULTS_DROPPED] += 1
