"""No request is sent twice that must not be, and retries never multiply load beyond the budget."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.failures import EVERY_KIND, FailureKind, RetryOn
from proxy.policy.retry import FailedTry, RetriedRequest, RetryBudget, RetryParams, is_idempotent, why_not

requests = st.builds(
    RetriedRequest, st.sampled_from([b"GET", b"PUT", b"POST", b"PATCH", b"M"]), st.booleans(), st.booleans()
)
tries = st.builds(
    FailedTry,
    st.sampled_from(FailureKind),
    st.sampled_from([0, 429, 500, 503]),
    st.booleans(),
    st.booleans(),
)
# Whatever may be retried is.
ALL = RetryParams(on=RetryOn(EVERY_KIND, frozenset(range(400, 600))), per_try_timeout_s=1)


@given(requests, tries, st.integers(1, 5))
def test_only_what_is_safe_is_sent_again(request, failed, number):
    if why_not(ALL, request, failed, tries=number) is None:
        assert not failed.is_answer_begun and request.is_body_kept and number <= 3
        assert not failed.is_sent or is_idempotent(request.method) or request.has_idempotency_key


@given(st.lists(st.tuples(st.sampled_from(["request", "retry", "end"]), st.integers(0, 2)), max_size=200))
def test_the_budget_holds_over_every_window(steps):
    """At any time, retries in flight and those of the last window are within their shares."""
    params = RetryParams(budget_percent=50, min_retries=1, window_s=10)
    budget = RetryBudget(params)
    now, requests_at, retries_at = 0, [], []
    for what, pause in steps:
        now += pause
        if what == "request":
            budget.on_request()
            budget.fold(now)
            requests_at.append(now)
        elif what == "end" and budget.in_flight:
            budget.give_back()
        elif what == "retry" and budget.try_take(len(requests_at), now=now):
            retries_at.append(now)
            assert budget.in_flight <= max(0.5 * len(requests_at), 1) + 1
            begun = sum(at > now - 10 for at in requests_at)
            assert sum(at > now - 10 for at in retries_at) <= 0.5 * begun + 10 + 1
