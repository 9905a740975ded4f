"""The worker processes, as the parent keeps them: as many as wanted, each in a slot, replaced when dead or stuck.

    state      what is in the slot                     leaves by
    ---------  --------------------------------------  ------------------------------------------------------------
    EMPTY      nothing                                 step: SERVING, when more workers are wanted
    SERVING    a worker                                on_exit: WAITING; step: RETIRING, when fewer are wanted
    WAITING    nothing, for a pause after a crash      step: SERVING
    RETIRING   a worker that finishes what it has      on_exit: EMPTY; killed when it takes too long

A slot has a row of the scoreboard and a mailbox, which outlive the workers in it. Every worker can write to the
mailboxes of all slots, and to that of control. `step` moves what is towards what is
wanted, as often as it is called.

Standard library only: the parent imports this.
"""

import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from proxy import children
from proxy.handover import OldWorker
from proxy.mailbox import Channel, channel_pair
from proxy.model import Address
from proxy.permits import LockFiles
from proxy.policy.supervision import Pulse, Restarts
from proxy.scoreboard import (
    P_GENERATION,
    P_USED_SLOTS,
    P_WANTED_WORKERS,
    S_EXIT,
    S_PID,
    S_STARTED_MS,
    S_STARTS,
    S_STATE,
    S_STUCK,
    SLOT_EMPTY,
    SLOT_RETIRING,
    SLOT_SERVING,
    SLOT_WAITING,
    W_GENERATION,
    W_HEARTBEAT_MS,
    Scoreboard,
)

_log = logging.getLogger(__name__)

