"""Endpoints that a file lists, which another program writes while the daemon works."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import settings
from support.client import Client
from support.daemon import ROOT, Daemon, StartDaemon
from support.origin import OK, Exchange, Origin
from support.wait import wait_for


@pytest.fixture
def second() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.stop()


def write(file: Path, *addresses: str) -> None:
    """Replace the list as programs do: by a rename."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps([{"address": each} for each in addresses]))
    new.rename(file)


def endpoints(daemon: Daemon) -> list[str]:
    document = json.loads(daemon.admin("/api/v1/clusters/origin")[1])
    return sorted(each["address"] for each in document["endpoints"])


def test_a_list_that_changes(
    origin: Origin, second: Origin, path: str, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    file = tmp_path / "endpoints.json"
    write(file, origin.address)
    cluster = {"name": "origin", "discovery": {"file": {"path": str(file), "refresh": "100ms"}}}
    daemon = start_daemon({**settings.simple(workers=2), "clusters": [cluster]})

    def slowly(exchange: Exchange) -> None:
        wait_for(lambda: endpoints(daemon) == [second.address], "the change")
        exchange.send(OK)

    origin.on(path, slowly)
    second.on(path, OK)
    with Client(daemon.address()) as client, Client(daemon.address()) as other:
        client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        origin.wait_seen(path)
        write(file, second.address)
        assert client.reply().status == 200, "who is gone still answers what it has"
        assert other.get(path).status == 200
        assert len(origin.seen(path)) == 1

        file.write_text("- {address: nowhere}\n")
        wait_for(lambda: daemon.status()["discovery"][0]["state"] == "failing", "the fault to be noticed")
        assert other.get(path).status == 200 and endpoints(daemon) == [second.address]
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "status", "--admin", f"http://{daemon.config['admin']['bind']}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert (
            f"its last answer holds: {file}:1:13: [0].address: is not an address with a port" in done.stdout
        )
    daemon.stop()
