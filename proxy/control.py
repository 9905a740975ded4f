"""`python -m proxy.control`: the control process: arguments, signals and exit codes around `composition.Control`."""

import argparse
import asyncio
import logging
import random
import signal
import sys
from pathlib import Path

import uvloop

from proxy import children
from proxy.clock import SystemClock
from proxy.composition import Control
from proxy.config.faults import InvalidConfig
from proxy.config.load import ConfigFile
from proxy.config.watch import changes
from proxy.controlplane.parent_link import ParentGone, ParentLink
from proxy.controlplane.reloading import Trigger
from proxy.controlplane.startup import first_config, served_snapshot
from proxy.errors import ConfigError
from proxy.mailbox import Channel, posts_from
from proxy.scoreboard import Scoreboard
from proxy.tasks import spawn

_log = logging.getLogger("homeport")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


async def _run(control: Control, file: ConfigFile) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    starting = asyncio.ensure_future(control.start())  # noqa: TID251 its failure is reported below
    stop = asyncio.ensure_future(stopping.wait())  # noqa: TID251 cancelled below
    useless = asyncio.ensure_future(control.is_useless.wait())  # noqa: TID251 cancelled below
    await asyncio.wait((starting, stop), return_when=asyncio.FIRST_COMPLETED)
    watching: asyncio.Task[None] | None = None
    try:
        if starting.done():
            starting.result()
            for name, address in control.addresses:
                _log.info("listener %s on %s", name, address)
            _log.info("admin API on %s", control.admin_address)
            loop.add_signal_handler(
                signal.SIGHUP, lambda: spawn(control.reload(Trigger.SIGNAL), name="reload")
            )
            children.unblock_signals()
            watching = spawn(_watch(control, file, stopping), name="watch configuration")
        await asyncio.wait((stop, useless), return_when=asyncio.FIRST_COMPLETED)
        return EXIT_FAILED if useless.done() else EXIT_OK
    except ConfigError as error:
        _log.error("cannot start: %s", error)
        return EXIT_FAILED
    except ParentGone:
        return EXIT_FAILED
    finally:
        for task in (starting, stop, useless, watching):
            if task is not None:
                task.cancel()
        await asyncio.gather(
            starting, return_exceptions=True
        )  # it tidies up after itself when it is interrupted
        await control.stop()


async def _watch(control: Control, file: ConfigFile, stopping: asyncio.Event) -> None:
    async for _ in changes(lambda: file.paths, stopping):
        await control.reload_if_new()


def is_acceptable(file: str) -> bool:
    """Whether the configuration is without faults; they are on standard error if not."""
    try:
        ConfigFile(Path(file)).read()
    except InvalidConfig as error:
        print(error, file=sys.stderr)
        return False
    return True


def main() -> int:
    """The process, until it is told to stop. Returns its exit code."""
    children.take_program_mark(sys.argv)
    parser = argparse.ArgumentParser(prog="python -m proxy.control")
    parser.add_argument("--config", required=True)
    parser.add_argument("--workers", type=int)
    for name in ("parent", "board", "channel", "mailbox"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--posts", required=True)
    for name in ("snapshot", "last-good"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s control: %(message)s")
    children.end_with_parent(options.parent)
    board = Scoreboard(fd=options.board)
    file = ConfigFile(Path(options.config))
    previous, legacy = served_snapshot(options.snapshot)
    clock = SystemClock()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            source, config, faults = runner.run(first_config(file, options.last_good, board, clock))
        except InvalidConfig as error:
            print(error, file=sys.stderr)
            return EXIT_BAD_CONFIG
        control = Control(
            config,
            source,
            file,
            board,
            ParentLink(Channel.from_fd(options.channel)),
            workers=options.workers,
            clock=clock,
            rng=random.Random(random.SystemRandom().getrandbits(64)),
            previous=previous,
            legacy=legacy,
            mailbox=Channel.from_fd(options.mailbox),
            posts=posts_from(options.posts, has_control=False),
            faults=faults,
        )
        return runner.run(_run(control, file))


if __name__ == "__main__":
    raise SystemExit(main())
