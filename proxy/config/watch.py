"""When a configuration may have changed: events of the directories its files are seen through, and a look now and then.

The directory is watched and not the file, because editors and deployment tools replace a file by another one (a rename,
or Kubernetes' swap of the symbolic link `..data`), which an inotify watch of the file itself would lose with the old
one. Events say only "look": whether the bytes differ is for the reader to find out. Where there are no events, as on
network file systems and some bind mounts, the look now and then finds the change.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from watchfiles import awatch

_log = logging.getLogger(__name__)
# It would tell of each event; what came of them is told here.
logging.getLogger("watchfiles").setLevel(logging.WARNING)

# Events of one save come in a burst; this long after the first they are taken as one.
SETTLE_MS = 100
# Seconds between two looks without an event.
LOOK_S = 5.0


async def changes(files: Callable[[], Iterable[Path]], stop: asyncio.Event) -> AsyncIterator[None]:
    """Yields whenever one of `files` is worth a look, until `stop` is set; which these are may change with each."""
    while not stop.is_set():
        folders = _folders_of(files())
        try:
            events = awatch(
                *folders,
                watch_filter=None,
                debounce=SETTLE_MS,
                step=50,
                stop_event=stop,
                rust_timeout=int(LOOK_S * 1000),
                yield_on_timeout=True,
                recursive=False,
            )
            async for _ in events:
                yield
                if _folders_of(files()) != folders:
                    break  # a link leads elsewhere now, or the configuration refers to other files
        except (OSError, RuntimeError) as error:
            _log.warning(
                "cannot watch %s, looking every %g s: %s", ", ".join(map(str, folders)), LOOK_S, error
            )
            try:
                await asyncio.wait_for(stop.wait(), LOOK_S)
            except TimeoutError:
                yield


def _folders_of(files: Iterable[Path]) -> list[Path]:
    return sorted(set().union(*map(_folders, files)))


def _folders(file: Path) -> set[Path]:
    """The directories in which a change can change what `file` is: its own and those its links lead through."""
    found = {file.absolute().parent}
    seen = file.absolute()
    for _ in range(40):  # as many links as the kernel follows (ELOOP)
        if not seen.is_symlink():
            break
        seen = seen.parent / seen.readlink()
        found.add(seen.parent)
    found.add(file.resolve().parent)
    return {folder for folder in found if folder.is_dir()}
