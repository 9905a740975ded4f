"""What a control begins with: the file, and what the control before it left with the parent.

Reading is done in a thread, with heartbeats meanwhile: hundreds of certificates take seconds, in which the parent would
take a silent control as stuck.
"""

import asyncio
import logging

from proxy.clock import Clock
from proxy.config.faults import Fault, InvalidConfig
from proxy.config.load import ConfigFile
from proxy.config.schema import Config
from proxy.mailbox import unsealed
from proxy.scoreboard import C_HEARTBEAT_MS, Scoreboard
from proxy.snapshot import Snapshot
from proxy.snapshot_codec import Legacy, OtherVersion, decode_legacy, decode_snapshot
from proxy.tasks import spawn

_log = logging.getLogger("homeport")

HEARTBEAT_S = 0.1
"""Seconds between two heartbeats; the parent replaces a control that is silent for several of them."""


def served_snapshot(fd: int | None) -> tuple[Snapshot | None, Legacy]:
    """The snapshot that is served already and what goes on from it, as far as this version can read them."""
    if fd is None:
        return None, Legacy()
    data = unsealed(fd)
    legacy: Legacy | None = None
    try:
        legacy = decode_legacy(data)
        return decode_snapshot(data), legacy
    except OtherVersion as error:
        # Workers that go on serving from it count in its rows: these keep their names, or are left alone.
        _log.warning("%s: %s", error, "counters go on" if legacy else "counters of endpoints begin anew")
        return None, legacy or Legacy()


def beat(board: Scoreboard, clock: Clock) -> None:
    """Show the parent that control is alive."""
    board.control_row[C_HEARTBEAT_MS] = int(clock.monotonic() * 1000)


async def first_config(
    file: ConfigFile, last_good: int | None, board: Scoreboard, clock: Clock
) -> tuple[bytes, Config, tuple[Fault, ...]]:
    """What the file says, or, when that is faulty and something is served already, what that was made from, and the
    faults. Raises `InvalidConfig`."""

    async def go_on_beating() -> None:
        while True:
            beat(board, clock)
            await clock.sleep(HEARTBEAT_S)

    beating = spawn(go_on_beating(), name="heartbeat")
    try:
        return await asyncio.to_thread(_read_first, file, last_good)
    finally:
        beating.cancel()


def _read_first(file: ConfigFile, last_good: int | None) -> tuple[bytes, Config, tuple[Fault, ...]]:
    try:
        return *file.read(), ()
    except InvalidConfig as error:
        if last_good is None:
            raise
        source = unsealed(last_good)
        return source, file.parse_served(source), error.faults
