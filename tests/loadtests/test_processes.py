"""Children run where they should, are measured as a whole tree, and are gone afterwards."""

import os
import sys
from pathlib import Path

import pytest

from loadtests.peers.processes import ChildError, Children, free_port
from tests.support.wait import wait_for

# A parent with one child; each burns a little CPU time, then the child accepts on the port.
TREE = """
import os, socket, sys, time
pid = os.fork()
while time.process_time() < 0.1: pass
if pid == 0:
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        while True: listener.accept()
time.sleep(600)
"""


def test_a_tree_is_pinned_measured_and_ended(tmp_path):
    core = max(os.sched_getaffinity(0))
    port = free_port()
    with Children(tmp_path) as children:
        child = children.start("tree", [sys.executable, "-c", TREE, str(port)], [core])
        child.wait_for_port(port)
        pids = child.pids()
        assert len(pids) == 2
        assert all(os.sched_getaffinity(pid) == {core} for pid in pids)
        assert child.rss_bytes() > 2 << 20
        # 0.1 s each, less a tick of 10 ms each that may be counted late
        wait_for(lambda: child.cpu_s() >= 0.17)
    wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))


def test_an_early_end_is_reported_with_its_output(tmp_path):
    with Children(tmp_path) as children:
        child = children.start(
            "short", [sys.executable, "-c", "print('no such file'); raise SystemExit(3)"], [0]
        )
        with pytest.raises(ChildError, match="short ended with 3: no such file"):
            child.wait_for_port(free_port())


def test_a_missing_program_is_reported(tmp_path):
    with Children(tmp_path) as children, pytest.raises(ChildError, match="cannot be started"):
        children.start("none", [str(tmp_path / "none")], [0])


def test_the_affinity_of_the_caller_stays(tmp_path):
    before = os.sched_getaffinity(0)
    with Children(tmp_path) as children:
        children.start("idle", [sys.executable, "-c", "input()"], [max(before)])
        assert os.sched_getaffinity(0) == before
