"""How the daemon starts and ends, and how it is replaced by the program that is installed by then."""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import settings
from support.client import Client, request
from support.crowd import Tunnel, answered, echo, is_whole
from support.daemon import ROOT, Daemon, StartDaemon, descriptors
from support.faults import CONTROL_CRASHES, SLOW_CONTROL, Faults
from support.origin import OK, Exchange, Origin
from support.wait import LIMIT_S, wait_for
from support.wire import Cut

from proxy.controlplane.cores import auto_workers
from proxy.listening import bind_socket
from proxy.model import TcpAddress, UnixAddress


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def are_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


class Traffic:
    """Requests on keep-alive connections one after the other, one thread for each."""

    def __init__(self, daemon: Daemon, connections: int = 4) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._daemon = daemon
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(connections)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                with Client(self._daemon.address()) as client:
                    self._use(client)
            except (Cut, OSError, AssertionError) as error:
                self.failures.append(repr(error))

    def _use(self, client: Client) -> None:
        while not self._is_over.wait(0.005):
            reply = client.get("/")
            assert reply.status == 200
            with self._lock:
                self.answered += 1
            if "close" in reply.fields.tokens("connection"):
                return

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def reexec(daemon: Daemon) -> None:
    """Have it replaced, and wait until the new one serves alone."""
    before = daemon.status()
    daemon.signal(signal.SIGUSR2)

    old = {one["id"]: one["pid"] for one in before["workers"]}
    wait_for(lambda: _is_all_new(daemon, old), "the new program")
    wait_for(lambda: is_whole(daemon) and are_gone(list(old.values())), "the old workers to end")
    assert daemon.status()["reexecs_total"] == before["reexecs_total"] + 1
    count = before["reexecs_total"] + 1
    wait_for(lambda: daemon.stderr().count("the daemon is replaced") == count, "word of it")


def test_replaced_under_traffic(start_daemon: StartDaemon, origin: Origin) -> None:
    """SIGUSR2: the same process id, no failed request, no count lost, tunnels live until the drain timeout; and no
    descriptor more from one time to the next."""
    origin.on("/tunnel", echo)
    daemon = start_daemon(settings.simple(origin.address, workers=2, drain_timeout="5s"))
    tunnels = [Tunnel(daemon) for _ in range(4)]
    counted = answered(daemon)
    traffic = Traffic(daemon)
    old = daemon.workers()
    daemon.signal(signal.SIGUSR2)
    # From the parent: the drain's time runs, and the status waits for the new control.
    wait_for(lambda: daemon.stderr().count(": serving, process") == 2 * len(old), "the new workers")
    assert all(tunnel.is_alive() for tunnel in tunnels), "the old workers have them"
    wait_for(lambda: are_gone(list(old.values())), "the old workers to end")
    assert all(wait_for(tunnel.client.is_cut) for tunnel in tunnels)
    wait_for(lambda: _is_all_new(daemon, old), "the new program")
    traffic.stop()
    assert traffic.failures == []
    assert answered(daemon) == counted + traffic.answered + len(tunnels)
    assert traffic.answered > 20
    wait_for(lambda: is_whole(daemon), "a daemon in order")
    before = descriptors(daemon.pid)
    reexec(daemon)
    assert descriptors(daemon.pid) == before
    assert len(children(daemon.pid)) == 3
    for tunnel in tunnels:
        tunnel.client.close()
    daemon.stop()


def test_replaced_while_control_cannot_start(
    start_daemon: StartDaemon, origin: Origin, tmp_path: Path
) -> None:
    """The new workers serve what was served, whatever becomes of control; the old ones may go."""
    faults = Faults(tmp_path / "site")
    daemon = start_daemon(settings.simple(origin.address, workers=2), environ=faults.environ)
    old = list(daemon.workers().values())
    faults.switch(CONTROL_CRASHES, True)
    daemon.signal(signal.SIGUSR2)
    wait_for(lambda: are_gone(old), "the old workers to leave")
    with Client(daemon.address()) as client:
        client.assert_open("/")
    wait_for(lambda: "control ended with 8" in daemon.stderr(), "the new control's end")
    faults.switch(CONTROL_CRASHES, False)
    wait_for(lambda: _is_all_new(daemon, dict(enumerate(old))) and is_whole(daemon), "control")
    daemon.stop()


