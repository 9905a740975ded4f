"""Endpoints of a cluster as a worker knows them, and leases: picks that are not finished yet.

A lease is released exactly once, whatever became of the request. Nothing that is counted in the scoreboard is stored
there from a count of our own: an endpoint that leaves the snapshot and comes back is another object with the same row,
and both have requests in flight for a while.
"""

from typing import Protocol

from proxy.model import Outcome
from proxy.permits import EndpointLocks
from proxy.policy.breaker import LocalCircuit
from proxy.policy.data_reply import DataReply
from proxy.policy.ewma import PeakEwma
from proxy.policy.failures import FailureKind
from proxy.policy.outlook import Why
from proxy.policy.response_time import UNKNOWN_S, ResponseTimes
from proxy.policy.site import Placement, Site
from proxy.scoreboard import (
    BY_SOURCE,
    E_CANCELLED,
    E_FAILURE_KINDS,
    E_FAILURES,
    E_IN_FLIGHT,
    X_CIRCUIT,
    X_DRAINED,
    Row,
)
from proxy.snapshot import EndpointSpec


class Home(Protocol):
    """The cluster of an endpoint, which makes of results and of what is free again what there is to make of it."""

    sees_data: bool
    """Its balancer goes by the data that requests need."""

    def on_result(
        self, endpoint: "Endpoint", generation: int, kind: FailureKind | None, wait_s: int = 0, *, now: float
    ) -> None:
        """A request that was picked under `generation` of the circuit passed (`None`) or failed; then the endpoint may
        have asked to be left alone for `wait_s`."""
        ...

    def end_trial(self, endpoint: "Endpoint", hold: "Hold") -> None:
        """The trial passed; others may begin."""
        ...

    def let_go(
        self, endpoint: "Endpoint", hold: "Hold", generation: int, kind: FailureKind | None, *, now: float
    ) -> None:
        """A request that held locks, and was picked under `generation` of the circuit, has ended; `kind` is what it
        says against the endpoint."""
        ...


class Placer(Protocol):
    """Who sent a request where its data are, and learns what became of it."""

    def on_answer(
        self,
        endpoint: "Endpoint",
        placement: Placement,
        status: int,
        took_s: float,
        said: DataReply | None,
        *,
        now: float,
    ) -> None:
        """The endpoint answered, and `said` what it said of data, `took_s` after it had the whole request (0 = it has
        not yet)."""
        ...

    def on_end(self, endpoint: "Endpoint", placement: Placement, is_failed: bool, *, now: float) -> None:
        """The exchange is over; `is_failed` = by the endpoint's fault."""
        ...


NOWHERE = Site()
"""The site of endpoints in clusters where data do not count."""


class Endpoint:
    """One address of a cluster with its load; what a picker sees as a candidate."""

    __slots__ = (
        "elsewhere", "generation", "home", "id", "in_flight", "is_removed", "is_usable", "local", "locks",
        "max_connections", "response", "response_s", "row", "site", "spec", "standing", "weight",
    )  # fmt: skip

    def __init__(
        self, spec: EndpointSpec, home: Home, *, row: Row, standing: Row, locks: EndpointLocks
    ) -> None:
        self.id = spec.id
        self.home = home
        self.row = row
        self.standing = standing
        """What control says of it."""
        self.locks = locks
        self.in_flight = 0
        """Requests it works on, all workers' together: our leases, and `elsewhere`."""
        self.elsewhere = 0
        """Those of the other workers, as last read."""
        self.generation = 0
        """Of its circuit, as last read."""
        self.local: LocalCircuit | None = None
        """Our own failures in a row; `None` = there are none."""
        self.is_usable = False
        """Gets requests, as of the last look."""
        self.response = PeakEwma()
        """Times to its answers, in clusters that compare them."""
        self.response_s = UNKNOWN_S
        """Expected seconds to its next answer, as last projected."""
        self.site = NOWHERE
        """What is known of its data and pace."""
        self.is_removed = False
        """No longer in the snapshot: what is in flight finishes, connections are not kept."""
        self.update(spec)

    def __repr__(self) -> str:
        return f"Endpoint({self.id!r}, in_flight={self.in_flight}{', removed' if self.is_removed else ''})"

    @property
    def has_room(self) -> bool:
        """It has not as many requests in flight as it may."""
        return not self.max_connections or self.in_flight < self.max_connections

    @property
    def is_leaving(self) -> bool:
        """Who found it says that it ends."""
        return bool(self.standing[X_DRAINED] & BY_SOURCE)

    def update(self, spec: EndpointSpec) -> None:
        """Take over what a new snapshot says of this endpoint."""
        self.spec = spec
        self.weight = spec.weight
        self.max_connections = spec.max_connections
        self.is_removed = False


