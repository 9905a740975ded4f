"""Ejection keeps its limits whatever happens, and nobody is left out for ever."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.outlier import Ejected, OutlierDetector, OutlierParams, Sample

steps = st.lists(
    st.tuples(
        st.sampled_from(["fail", "succeed", "sample", "sweep", "members", "forgive"]),
        st.integers(0, 5),
        st.integers(0, 40),
        st.integers(0, 63),
    ),
    max_size=80,
)


@given(steps, st.sampled_from([0, 10, 34, 50, 100]), st.integers(0, 9))
def test_limits(steps, percent, seed):
    params = OutlierParams(max_ejected_percent=percent, consecutive_failures=2, base_ejection_s=10)
    detector = OutlierDetector(params, Random(seed))
    members, now = "abcdef", 0
    detector.update(members)
    for what, number, amount, mask in steps:
        one = "abcdef"[number]
        now += number
        if what == "fail":
            detector.on_failure(one)
        elif what == "succeed":
            detector.on_success(one)
        elif what == "forgive":
            detector.forgive(one)
        elif what == "sample":
            detector.record(
                one, Sample(amount, amount * (mask & 1), amount, -amount * mask, amount * mask**2), now=now
            )
        elif what == "members":
            members = "".join(name for bit, name in enumerate("abcdef") if mask >> bit & 1)
            detector.update(members)
        else:
            usable = [name for bit, name in enumerate("abcdef") if amount >> bit & 1 and name in members]
            changes = detector.sweep(usable, now=now)
            ejected = detector.ejected()
            assert len(ejected) <= max(len(members) * percent / 100, 1 if percent else 0)
            assert len(ejected) < max(len(members), 1)
            for change in changes:
                if isinstance(change, Ejected):
                    assert change.endpoint_id in usable and change.until > now
                    assert set(usable) - set(ejected)
    detector.sweep([], now=now + 10_000)
    assert detector.ejected() == {}
