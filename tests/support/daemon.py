"""A running daemon: started from a configuration, watched, and stopped with its promises checked."""

import http.client
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import proxy
from support.wait import LIMIT_S, wait_for

ROOT = Path(proxy.__file__).resolve().parents[1]
"""Where the package under test is: this checkout with `python -m pytest`, the environment's with `pytest`."""
_COMPLAINTS = re.compile(
    r"traceback|exception|never retrieved|was never awaited|destroyed but", re.IGNORECASE
)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now, below the range from which the kernel takes ports for outgoing connections."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket(family) as sock:
            try:
                sock.bind((host, port))
            except OSError:
                continue
            return port


class Daemon:
    """`homeport run` in a process of its own, with its error output in a file."""

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        *,
        nofile: tuple[int, int] | None = None,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        root: Path = ROOT,
        listen: Sequence[socket.socket] = (),
        own_group: bool = False,
        wait: bool = True,
    ) -> None:
        """`root` is where the package is; `listen` are sockets handed over as systemd does; with `own_group` it has a
        process group of its own, as a shell gives to its jobs; with `wait` it is ready afterwards."""
        self.config = {"admin": {"bind": f"127.0.0.1:{free_port()}"}, **config}
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "homeport.yaml"
        self.file.write_text(json.dumps(self.config, indent=1))  # every JSON text is YAML
        self._stderr = folder / "stderr.txt"
        self._stdout = folder / "stdout.txt"

        def prepare() -> None:
            if nofile is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, nofile)
            if own_group:
                os.setpgid(0, 0)
            if listen:
                os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(listen)))
                high = [
                    os.dup2(sock.fileno(), 200 + index, inheritable=False)
                    for index, sock in enumerate(listen)
                ]
                for index, fd in enumerate(high):
                    os.dup2(fd, 3 + index)
                # `env` is of this process alone; exec takes what is in os.environ.
                command = [sys.executable, "-m", "proxy", "run", "-c", str(self.file), *arguments]
                os.execve(command[0], command, {**os.environ, **variables})

        variables = {"PYTHONUNBUFFERED": "1", **(environ or {})}
        path = [str(root), *filter(None, [variables.get("PYTHONPATH")])]
        variables["PYTHONPATH"] = os.pathsep.join(path)
        with self._stderr.open("wb") as stderr, self._stdout.open("wb") as stdout:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "run", "-c", str(self.file), *arguments],
                cwd=folder,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                preexec_fn=prepare,
            )
        try:
            if wait:
                self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def rewrite(self) -> None:
        """Write `config` to the file, as it is now; the daemon sees that by itself."""
        self.file.write_text(json.dumps(self.config, indent=1))

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self) -> None:
        """Return when it serves."""
        wait_for(self._is_ready, "the daemon to become ready", 30.0)

    def status(self) -> dict[str, Any]:
        """The document of `/api/v1/status`."""
        code, body = self.admin("/api/v1/status")
        assert code == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def workers(self) -> dict[int, int]:
        """Process id of the worker in each slot that serves."""
        return {one["id"]: one["pid"] for one in self.status()["workers"] if one["state"] == "serving"}

    def metrics(self) -> dict[str, float]:
        """Value of each series of `/metrics`, by its name with its labels as written."""
        lines = self.admin("/metrics")[1].decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    def worker_of(self, sock: socket.socket) -> int:
        """Process id of the worker that holds the other end of a client's TCP connection, once it is accepted."""
        inode = wait_for(lambda: _inode_of_peer(sock), "a worker to accept the connection")
        return next(pid for pid in _children(self.pid) if f"socket:[{inode}]" in _files(pid))

    def address(self, listener: str = "plain") -> tuple[str, int] | str:
        """Where the listener called `listener` takes connections."""
        for one in self.config["listeners"]:
            if one["name"] == listener:
                bind = str(one["bind"])
                if bind.startswith("unix:"):
                    return bind.removeprefix("unix:")
                host, _, port = bind.rpartition(":")
                return host.strip("[]"), int(port)
        raise KeyError(listener)

    def admin(self, path: str, host: str | None = None, *, method: str = "GET") -> tuple[int, bytes]:
        """Status and body of a request to the admin API."""
        name, _, port = self.config["admin"]["bind"].rpartition(":")
        connection = http.client.HTTPConnection(name, int(port), timeout=LIMIT_S)
        try:
            connection.request(method, path, headers={"Host": host} if host else {})
            with connection.getresponse() as reply:
                return reply.status, reply.read()
        finally:
            connection.close()

    def _is_ready(self) -> bool:
        code = self.process.poll()
        assert code is None, f"the daemon ended with {code}:\n{self.stderr()}"
        try:
            return self.admin("/readyz")[0] == 200
        except OSError:
            return False

    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def stdout(self) -> str:
        return self._stdout.read_text(errors="replace")

    def rss_bytes(self) -> int:
        """Resident memory of the daemon and its children."""
        return sum(_rss_bytes(pid) for pid in [self.pid, *_children(self.pid)])

    def cpu_s(self) -> float:
        """CPU seconds used so far by the daemon and its children."""
        return sum(_cpu_s(pid) for pid in [self.pid, *_children(self.pid)])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Have all processes of the daemon stand still, the parent first, who would replace the others."""
        for pid in [self.pid, *_children(self.pid)]:
            os.kill(pid, signal.SIGSTOP)
            wait_for(lambda pid=pid: ") T " in Path(f"/proc/{pid}/stat").read_text(), f"{pid} to stand still")

    def thaw(self) -> None:
        """Have them go on."""
        for pid in [*_children(self.pid), self.pid]:
            os.kill(pid, signal.SIGCONT)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """The exit code, once the process ended by itself."""
        return self.process.wait(limit_s)

    def stop(self) -> None:
        """SIGTERM ends it with 0, and nothing went wrong unseen during its life."""
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
            code = self.wait()
        finally:
            self.kill()
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.stderr()[-4000:]}"
        self.assert_quiet()

    def assert_quiet(self) -> None:
        """The error output has no traceback and no forgotten task."""
        assert not _COMPLAINTS.search(self.stderr()), self.stderr()[-6000:]

    def kill(self) -> None:
        """End it without asking; a no-op when it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


StartDaemon = Callable[..., Daemon]
"""`(config, **options)`: a daemon in a folder of its own; whoever asks for it stops it."""


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *_children(int(child))]
    return found


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _files(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(entry))
        except OSError:
            pass  # closed meanwhile
    return found


def _inode_of_peer(sock: socket.socket) -> str:
    """The inode of the socket at the other end, on this machine (proc_net_tcp(5)); empty until it is accepted."""
    table = "tcp6" if sock.family == socket.AF_INET6 else "tcp"
    local, remote = (f"{name[1]:04X}" for name in (sock.getpeername(), sock.getsockname()))
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{local}") and fields[2].endswith(f":{remote}") and fields[9] != "0":
            return fields[9]
    return ""


def _rss_bytes(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
