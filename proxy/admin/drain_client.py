"""`homeport drain` and `homeport undrain`: asks a running daemon, and waits until nothing is left to do."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO
from urllib.parse import quote

import orjson

from proxy.admin.client import AdminAddress, exit_code, fetch
from proxy.clock import Clock

EXIT_TIMED_OUT = 3

LOOK_S = 0.2
"""Seconds between two looks whether all is done."""

QUIET_LOOKS = 2
"""Looks in a row that must find nothing in flight: a worker may have picked just before it knew of the drain."""


def ask_drain(
    admin: str,
    token: str | None,
    as_json: bool,
    name: str,
    *,
    is_listener: bool,
    is_drained: bool,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> tuple[int, Sequence[str]]:
    """Drain the endpoints, or the listener, called `name`, or end that, and print what became of it.

    Returns the exit code, 0 or 1, and the ids of the endpoints, or the listener's name.
    """
    out, err = out or sys.stdout, err or sys.stderr
    kind = "listeners" if is_listener else "endpoints"
    action = "drain" if is_drained else "undrain"
    path = f"/api/v1/{kind}/{quote(name, safe='')}/{action}"
    targets: list[str] = []

    def ask(address: AdminAddress) -> int:
        answer = fetch(address, path, token, is_asking=True)
        if as_json:
            out.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE).decode())
        else:
            out.write("".join(line + "\n" for line in _lines(answer, is_listener)))
        targets.extend(answer["targets"])
        return 0

    return exit_code(ask, admin, err), targets


def _lines(answer: dict[str, Any], is_listener: bool) -> list[str]:
    word = "drained" if answer["drained"] else "not drained any more"
    lines = []
    for target in answer["targets"]:
        name = f"listener {target}" if is_listener else target
        lines.append(f"{name}: {word}{'' if target in answer['changed'] else ' (as before)'}")
    if answer["pending"]:
        lines.append("not every worker has applied it yet")
    return lines


def wait_idle(
    admin: str,
    token: str | None,
    ids: Sequence[str],
    *,
    is_listener: bool = False,
    timeout_s: float,
    clock: Clock,
    err: TextIO | None = None,
) -> int:
    """Return when none of the endpoints `ids` has a request in flight, or none of those listeners a connection open: 0,
    3 after `timeout_s` seconds, or 1 when the daemon does not answer."""
    err = err or sys.stderr
    count = _connections if is_listener else _requests

    def ask(address: AdminAddress) -> int:
        left = asyncio.run(_wait(lambda: count(address, token, frozenset(ids)), timeout_s, clock))
        if left:
            what = "connections are still open" if is_listener else "requests are still in flight"
            print(f"homeport: {left} {what} after {timeout_s:g} s", file=err)
            return EXIT_TIMED_OUT
        return 0

    return exit_code(ask, admin, err)


def _requests(address: AdminAddress, token: str | None, ids: frozenset[str]) -> int:
    clusters = fetch(address, "/api/v1/clusters", token)["clusters"]
    return sum(one["in_flight"] for each in clusters for one in each["endpoints"] if one["id"] in ids)


def _connections(address: AdminAddress, token: str | None, names: frozenset[str]) -> int:
    listeners = fetch(address, "/api/v1/status", token)["listeners"]
    return sum(one["connections"] for one in listeners if one["name"] in names)


async def _wait(count: Callable[[], int], timeout_s: float, clock: Clock) -> int:
    """What is left at the end: 0, or more after `timeout_s`."""
    until = clock.monotonic() + timeout_s
    quiet = 0
    while True:
        await clock.sleep(LOOK_S)
        left = count()
        quiet = 0 if left else quiet + 1
        if quiet >= QUIET_LOOKS:
            return 0
        if left and clock.monotonic() >= until:
            return left
