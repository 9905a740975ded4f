"""What a parent hands to the program that takes its place by a re-exec: descriptors that stay open, children that stay
children, and what is served.

The next program may be of another version. It reads this before, in its trial start, so that one that cannot never
takes over. Standard library only: the parent imports this.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from proxy.listening import decode_address, encode_address
from proxy.model import Address

_FORMAT = 1


class UnknownHandover(ValueError):
    """It was written by a version that says things otherwise."""


class NoRoom(ValueError):
    """The running daemon has more workers than this version has slots for."""


@dataclass(frozen=True, slots=True)
class PublishedListener:
    """A listener, as far as it matters to the parent."""

    name: str
    key: str
    """What its socket is known by; see `controlplane.parent_link.socket_key`."""
    bind: Address


@dataclass(frozen=True, slots=True)
class Publication:
    """What control wants to have served, apart from the snapshot itself, which the parent does not read."""

    generation: int
    workers: int
    """How many are to serve."""
    drain_timeout_s: float
    listeners: tuple[PublishedListener, ...]

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "Publication":
        """What a message says. Raises `KeyError`, `TypeError` or `ValueError` when it says something else."""
        listeners = [
            PublishedListener(str(each["name"]), str(each["key"]), decode_address(each["bind"]))
            for each in body["listeners"]
        ]
        return cls(
            int(body["generation"]), int(body["workers"]), float(body["drain_timeout_s"]), tuple(listeners)
        )

    def body(self) -> dict[str, Any]:
        """The message."""
        listeners = [
            {"name": each.name, "key": each.key, "bind": encode_address(each.bind)} for each in self.listeners
        ]
        return {
            "generation": self.generation,
            "workers": self.workers,
            "drain_timeout_s": self.drain_timeout_s,
            "listeners": listeners,
        }


@dataclass(frozen=True, slots=True)
class OldWorker:
    """A worker that runs."""

    slot: int
    pid: int
    kill_at: float
    """When it is killed if it has not ended, in seconds of the monotonic clock; 0 = it serves."""


@dataclass(frozen=True, slots=True)
class Handover:
    """All of it. Descriptors keep their numbers."""

    board: int
    """The scoreboard's descriptor."""
    control: int
    """Process id; 0 = there is none."""
    workers: tuple[OldWorker, ...]
    posts: tuple[tuple[int, int], ...]
    """The mailboxes, control's first: the ends that are read and written."""
    locks: tuple[int, ...]
    """See `permits.LockFiles`."""
    sockets: tuple[tuple[str, int, bool], ...]
    """See `ListeningSockets.describe`."""
    kept: Mapping[str, int]
    """What was published last, by name."""
    published: Publication | None
    is_ready: bool
    """Enough workers served at least once."""

    @property
    def fds(self) -> list[int]:
        """Every descriptor that is named here."""
        posts = [fd for pair in self.posts for fd in pair]
        sockets = [fd for _, fd, _ in self.sockets]
        return [self.board, *posts, *self.locks, *sockets, *self.kept.values()]

    def check_room(self, slots: int) -> None:
        """Raise `NoRoom` unless a version with this many slots can keep every worker in its own, and start as many as
        are wanted beside those that serve."""
        highest = max((worker.slot for worker in self.workers), default=-1)
        if highest >= slots:
            raise NoRoom(f"a worker of the running daemon has slot {highest}, expected a slot below {slots}")
        wanted = self.published.workers if self.published is not None else 0
        serving = sum(not worker.kill_at for worker in self.workers)
        if serving + wanted > slots:
            raise NoRoom(
                f"the running daemon has {serving} workers, beside which {wanted} new ones are to serve, "
                f"expected at most {slots} together: reload with fewer workers first"
            )

    def encode(self) -> bytes:
        """As bytes that `decode` reads."""
        published = self.published.body() if self.published is not None else None
        state = {
            "format": _FORMAT,
            "board": self.board,
            "control": self.control,
            "workers": [asdict(worker) for worker in self.workers],
            "posts": self.posts,
            "locks": self.locks,
            "sockets": self.sockets,
            "kept": dict(self.kept),
            "published": published,
            "is_ready": self.is_ready,
        }
        return json.dumps(state).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Handover":
        """What `encode` wrote. Raises `UnknownHandover`."""
        try:
            state = json.loads(data)
            if state["format"] != _FORMAT:
                raise ValueError(f"format {state['format']}")
            published = state["published"]
            return cls(
                board=int(state["board"]),
                control=int(state["control"]),
                workers=tuple(OldWorker(**each) for each in state["workers"]),
                posts=tuple((int(reader), int(writer)) for reader, writer in state["posts"]),
                locks=tuple(int(fd) for fd in state["locks"]),
                sockets=tuple((str(key), int(fd), bool(is_ours)) for key, fd, is_ours in state["sockets"]),
                kept={str(name): int(fd) for name, fd in state["kept"].items()},
                published=Publication.from_body(published) if published is not None else None,
                is_ready=bool(state["is_ready"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UnknownHandover(f"what the running daemon hands over cannot be read: {error!r}") from error
