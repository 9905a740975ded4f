"""Whether a request that failed is tried again, on another endpoint, and when. Pure.

A request may be sent twice only if that does no harm: nothing of it was sent, its method is idempotent (RFC 9110
9.2.2), or the client said so with an Idempotency-Key (draft-ietf-httpapi-idempotency-key-header). Everything else is
answered with the failure: two orders are worse than an error.

Retries multiply load just when there is too little capacity, so there is a budget. Two bounds, because each alone has
a hole: retries in flight are few beside requests in flight (Envoy's retry budget), which still lets through thousands a
second when each fails within a millisecond; and retries begun are few beside requests begun over a window (Finagle's
`RetryBudget`), which still lets them all come in one burst.

Whoever retries keeps the ids of the endpoints that failed; none of them is picked again (users of other proxies have
asked for that since 2018: a container that is gone eats all retries).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from math import inf
from random import Random
from typing import Protocol, TypeVar

from proxy.policy.failures import FailureKind, RetryOn
from proxy.policy.window import RollingCount


@dataclass(frozen=True, slots=True)
class RetryParams:
    """What is tried again, how often and how soon."""

    max_retries: int = 3
    """Further endpoints that are tried for one request. 0 = none."""
    on: RetryOn = RetryOn()
    """After which failures."""
    budget_percent: float = 20.0
    """Retries as a percentage of requests, both of those in flight and of those begun in the last `window_s`. When
    everything fails the endpoints see so much more load and no more; 100 doubles it."""
    min_retries: int = 3
    """Retries that may be in flight, and begun per second, however few requests there are. 0 = with little traffic
    nothing is retried. Counted by each worker for itself."""
    window_s: float = 10.0
    """Seconds over which requests and retries are compared, above 0."""
    per_try_timeout_s: float = 0.0
    """Seconds that one endpoint has to answer before another is asked; 0 = as long as the cluster's own timeout, which
    is then not retried unless `on` names `timeout`. Of no concern to a try that no other can follow. One below the time
    that good answers take turns slow endpoints into failing ones and doubles the load."""
    backoff_s: float = 0.025
    """Scale of the pause before a retry: the first is up to this long. 0 = at once."""
    max_backoff_s: float = 0.25
    """Longest pause; also how long one that failed without an answer waits for room in the budget."""
    replay_bytes: int = 64 * 1024
    """Request bodies up to this size are kept until the answer begins, to be sent again; requests with larger ones are
    not retried once some of it was sent. Memory per request in flight."""


_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


def is_idempotent(method: bytes) -> bool:
    """Whether doing it twice is doing it once (RFC 9110 9.2.2). Methods are case-sensitive."""
    return method in _IDEMPOTENT


class NoRetry(Enum):
    """Why a request is not tried again; the value is for the log."""

    OFF = "retries are off"
    ANSWER_BEGUN = "the answer had begun"
    NOT_RETRIED = "this failure is not retried"
    NOT_SAFE = "the request was sent, is not idempotent and has no Idempotency-Key"
    BODY_NOT_KEPT = "the body is larger than what is kept to be sent again"
    EXHAUSTED = "it was tried as often as allowed"
    NO_TIME = "there is no time left"
    NO_OTHER_ENDPOINT = "every other endpoint failed it or cannot take it"
    BUDGET = "the retry budget is used up"


@dataclass(frozen=True, slots=True)
class FailedTry:
    """One attempt that failed."""

    kind: FailureKind
    status: int = 0
    """Of the answer; 0 = there was none."""
    is_sent: bool = True
    """Whether any byte of the request was written to a connection that the endpoint may have read."""
    is_answer_begun: bool = False
    """Whether the client was given any byte of the answer."""
    is_trial: bool = False
    """Whether it was to show if an open circuit may close. That was for our sake, so the request goes on whatever the
    policy says of others: after every failure, also when `max_retries` is 0, and it counts as none of them."""


@dataclass(frozen=True, slots=True)
class RetriedRequest:
    """What of a request decides whether it may be sent again."""

    method: bytes
    has_idempotency_key: bool = False
    is_body_kept: bool = True
    """Whether all that came of its body is still here; true without a body."""


def why_not(
    params: RetryParams, request: RetriedRequest, failed: FailedTry, *, tries: int, remaining_s: float = inf
) -> NoRetry | None:
    """Why the request is not tried again; `None` = it may be, if the budget has room and another endpoint takes it.

    `tries` is how many endpoints were asked so far, trials not counted; `remaining_s` what is left until the request's
    own deadline.
    The reason is the first that holds, in the order of `NoRetry`.
    """
    if params.max_retries <= 0 and not failed.is_trial:
        return NoRetry.OFF
    if failed.is_answer_begun:
        return NoRetry.ANSWER_BEGUN
    if not failed.is_trial and not _is_retried(params, failed):
        return NoRetry.NOT_RETRIED
    if failed.is_sent and not (is_idempotent(request.method) or request.has_idempotency_key):
        return NoRetry.NOT_SAFE
    if not request.is_body_kept:
        return NoRetry.BODY_NOT_KEPT
    if tries > params.max_retries and not failed.is_trial:
        return NoRetry.EXHAUSTED
    if remaining_s <= 0.0:
        return NoRetry.NO_TIME
    return None


def _is_retried(params: RetryParams, failed: FailedTry) -> bool:
    if failed.status:
        return failed.status in params.on.statuses
    if failed.kind is FailureKind.TIMEOUT and params.per_try_timeout_s:
        return True
    return failed.kind in params.on.kinds


def backoff_s(params: RetryParams, retry: int, rng: Random) -> float:
    """Seconds to wait before retry number `retry` (from 1): uniform from 0 to `backoff_s` · (2^retry - 1), capped.

    With 25 and 250 ms: up to 25, 75, 175, 250 ms. Source: Envoy's router; "full jitter" in Brooker, "Exponential
    Backoff And Jitter" (2015): who failed together comes back spread out, with less work in all than other schemes.
    """
    longest_s = min(params.backoff_s * (2.0 ** min(retry, 64) - 1.0), params.max_backoff_s)
    return longest_s * rng.random()


class HasId(Protocol):
    """What can be left out: a candidate of a pick."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)


