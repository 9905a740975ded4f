"""Requests that one endpoint fails and another answers, and those that may not be sent twice."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Event

import pytest
from support import settings
from support.client import Client, OpenClient, request
from support.daemon import StartDaemon, free_port
from support.origin import Exchange, Origin
from support.wait import wait_for

# For whom two turns of round robin begin with the bad endpoint.
TURNS = 2
# A circuit that opens at once and is tried again and again.
TRIED = {"circuit_breaker": {"failure_threshold": 1, "recovery_timeout": "20ms"}}
# At most three retries at once, and time for all that come together.
PATIENT = {"per_try_timeout": "200ms", "max_backoff": "10s"}
NO_RETRIES = {"max_retries": 0, "budget_percent": 0, "min_retries": 0}


class Pair:
    """A daemon with an endpoint that fails as its test says, and one that answers; each cluster has both."""

    def __init__(self, start: StartDaemon, folder: Path) -> None:
        self.bad, self.good = Origin(), Origin()
        self.log = folder / "access.log"
        both = (self.bad.address, self.good.address)
        refused = f"127.0.0.1:{free_port()}"
        clusters = [
            settings.cluster("pair", *both, **settings.STUBBORN),
            settings.cluster("refused", refused, self.good.address, **settings.STUBBORN),
            settings.cluster("alone", self.bad.address, **settings.STUBBORN),
            settings.cluster("off", *both, retry={"max_retries": 0}, **settings.STUBBORN),
            settings.cluster("hasty", *both, retry={"per_try_timeout": "200ms"}, **settings.STUBBORN),
            settings.cluster(
                "hasty-once", *both, retry={"per_try_timeout": "200ms", "max_retries": 1}, **settings.STUBBORN
            ),
            settings.cluster("crowded", *both, retry=PATIENT, **settings.STUBBORN),
            settings.cluster("small", *both, retry={"replay_bytes": 1000}, **settings.STUBBORN),
            settings.cluster(
                "poor", *both, retry={"budget_percent": 0, "min_retries": 0}, **settings.STUBBORN
            ),
            settings.cluster("limited", *both, timeouts={"total": "600ms"}, **settings.STUBBORN),
            settings.cluster("tried", *both, **TRIED),
            settings.cluster("tried-slow", *both, **TRIED, timeouts={"response": "300ms"}),
            settings.cluster("tried-off", *both, **TRIED, retry=NO_RETRIES),
            settings.cluster("tried-small", *both, **TRIED, retry={"replay_bytes": 1000}),
        ]
        self.daemon = start(
            {
                "listeners": [settings.listener()],
                "clusters": clusters,
                "routes": [settings.route(one["name"], path_prefix="/" + one["name"]) for one in clusters],
                "access_log": {"sink": str(self.log)},
                "workers": 1,
            }
        )

    def stop(self) -> None:
        self.daemon.stop()
        for origin in (self.bad, self.good):
            origin.stop()
            assert origin.faults == []

    def logged(self, path: str, count: int = 1) -> list[dict[str, object]]:
        """The lines of the access log for `path`, once there are `count`."""

        def lines() -> list[dict[str, object]]:
            found = [json.loads(line) for line in self.log.read_text().splitlines()]
            return [line for line in found if line["target"] == path]

        wait_for(lambda: len(lines()) >= count, "the access log")
        return lines()


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(module_daemon, tmp_path_factory.mktemp("pair"))
    yield pair
    pair.stop()


@pytest.fixture
def client(pair: Pair, connect: OpenClient) -> Client:
    return connect(pair.daemon)


def reset(exchange: Exchange) -> None:
    exchange.reset()


def close(exchange: Exchange) -> None:
    exchange.close()


def busy(exchange: Exchange) -> None:
    exchange.reply(503, b"busy")


@pytest.mark.parametrize("failure", [reset, close, busy])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_what_is_safe_is_answered_by_the_other(
    pair: Pair, client: Client, path: str, failure: object, method: str
) -> None:
    target = "/pair" + path
    pair.bad.on(target, failure)  # type: ignore[arg-type]
    for _ in range(TURNS):
        assert client.ask(method, target).status == 200
    # A reused connection that is lost says nothing about the endpoint: it is asked once more.
    assert 1 <= len(pair.bad.seen(target)) <= 2
    assert len(pair.good.seen(target)) == TURNS


def test_what_was_not_sent_may_go_elsewhere(pair: Pair, client: Client, path: str) -> None:
    """Nobody listens there: even a POST is sent to the other."""
    target = "/refused" + path
    for _ in range(TURNS):
        assert client.ask("POST", target, body=b"order").status == 200
    assert [bytes(one.body) for one in pair.good.wait_seen(target, TURNS)] == [b"order"] * TURNS


def test_a_post_is_not_sent_twice(pair: Pair, client: Client, path: str) -> None:
    target = "/pair" + path
    pair.bad.on(target, reset)
    statuses = sorted(client.ask("POST", target, body=b"order").status for _ in range(TURNS))
    assert statuses == [200, 502]
    assert len(pair.bad.seen(target)) == 1 and len(pair.good.seen(target)) == 1
    reasons = [line["not_retried"] for line in pair.logged(target, TURNS)]
    assert sorted(map(str, reasons)) == [
        "None",
        "the request was sent, is not idempotent and has no Idempotency-Key",
    ]


def test_a_post_with_an_idempotency_key_is(pair: Pair, client: Client, path: str) -> None:
    target = "/pair" + path
    pair.bad.on(target, reset)
    for number in range(TURNS):
        reply = client.ask("POST", target, f"Idempotency-Key: {number}", body=b"order")
        assert reply.status == 200
    assert [bytes(one.body) for one in pair.good.seen(target)] == [b"order"] * TURNS


def test_bodies_are_kept_up_to_a_size(pair: Pair, client: Client, path: str) -> None:
    target = "/small" + path
    pair.bad.on(target, reset)
    for _ in range(TURNS):
        assert client.ask("PUT", target, body=b"x" * 1000).status == 200
    assert {bytes(one.body) for one in pair.good.seen(target)} == {b"x" * 1000}
    statuses = sorted(client.ask("PUT", target, body=b"x" * 1001).status for _ in range(TURNS))
    assert statuses == [200, 502]
    assert "the body is larger than what is kept to be sent again" in [
        line["not_retried"] for line in pair.logged(target, 2 * TURNS)
    ]


def test_an_upload_goes_on_at_the_other(pair: Pair, connect: OpenClient, path: str) -> None:
    """The first endpoint is lost in the middle of the body: what came of it is sent again, what comes later follows."""
    target = "/pair" + path

    def read_some(exchange: Exchange) -> None:
        exchange.stream.fill()
        exchange.reset()

    pair.bad.on(target, read_some, early=True)
    for _ in range(TURNS):
        client = connect(pair.daemon)
        client.send(request("PUT", target, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
        wait_for(lambda: len(pair.good.seen(target)) + len(pair.bad.seen(target)) > 0, "the request")
        client.send(b"3\r\ndef\r\n")
        client.send(b"0\r\n\r\n")
        assert client.reply().status == 200
    assert {bytes(one.body) for one in pair.good.seen(target) if one.complete} == {b"abcdef"}


def test_the_last_answer_is_passed_on(pair: Pair, client: Client, path: str) -> None:
    target = "/pair" + path
    pair.bad.on(target, busy)
    pair.good.on(target, lambda exchange: exchange.reply(503, b"busy too"))
    bodies = {client.ask("GET", target).body for _ in range(TURNS)}
    assert bodies == {b"busy", b"busy too"}
    assert len(pair.bad.seen(target)) == len(pair.good.seen(target)) == TURNS
    assert pair.logged(target)[0]["not_retried"] == "every other endpoint failed it or cannot take it"


def test_the_endpoint_itself_is_not_asked_again(pair: Pair, client: Client, path: str) -> None:
    target = "/alone" + path
    pair.bad.on(target, busy)
    assert client.ask("GET", target).status == 503
    assert len(pair.bad.seen(target)) == 1


def test_a_connection_that_answered_is_used_on(pair: Pair, client: Client, path: str) -> None:
    target = "/pair" + path
    pair.bad.on(target, busy)
    for _ in range(4 * TURNS):
        assert client.ask("GET", target).status == 200
    assert len({one.connection for one in pair.bad.seen(target)}) == 1


def test_retries_can_be_off(pair: Pair, client: Client, path: str) -> None:
    target = "/off" + path
    pair.bad.on(target, busy)
    assert sorted(client.ask("GET", target).status for _ in range(TURNS)) == [200, 503]


def test_no_retry_without_a_budget(pair: Pair, client: Client, path: str) -> None:
    target = "/poor" + path
    pair.bad.on(target, busy)
    assert sorted(client.ask("GET", target).status for _ in range(TURNS)) == [200, 503]
    assert "the retry budget is used up" in [line["not_retried"] for line in pair.logged(target, TURNS)]


def test_who_does_not_answer_in_time_is_passed_over(pair: Pair, client: Client, path: str) -> None:
    target = "/hasty" + path
    pair.bad.on(target, lambda exchange: exchange.wait_gone())
    for _ in range(TURNS):
        assert client.ask("GET", target).status == 200


def late(exchange: Exchange) -> None:
    """A service that takes twice as long as `per_try_timeout`."""
    Event().wait(0.4)
    exchange.reply(200, b"late")


def test_what_cannot_be_tried_again_has_its_time(pair: Pair, client: Client, path: str) -> None:
    """A POST, and the last try that is allowed."""
    target, turns = "/hasty-once" + path, count()
    for origin in (pair.bad, pair.good):
        origin.on(target, lambda exchange: late(exchange) if next(turns) else exchange.wait_gone())
        origin.on("/hasty" + path, late)
    assert client.ask("GET", target).body == b"late"
    assert len(pair.bad.seen(target)) == len(pair.good.seen(target)) == 1
    assert client.ask("POST", "/hasty" + path, body=b"x").body == b"late"


def test_more_that_fail_together_than_the_budget_has_room_for(
    pair: Pair, connect: OpenClient, path: str
) -> None:
    """An endpoint that stops leaves many waiting, whose time ends in one tick: they take turns."""
    target = "/crowded" + path
    pair.bad.on(target, lambda exchange: exchange.wait_gone())
    clients = [connect(pair.daemon) for _ in range(24)]
    for client in clients:
        client.send(request("GET", target))
    assert [client.reply().status for client in clients] == [200] * len(clients)
    assert len(pair.bad.seen(target)) >= len(clients) // 3


def test_room_in_the_budget_is_not_waited_for_without_end(pair: Pair, connect: OpenClient, path: str) -> None:
    target = "/hasty" + path
    for origin in (pair.bad, pair.good):
        origin.on(target, lambda exchange: exchange.wait_gone())
    clients = [connect(pair.daemon) for _ in range(24)]
    for client in clients:
        client.send(request("GET", target))
    assert [client.reply().status for client in clients] == [504] * len(clients)
    reasons = {line["not_retried"] for line in pair.logged(target, len(clients))}
    assert reasons == {"the retry budget is used up", "every other endpoint failed it or cannot take it"}


def test_the_whole_time_holds_for_all_tries(pair: Pair, connect: OpenClient, path: str) -> None:
    target = "/limited" + path
    pair.bad.on(target, busy)
    pair.good.on(target, lambda exchange: exchange.wait_gone())
    for _ in range(TURNS):
        assert connect(pair.daemon).get(target).status == 504


def fail(exchange: Exchange) -> None:
    exchange.reply(500, b"broken")


def shut_off(client: Client, target: str, body: bytes = b"") -> None:
    """Ask until the bad endpoint's circuit is open: what is not retried is the client's to see."""
    wait_for(lambda: client.ask("PUT", target, body=body).status >= 500, "a failure")


@pytest.mark.parametrize("cluster", ["tried", "tried-off"])
def test_a_trial_that_fails_is_answered_by_the_other(
    pair: Pair, client: Client, path: str, cluster: str
) -> None:
    """The circuit is tried for our own sake: 500 is not among what is retried, and there may be no retries at all."""
    target = f"/{cluster}{path}"
    pair.bad.on(target, fail)
    shut_off(client, target)
    before = len(pair.bad.seen(target))

    def is_tried() -> bool:
        assert client.ask("GET", target).status == 200
        return len(pair.bad.seen(target)) >= before + 8

    wait_for(is_tried, "trials")


def test_a_trial_that_is_not_answered_is_answered_by_the_other(pair: Pair, client: Client, path: str) -> None:
    target = "/tried-slow" + path
    pair.bad.on(target, lambda exchange: exchange.wait_gone())
    shut_off(client, target)
    before = len(pair.bad.seen(target))

    def is_tried() -> bool:
        assert client.ask("GET", target).status == 200
        return len(pair.bad.seen(target)) >= before + 2

    wait_for(is_tried, "trials")


def test_what_cannot_be_sent_again_is_no_trial(pair: Pair, client: Client, path: str) -> None:
    """As long as there are others to be the next one."""
    target = "/tried-small" + path
    pair.bad.on(target, fail)
    shut_off(client, target, b"x")
    before = len(pair.bad.seen(target))

    def is_tried() -> bool:
        assert client.ask("PUT", target, body=b"x" * 1001).status == 200
        assert client.ask("GET", target).status == 200
        return len(pair.bad.seen(target)) >= before + 8

    wait_for(is_tried, "trials")
    assert {one.method for one in pair.bad.seen(target)[before:]} == {"GET"}


def test_a_client_that_leaves_in_the_pause_is_forgotten(pair: Pair, connect: OpenClient, path: str) -> None:
    target = "/pair" + path
    pair.bad.on(target, busy)
    pair.good.on(target, busy)
    for _ in range(8):
        client = connect(pair.daemon)
        client.send(request("GET", target))
        client.reset()
    assert connect(pair.daemon).get("/pair/else" + path).status == 200
    name = "homeport_downstream_exchanges"
    wait_for(
        lambda: not any(value for key, value in pair.daemon.metrics().items() if key.startswith(name)),
        "nothing to be in flight",
    )