def _is_all_new(daemon: Daemon, old: dict[int, int]) -> bool:
    """As many workers as before serve, and none of them is one of `old`."""
    try:
        now = daemon.workers()
    except OSError:
        return False  # between two controls
    return len(now) == len(old) and set(now.values()).isdisjoint(old.values())


def test_a_broken_program_does_not_replace(start_daemon: StartDaemon, origin: Origin, tmp_path: Path) -> None:
    """What is installed by then does not start, or refuses the file: the old one goes on."""
    copy_sources(tmp_path / "lib")
    worker = tmp_path / "lib" / "proxy" / "worker.py"
    daemon = start_daemon(settings.simple(origin.address, workers=1), root=tmp_path / "lib")
    good, config = worker.read_text(), daemon.file.read_text()
    before = daemon.status()
    worker.write_text("raise RuntimeError('half of an installation')\n")
    daemon.signal(signal.SIGUSR2)
    wait_for(lambda: "would not start (1)" in daemon.stderr(), "a refusal")
    worker.write_text(good)
    daemon.file.write_text("listeners: 3")
    daemon.signal(signal.SIGUSR2)
    wait_for(lambda: "would not start (2)" in daemon.stderr(), "another")
    daemon.file.write_text(config)
    handover = tmp_path / "lib" / "proxy" / "handover.py"
    readable = handover.read_text()
    handover.write_text(readable.replace("_FORMAT = 1", "_FORMAT = 9"))
    daemon.signal(signal.SIGUSR2)
    wait_for(lambda: daemon.stderr().count("would not start (1)") == 2, "a third")
    assert "hands over cannot be read" in daemon.stderr()
    handover.write_text(readable)
    scoreboard = tmp_path / "lib" / "proxy" / "scoreboard.py"
    roomy = scoreboard.read_text()
    scoreboard.write_text(roomy.replace("\nSLOTS = 32\n", "\nSLOTS = 1\n"))
    daemon.signal(signal.SIGUSR2)
    wait_for(lambda: daemon.stderr().count("would not start (1)") == 3, "a fourth")
    assert "has 1 workers, beside which 1 new ones are to serve, expected at most 1" in daemon.stderr()
    scoreboard.write_text(roomy)
    after = daemon.status()
    assert (after["reexecs_total"], after["control"]["pid"]) == (0, before["control"]["pid"])
    assert daemon.workers() == {0: before["workers"][0]["pid"]}
    reexec(daemon)
    with Client(daemon.address()) as client:
        client.assert_open("/")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def copy_sources(lib: Path) -> None:
    """A program to be edited: without the extension modules of a compiled one, which go before their sources."""
    shutil.copytree(ROOT / "proxy", lib / "proxy", ignore=shutil.ignore_patterns("*.so"))


def install_other(lib: Path) -> None:
    """Put a program in the place of the one in `lib` whose parts call things otherwise among themselves."""
    for name, old, new in (
        ("worker.py", '"slot"', '"place"'),
        ("worker.py", "options.slot", "options.place"),
        ("workforce.py", '"--slot"', '"--place"'),
        ("__init__.py", "__version__ =", "__version__ = 'not '"),
    ):
        file = lib / "proxy" / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


