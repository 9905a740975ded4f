"""Rolling sums agree with a list of all samples."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.window import RollingCount


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, 60),
)
def test_agrees_with_a_list(steps, bucket_s, buckets, later):
    """What counts is what falls into the newest `buckets` whole buckets."""
    count = RollingCount(bucket_s * buckets, buckets)
    now, samples = 0, []
    for value, pause in steps:
        now += pause
        count.add(value, now)
        samples.append((value, now))
    now += later
    oldest = now // bucket_s - buckets + 1
    assert count.total_at(now) == sum(value for value, at in samples if at // bucket_s >= oldest)
