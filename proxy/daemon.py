"""`homeport run`: the daemon in the foreground, from the configuration to its last connection.

Signals: SIGTERM and SIGINT drain and stop, a second one stops at once; SIGUSR1 reopens the access log; SIGHUP is
ignored, so that a closing terminal does not end the daemon. Control and the one worker share this process; they meet
in the snapshot and the scoreboard alone.
"""

import asyncio
import gc
import logging
import random
import resource
import signal
from pathlib import Path

import uvloop

from proxy.clock import SystemClock
from proxy.config.load import load_file
from proxy.config.schema import Config
from proxy.control import Control
from proxy.errors import ConfigError
from proxy.scoreboard import Scoreboard
from proxy.telemetry.status import State, WorkerReport
from proxy.worker import Worker

_log = logging.getLogger("homeport")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


def raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors to the hard one: every exchange takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_daemon(path: Path, workers: int | None) -> int:
    """Run until a signal says stop. Returns the exit status: 0 after a drain, 1 when forced or failed to start.

    `workers` overrides the configuration's number. Raises the loader's error for a faulty configuration.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = load_file(path)
    raise_descriptor_limit()
    if workers not in (None, 1):
        _log.warning("this version runs one worker; --workers %d is ignored", workers)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Daemon(config).run())


class _Daemon:
    """Control, one worker, and the signals."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._worker: Worker | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        clock = SystemClock()
        scoreboard = Scoreboard()
        rng = random.SystemRandom()
        worker = self._worker = Worker(
            number=0, scoreboard=scoreboard, loop=loop, clock=clock, rng=random.Random(rng.getrandbits(64))
        )
        control = Control(
            self._config,
            scoreboard,
            worker.apply,
            self._report,
            clock=clock,
            rng=random.Random(rng.getrandbits(64)),
        )
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_stop)
        loop.add_signal_handler(signal.SIGUSR1, worker.reopen_log)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        try:
            await control.start()
        except ConfigError as error:
            _log.error("cannot start: %s", error)
            worker.stop()
            return EXIT_FAILED
        # What exists now lives as long as the process: the collector need not look at it again. Exchanges leave no
        # cycles behind, so it may also look less often; with 10 000 connections each full look takes milliseconds.
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        for name, address in worker.addresses:
            _log.info("listener %s on %s", name, address)
        _log.info("admin API on %s", control.admin_address)
        await self._stopping.wait()
        try:
            return await self._drain(worker)
        finally:
            worker.stop()
            await control.stop()

    def _report(self) -> WorkerReport:
        worker = self._worker
        assert worker is not None
        if worker.is_draining:
            state = State.DRAINING
        else:
            state = State.READY if worker.generation else State.STARTING
        return WorkerReport(state, worker.generation, worker.addresses)

    def _on_stop(self) -> None:
        if self._stopping.is_set():
            self._forced.set()
        self._stopping.set()

    async def _drain(self, worker: Worker) -> int:
        """Let exchanges finish, unless a second signal forces the end."""
        timeout = self._config.drain_timeout
        _log.info("draining for at most %g s; signal again to stop at once", timeout)
        drain = asyncio.ensure_future(worker.drain(timeout))  # noqa: TID251 awaited below, needs no name
        forced = asyncio.ensure_future(self._forced.wait())  # noqa: TID251 cancelled below
        await asyncio.wait((drain, forced), return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if not drain.done():
            drain.cancel()
            _log.warning("forced to stop: connections were cut")
            return EXIT_FAILED
        if cut := drain.result():
            _log.warning("drain timeout: %d connections were cut", cut)
        _log.info("stopped")
        return EXIT_OK
