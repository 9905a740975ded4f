"""Sends workers what is more than their mailboxes hold.

A mailbox holds three or four long messages, and others write to it too: permits that somebody waits for must find room.
So one message goes out at a time, and the next when the worker had time to read it; where there is no room, it is tried
again. Messages are made when they are sent, so what they say is true then.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any

from proxy.clock import Clock
from proxy.mailbox import Posts
from proxy.policy.news import NEWS_AT_ONCE
from proxy.scoreboard import S_STATE, SLOT_SERVING, Scoreboard
from proxy.tasks import spawn

PACE_S = 0.05
"""Seconds between a full message to a worker, of 1200 news, and the next; shorter ones need less. A full one takes the
worker 2 to 3 ms to take in, in which requests wait."""

LEAST_PACE_S = 0.002
"""Seconds between any two."""

MOST_WAITING = 256
"""Series of messages that wait for a worker; if it does not read them, later ones are dropped."""

Messages = Iterator[dict[str, Any]]
"""Each with its `news`."""


class Rounds:
    """To all workers of the daemon."""

    def __init__(self, board: Scoreboard, posts: Posts, clock: Clock) -> None:
        self._board = board
        self._posts = posts
        self._clock = clock
        self._waiting: dict[int, deque[Messages]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.dropped = 0
        """Series that found no room."""

    def __repr__(self) -> str:
        return f"Rounds({len(self._tasks)} workers, {self.dropped} dropped)"

    def workers(self) -> list[int]:
        """Those that serve."""
        return [worker for worker in self._board.used_workers if self._is_serving(worker)]

    def send(self, worker: int, messages: Messages) -> None:
        """Have the worker in slot `worker` get all of `messages`, after those that wait. Those for one that ends are
        dropped: whoever takes its place asks for itself."""
        if not (worker in self._board.used_workers and self._is_serving(worker)):
            return
        waiting = self._waiting.setdefault(worker, deque())
        if len(waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        waiting.append(messages)
        if worker not in self._tasks:
            self._tasks[worker] = spawn(self._deliver(worker, waiting), name=f"news for worker {worker}")

    def stop(self) -> None:
        """Send nothing more. Idempotent."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks = {}
        self._waiting = {}

    async def _deliver(self, worker: int, waiting: deque[Messages]) -> None:
        while waiting and self._is_serving(worker):
            message = next(waiting[0], None)
            if message is None:
                waiting.popleft()
                continue
            while not self._posts.to_worker(worker, message) and self._is_serving(worker):
                await self._clock.sleep(PACE_S)
            await self._clock.sleep(max(PACE_S * len(message["news"]) / NEWS_AT_ONCE, LEAST_PACE_S))
        waiting.clear()
        del self._tasks[worker]

    def _is_serving(self, worker: int) -> bool:
        return self._board.slot_row(worker)[S_STATE] == SLOT_SERVING