# Seconds beyond the drain timeout until a worker that should have ended is killed.
RETIRE_SLACK_S = 5.0
# Seconds until a worker that does not serve what it was sent is sent it again: its message came without descriptors,
# because it had no room for them, or it failed to apply it.
RESEND_S = 5.0
# Seconds that a worker has to cut what is left when it is told to stop at once.
FORCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the workers are to serve."""

    generation: int
    workers: int
    """How many of them."""
    listeners: tuple[str, ...]
    """Names, in the order of the sockets."""
    drain_timeout_s: float
    snapshot_fd: int
    socket_fds: tuple[int, ...]
    addresses: tuple[Address, ...] = ()
    """Where the sockets are bound."""


class WorkerSlot:
    """A place for a worker."""

    def __init__(self, number: int, board: Scoreboard, post: "PostOffice", locks: LockFiles) -> None:
        self.number = number
        self._locks = locks
        self._post = post
        self.mailbox = post.workers[number]
        """The end that the worker reads, and the one that others write."""
        self.pid = 0
        """Of the worker in it; 0 = none."""
        self.is_old = False
        """The worker is of the program from before a re-exec."""
        self.has_row = True
        """The worker writes to this scoreboard."""
        self.sent = 0
        """Generation that the worker was sent."""
        self.sent_at = 0.0
        self.start_at = 0.0
        self.kill_at = 0.0
        self.started_at = 0.0
        self.restarts = Restarts()
        self.pulse = Pulse(0.0)
        self._state = SLOT_EMPTY
        self._board = board
        self.row = board.slot_row(number)
        self._worker_row = board.worker_row(number)

    def __repr__(self) -> str:
        return f"WorkerSlot({self.number}, state={self._state}, pid={self.pid})"

    @property
    def state(self) -> int:
        """One of the SLOT_ states."""
        return self._state

    @state.setter
    def state(self, state: int) -> None:
        self._state = self.row[S_STATE] = state

    @property
    def is_ready(self) -> bool:
        """The worker serves from what it was sent last."""
        return self.pid > 0 and self.sent > 0 and self._worker_row[W_GENERATION] >= self.sent

    def start(self, now: float) -> None:
        """Start a worker; a failure counts as its death."""
        self.is_old = False
        self.has_row = True
        self.sent = 0
        self.kill_at = 0.0
        self.started_at = now
        self.pulse = Pulse(now)
        self.state = SLOT_SERVING
        self.row[S_STARTS] += 1
        self.row[S_STARTED_MS] = int(now * 1000)
        reader = self.mailbox[0].fileno()
        posts = [writer.fileno() for _, writer in (self._post.control, *self._post.workers)]
        arguments = ["--slot", str(self.number), "--board", str(self._board.fd), "--mailbox", str(reader)]
        arguments += ["--posts", ",".join(map(str, posts))]
        arguments += ["--locks", ",".join(map(str, self._locks.fds))]
        fds = (self._board.fd, reader, *posts, *self._locks.fds)
        try:
            self.pid = children.start("proxy.worker", arguments, fds)
        except OSError as error:
            _log.error("worker %d cannot be started: %s", self.number, error)
            self.on_exit(1, now)
        self.row[S_PID] = self.pid

    def deliver(self, assignment: Assignment, now: float) -> None:
        """Send the worker what it is to serve, unless it was, or serves it not after `RESEND_S`; a full mailbox gets it
        at the next step."""
        is_lost = not self.is_ready and now >= self.sent_at + RESEND_S
        if self.sent >= assignment.generation and not is_lost:
            return
        body = {
            "serve": assignment.generation,
            "listeners": assignment.listeners,
            "workers": assignment.workers,
        }
        if self.mailbox[1].send(body, (assignment.snapshot_fd, *assignment.socket_fds)):
            self.sent = assignment.generation
            self.sent_at = now

    def retire(self, now: float, drain_timeout_s: float) -> None:
        """Have the worker finish what it has, and end."""
        if not self.pid:
            self.state = SLOT_EMPTY
        elif self._state != SLOT_RETIRING:
            self.state = SLOT_RETIRING
            self.kill_at = now + drain_timeout_s + RETIRE_SLACK_S
            children.send(self.pid, signal.SIGTERM)

    def on_exit(self, code: int, now: float) -> bool:
        """The worker has ended; true when another one has to take its place."""
        self._board.keep_function(self.number)
        self._board.clear_gauges(self.number)
        # What it did not read holds descriptors: a listening socket would stay open with nobody to accept from it.
        self.mailbox[0].clear()
        self.pid = self.row[S_PID] = 0
        self.row[S_EXIT] = code
        if self._state == SLOT_RETIRING or self.is_old:
            self.state = SLOT_EMPTY
            return False
        pause_s = self.restarts.on_death(now - self.started_at)
        _log.error("worker %d ended with %d; the next one starts in %g s", self.number, code, pause_s)
        self.start_at = now + pause_s
        self.state = SLOT_WAITING
        return True

    def check(self, now: float) -> None:
        """Kill the worker if it hangs, or has taken too long to retire."""
        if self.kill_at and now >= self.kill_at:
            self.kill_at = 0.0
            _log.warning("worker %d did not end in time and is killed", self.number)
            children.send(self.pid, signal.SIGKILL)
        elif self._state == SLOT_SERVING and self.has_row:
            burnt_s, is_stopped = children.usage(self.pid)
            beat_ms = self._worker_row[W_HEARTBEAT_MS]
            if self.pulse.is_stuck(beat_ms, burnt_s=burnt_s, is_stopped=is_stopped, now=now):
                _log.error("worker %d (process %d) is stuck and is replaced", self.number, self.pid)
                self.row[S_STUCK] += 1
                self.pulse = Pulse(now)
                children.send(self.pid, signal.SIGKILL)


Mailbox = tuple[Channel, Channel]
"""The end that is read, and the one that is written."""


class PostOffice:
    """The mailboxes of control and of all worker slots: those of before a re-exec, and new ones for the rest."""

    def __init__(
        self, board: Scoreboard, workers: Sequence[Mailbox] = (), control: Mailbox | None = None
    ) -> None:
        new = [channel_pair() for _ in range(board.workers - len(workers))]
        self.workers = [*workers[: board.workers], *new]
        """By slot."""
        self.control = control or channel_pair()

    def __repr__(self) -> str:
        return f"PostOffice({len(self.workers)} workers)"

    def close(self) -> None:
        """Close all ends."""
        for mailbox in (self.control, *self.workers):
            for end in mailbox:
                end.close()

    def describe(self) -> tuple[tuple[int, int], ...]:
        """The descriptors, control's first, for a re-exec."""
        return tuple((reader.fileno(), writer.fileno()) for reader, writer in (self.control, *self.workers))


