"""In no stretch of time does more pass than the rate and one burst."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.rate_limit import spend


@given(st.lists(st.integers(0, 500), max_size=60), st.integers(1, 200), st.integers(1, 10))
def test_rate(pauses, interval, burst):
    full_at, now, passed = 0, 0, []
    for pause in pauses:
        now += pause
        full_at, wait = spend(full_at, now, interval, burst)
        if not wait:
            passed.append(now)
        else:
            # Neither too early nor too late: what it says is when it would pass.
            assert spend(full_at, now + wait, interval, burst)[1] == 0
            assert spend(full_at, now + wait - 1, interval, burst)[1] == 1
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + (passed[last] - start) / interval
