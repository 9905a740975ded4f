"""How many workers `auto` means, by affinity and control group."""

import os

import pytest

from proxy.controlplane.cores import MAX_AUTO_WORKERS, auto_workers, cpu_quota


@pytest.fixture
def machine(tmp_path):
    def machine(cgroup, files):
        for name, text in {"proc/self/cgroup": cgroup, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return machine


V2 = "0::/system.slice/docker-1.scope\n"
V1 = "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n"
ROOT = "sys/fs/cgroup/"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        (V2, {}, None),
        (V2, {ROOT + "system.slice/docker-1.scope/cpu.max": "max 100000\n"}, None),
        (V2, {ROOT + "system.slice/docker-1.scope/cpu.max": "150000 100000\n"}, 1.5),
        (
            V2,
            {
                ROOT + "system.slice/docker-1.scope/cpu.max": "400000 100000",
                ROOT + "system.slice/cpu.max": "50000 100000",
            },
            0.5,
        ),
        ("0::/\n", {ROOT + "cpu.max": "200000 100000\n"}, 2.0),
        (V2, {ROOT + "cpu.max": "200000 100000\n"}, 2.0),  # the path is the host's, the mount our own group
        (
            V1,
            {
                ROOT + "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "300000\n",
                ROOT + "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            V1,
            {
                ROOT + "cpu/docker/1/cpu.cfs_quota_us": "-1\n",
                ROOT + "cpu/docker/1/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ("", {}, None),
    ],
)
def test_quota(machine, cgroup, files, expected):
    assert cpu_quota(machine(cgroup, files)) == expected


def test_no_proc(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [(4, "max", 4), (4, "150000", 2), (4, "900000", 4), (64, "max", MAX_AUTO_WORKERS), (1, "1000", 1)],
)
def test_auto_workers(machine, monkeypatch, cores, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert auto_workers(machine("0::/\n", {ROOT + "cpu.max": f"{quota} 100000"})) == expected
