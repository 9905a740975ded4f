"""The parent's child processes: how they are started, what /proc says of them, and that they end with the parent.

Parent and children are one program, which agrees on arguments, messages and memory by being the same. An upgrade puts
another in its place while the parent runs, and from then on each start is of that one. So the parent passes a mark of
what it is, as the first argument, and a child of another program ends before it looks at anything else. This much is
the same in all versions: the place of the mark, and `EXIT_OTHER_PROGRAM`.

Standard library only: the parent and its children import this.
"""

import ctypes
import functools
import os
import signal
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import proxy

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Every handler that a child may not inherit as ignored.
_ALL_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})

# What the parent passes on to children that may not be able to handle it yet: it waits instead of ending them.
_LATE_SIGNALS = (signal.SIGHUP, signal.SIGUSR1)

EXIT_OTHER_PROGRAM = 100
"""Exit code of a child that is of another program than its parent."""
_MARK_OPTION = "--program"


@functools.cache
def program_mark() -> str:
    """What tells this program from another one in its place: a digest of its version and its source. To be asked for
    first when a process starts, while the files are still those that it runs."""
    root = Path(proxy.__file__).parent
    digest = blake2b(proxy.__version__.encode(), digest_size=8)
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(b"%s %d " % (str(path.relative_to(root)).encode(), len(content)))
        digest.update(content)
    return digest.hexdigest()


def take_program_mark(argv: list[str]) -> None:
    """Take the parent's mark from a child's command line; ends the child when it is of another program."""
    if argv[1:3] != [_MARK_OPTION, program_mark()]:
        raise SystemExit(EXIT_OTHER_PROGRAM)
    del argv[1:3]


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` of this package with this interpreter.

    `-P` keeps the working directory out of the import path, where anything could be called `proxy`.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The environment for `command`: with the place of this package, if it is not installed."""
    environ = dict(os.environ)
    root = str(Path(__file__).resolve().parents[1])
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
        environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
    return environ


def start(module: str, arguments: Sequence[str], fds: Iterable[int] = ()) -> int:
    """Start `module` as a child with copies of `fds` under the same numbers; returns its process id.

    Children get a process group of their own: Ctrl-C in a terminal is for the parent, which drains them. Raises
    `OSError`.
    """
    argv = command(module, _MARK_OPTION, program_mark(), "--parent", str(os.getpid()), *arguments)
    return os.posix_spawn(
        argv[0],
        argv,
        environment(),
        # A descriptor copied onto itself loses close-on-exec (posix_spawn_file_actions_adddup2(3)).
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds],
        setpgroup=0,
        setsigmask=_LATE_SIGNALS,
        setsigdef=_ALL_SIGNALS,
    )


def ask_for_death_signal() -> None:
    """Have the kernel send this process SIGTERM when its parent dies; survives exec, is not inherited."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def end_with_parent(parent: int) -> None:
    """Have the kernel send this process SIGTERM when process `parent` dies; ends it at once if that has happened."""
    ask_for_death_signal()
    if os.getppid() != parent:
        os._exit(1)


def unblock_signals() -> None:
    """Take the signals that were kept back since the start of this process; to be called when all have handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _LATE_SIGNALS)


def reap() -> list[tuple[int, int]]:
    """The children that ended: (process id, exit code; −N for signal N). Orphans that PID 1 inherits are among them."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def is_child(pid: int) -> bool:
    """Whether process `pid` is a child of this one, and has not been reaped. Its id may be another's by now if not."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def usage(pid: int) -> tuple[float, bool]:
    """CPU seconds that process `pid` used, and whether it is stopped (SIGSTOP, not a debugger); zero when gone."""
    try:
        # The name may hold anything, so the fields are counted from its closing bracket (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0, False
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, fields[0] == b"T"


def send(pid: int, signum: signal.Signals) -> None:
    """Send a signal to a child that may have ended."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass
