"""Why a request went where it did, as the access log and, if that is wished, the client are told."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support import settings
from support.client import OpenClient
from support.daemon import Daemon, StartDaemon, free_port
from support.origin import Exchange, Origin
from support.wait import wait_for
from support.wire import Reply

LINE = re.compile(
    r'"([^"]+)";why=(\w+)(?:;data=(hit|miss))?;wait=([\d.]+);transfer=([\d.]+);service=([\d.]+)'
    r";eviction=([\d.]+);success=([\d.]+);penalty=([\d.]+);score=([\d.]+)"
)

TERMS = ("wait", "transfer", "service", "eviction", "penalty")


@pytest.fixture(scope="module")
def origins() -> Iterator[list[Origin]]:
    origins = [Origin(), Origin()]
    yield origins
    for origin in origins:
        origin.stop()
        assert origin.faults == []


@pytest.fixture(scope="module")
def daemon(
    module_daemon: StartDaemon, origins: list[Origin], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    addresses = [origin.address for origin in origins]

    def aware(name: str, *members: Any, explain: bool = True, **more: Any) -> settings.Config:
        locality: settings.Config = {"bandwidth": "100MiB", "zones": {"far": "1s"}}
        if explain:
            locality["explain_header"] = "X-Why"
        return settings.cluster(name, *members, balancer="data_locality_aware", locality=locality, **more)

    names = ("told", "silent", "alone", "sticky", "failing", "turns")
    data = {"data_key": {"header": "X-Dataset-Id"}, "size": {"header": "X-Dataset-Bytes"}}
    routes: list[settings.Config] = [
        {**settings.route(name, path_prefix=f"/{name}"), **({"locality": data} if name != "turns" else {})}
        for name in names
    ]
    daemon = module_daemon(
        {
            "listeners": [settings.listener()],
            "clusters": [
                aware("told", *addresses),
                aware("silent", *addresses, explain=False),
                aware("alone", addresses[0]),
                aware("sticky", *addresses, sticky={"cookie": "at"}),
                aware("failing", {"address": addresses[0], "zone": "far"}, f"127.0.0.1:{free_port()}"),
                settings.cluster("turns", *addresses),
                aware("tagged", {"address": addresses[0], "tags": ["gpu"]}, addresses[1]),
            ],
            "routes": [
                *routes,
                {
                    **settings.route("tagged", path_prefix="/tagged"),
                    "name": "tagged",
                    "locality": {**data, "require": ["gpu"]},
                },
                {
                    **settings.route("tagged", path_prefix="/liked"),
                    "name": "liked",
                    "locality": {**data, "tags": {"header": "X-Tag", "distance": "3s"}},
                },
            ],
            "access_log": {"sink": str(tmp_path_factory.mktemp("log") / "access.log")},
            "workers": 1,
        }
    )
    yield daemon
    daemon.stop()


def field(reply: Reply, name: str) -> str:
    """The one field of that name; empty when there is none."""
    (only,) = reply.fields.all(name) or [""]
    return only


def record(daemon: Daemon, path: str) -> dict[str, Any]:
    """The last line of the access log about `path`, once it is written."""
    file = Path(daemon.config["access_log"]["sink"])

    def lines() -> list[dict[str, Any]]:
        written = file.read_text().rpartition("\n")[0] if file.exists() else ""
        return [one for one in map(json.loads, written.splitlines()) if one["target"] == path]

    return wait_for(lines, f"a line about {path}")[-1]


def test_a_miss_and_a_hit(daemon: Daemon, connect: OpenClient) -> None:
    client = connect(daemon)
    found = []
    for turn in ("first", "second"):
        reply = client.get(f"/told/{turn}", "X-Dataset-Id: both", "X-Dataset-Bytes: 10485760")
        match = LINE.fullmatch(field(reply, "x-why"))
        assert match is not None, field(reply, "x-why")
        logged = record(daemon, f"/told/{turn}")
        assert match[1] == logged["endpoint"] and match[2] == logged["why"]
        assert {"hit": True, "miss": False, None: None}[match[3]] is logged["data_hit"]
        names = {4: "wait", 5: "transfer", 6: "service", 7: "eviction", 9: "penalty", 10: "score"}
        for number, name in names.items():
            assert float(match[number]) == pytest.approx(1000 * logged[f"predicted_{name}_s"], abs=0.051)
        assert match[8] == "1.000" and logged["predicted_success"] == 1.0
        assert logged["predicted_score_s"] >= sum(logged[f"predicted_{name}_s"] for name in TERMS) - 1e-5
        found.append(logged)
    first, second = found
    assert first["why"] in ("owner", "least_work") and first["data_hit"] is False
    assert first["predicted_transfer_s"] == pytest.approx(0.1)
    assert second["why"] == "holder" and second["endpoint"] == first["endpoint"]
    assert second["data_hit"] is True and second["predicted_transfer_s"] < 0.1


def test_the_endpoints_own_line_gives_way(daemon: Daemon, connect: OpenClient, origins: list[Origin]) -> None:
    for origin in origins:
        origin.on(
            "/told/own", lambda exchange: exchange.reply(200, b"ok", "x-why: trust me", "X-Why-Not: kept")
        )
        origin.on("/silent/own", lambda exchange: exchange.reply(200, b"ok", "x-why: mine"))
    reply = connect(daemon).get("/told/own")
    assert LINE.fullmatch(field(reply, "x-why")) and field(reply, "x-why-not") == "kept"
    assert field(connect(daemon).get("/silent/own"), "x-why") == "mine"


def test_without_choice(daemon: Daemon, connect: OpenClient) -> None:
    client = connect(daemon)
    reply = client.get("/alone/x", "X-Dataset-Id: k")
    assert ";why=only;data=miss;" in field(reply, "x-why")
    for expected in ("miss", "hit"):
        reply = client.get("/tagged/x", "X-Dataset-Id: k")
        assert f";why=only;data={expected};" in field(reply, "x-why"), "no other has the tag"
    first = client.get("/sticky/first")
    cookie = field(first, "set-cookie").partition(";")[0]
    assert ";why=least_work;" in field(first, "x-why")
    again = client.get("/sticky/again", f"Cookie: {cookie}")
    assert ";why=sticky;" in field(again, "x-why")
    assert record(daemon, "/sticky/again")["why"] == "sticky"
    client.get("/turns/x")
    logged = record(daemon, "/turns/x")
    names = ("why", "data_hit", "predicted_success", *(f"predicted_{name}_s" for name in (*TERMS, "score")))
    assert {logged[name] for name in names} == {None}


def test_the_log_says_what_was_explained(daemon: Daemon, connect: OpenClient) -> None:
    """Asked right before the request; by route, what it requires, and what is wished for."""
    client = connect(daemon)
    codes = set()
    for turn in range(3):
        for key in ("one", "two", "three"):
            for cluster, route, tag in (
                ("told", "", ""), ("tagged", "tagged", ""), ("tagged", "liked", ""), ("tagged", "liked", "gpu"),
            ):  # fmt: skip
                name = route or cluster
                named = f"{key}-{name}-{tag}"
                asked = {"cluster": cluster, "data_key": named, "route": route}
                query = urlencode({**asked, **({"tag": tag} if tag else {})})
                code, body = daemon.admin(f"/api/v1/explain?{query}")
                explained = json.loads(body)
                assert code == 200, explained
                target = f"/{name}/asked-{turn}-{named}"
                assert client.get(target, f"X-Dataset-Id: {named}", f"X-Tag: {tag}").status == 200
                logged = record(daemon, target)
                assert logged["endpoint"] == explained["winner"], explained
                assert logged["why"] == explained["reason"]["code"], explained
                codes.add(logged["why"])
    assert codes >= {"holder", "owner", "only"}


def test_after_a_failure(daemon: Daemon, connect: OpenClient) -> None:
    """The endpoint that is there is believed to be a second away, so the other is asked first."""
    reply = connect(daemon).get("/failing/x")
    assert reply.status == 200 and ";why=retry;" in field(reply, "x-why")
    logged = record(daemon, "/failing/x")
    assert (logged["why"], logged["attempts"]) == ("retry", 1)
    # It is in a zone that is a second away.
    assert logged["predicted_penalty_s"] == 1.0
    assert 1.0 < logged["predicted_score_s"] < 3.0


def test_no_endpoint_and_a_bad_answer(daemon: Daemon, connect: OpenClient, origins: list[Origin]) -> None:
    def cut(exchange: Exchange) -> None:
        exchange.close()

    origins[0].on("/alone/cut", cut)
    reply = connect(daemon).get("/alone/cut", "X-Dataset-Id: cut")
    assert reply.status == 502 and not field(reply, "x-why")
    logged = record(daemon, "/alone/cut")
    assert (logged["why"], logged["data_hit"]) == ("only", None) and logged["predicted_service_s"] > 0