def others(candidates: Iterable[T], failed: Collection[str]) -> list[T]:
    """The candidates that have not failed this request; `failed` are the ids of those that have."""
    return [candidate for candidate in candidates if candidate.id not in failed]


class RetryBudget:
    """How many retries one cluster's requests may have, in one worker.

    A retry starts when fewer than max(`budget_percent` of `active`, `min_retries`) are in flight, and fewer than
    `budget_percent` of the requests plus `min_retries` a second began within the window. With the defaults and 500
    requests/s that all fail: 100 of 500 in flight at most, and no more than (1000 + 30) in ten seconds.
    """

    __slots__ = ("_fresh", "_params", "_requests", "_retries", "in_flight")

    def __init__(self, params: RetryParams) -> None:
        self._params = params
        self._requests = RollingCount(params.window_s)
        self._retries = RollingCount(params.window_s)
        self._fresh = 0
        """Requests that are not in the window yet."""
        self.in_flight = 0
        """Retries that were taken and not given back."""

    def __repr__(self) -> str:
        return f"RetryBudget({self.in_flight} in flight)"

    def update(self, params: RetryParams) -> None:
        """Go on with other parameters; what was counted stays, but for a window of another length."""
        if params.window_s != self._params.window_s:
            self._requests, self._retries = RollingCount(params.window_s), RollingCount(params.window_s)
        self._params = params

    def on_request(self) -> None:
        """A request began; its retries are not counted here."""
        self._fresh += 1

    def fold(self, now: float) -> None:
        """Put the requests that began since the last call into the window; call it at least every second or so. They
        are counted by themselves first, because a window takes a microsecond for each."""
        if self._fresh:
            self._requests.add(self._fresh, now)
            self._fresh = 0

    def has_credit(self, now: float) -> bool:
        """Whether there is room for a retry, or will be when one ends that is in flight."""
        self.fold(now)
        params = self._params
        allowed = params.budget_percent / 100.0 * self._requests.total_at(now)
        return self._retries.total_at(now) < allowed + params.min_retries * params.window_s

    def try_take(self, active: int, *, now: float) -> bool:
        """Begin a retry if there is room; `active` are the cluster's requests in flight, retries included.

        True obliges to `give_back` once, when the retry is over, whatever became of it.
        """
        params = self._params
        share = params.budget_percent / 100.0
        if self.in_flight >= max(share * active, params.min_retries) or not self.has_credit(now):
            return False
        self.in_flight += 1
        self._retries.add(1, now)
        return True

    def give_back(self) -> None:
        """A retry is over."""
        assert self.in_flight > 0
        self.in_flight -= 1
