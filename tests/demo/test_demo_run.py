"""`homeport demo` as a person meets it: what it prints, how it ends, what it leaves behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import pytest

from proxy.demo import run, run_demo

LIMIT_S = 60
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


@pytest.mark.parametrize("duration_s", [0, 0.99, -5, 86_401, float("nan"), float("inf")])
def test_a_bad_duration_is_refused(duration_s, capsys):
    assert run_demo(duration_s) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (f"homeport demo: duration: expected 1 to 86400 seconds, got {duration_s:g}\n")


def test_a_proxy_that_does_not_start_is_explained(monkeypatch, capsys, temporary_directory):
    before = _processes_of(os.getpid())
    _stand_in(monkeypatch, "raise SystemExit('cannot listen: address in use')")
    assert run_demo(1) == 1
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
    assert run_demo(1) == 1
    assert "homeport demo: proxy was not ready within 0.5 s" in capsys.readouterr().err
    assert list(temporary_directory.iterdir()) == []
    assert _processes_of(os.getpid()) == before


def test_end_to_end(temporary_directory):
    demo = subprocess.run([*COMMAND, "2"], capture_output=True, text=True, timeout=LIMIT_S)
    assert (demo.returncode, demo.stderr) == (0, ""), demo.stdout
    assert "OK: no request failed and every checksum was right." in demo.stdout
    assert re.search(r"^  failed     0$", demo.stdout, re.MULTILINE)
    shares = re.findall(r"^  data-\d 127\.0\.0\.1:\d+ +[\d ]+   ([\d.]+) %$", demo.stdout, re.MULTILINE)
    assert [float(share) for share in shares] == pytest.approx([33.3] * 3, abs=5)
    assert list(temporary_directory.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_load_and_the_summary_follows(number, temporary_directory):
    with _in_load("60") as demo:
        demo.send_signal(number)
        out, err = demo.communicate(timeout=LIMIT_S)
        assert (demo.returncode, err) == (0, "")
    assert "OK: no request failed and every checksum was right." in out
    assert list(temporary_directory.iterdir()) == []


def test_a_service_that_ends_meanwhile_is_a_failure(temporary_directory):
    with _in_load("60") as demo:
        os.kill(_processes_of(demo.pid)[0], signal.SIGTERM)
        _, err = demo.communicate(timeout=LIMIT_S)
        assert (demo.returncode, err) == (1, "homeport demo: data-1 ended with exit code 0\n")
    assert list(temporary_directory.iterdir()) == []


def test_a_reader_that_leaves_ends_it_quietly(temporary_directory):
    with _in_load("60") as demo:
        demo.stdout.close()
        assert demo.wait(LIMIT_S) == 1
        assert demo.stderr.read() == ""
    assert list(temporary_directory.iterdir()) == []
