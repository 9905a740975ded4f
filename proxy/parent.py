"""`python -m proxy.parent`: the parent process, from a command line, or from what it was before a re-exec.

`homeport run` becomes this process by exec, so it keeps its process id, its place as PID 1 of a container, and what
systemd knows it by. A re-exec does the same once more with the program that is installed by then: descriptors stay
open, children stay children, and a sealed memory file says which is which.

Standard library only.
"""

import argparse
import importlib
import logging
import os
import resource
import signal
import socket
import sys

from proxy import children
from proxy.clock import SystemClock
from proxy.handover import Handover, NoRoom, UnknownHandover
from proxy.listening import ListeningSockets
from proxy.mailbox import Channel, sealed, unsealed
from proxy.permits import LockFiles
from proxy.scoreboard import P_REEXECS, P_USED_SLOTS, SLOTS, LayoutMismatch, Scoreboard
from proxy.supervisor import EXIT_FAILED, ControlProcess, Supervisor
from proxy.systemd import Notifier, take_listen_fds
from proxy.workforce import PostOffice, Workforce

_log = logging.getLogger("homeport")

LOG_FORMAT = "%(asctime)s %(levelname)s {role}: %(message)s"

# Signals that may come before their handlers are there. Blocked over an exec they wait instead of ending the process,
# or of being lost for PID 1.
EARLY_SIGNALS = frozenset(
    (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
)


def become_parent(config: str, workers: int | None) -> None:
    """Replace this process by the parent of a daemon that runs `config`; `workers` overrides its number. Never
    returns; raises `OSError` when that cannot be done."""
    arguments = ["--config", config]
    if workers is not None:
        arguments += ["--workers", str(workers)]
    _exec(arguments, children.environment())


def _exec(arguments: list[str], environ: dict[str, str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
    argv = children.command("proxy.parent", *arguments)
    os.execve(argv[0], argv, environ)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors to the hard one: every exchange takes two. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """The parent process. Ends it."""
    children.program_mark()
    parser = argparse.ArgumentParser(prog="python -m proxy.parent")
    parser.add_argument("--config")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--resume", type=int, help="descriptor of what a re-exec handed over")
    parser.add_argument("--preflight", action="store_true", help="only show that it would start")
    parser.add_argument("--parent", type=int, help="who started the preflight")
    parser.add_argument("--program", help="mark of what started it")
    options = parser.parse_args()
    if options.preflight:
        sys.exit(_preflight(options.config, options.resume))
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT.format(role="parent"))
    raise_descriptor_limit()
    sys.exit(_supervisor(options).run())


def _preflight(config: str, handed_over: int | None) -> int:
    """Exit code 0 when every program of the daemon starts, takes the configuration for good, can read what the running
    one hands over, and has room for its workers.

    Imports by name, in a process that ends then: the parent itself needs none of it.
    """
    if handed_over is not None:
        try:
            Handover.decode(unsealed(handed_over)).check_room(SLOTS)
        except (UnknownHandover, NoRoom) as error:
            print(error, file=sys.stderr)
            return EXIT_FAILED
    importlib.import_module("proxy.worker")
    control = importlib.import_module("proxy.control")
    return 0 if control.is_acceptable(config) else 2


def _supervisor(options: argparse.Namespace) -> Supervisor:
    notifier = Notifier(os.environ, os.getpid())
    arguments = ["--config", options.config]
    if options.workers is not None:
        arguments += ["--workers", str(options.workers)]
    old: Handover | None = None
    if options.resume is not None:
        old = Handover.decode(unsealed(options.resume))
        for fd in (options.resume, *old.fds):
            # Closed by the next exec, unless it is handed over again.
            os.set_inheritable(fd, False)
        os.close(options.resume)
    board = _board(old)
    posts = [(Channel.from_fd(r), Channel.from_fd(w)) for r, w in old.posts] if old is not None else []
    post = PostOffice(board, posts[1:], posts[0] if posts else None)
    sockets = ListeningSockets(take_listen_fds(os.environ, os.getpid()))
    supervisor = Supervisor(
        board=board,
        control=ControlProcess(board, post, arguments),
        workforce=Workforce(board, post, LockFiles(old.locks if old is not None else ())),
        post=post,
        sockets=sockets,
        notifier=notifier,
        monotonic=SystemClock.monotonic,
        reexec=lambda this: _reexec(this, arguments),
    )
    if old is not None:
        for key, fd, is_inherited in old.sockets:
            sockets.restore(key, socket.socket(fileno=fd), is_inherited=is_inherited)
        supervisor.resume(old)
    return supervisor


def _board(old: Handover | None) -> Scoreboard:
    """The memory from before a re-exec if this version can read it, else a new one."""
    if old is not None:
        try:
            board = Scoreboard(fd=old.board)
            board.parent_row[P_REEXECS] += 1
            return board
        except LayoutMismatch as mismatch:
            _log.warning("%s: counters begin anew", mismatch)
    board = Scoreboard(workers=SLOTS)
    board.parent_row[P_USED_SLOTS] = 0
    if old is not None:
        os.close(old.board)  # not before: the new one has another descriptor
    return board


def _reexec(supervisor: Supervisor, arguments: list[str]) -> None:
    """Become the installed program, with all children and descriptors. Returns when that fails."""
    state = supervisor.describe()
    handed_over = sealed(state.encode(), "homeport-handover")
    kept = [handed_over, *state.fds]
    for fd in kept:
        os.set_inheritable(fd, True)
    environ = children.environment() | supervisor.notifier.restored_environ()
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
    for number in supervisor.unseen_signals():
        # Blocked, they wait for the next program; in the pipe they would be lost with this one.
        if number != signal.SIGCHLD:
            os.kill(os.getpid(), number)
    try:
        _exec([*arguments, "--resume", str(handed_over)], environ)
    except OSError as error:
        _log.error("cannot be replaced, this program goes on: %s", error)
    for fd in kept:
        os.set_inheritable(fd, False)
    os.close(handed_over)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)


if __name__ == "__main__":
    main()
