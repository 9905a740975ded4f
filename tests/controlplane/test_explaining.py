"""Control's questions to workers: who is asked, what is believed of an answer, and what no request can be."""

import asyncio
import json
from dataclasses import replace

import pytest
from support.fleet import Fleet, World

from proxy import scoreboard as sb
from proxy.controlplane import explaining
from proxy.controlplane.drains import UnknownTarget
from proxy.controlplane.explaining import (
    BadQuestion,
    Explainer,
    NoAnswer,
    Question,
    asked_route,
    question_facts,
)
from proxy.explanation import explained
from proxy.inquiry import MAX_CANDIDATES, Inquiry, parse_answer, parse_inquiry
from proxy.mailbox import MAX_MESSAGE_BYTES, Posts, channel_pair
from proxy.model import RequestFacts, TcpAddress
from proxy.policy.balancer import BALANCERS
from proxy.policy.hashring import HashRing, key_point, ring_points
from proxy.scoreboard import Scoreboard
from proxy.snapshot import (
    ClusterSpec,
    DataSpec,
    EndpointSpec,
    HashSpec,
    MatchSpec,
    RespondSpec,
    RouteSpec,
    Snapshot,
    SourceSpec,
    SplitSpec,
)
from proxy.telemetry.processes import State, WorkerReport
from proxy.telemetry.status import DaemonView

NOW = 100.0


def endpoints(count, cluster="etl"):
    addresses = [TcpAddress(f"10.0.{n // 200}.{n % 200}", 9000) for n in range(count)]
    return tuple(EndpointSpec(f"{cluster}/{at}", n, at, str(at)) for n, at in enumerate(addresses))


def spec(count=3, balancer="data_locality_aware", **more):
    members = endpoints(count)
    return ClusterSpec("etl", balancer, members, ring=ring_points(tuple(one.id for one in members)), **more)


ABOUT_K = RequestFacts(data_keys=(b"k",))


def answer_of(count=3, facts=ABOUT_K, number=7, **more):
    """What a worker answers, as it comes out of a mailbox."""
    cluster = Fleet(world=World(endpoints=max(count, 8), now=NOW)).apply(spec(count, **more))
    for _ in range(3):
        cluster.acquire(facts, now=NOW)
    message = explained(cluster, Inquiry(number, 0, facts), worker=0, now=NOW)
    return json.loads(json.dumps(message))


# ---------------------------------------------------------------------- messages


def test_an_inquiry_travels():
    facts = RequestFacts(
        data_keys=(b"a\xff", b"b"),
        size_bytes=10,
        work_class=b"join",
        require=frozenset({"gpu"}),
        prefer=(("east", 0.05),),
    )
    inquiry = Inquiry(3, 1, facts)
    assert parse_inquiry(json.loads(json.dumps(inquiry.message()))) == inquiry
    good = inquiry.message()
    for bad in (
        {"keys": [1]},
        {"keys": ["xy"]},
        {"size": "x"},
        {"require": 1},
        {"prefer": [["a"]]},
        {"type": 1},
    ):
        assert parse_inquiry({**good, **bad}) is None
    assert parse_inquiry({}) is None


def test_an_answer_fits_into_a_message():
    """The best 128 of 500 endpoints, with the longest numbers there are."""
    keys = tuple(b"%064d" % number for number in range(16))
    message = answer_of(500, RequestFacts(data_keys=keys))
    assert len(message["candidates"]) == MAX_CANDIDATES and message["left_out"] == 500 - MAX_CANDIDATES
    wide = [
        [12345678.123456 if type(value) is float else value for value in row] for row in message["candidates"]
    ]
    assert len(json.dumps({**message, "candidates": wide})) < MAX_MESSAGE_BYTES - 8192
    scores = [row["score_s"] for row in parse_answer(message)["candidates"]]
    assert scores == sorted(scores)


def test_an_answer_is_not_believed_unseen():
    good = answer_of()
    assert parse_answer(good) is not None
    first, *rest = good["candidates"]
    for bad in (
        {"explained": True},
        {"reason": None},
        {"keys": {}},
        {"keys": [[1, 2, 3, 4]]},
        {"candidates": [first[:-1], *rest]},
        {"candidates": [["0", *first[1:]], *rest]},
        {"candidates": [first] * (MAX_CANDIDATES + 1)},
        {"candidates": [None]},
    ):
        assert parse_answer({**good, **bad}) is None
    assert parse_answer({}) is None


