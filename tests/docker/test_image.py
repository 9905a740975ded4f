"""The image: what is in it, and that it runs as its users run it."""

import hashlib
import json
import subprocess
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from containers import (
    COMPILE,
    CONFIG,
    HARDENED,
    PUBLISHED,
    QUICK_HEALTH,
    Container,
    answers,
    docker,
    settings,
    start_endpoint,
    write_config,
)
from support.wait import wait_for

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[2]


def test_declares_how_it_is_run(image: str) -> None:
    config = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert config["User"].partition(":")[0].isdigit() and not config["User"].startswith("0")
    assert config["Entrypoint"][-1] == "homeport"
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


def test_has_the_build_that_was_asked_for(image: str) -> None:
    """Compiled or not, with no compiler left behind."""
    program = "import proxy.dataplane.exchange as m; print(m.__file__.rpartition('.')[2])"
    said = docker("run", "--rm", "--entrypoint", "python", image, "-c", program).stdout.strip()
    assert said == ("so" if COMPILE == "1" else "py")
    find = "command -v cc gcc clang; cd /opt/homeport/lib/python3*/site-packages; ls -d mypy hatchling 2>/dev/null"
    assert docker("run", "--rm", "--entrypoint", "sh", image, "-c", find, check=False).stdout == ""


def test_starts_with_complete_bytecode(image: str) -> None:
    program = (
        "import sys, pathlib, proxy.cli, proxy.parent, proxy.control, proxy.worker, proxy.demo; "
        "print(*(m.__cached__ for m in list(sys.modules.values()) if getattr(m, '__cached__', None) "
        "and m.__file__.endswith('.py') and not pathlib.Path(m.__cached__).exists()))"
    )
    assert docker("run", "--rm", "--entrypoint", "python", image, "-c", program).stdout.strip() == ""


def test_checks_configurations(image: str, tmp_path: Path) -> None:
    default = docker("run", "--rm", *HARDENED, image, "check", CONFIG)
    assert default.stdout.startswith(f"{CONFIG}: ok: 1 listener, 1 cluster")
    faulty = write_config(tmp_path, **settings(drain_timeout="soon"))
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
    write_config(config.parent, **settings(access_log={"sink": "/logs/access.log"}))
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
    write_config(config.parent, **settings(clusters=clusters, drain_timeout="50s"))
    with start_endpoint(image, network, "slow") as endpoint, ThreadPoolExecutor(1) as pool:
        wait_for(lambda: answers(endpoint, 8000), "the endpoint to answer")
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
    config = write_config(tmp_path, **settings(admin={"bind": "unix:/tmp/admin.sock"}))
    options = (*HARDENED, *QUICK_HEALTH, "--tmpfs", "/tmp", "--volume", f"{config}:{CONFIG}:ro")
    with Container(image, options=(*options, "--env", "HOMEPORT_ADMIN=unix:/tmp/admin.sock")) as proxy:
        proxy.wait_until_healthy()
        assert proxy.inspect()["State"]["Health"]["Log"][-1]["Output"] == '{"ready":true}\n'
    impatient = ("--health-retries", "1", "--health-start-period", "1ms")
    with Container(image, options=(*options, *impatient)) as proxy:
        proxy.wait_for_health("unhealthy")
