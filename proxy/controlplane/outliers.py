"""Outlier detection: gives `policy.outlier` what the workers counted, and puts its ejections into effect.

Each cluster that asks for it is looked at once per interval: the words of all workers' rows, less those of the last
look. Failures in a row are seen when their results come, so that nobody waits for the next look.
"""

import asyncio
import random
from collections.abc import Mapping

from proxy.clock import Clock
from proxy.columns import LATENCY_BOUNDS_S
from proxy.config.resilience import outlier_params
from proxy.config.resilience_schema import OutlierDetection
from proxy.controlplane.events import EventLog, EventType, clock_time
from proxy.controlplane.standings import Member, Standings
from proxy.policy.failures import FailureKind
from proxy.policy.outlier import Ejected, OutlierDetector, OutlierParams, Sample, timed_sample
from proxy.scoreboard import (
    E_CANCELLED,
    E_FAILURE_KINDS,
    E_LATENCY,
    E_REQUESTS,
    E_RETRIES,
    X_EJECTED_MS,
    X_EJECTIONS,
    X_STRIKES,
    Scoreboard,
)
from proxy.tasks import spawn

_KINDS = tuple(FailureKind)


class _Watched:
    """A cluster whose endpoints are compared."""

    __slots__ = ("detector", "params", "seen", "task")

    def __init__(self, detector: OutlierDetector, params: OutlierParams) -> None:
        self.detector = detector
        self.params = params
        self.seen: dict[str, list[int]] = {}
        """The words of each endpoint at the last look."""
        self.task: asyncio.Task[None] | None = None


class Outliers:
    """The detectors of all clusters that have outlier detection."""

    def __init__(
        self,
        board: Scoreboard,
        standings: Standings,
        events: EventLog,
        *,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._board = board
        self._standings = standings
        self._events = events
        self._clock = clock
        self._rng = rng
        self._watched: dict[str, _Watched] = {}

    def __repr__(self) -> str:
        return f"Outliers({', '.join(self._watched)})"

    def update(self, sections: Mapping[str, OutlierDetection]) -> None:
        """The endpoints, or what their clusters ask for, have changed; `sections` are by name of the cluster."""
        clusters: dict[str, list[Member]] = {name: [] for name in sections}
        for member in self._standings:
            if member.cluster.name in clusters:
                clusters[member.cluster.name].append(member)
            elif member.is_ejected:
                self._standings.set_ejected(member, False)
        for name in self._watched.keys() - clusters.keys():
            self._stop(self._watched.pop(name))
        for name, members in clusters.items():
            self._update_cluster(name, outlier_params(sections[name]), members)

    def stop(self) -> None:
        """Look no more."""
        for watched in self._watched.values():
            self._stop(watched)
        self._watched = {}

    def on_result(self, member: Member, failed: bool) -> None:
        """A request ended; too many failures in a row are acted upon at once."""
        watched = self._watched.get(member.cluster.name)
        if watched is None:
            return
        if not failed:
            watched.detector.on_success(member.spec.id)
        elif watched.detector.on_failure(member.spec.id):
            self._sweep(member.cluster.name, watched)

    def forgive(self, member: Member) -> None:
        """Something better found an endpoint well: what was counted against it is forgotten."""
        watched = self._watched.get(member.cluster.name)
        if watched is not None:
            watched.detector.forgive(member.spec.id)

    # ------------------------------------------------------------------ a cluster

    def _update_cluster(self, name: str, params: OutlierParams, members: list[Member]) -> None:
        watched = self._watched.get(name)
        if watched is None:
            watched = self._watched[name] = _Watched(OutlierDetector(params, self._rng), params)
        elif watched.params != params:
            watched.detector.change(params)
            self._stop(watched)
            watched.params = params
        watched.detector.update([member.spec.id for member in members])
        known = watched.seen
        watched.seen = {}
        for member in members:
            endpoint_id = member.spec.id
            watched.seen[endpoint_id] = known.get(endpoint_id) or self._words(member)
            if endpoint_id not in known:
                row = member.row
                watched.detector.resume(
                    endpoint_id,
                    strikes=row[X_STRIKES],
                    ends_at=row[X_EJECTED_MS] / 1000.0,
                    is_out=member.is_ejected,
                )
        if watched.task is None:
            watched.task = spawn(self._look(name, watched), name=f"outliers of {name}")

    def _stop(self, watched: _Watched) -> None:
        if watched.task is not None:
            watched.task.cancel()
            watched.task = None

    async def _look(self, name: str, watched: _Watched) -> None:
        while True:
            await self._clock.sleep(watched.params.interval_s)
            now = self._clock.monotonic()
            for member in self._standings.of_cluster(name):
                words = self._words(member)
                before = watched.seen.get(member.spec.id, words)
                watched.seen[member.spec.id] = words
                sample = _sample(member, [max(b - a, 0) for a, b in zip(before, words, strict=True)])
                watched.detector.record(member.spec.id, sample, now=now)
                if not member.cluster.breaker.failure_threshold and sample.requests > sample.failures:
                    # Without a circuit nobody reports successes: any ends a row, as well as can be told.
                    watched.detector.on_success(member.spec.id)
            self._sweep(name, watched)

    def _words(self, member: Member) -> list[int]:
        """What all workers counted of an endpoint, as far as it matters here: `_RETRIES` and so on."""
        total = [0] * _WORDS
        for worker in self._board.used_workers:
            row = self._board.endpoint_row(worker, member.spec.slot)
            words = [
                row[E_RETRIES],
                row[E_CANCELLED],
                *row[E_FAILURE_KINDS:E_LATENCY],
                *row[E_LATENCY:E_REQUESTS],
            ]
            total = [a + b for a, b in zip(total, words, strict=True)]
        return total

    def _sweep(self, name: str, watched: _Watched) -> None:
        members = {member.spec.id: member for member in self._standings.of_cluster(name)}
        usable = {one for one, member in members.items() if member.may_be_ejected}
        now = self._clock.monotonic()
        for change in watched.detector.sweep(usable, now=now):
            member = members[change.endpoint_id]
            if isinstance(change, Ejected):
                text = f"{change.reason}; until {clock_time(self._clock, change.until)}"
                member.reasons["ejection"] = text
                member.row[X_EJECTIONS] += 1
                member.row[X_STRIKES] = change.strikes
                member.row[X_EJECTED_MS] = int(change.until * 1000)
                self._standings.set_ejected(member, True)
                self._events.tell(EventType.EJECTED, member.spec.id, text)
            else:
                member.row[X_EJECTED_MS] = int(now * 1000)
                self._standings.set_ejected(member, False)
                self._events.tell(EventType.RETURNED, member.spec.id, "its ejection is over")


# What `_words` takes of a row, and where it is there.
_RETRIES, _CANCELLED, _FAILURES = 0, 1, 2
_LATENCY = _FAILURES + (E_LATENCY - E_FAILURE_KINDS)
_WORDS = _LATENCY + (E_REQUESTS - E_LATENCY)


def _sample(member: Member, words: list[int]) -> Sample:
    """What an endpoint did between two looks.

    An exchange is counted once, at the endpoint that was tried last, however it ended; each try before it at the
    endpoint it failed at, as a retry.
    """
    counted = member.cluster.breaker.failures
    failures = sum(words[_FAILURES + index] for index, kind in enumerate(_KINDS) if kind in counted)
    times = words[_LATENCY:]
    requests = max(sum(times) + words[_RETRIES] - words[_CANCELLED], failures)
    return timed_sample(requests, failures, LATENCY_BOUNDS_S, times)
