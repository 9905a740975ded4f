"""The loop of the parent process, which owns what must outlive the others, starts them, and starts them again.

    parent ──┬── control    says what to serve: listeners, number of workers, a snapshot
             ├── worker 0   gets the snapshot and the listening sockets
             └── worker N

The parent holds the listening sockets, the shared memory and the mailboxes, so that no death of another process loses
them, and no start needs them made anew. It is what may not die: standard library only, no threads, one loop that never
waits for a child. One message comes from control: serve this. It is accepted whole (every listener is bound) or refused
whole. What was accepted last goes to each worker, and to each that starts later, so that workers start and serve while
control is dead or hangs.

Signals: SIGTERM and SIGINT drain and stop, a second one stops at once; SIGUSR1 reopens the access logs; SIGUSR2
replaces the daemon by the program that is installed now, without losing a request; SIGHUP goes to control.
"""

import logging
import os
import select
import signal
from collections.abc import Callable, Mapping

from proxy import children
from proxy.handover import Handover, Publication
from proxy.listening import BindFailed, ListeningSockets, bound_address, encode_address
from proxy.mailbox import Channel, Message, channel_pair, sealed
from proxy.policy.supervision import Pulse, PulseParams, Restarts
from proxy.scoreboard import (
    C_HEARTBEAT_MS,
    P_CONTROL_EXIT,
    P_CONTROL_PID,
    P_CONTROL_STARTED_MS,
    P_CONTROL_STARTS,
    P_CONTROL_STUCK,
    P_PID,
    P_STARTED_MS,
    P_STATE,
    STATE_DRAINING,
    STATE_RUNNING,
    STATE_STARTING,
    Scoreboard,
)
from proxy.systemd import Notifier
from proxy.workforce import Assignment, PostOffice, Workforce

_log = logging.getLogger(__name__)

# Seconds between two looks at the children: several within the silence that makes one of them stuck.
LOOK_S = 0.1
# Seconds that control has to stop, and a new program to prove that it starts.
CONTROL_STOP_S = 3.0
PREFLIGHT_S = 20.0

# Control may be busy for longer than a worker, with a large configuration or page of metrics; nobody waits for it.
CONTROL_PULSE = PulseParams(burnt_s=2.0)

EXIT_OK = 0
EXIT_FAILED = 1

Monotonic = Callable[[], float]


class ControlProcess:
    """The control process and the channel to it; a new channel for each process."""

    def __init__(self, board: Scoreboard, post: PostOffice, arguments: list[str]) -> None:
        self._board = board
        self._post = post
        self.arguments = arguments
        """From the command line."""
        self.pid = 0
        self.channel: Channel | None = None
        self.start_at = 0.0
        self.kill_at = 0.0
        self.was_stopped = False
        """The last one ended because it was told to."""
        self._started_at = 0.0
        self._restarts = Restarts()
        self._pulse = Pulse(0.0, CONTROL_PULSE)

    def __repr__(self) -> str:
        return f"ControlProcess(pid={self.pid})"

    def start(self, kept: Mapping[str, int], now: float) -> None:
        """Start control; `kept` are descriptors of what the one before published last, by name."""
        row = self._board.parent_row
        self._board.control_row[C_HEARTBEAT_MS] = 0
        self._started_at = now
        self._pulse = Pulse(now, CONTROL_PULSE)
        ours, theirs = channel_pair()
        mailbox = self._post.control[0].fileno()
        posts = [writer.fileno() for _, writer in self._post.workers]
        fds = [self._board.fd, theirs.fileno(), mailbox, *posts]
        arguments = [*self.arguments, "--board", str(self._board.fd), "--channel", str(theirs.fileno())]
        arguments += ["--mailbox", str(mailbox), "--posts", ",".join(map(str, posts))]
        for name, fd in kept.items():
            fds.append(fd)
            arguments += [f"--{name}", str(fd)]
        try:
            self.pid = children.start("proxy.control", arguments, fds)
            self.channel = ours
        except OSError as error:
            _log.error("control cannot be started: %s", error)
            ours.close()
            self.start_at = now + self._restarts.on_death(0.0)
        theirs.close()
        row[P_CONTROL_PID] = self.pid
        row[P_CONTROL_STARTS] += 1
        row[P_CONTROL_STARTED_MS] = int(now * 1000)

    def on_exit(self, code: int, now: float) -> float:
        """It has ended; returns the seconds until the next start."""
        row = self._board.parent_row
        self.pid = row[P_CONTROL_PID] = 0
        row[P_CONTROL_EXIT] = code
        self.was_stopped = self.kill_at > 0.0
        self.kill_at = 0.0
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        pause_s = 0.0 if self.was_stopped else self._restarts.on_death(now - self._started_at)
        self.start_at = now + pause_s
        return pause_s

    def stop(self, now: float) -> None:
        """Ask it to end; it is killed if it does not."""
        if self.pid and not self.kill_at:
            self.kill_at = now + CONTROL_STOP_S
            children.send(self.pid, signal.SIGTERM)

    def check(self, now: float) -> None:
        """Kill it if it hangs."""
        if not self.pid:
            return
        if self.kill_at:
            if now >= self.kill_at:
                children.send(self.pid, signal.SIGKILL)
            return
        burnt_s, is_stopped = children.usage(self.pid)
        beat_ms = self._board.control_row[C_HEARTBEAT_MS]
        if self._pulse.is_stuck(beat_ms, burnt_s=burnt_s, is_stopped=is_stopped, now=now):
            _log.error("control (process %d) is stuck and is replaced", self.pid)
            self._board.parent_row[P_CONTROL_STUCK] += 1
            self._pulse = Pulse(now, CONTROL_PULSE)
            children.send(self.pid, signal.SIGKILL)