class Workforce:
    """All worker slots."""

    def __init__(self, board: Scoreboard, post: PostOffice, locks: LockFiles) -> None:
        self._board = board
        self.locks = locks
        self.slots = [WorkerSlot(number, board, post, locks) for number in range(board.workers)]

    def __repr__(self) -> str:
        return f"Workforce({[slot for slot in self.slots if slot.state != SLOT_EMPTY]})"

    @property
    def is_empty(self) -> bool:
        """No worker process is left."""
        return not any(slot.pid for slot in self.slots)

    def is_ready(self, assignment: Assignment) -> bool:
        """As many workers as wanted serve what they are to serve."""
        ready = [slot for slot in self._current() if slot.is_ready and slot.sent >= assignment.generation]
        return len(ready) >= assignment.workers

    @property
    def has_old(self) -> bool:
        """Workers from before a re-exec are left."""
        return any(slot.pid and slot.is_old for slot in self.slots)

    def restore(self, old: OldWorker, *, has_row: bool) -> None:
        """Take over a worker that was started before a re-exec; with `has_row` it writes to this scoreboard. One that
        is no child any more has ended."""
        slot = self.slots[old.slot]
        slot.pid = slot.row[S_PID] = old.pid
        slot.is_old = True
        slot.has_row = has_row
        slot.kill_at = old.kill_at
        slot.state = SLOT_RETIRING if old.kill_at else SLOT_SERVING
        self._count_used(old.slot)
        if not children.is_child(old.pid):
            slot.on_exit(slot.row[S_EXIT], slot.started_at)

    def describe(self) -> tuple[OldWorker, ...]:
        """The workers, for a re-exec."""
        return tuple(OldWorker(slot.number, slot.pid, slot.kill_at) for slot in self.slots if slot.pid)

    def step(self, assignment: Assignment, now: float) -> None:
        """Start, retire and inform workers, so that `assignment` comes true."""
        row = self._board.parent_row
        row[P_WANTED_WORKERS] = assignment.workers
        row[P_GENERATION] = assignment.generation
        current = self._current()
        free = [slot for slot in self.slots if slot.state == SLOT_EMPTY]
        for slot in free[: max(assignment.workers - len(current), 0)]:
            self._count_used(slot.number)
            slot.restarts = Restarts()
            slot.start(now)
        for slot in current[assignment.workers :]:
            slot.retire(now, assignment.drain_timeout_s)
        for slot in self.slots:
            if slot.state == SLOT_WAITING and now >= slot.start_at:
                slot.start(now)
            if slot.state == SLOT_SERVING and slot.pid and not slot.is_old:
                slot.deliver(assignment, now)
        if self.is_ready(assignment):
            for slot in self.slots:
                if slot.is_old and slot.state == SLOT_SERVING:
                    slot.retire(now, assignment.drain_timeout_s)

    def check(self, now: float) -> None:
        """Look for workers that hang."""
        for slot in self.slots:
            if slot.pid:
                slot.check(now)

    def on_exit(self, pid: int, code: int, now: float) -> bool:
        """A child ended; true when it was a worker that has to be replaced."""
        return any([slot.on_exit(code, now) for slot in self.slots if slot.pid == pid])

    def retire_all(self, now: float, drain_timeout_s: float) -> None:
        """Have all workers finish what they have, and start no more."""
        for slot in self.slots:
            slot.retire(now, drain_timeout_s)

    def force(self, now: float) -> None:
        """Have all workers stop at once."""
        for slot in self.slots:
            if slot.pid:
                slot.kill_at = now + FORCE_S
                children.send(slot.pid, signal.SIGINT)

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to all workers."""
        for slot in self.slots:
            if slot.pid:
                children.send(slot.pid, signum)

    def _current(self) -> list[WorkerSlot]:
        return [slot for slot in self.slots if slot.state in (SLOT_SERVING, SLOT_WAITING) and not slot.is_old]

    def _count_used(self, number: int) -> None:
        row = self._board.parent_row
        row[P_USED_SLOTS] = max(row[P_USED_SLOTS], number + 1)