def test_other_clusters_have_nothing_to_explain():
    cluster = Fleet().apply(spec(2, "round_robin"))
    assert explained(cluster, Inquiry(1, 0, RequestFacts()), worker=0, now=NOW) is None


# ---------------------------------------------------------------------- asking


class Daemon:
    """A board with workers that serve, their mailboxes, and control's view."""

    def __init__(self, cluster=None, known=(0, 0, 0)):
        self.board = Scoreboard(workers=3, endpoints=8, clusters=4)
        self.pairs = [channel_pair() for _ in range(3)]
        self.explainer = Explainer(self.board, Posts([writer for _, writer in self.pairs]))
        route = RouteSpec("all", MatchSpec(), SplitSpec((("etl", 1),)), locality=DataSpec())
        self.view = DaemonView(
            self.board,
            Snapshot(1, (), (cluster or spec(),), (route,)),
            WorkerReport(State.READY, 1, 3),
            NOW,
        )
        for worker, keys in enumerate(known):
            self.board.worker_row(worker)[sb.W_HEARTBEAT_MS] = int(NOW * 1000)
            self.board.slot_row(worker)[sb.S_STATE] = sb.SLOT_SERVING
            self.board.cluster_row(worker, 0)[sb.K_DATA_KEYS] = keys

    def asked(self):
        """(worker, number) of the inquiries that have come."""
        found = []
        for worker, (reader, _) in enumerate(self.pairs):
            while (message := reader.receive()) is not None:
                found.append((worker, message.body["explain"]))
        return found

    def close(self):
        for pair in self.pairs:
            for end in pair:
                end.close()


@pytest.fixture
def daemon():
    daemon = Daemon(known=(5, 9, 7))
    yield daemon
    daemon.close()


async def asked(daemon):
    while not (found := daemon.asked()):
        await asyncio.sleep(0.001)
    return found


def run(main):
    return asyncio.run(asyncio.wait_for(main, 20.0))


def test_the_worker_that_knows_most_is_asked(daemon):
    async def main():
        asking = asyncio.ensure_future(daemon.explainer.explain(daemon.view, Question("etl", ["k", "k"])))
        ((worker, number),) = await asked(daemon)
        assert worker == 1
        assert not daemon.explainer.take(answer_of(number=number + 1)), "an answer to somebody else"
        assert not daemon.explainer.take({"explained": number}), "half an answer"
        assert daemon.explainer.take(answer_of(number=number))
        assert not daemon.explainer.take(answer_of(number=number)), "again"
        return await asking

    document = run(main())
    assert [one["key"] for one in document["data_keys"]] == ["k"]
    assert document["winner"] == document["candidates"][0]["id"]
    assert document["candidates"][0]["holds"] == ["k"] and document["reason"]["code"] == "holder"
    assert len(document["candidates"]) == 3 and repr(daemon.explainer) == "Explainer(0 waiting)"


def test_the_next_worker_is_asked_when_one_hangs(daemon, monkeypatch):
    monkeypatch.setattr(explaining, "ANSWER_S", 0.05)

    async def main():
        asking = asyncio.ensure_future(daemon.explainer.explain(daemon.view, Question("etl")))
        assert [worker for worker, _ in await asked(daemon)] == [1]
        ((worker, number),) = await asked(daemon)
        assert worker == 2 and daemon.explainer.take(answer_of(number=number))
        assert (await asking)["worker"] == 0
        with pytest.raises(NoAnswer) as caught:
            await daemon.explainer.explain(daemon.view, Question("etl"))
        assert str(caught.value) == "no answer within 0.05 s each from worker 1, 2, 0"

    run(main())


def test_a_worker_that_is_silent_is_asked_last(daemon):
    daemon.board.worker_row(1)[sb.W_HEARTBEAT_MS] -= 500

    async def main():
        asking = asyncio.ensure_future(daemon.explainer.explain(daemon.view, Question("etl")))
        ((worker, number),) = await asked(daemon)
        assert worker == 2 and daemon.explainer.take(answer_of(number=number))
        await asking

    run(main())


