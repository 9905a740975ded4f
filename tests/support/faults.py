"""Faults put into the processes of a daemon: a `sitecustomize` on its PYTHONPATH, which knows what it is put into.

Nothing of it is in the product. A file in the folder switches a fault on while it is there.
"""

from pathlib import Path

_CODE = """
import os, signal, sys, time

FOLDER = os.path.dirname(__file__)
ROLE = next((each for each in ("control", "worker", "parent") if f"proxy.{each}" in sys.orig_argv), "")


def is_on(fault):
    return os.path.exists(os.path.join(FOLDER, fault))


def loop(*_):
    while True:
        pass


if ROLE == "worker":
    signal.signal(signal.SIGUSR2, loop)
    if is_on("worker-crashes"):
        os._exit(7)
if ROLE == "control" and is_on("control-crashes"):
    os._exit(8)
if ROLE == "control" and is_on("slow-control"):
    time.sleep(1.0)
if ROLE == "control" and is_on("dns-down"):
    import socket

    def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")

    socket.getaddrinfo = getaddrinfo
"""

WORKER_CRASHES = "worker-crashes"
"""Workers end with 7 as soon as they start."""
CONTROL_CRASHES = "control-crashes"
"""Control ends with 8 as soon as it starts."""
SLOW_CONTROL = "slow-control"
"""Control takes a second longer to start."""
DNS_DOWN = "dns-down"
"""No name can be resolved by a control that starts now."""


class Faults:
    """The faults of one daemon. A worker that gets SIGUSR2 never comes back from its handler."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        (folder / "sitecustomize.py").write_text(_CODE)

    @property
    def environ(self) -> dict[str, str]:
        """For the daemon."""
        return {"PYTHONPATH": str(self._folder)}

    def switch(self, fault: str, is_on: bool) -> None:
        """Switch a fault on or off for processes that start from now on."""
        if is_on:
            (self._folder / fault).touch()
        else:
            (self._folder / fault).unlink()
