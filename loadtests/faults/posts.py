"""Endpoints that are killed in the middle of POSTs: is any delivered twice?

Three `mortal` endpoints, in rounds of a thousand kills, each with a daemon of its own and other settings and seeds.
Every POST has an id of its own, which the endpoint that reads its head writes down. Circuits are off: with them, hardly
a request would reach endpoints that die so often.
"""

import asyncio
import itertools
import random
from collections import Counter
from pathlib import Path

from loadtests.daemon import Daemon, Document
from loadtests.faults.bench import Bench
from loadtests.faults.endpoint import REASON
from loadtests.faults.outcome import Outcome, at_least, at_most, counted, written
from loadtests.peers.processes import ChildError, free_port

ENDPOINTS = 3
CLIENTS = 24
ROUND_KILLS = 1000
ANSWER_S = 20.0
"""Longest wait for an answer, far above the timeouts of the daemon."""
MOST_PAUSE_S = 0.004
"""Between two parts of a body."""
LOOK_S = 0.1
STALLED_LOOKS = 300
"""Looks without another kill after which the run is given up."""
BODY_BYTES = (10, 3000, 50_000, 200_000)
"""The last is above what is kept to be sent again."""
CLUSTER: Document = {
    "circuit_breaker": {"failure_threshold": 0},
    "timeouts": {"connect": "1s", "response": "3s", "idle": "3s"},
}
VARIANTS: tuple[Document, ...] = (
    {},
    {"pool": {"max_requests": 3}},
    {"retry": {"budget_percent": 100, "min_retries": 50, "backoff": "0"}},
    {"pool": {"max_idle": 0}},
    {"retry": {"on": ["connect_failure", "reset", "timeout", "bad_reply", 500, 502, 503, 504]}},
    {"retry": {"replay_bytes": "1MiB"}, "balancer": "least_connections"},
)
_ENDINGS = (OSError, asyncio.IncompleteReadError)


class Posts:
    """The clients of a round."""

    def __init__(self, port: int, rng: random.Random, ids: "itertools.count[int]") -> None:
        self.seen: Counter[str] = Counter()
        """By status, with Homeport's word for it; `cut` = the connection ended instead; `no answer` came in time."""
        self.answered: list[str] = []
        """Ids of those that got a 200."""
        self.port = port
        self._rng = rng
        self._ids = ids

    async def client(self) -> None:
        """One connection after the other, one POST after the other on each."""
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                is_open = True
                while is_open:
                    async with asyncio.timeout(ANSWER_S):
                        is_open = await self._post(reader, writer)
            except _ENDINGS:
                self.seen["cut"] += 1
            except TimeoutError:
                self.seen["no answer"] += 1
            finally:
                writer.transport.abort()

    async def _post(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One POST; false when the connection is not to be used again."""
        name = f"p{next(self._ids)}"
        body = b"x" * self._rng.choice(BODY_BYTES)
        head = f"POST /{name} HTTP/1.1\r\nHost: posts.test\r\nX-Id: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
        at_once = len(body) if self._rng.random() < 0.5 else self._rng.randrange(len(body))
        writer.write(head.encode() + body[:at_once])
        if at_once < len(body):
            await asyncio.sleep(self._rng.random() * MOST_PAUSE_S)
            writer.write(body[at_once:])
        reply = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = reply.partition(b"\r\ncontent-length: ")
        said = REASON.search(await reader.readexactly(int(rest.split(b"\r\n", 1)[0])))
        status = reply[9:12].decode() + (f" {said.group(1).decode()}" if said else "")
        self.seen[status] += 1
        if status == "200":
            self.answered.append(name)
        return b"\r\nconnection: close\r\n" not in reply


class Log:
    """What the endpoints of a round wrote down."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def lines(self) -> list[str]:
        """All of it so far."""
        return [line for file in self._files if file.exists() for line in file.read_text().splitlines()]

    def kills(self) -> int:
        """So far."""
        return self.lines().count("kill")


async def load(daemon: Daemon, log: Log, kills: int, posts: Posts, bench: Bench, done: int) -> None:
    """POST until there were that many `kills`; `done` were in earlier rounds. Raises `ChildError`."""
    clients = [asyncio.create_task(posts.client()) for _ in range(CLIENTS)]
    try:
        last = looks = 0
        while (now := log.kills()) < kills:
            looks = looks + 1 if now == last else 0
            last = now
            bench.on_progress((done + now) / bench.sizes.kills)
            if looks > STALLED_LOOKS or any(client.done() for client in clients):
                raise ChildError(f"no more kills after {now}: {daemon.child.tail()}")
            await asyncio.sleep(LOOK_S)
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


def run(bench: Bench) -> Outcome:
    """All rounds."""
    ids = itertools.count(1)
    seen: Counter[str] = Counter()
    lines: list[str] = []
    answered: list[str] = []
    rounds = max(1, bench.sizes.kills // ROUND_KILLS)
    for number in range(rounds):
        posts = Posts(0, random.Random(number), ids)
        lines += one_round(bench, number, bench.sizes.kills // rounds, posts)
        seen += posts.seen
        answered += posts.answered
    return outcome(lines, seen, answered, bench.sizes.kills)


def one_round(bench: Bench, number: int, kills: int, posts: Posts) -> list[str]:
    """What the endpoints wrote down."""
    folder = bench.directory / f"round-{number}"
    folder.mkdir()
    children, logs, ports = [], [], []
    for index in range(ENDPOINTS):
        ports.append(free_port())
        logs.append(folder / f"{index}.log")
        children.append(bench.start("mortal", str(ports[-1]), str(logs[-1]), str(number * ENDPOINTS + index)))
    for child, port in zip(children, ports, strict=True):
        child.wait_for_port(port)
    daemon = bench.daemon(ports, cluster={**CLUSTER, **VARIANTS[number % len(VARIANTS)]})
    posts.port = daemon.port
    log = Log(logs)
    asyncio.run(load(daemon, log, kills, posts, bench, number * kills))
    for child in (*children, daemon.child):
        bench.children.stop(child)
    return log.lines()


def outcome(lines: list[str], seen: Counter[str], answered: list[str], wanted: int) -> Outcome:
    """What it comes to."""
    deliveries = Counter(line for line in lines if line != "kill")
    kills = lines.count("kill")
    twice = [name for name, times in deliveries.items() if times > 1]
    never = [name for name in answered if not deliveries[name]]
    failed = {name: count for name, count in seen.items() if name != "200"}
    lost = sum(failed.values())
    unsent = failed.get("502 connect_failed", 0)
    told = ", ".join(
        f"{count:,} × {name}" for name, count in sorted(failed.items(), key=lambda item: -item[1])
    )
    return Outcome(
        fault=f"{kills:,} kills (kill -9) of an endpoint in the middle of {sum(seen.values()):,} POSTs",
        saw=f"{seen['200']:,} × 200, {told or 'nothing else'}",
        lost=f"{counted(lost - unsent, 'POST')} that were with the endpoint, {unsent:,} that no endpoint had",
        targets=(
            at_least("kills", kills, wanted),
            at_most("POSTs delivered twice", len(twice), 0),
            at_most("POSTs answered 200 that no endpoint had", len(never), 0),
            at_most(f"POSTs without an answer within {ANSWER_S:g} s", seen["no answer"], 0),
        ),
        setting=written(CLUSTER),
        figures={
            "kills": kills,
            "posts": sum(seen.values()),
            "delivered": len(deliveries),
            "delivered_twice": len(twice),
            "answered_200": seen["200"],
            **{f"failed_{name.replace(' ', '_')}": count for name, count in failed.items()},
        },
    )