@pytest.mark.parametrize("victim", ["worker", "control"])
def test_upgraded_without_a_word(
    start_daemon: StartDaemon, origin: Origin, tmp_path: Path, victim: str
) -> None:
    """Another program is installed, nobody signals, and a process dies: the daemon becomes that program by itself, once
    it starts; until then what is left goes on."""
    copy_sources(tmp_path / "lib")
    daemon = start_daemon(settings.simple(origin.address, workers=2), root=tmp_path / "lib")
    before, config = daemon.status(), daemon.file.read_text()
    old = {one["id"]: one["pid"] for one in before["workers"]}
    counted = answered(daemon)
    install_other(tmp_path / "lib")
    daemon.file.write_text("listeners: 3")
    os.kill(old[0] if victim == "worker" else before["control"]["pid"], signal.SIGKILL)
    wait_for(lambda: daemon.stderr().count("would not start (2)") > 1, "two refusals")
    assert daemon.stderr().count("signal SIGUSR2") == 1
    with Client(daemon.address()) as client:
        client.assert_open("/")
    daemon.file.write_text(config)
    wait_for(lambda: _is_all_new(daemon, old), "the new program", 30.0)
    wait_for(lambda: is_whole(daemon), "the old workers to end")
    after = daemon.status()
    assert (after["reexecs_total"], after["version"]) == (1, "not " + before["version"])
    assert answered(daemon) == counted + 1, "of the same rows, whatever the version"
    assert "unrecognized arguments" not in daemon.stderr()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("__init__.py", "__version__ =", "__version__ = 'not '"),
        ("scoreboard.py", "SLOT_WORDS = 8", "SLOT_WORDS = 16"),
    ],
    ids=["snapshot", "scoreboard"],
)
def test_a_version_that_cannot_read_what_was_left(
    start_daemon: StartDaemon, origin: Origin, tmp_path: Path, name: str, old: str, new: str
) -> None:
    """Also with more endpoints than half of the rows: the old workers' are not given away, nor needed twice."""
    copy_sources(tmp_path / "lib")
    config = settings.simple(origin.address, workers=2)
    config["clusters"].append(
        {"name": "many", "endpoints": [{"address": f"127.0.0.1:{port}"} for port in range(1, 701)]}
    )
    daemon = start_daemon(config, root=tmp_path / "lib")
    traffic = Traffic(daemon)
    wait_for(lambda: traffic.answered > 20, "traffic")
    file = tmp_path / "lib" / "proxy" / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    reexec_counted = name != "scoreboard.py"
    workers = daemon.workers()
    daemon.signal(signal.SIGUSR2)
    wait_for(lambda: _is_all_new(daemon, workers), "the new program")
    wait_for(lambda: are_gone(list(workers.values())), "the old workers to end")
    traffic.stop()
    assert traffic.failures == []
    counts = {one["name"]: one["endpoint_count"] for one in daemon.status()["clusters"]}
    assert counts["many"] == 700
    assert (answered(daemon) == traffic.answered) == reexec_counted
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(LIMIT_S)
        yield sock


def heard(manager: socket.socket, word: bytes) -> list[bytes]:
    """What came before `word`, which is awaited."""
    found: list[bytes] = []
    # The watchdog's word comes for ever.
    while (data := manager.recv(100)) != word:
        found.append(data)
        assert len(found) < 1000, f"{word.decode()} does not come"
    return found


def test_as_a_service(
    start_daemon: StartDaemon, origin: Origin, manager: socket.socket, tmp_path: Path
) -> None:
    """Sockets of systemd are used, also over a re-exec, and are not ours to remove; it is told what happens."""
    path = str(tmp_path / "edge")
    sockets = [bind_socket(TcpAddress("127.0.0.1", 0)), bind_socket(UnixAddress(path))]
    bind = f"127.0.0.1:{sockets[0].getsockname()[1]}"
    config = settings.simple(origin.address, workers=2)
    config["listeners"] = [{"name": "plain", "bind": bind}, {"name": "unix", "bind": f"unix:{path}"}]
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "400000"}
    daemon = start_daemon(config, listen=sockets, environ=environ)
    assert b"READY=1" not in heard(manager, b"READY=1")
    heard(manager, b"WATCHDOG=1")

    def serves() -> None:
        for listener in ("plain", "unix"):
            clients = [Client(daemon.address(listener)) for _ in range(10)]
            for client in clients:
                client.assert_open("/")
                client.close()

    serves()
    reexec(daemon)
    serves()
    while_running = heard(manager, b"WATCHDOG=1")
    daemon.stop()
    while_running += heard(manager, b"STOPPING=1")
    assert set(while_running) <= {b"WATCHDOG=1"}
    assert Path(path).exists()
    with Client(path) as waiting:  # systemd would start it again for this one
        assert waiting.sock.fileno() >= 0
    for sock in sockets:
        sock.close()


