"""The image, built from this checkout and run by a real engine.

Skipped unless an engine answers and has the base image: that of the Dockerfile, or HOMEPORT_BASE_IMAGE. Packages
are installed in HOMEPORT_BUILD_IMAGE, by default the base image. The image stays behind as `homeport:test`, so that
the next run finds the layers; containers and networks do not.
"""

import hashlib
import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from containers import Container, docker, why_no_engine, write_config
from support.wait import wait_for

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "homeport:test"
BUILD_S = 300.0
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


@pytest.fixture(scope="module")
def image() -> str:
    """The name of the image, just built."""
    if reason := why_no_engine():
        pytest.skip(reason)
    dockerfile = (ROOT / "Dockerfile").read_text()
    default = dockerfile.partition("\nARG BASE_IMAGE=")[2].partition("\n")[0]
    base = os.environ.get("HOMEPORT_BASE_IMAGE", default)
    build = os.environ.get("HOMEPORT_BUILD_IMAGE", base)
    for name in (base, build):
        if docker("image", "inspect", name, check=False).returncode:
            pytest.skip(f"the engine has no image {name}: pull it, or set HOMEPORT_BASE_IMAGE")
    arguments = ("--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"BUILD_IMAGE={build}")
    docker("build", "--tag", IMAGE, *arguments, str(ROOT), limit_s=BUILD_S)
    return IMAGE


@pytest.fixture(scope="module")
def network(image: str) -> Iterator[str]:
    name = f"homeport-test-{os.getpid()}"
    docker("network", "create", name)
    yield name
    docker("network", "rm", name, check=False)


@pytest.fixture(scope="module")
def endpoints(image: str, network: str) -> Iterator[dict[str, Container]]:
    """Two endpoints, `alpha` and `beta`, which the network knows by these names."""
    running: dict[str, Container] = {}
    try:
        for name in ("alpha", "beta"):
            running[name] = _endpoint(image, network, name)
        for one in running.values():
            wait_for(lambda one=one: _answers(one, 8000), "an endpoint to answer")
        yield running
    finally:
        for one in running.values():
            one.remove()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with both endpoints."""
    return write_config(tmp_path, **_settings())


@pytest.fixture
def mounted(config: Path, network: str, endpoints: dict[str, Container]) -> tuple[str, ...]:
    """Options of `docker run` for a proxy as users should run it, in front of the endpoints."""
    return (*HARDENED, *QUICK_HEALTH, *PUBLISHED, "--network", network, "--volume", f"{config}:{CONFIG}:ro")


def _endpoint(image: str, network: str, name: str) -> Container:
    """An endpoint that the network knows as `name`. Python is in the image anyway."""
    options = ("--entrypoint", "python", "--no-healthcheck", "--publish", "127.0.0.1::8000")
    options += ("--network", network, "--network-alias", name)
    return Container(image, "-c", ENDPOINT, name, options=options)


def _settings(**more: Any) -> dict[str, Any]:
    return {
        "listeners": [{"bind": "0.0.0.0:8080"}],
        "clusters": [{"name": "app", "endpoints": [{"address": "alpha:8000"}, {"address": "beta:8000"}]}],
        "routes": [{"match": {"path_prefix": "/"}, "cluster": "app"}],
        "access_log": {"sink": "stdout"},
        **more,
    }


def _answers(container: Container, port: int) -> bool:
    try:
        return container.get("/", port)[0] == 200
    except OSError:
        return False


def test_declares_how_it_is_run(image: str) -> None:
    config = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert config["User"].partition(":")[0].isdigit() and not config["User"].startswith("0")
    assert config["Entrypoint"] == ["homeport"]
    assert config["Cmd"] == ["run", "--config", CONFIG]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.version"] == project["version"]
    assert config["Labels"]["org.opencontainers.image.description"] == project["description"]
    assert docker("run", "--rm", image, "--version").stdout == f"homeport {project['version']}\n"


def test_keeps_nothing_of_the_build(image: str) -> None:
    # Of the build's files only what runs: no pip, no work directory, and bytecode in its one place.
    find = (
        "find /opt/homeport -name pip -o -name __pycache__; "
        "ls -d /build /tools /wheel /dependencies /application 2>/dev/null"
    )
    assert docker("run", "--rm", "--entrypoint", "sh", image, "-c", find, check=False).stdout == ""
    said = docker("history", "--no-trunc", image).stdout + docker("image", "inspect", image).stdout
    assert "PIP_" not in said


def test_starts_with_complete_bytecode(image: str) -> None:
    program = (
        "import sys, pathlib, proxy.cli, proxy.daemon, proxy.demo; "
        "print(*(m.__cached__ for m in list(sys.modules.values()) if getattr(m, '__cached__', None) "
        "and m.__file__.endswith('.py') and not pathlib.Path(m.__cached__).exists()))"
    )
    assert docker("run", "--rm", "--entrypoint", "python", image, "-c", program).stdout.strip() == ""


def test_checks_configurations(image: str, tmp_path: Path) -> None:
    default = docker("run", "--rm", *HARDENED, image, "check", CONFIG)
    assert default.stdout.startswith(f"{CONFIG}: ok: 1 listener, 1 cluster")
    faulty = write_config(tmp_path, **_settings(drain_timeout="soon"))
    mount = f"{faulty}:{CONFIG}:ro"
    done = docker("run", "--rm", *HARDENED, "--volume", mount, image, "check", CONFIG, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith(f"{CONFIG}:1:") and "drain_timeout" in done.stdout


def test_proxies_without_privileges(image: str, mounted: tuple[str, ...]) -> None:
    large = hashlib.sha256(bytes(range(256)) * 16384).digest()
    with Container(image, options=mounted) as proxy:
        proxy.wait_until_healthy()
        assert {proxy.get("/", 8080)[1] for _ in range(4)} == {b"alpha", b"beta"}
        assert hashlib.sha256(proxy.get("/large", 8080)[1]).digest() == large
        assert "alpha" in docker("exec", proxy.name, "homeport", "status").stdout

        def lines() -> list[Any]:
            return [json.loads(line) for line in proxy.logs()[0].splitlines()]

        wait_for(lambda: len(lines()) == 5, "five lines of the access log on standard output")
        errors = proxy.logs()[1]
        assert "listener" in errors and "Traceback" not in errors
        docker("stop", proxy.name)
        assert proxy.exit_code() == 0


def test_reopens_its_access_log(image: str, mounted: tuple[str, ...], config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    folder.chmod(0o777)
    write_config(config.parent, **_settings(access_log={"sink": "/logs/access.log"}))
    log, rotated = folder / "access.log", folder / "access.log.1"
    with Container(image, options=(*mounted, "--volume", f"{folder}:/logs")) as proxy:
        proxy.wait_until_healthy()
        proxy.get("/", 8080)
        wait_for(lambda: log.exists() and log.stat().st_size, "a line")
        log.rename(rotated)
        docker("kill", "--signal", "USR1", proxy.name)
        # The signal and the request may overtake each other, so ask until the new file is there.
        wait_for(
            lambda: proxy.get("/", 8080) and log.exists() and log.stat().st_size, "a line in the new file"
        )
        assert proxy.inspect()["State"]["Running"]
    assert rotated.stat().st_size > 0


@pytest.mark.parametrize("init", [(), ("--init",)], ids=["as PID 1", "below an init"])
def test_completes_requests_when_stopped(
    image: str, mounted: tuple[str, ...], network: str, init: tuple[str, ...], config: Path
) -> None:
    """A request is in flight when `docker stop` is called; it is answered in full, then the status is 0."""
    clusters = [{"name": "app", "endpoints": [{"address": "slow:8000"}]}]
    write_config(config.parent, **_settings(clusters=clusters, drain_timeout="50s"))
    with _endpoint(image, network, "slow") as endpoint, ThreadPoolExecutor(1) as pool:
        wait_for(lambda: _answers(endpoint, 8000), "the endpoint to answer")
        with Container(image, options=(*mounted, *init)) as proxy:
            proxy.wait_until_healthy()
            try:
                reply = pool.submit(proxy.get, "/hold", 8080, 60.0)
                wait_for(lambda: endpoint.get("/holding", 8000)[1] == b"True", "the request to arrive")
                stop = subprocess.Popen(
                    ["docker", "stop", "--time", "60", proxy.name], stdout=subprocess.DEVNULL
                )
                proxy.wait_for_message("draining")
                assert stop.poll() is None and not reply.done()
            finally:
                endpoint.get("/release", 8000)
            assert reply.result() == (200, b"slow")
            assert stop.wait(30) == 0
            assert proxy.exit_code() == 0
            assert "stopped" in proxy.logs()[1]


def test_works_without_a_configuration_of_ones_own(
    image: str, network: str, endpoints: dict[str, Container]
) -> None:
    options = (*HARDENED, *QUICK_HEALTH, *PUBLISHED, "--network", network)
    with Container(image, options=(*options, "--env", "HOMEPORT_ENDPOINT=beta:8000")) as proxy:
        proxy.wait_until_healthy()
        wait_for(lambda: proxy.get("/", 8080) == (200, b"beta"), "the endpoint's answer")
    with Container(image, options=options) as proxy:
        proxy.wait_until_healthy()
        assert proxy.get("/", 8080)[0] == 503


def test_health_follows_the_admin_api(image: str, tmp_path: Path) -> None:
    """The check asks where HOMEPORT_ADMIN says, a Unix socket too, and fails when nobody answers there."""
    config = write_config(tmp_path, **_settings(admin={"bind": "unix:/tmp/admin.sock"}))
    options = (*HARDENED, *QUICK_HEALTH, "--tmpfs", "/tmp", "--volume", f"{config}:{CONFIG}:ro")
    with Container(image, options=(*options, "--env", "HOMEPORT_ADMIN=unix:/tmp/admin.sock")) as proxy:
        proxy.wait_until_healthy()
        assert proxy.inspect()["State"]["Health"]["Log"][-1]["Output"] == '{"ready":true}\n'
    impatient = ("--health-retries", "1", "--health-start-period", "1ms")
    with Container(image, options=(*options, *impatient)) as proxy:
        proxy.wait_for_health("unhealthy")
