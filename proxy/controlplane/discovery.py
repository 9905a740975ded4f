"""Which sources find endpoints, as the configuration says: they come and go with it, what they said is `membership`'s.

A source that a new configuration has too goes on undisturbed. One that is new is asked before the configuration is
served, so that a cluster that changes from a list to a source is never without endpoints; but nobody waits long for a
source that does not answer, and not at all where something is known already.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from proxy.clock import Clock
from proxy.config.container import selector
from proxy.config.discovery_schema import DnsDiscovery, FileDiscovery
from proxy.config.schema import Cluster, Config
from proxy.controlplane.dns_questions import AddressQuestion, ServiceQuestion
from proxy.controlplane.docker_source import DOCKER, DockerSource
from proxy.controlplane.engine_access import EngineAccess
from proxy.controlplane.events import EventLog
from proxy.controlplane.file_question import FileQuestion
from proxy.controlplane.membership import Membership
from proxy.controlplane.polled_source import PolledSource, Question
from proxy.controlplane.resolver import Lookup
from proxy.controlplane.source_report import SourceReport
from proxy.drivers.spec import Selector
from proxy.scoreboard import (
    C_ENGINE_FAILING,
    D_FAILING,
    DISCOVERY_KINDS,
    Scoreboard,
    discovery_word,
)

FIRST_ANSWER_S = 5.0
"""Seconds that the first answers of new sources are waited for; as long as a name may take."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What a configuration says of a polled source."""

    kind: str
    section: DnsDiscovery | FileDiscovery
    dns_refresh_s: float


class Discovery:
    """The sources of the present configuration."""

    def __init__(
        self,
        membership: Membership,
        engine: EngineAccess,
        board: Scoreboard,
        events: EventLog,
        *,
        clock: Clock,
        rng: random.Random,
        lookup: Lookup,
    ) -> None:
        self._membership = membership
        self._engine = engine
        self._board = board
        self._events = events
        self._clock = clock
        self._rng = rng
        self._lookup = lookup
        self._docker: DockerSource | None = None
        self._selectors: tuple[Selector, ...] = ()
        self._polled: dict[str, tuple[_Said, PolledSource]] = {}
        """By cluster."""
        for kind in DISCOVERY_KINDS:
            board.control_row[discovery_word(kind, D_FAILING)] = 0

    def __repr__(self) -> str:
        return f"Discovery({self._docker!r}, {len(self._polled)} polled)"

    async def update(self, config: Config) -> None:
        """Go on with the sources that `config` names, and begin with those that are new."""
        selectors = [selector(cluster) for cluster in config.clusters]
        await self._engine.update(config)
        self._update_docker(tuple(each for each in selectors if each is not None), config.docker.owner)
        last, self._polled = self._polled, {}
        for cluster in config.clusters:
            said = _said_of(cluster)
            if said is None:
                continue
            known = last.get(cluster.name)
            if known is not None and known[0] == said:
                self._polled[cluster.name] = last.pop(cluster.name)
                continue
            source = self._new_polled(cluster.name, said)
            self._polled[cluster.name] = said, source
            source.start()
        for _, source in last.values():
            source.stop()

    async def first_answers(self) -> None:
        """Wait until each cluster's source has been asked once, unless something is known of that cluster."""
        waited = [report.answered() for report in self._reports() if not self._is_known(report)]
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER_S):
                await asyncio.gather(*waited)

    def stop(self) -> None:
        """Ask nobody any more. Idempotent."""
        for _, source in self._polled.values():
            source.stop()
        self._polled = {}
        if self._docker is not None:
            self._docker.stop()
        self._docker = None

    def show(self) -> None:
        """Write what changes without being told: whether the engine is left alone."""
        self._board.control_row[C_ENGINE_FAILING] = self._engine.is_failing

    def documents(self) -> list[dict[str, Any]]:
        """Each source, as the admin API has it."""
        return [report.document() for report in self._reports()]

    def _reports(self) -> Iterator[SourceReport]:
        if self._docker is not None:
            yield self._docker.report
        for _, source in self._polled.values():
            yield source.report

    def _is_known(self, report: SourceReport) -> bool:
        clusters = [report.cluster] if report.cluster else [each.cluster for each in self._selectors]
        return all(self._membership.of(report.kind, each) for each in clusters)

    def _update_docker(self, selectors: tuple[Selector, ...], owner: str) -> None:
        driver, source = self._engine.driver, self._docker
        is_same, self._selectors = selectors == self._selectors, selectors
        clusters = frozenset(each.cluster for each in selectors)
        if source is not None and source.driver is driver:
            if not is_same:
                source.update(clusters)
            return
        if source is not None:
            source.stop()
        self._docker = None
        if driver is not None:
            report = self._new_report(DOCKER, "")
            self._docker = DockerSource(driver, clusters, self._membership, report, self._clock, owner=owner)
            self._docker.start()

    def _new_polled(self, cluster: str, said: _Said) -> PolledSource:
        return PolledSource(
            self._question(cluster, said),
            self._membership,
            self._new_report(said.kind, cluster),
            retry_s=said.section.refresh,
            clock=self._clock,
            rng=self._rng,
        )

    def _question(self, cluster: str, said: _Said) -> Question:
        section = said.section
        if isinstance(section, FileDiscovery):
            return FileQuestion(
                cluster, section, said.dns_refresh_s, self._lookup, clock=self._clock, rng=self._rng
            )
        if section.record == "srv":
            return ServiceQuestion(cluster, section, self._lookup)
        return AddressQuestion(cluster, section, self._lookup)

    def _new_report(self, kind: str, cluster: str) -> SourceReport:
        return SourceReport(kind, cluster, self._board, self._events, self._clock)


def _said_of(cluster: Cluster) -> _Said | None:
    """What is asked again and again for `cluster`; `None` = nothing is."""
    discovery = cluster.discovery
    if discovery is None:
        return None
    if discovery.dns is not None:
        return _Said("dns", discovery.dns, 0.0)
    if discovery.file is not None:
        return _Said("file", discovery.file, cluster.dns.refresh)
    return None
