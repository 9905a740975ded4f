"""What control says of endpoints, and workers of clusters, decoded: standings, circuits, queues, panic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy import scoreboard as sb
from proxy.policy.breaker import Circuit, CircuitState, Permission, permission, unpack
from proxy.policy.failures import FailureKind
from proxy.policy.health import HealthState
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
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec

_BEFORE = "since before control restarted"

KINDS = tuple(kind.value for kind in FailureKind)
"""Names of the ways to fail, in the order of their words."""


@dataclass(frozen=True, slots=True)
class StandingReading:
    """One endpoint's row of standing, and what follows from it now."""

    standing: Standing
    circuit: Circuit
    marks: Marks
    is_drained_by_operator: bool
    load: float | None
    """How busy the service says it is, 1 = full; `None` = it does not say."""
    openings_total: int
    ejections_total: int
    checks_total: int
    checks_failed_total: int

    @property
    def circuit_name(self) -> str:
        """For people: failures that have not opened a circuit yet leave it closed."""
        state = CircuitState.CLOSED if self.circuit.state.lets_pass else self.circuit.state
        return state.name.lower()

    @property
    def is_usable(self) -> bool:
        """Whether it gets requests without panic."""
        return self.standing in IN_USE

    def why(self, reasons: Mapping[str, str], veto: str = "") -> str | None:
        """Why it is not in use, in words; `reasons` are those that control remembers, `veto` is its source's."""
        found = {
            Standing.DRAINED: self._drained_why(reasons),
            Standing.CIRCUIT_OPEN: reasons.get("circuit", "its circuit opened before control restarted"),
            Standing.UNHEALTHY: veto or f"checks fail: {reasons.get('health', _BEFORE)}",
            Standing.UNCHECKED: "its first check is not over",
            Standing.OVERDUE: "its first check should be over and is not",
            Standing.EJECTED: reasons.get("ejection", "ejected before control restarted"),
            Standing.SLOW_START: "its share grows since it came, or came back",
        }
        return found.get(self.standing)

    def _drained_why(self, reasons: Mapping[str, str]) -> str:
        if self.is_drained_by_operator:
            return "by an operator"
        return f"it leaves: {reasons['leaving']}" if "leaving" in reasons else "by its own word"


def read_standing(
    board: Scoreboard, cluster: ClusterSpec, spec: EndpointSpec, *, now: float
) -> StandingReading:
    """The endpoint `spec` of `cluster`."""
    row = board.standing_row(spec.slot).tolist()
    marks = unpack_marks(row[sb.X_MARKS])
    word = row[sb.X_CIRCUIT]
    load = row[sb.X_LOAD_PERMILLE]
    return StandingReading(
        standing=standing(
            marks,
            permission(word, now),
            slow_start_s=cluster.slow_start.window_s,
            now=now,
            check_by=row[sb.X_CHECK_BY_MS] / 1000.0,
        ),
        circuit=unpack(word),
        marks=marks,
        is_drained_by_operator=bool(row[sb.X_DRAINED] & sb.BY_OPERATOR),
        load=(load - 1) / 1000.0 if load else None,
        openings_total=row[sb.X_OPENINGS],
        ejections_total=row[sb.X_EJECTIONS],
        checks_total=row[sb.X_CHECKS],
        checks_failed_total=row[sb.X_CHECKS_FAILED],
    )


def health_name(reading: StandingReading) -> str | None:
    """The state of its health; `None` = nobody asks."""
    is_checked = reading.checks_total or reading.marks.health is not HealthState.HEALTHY
    return reading.marks.health.value if is_checked else None


@dataclass(frozen=True, slots=True)
class ClusterReading:
    """A cluster's words, summed over all workers."""

    pending: int
    """Requests that wait for an endpoint."""
    retrying: int
    queued_total: int
    queue_wait_s_total: float
    queue_refused_total: int
    queue_timed_out_total: int
    queue_left_total: int
    """Requests whose client left while they waited."""
    retries_total: int
    retries_over_budget_total: int
    panic_picks_total: int
    """Requests sent to endpoints that are not ready, because too few are."""


def read_cluster(board: Scoreboard, spec: ClusterSpec) -> ClusterReading:
    """The words of `spec`."""
    words = board.cluster_sum(spec.slot)
    return ClusterReading(
        pending=words[sb.K_PENDING],
        retrying=words[sb.K_RETRYING],
        queued_total=words[sb.K_QUEUED],
        queue_wait_s_total=words[sb.K_QUEUE_WAIT_US] / 1e6,
        queue_refused_total=words[sb.K_QUEUE_REFUSED],
        queue_timed_out_total=words[sb.K_QUEUE_TIMED_OUT],
        queue_left_total=words[sb.K_QUEUE_LEFT],
        retries_total=words[sb.K_RETRIES],
        retries_over_budget_total=words[sb.K_RETRIES_OVER_BUDGET],
        panic_picks_total=words[sb.K_PANIC_PICKS],
    )


def in_panic(spec: ClusterSpec, readings: Sequence[StandingReading]) -> bool:
    """Whether too few of a cluster's endpoints are ready, and some get requests only for that."""
    standings = [reading.standing for reading in readings]
    return is_panic(standings, spec.panic) and any(one in IN_USE_IN_PANIC - IN_USE for one in standings)


def next_trial_s(readings: Sequence[StandingReading], now: float) -> float | None:
    """Seconds until an open circuit is tried, of a cluster in which all are open; `None` of any other, and when nobody
    tries any because checks fail."""
    if not are_all_open([reading.standing for reading in readings]):
        return None
    waits = [
        max(reading.circuit.until - now, 0.0)
        for reading in readings
        if is_on_trial(reading.marks, Permission.TRIAL)
    ]
    return min(waits, default=None)