def test_number_of_workers(start_daemon: StartDaemon, origin: Origin) -> None:
    """The command line goes before the file; without either it is the usable cores."""
    daemon = start_daemon(settings.simple(origin.address, workers=1), arguments=["--workers", "3"])
    assert daemon.status()["workers_wanted"] == len(daemon.workers()) == 3
    assert daemon.metrics()['homeport_workers{state="serving"}'] == 3
    daemon.stop()
    daemon = start_daemon(settings.simple(origin.address, workers="auto"))
    assert daemon.status()["workers_wanted"] == len(daemon.workers()) == auto_workers()
    daemon.stop()


def held(exchange: Exchange) -> None:
    """Answer when the test says so."""
    exchange.events.get(timeout=2 * LIMIT_S)
    exchange.send(OK)


def ctrl_c(daemon: Daemon) -> None:
    """What a terminal does: SIGINT to the whole process group, which is the parent's alone."""
    os.killpg(daemon.pid, signal.SIGINT)


def stop_all(daemon: Daemon) -> None:
    """What systemd does by default: SIGTERM to every process of the service."""
    for pid in [*children(daemon.pid), daemon.pid]:
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("stop", [ctrl_c, stop_all])
def test_a_stop_of_all_processes_drains_too(
    start_daemon: StartDaemon, origin: Origin, path: str, stop: Callable[[Daemon], None]
) -> None:
    origin.on(path, held)
    daemon = start_daemon(settings.simple(origin.address, workers=2), own_group=True)
    pids = children(daemon.pid)
    with Client(daemon.address()) as client:
        client.send(request("GET", path))
        exchange = origin.only(path)
        stop(daemon)
        wait_for(lambda: "draining" in daemon.stderr(), "the drain")
        exchange.events.put("go")
        assert client.reply().status == 200
    assert daemon.wait() == 0
    assert are_gone(pids)
    daemon.assert_quiet()


def test_forced(start_daemon: StartDaemon, origin: Origin, path: str) -> None:
    """A second signal cuts what is left, in all workers, and the exit code tells."""
    origin.on(path, held)
    daemon = start_daemon(settings.simple(origin.address, workers=2))
    pids = children(daemon.pid)
    clients = [Client(daemon.address()).send(request("GET", path)) for _ in range(4)]
    exchanges = origin.wait_seen(path, 4)
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: "draining" in daemon.stderr(), "the drain")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 1
    assert are_gone(pids)
    for client, exchange in zip(clients, exchanges, strict=True):
        assert client.reply_or_cut() is None
        client.close()
        exchange.events.put("go")
    daemon.assert_quiet()


def test_stopped_while_it_starts(start_daemon: StartDaemon, origin: Origin, tmp_path: Path) -> None:
    """SIGTERM before anything serves: an end without a fuss."""
    faults = Faults(tmp_path / "site")
    faults.switch(SLOW_CONTROL, True)
    daemon = start_daemon(settings.simple(origin.address), environ=faults.environ, wait=False)
    pids = wait_for(lambda: children(daemon.pid), "control")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert are_gone(pids)
    daemon.assert_quiet()


def test_without_a_parent_there_is_no_daemon(start_daemon: StartDaemon, origin: Origin) -> None:
    """The kernel tells the children, which drain; the ports are free at once."""
    daemon = start_daemon(settings.simple(origin.address, workers=2))
    pids = children(daemon.pid)
    with Client(daemon.address()) as client:
        client.assert_open("/")
        daemon.process.kill()
        daemon.wait()
        wait_for(lambda: are_gone(pids), "the children to end")
    host, port = daemon.address()
    bind_socket(TcpAddress(str(host), int(port))).close()
    daemon.assert_quiet()
