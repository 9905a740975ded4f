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

COMPILE = os.environ.get("HOMEPORT_COMPILE", "")
"""1 for the compiled build."""
CONFIG = "/etc/homeport/homeport.yaml"
# Nothing that the proxy does needs more than this.
HARDENED = (
    *("--user", "12345:54321", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--pids-limit", "64"),
)
# The image's own check, asked more often than a user would.
QUICK_HEALTH = ("--health-interval", "1s")
PUBLISHED = ("--publish", "127.0.0.1::8080")

# An endpoint: its name at /, a large body at /large, and /hold, which is answered only after /release.
ENDPOINT = """
import http.server, sys, threading
holding, released = threading.Event(), threading.Event()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/hold":
            holding.set()
            released.wait(60)
        elif self.path == "/release":
            released.set()
        bodies = {"/large": bytes(range(256)) * 16384, "/holding": str(holding.is_set()).encode()}
        body = bodies.get(self.path, sys.argv[1].encode())
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""

# Prints (number, command) of each process but its own; the image has no ps.
PROCESSES = """
import json, os
found = []
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        try:
            command = open(f"/proc/{name}/cmdline", "rb").read()
        except OSError:
            continue
        found.append((int(name), command.replace(b"\\0", b" ").decode()))
print(json.dumps(found))
"""

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


def get(port: int, path: str, limit_s: float = LIMIT_S) -> tuple[int, bytes]:
    """Status and complete body of a GET at a port of this machine's loopback, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


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

    def signal(self, name: str) -> None:
        """Send a signal to PID 1 of the container."""
        docker("kill", "--signal", name, self.name)

    def kill(self, pid: int) -> None:
        """`kill -9` inside the container, of a process by its number there."""
        docker("exec", self.name, "sh", "-c", f"kill -9 {pid}")

    def processes(self) -> dict[int, str]:
        """The command of each process in the container by its number there; a zombie has none."""
        return dict(json.loads(docker("exec", self.name, "python", "-S", "-c", PROCESSES).stdout))

    def pids(self, module: str) -> list[int]:
        """The processes of the container that run `module`."""
        return sorted(pid for pid, command in self.processes().items() if f" -m {module} " in command)

    def logs(self) -> tuple[str, str]:
        """Standard output and standard error so far."""
        done = docker("logs", self.name)
        return done.stdout, done.stderr

    def get(self, path: str, port: int, limit_s: float = LIMIT_S) -> tuple[int, bytes]:
        """Status and complete body of a GET at a published port."""
        return get(self.port(port), path, limit_s)

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

    def wait_for_end(self) -> int:
        """The exit code, once the container has ended by itself."""
        wait_for(lambda: not self.inspect()["State"]["Running"], f"{self.name} to end")
        return self.exit_code()

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


def start_endpoint(image: str, network: str, name: str) -> Container:
    """An endpoint that the network knows as `name`. Python is in the image anyway."""
    options = ("--entrypoint", "python", "--no-healthcheck", "--publish", "127.0.0.1::8000")
    options += ("--network", network, "--network-alias", name)
    return Container(image, "-c", ENDPOINT, name, options=options)


def settings(**more: Any) -> dict[str, Any]:
    """A configuration with both endpoints; `more` are sections added or replaced."""
    return {
        "listeners": [{"bind": "0.0.0.0:8080"}],
        "clusters": [{"name": "app", "endpoints": [{"address": "alpha:8000"}, {"address": "beta:8000"}]}],
        "routes": [{"match": {"path_prefix": "/"}, "cluster": "app"}],
        "access_log": {"sink": "stdout"},
        **more,
    }


def answers(container: Container, port: int) -> bool:
    """Whether `container` answers 200 at its port `port`."""
    try:
        return container.get("/", port)[0] == 200
    except OSError:
        return False
