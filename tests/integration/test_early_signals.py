"""Signals that come while a process has just been started and cannot handle them yet."""

import os
import signal
from pathlib import Path

import pytest
from support import settings
from support.client import Client, request
from support.daemon import Daemon, StartDaemon
from support.wait import wait_for


def processes(daemon: Daemon, module: str) -> set[int]:
    """The children of the daemon that run `module`."""
    found = set()
    for task in Path(f"/proc/{daemon.pid}/task").glob("*/children"):
        for pid in task.read_text().split():
            if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.add(int(pid))
    return found


def is_ready(daemon: Daemon) -> bool:
    try:
        return daemon.admin("/readyz")[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    ("module", "signum"), [("proxy.worker", signal.SIGUSR1), ("proxy.control", signal.SIGHUP)]
)
def test_a_process_that_starts_is_not_ended(
    start_daemon: StartDaemon, module: str, signum: signal.Signals
) -> None:
    daemon = start_daemon(
        {
            "listeners": [settings.listener()],
            "routes": [settings.route({"respond": {"status": 200}}, path_prefix="/")],
            "workers": 1,
        }
    )
    (old,) = processes(daemon, module)
    os.kill(old, signal.SIGKILL)
    (new,) = wait_for(lambda: processes(daemon, module) - {old}, "another process")
    daemon.signal(signum)
    with Client(daemon.address()) as client:  # waits for the worker in the backlog
        client.send(request("GET", "/"))
        assert client.reply().status == 200
    wait_for(lambda: is_ready(daemon), "the admin API to answer again", 30.0)
    assert processes(daemon, module) == {new}
    daemon.stop()
