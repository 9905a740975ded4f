"""The simulation keeps its promises to policies, and the known policies come out as they are known to."""

from collections import Counter
from statistics import median

import pytest

from loadtests.locality.figures import Sample, figures
from loadtests.locality.policies import BoundedHash, Foresight, Greedy, LeastConnections, RoundRobin
from loadtests.locality.simulation import simulate
from loadtests.locality.trace import BY_NAME, SCENARIOS, SPECIAL, Trace

POLICIES = (RoundRobin, LeastConnections, BoundedHash, Greedy, Foresight)


def trace_of(name, seed=1, rate=200.0, seconds=16.0):
    return Trace(BY_NAME[name], seed, rate, seconds, warm_up_s=4.0)


class Watched(LeastConnections):
    """Notes what it is asked and told."""

    def __init__(self, world):
        super().__init__(world)
        self.open = Counter()
        self.failed = 0
        self.now = 0.0
        self.fleets = []
        self.chosen_since = Counter()

    def _at(self, now):
        assert now >= self.now
        self.now = now

    def on_fleet(self, endpoints, *, now):
        super().on_fleet(endpoints, now=now)
        self._at(now)
        self.fleets.append((now, endpoints))
        self.chosen_since.clear()

    def choose(self, request, *, now):
        self._at(now)
        chosen = super().choose(request, now=now)
        self.open[request.number, chosen] += 1
        self.chosen_since[chosen] += 1
        return chosen

    def on_done(self, request, endpoint, reply, *, now):
        super().on_done(request, endpoint, reply, now=now)
        self._at(now)
        self.open[request.number, endpoint] -= 1
        self.failed += reply.is_failed
        assert reply.took_s >= 0.0
        assert not (reply.is_failed and reply.is_hit)


def watched(trace):
    made = []
    samples = simulate(trace, lambda world: made.append(Watched(world)) or made[0])
    return made[0], samples


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_request_ends_once(scenario):
    trace = trace_of(scenario.name)
    policy, samples = watched(trace)
    assert not any(policy.open.values())
    assert sorted(sample.due for sample in samples) == [request.due for request in trace.requests()]
    assert not any(sample.is_failed for sample in samples)


def test_what_is_lost_with_an_endpoint_is_sent_again():
    trace = trace_of("dies")
    policy, _ = watched(trace)
    assert policy.fleets == [(0.0, tuple(range(8))), (12.0, trace.scenario.last_fleet())]
    assert policy.failed > 0
    assert policy.chosen_since[SPECIAL] == 0


def test_who_joins_gets_requests():
    trace = trace_of("joins")
    policy, _ = watched(trace)
    assert policy.fleets[0] == (0.0, trace.scenario.first_fleet())
    assert policy.chosen_since[SPECIAL] > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_is_the_same_every_time(policy):
    trace = trace_of("slow", seconds=4.0)
    assert simulate(trace, policy) == simulate(trace, policy)


def test_the_policies_come_out_in_the_known_order():
    found = {
        policy: [figures(t, simulate(t, policy)) for t in (trace_of("shift", seed) for seed in (1, 2, 3))]
        for policy in POLICIES
    }

    def of(policy, figure):
        return median(getattr(each, figure) for each in found[policy])

    assert of(LeastConnections, "hit_ratio") < 0.6 < of(BoundedHash, "hit_ratio") < of(Greedy, "hit_ratio")
    assert of(LeastConnections, "mean_s") > of(BoundedHash, "mean_s") > of(Greedy, "mean_s")
    assert of(BoundedHash, "p99_s") > of(Greedy, "p99_s") > of(Foresight, "p99_s")


def test_figures_by_hand():
    trace = trace_of("flat", seconds=8.0)  # counts from 4, the halves meet at 8
    samples = [
        Sample(1.0, 100.0, is_hit=False),
        *(Sample(4.0 + i / 100, 1.0, is_hit=i % 2 == 0) for i in range(100)),
        *(Sample(8.0 + i / 100, 2.0, is_hit=False) for i in range(99)),
        Sample(9.0, 0.5, is_hit=False, is_failed=True),
    ]
    found = figures(trace, samples)
    assert (found.requests, found.failed) == (200, 1)
    assert found.hit_ratio == 50 / 199
    assert found.mean_s == pytest.approx((100 + 198) / 199)
    assert (found.p50_s, found.p99_s) == (2.0, 2.0)
    assert found.first_p99_s == 1.0
    assert found.second_p99_s == float("inf")  # the failed one is the slowest hundredth of its half
