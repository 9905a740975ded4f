"""Fetching an image, with its progress in the log. The one call to the engine that may take minutes."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.clock import Clock
from proxy.drivers.engine import Api, Engine
from proxy.errors import EngineNotFound, EngineRefused

_log = logging.getLogger(__name__)
# Between two lines of the log while an image comes.
_REPORT_S = 5.0
_MIB = 2**20


def split_reference(image: str) -> tuple[str, str]:
    """Repository, and tag or digest (`latest` when there is neither).

    >>> split_reference("localhost:5000/query:1.4")
    ('localhost:5000/query', '1.4')
    """
    name, at, digest = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    return repository, digest if at else tag or "latest"


class PullProgress:
    """How far a pull is, from what the engine says of each layer."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._done: set[str] = set()
        self._sizes: dict[str, tuple[int, int]] = {}
        self._layers: set[str] = set()

    def add(self, message: Mapping[str, Any]) -> None:
        """Take in one message of the engine's."""
        layer, status = message.get("id"), str(message.get("status", ""))
        if not layer or status.startswith(("Pulling from", "Digest", "Status")):
            return
        self._layers.add(layer)
        detail = message.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._sizes[layer] = int(detail.get("current") or 0), int(detail["total"])
        elif status in ("Download complete", "Pull complete", "Already exists"):
            self._done.add(layer)
            if layer in self._sizes:
                total = self._sizes[layer][1]
                self._sizes[layer] = total, total

    def __str__(self) -> str:
        got, total = (
            (sum(part) / _MIB for part in zip(*self._sizes.values(), strict=True)) if self._sizes else (0, 0)
        )
        return f"pulling {self._image}: {len(self._done)} of {len(self._layers)} layers, {got:.0f} of {total:.0f} MiB"


async def pull(engine: Engine, image: str, clock: Clock) -> None:
    """Fetch `image`. Raises `EngineError` with what to do about it."""
    what = f"pull {image}"
    repository, tag = split_reference(image)

    def run(api: Api) -> str:
        return _follow(api.pull(repository, tag, stream=True, decode=True), image, clock)

    _log.info("pulling image %s", image)
    try:
        error = await engine.act(what, run)
    except EngineNotFound as missing:
        raise EngineNotFound(
            what, f"{missing.problem}; is the name right, and may the engine see it?"
        ) from missing
    if error:
        raise EngineRefused(what, error)
    _log.info("pulled image %s", image)


def _follow(messages: Iterator[Mapping[str, Any]], image: str, clock: Clock) -> str:
    """Report until the end; returns the error that the engine tells in the middle of its answer, or nothing."""
    progress = PullProgress(image)
    reported_at = clock.monotonic()
    for message in messages:
        if "error" in message:
            return str(message["error"])
        progress.add(message)
        if clock.monotonic() - reported_at >= _REPORT_S:
            reported_at = clock.monotonic()
            _log.info("%s", progress)
    return ""
