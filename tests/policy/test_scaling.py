"""How many instances a cluster has: rules, timelines, and what went wrong elsewhere. Times are seconds.

A request takes a second of work unless a test says otherwise, an instance has 4 slots and a target of 3 in flight.
"""

from dataclasses import replace

import pytest

from proxy.policy.scaling import Decision, Hold, Scaler
from proxy.policy.scaling_params import HostBudget, ScalingParams
from proxy.policy.wishes import Load, Sample

PARAMS = ScalingParams(headroom=0, cpu_threshold_percent=0, memory_threshold_percent=0)


def load(rate, request_s=1.0, queued=0.0, in_flight=None, wait=0.0):
    """What `rate` requests/s come to when none waits, or as given."""
    in_flight = rate * request_s if in_flight is None else in_flight
    return Load(in_flight, queued, (in_flight + queued) * request_s, wait, rate)


class World:
    """A cluster in which starts take `start_s`, and what is decided there every `every` seconds."""

    def __init__(self, params=PARAMS, ready=2, start_s=0, every=2):
        self.scaler = Scaler(params)
        self.ready, self.starting, self.start_s, self.every = ready, [], start_s, every
        self.now = 0.0
        self.said = []

    def step(self, load, **known):
        came = [at for at in self.starting if at <= self.now]
        self.starting = [at for at in self.starting if at > self.now]
        self.ready += len(came)
        sample = Sample(self.ready, len(self.starting), known.pop("draining", 0), load, **known)
        said = self.scaler.decide(sample, now=self.now)
        if isinstance(said, Decision):
            more = said.target - self.ready - len(self.starting)
            self.starting += [self.now + self.start_s] * max(more, 0)
            if more < 0:
                self.ready += more
        self.said.append((self.now, said))
        self.now += self.every
        return said

    def run(self, seconds, load, **known):
        """The targets that were decided in so many seconds."""
        begun = len(self.said)
        until = self.now + seconds
        while self.now < until:
            self.step(load, **known)
        return [said.target for _, said in self.said[begun:] if isinstance(said, Decision)]


def settled(rate, params=PARAMS, **world):
    """A world that has carried this load for ten minutes."""
    made = World(params, **world)
    made.run(600, load(rate))
    return made


# ---- limits


def test_what_is_there_is_adopted():
    world = World(ready=5)
    assert world.run(2, load(15)) == []
    assert world.scaler.target == 5


@pytest.mark.parametrize(
    ("ready", "target", "why"), [(0, 2, "min_instances is 2"), (1, 2, "min_instances is 2")]
)
def test_fewer_than_the_least(ready, target, why):
    assert World(ready=ready).step(None) == Decision(target, why)


def test_more_than_the_most_go_at_once():
    assert World(ready=23).step(None) == Decision(20, "max_instances is 20")


def test_growing_ends_at_the_most():
    world = World()
    world.run(60, load(100))
    assert world.scaler.target == 20
    said = world.step(load(100))
    assert isinstance(said, Hold) and said.reason.endswith(", but max_instances is 20")


@pytest.mark.parametrize(
    ("budget", "taken", "room"),
    [
        (HostBudget(), (0, 0), None),
        (HostBudget(cpus=8, instance_cpus=2), (3, 0), 2),
        (HostBudget(cpus=8, instance_cpus=2), (9, 0), 0),
        (HostBudget(cpus=0.3, instance_cpus=0.1), (0, 0), 3),
        (HostBudget(memory_bytes=10, instance_memory_bytes=3), (0, 0), 3),
        (HostBudget(memory_bytes=10, instance_memory_bytes=3, cpus=2, instance_cpus=1), (0, 0), 2),
        (HostBudget(memory_bytes=10, cpus=2), (0, 0), None),
    ],
)
def test_room_on_the_host(budget, taken, room):
    assert budget.room(*taken) == room


def test_the_budget_is_never_exceeded():
    world = World(replace(PARAMS, budget=HostBudget(cpus=8, instance_cpus=1)))
    world.run(60, load(100), taken_cpus=3.0)
    assert world.scaler.target == 5
    assert world.step(load(100), taken_cpus=3.0).reason.endswith(", but the host has room for 5")


def test_the_budget_outranks_the_least():
    world = World(replace(PARAMS, min_instances=4, budget=HostBudget(cpus=3, instance_cpus=1)), ready=0)
    assert world.step(load(0)) == Decision(3, "min_instances is 4")
    assert isinstance(world.step(load(0)), Hold)


