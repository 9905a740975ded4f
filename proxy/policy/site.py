"""What locality knows of one endpoint, and of a request that was sent there.

A request gets its slot when those before it have ended: the endpoint works on `slots` at once, in their order. Counting
how many have ended since it was sent tells when that was, also under a load at which everybody waits; so the time
with a slot, from which service and transfer are learned, is known apart from the wait.
"""

from collections import deque
from collections.abc import Sequence
from math import exp
from typing import NamedTuple, Protocol

from proxy.policy.pace import LEAST_S, Pace
from proxy.policy.residency import DataKey, Holdings

# Dask's start value, bytes per second.
FIRST_BANDWIDTH = 100e6
# Weight of a failure, and of a success, in the odds of the next; with time they are half forgotten after 7 s.
FAILURE_WEIGHT = 0.3
SUCCESS_WEIGHT = 0.1
FAILURE_DECAY_S = 10.0
LEAST_SUCCESS = 0.05
# Transfers in a row that deny what an endpoint says of its speed, from which on it is not believed.
MOST_DOUBTS = 8
# Odds of failure that are as good as none.
FORGIVEN = 0.001


class Terms(NamedTuple):
    """What a request costs at an endpoint, in seconds."""

    wait_s: float
    """Until it has a slot."""
    transfer_s: float
    """Until the data are there."""
    crowding_s: float
    """What those lose who wait for the slot that the transfer takes up."""
    eviction_s: float
    """What others lose whose data must leave."""
    service_s: float
    """The work itself."""


