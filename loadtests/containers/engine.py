"""The Docker Engine of the benchmark: the one that DOCKER_HOST names, or one of its own that may be restarted."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import docker
import docker.errors

from loadtests.daemon import wait_for
from loadtests.peers.processes import Child, ChildError, Children

IMAGE = "homeport-loadtest"
BRIDGE = "homeport-lt0"
"""Of an engine of ours."""
BRIDGE_ADDRESS = "198.18.251.1/24"
"""Of a network that is for benchmarks (RFC 2544)."""
SOURCE = Path(__file__).parent / "service.c"
END_LIMIT_S = 60.0
# Nothing but the program: no shell, no library.
_DOCKERFILE = 'FROM scratch\nCOPY service /service\nENTRYPOINT ["/service"]\n'


class Engine:
    """The engine at `host`; empty = as the environment says."""

    def __init__(self, host: str = "") -> None:
        self.host = host or os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        try:
            self.api: Any = docker.APIClient(base_url=self.host, version="auto", timeout=60)
        except docker.errors.DockerException as error:
            raise ChildError(f"no Docker Engine answers at {self.host}: {error}") from error

    def build(self) -> None:
        """Make the image of the service. Raises `ChildError`."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise ChildError("the image's program needs a C compiler: install gcc")
        with tempfile.TemporaryDirectory(prefix="homeport-image-") as folder:
            program = Path(folder) / "service"
            command = [compiler, "-static", "-O2", "-pthread", "-o", str(program), str(SOURCE)]
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                raise ChildError(
                    f"the image's program cannot be linked statically (libc6-dev?): {made.stderr}"
                )
            (Path(folder) / "Dockerfile").write_text(_DOCKERFILE)
            try:
                for line in self.api.build(path=folder, tag=IMAGE, rm=True, decode=True):
                    if "error" in line:
                        raise ChildError(f"the image cannot be built: {line['error']}")
            except docker.errors.APIError as error:
                raise ChildError(f"the image cannot be built: {error}") from error

    def remove(self, owner: str) -> None:
        """Remove the containers of `owner`, its lease included."""
        for label in (f"homeport.owner={owner}", f"homeport.lease={owner}"):
            for found in self.api.containers(all=True, filters={"label": label}):
                try:
                    self.api.remove_container(found["Id"], v=True, force=True)
                except docker.errors.NotFound:
                    pass  # gone by itself


class OwnEngine(Engine):
    """An engine of the benchmark's own, with everything of it below `directory`. Needs root."""

    def __init__(self, children: Children, directory: Path, *, live_restore: bool) -> None:
        program = shutil.which("dockerd")
        if program is None or shutil.which("ip") is None or os.geteuid():
            raise ChildError("an engine that may be restarted needs dockerd, iproute2 and root")
        directory.mkdir()
        self._children = children
        self._directory = directory
        self._command = [
            program,
            f"--host=unix://{directory}/docker.sock",
            f"--data-root={directory}/data",
            f"--exec-root={directory}/exec",
            f"--pidfile={directory}/pid",
            f"--live-restore={str(live_restore).lower()}",
            # Another engine's bridge and rules are left alone. An engine without any bridge would remove docker0.
            f"--bridge={BRIDGE}",
            "--iptables=false",
            "--ip6tables=false",
            "--storage-driver=vfs",
        ]
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        try:
            _run("ip", "address", "add", BRIDGE_ADDRESS, "dev", BRIDGE)
            _run("ip", "link", "set", BRIDGE, "up")
            self._child = self._start()
            super().__init__(f"unix://{directory}/docker.sock")
        except BaseException:
            self._remove_traces()
            raise

    def _start(self) -> Child:
        child = self._children.start("dockerd", self._command, sorted(os.sched_getaffinity(0)))
        wait_for(self._answers, "dockerd to answer", child)
        return child

    def _answers(self) -> bool:
        try:
            client = docker.APIClient(base_url=f"unix://{self._directory}/docker.sock", timeout=5)
            client.ping()
            client.close()
        except (docker.errors.DockerException, OSError):
            return False
        return True

    def _end(self) -> None:
        self._child.process.send_signal(signal.SIGTERM)
        self._child.process.wait(END_LIMIT_S)

    def restart(self) -> None:
        """End it as service managers do, and start it again."""
        self._end()
        self._child = self._start()

    def close(self) -> None:
        """Remove what it runs, and end it."""
        try:
            for found in self.api.containers(all=True):
                self.api.remove_container(found["Id"], v=True, force=True)
            self._end()
        finally:
            self._remove_traces()

    def _remove_traces(self) -> None:
        """Mounts that an engine with live-restore leaves, and the bridge."""
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if (place := line.split()[4]).startswith(f"{self._directory}/"):
                _run("umount", "--lazy", place)
        _run("ip", "link", "delete", BRIDGE)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ChildError(f"{' '.join(command)}: {done.stderr.strip()}")