def test_a_full_mailbox_and_no_worker(daemon):
    while daemon.pairs[1][1].send({"x": "x" * 1000}):
        pass

    async def main():
        asking = asyncio.ensure_future(daemon.explainer.explain(daemon.view, Question("etl")))
        while (message := daemon.pairs[2][0].receive()) is None:
            await asyncio.sleep(0.001)
        assert daemon.explainer.take(answer_of(number=message.body["explain"]))
        await asking
        for worker in range(3):
            daemon.board.slot_row(worker)[sb.S_STATE] = sb.SLOT_RETIRING
        with pytest.raises(NoAnswer, match="no worker serves"):
            await daemon.explainer.explain(daemon.view, Question("etl"))
        asking = asyncio.ensure_future(daemon.explainer.explain(daemon.view, Question("none")))
        with pytest.raises(UnknownTarget, match="there is no cluster 'none'"):
            await asking

    run(main())


# ---------------------------------------------------------------------- questions


def test_what_no_request_can_be():
    for question in (
        Question("etl", [""]),
        Question("etl", ["a\nb"]),
        Question("etl", ["k" * 1025]),
        Question("etl", [str(number) for number in range(17)]),
        Question("etl", tags=["t"] * 17),
        Question("etl", size="0"),
        Question("etl", size="10 bytes"),
        Question("etl", size="2000TiB"),
        Question("etl", work_class="x" * 65),
    ):
        with pytest.raises(BadQuestion) as caught:
            question_facts(question, DataSpec())
        assert str(caught.value)


def test_facts_as_the_route_has_them():
    data = DataSpec(tag_distance_s=0.05, prefer=(("east", 0.01),), require=frozenset({"ssd"}))
    facts = question_facts(Question("etl", ["a", "é"], "10MiB", ["gpu"], "JOIN"), data)
    assert facts.data_keys == (b"a", "é".encode()) and facts.size_bytes == 10 * 2**20
    assert facts.work_class == b"join"
    assert (facts.require, facts.prefer) == (frozenset({"ssd"}), (("east", 0.01), ("gpu", 0.05)))
    required = question_facts(Question("etl", tags=["gpu"]), replace(data, requires_tags=True))
    assert required.require == {"ssd", "gpu"} and required.prefer == (("east", 0.01),)


def test_the_first_route_that_knows_of_data_counts():
    data = DataSpec(keys=(SourceSpec(header="x-dataset-id"),))
    routes = (
        RouteSpec("fixed", MatchSpec(), RespondSpec()),
        RouteSpec("plain", MatchSpec(), SplitSpec((("etl", 1),))),
        RouteSpec("other", MatchSpec(), SplitSpec((("x", 1),)), locality=DataSpec(tag_distance_s=1.0)),
        RouteSpec("aware", MatchSpec(), SplitSpec((("x", 1), ("etl", 1))), locality=data),
    )
    snapshot = Snapshot(1, (), (spec(),), routes)
    assert asked_route(snapshot, Question("etl")) == (routes[3], [])
    assert asked_route(snapshot, Question("unknown")) == (None, [])


def test_a_route_can_be_named():
    first, second = (
        RouteSpec(name, MatchSpec(), SplitSpec((("etl", 1),)), locality=DataSpec(require=frozenset({name})))
        for name in ("first", "second")
    )
    plain = RouteSpec("plain", MatchSpec(), SplitSpec((("etl", 1),)))
    elsewhere = RouteSpec("elsewhere", MatchSpec(), SplitSpec((("x", 1),)), locality=DataSpec())
    snapshot = Snapshot(1, (), (spec(),), (plain, first, elsewhere, second))
    assert asked_route(snapshot, Question("etl")) == (first, ["second"])
    assert asked_route(snapshot, Question("etl", route="second")) == (second, ["first"])
    assert asked_route(snapshot, Question("etl", route="plain")) == (plain, ["first", "second"])
    with pytest.raises(BadQuestion, match="route: there is none to 'etl' of the name 'elsewhere'"):
        asked_route(snapshot, Question("etl", route="elsewhere"))


