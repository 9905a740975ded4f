"""`python -m proxy.parent`: the parent process, from a command line, or from what it was before a re-exec.

`homeport run` becomes this process by exec, so it keeps its process id, its place as PID 1 of a container, and what
systemd knows it by. A re-exec does the same once more with the program that is installed by then: descriptors stay
open, children stay children, and a sealed memory file says which is which.

Standard library only.
"""

import argparse
import importlib
import json
import logging
import os
import resource
import signal
import socket
import sys
from typing import Any

from proxy import children
from proxy.clock import SystemClock
from proxy.listening import ListeningSockets
from proxy.mailbox import Channel, sealed, unsealed
from proxy.permits import LockFiles
from proxy.scoreboard import P_REEXECS, P_USED_SLOTS, SLOTS, LayoutMismatch, Scoreboard
from proxy.supervisor import ControlProcess, Supervisor
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
        sys.exit(_preflight(options.config))
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT.format(role="parent"))
    raise_descriptor_limit()
    sys.exit(_supervisor(options).run())


def _preflight(config: str) -> int:
    """Exit code 0 when every program of the daemon starts, and takes the configuration for good.

    Imports by name, in a process that ends then: the parent itself needs none of it.
    """
    importlib.import_module("proxy.worker")
    control = importlib.import_module("proxy.control")
    return 0 if control.is_acceptable(config) else 2


def _supervisor(options: argparse.Namespace) -> Supervisor:
    notifier = Notifier(os.environ, os.getpid())
    arguments = ["--config", options.config]
    if options.workers is not None:
        arguments += ["--workers", str(options.workers)]
    state: dict[str, Any] = {}
    if options.resume is not None:
        state = json.loads(unsealed(options.resume))
        os.close(options.resume)
    board = _board(state)
    posts = [(Channel.from_fd(_keep(r)), Channel.from_fd(_keep(w))) for r, w in state.get("posts", ())]
    post = PostOffice(board, posts[1:], posts[0] if posts else None)
    sockets = ListeningSockets(take_listen_fds(os.environ, os.getpid()))
    for key, fd, is_inherited in state.get("sockets", ()):
        sockets.restore(key, socket.socket(fileno=_keep(fd)), is_inherited=is_inherited)
    workforce = Workforce(board, post, LockFiles([_keep(fd) for fd in state.get("locks", ())]))
    for worker in state.get("workers", ()):
        workforce.restore(worker["slot"], worker["pid"], worker["kill_at"])
    control = ControlProcess(board, post, arguments)
    supervisor = Supervisor(
        board=board,
        control=control,
        workforce=workforce,
        post=post,
        sockets=sockets,
        notifier=notifier,
        monotonic=SystemClock.monotonic,
        reexec=lambda old: _reexec(old, arguments),
    )
    if state:
        kept = {name: _keep(fd) for name, fd in state["kept"].items()}
        supervisor.resume(state["control"], kept, state["drain_timeout_s"])
    return supervisor


def _board(state: dict[str, Any]) -> Scoreboard:
    """The memory from before a re-exec if this version can read it, else a new one."""
    if state:
        try:
            board = Scoreboard(fd=_keep(state["board"]))
            board.parent_row[P_REEXECS] += 1
            return board
        except LayoutMismatch as mismatch:
            _log.warning("%s: counters begin anew", mismatch)
            os.close(state["board"])
    board = Scoreboard(workers=SLOTS)
    board.parent_row[P_USED_SLOTS] = 0
    return board


def _keep(fd: int) -> int:
    """Have a descriptor that came over an exec closed by the next one."""
    os.set_inheritable(fd, False)
    return fd


def _reexec(supervisor: Supervisor, arguments: list[str]) -> None:
    """Become the installed program, with all children and descriptors. Returns when that fails."""
    state = supervisor.describe()
    handed_over = sealed(json.dumps(state).encode(), "homeport-state")
    kept = [handed_over, state["board"], *(fd for _, fd, _ in state["sockets"]), *state["kept"].values()]
    kept += [*state["locks"], *(fd for pair in state["posts"] for fd in pair)]
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