def test_draining_instances_claim_their_room_until_they_are_gone():
    world = World(replace(PARAMS, budget=HostBudget(cpus=8, instance_cpus=1)), ready=4)
    world.run(20, load(30), draining=3)
    assert world.scaler.target == 5
    assert world.step(load(30), draining=3).reason.endswith("but the host has room for 8, 3 of them draining")
    world.run(20, load(30))
    assert world.scaler.target == 8


def test_set_by_hand_within_the_limits():
    world = settled(6)
    world.scaler.pin(7)
    assert world.step(load(6)) == Decision(7, "set to 7 by hand")
    assert world.step(None) == Hold("set to 7 by hand")
    world.scaler.pin(1)
    assert world.step(load(6)) == Decision(2, "set to 1 by hand, but min_instances is 2")
    world.scaler.pin(99)
    assert world.step(load(6)) == Decision(20, "set to 99 by hand, but max_instances is 20")
    world.scaler.pin(None)
    assert isinstance(world.step(load(6)), Hold)
    assert repr(world.scaler) == "Scaler(target 20, starts take 10.0 s)"


# ---- growing


@pytest.mark.parametrize(("rate", "target"), [(6, 2), (6.1, 3), (9, 3), (30, 10), (31, 11)])
def test_load_asks_for_its_share(rate, target):
    assert settled(rate).scaler.target == target


def test_the_reason_has_the_figures():
    world = World(ready=2)
    said = world.step(load(8))
    assert said == Decision(3, "arriving work keeps 8.0 slots busy in 60 s: asks for 3")


@pytest.mark.parametrize(("rate", "target"), [(4, 2), (5, 2), (6, 3), (9, 4), (16, 6), (30, 10)])
def test_headroom_is_for_small_fleets(rate, target):
    """4 + 1.25·2 = 6.5 slots, 5 + 2.8 = 7.8, 6 + 3.1 = 9.1, 9 + 3.75 = 12.75, 16 + 5 = 21; 30 at 3 for each is 10."""
    assert settled(rate, replace(PARAMS, headroom=1.25)).scaler.target == target


def test_growth_is_by_steps_and_cooldowns():
    world = World(replace(PARAMS, scale_up_cooldown_s=10, step_up=2, step_up_percent=50))
    world.run(60, load(60))
    grown = [(now, said.target) for now, said in world.said if isinstance(said, Decision)]
    assert grown == [(0, 4), (10, 6), (20, 9), (30, 14), (40, 20)]
    assert world.said[1][1].reason.endswith(", but it grew just now: 8.0 s of cooldown")


def test_starting_instances_count():
    """A burst with slow starts orders what it needs once (knative serving#13284; #15121 went from 2 to 54)."""
    world = World(start_s=30)
    world.run(30, load(24, in_flight=8, queued=0))
    assert world.scaler.target == 8
    assert (world.ready, len(world.starting)) == (2, 6)


def test_a_backlog_during_slow_starts_does_not_explode():
    """Requests pile up for 30 s: what is ordered clears them, and is far from the most."""
    params = replace(PARAMS, max_instances=100)
    world, queued = World(params, start_s=30), 0.0
    world.scaler.on_started(30)
    world.run(300, load(6))
    for _ in range(60):
        world.step(load(16, in_flight=min(16 + queued, 4 * world.ready), queued=queued))
        queued = max(queued + 2 * (16 - 4 * world.ready), 0)
    needed = 16 / 3
    assert needed < world.scaler.target < 3 * needed
    assert queued == 0


def test_what_grows_is_foreseen_by_the_time_of_a_start():
    """Half a slot more each second: an average over a minute is half a minute late, and a start later still."""
    targets = {}
    for start_s in (1, 30):
        world = World(ready=4, start_s=start_s)
        world.scaler.on_started(start_s)
        for second in range(0, 60, 2):
            world.step(load(10 + second / 2))
        targets[start_s] = world.scaler.target
    assert targets == {1: 13, 30: 18}
    assert any("when a start is over" in said.reason for _, said in world.said)


def test_the_start_time_is_learned():
    scaler = Scaler(replace(PARAMS, start_s=10, start_timeout_s=60))
    assert scaler.start_s == 10
    scaler.on_started(20)
    assert scaler.start_s == 20
    scaler.on_started(30)
    assert scaler.start_s == pytest.approx(23)
    for _ in range(50):
        scaler.on_started(1000)
    assert scaler.start_s == pytest.approx(60)


def test_the_queue_is_seen():
    """In flight cannot exceed the slots; Ray's scaler looked at nothing else and stayed (ray#20977)."""
    world = settled(6)
    assert world.run(10, load(6, in_flight=8, queued=40)) == [5]
    assert world.said[-5][1].reason == "48.0 s of work to do, 10 s for each instance: asks for 5"


