"""The daemon as PID 1 of a container: signals, zombies, exit codes, and what limits on the container change."""

import os
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from containers import (
    CONFIG,
    HARDENED,
    PUBLISHED,
    QUICK_HEALTH,
    Container,
    answers,
    docker,
    get,
    settings,
    start_endpoint,
    write_config,
)
from support.certificates import Authority
from support.wait import LIMIT_S, wait_for

pytestmark = pytest.mark.docker

CONTROL, WORKER, PARENT = "proxy.control", "proxy.worker", "proxy.parent"


@pytest.fixture
def mounted_two(mounted: tuple[str, ...], config: Path) -> tuple[str, ...]:
    """Options like `mounted`, with two workers whatever the machine has."""
    write_config(config.parent, **settings(workers=2))
    return mounted


@contextmanager
def held_request(
    image: str, mounted: tuple[str, ...], network: str, config: Path, **more: Any
) -> Iterator[tuple[Container, Container, Any]]:
    """A proxy with one request in flight, the endpoint that holds it, and the future of its answer."""
    clusters = [{"name": "app", "endpoints": [{"address": "slow:8000"}]}]
    write_config(config.parent, **settings(clusters=clusters, drain_timeout="50s", **more))
    with start_endpoint(image, network, "slow") as endpoint, ThreadPoolExecutor(1) as pool:
        wait_for(lambda: answers(endpoint, 8000), "the endpoint to answer")
        with Container(image, options=mounted) as proxy:
            proxy.wait_until_healthy()
            try:
                reply = pool.submit(proxy.get, "/hold", 8080, 60.0)
                wait_for(lambda: endpoint.get("/holding", 8000)[1] == b"True", "the request to arrive")
                yield proxy, endpoint, reply
            finally:
                endpoint.get("/release", 8000)


def test_the_parent_is_pid_1_and_says_who_speaks(image: str, mounted_two: tuple[str, ...]) -> None:
    with Container(image, options=mounted_two) as proxy:
        proxy.wait_until_healthy()
        commands = proxy.processes()
        assert f" -m {PARENT} " in commands[1]
        assert len(proxy.pids(CONTROL)) == 1 and len(proxy.pids(WORKER)) == 2 and len(commands) == 4
        out, errors = proxy.logs()
        assert out == "" and " INFO control: listener " in errors and " INFO parent: ready" in errors


@pytest.mark.parametrize("reached", ["", "proxy.parent", "proxy.control", "proxy.worker"])
def test_a_stop_during_the_start_is_not_lost(image: str, mounted: tuple[str, ...], reached: str) -> None:
    """Linux drops what PID 1 has no handler for, so a signal that comes before Python must wait for it."""
    with Container(image, options=mounted) as proxy:
        wait_for(lambda: reached in docker("top", proxy.name, "-eo", "pid,args").stdout, f"{reached} to run")
        proxy.signal("TERM")
        assert proxy.wait_for_end() == 0
        assert "Traceback" not in proxy.logs()[1]


def test_a_second_signal_stops_at_once(
    image: str, mounted: tuple[str, ...], network: str, config: Path
) -> None:
    with held_request(image, mounted, network, config) as (proxy, _, reply):
        proxy.signal("TERM")
        proxy.wait_for_message("draining")
        assert not reply.done()
        proxy.signal("TERM")
        assert proxy.wait_for_end() == 1
        assert isinstance(reply.exception(LIMIT_S), OSError)


def test_is_unhealthy_while_it_drains(
    image: str, mounted: tuple[str, ...], network: str, config: Path
) -> None:
    options = (*mounted, "--health-retries", "1")
    with held_request(image, options, network, config) as (proxy, endpoint, reply):
        proxy.signal("TERM")
        proxy.wait_for_health("unhealthy")
        assert not reply.done()
        endpoint.get("/release", 8000)
        assert reply.result(LIMIT_S) == (200, b"slow")
        assert proxy.wait_for_end() == 0


def test_starts_again_after_a_kill(
    image: str, network: str, endpoints: dict[str, Container], tmp_path: Path
) -> None:
    """A socket file that the killed one left in the container's file system does not stop the next."""
    admin = {"bind": "unix:/tmp/admin.sock"}
    file = write_config(tmp_path, **settings(admin=admin))
    options = (*QUICK_HEALTH, *PUBLISHED, "--network", network, "--volume", f"{file}:{CONFIG}:ro")
    with Container(image, options=(*options, "--env", f"HOMEPORT_ADMIN={admin['bind']}")) as proxy:
        proxy.wait_until_healthy()
        proxy.signal("KILL")
        assert proxy.wait_for_end() == 137
        docker("start", proxy.name)
        proxy.wait_until_healthy()
        assert proxy.get("/", 8080)[0] == 200
        docker("stop", proxy.name)
        assert proxy.exit_code() == 0


