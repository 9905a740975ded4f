"""Which data requests need, over real connections: as the access log and the metrics tell it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import Daemon, StartDaemon
from support.origin import Origin
from support.wait import wait_for
from support.wire import chunked

HEADERS = {
    "data_key": [{"header": "X-Dataset-Id"}, {"path": "/headers/{a}/sets/{b}/…"}],
    "size": {"header": "X-Dataset-Bytes"},
    "tags": {"header": "X-Data-Affinity"},
    "processing_type": {"header": "X-Processing-Type"},
}
BODIES = {"data_key": {"json": "/query/dataset", "max_body": "1KiB"}}
DOCUMENT = b'{"query": {"dataset": ["one", 2]}}'


def config(origin: Origin, folder: Path) -> settings.Config:
    def aware(name: str, **more: Any) -> settings.Config:
        return settings.cluster(name, origin.address, balancer="data_locality_aware", **more)

    return {
        "listeners": [settings.listener()],
        "clusters": [
            aware("headers"),
            aware("bodies"),
            aware("stripped", locality={"strip_headers": True}),
            settings.cluster("plain", origin.address),
        ],
        "routes": [
            {**settings.route("headers", path_prefix="/headers"), "locality": HEADERS},
            {**settings.route("bodies", path_prefix="/bodies"), "locality": BODIES},
            settings.route("stripped", path_prefix="/stripped"),
            settings.route("plain", path_prefix="/"),
        ],
        "timeouts": {"body": "1s"},
        "access_log": {"sink": str(folder / "access.log")},
        "workers": 1,
    }


@pytest.fixture(scope="module")
def aware(
    module_daemon: StartDaemon, shared_origin: Origin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    daemon = module_daemon(config(shared_origin, tmp_path_factory.mktemp("log")))
    yield daemon
    daemon.stop()


@pytest.fixture
def client(aware: Daemon, connect: OpenClient) -> Client:
    return connect(aware)


def record(daemon: Daemon, path: str) -> dict[str, Any]:
    """The line of the access log about `path`, once it is written."""
    file = Path(daemon.config["access_log"]["sink"])

    def lines() -> list[dict[str, Any]]:
        written = file.read_text().rpartition("\n")[0] if file.exists() else ""
        return [one for one in map(json.loads, written.splitlines()) if path in one["target"]]

    (only,) = wait_for(lines, f"a line about {path}")
    return only


def ignored(daemon: Daemon, cluster: str) -> dict[str, float]:
    """How often values were left out, by reason."""
    start = 'homeport_cluster_ignored_data_values_total{reason="'
    return {
        name.removeprefix(start).partition('"')[0]: value
        for name, value in daemon.metrics().items()
        if name.startswith(start) and f'"{cluster}"' in name
    }


def test_keys_of_a_head(aware: Daemon, client: Client, origin: Origin, path: str) -> None:
    target = f"/headers{path}/sets/b%20c/rows"
    lines = ("X-Dataset-Id: a, b", "X-Dataset-Bytes: 123")
    assert client.get(target, *lines).status == 200
    found = record(aware, target)
    assert (found["data_key"], found["data_bytes"]) == (f"a, b, {path[1:]}, b c", 123)


def test_values_that_make_no_sense_are_counted(aware: Daemon, client: Client, path: str) -> None:
    """And no request fails for them."""
    before = ignored(aware, "headers")
    wrong = [
        f"X-Dataset-Id: {'k' * 8000}",
        "X-Dataset-Id: a\tb",
        "X-Dataset-Id: " + ",".join(map(str, range(1000))),
        "X-Dataset-Bytes: -1",
        "X-Dataset-Bytes: 1000000000000000000",
        "X-Dataset-Bytes: 0",
        "X-Dataset-Bytes: many",
        "X-Data-Affinity: a b",
        "X-Processing-Type: " + "t" * 65,
    ]
    for line in wrong:
        assert client.get("/headers" + path, line).status == 200
    after = ignored(aware, "headers")
    grown = {why: after[why] - before.get(why, 0) for why in after}
    assert grown == {
        "key_too_long": 1,
        "key_control_bytes": 1,
        "too_many_keys": grown["too_many_keys"],
        "size": 4,
        "tag": 1,
        "processing_type": 1,
    }


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_keys_of_a_body(
    aware: Daemon, client: Client, origin: Origin, path: str, framing: str, pieces: int
) -> None:
    target = "/bodies" + path
    if framing == "length":
        data = request("POST", target, body=DOCUMENT)
    else:
        data = request("POST", target, "Transfer-Encoding: chunked") + chunked(DOCUMENT, 7)
    cuts = [0, data.index(b"\r\n\r\n") + 4, len(data) - 9, len(data)] if pieces > 1 else [0, len(data)]
    for start, end in zip(cuts, cuts[1:], strict=False):
        assert origin.seen(target) == []
        client.send(data[start:end])
        # Whoever is asked meanwhile is answered: nothing of the rest is waited for by others.
        if end < len(data):
            with Client(aware.address()) as other:
                other.assert_open("/")
    assert client.reply().status == 200
    (seen,) = origin.wait_seen(target)
    assert bytes(seen.body) == DOCUMENT
    assert record(aware, target)["data_key"] == "one, 2"
    client.assert_open("/")


def test_who_waits_for_100_gets_it_from_us(aware: Daemon, client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 10.1.1: the endpoint, which is picked when the body is here, has nothing to expect any more."""
    target = "/bodies" + path
    head = request("POST", target, "Expect: 100-continue", f"Content-Length: {len(DOCUMENT)}")
    client.send(head)
    assert client.stream.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    assert origin.seen(target) == []
    client.send(DOCUMENT)
    assert client.reply().status == 200
    (seen,) = origin.wait_seen(target)
    assert "expect" not in seen.fields and bytes(seen.body) == DOCUMENT
    assert record(aware, target)["data_key"] == "one, 2"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_larger_bodies_go_on_without_a_key(
    aware: Daemon, client: Client, origin: Origin, path: str, framing: str
) -> None:
    """As soon as they are known to be larger."""
    target = "/bodies" + path
    before = ignored(aware, "bodies").get("body_too_large", 0)
    origin.on(target, lambda one: one.reply(200, one.read_body()), early=True)
    body = b'{"query": {"dataset": "one"}, "rows": "' + b"x" * 3000 + b'"}'
    if framing == "length":
        data = request("POST", target, body=body)
    else:
        data = request("POST", target, "Transfer-Encoding: chunked") + chunked(body, 700)
    client.send(data[:-600])
    origin.wait_seen(target)
    client.send(data[-600:])
    assert client.reply().body == body
    assert record(aware, target)["data_key"] is None
    assert ignored(aware, "bodies")["body_too_large"] == before + 1


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 900, b'{"query": {"dataset": true}}'])
def test_bodies_that_make_no_sense_go_on_without_a_key(
    aware: Daemon, client: Client, origin: Origin, path: str, body: bytes
) -> None:
    target = "/bodies" + path
    before = ignored(aware, "bodies").get("body", 0)
    assert client.ask("POST", target, body=body).status == 200
    (seen,) = origin.wait_seen(target)
    assert bytes(seen.body) == body
    assert record(aware, target)["data_key"] is None
    assert ignored(aware, "bodies")["body"] == before + 1