def test_the_route_that_is_named_counts(daemon):
    routes = tuple(
        RouteSpec(tag, MatchSpec(), SplitSpec((("etl", 1),)), locality=DataSpec(require=frozenset({tag})))
        for tag in ("cpu", "gpu")
    )
    daemon.view = replace(daemon.view, snapshot=replace(daemon.view.snapshot, routes=routes))

    async def main():
        asking = asyncio.ensure_future(
            daemon.explainer.explain(daemon.view, Question("etl", ["k"], route="gpu"))
        )
        while (message := daemon.pairs[1][0].receive()) is None:
            await asyncio.sleep(0.001)
        assert parse_inquiry(message.body).facts.require == {"gpu"}
        assert daemon.explainer.take(answer_of(number=message.body["explain"]))
        return await asking

    document = run(main())
    assert (document["route"], document["other_routes"]) == ("gpu", ["cpu"])


def test_what_is_gone_by_while_data_are_left_out(daemon):
    async def explain(is_trusted):
        asking = asyncio.ensure_future(daemon.explainer.explain(daemon.view, Question("etl", ["k"])))
        ((_, number),) = await asked(daemon)
        daemon.explainer.take({**answer_of(number=number), "is_trusted": is_trusted})
        return (await asking)["goes_by"]

    assert "moving the data" in run(explain(True))
    assert run(explain(False)) == "the least expected time until the answer, what data would take left out"


def test_other_balancers_say_what_they_go_by():
    daemon = Daemon(spec(3, "consistent_hashing", hash=HashSpec(header="x")))
    daemon.board.endpoint_row(0, 1)[sb.E_IN_FLIGHT] = 4
    document = run(daemon.explainer.explain(daemon.view, Question("etl", ["k"])))
    assert document["balancer"] == "consistent_hashing" and document["predictions"] is None
    assert "the first on the ring" in document["reason"]["text"] and document["winner"] is None
    assert sorted(one["ring_rank"] for one in document["candidates"]) == [1, 2, 3]
    assert [one["in_flight"] for one in document["candidates"]] == [0, 4, 0]
    assert daemon.asked() == []
    daemon.close()


def shadow_of(daemon, message):
    async def main():
        asking = asyncio.ensure_future(daemon.explainer.explain(daemon.view, Question("etl", ["k"])))
        ((_, number),) = await asked(daemon)
        daemon.explainer.take({**message, "explained": number})
        return await asking

    return run(main())["shadow"]


def test_the_shadows_choice():
    members = endpoints(3)
    more = {"ring": ring_points(tuple(one.id for one in members)), "hash": HashSpec(header="x")}
    first = HashRing(more["ring"], [1, 1, 1]).owners(key_point(b"k"))
    owner = members[next(iter(first))].id
    for balancer, shadow, winner in (
        ("data_locality_aware", "consistent_hashing", owner),
        ("data_locality_aware", "round_robin", None),
        ("data_locality_aware", "p2c", None),
        ("round_robin", "consistent_hashing", owner),
    ):
        cluster = ClusterSpec("etl", balancer, members, shadow=shadow, **more)
        lot = Fleet(world=World(now=NOW)).apply(cluster)
        message = explained(lot, Inquiry(1, 0, ABOUT_K), worker=0, now=NOW)
        daemon = Daemon(cluster)
        assert shadow_of(daemon, json.loads(json.dumps(message))) == {"balancer": shadow, "winner": winner}
        daemon.close()


def test_a_shadow_that_goes_by_data_chooses_the_holder():
    members = endpoints(3)
    cluster = ClusterSpec("etl", "round_robin", members, shadow="data_locality_aware")
    lot = Fleet(world=World(now=NOW)).apply(cluster)
    holder = lot.acquire(ABOUT_K, now=NOW).endpoint
    message = explained(lot, Inquiry(1, 0, ABOUT_K), worker=0, now=NOW)
    daemon = Daemon(cluster)
    found = shadow_of(daemon, json.loads(json.dumps(message)))
    assert found == {"balancer": "data_locality_aware", "winner": holder.id}
    daemon.close()


def test_every_balancer_has_words():
    for name in BALANCERS:
        if name != "data_locality_aware":
            daemon = Daemon(spec(2, name))
            assert run(daemon.explainer.explain(daemon.view, Question("etl")))["goes_by"]
            daemon.close()
