"""What is tried again, when, and how often. Times are seconds."""

from random import Random
from types import SimpleNamespace

import pytest

from proxy.policy.failures import FailureKind, RetryOn
from proxy.policy.retry import (
    FailedTry,
    NoRetry,
    RetriedRequest,
    RetryBudget,
    RetryParams,
    backoff_s,
    others,
    why_not,
)

GET, POST = RetriedRequest(b"GET"), RetriedRequest(b"POST")
POST_WITH_KEY = RetriedRequest(b"POST", has_idempotency_key=True)
NOT_KEPT = RetriedRequest(b"PUT", is_body_kept=False)
REFUSED = FailedTry(FailureKind.CONNECT, is_sent=False)
RESET = FailedTry(FailureKind.RESET)
SLOW = FailedTry(FailureKind.TIMEOUT)
UNAVAILABLE = FailedTry(FailureKind.STATUS, status=503)


@pytest.mark.parametrize(
    ("request_", "failed", "reason"),
    [
        (GET, REFUSED, None),
        (POST, REFUSED, None),  # not sent
        (GET, RESET, None),
        (POST, RESET, NoRetry.NOT_SAFE),
        (POST_WITH_KEY, RESET, None),
        (RetriedRequest(b"PATCH"), RESET, NoRetry.NOT_SAFE),
        (RetriedRequest(b"get"), RESET, NoRetry.NOT_SAFE),  # methods are case-sensitive
        (RetriedRequest(b"DELETE"), RESET, None),
        (POST, FailedTry(FailureKind.CLOSED, is_sent=False), None),
        (GET, UNAVAILABLE, None),
        (POST, UNAVAILABLE, NoRetry.NOT_SAFE),
        (POST_WITH_KEY, UNAVAILABLE, None),
        (GET, FailedTry(FailureKind.STATUS, status=500), NoRetry.NOT_RETRIED),
        (GET, FailedTry(FailureKind.RATE_LIMITED, status=429), NoRetry.NOT_RETRIED),
        (GET, SLOW, NoRetry.NOT_RETRIED),
        (GET, FailedTry(FailureKind.BAD_REPLY), NoRetry.NOT_RETRIED),
        (GET, FailedTry(FailureKind.RESET, is_answer_begun=True), NoRetry.ANSWER_BEGUN),
        (NOT_KEPT, RESET, NoRetry.BODY_NOT_KEPT),
        (NOT_KEPT, UNAVAILABLE, NoRetry.BODY_NOT_KEPT),
    ],
)
def test_what_is_retried(request_, failed, reason):
    assert why_not(RetryParams(), request_, failed, tries=1) is reason


def test_how_often():
    assert [why_not(RetryParams(), GET, RESET, tries=tries) for tries in (1, 2, 3, 4)] == [
        None, None, None, NoRetry.EXHAUSTED,
    ]  # fmt: skip
    assert why_not(RetryParams(max_retries=0), GET, REFUSED, tries=1) is NoRetry.OFF
    assert why_not(RetryParams(), GET, RESET, tries=1, remaining_s=0) is NoRetry.NO_TIME


def test_a_limit_per_try_is_there_to_ask_another():
    assert why_not(RetryParams(per_try_timeout_s=1), GET, SLOW, tries=1) is None
    assert why_not(RetryParams(per_try_timeout_s=1), POST, SLOW, tries=1) is NoRetry.NOT_SAFE
    on_timeouts = RetryParams(on=RetryOn(frozenset({FailureKind.TIMEOUT}), frozenset({500})))
    assert why_not(on_timeouts, GET, SLOW, tries=1) is None
    assert why_not(on_timeouts, GET, UNAVAILABLE, tries=1) is NoRetry.NOT_RETRIED
    assert why_not(on_timeouts, GET, FailedTry(FailureKind.STATUS, status=500), tries=1) is None


def test_a_trial_that_failed_is_no_matter_of_the_policy():
    off = RetryParams(max_retries=0, on=RetryOn(frozenset(), frozenset()))

    def reason(request_, **more):
        trial = FailedTry(FailureKind.STATUS, status=500, is_trial=True, **more)
        return why_not(off, request_, trial, tries=1)

    assert reason(GET) is None
    assert why_not(RetryParams(), GET, FailedTry(FailureKind.TIMEOUT, is_trial=True), tries=9) is None
    assert reason(POST) is NoRetry.NOT_SAFE
    assert reason(POST, is_sent=False) is None
    assert reason(NOT_KEPT) is NoRetry.BODY_NOT_KEPT
    assert reason(GET, is_answer_begun=True) is NoRetry.ANSWER_BEGUN


def test_reasons_are_words_for_people():
    assert len({reason.value for reason in NoRetry}) == len(NoRetry)
    assert NoRetry.BODY_NOT_KEPT.value == "the body is larger than what is kept to be sent again"


@pytest.mark.parametrize(
    ("retry", "longest_s"), [(1, 0.025), (2, 0.075), (3, 0.175), (4, 0.25), (5000, 0.25)]
)
def test_backoff_is_uniform_from_0(retry, longest_s):
    """1 000 draws: the mean of uniform ones is within 8 % of the middle with odds of 1e-5 against."""
    rng = Random(1)
    pauses = [backoff_s(RetryParams(), retry, rng) for _ in range(1000)]
    assert 0 <= min(pauses) and max(pauses) < longest_s
    assert sum(pauses) / 1000 == pytest.approx(longest_s / 2, rel=0.08)


def test_never_the_endpoint_that_failed():
    a, b, c = (SimpleNamespace(id=name) for name in "abc")
    assert others([a, b, c], ("a", "c")) == [b]
    assert others([a], {"a"}) == []


def budget(requests, **params):
    made = RetryBudget(RetryParams(**params))
    for _ in range(requests):
        made.on_request()
    made.fold(0)
    return made


def taken(retries, active, now):
    count = 0
    while retries.try_take(active, now=now):
        count += 1
    return count


@pytest.mark.parametrize(("active", "expected"), [(0, 3), (15, 3), (16, 4), (100, 20), (1000, 200)])
def test_share_of_those_in_flight(active, expected):
    assert taken(budget(10_000), active, 0) == expected


def test_what_is_given_back_is_there_again():
    retries = budget(10_000)
    assert taken(retries, 100, 0) == 20
    retries.give_back()
    assert repr(retries) == "RetryBudget(19 in flight)"
    assert taken(retries, 100, 0) == 1


def test_share_of_those_begun():
    """Retries that fail at once are never many in flight, and still no more than a fifth of the requests and 3/s."""
    retries = budget(1000)
    begun = 0
    while retries.try_take(10, now=1):
        retries.give_back()
        begun += 1
    assert begun == 200 + 30
    assert not retries.try_take(10, now=9)
    assert retries.try_take(10, now=11)  # the window has passed


def test_room_that_will_be_there():
    """With too many in flight one of them may end; what was begun in the window stays begun."""
    retries = budget(100)
    assert taken(retries, 10, 0) == 3
    assert retries.has_credit(0)
    while retries.try_take(1000, now=0):
        pass
    assert retries.in_flight == 20 + 30 and not retries.has_credit(0)
    assert retries.has_credit(10)


def test_off():
    assert taken(budget(1000, budget_percent=0, min_retries=0), 1000, 0) == 0


def test_giving_back_twice_is_our_fault():
    with pytest.raises(AssertionError):
        budget(0).give_back()
