"""Where a request would go, asked of a worker that serves: only workers know what they have learned.

One worker is asked at a time, the one that knows most keys first, and the next when it does not answer: it may hang, or
not serve the cluster yet. Those whose heart has not beaten for long are asked last. An answer that comes too late finds
nobody who waits for it.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxy.config.faults import BadValue, printable
from proxy.config.values import parse_size
from proxy.controlplane.drains import UnknownTarget
from proxy.errors import ProxyError
from proxy.inquiry import Inquiry, Row, parse_answer
from proxy.mailbox import Posts
from proxy.model import RequestFacts
from proxy.policy.balancer import balancer, goes_by_data
from proxy.policy.data_key import MAX_KEYS, MAX_SIZE_BYTES, MAX_TAGS, MAX_TYPE_BYTES, good_key
from proxy.scoreboard import FRESH_MS, K_DATA_KEYS, S_STATE, SLOT_SERVING, W_HEARTBEAT_MS, Scoreboard
from proxy.snapshot import ClusterSpec, DataSpec, RouteSpec, Snapshot, SplitSpec
from proxy.telemetry.explanation import explanation_document, load_document, shadow_document
from proxy.telemetry.status import DaemonView, find_cluster

ANSWER_S = 1.0
"""Seconds that a worker has: it answers from memory, between two requests."""

MOST_ASKED = 3
"""Workers that are asked, one after the other."""


class BadQuestion(ProxyError):
    """What is asked about can be no request."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(what, problem)
        self.what = what
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.what}: {self.problem}"


class NoAnswer(ProxyError):
    """No worker answers."""

    def __init__(self, asked: Sequence[int]) -> None:
        super().__init__(asked)
        self.asked = asked
        """Numbers of those that were asked."""

    def __str__(self) -> str:
        if not self.asked:
            return "no worker serves"
        workers = ", ".join(str(worker) for worker in self.asked)
        return f"no answer within {ANSWER_S:g} s each from worker {workers}"


@dataclass(frozen=True, slots=True)
class Question:
    """A request as somebody describes it."""

    cluster: str
    data_keys: Sequence[str] = ()
    size: str | None = None
    """Of all its data, as a configuration has sizes; `None` = it does not say."""
    tags: Sequence[str] = ()
    work_class: str = ""
    route: str = ""
    """The name of the one that says what of it counts; empty = the first to the cluster that knows of data."""


def question_facts(question: Question, spec: DataSpec) -> RequestFacts:
    """What a balancer would be told of it, by a route with `spec`. Raises `BadQuestion`."""
    if len(question.data_keys) > MAX_KEYS or len(question.tags) > MAX_TAGS:
        raise BadQuestion("data_key and tag", f"a request has at most {MAX_KEYS} and {MAX_TAGS} of them")
    keys: dict[bytes, None] = {}
    for text in question.data_keys:
        key = good_key(text.encode("utf-8", "surrogateescape"), lambda _: None)
        if key is None:
            raise BadQuestion("data_key", "it is empty, longer than 1024 bytes, or has control characters")
        keys[key] = None
    work_class = question.work_class.encode("utf-8", "surrogateescape").lower()
    if len(work_class) > MAX_TYPE_BYTES:
        raise BadQuestion("type", f"it is longer than {MAX_TYPE_BYTES} bytes")
    try:
        size = None if question.size is None else parse_size(question.size, 1, MAX_SIZE_BYTES)
    except BadValue as error:
        raise BadQuestion("size", f"it {error.problem}, expected {error.expected}") from error
    tags = frozenset(question.tags)
    preferred = [] if spec.requires_tags else [(tag, spec.tag_distance_s) for tag in sorted(tags)]
    return RequestFacts(
        data_keys=tuple(keys),
        size_bytes=size,
        tags=tags,
        work_class=work_class,
        require=spec.require | tags if spec.requires_tags else spec.require,
        prefer=(*spec.prefer, *preferred),
    )


def asked_route(snapshot: Snapshot, question: Question) -> tuple[RouteSpec | None, list[str]]:
    """The route whose requests `question` is about, `None` = none to its cluster knows of data; and the names of the
    other routes there that do. Raises `BadQuestion`."""
    leading = [
        route
        for route in snapshot.routes
        if isinstance(route.action, SplitSpec) and question.cluster in dict(route.action.clusters)
    ]
    aware = [route for route in leading if route.locality is not None]
    if not question.route:
        return (aware[0] if aware else None), [route.name for route in aware[1:]]
    for route in leading:
        if route.name == question.route:
            return route, [other.name for other in aware if other is not route]
    named = printable(question.route)
    raise BadQuestion("route", f"there is none to {question.cluster!r} of the name {named!r}")


class Explainer:
    """Asks the workers whose mailboxes are `posts`."""

    def __init__(self, board: Scoreboard, posts: Posts) -> None:
        self._board = board
        self._posts = posts
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Row]] = {}

    def __repr__(self) -> str:
        return f"Explainer({len(self._waiting)} waiting)"

    def take(self, body: Mapping[str, Any]) -> bool:
        """An answer came; false for one that nobody waits for, or that cannot be understood."""
        answer = parse_answer(body)
        future = self._waiting.get(answer["explained"]) if answer is not None else None
        if answer is None or future is None or future.done():
            return False
        future.set_result(answer)
        return True

    async def explain(self, view: DaemonView, question: Question) -> dict[str, Any]:
        """The document about `question`. Raises `UnknownTarget`, `BadQuestion` and `NoAnswer`."""
        cluster = find_cluster(view, question.cluster)
        if cluster is None or view.snapshot is None:
            raise UnknownTarget(f"there is no cluster {printable(question.cluster)!r}")
        question = replace(question, data_keys=tuple(dict.fromkeys(question.data_keys)))
        route, others = asked_route(view.snapshot, question)
        facts = question_facts(question, (route and route.locality) or DataSpec())
        answer = await self._ask(cluster, facts, view.now) if goes_by_data(cluster) else None
        if answer is not None and balancer(cluster.balancer).sees_data:
            document = explanation_document(view, cluster, question.data_keys, answer)
        else:
            document = load_document(view, cluster, question.data_keys, facts)
        return {
            **document,
            "shadow": shadow_document(cluster, answer),
            "route": route.name if route is not None else None,
            "other_routes": others,
        }

    async def _ask(self, cluster: ClusterSpec, facts: RequestFacts, now: float) -> Row:
        asked = self._workers(cluster, now)[:MOST_ASKED]
        for worker in asked:
            number = next(self._numbers)
            self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                if self._posts.to_worker(worker, Inquiry(number, cluster.slot, facts).message()):
                    return await asyncio.wait_for(self._waiting[number], ANSWER_S)
            except TimeoutError:
                continue
            finally:
                del self._waiting[number]
        raise NoAnswer(asked)

    def _workers(self, cluster: ClusterSpec, now: float) -> list[int]:
        """Those that serve: who is alive, and then who knows most, first."""
        board = self._board
        serving = [
            worker for worker in board.live_workers() if board.slot_row(worker)[S_STATE] == SLOT_SERVING
        ]
        known = board.cluster_words(K_DATA_KEYS, serving, cluster.slot)
        ranks = {}
        for worker, keys in zip(serving, known, strict=True):
            silent_ms = now * 1000.0 - board.worker_row(worker)[W_HEARTBEAT_MS]
            ranks[worker] = silent_ms >= FRESH_MS, -keys
        return sorted(serving, key=lambda worker: ranks[worker])