class Supervisor:
    """The loop of the parent process."""

    def __init__(
        self,
        *,
        board: Scoreboard,
        control: ControlProcess,
        workforce: Workforce,
        post: PostOffice,
        sockets: ListeningSockets,
        notifier: Notifier,
        monotonic: Monotonic,
        reexec: Callable[["Supervisor"], None],
    ) -> None:
        self.board = board
        self.control = control
        self.workforce = workforce
        self.post = post
        self.sockets = sockets
        self.notifier = notifier
        self.assignment: Assignment | None = None
        self._is_resumed = False
        """Workers from before a re-exec serve, so a control that fails at its start is tried again."""
        self._is_taking_over = False
        """Those workers are still there."""
        self._kept: dict[str, int] = {}
        """Descriptors of what was published last: `snapshot`, for the workers and the next control, and `last-good`,
        the configuration it was made from."""
        self._published: Publication | None = None
        """What was accepted last, also by the program before a re-exec."""
        self._monotonic = monotonic
        self._reexec = reexec
        self._poll = select.poll()
        self._control_fd = -1
        """The end of control's channel that is listened to; -1 = none."""
        self._wakeup = -1
        self._is_draining = False
        self._is_forced = False
        self._preflight = 0
        self._preflight_until = 0.0
        self._is_replacing = False
        self._is_outdated = False
        """The program that is installed now is not this one."""
        self._next_watchdog = 0.0
        self._exit_code: int | None = None
        row = board.parent_row
        row[P_PID] = os.getpid()
        row[P_STARTED_MS] = int(monotonic() * 1000)
        row[P_STATE] = STATE_STARTING

    def resume(self, old: Handover) -> None:
        """Go on after a re-exec: the workers and control of the program before give way to new ones. The new workers
        start at once, with what is served already; control begins where the one before ended."""
        self._is_resumed = self._is_taking_over = True
        for worker in old.workers:
            self.workforce.restore(worker, has_row=self.board.fd == old.board)
        if old.is_ready:
            self.board.parent_row[P_STATE] = STATE_RUNNING
        if old.control and children.is_child(old.control):
            self.control.pid = old.control
            self.control.stop(self._monotonic())
        self._kept = dict(old.kept)
        self._published = old.published
        if old.published is not None:
            try:
                self.assignment = self._assign(old.published, self._kept["snapshot"])
            except BindFailed as failed:
                # Its socket is among those that came along, or the workers wait for what control says.
                _log.error("cannot serve before control does: %s", failed)

    def run(self) -> int:
        """Run until everything has ended. Returns the exit code: 0 after a drain, 1 when forced, control's own when it
        could not start."""
        wakeup = self._wakeup = self._catch_signals()
        self._poll.register(wakeup, select.POLLIN)
        while self._exit_code is None:
            self._step(self._monotonic())
            for fd, _ in self._poll.poll(LOOK_S * 1000):
                if fd == wakeup:
                    self._on_signals(os.read(wakeup, 512))
                else:
                    self._on_control_readable(fd)
        self.sockets.close()
        self.post.close()
        return self._exit_code

    @property
    def _drain_timeout_s(self) -> float:
        return self._published.drain_timeout_s if self._published is not None else 0.0

    def _step(self, now: float) -> None:
        """One turn: what ended, what is due, what is stuck."""
        for pid, code in children.reap():
            self._on_exit(pid, code, now)
        if self._exit_code is not None:
            return
        if self._is_draining:
            self._finish_drain(now)
        else:
            if not self.control.pid and now >= self.control.start_at:
                self._start_control(now)
            if self.assignment is not None:
                self.workforce.step(self.assignment, now)
                self._note_ready(self.assignment)
        self.workforce.check(now)
        self.control.check(now)
        if self._preflight and now >= self._preflight_until:
            children.send(self._preflight, signal.SIGKILL)
        if self._is_replacing:
            # Not before every exit was seen to: the next program would wait for children that were reaped here.
            self._is_replacing = False
            _log.info("replacing the daemon")
            self._reexec(self)
        if self.notifier.watchdog_s and now >= self._next_watchdog:
            self._next_watchdog = now + self.notifier.watchdog_s / 2
            self.notifier.beat()
        self.notifier.flush()

    # ------------------------------------------------------------------ signals

    def _catch_signals(self) -> int:
        """Have signals written to a pipe; returns its reading end."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        caught = {
            signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD,
        }  # fmt: skip
        for signum in caught:
            signal.signal(signum, lambda *_: None)
        # They were blocked since before the exec that made this process, so that none was lost meanwhile.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
        return reader

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._on_stop()
            elif number == signal.SIGUSR1:
                self.workforce.signal(signal.SIGUSR1)
            elif number == signal.SIGHUP and self.control.pid:
                children.send(self.control.pid, signal.SIGHUP)
            elif number == signal.SIGUSR2:
                self._begin_reexec()

    def _on_stop(self) -> None:
        now = self._monotonic()
        if self._is_draining:
            self._is_forced = True
            _log.warning("forced to stop: connections are cut")
            self.workforce.force(now)
            return
        self._is_draining = True
        self.board.parent_row[P_STATE] = STATE_DRAINING
        self.notifier.tell("STOPPING=1")
        timeout_s = self._drain_timeout_s
        _log.info("draining for at most %g s; signal again to stop at once", timeout_s)
        # The workers take what waits in the backlog, then theirs are the last copies to be closed.
        self.sockets.close()
        self.workforce.retire_all(now, timeout_s)

    def _finish_drain(self, now: float) -> None:
        """When the workers are gone, control can go, and then the parent."""
        if not self.workforce.is_empty:
            return
        if self.control.pid:
            self.control.stop(now)
        else:
            _log.info("stopped")
            self._exit_code = EXIT_FAILED if self._is_forced else EXIT_OK

    # ------------------------------------------------------------------ children

    def _start_control(self, now: float) -> None:
        self.control.start(self._kept, now)
        if self.control.channel is not None:
            self._control_fd = self.control.channel.fileno()
            self._poll.register(self._control_fd, select.POLLIN)

    def _ignore_control(self) -> None:
        if self._control_fd >= 0:
            self._poll.unregister(self._control_fd)
            self._control_fd = -1

    def _on_exit(self, pid: int, code: int, now: float) -> None:
        if pid == self._preflight:
            self._preflight = 0
            self._finish_preflight(code)
            return
        if pid == self.control.pid:
            is_missed = self._on_control_exit(code, now)
        else:
            is_missed = self.workforce.on_exit(pid, code, now)  # others are orphans that PID 1 inherits
        if is_missed and code == children.EXIT_OTHER_PROGRAM:
            self._on_other_program()

    def _on_control_exit(self, code: int, now: float) -> bool:
        """True when the daemon goes on and needs another one."""
        self._ignore_control()
        pause_s = self.control.on_exit(code, now)
        if self._is_draining:
            return False
        if self.assignment is None and not self._is_resumed:
            # It has said why.
            self._exit_code = code if code > 0 else EXIT_FAILED
            return False
        if self.control.was_stopped:
            return False
        _log.error("control ended with %d; traffic goes on, the next one starts in %g s", code, pause_s)
        return True

    def _on_control_readable(self, fd: int) -> None:
        channel = self.control.channel
        if channel is None or fd != self._control_fd:
            return
        try:
            message = channel.receive()
            if message is not None:
                self._on_publish(channel, message)
        except (EOFError, OSError):
            # It is gone, perhaps in the middle of a publication: its exit comes as a signal.
            self._ignore_control()
        except (KeyError, TypeError, ValueError):
            # Whatever it was, the parent goes on.
            _log.exception("control sent something that cannot be understood")

    def _on_publish(self, channel: Channel, message: Message) -> None:
        """Control says what to serve: accept all of it, or nothing."""
        if self._is_draining or len(message.fds) != 2:
            message.close()  # descriptors get lost when there is no room for them here: control tries again
            return
        try:
            published = Publication.from_body(message.body)
            self.assignment = assignment = self._assign(published, message.fds[0])
        except BindFailed as failed:
            message.close()
            channel.send({"refused": published.generation, "key": failed.key, "error": failed.why})
            return
        except (KeyError, TypeError, ValueError):
            message.close()
            raise
        for fd in self._kept.values():
            os.close(fd)
        self._kept = {"snapshot": message.fds[0], "last-good": message.fds[1]}
        self._published = published
        addresses = [encode_address(address) for address in assignment.addresses]
        channel.send({"accepted": published.generation, "addresses": addresses})

    def _assign(self, published: Publication, snapshot_fd: int) -> Assignment:
        """Open what `published` needs and close the rest. Raises `BindFailed`, and then nothing has changed."""
        sockets = self.sockets.update({each.key: each.bind for each in published.listeners})
        return Assignment(
            generation=published.generation,
            workers=published.workers,
            listeners=tuple(each.name for each in published.listeners),
            drain_timeout_s=published.drain_timeout_s,
            snapshot_fd=snapshot_fd,
            socket_fds=tuple(sock.fileno() for sock in sockets),
            addresses=tuple(bound_address(sock) for sock in sockets),
        )

    def _note_ready(self, assignment: Assignment) -> None:
        row = self.board.parent_row
        if row[P_STATE] == STATE_STARTING and self.workforce.is_ready(assignment):
            row[P_STATE] = STATE_RUNNING
            self.notifier.tell("READY=1")
            _log.info("ready: %d workers", assignment.workers)

        if self._is_taking_over and self.workforce.is_ready(assignment) and not self.workforce.has_old:
            self._is_taking_over = False
            _log.info(
                "the daemon is replaced: %d workers serve, those of before are gone", assignment.workers
            )

    # ------------------------------------------------------------------ re-exec

    def _on_other_program(self) -> None:
        """A child would not be of this program, so nothing that ends can be replaced before the parent is."""
        if not self._is_outdated:
            self._is_outdated = True
            _log.error(
                "another program is installed than the one that runs, and what ended cannot be replaced: the daemon "
                "has to become that program (signal SIGUSR2); trying it now, and again with each failed start"
            )
        self._begin_reexec()

    def _begin_reexec(self) -> None:
        """See first whether the installed program starts and likes the file: an exec cannot be taken back."""
        if self._is_draining or self._preflight:
            return
        if self.assignment is None:
            _log.error("still starting, cannot be replaced yet")
            return
        handed_over = sealed(self.describe().encode(), "homeport-handover")
        arguments = ["--preflight", "--resume", str(handed_over), *self.control.arguments]
        try:
            self._preflight = children.start("proxy.parent", arguments, [handed_over])
        except OSError as error:
            _log.error("the installed program cannot be started, this one goes on: %s", error)
            return
        finally:
            os.close(handed_over)
        self._preflight_until = self._monotonic() + PREFLIGHT_S

    def _finish_preflight(self, code: int) -> None:
        if code:
            _log.error("the installed program would not start (%d), this one goes on", code)
        elif not self._is_draining:
            self._is_replacing = True

    def unseen_signals(self) -> bytes:
        """The numbers of signals that came and were not acted upon."""
        try:
            return os.read(self._wakeup, 512)
        except BlockingIOError:
            return b""

    def describe(self) -> Handover:
        """What a re-exec must not lose."""
        return Handover(
            board=self.board.fd,
            control=self.control.pid,
            workers=self.workforce.describe(),
            posts=self.post.describe(),
            locks=self.workforce.locks.fds,
            sockets=tuple(self.sockets.describe()),
            kept=self._kept,
            published=self._published,
            is_ready=self.board.parent_row[P_STATE] == STATE_RUNNING,
        )
