"""How many cores this process may use: what the scheduler allows it, and what its control groups pay for.

A container with `--cpus 2` on a host with 64 cores has an affinity to all of them and is stopped for most of each
period when it runs more than two processes. Source: sched_getaffinity(2); Documentation/admin-guide/cgroup-v2.rst,
`cpu.max`; Documentation/scheduler/sched-bwc.rst for version 1.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path

# More processes than this gain little in front of a few containers and cost memory.
MAX_AUTO_WORKERS = 8


def auto_workers(root: Path = Path("/")) -> int:
    """Workers for `workers: auto`: the smaller of affinity and CPU quota, rounded up; 1 to `MAX_AUTO_WORKERS`."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    usable = cores if quota is None else min(cores, math.ceil(quota))
    return max(1, min(usable, MAX_AUTO_WORKERS))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores that the control groups of this process pay for, the least of all levels; `None` = no limit. `root` is
    where /proc and /sys are."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found: list[float] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found += _quotas(root / "sys/fs/cgroup", path, _quota_v2)
        elif "cpu" in controllers.split(","):
            found += _quotas(root / "sys/fs/cgroup" / controllers, path, _quota_v1)
            found += _quotas(root / "sys/fs/cgroup/cpu", path, _quota_v1)
    return min(found, default=None)


def _quotas(mount: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    """The quota of the group at `path` and of all above it. In a container the path may be the host's: then the mount
    itself is the group."""
    group = mount / path.lstrip("/")
    levels = [group, *group.parents]
    levels = levels[: levels.index(mount) + 1]
    return [quota for level in levels if (quota := read(level)) is not None]


def _quota_v2(group: Path) -> float | None:
    words = _words(group / "cpu.max")
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(group: Path) -> float | None:
    quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
    if not quota or not period or int(quota[0]) <= 0:
        return None
    return int(quota[0]) / int(period[0])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
