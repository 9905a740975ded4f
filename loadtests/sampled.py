"""Run the proxy under a statistical sampler: `python -m loadtests.sampled FILE run -c CONFIG`, used by `costs`.

A timer of CPU time interrupts every two milliseconds of work, and the function that is at work counts; the time
that C code takes counts for the function that called it. Tracing profilers would charge each call the same
extra, and the request path is many short calls: they show another program than the one that runs.
Writes counts by `module:function` as JSON to FILE when the proxy has stopped.
"""

import collections
import json
import signal
import sys
from pathlib import Path
from types import FrameType

from proxy import cli

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


def main() -> None:
    """Command line: a file for the counts, then the proxy's own arguments."""
    output, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2:]
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.on_tick)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
    try:
        cli.main()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        output.write_text(json.dumps(sampler.counts))


if __name__ == "__main__":
    main()
