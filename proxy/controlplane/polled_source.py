"""Endpoints from what is asked again and again: a name, a file."""

import asyncio
import random
from typing import Protocol

from proxy.clock import Clock
from proxy.controlplane.membership import Membership
from proxy.controlplane.resolver import FIRST_RETRY_S, JITTER_RATIO, MAX_RETRY_S
from proxy.controlplane.source_report import SourceReport
from proxy.snapshot import EndpointSpec
from proxy.tasks import spawn


class SourceFailed(Exception):
    """A source could not be asked, or its answer made no sense; the text says why."""


class Question(Protocol):
    """Where a cluster's endpoints are asked for."""

    async def ask(self) -> tuple[list[EndpointSpec], float]:
        """The endpoints of now, without rows, and how many seconds that is good for. Raises `SourceFailed`."""
        ...


class PolledSource:
    """Tells `membership` what `question` finds for the cluster of `report`."""

    def __init__(
        self,
        question: Question,
        membership: Membership,
        report: SourceReport,
        *,
        retry_s: float,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`retry_s` is the longest pause after a failure."""
        self.report = report
        self._question = question
        self._membership = membership
        self._longest_s = min(retry_s, MAX_RETRY_S)
        self._clock = clock
        self._rng = rng
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<PolledSource {self._question!r}>"

    def start(self) -> None:
        """Ask from now on."""
        self._task = spawn(
            self._go_on_asking(), name=f"discovery {self.report.kind} of {self.report.cluster}"
        )

    def stop(self) -> None:
        """Ask no more. What was said holds."""
        if self._task is not None:
            self._task.cancel()
        self.report.end()

    async def _go_on_asking(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                found, pause_s = await self._question.ask()
            except SourceFailed as error:
                self.report.failure(str(error))
                pause_s = min(retry_s, self._longest_s)
                retry_s = 2 * pause_s
            else:
                retry_s = FIRST_RETRY_S
                self._membership.put(self.report.kind, self.report.cluster, found)
                self.report.answer()
            await self._clock.sleep(pause_s * self._rng.uniform(1 - JITTER_RATIO, 1 + JITTER_RATIO))
