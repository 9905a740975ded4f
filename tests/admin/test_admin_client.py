"""`homeport status` against a real admin server, and against what is none."""

import asyncio
import io
import socket
import threading
from dataclasses import replace

import orjson
import pytest

from proxy.admin.api import AdminServer
from proxy.admin.client import AdminUnreachable, ask_reload, parse_admin, show_status
from proxy.admin.drain_client import ask_drain, wait_idle
from proxy.admin.render import (
    bound_text,
    certificate_lines,
    duration,
    latency_text,
    process_lines,
    reload_lines,
    size,
)
from proxy.answer_words import latency_index, request_index
from proxy.clock import SystemClock
from proxy.config.faults import Fault
from proxy.controlplane.drains import DrainReport, UnknownTarget
from proxy.controlplane.events import EventLog
from proxy.controlplane.reloading import Applied, ReloadOutcome, ReloadReport, Trigger
from proxy.errors import ConfigError, Reason
from proxy.model import TcpAddress, UnixAddress
from proxy.policy.breaker import Circuit, CircuitState
from proxy.scoreboard import (
    E_IN_FLIGHT,
    P_PID,
    S_EXIT,
    S_STARTS,
    S_STATE,
    SLOT_WAITING,
    W_REFUSALS,
    X_CIRCUIT,
    Scoreboard,
)
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot
from proxy.telemetry.metrics import MetricsPage
from proxy.telemetry.processes import State, WorkerReport
from proxy.telemetry.status import DaemonView

LIMIT_S = 20.0
LOOPBACK = TcpAddress("127.0.0.1", 0)
QUERY = EndpointSpec("etl/10.0.0.1:9000", 0, TcpAddress("10.0.0.1", 9000), "query:9000")
PLAIN = EndpointSpec("etl/10.0.0.2:9000", 1, TcpAddress("10.0.0.2", 9000), "10.0.0.2:9000")
SNAPSHOT = Snapshot(3, (), (ClusterSpec("etl", endpoints=(QUERY, PLAIN)), ClusterSpec("[b]empty")), ())
REPORT = WorkerReport(State.READY, 3, 1, (("edge", TcpAddress("127.0.0.1", 8080)),))


RELOADS = []
"""What the next reloads come to, the last first."""