class Hold:
    """The locks of one request."""

    __slots__ = ("is_cut", "permit", "since", "trial")

    def __init__(self, permit: int, trial: int, since: float) -> None:
        self.permit = permit
        """Number of its permit; -1 = it has none."""
        self.trial = trial
        """Number of its trial; -1 = it is none."""
        self.since = since
        self.is_cut = False
        """It ended because the client left."""

    def __repr__(self) -> str:
        return f"Hold(permit={self.permit}, trial={self.trial})"


class Lease:
    """A pick that is not finished yet."""

    __slots__ = (
        "_generation", "_has_passed", "_hold", "data", "endpoint", "is_released", "is_watched", "owed_since",
        "placement", "placer", "retry_after_s", "times", "wants_data", "why",
    )  # fmt: skip

    def __init__(
        self, endpoint: Endpoint, times: ResponseTimes | None, hold: Hold | None, now: float
    ) -> None:
        self.endpoint = endpoint
        self.times = times
        """Who learns how long answers take; `None` = nobody."""
        self._hold = hold
        self._generation = endpoint.generation
        self._has_passed = False
        """It was a trial, and that was told already."""
        self.is_released = False
        self.is_watched = times is not None or self.is_trial
        """Whether `on_answer` is to be called."""
        self.wants_data = endpoint.home.sees_data
        """Whether `on_data` is to be called, before `on_answer`."""
        self.data: DataReply | None = None
        """What the answer said of data; `None` = nothing, or there is none yet."""
        self.placement: Placement | None = None
        """What is expected of it; `None` = data do not count."""
        self.placer: Placer | None = None
        self.retry_after_s = 0
        """Seconds that the endpoint asks to be left alone."""
        self.why: Why | None = None
        """Why it went there, if not by the balancer's choice among several."""
        self.owed_since = now
        """Since when the endpoint owes an answer: from the pick on, or from the end of a request that takes its time; 0
        = that has not ended, or there is an answer."""
        endpoint.in_flight += 1
        endpoint.row[E_IN_FLIGHT] += 1

    @property
    def is_trial(self) -> bool:
        """Whether the request shows if an open circuit may close."""
        return self._hold is not None and self._hold.trial >= 0

    def on_data(self, said: DataReply, *, now: float) -> None:
        """The head of the final answer says something of data."""
        self.data = said

    def on_answer(self, status: int, kind: FailureKind | None, *, now: float) -> None:
        """The head of the final answer, or a 101, is here; `kind` is what it says against the endpoint. A trial that is
        answered has passed: what follows may take hours."""
        took_s = now - self.owed_since if self.owed_since else 0.0
        if self.placement is not None and self.placer is not None:
            self.placer.on_answer(self.endpoint, self.placement, status, took_s, self.data, now=now)
        if self.times is not None and self.owed_since:
            self.times.on_answer(self.endpoint, took_s, status, now=now)
        self.owed_since = 0.0
        if self._hold is not None and self.is_trial and kind is None:
            self._has_passed = True
            self.endpoint.home.on_result(self.endpoint, self._generation, None, now=now)
            self.endpoint.home.end_trial(self.endpoint, self._hold)

    def release(self, outcome: Outcome, kind: FailureKind | None, *, now: float) -> None:
        """Give the pick back, exactly once.

        `kind` is what the exchange says against the endpoint; `None` = nothing, and a complete one then speaks for it.
        A client that left counts as neither success nor failure.
        """
        assert not self.is_released
        self.is_released = True
        endpoint = self.endpoint
        endpoint.in_flight -= 1
        endpoint.row[E_IN_FLIGHT] -= 1
        if outcome is not _OK or kind is not None:
            self._count(outcome, kind, now)
        elif (endpoint.local is not None or endpoint.standing[X_CIRCUIT]) and not self._has_passed:
            endpoint.home.on_result(endpoint, self._generation, None, now=now)
        if self.placement is not None and self.placer is not None:
            is_failed = outcome is not _GONE and (kind is not None or outcome is _FAILED)
            self.placer.on_end(endpoint, self.placement, is_failed, now=now)
        if self.times is not None:
            waited = now - self.owed_since if self.owed_since else 0.0
            self.times.on_end(endpoint, waited, outcome, now=now)
        if self._hold is not None:
            said = None if outcome is _GONE else kind
            self._hold.is_cut = outcome is _GONE
            endpoint.home.let_go(endpoint, self._hold, self._generation, said, now=now)

    def _count(self, outcome: Outcome, kind: FailureKind | None, now: float) -> None:
        endpoint, row = self.endpoint, self.endpoint.row
        if outcome is _GONE:
            row[E_CANCELLED] += 1
            return
        if outcome is _FAILED:
            row[E_FAILURES] += 1
        if kind is not None:
            row[_KIND_WORDS[kind]] += 1
            endpoint.home.on_result(endpoint, self._generation, kind, self.retry_after_s, now=now)


_OK = Outcome.OK
_FAILED = Outcome.UPSTREAM_FAILED
_GONE = Outcome.CLIENT_GONE
_KIND_WORDS = {kind: E_FAILURE_KINDS + index for index, kind in enumerate(FailureKind)}
