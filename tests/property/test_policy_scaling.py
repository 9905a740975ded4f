"""Whatever is sampled, sizes keep their limits, cooldowns and steps."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.retiring import Instance, whom_to_retire
from proxy.policy.scaling import Decision, Scaler
from proxy.policy.scaling_params import HostBudget, ScalingParams
from proxy.policy.wishes import Load, Sample

amounts = st.sampled_from(
    [0.0, 0.0, 0.1, 1.0, 5.0, 20.0, 60.0, 500.0, 1e-300, 1e11, 1e300, float("nan"), float("inf"), -1.0]
)
loads = st.one_of(st.none(), st.builds(Load, amounts, amounts, amounts, amounts, amounts))
percents = st.sampled_from([None, (), (50.0,), (90.0, 95.0), (None, 400.0), (float("nan"), 1e300, 10.0)])
counts = st.integers(0, 12)
samples = st.builds(Sample, counts, counts, st.integers(0, 5), loads, percents, percents)
timelines = st.lists(st.tuples(st.floats(-5, 120), samples), min_size=1, max_size=25)
params = st.builds(
    ScalingParams,
    min_instances=st.integers(1, 4),
    max_instances=st.integers(4, 25),
    slots=st.integers(1, 8),
    target_in_flight=st.floats(0.5, 8),
    headroom=st.floats(0, 3),
    target_work_s=st.floats(0.1, 10),
    target_queue_wait_s=st.floats(0, 2),
    scale_up_cooldown_s=st.floats(0, 120),
    scale_down_cooldown_s=st.floats(0, 120),
    stabilisation_s=st.floats(0, 300),
    step_up=st.integers(1, 4),
    step_up_percent=st.floats(0, 200),
    step_down=st.integers(1, 4),
    step_down_percent=st.floats(0, 100),
    scale_to_zero=st.booleans(),
    idle_s=st.floats(0, 300),
    budget=st.builds(HostBudget, cpus=st.one_of(st.none(), st.floats(0, 30)), instance_cpus=st.just(1.0)),
)


def decided(scaler, timeline):
    """Every answer: when, the size before and after, the sample. The first ones bring the size within its limits."""
    now = 1000.0
    for number, (pause, sample) in enumerate(timeline):
        now = max(now + pause, 0.0)
        before = scaler.target if number else sample.ready + sample.starting
        said = scaler.decide(sample, now=now)
        assert said.reason
        assert isinstance(said, Decision) == (scaler.target != before)
        yield scaler._now, before, scaler.target, sample


def high(params):
    room = params.budget.room()
    return params.max_instances if room is None else min(params.max_instances, room)


@given(params, timelines)
def test_sizes_keep_to_the_limits(params, timeline):
    most = high(params)
    for _, _, target, sample in decided(Scaler(params), timeline):
        assert target <= most
        if target < min(params.min_instances, most):
            room = params.budget.room()
            waits_for_room = room is not None and target >= min(params.min_instances, room - sample.draining)
            assert waits_for_room or (target == 0 and params.scale_to_zero)


@given(params, timelines)
def test_growth_never_exceeds_the_budget_with_those_that_drain(params, timeline):
    room = params.budget.room()
    for number, (_, before, target, sample) in enumerate(decided(Scaler(params), timeline)):
        if number and target > before and room is not None:
            assert target + sample.draining <= room


@given(params, timelines)
def test_cooldowns_and_steps(params, timeline):
    grown_at = changed_at = float("-inf")
    least = min(params.min_instances, high(params))
    for number, (now, before, target, _) in enumerate(decided(Scaler(params), timeline)):
        by_load = number > 0 and before >= least
        if target > before:
            if by_load:
                assert now - grown_at >= params.scale_up_cooldown_s - 1e-6
                assert target - before <= params.step_up_from(before)
            grown_at = now
        if target < before and by_load:
            assert now - changed_at >= params.scale_down_cooldown_s - 1e-6
            assert target == 0 or before - target <= params.step_down_from(before)
        if target != before:
            changed_at = now


@given(params, timelines)
def test_nothing_shrinks_without_data_in_panic_or_just_after_a_start(params, timeline):
    scaler, first_at = Scaler(params), None
    for number, (now, before, target, sample) in enumerate(decided(scaler, timeline)):
        first_at = now if first_at is None else first_at
        if number and target < before:
            assert sample.load is not None and sample.load.is_sound()
            assert not scaler.is_panicking(now)
            assert now - first_at >= max(params.stable_window_s, params.stabilisation_s) - 1e-6


@given(params, timelines, st.integers(-5, 50))
def test_what_is_set_by_hand_keeps_to_the_limits(params, timeline, pinned):
    scaler = Scaler(replace(params, scale_to_zero=False))
    scaler.pin(pinned)
    for _, _, target, _ in decided(scaler, timeline):
        assert 0 <= target <= high(params)


instances = st.lists(
    st.builds(Instance, st.text("abc", max_size=3), st.booleans(), st.floats(0, 9), st.floats(0, 9)),
    unique_by=lambda one: one.instance_id,
    max_size=8,
)


@given(instances, st.integers(0, 10))
def test_as_many_go_as_asked_and_none_that_serves_before_one_that_starts(fleet, count):
    going = [one.instance_id for one in whom_to_retire(fleet, count, lambda one, staying: len(staying))]
    assert len(going) == len(set(going)) == min(count, len(fleet))
    starting = {one.instance_id for one in fleet if one.is_starting}
    if set(going) - starting:
        assert starting <= set(going)