class Commands:
    """Control, as far as the server asks it."""

    def __init__(self):
        self.events = EventLog(SystemClock())

    async def reload(self):
        return RELOADS.pop()

    def set_drained(self, name, is_drained):
        if name != QUERY.id:
            raise UnknownTarget(f"there is no endpoint {name!r}", [QUERY.id])
        return DrainReport((name,), (name,) if is_drained else (), is_drained)

    async def set_listener_drained(self, name, is_drained):
        if name == "taken":
            raise ConfigError("listeners[0].bind", "127.0.0.1:80", "an address that can be bound")
        return DrainReport((name,), (name,), is_drained, is_pending=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def view():
    board = Scoreboard(endpoints=4)
    row = board.endpoint_row(0, 0)
    row[request_index(b"GET", 200)] = 123456
    row[latency_index(0.001)] = 123456
    board.worker_row(0)[W_REFUSALS + list(Reason).index(Reason.NO_ROUTE)] = 4
    board.parent_row[P_PID] = 7
    return DaemonView(board, SNAPSHOT, REPORT, 3725.0)


@pytest.fixture
def serve(view):
    """Starts an admin server in a thread; gives its address."""
    stops = []

    def serve(bind=LOOPBACK, token=None, view=view):
        started, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
        server = AdminServer(
            bind, token, lambda: view, MetricsPage(view.board, lambda: SNAPSHOT, SystemClock()), Commands()
        )

        async def main():
            await server.start()
            started.set()
            await stop.wait()
            await server.stop()

        thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
        thread.start()
        assert started.wait(LIMIT_S)
        stops.append((thread, loop, stop))
        return server.address

    yield serve
    for thread, loop, stop in stops:
        loop.call_soon_threadsafe(stop.set)
        thread.join(LIMIT_S)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def status(admin, token=None, as_json=False, out=None):
    out, err = out or io.StringIO(), io.StringIO()
    code = show_status(admin, token, as_json, out, err)
    return code, out.getvalue(), err.getvalue()


def test_plain_columns_for_a_pipe(serve):
    code, out, err = status(f"http://{serve()}")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "is ready, up 1h 2m, generation 3, pid 7" in lines[0]
    assert "listener edge on 127.0.0.1:8080" in lines and "answered by homeport: no_route 4" in lines
    head = next(index for index, line in enumerate(lines) if line.startswith("CLUSTER"))
    first, second, empty = lines[head + 1 :]
    assert first.split()[:2] == ["etl", "query:9000"] and "(10.0.0.1:9000)" in first
    assert first.split()[8] == "123456" and first.endswith("ms")
    assert second.split() == ["etl", "10.0.0.2:9000", "ready", "-", *["0"] * 8, "-", "-", "-"]
    assert empty.split() == ["[b]empty", "(none)"]
    assert out.isascii() and "\x1b" not in out


def test_tables_for_a_terminal(serve, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm-256color")
    code, out, _ = status(str(serve()), out=Terminal())
    assert code == 0 and "\x1b[" in out and "123456" in out and "[b]empty" in out


def test_json_is_the_status_with_the_endpoints(serve):
    code, out, _ = status(str(serve()), as_json=True, out=Terminal())
    document = orjson.loads(out)
    assert code == 0 and document["clusters"][0]["endpoints"][0]["id"] == QUERY.id
    assert document["totals"]["refusals_total"] == {"no_route": 4}


def test_unix_socket_and_token(serve, tmp_path):
    address = serve(UnixAddress(str(tmp_path / "admin.sock")), "s3cret")
    assert status(str(address), "s3cret")[0] == 0
    for token in (None, "wrong"):
        code, out, err = status(str(address), token)
        assert (code, out) == (1, "") and err.count("\n") == 1
        assert "status 401" in err and "admin.token" in err and "s3cret" not in err


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize(
    "admin", ["http://127.0.0.1:{port}", "unix:/nonexistent/admin.sock", "localhost:{port}"]
)
def test_nobody_there_is_one_line_with_advice(admin):
    code, out, err = status(admin.format(port=closed_port()))
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert err.startswith("homeport: no answer from the admin API at ") and "is the daemon running" in err


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
    ],
)
def test_something_else_there_is_one_line(reply):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            for _ in range(1 if b"0 OK\r\nContent-Length: 2\r\n\r\n{}" not in reply else 2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        code, out, err = status(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join(LIMIT_S)
    assert (code, out) == (1, "") and err.count("\n") == 1 and err.startswith("homeport: ")


@pytest.mark.parametrize(
    "text", ["https://a:1", "ftp://a", "http://", "http://a:99999", "http://a/x", "http://u@a"]
)
def test_addresses_that_are_none(text):
    with pytest.raises(AdminUnreachable, match="this is no address"):
        parse_admin(text)


def test_addresses():
    assert (parse_admin("http://[::1]:9901/").host, parse_admin("a:1").port) == ("::1", 1)
    assert parse_admin("localhost").port == 9901
    assert parse_admin("unix:/run/a").socket_path == parse_admin("unix:///run/a").socket_path == "/run/a"


def test_the_last_reload():
    last = {"outcome": "applied", "time": "2026-01-02T03:04:05+00:00", "trigger": "SIGHUP", "fault": None}
    assert reload_lines({"last_reload": None}) == []
    assert reload_lines({"last_reload": last}) == [
        "configuration applied at 2026-01-02T03:04:05+00:00 (SIGHUP)"
    ]
    refused = last | {"outcome": "refused", "fault": {"text": "f.yaml:3:9: x: is y"}, "fault_count": 3}
    assert reload_lines({"last_reload": refused}) == [
        "configuration refused at 2026-01-02T03:04:05+00:00 (SIGHUP), the last one is served on: f.yaml:3:9: x: is y"
        " (and 2 more, see homeport check)"
    ]


def test_processes_that_ended():
    def process(**words):
        return {"last_exit_code": None, "process_uptime_s": 5000.0, "starts_total": 1} | words

    def told(**words):
        return process_lines({"control": process(), "workers": [process(id=0, **words)]})

    assert told() == []
    assert told(starts_total=2, last_exit_code=-9) == [], "it is long ago"
    assert told(starts_total=2, last_exit_code=0, process_uptime_s=3.0) == [], "it was asked to"
    assert told(starts_total=5, last_exit_code=-9, process_uptime_s=3.4) == [
        "worker 0 runs again for 3s: life 4 ended with -9"
    ]
    assert told(starts_total=1, last_exit_code=7, process_uptime_s=None) == [
        "worker 0 waits to be started again: life 1 ended with 7"
    ]
    control = {"control": process(starts_total=2, last_exit_code=1, process_uptime_s=0.2), "workers": []}
    assert process_lines(control) == ["control runs again for 0s: life 1 ended with 1"]


def test_certificates_that_want_looking_after():
    def told(problem=None, expires_in_s=None):
        served = {"kind": "listener", "name": "edge", "problem": problem, "expires_in_s": expires_in_s}
        return certificate_lines({"certificates": [served]})

    assert told() == told(expires_in_s=30 * 86400) == []
    assert told("cert: is no PEM", 90_000) == [
        "listener edge: the last good certificates stay in use: cert: is no PEM",
        "listener edge: a certificate ends in 1d 1h",
    ]
    assert told(expires_in_s=-7300) == ["listener edge: a certificate ended 2h 1m ago, and is still served"]


def test_what_is_wrong_is_in_the_status(view, serve):
    problem = {"kind": "listener", "name": "edge", "problem": "cert: is no PEM", "expires_in_s": 9e9}
    row = view.board.slot_row(0)
    row[S_STATE], row[S_STARTS], row[S_EXIT] = SLOT_WAITING, 1, -9
    address = str(serve(view=replace(view, certificates=(problem,))))
    lines = status(address)[1].splitlines()
    assert "worker 0 waits to be started again: life 1 ended with -9" in lines
    assert "listener edge: the last good certificates stay in use: cert: is no PEM" in lines
    assert orjson.loads(status(address, as_json=True)[1])["certificates"] == [problem]


def test_units():
    assert [size(n) for n in (0, 1023, 1024, 1536, 5 * 2**30, 2**50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 GiB",
        "1024.0 TiB",
    ]
    assert [duration(s) for s in (0.9, 12, 307, 3600, 90061)] == ["0s", "12s", "5m 7s", "1h 0m", "1d 1h"]
    assert [bound_text(s) for s in (None, 0.00005, 0.35, 0.5, 3.4, 500.0)] == [
        "-",
        "<=0.1ms",
        "<=500ms",
        "<=500ms",
        "<=5s",
        ">200s",
    ]
    assert [latency_text(s) for s in (None, 0.00025, 0.0123, 3.4)] == ["-", "0.25ms", "12.3ms", "3.4s"]


def reload(admin, as_json=False):
    out, err = io.StringIO(), io.StringIO()
    code = ask_reload(admin, None, as_json, out, err)
    return code, out.getvalue(), err.getvalue()


def test_reload_says_what_changed(serve):
    address = f"http://{serve()}"
    RELOADS.append(ReloadReport(ReloadOutcome.APPLIED, 5, ("workers: 1 → 2", "limits.header_count: 1 → 3")))
    applied = "applied: generation 5\nworkers: 1 → 2\nlimits.header_count: 1 → 3\n"
    assert reload(address) == (0, applied, "")
    RELOADS.append(ReloadReport(ReloadOutcome.UNCHANGED, 5))
    assert reload(address) == (0, "unchanged: generation 5\n", "")
    RELOADS.append(ReloadReport(ReloadOutcome.UNCHANGED, 5))
    code, out, err = reload(address, as_json=True)
    assert orjson.loads(out) == {
        "outcome": "unchanged", "generation": 5, "changes": [], "faults": [], "last_applied": None,
    }  # fmt: skip
    assert (code, err) == (0, "")
    earlier = Applied("2026-01-02T03:04:05+00:00", Trigger.FILE, ("workers: 1 → 2",))
    RELOADS.append(ReloadReport(ReloadOutcome.UNCHANGED, 5, last_applied=earlier))
    told = "unchanged: generation 5, applied at 2026-01-02T03:04:05+00:00 (a file changed)\nworkers: 1 → 2\n"
    assert reload(address) == (0, told, "")


def test_reload_with_faults_is_2_and_a_line_for_each(serve):
    faults = tuple(Fault("f.yaml", line, 1, "", "is wrong", None, "right") for line in (1, 2))
    RELOADS.append(ReloadReport(ReloadOutcome.REFUSED, 5, faults=faults))
    told = "f.yaml:1:1: is wrong, expected right\nf.yaml:2:1: is wrong, expected right\n"
    assert reload(f"http://{serve()}") == (2, "", told)


def test_reload_without_a_daemon():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    code, out, err = reload(f"http://127.0.0.1:{port}")
    assert (code, out) == (1, "") and "no answer from the admin API" in err


def drain(admin, name=QUERY.id, is_drained=True, as_json=False, is_listener=False):
    out, err = io.StringIO(), io.StringIO()
    code, ids = ask_drain(
        admin, None, as_json, name, is_listener=is_listener, is_drained=is_drained, out=out, err=err
    )
    return code, ids, out.getvalue(), err.getvalue()


def test_drain_and_undrain(serve):
    address = f"http://{serve()}"
    assert drain(address) == (0, [QUERY.id], "etl/10.0.0.1:9000: drained\n", "")
    assert drain(address, is_drained=False)[2] == "etl/10.0.0.1:9000: not drained any more (as before)\n"
    told = "listener edge: drained\nnot every worker has applied it yet\n"
    assert drain(address, "edge", is_listener=True)[2] == told
    document = orjson.loads(drain(address, as_json=True)[2])
    assert document == {"drained": True, "targets": [QUERY.id], "changed": [QUERY.id], "pending": False}


def test_drain_of_what_is_not_there(serve):
    address = f"http://{serve()}"
    code, _, out, err = drain(address, "etl/10.0.0.9:9000")
    assert (code, out) == (1, "")
    assert err == "homeport: there is no endpoint 'etl/10.0.0.9:9000'; did you mean etl/10.0.0.1:9000?\n"
    code, _, _, err = drain(address, "taken", is_listener=True)
    assert code == 1 and "an address that can be bound" in err
    code, _, _, err = drain(f"127.0.0.1:{closed_port()}")
    assert code == 1 and "no answer from the admin API" in err


class QuickClock(SystemClock):
    """Sleeps end at once, and take as long as they should."""

    def __init__(self, on_sleep=None):
        self.now = 0.0
        self.on_sleep = on_sleep

    def monotonic(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds
        if self.on_sleep is not None:
            self.on_sleep(self.now)


def test_waiting_until_nothing_is_in_flight(serve, view):
    address = f"http://{serve()}"
    row = view.board.endpoint_row(0, QUERY.slot)
    row[E_IN_FLIGHT] = 2
    err = io.StringIO()
    assert wait_idle(address, None, [QUERY.id], timeout_s=3.0, clock=QuickClock(), err=err) == 3
    assert err.getvalue() == "homeport: 2 requests are still in flight after 3 s\n"
    assert wait_idle(address, None, [PLAIN.id], timeout_s=3.0, clock=QuickClock()) == 0

    def finish(now):
        row[E_IN_FLIGHT] = 0 if now > 1.0 else 1

    clock = QuickClock(finish)
    assert wait_idle(address, None, [QUERY.id], timeout_s=3.0, clock=clock) == 0
    assert 1.0 < clock.now < 2.0
    err = io.StringIO()
    nobody = f"127.0.0.1:{closed_port()}"
    assert wait_idle(nobody, None, [QUERY.id], timeout_s=3.0, clock=QuickClock(), err=err) == 1
    assert "no answer" in err.getvalue()


def test_troubles_are_told_with_their_reasons(serve, view):
    view.board.standing_row(QUERY.slot)[X_CIRCUIT] = Circuit(CircuitState.OPEN, 1, 1e6).pack()
    view.reasons[QUERY.id] = {"circuit": "5 failures in a row, the last: reset"}
    out = status(f"http://{serve()}")[1]
    assert f"{QUERY.id} is circuit open: 5 failures in a row, the last: reset" in out.splitlines()
    assert any("etl" in line and "circuit open" in line and "query:9000" in line for line in out.splitlines())
