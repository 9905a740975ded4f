"""In no stretch of time does more pass than the rate and one burst."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.rate_limit import spend


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 3)), max_size=60),
    st.integers(1, 200),
    st.integers(3, 10),
)
def test_rate(steps, interval, burst):
    full_at, now, passed = 0, 0, []
    for pause, cost in steps:
        now += pause
        full_at, wait = spend(full_at, now, interval, burst, cost)
        if not wait:
            passed.append((now, cost))
        else:
            # Neither too early nor too late: what it says is when it would pass.
            assert spend(full_at, now + wait, interval, burst, cost)[1] == 0
            assert spend(full_at, now + wait - 1, interval, burst, cost)[1] == 1
    for first, (start, _) in enumerate(passed):
        for last in range(first, len(passed)):
            spent = sum(cost for _, cost in passed[first : last + 1])
            assert spent <= burst + (passed[last][0] - start) / interval
