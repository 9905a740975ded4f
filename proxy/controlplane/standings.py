"""What becomes of an endpoint from all that is known of it: the one place that writes its marks for the workers.

An operator's drain, the word of the service itself and of whoever found it, health checks, ejections and the circuit
come from different hands; here they meet. Each change is a word in the endpoint's row of standing and then one more in
`C_STANDINGS`, so workers that look at that word alone miss nothing. The words outlive this process: what a control
finds there it goes on from.

Slow start begins when an endpoint joins others: when it is new in a cluster that had endpoints, and whenever it comes
back from being drained, down, ejected or shut off by its circuit. A cluster that begins has nobody to be held back for.
"""

from collections.abc import Iterable, Iterator, Mapping, Set

from proxy.clock import Clock
from proxy.config.endpoints import called
from proxy.policy.breaker import CircuitState, unpack
from proxy.policy.health import NO_WORD, HealthState, ServiceWord
from proxy.policy.standing import Marks, unpack_marks
from proxy.scoreboard import (
    BY_OPERATOR,
    BY_SOURCE,
    C_STANDINGS,
    X_CHECK_BY_MS,
    X_CIRCUIT,
    X_DRAINED,
    X_LOAD_PERMILLE,
    X_MARKS,
    Scoreboard,
)
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot

START_S = 30.0
"""Seconds in which an instance that has just been started may fail its checks: it is waited for, and not believed to be
down."""


class Member:
    """One endpoint as control knows it."""

    __slots__ = (
        "cluster", "health", "is_drained", "is_draining_itself", "is_ejected", "is_leaving", "reasons", "row",
        "since", "spec", "was_usable",
    )  # fmt: skip

    def __init__(self, cluster: ClusterSpec, spec: EndpointSpec, board: Scoreboard) -> None:
        """What its row of standing says: that of before, or what `Standings.announce` wrote."""
        self.cluster = cluster
        self.spec = spec
        self.row = board.standing_row(spec.slot)
        marks = unpack_marks(self.row[X_MARKS])
        self.is_drained = bool(self.row[X_DRAINED] & BY_OPERATOR)
        """By an operator."""
        self.is_leaving = bool(self.row[X_DRAINED] & BY_SOURCE)
        """Its source says so."""
        self.is_draining_itself = marks.is_drained and not self.row[X_DRAINED]
        """Its health check's answer says so."""
        self.health = marks.health
        self.is_ejected = marks.is_ejected
        self.since = marks.since
        self.reasons: dict[str, str] = {}
        """Why its circuit is open, its checks fail, it is ejected, it leaves: by `circuit`, `health`, `ejection`,
        `leaving`."""
        self.was_usable = self.is_usable

    def __repr__(self) -> str:
        return f"Member({self.spec.id!r}, {self.marks}, {self.circuit.name})"

    @property
    def marks(self) -> Marks:
        """What workers are told."""
        health = HealthState.UNHEALTHY if self.spec.veto else self.health
        return Marks(self._gets_nothing_new, health, self.is_ejected, self.since)

    @property
    def circuit(self) -> CircuitState:
        """The state in its word."""
        return unpack(self.row[X_CIRCUIT]).state

    @property
    def may_be_ejected(self) -> bool:
        """Whether it gets requests as far as anything but ejection goes."""
        is_healthy = self.health is HealthState.HEALTHY and not self.spec.veto
        return not self._gets_nothing_new and is_healthy and self.circuit.lets_pass

    @property
    def is_usable(self) -> bool:
        """Whether it gets requests."""
        return self.may_be_ejected and not self.is_ejected

    @property
    def _gets_nothing_new(self) -> bool:
        return self.is_drained or self.is_leaving or self.is_draining_itself

    def write_drains(self) -> None:
        """Note who drains it, for the next control and for people."""
        self.row[X_DRAINED] = BY_OPERATOR * self.is_drained | BY_SOURCE * self.is_leaving


