"""A daemon to load and to harm: started from a configuration, asked by its admin API, known by its processes."""

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loadtests.peers.processes import Child, ChildError, Children, free_port

Document = dict[str, Any]
LIMIT_S = 30.0
_ADMIN_S = 1.0
"""Longest wait for an answer of the admin API, which may hang with its process."""

# The `sitecustomize` of the daemon's processes: a worker that gets SIGUSR2 never comes back from its handler.
_LOOP_ON_SIGNAL = """
import signal, sys

def loop(*_):
    while True:
        pass

if "proxy.worker" in sys.orig_argv:
    signal.signal(signal.SIGUSR2, loop)
"""


class Daemon:
    """`homeport run` in front of one origin on 127.0.0.1, or of what its configuration says."""

    def __init__(
        self,
        children: Children,
        directory: Path,
        origin_port: int,
        *,
        workers: int,
        keys: Document | None = None,
    ) -> None:
        """`keys` replace those of the configuration's top level; with other clusters, one origin is no bound."""
        self.port, self.admin_port = free_port(), free_port()
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(_LOOP_ON_SIGNAL)
        self.document = {**self._config(origin_port, workers), **(keys or {})}
        self.file = directory / "homeport.yaml"
        self.write(self.document)
        path = os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH", "")]))
        self.child: Child = children.start(
            f"daemon-{directory.name}",
            [sys.executable, "-m", "proxy", "run", "-c", str(self.file)],
            sorted(os.sched_getaffinity(0)),
            {"PYTHONPATH": path},
        )
        wait_for(self.is_whole, "the daemon to be ready", self.child)

    def _config(self, origin_port: int, workers: int) -> Document:
        return {
            "listeners": [{"bind": f"127.0.0.1:{self.port}"}],
            "admin": {"bind": f"127.0.0.1:{self.admin_port}"},
            "workers": workers,
            "drain_timeout": "5m",
            "clusters": [{"name": "origin", "endpoints": [{"address": f"127.0.0.1:{origin_port}"}]}],
            "routes": [{"match": {"path_prefix": "/"}, "cluster": "origin"}],
        }

    def write(self, document: Document | str) -> None:
        """Replace the file, as editors do: by a rename. Every JSON text is YAML."""
        new = self.file.with_suffix(".new")
        new.write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
        new.rename(self.file)

    @property
    def pid(self) -> int:
        """The parent's process id, which stays over a re-exec."""
        return self.child.process.pid

    def admin(self, path: str, *, method: str = "GET", timeout_s: float = _ADMIN_S) -> bytes:
        """The body of the admin API's answer, whatever its status. Raises `OSError`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=timeout_s)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def status(self) -> Document:
        """The document of `/api/v1/status`. Raises `OSError`."""
        found: Document = json.loads(self.admin("/api/v1/status"))
        return found

    def metrics(self) -> dict[str, float]:
        """Each series of `/metrics`, by its name with its labels as written. Raises `OSError`."""
        lines = self.admin("/metrics").decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    def workers(self) -> dict[int, int]:
        """Process id of the worker in each slot that serves. Raises `OSError`."""
        return {one["id"]: one["pid"] for one in self.status()["workers"] if one["state"] == "serving"}

    def is_whole(self) -> bool:
        """`is_whole`, now."""
        try:
            return is_whole(self.status())
        except OSError:
            return False

    def worker_of(self, sock: socket.socket) -> int:
        """Process id of the worker with the other end of a connection; 0 when none has it any more."""
        remote = f":{sock.getsockname()[1]:04X}"
        local = f":{self.port:04X}"
        inode = ""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(local) and fields[2].endswith(remote):
                inode = fields[9]
        return next((pid for pid in self.child.pids() if f"socket:[{inode}]" in _files(pid)), 0)


def is_whole(status: Document) -> bool:
    """As many workers as wanted serve the last snapshot, and no others."""
    serving = [one for one in status["workers"] if one["state"] == "serving"]
    return status["unready_reason"] is None and len(serving) == status["workers_wanted"]


def _files(pid: int) -> set[str]:
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            found.add(os.readlink(entry))
    except OSError:
        pass  # the process, or the file, is gone by now
    return found


def wait_for(condition: Callable[[], object], what: str, child: Child | None = None) -> None:
    """Return when `condition` is true; raises `ChildError` after `LIMIT_S`, or when `child` has ended."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        if child is not None and child.process.poll() is not None:
            raise ChildError(f"{child.name} ended with {child.process.returncode}: {child.tail()}")
        if time.monotonic() >= end:
            raise ChildError(f"not within {LIMIT_S:g} s: {what}")
        time.sleep(0.01)


def total(metrics: Mapping[str, float], family: str) -> int:
    """The sum over all series of `family`."""
    return int(sum(value for name, value in metrics.items() if name.partition("{")[0] == family))
