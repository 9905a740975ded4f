"""Containers of the tests: started by the `docker` command, watched, and always removed.

The command is used, not a library, because it is what users type.
"""

import http.client
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support.wait import LIMIT_S, wait_for

ENGINE_S = 60.0
"""Seconds for any command but a build."""

_numbers = itertools.count(1)


def docker(
    *arguments: str, check: bool = True, limit_s: float = ENGINE_S
) -> subprocess.CompletedProcess[str]:
    """Run `docker ARGUMENTS`; a failure shows what it printed."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=limit_s, check=False
    )
    if check:
        output = (done.stdout + done.stderr)[-4000:]
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.returncode}\n{output}"
    return done


def why_no_engine() -> str | None:
    """Why containers cannot be started from here, `None` when they can."""
    if shutil.which("docker") is None:
        return "the docker command is not installed"
    host = os.environ.get("DOCKER_HOST", "unix:")
    if not host.startswith("unix:"):
        return f"the engine at {host} cannot mount files of this machine"
    try:
        done = docker("version", "--format", "{{.Server.Version}}", check=False, limit_s=10)
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    return None if done.returncode == 0 else "no Docker engine answers"


class Container:
    """One running container; `options` are those of `docker run` and `command` what follows the image."""

    def __init__(self, image: str, *command: str, options: tuple[str, ...] = ()) -> None:
        self.name = f"homeport-test-{os.getpid()}-{next(_numbers)}"
        try:
            docker("run", "--detach", "--name", self.name, *options, image, *command)
        except BaseException:
            self.remove()
            raise

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.name, check=False)

    def inspect(self) -> Any:
        return json.loads(docker("inspect", self.name).stdout)[0]

    def port(self, port: int) -> int:
        """The port of this machine's loopback that `port` of the container is published at."""
        return int(docker("port", self.name, f"{port}/tcp").stdout.splitlines()[0].rpartition(":")[2])

    def logs(self) -> tuple[str, str]:
        """Standard output and standard error so far."""
        done = docker("logs", self.name)
        return done.stdout, done.stderr

    def get(self, path: str, port: int, limit_s: float = LIMIT_S) -> tuple[int, bytes]:
        """Status and complete body of a GET at a published port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(port), timeout=limit_s)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def wait_until_healthy(self) -> None:
        """Wait for the engine's verdict, by the image's own health check."""
        self.wait_for_health("healthy")

    def wait_for_health(self, wanted: str) -> None:
        def is_reached() -> bool:
            state = self.inspect()["State"]
            assert state["Running"], f"ended with {state['ExitCode']}:\n{''.join(self.logs())}"
            return bool(state["Health"]["Status"] == wanted)

        wait_for(is_reached, f"{self.name} to be {wanted}", 30.0)

    def wait_for_message(self, text: str) -> None:
        """Wait until standard error has `text`."""
        wait_for(lambda: text in self.logs()[1], f"{text!r} in the log of {self.name}")

    def exit_code(self) -> int:
        state = self.inspect()["State"]
        assert not state["Running"]
        return int(state["ExitCode"])


def write_config(folder: Path, **sections: Any) -> Path:
    """A configuration file that any user of a container can read."""
    folder.chmod(0o755)
    file = folder / "homeport.yaml"
    file.write_text(json.dumps(sections))  # every JSON text is YAML
    file.chmod(0o644)
    return file
