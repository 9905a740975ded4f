"""A reload while the daemon works: what changes, what is refused, and what nobody notices."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import websockets
from support import settings
from support.certificates import Authority
from support.client import Client, OpenClient, request
from support.daemon import ROOT, Daemon, StartDaemon, free_port
from support.origin import OK, Exchange, Origin
from support.wait import LIMIT_S, wait_for


def config(origin: Origin, **more: Any) -> dict[str, Any]:
    return settings.simple(origin.address, workers=2, **more)


def write(daemon: Daemon, text: str) -> None:
    """Replace the file as editors do: by a rename."""
    new = daemon.file.with_suffix(".new")
    new.write_text(text)
    new.rename(daemon.file)


def change(daemon: Daemon, **keys: Any) -> None:
    """Change top-level keys of the file, and of what the test knows of it."""
    daemon.config.update(keys)
    write(daemon, json.dumps(daemon.config, indent=1))


def status(daemon: Daemon) -> dict[str, Any]:
    code, body = daemon.admin("/api/v1/status")
    assert code == 200
    return dict(json.loads(body))


def applied(daemon: Daemon, generation: int) -> None:
    wait_for(lambda: status(daemon)["applied_generation"] >= generation, f"generation {generation}")


def homeport(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def reload(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    return homeport("reload", "--admin", "http://" + daemon.config["admin"]["bind"])


def test_a_changed_file_is_served(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """Connections stay open and get the new rules with their next request; endpoints keep their connections."""
    origin.on(path, OK)
    daemon = start_daemon(config(origin))
    client = connect(daemon)
    assert client.get(path).status == 200
    rule = settings.route({"respond": {"status": 418}}, path=path)
    change(daemon, routes=[rule, *daemon.config["routes"]])
    applied(daemon, 2)
    assert client.get(path).status == 418
    assert client.get(path + "/x").status in (200, 404)
    assert origin.seen(path)[0].connection == origin.seen(path + "/x")[0].connection
    wait_for(lambda: "reload: applied, generation 2" in daemon.stderr(), "the line in the log")
    daemon.stop()


def test_a_file_that_it_refers_to_is_served(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str, tmp_path: Path
) -> None:
    """A changed secret is in use without a word to the daemon, and in no log."""
    secret = tmp_path / "elsewhere" / "word"
    secret.parent.mkdir()
    secret.write_text("open-sesame")
    rule = settings.route({"respond": {"status": 200, "body": f"${{file:{secret}}}"}}, path=path)
    changed = config(origin)
    daemon = start_daemon({**changed, "routes": [rule, *changed["routes"]]})
    client = connect(daemon)
    assert client.get(path).body == b"open-sesame"
    secret.write_text("shut-sesame")
    applied(daemon, 2)
    assert client.get(path).body == b"shut-sesame"
    assert "sesame" not in daemon.stderr()
    daemon.stop()


def test_the_same_bytes_change_nothing(start_daemon: StartDaemon, origin: Origin) -> None:
    daemon = start_daemon(config(origin))
    write(daemon, daemon.file.read_text())
    done = reload(daemon)
    assert (done.returncode, done.stdout) == (0, "unchanged: generation 1\n")
    write(daemon, daemon.file.read_text() + "\n# a remark\n")
    done = reload(daemon)
    assert (done.returncode, done.stdout) == (0, "unchanged: generation 1\n")
    daemon.stop()


@pytest.mark.parametrize("way", ["file", "signal", "command"])
def test_a_faulty_file_is_refused_with_its_place(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str, way: str
) -> None:
    """All ways say line and column; the daemon goes on with what it had, and takes the file once it is mended."""
    origin.on(path, OK)
    daemon = start_daemon(config(origin))
    good = daemon.file.read_text()
    place = f"{daemon.file}:2:1: limitz: "
    if way == "file":
        write(daemon, "{\nlimitz: 3}\n")
    else:
        daemon.file.write_text("{\nlimitz: 3}\n")
        if way == "signal":
            daemon.signal(signal.SIGHUP)
        else:
            done = reload(daemon)
            assert done.returncode == 2 and place in done.stderr
    wait_for(lambda: place in daemon.stderr(), "the fault in the log")
    assert "homeport_config_last_reload_successful 0.0" in daemon.admin("/metrics")[1].decode()
    assert connect(daemon).get(path).status == 200
    assert daemon.admin("/readyz")[0] == 200
    write(daemon, good)
    wait_for(
        lambda: "homeport_config_last_reload_successful 1.0" in daemon.admin("/metrics")[1].decode(),
        "the mended file",
    )
    assert status(daemon)["generation"] == 1
    daemon.stop()


def test_listeners_come_and_go(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """A new one takes connections, a removed one no more: what is connected to it ends as in a drain, a request in
    flight with its answer. What is connected to others stays."""
    origin.on(path, OK)
    daemon = start_daemon(config(origin))
    first = connect(daemon)
    assert first.get(path).status == 200
    old = daemon.address()
    second = settings.listener("second")
    change(daemon, listeners=[*daemon.config["listeners"], second])
    applied(daemon, 2)
    other, busy = connect(daemon, "second"), connect(daemon)
    assert other.get(path).status == 200
    origin.on(path + "/held", lambda exchange: exchange.events.get(timeout=2 * LIMIT_S) and exchange.reply())
    busy.send(request("GET", path + "/held"))
    (in_flight,) = origin.wait_seen(path + "/held")
    change(daemon, listeners=[second])
    applied(daemon, 3)
    assert [each["name"] for each in status(daemon)["listeners"]] == ["second"]
    wait_for(lambda: not listens(old), "the removed listener to close")
    first.assert_closed()
    in_flight.events.put("go on")
    reply = busy.reply()
    assert reply.status == 200 and reply.fields.one("connection") == "close"
    busy.assert_closed()
    assert other.get(path).status == 200
    daemon.stop()


def test_a_renamed_listener_is_the_same(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """Its connections go on by the routes that name it now, also when two exchange their names."""
    origin.on(path, OK)
    edge, side = settings.listener("edge"), settings.listener("side")

    def routes(one: str, two: str) -> list[dict[str, Any]]:
        return [
            {"match": {"listener": one}, "cluster": "origin"},
            {"match": {"listener": two}, "respond": {"status": 204}},
        ]

    daemon = start_daemon(config(origin, listeners=[edge, side], routes=routes("edge", "side")))
    client, other = connect(daemon, "edge"), connect(daemon, "side")
    names = [("edge", "side"), ("front", "side"), ("side", "front")]
    for generation, (one, two) in enumerate(names, 1):
        if generation > 1:
            listeners = [{**edge, "name": one}, {**side, "name": two}]
            change(daemon, listeners=listeners, routes=routes(one, two))
            applied(daemon, generation)
        assert (client.get(path).status, other.get(path).status) == (200, 204)
        counted = {each["name"]: each["connections"] for each in status(daemon)["listeners"]}
        assert counted == {one: 1, two: 1}
    daemon.stop()


def listens(address: Any) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(address) == 0


def test_a_listener_that_cannot_be_bound_is_refused(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    origin.on(path, OK)
    daemon = start_daemon(config(origin))
    client = connect(daemon)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        known = list(daemon.config["listeners"])
        text = json.dumps({**daemon.config, "listeners": [*known, {"name": "taken", "bind": bind}]}, indent=1)
        daemon.file.write_text(text)
        done = reload(daemon)
    assert done.returncode == 2
    expected = "expected an address that can be bound (Address already in use)"
    assert f"listeners[1].bind: cannot be used, got {bind}, {expected}" in done.stderr
    line = text[: text.index(bind)].count("\n") + 1
    assert f"homeport.yaml:{line}:" in done.stderr
    assert client.get(path).status == 200 and status(daemon)["generation"] == 1
    daemon.stop()


def test_the_number_of_workers_follows(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """More are started, fewer drain: a connection of a worker that goes gets its answer, and Connection: close."""
    origin.on(path, OK)
    daemon = start_daemon(config(origin))
    clients = [connect(daemon) for _ in range(6)]
    assert [client.get(path).status for client in clients] == [200] * 6
    change(daemon, workers=3)
    wait_for(lambda: len(status(daemon)["workers"]) == 3, "a third worker")
    change(daemon, workers=1)
    wait_for(lambda: len(status(daemon)["workers"]) == 1, "two workers to go")
    daemon.stop()


def test_the_access_log_moves(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str, tmp_path: Path
) -> None:
    origin.on(path, OK)
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    daemon = start_daemon(config(origin, access_log={"sink": str(old)}))
    client = connect(daemon)
    assert client.get(path + "?1").status == 200
    change(daemon, access_log={"sink": str(new)})
    applied(daemon, 2)
    assert client.get(path + "?2").status == 200
    wait_for(lambda: new.exists() and path + "?2" in new.read_text(), "the line in the new file")
    assert path + "?1" in old.read_text() and path + "?2" not in old.read_text()
    daemon.stop()


def test_a_mounted_directory_is_swapped(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str, tmp_path: Path
) -> None:
    """As Kubernetes updates a ConfigMap: the file is a link into `..data`, which is swapped for another directory."""
    origin.on(path, OK)
    daemon = start_daemon(config(origin))
    folder = daemon.file.parent
    for name in ("..1", "..2"):
        (folder / name).mkdir()
    (folder / "..1" / "homeport.yaml").write_text(daemon.file.read_text())
    (folder / "..data").symlink_to("..1")
    link = folder / "link"
    link.symlink_to("..data/homeport.yaml")
    link.rename(daemon.file)
    assert reload(daemon).stdout == "unchanged: generation 1\n"
    daemon.config["limits"] = {"header_count": 50}
    (folder / "..2" / "homeport.yaml").write_text(json.dumps(daemon.config))
    (folder / "..data_tmp").symlink_to("..2")
    (folder / "..data_tmp").rename(folder / "..data")
    applied(daemon, 2)
    daemon.stop()


def test_websockets_outlive_reloads(start_daemon: StartDaemon, origin: Origin) -> None:
    """Open tunnels, and requests in flight on routes that are gone, are not touched."""

    async def main() -> None:
        async with websockets.serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            daemon = await asyncio.to_thread(start_daemon, settings.simple(f"127.0.0.1:{port}", workers=2))
            host, listening = daemon.address()
            opened = [await websockets.connect(f"ws://{host}:{listening}/{n}") for n in range(8)]
            for generation in range(2, 6):
                limits = {"header_count": 100 + generation}
                await asyncio.to_thread(change, daemon, limits=limits, routes=daemon.config["routes"][::-1])
                await asyncio.to_thread(applied, daemon, generation)
                for each in opened:
                    await each.send("hello")
                    assert await each.recv() == "hello"
            assert (await asyncio.to_thread(status, daemon))["totals"]["tunnels"] == 8
            for each in opened:
                await each.close()
            await asyncio.to_thread(daemon.stop)

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_many_reloads_lose_nothing(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """Requests on kept connections while the file changes again and again, half of the time for the worse."""
    origin.on(path, lambda one: one.reply(200, path.encode()))
    daemon = start_daemon(config(origin))
    clients = [connect(daemon) for _ in range(4)]
    for number in range(10):
        if number % 2:
            daemon.file.write_text("{}")
        else:
            change(daemon, limits={"header_count": 100 + number})
        daemon.signal(signal.SIGHUP)
        for _ in range(5):
            assert [client.get(path).status for client in clients] == [200] * 4
    assert reload(daemon).returncode == 2
    change(daemon, limits={"header_count": 99})
    assert reload(daemon).returncode == 0
    assert [client.get(path).body for client in clients] == [path.encode()] * 4
    daemon.stop()


def test_a_new_control_with_a_faulty_file_serves_the_last_good_one(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """The parent keeps the text of what is served: control may die while somebody edits the file."""
    origin.on(path, OK)
    daemon = start_daemon(config(origin))
    client = connect(daemon)
    before = status(daemon)
    daemon.file.write_text("{\nlimitz: 3}\n")
    os.kill(before["control"]["pid"], signal.SIGKILL)
    wait_for(
        lambda: answers(daemon) and status(daemon)["control"]["pid"] != before["control"]["pid"], "control"
    )
    assert client.get(path).status == 200
    applied(daemon, before["generation"])
    assert "homeport_config_last_reload_successful 0.0" in daemon.admin("/metrics")[1].decode()
    done = reload(daemon)
    assert done.returncode == 2 and "limitz" in done.stderr
    change(daemon, limits={"header_count": 99})
    assert (
        reload(daemon).stdout.startswith("applied") or status(daemon)["generation"] > before["generation"] + 1
    )
    daemon.stop()


def test_a_new_control_serves_the_last_good_certificates(
    start_daemon: StartDaemon, origin: Origin, path: str, tmp_path: Path
) -> None:
    """A key that is broken on disk stops neither the workers nor a control that starts meanwhile."""
    origin.on(path, OK)
    authority = Authority()
    files = authority.write(tmp_path, "127.0.0.1")
    listener = settings.listener("tls", tls={"certificates": [files.config()]})
    daemon = start_daemon(config(origin, listeners=[listener]))
    before = status(daemon)
    Path(files.key).write_text("no key")
    os.kill(before["control"]["pid"], signal.SIGKILL)
    wait_for(
        lambda: answers(daemon) and status(daemon)["control"]["pid"] != before["control"]["pid"],
        "control",
        60.0,
    )
    applied(daemon, before["generation"] + 1)
    assert "homeport_certificates_failing 1.0" in daemon.admin("/metrics")[1].decode()
    context = ssl.create_default_context(cafile=authority.write_ca(tmp_path))
    with socket.create_connection(daemon.address("tls")) as sock:
        with context.wrap_socket(sock, server_hostname="127.0.0.1") as secure:
            secure.sendall(b"GET %b HTTP/1.1\r\nHost: t.test\r\n\r\n" % path.encode())
            assert secure.recv(15) == b"HTTP/1.1 200 OK"
    daemon.stop()


def answers(daemon: Daemon) -> bool:
    try:
        return daemon.admin("/healthz")[0] == 200
    except OSError:
        return False


def test_the_admin_api_moves(start_daemon: StartDaemon, origin: Origin) -> None:
    daemon = start_daemon(config(origin))
    host, _, port = daemon.config["admin"]["bind"].rpartition(":")
    change(daemon, admin={"bind": f"127.0.0.1:{free_port()}"})
    wait_for(lambda: answers(daemon), "the new address")
    assert daemon.admin("/readyz")[0] == 200
    wait_for(lambda: not listens((host, int(port))), "the old address to close")
    daemon.stop()


def test_requests_in_flight_keep_their_route(
    start_daemon: StartDaemon, connect: OpenClient, origin: Origin, path: str
) -> None:
    """A cluster that is removed answers what it was asked before."""

    def held(exchange: Exchange) -> None:
        exchange.events.get(timeout=30)
        exchange.send(OK)

    origin.on(path, held)
    daemon = start_daemon(config(origin))
    client: Client = connect(daemon)
    client.send(b"GET %b HTTP/1.1\r\nHost: t.test\r\n\r\n" % path.encode())
    exchange = origin.only(path)
    change(
        daemon,
        clusters=[settings.cluster("other", "127.0.0.1:9")],
        routes=[settings.route("other", path="/o")],
    )
    applied(daemon, 2)
    exchange.events.put("go")
    assert client.reply().status == 200
    assert client.get(path).status == 404
    daemon.stop()
