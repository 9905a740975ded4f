"""The processes of the daemon, as the parent's words in the scoreboard tell of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from proxy import scoreboard as sb
from proxy.model import Address
from proxy.scoreboard import Scoreboard


class State(Enum):
    """What the daemon does with new connections."""

    STARTING = "starting"
    """Not yet taking them."""
    READY = "ready"
    DRAINING = "draining"
    """No longer taking them; finishing what is in flight."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The data plane as a whole."""

    state: State
    applied_generation: int
    """Generation of the snapshot that every worker serves from; 0 = none yet."""
    serving_workers: int
    """How many serve from any."""
    listeners: tuple[tuple[str, Address], ...] = ()
    """Name and actual address (the port that was bound) of each open listener."""


# By S_STATE.
SLOT_NAMES = {
    sb.SLOT_EMPTY: "empty",
    sb.SLOT_SERVING: "serving",
    sb.SLOT_RETIRING: "retiring",
    sb.SLOT_WAITING: "waiting",
}
_STATES = {
    sb.STATE_STARTING: State.STARTING,
    sb.STATE_RUNNING: State.READY,
    sb.STATE_DRAINING: State.DRAINING,
}


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """One process: control, or whoever is in a worker slot."""

    name: str
    """`control` or `worker-N`."""
    pid: int | None
    """`None` between two lives."""
    state: str
    started_s: float
    """Start of the present or last life, in seconds of the monotonic clock."""
    starts_total: int
    stuck_total: int
    """Times it was killed because it hung."""
    last_exit_code: int
    """Of the last life that ended; −N for signal N."""


def read_control(board: Scoreboard) -> ProcessReading:
    """The control process."""
    row = board.parent_row
    pid = row[sb.P_CONTROL_PID]
    return ProcessReading(
        name="control",
        pid=pid or None,
        state="serving" if pid else "waiting",
        started_s=row[sb.P_CONTROL_STARTED_MS] / 1000,
        starts_total=row[sb.P_CONTROL_STARTS],
        stuck_total=row[sb.P_CONTROL_STUCK],
        last_exit_code=row[sb.P_CONTROL_EXIT],
    )


def read_worker_process(board: Scoreboard, worker: int) -> ProcessReading:
    """Whoever is, or was, in worker slot `worker`."""
    row = board.slot_row(worker)
    return ProcessReading(
        name=f"worker-{worker}",
        pid=row[sb.S_PID] or None,
        state=SLOT_NAMES[row[sb.S_STATE]],
        started_s=row[sb.S_STARTED_MS] / 1000,
        starts_total=row[sb.S_STARTS],
        stuck_total=row[sb.S_STUCK],
        last_exit_code=row[sb.S_EXIT],
    )


def live_workers(board: Scoreboard) -> Sequence[int]:
    """The worker slots with a process in them, or one about to be."""
    return [each for each in board.used_workers if board.slot_row(each)[sb.S_STATE] != sb.SLOT_EMPTY]


def worker_report(board: Scoreboard, listeners: tuple[tuple[str, Address], ...] = ()) -> WorkerReport:
    """The data plane as a whole, with the addresses that the parent said it bound."""
    row = board.parent_row
    slots = [each for each in live_workers(board) if board.slot_row(each)[sb.S_STATE] != sb.SLOT_RETIRING]
    generations = [board.worker_row(each)[sb.W_GENERATION] for each in slots]
    is_complete = len(slots) >= row[sb.P_WANTED_WORKERS] > 0
    applied = min(generations, default=0) if is_complete else 0
    return WorkerReport(_STATES[row[sb.P_STATE]], applied, sum(each > 0 for each in generations), listeners)