def test_no_more_instances_than_have_anything_to_do():
    """Two queries of ten minutes are 1200 s of work, and nobody can share one: Ray over-provisioned (ray#60624)."""
    world = settled(0)
    assert world.run(10, Load(2, 0, 1200, 0, 0)) == []


def test_waiting_counts_even_when_the_estimate_of_work_is_wrong():
    world = settled(6)
    said = world.step(Load(6, 1, 0, 2.0, 6))
    assert said == Decision(3, "a request has waited 2.0 s, more than 0.5 s: asks for 3")
    world.start_s = 1000
    world.starting, world.ready = [world.now + 1000], 2
    assert world.run(60, Load(6, 1, 0, 2.0, 6)) == []


@pytest.mark.parametrize(("percent", "target"), [(75, 4), (76, 5), (100, 6), (20, 4)])
def test_cpu(percent, target):
    world = World(replace(PARAMS, cpu_threshold_percent=75), ready=4)
    for _ in range(2):
        world.step(load(6), cpu_percent=[percent] * 4)
    assert world.scaler.target == target


def test_cpu_that_is_not_known_starts_none_and_stops_none():
    """HPA's rule: missing ones count as idle for growth and as busy for shrinking."""
    params = replace(PARAMS, cpu_threshold_percent=75)
    world = World(params, ready=4)
    world.run(600, load(1), cpu_percent=[90, 90, None, float("nan")])
    assert world.scaler.target == 4
    world.run(600, load(1), cpu_percent=None)
    assert world.scaler.target == 4
    assert world.said[-1][1].reason == "could shrink to 2, but the engine says nothing of CPU"


def test_a_leak_does_not_scale_up_for_ever():
    """Every instance, new ones too, is full soon. Load wants 2, memory may have half as many more."""
    world = World(replace(PARAMS, memory_threshold_percent=80))
    for _ in range(1000):
        world.step(load(5), memory_percent=[97.0] * world.ready)
    assert world.scaler.target == 3
    assert "more instances cure neither a leak nor a full cache" in world.said[-1][1].reason


def test_memory_within_its_threshold_keeps_no_instance():
    """Caches fill to 75 % whatever the load: 10 · 75 / 80 is 10 for ever with Kubernetes' formula."""
    world = World(replace(PARAMS, memory_threshold_percent=80), ready=10)
    for _ in range(1000):
        world.step(load(5), memory_percent=[75.0] * world.ready)
    assert world.scaler.target == 2


