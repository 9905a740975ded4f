"""A statistical sampler for the proxy's workers, used by `costs`.

A timer of CPU time interrupts every two milliseconds of work, and the function that is at work counts; the time
that C code takes counts for the function that called it. Tracing profilers would charge each call the same
extra, and the request path is many short calls: they show another program than the one that runs.
Workers are started by the proxy itself, which knows nothing of this: a `sitecustomize` module on their path begins it,
and counts by `module:function` are written as JSON when the worker ends.
"""

import atexit
import collections
import json
import os
import signal
from pathlib import Path
from types import FrameType

INTERVAL_S = 0.002
OWN = "/proxy/"
"""Part of the paths of our own modules; a library's function is named by its file alone."""


class Sampler:
    """Counts which function is at work."""

    def __init__(self) -> None:
        self.counts = collections.Counter[str]()

    def on_tick(self, number: int, frame: FrameType | None) -> None:
        """Signal handler of the timer."""
        # Generated code and the import machinery, <frozen …>, are the start of the program, not its work.
        if frame is not None and not frame.f_code.co_filename.startswith("<"):
            code = frame.f_code
            _, own, inner = code.co_filename.rpartition(OWN)
            self.counts[f"{inner if own else Path(code.co_filename).name}:{code.co_qualname}"] += 1


def begin(output: str) -> None:
    """Sample this process from now on, and write the counts to the file `output` when it ends."""
    sampler = Sampler()

    def end() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Path(output).write_text(json.dumps(sampler.counts))

    atexit.register(end)
    signal.signal(signal.SIGPROF, sampler.on_tick)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)


def environment(directory: Path, output: Path) -> dict[str, str]:
    """What has workers of a proxy sampled, into `output`, when it is added to the proxy's environment. Puts a file into
    `directory`."""
    (directory / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'proxy.worker' in sys.orig_argv:\n"
        "    from loadtests import sampled\n"
        f"    sampled.begin({str(output)!r})\n"
    )
    root = Path(__file__).resolve().parents[1]
    paths = [str(directory), str(root), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