class Site:
    """One endpoint."""

    __slots__ = (
        "_done", "_doubts", "_failing", "_failing_at", "_line", "_open", "_others_ended", "_others_work_s", "classes",
        "distance_s", "holdings", "is_speed_given", "is_speed_said", "learn_at", "pace", "s_per_byte", "tags",
        "transfers", "work_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.holdings = Holdings()
        self.pace = Pace()
        self.work_s = 0.0
        """Predicted seconds of the requests in flight there, all workers' together."""
        self.s_per_byte = 1.0 / FIRST_BANDWIDTH
        """How fast it gets data that it does not hold."""
        self.is_speed_given = False
        self.is_speed_said = False
        """It was given by the endpoint itself."""
        self._doubts = 0
        self.learn_at = 0.0
        """Until then (monotonic) answers that are as expected teach nothing new."""
        self.transfers = 0
        """Those that its speed was learned from."""
        self.classes: dict[bytes, float] = {}
        """How many times longer than requests without one each processing type takes there."""
        self.distance_s = 0.0
        """Of its zone."""
        self.tags: frozenset[str] = frozenset()
        self._failing = 0.0
        self._failing_at = 0.0
        self._done = 0
        self._open = 0
        self._line: deque[Placement] = deque()
        self._others_work_s = 0.0
        self._others_ended = 0

    def __repr__(self) -> str:
        return f"Site({self.pace}, {self.holdings}, {1.0 / self.s_per_byte:.0f} bytes/s, {self.work_s:.6f} s)"

    def update(self, *, slots: int, cache_bytes: float, bandwidth_bytes_per_s: float) -> None:
        """Take over what somebody says beforehand; 0 = to be learned."""
        self.pace.limit(slots)
        self.holdings.limit(cache_bytes)
        if bandwidth_bytes_per_s:
            self.s_per_byte = 1.0 / bandwidth_bytes_per_s
        self.is_speed_given = bandwidth_bytes_per_s > 0
        self.is_speed_said = False

    def hear_speed(self, bandwidth_bytes_per_s: float) -> None:
        """The endpoint itself says, with a number > 0, how fast it gets data. That counts until it says something else,
        or transfers deny it."""
        if self._doubts < MOST_DOUBTS:
            self.s_per_byte = 1.0 / bandwidth_bytes_per_s
            self.is_speed_given = self.is_speed_said = True

    def is_doubtful(self, share: float, most: float, is_sized: bool) -> bool:
        """Whether a transfer that took `share` times as long as it should denies the speed that the endpoint says; what
        is more than `most` times off does. After `MOST_DOUBTS` in a row, not counting those of which nobody knows the
        size (`is_sized` = somebody does), it is learned whatever the endpoint says."""
        if 1.0 / most <= share <= most:
            self._doubts = 0 if is_sized else self._doubts
            return False
        self._doubts += 1
        if self._doubts >= MOST_DOUBTS:
            self.s_per_byte = 1.0 / FIRST_BANDWIDTH
            self.transfers = 0
            self.is_speed_given = self.is_speed_said = False
        return True

    def service_s(self, work_class: bytes) -> float:
        """Seconds of work for a request of `work_class`."""
        return self.pace.service_s * self.classes.get(work_class, 1.0) if work_class else self.pace.service_s

    # ------------------------------------------------------------------ requests there

    def on_sent(self, placement: "Placement", *, now: float) -> None:
        """A request was sent there, after `placement.in_flight` others."""
        self._open += 1
        self.work_s += placement.charge_s
        before = placement.in_flight - self.pace.slots + 1
        if before > 0:
            placement.starts_after = self._done + before
            self._line.append(placement)
        else:
            placement.started_at = now

    def on_ended(self, placement: "Placement", *, now: float) -> None:
        """It ended there, whatever became of it."""
        self._open -= 1
        # What is left of roundings with the last: next to a charge of 2^50 bytes they are no small seconds.
        self.work_s = max(self.work_s - placement.charge_s, 0.0) if self._open else self._others_work_s
        if placement.started_at is None:
            # Before its turn: it was given up, or there are more slots than thought.
            self._line.remove(placement)
        self._done += 1
        if self._line:
            self._begin_next(now)

    def on_others(self, work_s: float, ended: int, *, now: float) -> None:
        """The requests of other workers: predicted seconds of those in flight, and how many have ever ended."""
        self.work_s = max(self.work_s + work_s - self._others_work_s, 0.0)
        self._others_work_s = work_s
        # A worker that is gone takes its count with it.
        self._done += max(ended - self._others_ended, 0)
        self._others_ended = ended
        self._begin_next(now)

    def _begin_next(self, now: float) -> None:
        """Those next in line have the slots of those that have ended."""
        line = self._line
        while line and line[0].starts_after <= self._done:
            line.popleft().started_at = now

    # ------------------------------------------------------------------ failures

    @property
    def is_failing(self) -> bool:
        """Requests failed there lately."""
        return self._failing > 0.0

    def success(self, now: float) -> float:
        """Odds that a request succeeds there, 0.05–1."""
        if not self._failing:
            return 1.0
        failing = self._failing * exp(-max(now - self._failing_at, 0.0) / FAILURE_DECAY_S)
        return max(1.0 - failing, LEAST_SUCCESS)

    def on_outcome(self, is_failed: bool, *, now: float) -> None:
        """A request succeeded or failed there. Time that goes backwards counts as none."""
        if not is_failed and not self._failing:
            return
        failing = 1.0 - self.success(now)
        if is_failed:
            failing += FAILURE_WEIGHT * (1.0 - failing)
        else:
            failing -= SUCCESS_WEIGHT * failing
        self._failing = failing if failing > FORGIVEN else 0.0
        self._failing_at = max(now, self._failing_at)


class Located(Protocol):
    """What is chosen among."""

    @property
    def in_flight(self) -> int:
        """Requests that it works on now, ≥ 0."""
        ...

    @property
    def site(self) -> Site:
        """What is known of it."""
        ...


class Placement:
    """A request that was sent to an endpoint: what was expected, to be held against what comes."""

    __slots__ = (
        "charge_s", "had_left", "in_flight", "is_answered", "is_hit", "is_joining", "is_only", "keys", "missing",
        "penalty_s", "site", "started_at", "starts_after", "success", "terms", "work_class", "work_s",
    )  # fmt: skip

    def __init__(
        self, site: Site, in_flight: int, keys: Sequence[DataKey], work_class: bytes, terms: Terms
    ) -> None:
        self.site = site
        self.in_flight = in_flight
        """Requests that were there before."""
        self.work_s = site.work_s
        """Theirs."""
        self.keys = keys
        self.missing: list[DataKey] = []
        """Those that it did not hold."""
        self.had_left = False
        """It held one of them once."""
        self.is_joining = False
        """One of the others was on its way for another request."""
        self.is_only = False
        """No other endpoint could have it."""
        self.work_class = work_class
        self.terms = terms
        self.charge_s = terms.transfer_s + terms.service_s
        """Seconds for which it will have a slot."""
        self.success = 1.0
        """Odds that it is answered well, 0.05–1."""
        self.penalty_s = 0.0
        """Seconds for the way to it, tags that it lacks, and recent failures."""
        self.is_answered = False
        self.is_hit: bool | None = None
        """It was answered from data that were there, as far as can be told; `None` = no answer, or no data."""
        self.starts_after = 0
        self.started_at: float | None = None
        """When it got its slot (monotonic); `None` = it waits."""

    def __repr__(self) -> str:
        return f"Placement({self.terms}, {len(self.keys)} keys, {len(self.missing)} missing)"

    @property
    def score_s(self) -> float:
        """All that was expected in one, in seconds: what is compared while data count."""
        return sum(self.terms) / self.success + self.penalty_s

    @property
    def has_waited(self) -> bool:
        """All slots were taken when it came."""
        return self.in_flight >= self.site.pace.slots

    def worked_s(self, took_s: float, *, now: float) -> float:
        """Seconds for which it had a slot, if it is answered now, `took_s` after it was sent; > 0."""
        waited_s = self.terms.wait_s if self.started_at is None else took_s - (now - self.started_at)
        return max(took_s - max(waited_s, 0.0), LEAST_S)
