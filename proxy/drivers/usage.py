"""What instances use, from samples of the Docker Engine's `stats?one-shot=true`. Pure.

One-shot samples have no earlier one to compare with (`precpu_stats` is empty), and answer in milliseconds where the
others take one to two seconds; so the sample before is kept here. CPU is time used by time passed, both from the
engine, whose clock is not ours."""

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.drivers.driver import Instance, Usage
from proxy.drivers.engine_answers import engine_time

Json = Mapping[str, Any]
# Between two samples; below it the figure is noise.
_MIN_INTERVAL_S = 0.05


class CpuMeter:
    """Cores that each instance used on average between its last two samples."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"<CpuMeter of {len(self._last)}>"

    def add(self, instance_id: str, used_s: float, read_at: float) -> float | None:
        """CPU seconds per second since the sample before: 3 s used in 2 s are 1.5 cores. `None` without one, and after
        a restart, which counts anew. `read_at` is when the sample was taken, in seconds of any clock that is always
        the same."""
        before = self._last.get(instance_id)
        if before is None or used_s < before[0] or read_at < before[1]:
            self._last[instance_id] = used_s, read_at
            return None
        if read_at - before[1] < _MIN_INTERVAL_S:
            return None
        self._last[instance_id] = used_s, read_at
        return (used_s - before[0]) / (read_at - before[1])

    def keep(self, ids: Iterable[str]) -> None:
        """Forget all instances but these."""
        wanted = set(ids)
        self._last = {key: value for key, value in self._last.items() if key in wanted}


def usage_of(instance: Instance, sample: Json, meter: CpuMeter) -> Usage | None:
    """What `instance` uses by a sample of the engine's; `None` when it does not run and so has no figures."""
    memory = sample.get("memory_stats") or {}
    cpu = sample.get("cpu_stats") or {}
    read_at = engine_time(str(sample.get("read", "")))
    used_ns = (cpu.get("cpu_usage") or {}).get("total_usage")
    if read_at is None or used_ns is None or "usage" not in memory:
        return None
    cores = meter.add(instance.id, used_ns / 1e9, read_at)
    cpu_limit = instance.cpus or float(cpu.get("online_cpus") or 0)
    held = memory_in_use(memory)
    memory_limit = instance.memory_bytes or int(memory.get("limit") or 0)
    return Usage(
        memory_bytes=held,
        memory_percent=100.0 * held / memory_limit if memory_limit else 0.0,
        cpus=cores,
        cpu_percent=100.0 * cores / cpu_limit if cores is not None and cpu_limit else None,
        pids=int((sample.get("pids_stats") or {}).get("current") or 0),
    )


def memory_in_use(memory: Json) -> int:
    """Bytes that an instance needs: its usage without file pages that were not used lately, as `docker stats` has it.

    They are `total_inactive_file` with version 1 of control groups and `inactive_file` with version 2, where the
    former does not exist. With 100 MiB of usage, 30 of it such pages: 70 MiB."""
    usage = int(memory["usage"])
    stats = memory.get("stats") or {}
    inactive = int(stats.get("total_inactive_file", stats.get("inactive_file", 0)))
    return usage - inactive if inactive < usage else usage
