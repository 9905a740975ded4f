"""Control's end of the channel to the parent: serve this, and whether it was accepted."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Protocol

from proxy.errors import ConfigError
from proxy.listening import decode_address, encode_address
from proxy.mailbox import Channel, sealed
from proxy.model import Address, TcpAddress
from proxy.snapshot import ListenerSpec, Snapshot
from proxy.snapshot_codec import encode_snapshot

# The parent answers within microseconds, or is gone.
_ANSWER_S = 5.0


class ParentGone(Exception):
    """The parent does not answer; control has nothing left to do."""


class Publisher(Protocol):
    """Hands a snapshot to the workers."""

    async def publish(self, snapshot: Snapshot, workers: int, source: bytes) -> tuple[Address, ...]:
        """Have it served, and the configuration's text kept. Returns the listeners' actual addresses; raises
        `ConfigError`, and then the last one is served on."""
        ...


class ParentLink:
    """Hands snapshots to the parent, one at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._busy = asyncio.Lock()

    async def publish(self, snapshot: Snapshot, workers: int, source: bytes) -> tuple[Address, ...]:
        """Have `snapshot` served by `workers` workers. Returns the actual address of each listener. `source` is the
        configuration's text, which the parent keeps for a control that finds a faulty one at its start.

        Raises `ConfigError` when a listener cannot be bound, and then the last snapshot goes on being served, and
        `ParentGone`.
        """
        body = {
            "generation": snapshot.generation,
            "workers": workers,
            "drain_timeout_s": snapshot.drain_timeout_s,
            "listeners": [
                {"name": spec.name, "key": socket_key(spec), "bind": encode_address(spec.bind)}
                for spec in snapshot.listeners
            ],
        }
        async with self._busy:
            fds = (
                sealed(encode_snapshot(snapshot), f"homeport-snapshot-{snapshot.generation}"),
                sealed(source, "homeport-config"),
            )
            try:
                self._channel.send(body, fds)
            except OSError as error:
                raise ParentGone(str(error)) from error
            finally:
                for fd in fds:
                    os.close(fd)
            answer = await self._answer(snapshot.generation)
        if "refused" in answer:
            raise _bind_error(snapshot.listeners, answer)
        return tuple(decode_address(each) for each in answer["addresses"])

    async def _answer(self, generation: int) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_ANSWER_S):
                while True:
                    readable = asyncio.Event()
                    loop.add_reader(self._channel.fileno(), readable.set)
                    try:
                        await readable.wait()
                    finally:
                        loop.remove_reader(self._channel.fileno())
                    message = self._channel.receive()
                    if message is not None and generation in (
                        message.body.get("accepted"),
                        message.body.get("refused"),
                    ):
                        return message.body
        except (EOFError, TimeoutError) as error:
            raise ParentGone(str(error)) from error


def socket_key(spec: ListenerSpec) -> str:
    """What the listening socket of `spec` is known by: its address, so that a listener may change its name. One on any
    free port is of its listener alone."""
    bind = spec.bind
    return f"{bind} of {spec.name}" if isinstance(bind, TcpAddress) and not bind.port else str(bind)


def _bind_error(listeners: Sequence[ListenerSpec], answer: dict[str, Any]) -> ConfigError:
    index = [socket_key(spec) for spec in listeners].index(answer["key"])
    expected = f"an address that can be bound ({answer['error']})"
    return ConfigError(f"listeners[{index}].bind", str(listeners[index].bind), expected)
