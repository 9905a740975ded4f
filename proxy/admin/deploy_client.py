"""`homeport deploy`: shows how instances of a new version take the place of the old ones, until that is over."""

import asyncio
import sys
from collections.abc import Callable
from math import ceil
from typing import Any, TextIO
from urllib.parse import quote

import orjson
from rich.console import Console
from rich.live import Live
from rich.text import Text

from proxy.admin.client import AdminUnreachable, fetch, parse_admin
from proxy.clock import Clock

EXIT_FAILED = 1

LOOK_S = 0.5
"""Seconds between two looks."""

_OVER = ("none", "halted")

Document = dict[str, Any]
Show = Callable[[Document], None]


def watch_deploy(
    admin: str,
    token: str | None,
    as_json: bool,
    cluster: str,
    *,
    is_retried: bool,
    clock: Clock,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Show the deployment of `cluster` until it is over, trying it again first if it `is_retried`. On a terminal the
    line is kept up to date, elsewhere there is one for each change, or a JSON object.

    Returns the exit code: 0 when all instances are of the version that there should be, 1 when it was called off or
    nobody can say.
    """
    out, err = out or sys.stdout, err or sys.stderr
    path = f"/api/v1/clusters/{quote(cluster, safe='')}"
    try:
        address = parse_admin(admin)
        if is_retried:
            fetch(address, f"{path}/deploy/retry", token, is_asking=True)
        look = lambda: _scaler(fetch(address, path, token), cluster)  # noqa: E731 it is short
        if out.isatty() and not as_json:
            with Live(console=Console(file=out), auto_refresh=False) as live:
                stage = asyncio.run(
                    _follow(
                        look, lambda said: live.update(Text(deploy_text(cluster, said)), refresh=True), clock
                    )
                )
        else:
            stage = asyncio.run(_follow(look, _printer(cluster, out, as_json), clock))
        return EXIT_FAILED if stage == "halted" else 0
    except AdminUnreachable as error:
        print(f"homeport: {error}", file=err)
    except (KeyError, TypeError) as error:
        print(f"homeport: {admin} answers as another version would: {error!r} is missing or odd", file=err)
    return EXIT_FAILED


def deploy_text(cluster: str, scaler: Document) -> str:
    """How far a deployment is, in one line."""
    deploy = scaler["deploy"]
    version, stage, left_s = deploy["version"], deploy["stage"], deploy["watched_for_s"]
    new = sum(one["version"] == version and one["phase"] == "serving" for one in scaler["instances"])
    if stage == "none":
        return f"{cluster}: {new} of {scaler['desired']} serve, all of version {version}"
    counts = (
        f"{new} of version {version} {'serves' if new == 1 else 'serve'}, {deploy['old']} of others are left"
    )
    if stage == "halted":
        return f"{cluster}: called off: {deploy['reason']}; {counts}"
    watched = f"; watched for {ceil(left_s)} s more" if left_s is not None else ""
    return f"{cluster}: {stage}: {counts}{watched}"


def _scaler(document: Document, cluster: str) -> Document:
    scaler: Document | None = document["scaler"]
    if scaler is None:
        raise AdminUnreachable(cluster, "it is not scaled", "only clusters with a scaler are deployed")
    return scaler


def _printer(cluster: str, out: TextIO, as_json: bool) -> Show:
    """Prints what is not as it was; time that passes is no change."""
    last = ""

    def show(scaler: Document) -> None:
        nonlocal last
        said = {**scaler, "deploy": {**scaler["deploy"], "watched_for_s": None}}
        key = deploy_text(cluster, said)
        if key != last:
            last = key
            text = orjson.dumps(scaler["deploy"]).decode() if as_json else deploy_text(cluster, scaler)
            out.write(f"{text}\n")
            out.flush()

    return show


async def _follow(look: Callable[[], Document], show: Show, clock: Clock) -> str:
    """Show what there is until it is over; returns the last stage."""
    while True:
        scaler = look()
        show(scaler)
        if scaler["deploy"]["stage"] in _OVER:
            return str(scaler["deploy"]["stage"])
        await clock.sleep(LOOK_S)
