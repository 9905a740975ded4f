"""`homeport explain` and its API, asked of a running daemon."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support import settings
from support.client import OpenClient
from support.daemon import ROOT, Daemon, StartDaemon, free_port
from support.origin import Origin
from support.wait import wait_for

SIZE = 20 * 2**20


@pytest.fixture(scope="module")
def origins() -> Iterator[list[Origin]]:
    origins = [Origin(), Origin()]
    yield origins
    for origin in origins:
        origin.stop()
        assert origin.faults == []


def config(origins: list[Origin], **more: Any) -> settings.Config:
    addresses = [origin.address for origin in origins]
    return {
        "listeners": [settings.listener()],
        "clusters": [
            settings.cluster(
                "data",
                *addresses,
                balancer="data_locality_aware",
                locality={"bandwidth": "100MiB", "slots": 2},
            ),
            settings.cluster("turns", *addresses, balancer="least_connections"),
            settings.cluster(
                "shadowed",
                *addresses,
                balancer="round_robin",
                shadow="data_locality_aware",
                locality={"bandwidth": "100MiB"},
            ),
        ],
        "routes": [
            {
                **settings.route("data", path_prefix="/data"),
                "locality": {
                    "data_key": {"header": "X-Dataset-Id"},
                    "tags": {"header": "X-Tag", "as": "require"},
                },
            },
            {
                **settings.route("shadowed", path_prefix="/shadowed"),
                "name": "by-header",
                "locality": {"data_key": {"header": "X-Dataset-Id"}},
            },
            {
                **settings.route("shadowed", path_prefix="/sized"),
                "name": "sized",
                "locality": {
                    "data_key": {"header": "X-Dataset-Id"},
                    "size": {"header": "X-Dataset-Bytes"},
                    "require": ["gpu"],
                },
            },
            settings.route("turns", path_prefix="/"),
        ],
        "workers": 1,
        **more,
    }


@pytest.fixture(scope="module")
def aware(module_daemon: StartDaemon, origins: list[Origin]) -> Iterator[Daemon]:
    daemon = module_daemon(config(origins))
    yield daemon
    daemon.stop()


def ask(daemon: Daemon, *asked: tuple[str, str]) -> tuple[int, dict[str, Any]]:
    code, body = daemon.admin("/api/v1/explain?" + urlencode(asked))
    return code, json.loads(body)


def explained(daemon: Daemon, key: str) -> dict[str, Any]:
    code, document = ask(daemon, ("cluster", "data"), ("data_key", key))
    assert code == 200, document
    return document


def homeport(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *[sys.executable, "-m", "proxy", "explain", *arguments],
            *["--admin", "http://" + daemon.config["admin"]["bind"]],
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_who_has_the_data_wins(aware: Daemon, connect: OpenClient, path: str) -> None:
    key = path.strip("/")
    before = explained(aware, key)
    assert before["data_keys"] == [
        {"key": key, "known": False, "size_bytes": None, "size_given": False, "holder_count": 0}
    ]
    assert before["reason"]["code"] in ("owner", "least_work") and not before["candidates"][0]["holds"]
    # Nobody has learned of the key by being asked.
    assert explained(aware, key)["data_keys"][0]["known"] is False
    connect(aware).get("/data" + path, f"X-Dataset-Id: {key}")
    after = wait_for(
        lambda: (found := explained(aware, key))["reason"]["code"] == "holder" and found, "the key to be held"
    )
    winner, other = after["candidates"]
    assert winner["id"] == after["winner"] and winner["holds"] == [key] and not other["holds"]
    assert winner["usable"] and winner["learned"]["slots"] == 2 and winner["learned"]["held_keys"] >= 1
    assert winner["learned"]["bandwidth_bytes_per_s"] == pytest.approx(100 * 2**20, rel=1e-6)
    assert winner["transfer_s"] == 0.0 and winner["success"] == 1.0
    labels = f'endpoint="{winner["address"]}",service_name="data"'
    assert aware.metrics()[f"homeport_locality_misses_total{{{labels}}}"] >= 1


def test_a_size_a_tag_and_a_type(aware: Daemon) -> None:
    asked = (("cluster", "data"), ("data_key", "big"), ("size", "20MiB"), ("type", "join"))
    code, document = ask(aware, *asked)
    assert code == 200 and document["data_keys"][0]["size_bytes"] == SIZE
    assert [one["transfer_s"] for one in document["candidates"]] == pytest.approx([0.2, 0.2])
    code, document = ask(aware, *asked, ("tag", "gpu"))
    assert code == 200 and document["winner"] is None
    assert [one["why"] for one in document["candidates"]] == ["has no tag gpu"] * 2
    assert document["reason"] == {"code": None, "text": "no endpoint may have the request"}


def test_what_cannot_be_asked(aware: Daemon) -> None:
    for asked, status in (
        ((("cluster", "none"),), 404),
        ((), 404),
        ((("cluster", "data"), ("size", "much")), 400),
        ((("cluster", "data"), ("data_key", "a\nb")), 400),
    ):
        code, document = ask(aware, *asked)
        assert code == status and document["message"], asked
    assert aware.admin("/api/v1/explain?cluster=data", method="POST")[0] == 405


def test_other_balancers(aware: Daemon) -> None:
    code, document = ask(aware, ("cluster", "turns"), ("data_key", "k"))
    assert code == 200 and document["predictions"] is None
    assert "fewest requests in flight" in document["goes_by"]
    assert [one["in_flight_per_weight"] for one in document["candidates"]] == [0.0, 0.0]


def test_a_shadow(aware: Daemon, connect: OpenClient) -> None:
    """Of requests for one key that take turns, data locality would send half elsewhere; nothing is sent twice."""
    client = connect(aware)
    for _ in range(20):
        assert client.get("/shadowed", "X-Dataset-Id: shade").status == 200

    def counted(name: str) -> float:
        return aware.metrics()[f'homeport_locality_shadow_{name}_total{{service_name="shadowed"}}']

    wait_for(lambda: counted("picks") == 20, "all to be counted")
    assert 0 < counted("differing_picks") < 20
    assert 0.0 < counted("saved_seconds") + counted("lost_seconds") < 20 * 60
    code, document = ask(aware, ("cluster", "shadowed"), ("data_key", "shade"))
    assert code == 200 and document["winner"] is None
    assert document["shadow"]["balancer"] == "data_locality_aware"
    assert document["shadow"]["winner"] in [one["id"] for one in document["candidates"]]
    shown = homeport(aware, "--cluster", "shadowed", "--data-key", "shade").stdout.splitlines()
    assert shown[1].startswith("its shadow data_locality_aware would choose shadowed/127.0.0.1:")


def test_routes_say_what_counts(aware: Daemon) -> None:
    """No endpoint has the tag that the second route requires."""
    asked = (("cluster", "shadowed"), ("data_key", "k"))
    code, document = ask(aware, *asked)
    assert (code, document["route"], document["other_routes"]) == (200, "by-header", ["sized"])
    assert document["shadow"]["winner"] is not None
    code, document = ask(aware, *asked, ("route", "sized"))
    assert (code, document["route"]) == (200, "sized") and document["shadow"]["winner"] is None
    assert ask(aware, *asked, ("route", "none"))[0] == 400
    shown = homeport(aware, "--cluster", "shadowed", "--route", "sized").stdout.splitlines()
    assert "for requests of route sized; other routes that know of data: by-header" in shown


def test_the_command(aware: Daemon, connect: OpenClient, path: str) -> None:
    key = path.strip("/")
    connect(aware).get("/data" + path, f"X-Dataset-Id: {key}")
    wait_for(lambda: explained(aware, key)["reason"]["code"] == "holder", "the key to be held")
    done = homeport(aware, "--cluster", "data", "--data-key", key, "--data-key", "other", "--size", "10MiB")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("data: data/127.0.0.1:") and "holds 1 of 2 of the data" in lines[0]
    assert f"{key}: 5.0 MiB, given, 1 endpoint holds it" in lines
    header = next(line for line in lines if "TRANSFER" in line)
    assert header.split()[:3] == ["ENDPOINT", "HOLDS", "IN"]
    assert sum(line.startswith(">") for line in lines) == 2 and "1 of 2" in done.stdout
    machine = homeport(aware, "--cluster", "data", "--data-key", key, "--json")
    assert json.loads(machine.stdout)["reason"]["code"] == "holder"
    plain = homeport(aware, "--cluster", "turns")
    assert plain.returncode == 0 and "PER WEIGHT" in plain.stdout
    wrong = homeport(aware, "--cluster", "none")
    assert (wrong.returncode, wrong.stderr) == (1, "homeport: there is no cluster 'none'\n")


def test_endpoints_that_are_not_in_use_say_why(start_daemon: StartDaemon, origins: list[Origin]) -> None:
    there, away = origins[0].address, f"127.0.0.1:{free_port()}"
    made = config(origins)
    made["clusters"][0]["endpoints"] = [{"address": there}, {"address": away}]
    daemon = start_daemon(made)
    assert daemon.admin(f"/api/v1/endpoints/data%2F{away}/drain", method="POST")[0] == 200

    def drained() -> dict[str, Any] | None:
        document = explained(daemon, "k")
        return document if document["reason"]["code"] == "only" else None

    document = wait_for(drained, "the drain")
    assert document["winner"] == f"data/{there}"
    left = next(one for one in document["candidates"] if one["address"] == away)
    assert (left["usable"], left["standing"], left["why"]) == (False, "drained", "by an operator")
    assert left["service_s"] > 0
    done = homeport(daemon, "--cluster", "data")
    assert f"data/{away} is drained: by an operator" in done.stdout.splitlines()
    daemon.stop()


def stop(pid: int) -> None:
    """Have a process stand still."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text(), "a process to stand still")


def test_workers_that_hang(start_daemon: StartDaemon, connect: OpenClient, origins: list[Origin]) -> None:
    """One that stands still is passed over; when all do, that is an error."""
    daemon = start_daemon(config(origins, workers=2))
    connect(daemon).get("/data/quick", "X-Dataset-Id: hot")
    holder = wait_for(
        lambda: (found := explained(daemon, "hot"))["reason"]["code"] == "holder" and found["winner"],
        "a holder",
    )
    pids = list(daemon.workers().values())
    stop(daemon.pid)  # it would replace them
    stop(pids[0])
    assert explained(daemon, "hot")["winner"] == holder
    stop(pids[1])
    code, document = ask(daemon, ("cluster", "data"))
    assert (code, document["error"]) == (504, "timeout")
    assert document["message"].startswith("no answer within 1 s each from worker ")
    for pid in (*pids, daemon.pid):
        os.kill(pid, signal.SIGCONT)
    assert explained(daemon, "hot")["winner"] == holder
    daemon.stop()