def test_a_body_that_does_not_come(aware: Daemon, client: Client, origin: Origin, path: str) -> None:
    """RFC 9110 15.5.9: no endpoint has been taken for it."""
    target = "/bodies" + path
    client.send(request("POST", target, "Content-Length: 20") + b'{"query"')
    reply = client.reply()
    assert reply.status == 408 and origin.seen(target) == []
    client.assert_closed()


def test_a_client_that_leaves_while_its_body_is_awaited(
    aware: Daemon, client: Client, origin: Origin, path: str
) -> None:
    target = "/bodies" + path
    client.send(request("POST", target, "Content-Length: 20") + b'{"query"')
    client.close()
    assert record(aware, target)["outcome"] == "client_gone"
    assert origin.seen(target) == []


def test_a_body_after_a_pipelined_request(aware: Daemon, client: Client, origin: Origin, path: str) -> None:
    one, other = f"/bodies{path}/1", f"/bodies{path}/2"
    data = request("POST", one, body=DOCUMENT) + request("POST", other, body=DOCUMENT)
    client.send(data[:-5])
    assert client.reply().status == 200 and origin.seen(other) == []
    client.send(data[-5:])
    assert client.reply().status == 200
    assert record(aware, other)["data_key"] == "one, 2"


def test_requests_without_a_body_need_none(aware: Daemon, client: Client, path: str) -> None:
    assert client.get("/bodies" + path).status == 200
    assert client.ask("POST", "/bodies" + path, body=b"").status == 200


SAID = ("X-Data-Cache: hit", "X-Data-Resident: a;bytes=7", "X-Data-Evicted: b", "X-Data-Other: kept")


@pytest.mark.parametrize(("cluster", "kept"), [("headers", 4), ("plain", 4), ("stripped", 1)])
def test_what_endpoints_say_of_data_reaches_clients_or_not(
    client: Client, origin: Origin, path: str, cluster: str, kept: int
) -> None:
    target = f"/{cluster}{path}"
    origin.on(target, lambda one: one.reply(200, b"ok", *SAID))
    reply = client.get(target)
    assert (reply.status, reply.body) == (200, b"ok")
    assert sum(line.partition(":")[0] in reply.fields for line in SAID) == kept
    assert reply.fields.one("x-data-other") == "kept"


def test_lies_of_endpoints_are_counted(aware: Daemon, client: Client, origin: Origin, path: str) -> None:
    target = "/headers" + path
    lies = ("X-Data-Cache: maybe", "X-Data-Resident: a;bytes=-1", 'X-Data-Evicted: "', "X-Data-Slots: 0")
    origin.on(target, lambda one: one.reply(200, b"ok", *lies))
    before = ignored(aware, "headers")
    assert client.get(target).status == 200
    after = ignored(aware, "headers")
    for why in ("reply_cache", "reply_resident", "reply_evicted", "reply_endpoint"):
        assert after[why] == before.get(why, 0) + 1
