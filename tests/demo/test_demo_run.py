"""`homeport demo` as a person meets it: what it prints, how it ends, what it leaves behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.demo import run, run_demo

LIMIT_S = 300
"""Every act of the demo may take a minute more than it should."""
COMMAND = [sys.executable, "-m", "proxy", "demo", "--duration"]


@pytest.fixture
def temporary_directory(tmp_path, monkeypatch):
    """Where this test's demo puts its temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def _stand_in(monkeypatch, code):
    """Have the demo start Python with `code` in the place of the proxy."""
    start_child = run.start_child

    async def start(name, command, **options):
        if name == "proxy":
            command = [sys.executable, "-c", code]
        return await start_child(name, command, **options)

    monkeypatch.setattr(run, "start_child", start)


def _processes_of(parent):
    """Ids of the children of the process `parent`."""
    with open(f"/proc/{parent}/task/{parent}/children") as children:
        return [int(child) for child in children.read().split()]


def _is_clean(directory):
    """No process of a demo with its temporary files in `directory` is left, and no file."""
    mine = f"\0TMPDIR={directory}\0".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.name != str(os.getpid()) and mine in b"\0" + (process / "environ").read_bytes():
                return False
        except OSError:
            pass  # it has ended, or is somebody else's
    return list(directory.iterdir()) == []


@contextmanager
def _in_load(duration):
    """A demo that has printed its first line of progress."""
    with subprocess.Popen(
        [*COMMAND, duration], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        try:
            while "requests/s" not in (line := demo.stdout.readline()):
                assert line, demo.stderr.read()
            yield demo
        finally:
            demo.kill()


@pytest.mark.parametrize("duration_s", [0, 0.99, -5, 3_601, float("nan"), float("inf")])
def test_a_bad_duration_is_refused(duration_s, capsys):
    assert run_demo(duration_s, "process", "") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (f"homeport demo: duration: expected 1 to 3600 seconds, got {duration_s:g}\n")


def test_a_proxy_that_does_not_start_is_explained(monkeypatch, capsys, temporary_directory):
    before = _processes_of(os.getpid())
    _stand_in(monkeypatch, "raise SystemExit('cannot listen: address in use')")
    assert run_demo(1, "process", "") == 1
    assert capsys.readouterr().err.splitlines() == [
        "homeport demo: proxy ended with exit code 1; the end of its output:",
        "    cannot listen: address in use",
    ]
    assert list(temporary_directory.iterdir()) == []
    assert _processes_of(os.getpid()) == before


def test_a_proxy_that_is_never_ready_is_explained(monkeypatch, capsys, temporary_directory):
    before = _processes_of(os.getpid())
    _stand_in(monkeypatch, "import signal; print('still trying', flush=True); signal.pause()")
    monkeypatch.setattr(run, "_READY_S", 0.5)
    assert run_demo(1, "process", "") == 1
    assert "homeport demo: proxy was not ready within 0.5 s" in capsys.readouterr().err
    assert list(temporary_directory.iterdir()) == []
    assert _processes_of(os.getpid()) == before


def test_without_an_engine_it_says_what_to_do(monkeypatch, capsys, temporary_directory):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert run_demo(1, "docker", "homeport") == 1
    said = capsys.readouterr().err
    assert said.startswith("homeport demo: no Docker Engine can be used (")
    assert said.endswith("start one, or say in DOCKER_HOST where it is, or leave --driver docker out\n")
    assert list(temporary_directory.iterdir()) == []


def test_end_to_end(temporary_directory):
    demo = subprocess.run([*COMMAND, "4"], capture_output=True, text=True, timeout=LIMIT_S)
    assert (demo.returncode, demo.stderr) == (0, ""), demo.stdout
    assert demo.stdout.endswith("OK: no request failed.\n")
    assert re.search(r"^  failed     0$", demo.stdout, re.MULTILINE)
    assert re.search(r"^  hit ratio  \d\d %", demo.stdout, re.MULTILINE)
    assert re.search(r"the first new one served \d+\.\d s after the burst began$", demo.stdout, re.MULTILINE)
    assert re.search(r"was killed at \d+\.\d s; another served \d+\.\d s later$", demo.stdout, re.MULTILINE)
    assert re.search(r"s  [3-6] instances instead of 2: ", demo.stdout)
    assert re.search(r"s  2 instances instead of [3-6]: ", demo.stdout)
    assert _is_clean(temporary_directory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_load_and_the_summary_follows(number, temporary_directory):
    with _in_load("60") as demo:
        demo.send_signal(number)
        out, err = demo.communicate(timeout=LIMIT_S)
        assert (demo.returncode, err) == (0, "")
    assert out.endswith("OK: no request failed.\n")
    assert _is_clean(temporary_directory)


def test_a_proxy_that_ends_meanwhile_is_a_failure(temporary_directory):
    with _in_load("60") as demo:
        (proxy,) = _processes_of(demo.pid)
        os.kill(proxy, signal.SIGKILL)
        _, err = demo.communicate(timeout=LIMIT_S)
        assert demo.returncode == 1
        assert err.startswith("homeport demo: proxy was ended by SIGKILL")
    assert list(temporary_directory.iterdir()) == []


def test_a_reader_that_leaves_ends_it_quietly(temporary_directory):
    with _in_load("60") as demo:
        demo.stdout.close()
        assert demo.wait(LIMIT_S) == 1
        assert demo.stderr.read() == ""
    assert _is_clean(temporary_directory)