class Standings:
    """The endpoints of the present snapshot."""

    def __init__(self, board: Scoreboard, clock: Clock) -> None:
        self._board = board
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._by_slot: dict[int, Member] = {}
        self._by_cluster: dict[str, list[Member]] = {}

    def __repr__(self) -> str:
        return f"Standings({len(self._members)} endpoints)"

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, endpoint_id: str) -> Member | None:
        """The endpoint of that id."""
        return self._members.get(endpoint_id)

    def in_slot(self, slot: int) -> Member | None:
        """The endpoint in that row of the scoreboard."""
        return self._by_slot.get(slot)

    def of_cluster(self, name: str) -> list[Member]:
        """The endpoints of a cluster."""
        return self._by_cluster.get(name, [])

    def announce(self, snapshot: Snapshot, known: Set[str], checked: Mapping[str, float]) -> None:
        """Write the words of endpoints that `snapshot` brings and whose ids are not `known`, before anybody is told of
        them.

        `checked` are the clusters with health checks: their endpoints wait for the first one, which takes up to so many
        seconds.
        """
        begun = {endpoint_id.partition("/")[0] for endpoint_id in known}
        drained = set(snapshot.drained_endpoints)
        now = self._clock.monotonic()
        for cluster in snapshot.clusters:
            since = now if cluster.name in begun else 0.0
            health = HealthState.UNKNOWN if cluster.name in checked else HealthState.HEALTHY
            for spec in cluster.endpoints:
                if spec.id not in known:
                    row = self._board.standing_row(spec.slot)
                    is_drained = spec.id in drained or called(cluster.name, spec) in drained
                    row[X_DRAINED] = BY_OPERATOR * is_drained | BY_SOURCE * bool(spec.leaving)
                    if spec.instance and not unpack(row[X_CIRCUIT]).state.lets_pass:
                        # It was away, so it was started again: what it did before says nothing about it.
                        row[X_CIRCUIT] = unpack(row[X_CIRCUIT]).changed(CircuitState.CLOSED).pack()
                    told = HealthState.UNHEALTHY if spec.veto else health
                    marks = Marks(bool(row[X_DRAINED]), told, since=since)
                    start_s = START_S if spec.instance else 0.0
                    row[X_CHECK_BY_MS] = int((now + start_s + checked.get(cluster.name, 0.0)) * 1000.0)
                    row[X_MARKS] = marks.pack()
                    row[X_LOAD_PERMILLE] = 0
        self._tell()

    def update(self, snapshot: Snapshot) -> None:
        """These are the endpoints from now on, announced before; those that stay keep what is known of them."""
        members: dict[str, Member] = {}
        for cluster in snapshot.clusters:
            for spec in cluster.endpoints:
                member = self._members.get(spec.id)
                if member is None:
                    member = Member(cluster, spec, self._board)
                member.cluster, member.spec = cluster, spec
                members[spec.id] = member
                self.refresh(member)
        self._members = members
        self._by_slot = {member.spec.slot: member for member in members.values()}
        self._by_cluster = {
            cluster.name: [members[spec.id] for spec in cluster.endpoints] for cluster in snapshot.clusters
        }

    def set_health(self, member: Member, state: HealthState, word: ServiceWord = NO_WORD) -> None:
        """What its checks came to; HEALTHY with `NO_WORD` where there are none any more."""
        member.row[X_LOAD_PERMILLE] = 0 if word.load is None else 1 + round(word.load * 1000.0)
        member.health = state
        member.is_draining_itself = word.is_draining
        self.refresh(member)

    def set_ejected(self, member: Member, is_ejected: bool) -> None:
        """What outlier detection says."""
        member.is_ejected = is_ejected
        self.refresh(member)

    def set_drained(self, members: Iterable[Member], is_drained: bool) -> list[Member]:
        """What an operator wishes; returns those for which that is new."""
        changed = [member for member in members if member.is_drained is not is_drained]
        for member in changed:
            member.is_drained = is_drained
            member.write_drains()
            self.refresh(member)
        return changed

    def set_leaving(self, member: Member, why: str) -> bool:
        """What its source says: why it gets nothing new; empty = it may. Returns whether that is new."""
        member.reasons.pop("leaving", None)
        if why:
            member.reasons["leaving"] = why
        if member.is_leaving is bool(why):
            return False
        member.is_leaving = bool(why)
        member.write_drains()
        self.refresh(member)
        return True

    def set_circuit(self, member: Member, word: int) -> None:
        """What the circuit breaker says."""
        if member.row[X_CIRCUIT] != word:
            member.row[X_CIRCUIT] = word
            self.refresh(member)
            self._tell()

    def refresh(self, member: Member) -> None:
        """Tell the workers what became of an endpoint, if anything did."""
        is_usable = member.is_usable
        if is_usable and not member.was_usable and not self._is_first_check_of_many(member):
            member.since = self._clock.monotonic()
        member.was_usable = is_usable
        word = member.marks.pack()
        if member.row[X_MARKS] != word:
            member.row[X_MARKS] = word
            self._tell()

    def _is_first_check_of_many(self, member: Member) -> bool:
        """Whether it only waited for its first check, in a cluster that began with it."""
        marks = unpack_marks(member.row[X_MARKS])
        return marks.health is HealthState.UNKNOWN and not marks.since

    def _tell(self) -> None:
        self._board.control_row[C_STANDINGS] += 1
