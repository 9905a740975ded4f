"""What instances use, from samples as engines with either version of control groups give them."""

import pytest

from proxy.drivers.driver import Instance, State
from proxy.drivers.usage import CpuMeter, memory_in_use, usage_of

ONE = Instance("c1", "etl-1", "etl", State.RUNNING, cpus=0.5, memory_bytes=64 << 20)
UNLIMITED = Instance("c1", "etl-1", "etl", State.RUNNING)

# Recorded with Engine 20.10 and version 1 of control groups; shortened by what is not read.
V1 = {
    "read": "2026-11-23T07:49:40.683511714Z",
    "preread": "0001-01-01T00:00:00Z",
    "pids_stats": {"current": 2},
    "cpu_stats": {
        "cpu_usage": {"total_usage": 32216496, "percpu_usage": [14373404, 17843092]},
        "system_cpu_usage": 77730160000000,
        "online_cpus": 2,
    },
    "precpu_stats": {"cpu_usage": {"total_usage": 0}},
    "memory_stats": {
        "usage": 987136,
        "max_usage": 4079616,
        "stats": {"inactive_file": 90000, "total_inactive_file": 94208, "total_cache": 135168},
        "limit": 67108864,
    },
}
# The form of version 2: other names, no maximum, no usage per core.
V2 = {
    "read": "2026-11-23T07:49:41.183511714Z",
    "pids_stats": {"current": 3, "limit": 32},
    "cpu_stats": {
        "cpu_usage": {"total_usage": 282216496, "usage_in_kernelmode": 1, "usage_in_usermode": 2},
        "system_cpu_usage": 77730160000000,
        "online_cpus": 2,
    },
    "memory_stats": {
        "usage": 33554432,
        "stats": {"anon": 20971520, "file": 12582912, "inactive_file": 8388608, "active_file": 4194304},
        "limit": 8589934592,
    },
}


def test_a_first_sample_knows_memory_alone():
    usage = usage_of(ONE, V1, CpuMeter())
    assert (usage.memory_bytes, usage.pids) == (987136 - 94208, 2)
    assert usage.memory_percent == pytest.approx(100 * 892928 / (64 << 20))
    assert (usage.cpus, usage.cpu_percent) == (None, None)


def test_the_second_knows_cores_of_the_limit():
    meter = CpuMeter()
    usage_of(ONE, V1, meter)
    usage = usage_of(ONE, V2, meter)  # 0.25 s used in 0.5 s
    assert usage.cpus == pytest.approx(0.5) and usage.cpu_percent == pytest.approx(100.0)
    assert usage.memory_bytes == 25165824


def test_without_limits_the_host_is_the_measure():
    meter = CpuMeter()
    usage_of(UNLIMITED, V1, meter)
    usage = usage_of(UNLIMITED, V2, meter)
    assert usage.cpu_percent == pytest.approx(25.0)
    assert usage.memory_percent == pytest.approx(100 * 25165824 / 8589934592)


def test_what_does_not_run_has_no_figures():
    ended = {
        "read": "0001-01-01T00:00:00Z",
        "cpu_stats": {"cpu_usage": {"total_usage": 0}},
        "memory_stats": {},
    }
    assert usage_of(ONE, ended, CpuMeter()) is None
    assert usage_of(ONE, {}, CpuMeter()) is None


def test_file_pages_are_not_taken_off_twice_or_below_zero():
    assert memory_in_use({"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 20}}) == 70
    assert memory_in_use({"usage": 100, "stats": {"inactive_file": 100}}) == 100
    assert memory_in_use({"usage": 100}) == 100


def test_cores_begin_anew_after_a_restart_and_when_time_goes_back():
    meter = CpuMeter()
    assert meter.add("a", 10.0, 5.0) is None
    assert meter.add("a", 13.0, 7.0) == 1.5
    assert meter.add("a", 0.5, 9.0) is None
    assert meter.add("a", 1.5, 11.0) == 0.5
    assert meter.add("a", 2.5, 10.0) is None
    assert meter.add("a", 2.6, 10.01) is None  # too soon to say
    assert meter.add("a", 4.5, 12.0) == 1.0
    meter.keep(["b"])
    assert repr(meter) == "<CpuMeter of 0>"