def test_memory_that_follows_the_load_does_not_flap():
    """170 % in all: 85 % for each of 2, 57 % for each of 3."""
    world = World(replace(PARAMS, memory_threshold_percent=80))
    for _ in range(3600 // 2):
        world.step(load(5), memory_percent=[170.0 / world.ready] * world.ready)
    assert sum(isinstance(said, Decision) for _, said in world.said) <= 3600 / 300


# ---- panic


def test_a_burst_is_answered_within_the_panic_window():
    world = settled(6)
    world.run(8, load(18, in_flight=8))
    assert world.scaler.target >= 6
    assert world.scaler.is_panicking(world.now)


def test_growth_below_the_threshold_is_no_panic():
    world = settled(6)
    world.run(60, load(7.5))
    assert not world.scaler.is_panicking(world.now)


def test_nothing_shrinks_in_panic():
    world = settled(6)
    world.run(10, load(30, in_flight=8))
    grown = world.scaler.target
    ended = world.now + 50
    while world.now < ended:
        assert not isinstance(world.step(load(0)), Decision)
    assert world.scaler.target == grown


def test_the_end_of_panic_drops_nothing_at_once():
    """Knative dropped to what the stable window asked for (serving#3153, #9121). With slow starts that has the quiet
    time in it when the first instances are there; the load goes on."""
    world = World(replace(PARAMS, max_instances=100), start_s=20)
    world.run(600, load(6))
    world.run(600, load(60, in_flight=60))
    targets = [said.target for _, said in world.said if isinstance(said, Decision)]
    grown = targets.index(max(targets))
    assert targets[:grown] == sorted(targets[:grown])
    assert 20 <= min(targets[grown:]) <= max(targets) <= 30


# ---- shrinking


def test_shrinking_is_late_and_by_steps():
    world = settled(30)
    assert world.scaler.target == 10
    quiet = world.now
    world.run(1200, load(6))
    shrunk = [
        (now - quiet, said.target) for now, said in world.said if now >= quiet and isinstance(said, Decision)
    ]
    assert [target for _, target in shrunk] == [9, 7, 6, 5, 4, 3, 2]
    assert shrunk[0][0] >= PARAMS.stabilisation_s
    assert all(later - earlier >= 60 for (earlier, _), (later, _) in zip(shrunk, shrunk[1:], strict=False))


def test_pauses_between_bursts_keep_what_the_next_one_needs():
    """Ray Serve flapped (ray#18925)."""
    world = settled(30)
    targets = []
    for _ in range(10):
        targets += world.run(60, load(3)) + world.run(60, load(30))
    assert targets == sorted(targets) and len(targets) <= 2
    assert world.scaler.target <= 15


def test_no_data_is_hold():
    world = settled(30)
    assert world.step(None) == Hold("no data: stays at 10")
    assert world.run(3600, None) == []


@pytest.mark.parametrize(
    "bad", [Load(float("nan"), 0, 0, 0, 0), Load(0, 0, float("inf"), 0, 0), Load(0, 0, 0, 0, -1.0)]
)
def test_what_is_no_number_is_no_data(bad):
    """Swarm's autoscalers tripped over NaN."""
    assert settled(30).step(bad) == Hold("no data: stays at 10")


def test_after_a_gap_nothing_shrinks_until_the_window_is_full():
    world = settled(30)
    world.run(1200, None)
    back = world.now
    assert world.run(60, load(3)) == []
    assert world.said[-1][1].reason == "could shrink to 2, but data came back only 58 s ago"
    world.run(10, load(3))
    assert world.scaler.target == 8
    assert world.now - back == 70


def test_a_sample_that_is_missing_is_no_gap():
    world = settled(30)
    world.run(130, load(3))
    world.step(None)
    world.run(10, load(3))
    assert world.scaler.target < 10


def test_nothing_shrinks_just_after_a_restart():
    """Knative went from 7 to 1 on a restart of its autoscaler before it started in panic (serving#4795)."""
    world = World(ready=7)
    assert world.run(120, load(3)) == []
    assert "it knows this load only since the start" in world.said[30][1].reason
    world.run(20, load(3))
    assert world.scaler.target == 6


def test_a_shrinking_waits_after_a_growth():
    params = replace(PARAMS, stabilisation_s=0, scale_down_cooldown_s=300)
    world = World(params)
    world.run(300, load(6))
    world.run(70, load(9))
    grown = max(now for now, said in world.said if isinstance(said, Decision))
    world.run(600, load(3))
    shrunk = [now for now, said in world.said if isinstance(said, Decision) and now > grown]
    assert shrunk[0] - grown >= 300


# ---- zero


AT_REST = replace(PARAMS, scale_to_zero=True, idle_s=300)


def test_zero_is_opt_in():
    world = World()
    world.run(7200, load(0))
    assert world.scaler.target == 2


def test_at_rest_there_are_none_and_the_first_request_starts_the_least():
    world = World(AT_REST)
    assert world.run(290, load(0)) == []
    assert world.run(20, load(0)) == [0]
    assert world.said[-5][1].reason == "no request for 300 s"
    assert world.run(600, load(0)) == []
    assert world.step(Load(0, 1, 1, 0.0, 0.5)).target == 2
    assert world.scaler.target == 2


def test_a_request_that_takes_long_keeps_its_instance():
    """Sablier stopped containers in use (sablier#576)."""
    world = World(AT_REST)
    assert world.run(3600, Load(1, 0, 3600, 0, 0)) == []


def test_zero_is_kept_without_data_and_after_a_restart():
    world = World(AT_REST, ready=0)
    assert world.run(20, load(0)) == []
    assert world.step(None) == Hold("no data: stays at 0")


# ---- the rest


def test_changed_parameters():
    world = settled(30)
    world.scaler.change(replace(PARAMS, max_instances=6))
    assert world.step(load(30)) == Decision(6, "max_instances is 6")
    world.scaler.change(replace(PARAMS, stable_window_s=30))
    assert world.step(load(30)).target == 10


def test_time_that_goes_backwards_counts_as_none():
    world = settled(30)
    world.now = 0
    assert world.run(1000, load(3)) != []
    world.now = 5.0
    for _ in range(100):
        assert isinstance(world.step(load(3)), Hold) or world.now > 1000


def test_wishes_are_there_for_people():
    world = settled(30)
    assert {wish.count for wish in world.scaler.wishes} == {3, 10}
    assert len(world.scaler.wishes) == 3


def test_what_another_scaler_decided_is_gone_on_with():
    scaler = Scaler(PARAMS, 7)
    said = scaler.decide(Sample(0, 0, 0, None), now=0.0)
    assert said == Hold("no data: stays at 7") and scaler.target == 7
    assert Scaler(PARAMS, 30).decide(Sample(0, 0, 0, None), now=0.0) == Decision(20, "max_instances is 20")
