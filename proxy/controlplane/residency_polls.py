"""Asks endpoints what data they hold, where their cluster says how.

Each endpoint has a task of its own; its questions begin at a moment drawn at random, so that a fleet is not asked all
at once, and `AT_ONCE` are under way together at most. An endpoint that does not answer is believed to hold what it did.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.controlplane.asking import FAILURES, Contexts, asked, read, told
from proxy.controlplane.residency_list import BadList, ResidencyList, parse_list
from proxy.policy.balancer import goes_by_data
from proxy.scoreboard import X_RESIDENCY_ASKED, X_RESIDENCY_FAILED, Row, Scoreboard
from proxy.snapshot import ClusterSpec, ClusterTlsSpec, EndpointSpec, ResidencySpec, Snapshot
from proxy.tasks import spawn

_log = logging.getLogger(__name__)

AT_ONCE = 16
"""Questions under way together: each may take `BODY_BYTES` of memory, and a thread to read them."""

BODY_BYTES = 16 * 1024 * 1024
"""Of an answer, at most: 50 000 keys of 250 bytes."""

JITTER = 0.1
"""Part of the interval by which a pause is longer or shorter."""

FIRST_S = 1.0
"""Seconds until the first question, up to twice that: workers should know the endpoint by then."""

OnList = Callable[[int, int, ResidencyList], None]
"""Slots of the cluster and of the endpoint, and what that says."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one endpoint, and all it depends on."""

    residency: ResidencySpec
    endpoint: EndpointSpec
    tls: ClusterTlsSpec | None
    cluster_slot: int
    max_keys: int

    async def ask(self, contexts: Contexts) -> ResidencyList:
        """Ask once. Raises `BadList` when there is no answer of use."""
        timeout_s = self.residency.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                context = contexts.of(self.tls)
                path = self.residency.path
                async with asked(self.endpoint, context, path=path, purpose="residency") as reply:
                    if reply.status != 200:
                        raise BadList(f"status {reply.status}")
                    body = await read(reply.content, BODY_BYTES + 1)
        except TimeoutError as error:
            raise BadList(f"no answer within {timeout_s:g} s") from error
        except FAILURES as error:
            raise BadList(told(error)) from error
        if len(body) > BODY_BYTES:
            raise BadList(f"its answer is longer than {BODY_BYTES} bytes")
        # In a thread: the loop must go on beating while a long list is read.
        return await asyncio.to_thread(parse_list, body, self.max_keys)


class ResidencyPolls:
    """Asks, and hands on what is answered."""

    def __init__(self, board: Scoreboard, on_list: OnList, *, clock: Clock, rng: random.Random) -> None:
        self._board = board
        self._on_list = on_list
        self._clock = clock
        self._rng = rng
        self._contexts = Contexts()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[Question, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"ResidencyPolls({len(self._tasks)} endpoints)"

    def update(self, snapshot: Snapshot) -> None:
        """Ask these endpoints from now on; those for whom nothing changes are asked when they would have been."""
        wanted = [question for cluster in snapshot.clusters for question in _questions(cluster)]
        last, self._tasks = self._tasks, {}
        for question in wanted:
            task = last.pop(question, None)
            self._tasks[question] = task or spawn(
                self._go_on_asking(question), name=f"residency of {question.endpoint.id}"
            )
        for task in last.values():
            task.cancel()
        self._contexts.keep([question.tls for question in wanted])

    def stop(self) -> None:
        """Ask no more. Idempotent."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks = {}

    async def _go_on_asking(self, question: Question) -> None:
        row = self._board.standing_row(question.endpoint.slot)
        interval_s = question.residency.interval_s
        is_failing = False
        await self._clock.sleep((1.0 + self._rng.random()) * FIRST_S)
        while True:
            async with self._room:
                is_failing = await self._ask(question, row, is_failing)
            await self._clock.sleep(interval_s * (1.0 + JITTER * (2.0 * self._rng.random() - 1.0)))

    async def _ask(self, question: Question, row: Row, was_failing: bool) -> bool:
        """Ask once; returns whether that failed, which is logged when it is new."""
        name = question.endpoint.id
        row[X_RESIDENCY_ASKED] += 1
        try:
            found = await question.ask(self._contexts)
        except BadList as error:
            row[X_RESIDENCY_FAILED] += 1
            if not was_failing:
                _log.warning("%s does not say what it holds at %s: %s", name, question.residency.path, error)
            return True
        if was_failing:
            _log.info("%s says again what it holds", name)
        self._on_list(question.cluster_slot, question.endpoint.slot, found)
        return False


def _questions(cluster: ClusterSpec) -> list[Question]:
    if cluster.residency is None or not goes_by_data(cluster):
        return []
    return [
        Question(cluster.residency, endpoint, cluster.tls, cluster.slot, cluster.locality.max_keys)
        for endpoint in cluster.endpoints
    ]
