"""CPU time and memory of processes and all that they have started, from /proc."""

import os
from collections.abc import Collection
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


def read_usage(leaders: Collection[int]) -> dict[int, tuple[float, int, int]]:
    """For each of these leaders of a session that runs: CPU seconds, resident bytes, threads, summed over its session.

    The time of children that have ended is their parent's (`cutime`, `cstime`), so it is counted once. Pages that
    processes share are counted for each. Takes some 10 µs for each process of the machine.
    """
    found: dict[int, tuple[float, int, int]] = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            # The name may hold anything, so the fields are counted from its closing bracket (proc(5)).
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue  # has ended
        leader = int(fields[3])
        if leader in leaders:
            cpu_s, memory_bytes, threads = found.get(leader, (0.0, 0, 0))
            cpu_s += sum(map(int, fields[11:15])) / _TICKS_PER_S
            found[leader] = (
                cpu_s,
                memory_bytes + int(fields[21]) * _PAGE_BYTES,
                threads + int(fields[17]),
            )
    return found
