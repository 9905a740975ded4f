"""The command line: what it prints where, and how it exits. What commands run is tested with what they run."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxy import __version__, cli
from proxy.config.schema import config_json_schema
from proxy.errors import ConfigError, ProxyError

ROOT = Path(__file__).parents[1]
MINIMAL = ROOT / "config" / "minimal.yaml"
FULL = ROOT / "config" / "full.yaml"


def homeport(*args: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **more}
    return subprocess.run(
        [sys.executable, "-m", "proxy", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


@pytest.fixture
def bad(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("listeners: [{bind: 8080}]\nclusters: [{nam: a, endpoints: []}]\n")
    return file


@pytest.fixture
def module(monkeypatch):
    """Stands in for a module that a command imports when it is called."""

    def replace(name, **members):
        made = types.ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)

    return replace


def invoke(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [*args])
    return result.exit_code, result.output


def test_check_sums_up_a_good_file():
    done = homeport("check", FULL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{FULL}: ok: 2 listeners, 2 clusters, 3 endpoints, 5 routes\n"
    assert invoke("check", str(MINIMAL)) == (
        0,
        f"{MINIMAL}: ok: 1 listener, 1 cluster, 2 endpoints, 1 route\n",
    )


def test_check_prints_a_line_for_each_fault(bad):
    done = homeport("check", bad)
    assert (done.returncode, done.stderr) == (2, "")
    first, second, third = done.stdout.splitlines()
    assert first.startswith(
        f"{bad}:1:20: listeners[0].bind: is not an address with a port, got 8080, expected "
    )
    assert second.startswith(f"{bad}:2:12: clusters[0].name: is missing")
    assert third.startswith(f"{bad}:2:13: clusters[0].nam: is not a known key")
    assert third.endswith("did you mean 'name'?")


def test_check_tells_doubts_and_is_content(tmp_path):
    file = tmp_path / "odd.yaml"
    file.write_text(
        "listeners: [{bind: 127.0.0.1:0}]\n"
        "clusters:\n"
        "  - {name: a, balancer: data_locality_aware, endpoints: [{address: '127.0.0.1:1'}], locality: {cache: 1B}}\n"
    )
    done = homeport("check", file)
    assert (done.returncode, done.stdout) == (0, f"{file}: ok: 1 listener, 1 cluster, 1 endpoint, 0 routes\n")
    assert done.stderr == (
        f"{file}:3:103: clusters[0].locality.cache: holds next to no data, got '1B',"
        " expected the bytes of data that an endpoint holds, or 0 = learned\n"
    )
    report = json.loads(homeport("check", "--json", file).stdout)
    assert report["ok"] and [doubt["path"] for doubt in report["doubts"]] == ["clusters[0].locality.cache"]


def test_check_as_json(bad):
    code, output = invoke("check", "--json", str(bad))
    report = json.loads(output)
    assert (code, report["ok"], report["file"]) == (2, False, str(bad))
    assert report["faults"][0] == {
        "file": str(bad),
        "line": 1,
        "column": 20,
        "path": "listeners[0].bind",
        "message": "is not an address with a port",
        "value": "8080",
        "expected": "127.0.0.1:8080, [::1]:8080 or unix:/path;"
        " 0.0.0.0:8080 (IPv4) or [::]:8080 (IPv6) for all interfaces",
    }
    code, output = invoke("check", "--json", str(MINIMAL))
    assert (code, json.loads(output)) == (
        0,
        {
            "file": str(MINIMAL),
            "ok": True,
            "faults": [],
            "doubts": [],
            "listeners": 1,
            "clusters": 1,
            "endpoints": 2,
            "routes": 1,
        },
    )


def test_check_of_a_file_that_is_not_there(tmp_path):
    code, output = invoke("check", str(tmp_path / "none"))
    assert code == 2
    assert output.startswith(f"{tmp_path}/none:1:1: cannot be read (no such file or directory), expected ")


def test_a_file_whose_name_is_not_utf8(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\n.yaml")
    Path(name).write_text("")
    for encoding in ("utf-8", "ascii"):
        done = homeport("check", name, PYTHONIOENCODING=encoding)
        assert done.returncode == 2
        assert done.stdout == (
            f"{tmp_path}/a\\udcff\\n.yaml:1:1: is empty, expected a mapping with listeners, clusters and routes\n"
        )
        assert json.loads(homeport("check", "--json", name).stdout)["file"] == name


def test_schema():
    done = homeport("schema", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert homeport("schema").stdout == done.stdout.replace("\\u2026", "…")
    assert json.loads(homeport("schema").stdout) == config_json_schema()


def test_check_and_schema_load_no_server():
    code = (
        "import sys; from proxy.cli import app\n"
        "app(['check', sys.argv[1]], standalone_mode=False)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(MINIMAL)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "proxy.config.load" in loaded
    assert not loaded & {"aiohttp", "uvloop", "httptools", "prometheus_client", "proxy.parent", "asyncio"}


def test_version_and_help():
    assert homeport("--version").stdout == f"homeport {__version__}\n"
    done = homeport("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: homeport" in done.stdout
    assert "Exit codes: 0 done" in done.stdout
    for command in ("run", "check", "schema", "status", "demo"):
        code, output = invoke(command, "--help")
        assert code == 0
        assert output.count("\n") > 4


@pytest.mark.parametrize(
    "args",
    [
        ["frobnicate"],
        ["check"],
        ["check", "a", "b"],
        ["run"],
        ["run", "-c", "f", "--workers", "0"],
        ["run", "-c", "f", "--workers", "auto"],
        ["run", "-c", "f", "--workers", "17"],
        ["demo", "--duration", "0"],
        ["demo", "--driver", "podman"],
    ],
)
def test_wrong_usage_is_2_and_no_traceback(args):
    code, output = invoke(*args)
    assert code == 2
    assert "Usage:" in output
    assert "Traceback" not in output


def test_run_becomes_the_parent(module):
    calls = []
    module("proxy.parent", become_parent=lambda config, workers: calls.append((config, workers)))
    invoke("run", "-c", "a.yaml")
    invoke("run", "--config", "b.yaml", "--workers", "3")
    assert calls == [("a.yaml", None), ("b.yaml", 3)]


def test_run_with_faults_prints_them_and_exits_with_2(bad):
    done = homeport("run", "-c", bad)
    assert (done.returncode, done.stdout) == (2, "")
    assert len([line for line in done.stderr.splitlines() if line.startswith(f"{bad}:")]) == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error, code, text",
    [
        (ConfigError("clusters", 5, "less"), 2, "clusters: got 5, expected less\n"),
        (ProxyError("no luck"), 1, "homeport: no luck\n"),
        (OSError(98, "Address already in use"), 1, "homeport: [Errno 98] Address already in use\n"),
    ],
)
def test_our_errors_are_a_line_and_a_code(module, monkeypatch, capsys, error, code, text):
    def become_parent(config, workers):
        raise error

    module("proxy.parent", become_parent=become_parent)
    monkeypatch.setattr(sys, "argv", ["homeport", "run", "-c", "f"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == text


def test_status_takes_its_address_and_token_from_flags_or_environment(module, monkeypatch):
    calls = []

    def show_status(admin, token, as_json):
        calls.append((admin, token, as_json))
        return 1

    module("proxy.admin.client", show_status=show_status)
    for name in ("HOMEPORT_ADMIN", "HOMEPORT_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert invoke("status")[0] == 1
    invoke("status", "--admin", "http://h:1", "--token", "t", "--json")
    monkeypatch.setenv("HOMEPORT_ADMIN", "http://e:2")
    monkeypatch.setenv("HOMEPORT_ADMIN_TOKEN", "secret")
    invoke("status")
    assert calls == [
        ("http://127.0.0.1:9901", None, False),
        ("http://h:1", "t", True),
        ("http://e:2", "secret", False),
    ]
    assert "secret" not in invoke("status", "--help")[1]


def test_demo(module):
    calls = []

    def run_demo(*arguments):
        calls.append(arguments)
        return 0

    module("proxy.demo", run_demo=run_demo)
    assert invoke("demo")[0] == 0
    assert invoke("demo", "--duration", "2.5", "--driver", "docker", "--image", "mine")[0] == 0
    assert calls == [(24.0, "process", "homeport"), (2.5, "docker", "mine")]


@pytest.mark.parametrize(
    "args", [["schema"], ["check", str(MINIMAL)], ["check", "--json", str(MINIMAL)], ["--version"]]
)
def test_a_reader_that_went_away_is_no_error(args):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *args],
            stdout=writing,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (cli.EXIT_BROKEN_PIPE, b"")


def test_a_stop_signal_that_came_first_stops_the_daemon_in_order(tmp_path):
    def send_early() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)

    done = subprocess.run(
        [sys.executable, "-m", "proxy", "run", "-c", MINIMAL],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=send_early,
    )
    assert done.returncode == 0
    assert "stopped" in done.stderr and "Traceback" not in done.stderr


def test_other_commands_let_stop_signals_through():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        assert invoke("schema")[0] == 0
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