def test_is_replaced_in_place(image: str, mounted_two: tuple[str, ...]) -> None:
    """SIGUSR2 puts new processes behind the same PID 1; nobody who asks meanwhile notices."""
    with Container(image, options=mounted_two) as proxy:
        proxy.wait_until_healthy()
        before = {module: set(proxy.pids(module)) for module in (CONTROL, WORKER)}
        state = proxy.inspect()["State"]
        port = proxy.port(8080)
        failed: list[object] = []
        is_over = threading.Event()

        def ask() -> int:
            asked = 0
            while not is_over.is_set():
                asked += 1
                try:
                    if (reply := get(port, "/"))[0] != 200:
                        failed.append(reply)
                except OSError as error:
                    failed.append(error)
            return asked

        with ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(ask) for _ in range(2)]
            try:
                proxy.signal("USR2")
                for module, old in before.items():
                    wait_for(
                        lambda module=module, old=old: (
                            len(new := set(proxy.pids(module))) == len(old) and not new & old
                        ),
                        f"others to run {module}",
                        60.0,
                    )
            finally:
                is_over.set()
            assert all(each.result() for each in asking) and not failed
        now = proxy.inspect()["State"]
        assert (now["Pid"], now["StartedAt"]) == (state["Pid"], state["StartedAt"])
        assert f" -m {PARENT} " in proxy.processes()[1]
        docker("stop", proxy.name)
        assert proxy.exit_code() == 0


def test_reaps_orphans(image: str, mounted: tuple[str, ...]) -> None:
    """What a command in the container leaves behind becomes a child of PID 1."""
    with Container(image, options=mounted) as proxy:
        proxy.wait_until_healthy()
        own = set(proxy.processes())
        docker("exec", proxy.name, "sh", "-c", "for i in 1 2 3; do sleep 1000 >/dev/null 2>&1 & done")
        orphans = set(proxy.processes()) - own
        assert len(orphans) == 3
        for pid in orphans:
            proxy.kill(pid)
        wait_for(lambda: set(proxy.processes()) == own, "no zombies")


@pytest.mark.parametrize("module", [WORKER, CONTROL])
def test_replaces_what_is_killed_inside(image: str, mounted_two: tuple[str, ...], module: str) -> None:
    with Container(image, options=mounted_two) as proxy:
        proxy.wait_until_healthy()
        old = proxy.pids(module)
        proxy.kill(old[0])
        wait_for(
            lambda: len(new := proxy.pids(module)) == len(old) and old[0] not in new, f"another {module}"
        )
        assert proxy.get("/", 8080)[0] == 200
        wait_for(lambda: " ended with -9" in proxy.logs()[1], "the log to say so")
        wait_for(lambda: docker("exec", proxy.name, "homeport", "status", check=False).returncode == 0)
        assert proxy.inspect()["RestartCount"] == 0
        docker("stop", proxy.name)
        assert proxy.exit_code() == 0


@pytest.mark.parametrize("cpus", ["0.5", "1.5"])
def test_workers_follow_the_cpu_quota(image: str, mounted: tuple[str, ...], cpus: str) -> None:
    expected = min(1 if cpus == "0.5" else 2, len(os.sched_getaffinity(0)))
    with Container(image, options=(*mounted, "--cpus", cpus)) as proxy:
        proxy.wait_until_healthy()
        assert len(proxy.pids(WORKER)) == expected


def test_serves_within_a_memory_limit(image: str, mounted_two: tuple[str, ...]) -> None:
    limit = ("--memory", "160m", "--memory-swap", "160m")
    with Container(image, options=(*mounted_two, *limit)) as proxy, ThreadPoolExecutor(16) as pool:
        proxy.wait_until_healthy()
        replies = pool.map(lambda _: proxy.get("/large", 8080), range(64))
        assert all((status, len(body)) == (200, 1 << 22) for status, body in replies)
        assert not proxy.inspect()["State"]["OOMKilled"] and "ended with" not in proxy.logs()[1]


def test_prints_faults_and_exits_with_2(image: str, tmp_path: Path) -> None:
    file = write_config(tmp_path, **settings(drain_timeout="soon", workers=0))
    mount = ("--volume", f"{file}:{CONFIG}:ro")
    done = docker("run", "--rm", *HARDENED, *mount, image, check=False)
    assert done.returncode == 2 and done.stdout == ""
    faults = [line for line in done.stderr.splitlines() if line.startswith(f"{CONFIG}:1:")]
    assert len(faults) == 2 and "Traceback" not in done.stderr


def test_terminates_tls(image: str, network: str, endpoints: dict[str, Container], tmp_path: Path) -> None:
    authority = Authority()
    files = authority.write(tmp_path, "localhost")
    files.key.chmod(0o644)  # the container's user is another
    tls = {"certificates": [{"cert": "/certs/localhost.crt", "key": "/certs/localhost.key"}]}
    file = write_config(tmp_path, **settings(listeners=[{"bind": "0.0.0.0:8080", "tls": tls}]))
    options = (*HARDENED, *QUICK_HEALTH, *PUBLISHED, "--network", network)
    mounts = ("--volume", f"{file}:{CONFIG}:ro", "--volume", f"{tmp_path}:/certs:ro")
    context = ssl.create_default_context(cadata=authority.pem.decode())
    with Container(image, options=(*options, *mounts)) as proxy:
        proxy.wait_until_healthy()
        url = f"https://localhost:{proxy.port(8080)}/"
        with urllib.request.urlopen(url, timeout=LIMIT_S, context=context) as reply:
            assert reply.read() in (b"alpha", b"beta")
