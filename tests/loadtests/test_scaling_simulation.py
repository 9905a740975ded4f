"""The day has its shape, the simulation counts right, and the known scalers come out as they are known to."""

from random import Random
from statistics import mean
from types import SimpleNamespace

import pytest

from loadtests.scaling import simulation
from loadtests.scaling.__main__ import parse
from loadtests.scaling.day import DAY_S, SHAPES, Day, day
from loadtests.scaling.results import CPU_ONLY, FIXED, HOMEPORT, Cell, Results, verdicts
from loadtests.scaling.scalers import CpuOnly, Fixed, Homeport, peak_size
from loadtests.scaling.simulation import Outcome, Simulation, View


class Told:
    """Sizes by time."""

    interval_s = 1

    def __init__(self, first, **sizes):
        self.first = self.now = first
        self.sizes = {int(at[2:]): size for at, size in sizes.items()}
        self.views = []
        self.started = []

    def size_at_first(self):
        return self.first

    def size(self, view, now):
        self.views.append(view)
        self.now = self.sizes.get(now, self.now)
        return self.now

    def on_started(self, took_s):
        self.started.append(took_s)


def simulated(requests, scaler, start_s=3, seconds=20, monkeypatch=None):
    monkeypatch.setattr(simulation, "DAY_S", seconds)
    arrivals, services = zip(*requests, strict=True)
    run = Simulation(Day("", arrivals, services, 1.0), scaler, start_s)
    return run.run(), run._took


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_shapes(shape):
    rates = SHAPES[shape](Random(1))
    assert len(rates) == DAY_S
    assert mean(rates) == pytest.approx(1.0, rel=1e-3)
    assert max(rates) == pytest.approx(3.0, rel=1e-3)
    assert min(rates) > 0


def test_a_day_is_the_same_again():
    first, again, other = (day("bursts", seed, mean_rate=0.5) for seed in (1, 1, 2))
    assert first == again and first != other
    assert len(first.arrivals_s) == pytest.approx(0.5 * DAY_S, rel=0.05)
    assert mean(first.services_s) == pytest.approx(0.5, rel=0.05)


def test_whoever_came_first_gets_the_slot_that_is_free_first(monkeypatch):
    requests = [(0.0, 5.0), (0.0, 6.0), (0.0, 7.0), (0.0, 8.0), (1.0, 1.0), (1.5, 1.0)]
    outcome, took = simulated(requests, Told(1), monkeypatch=monkeypatch)
    assert took == [5.0, 6.0, 7.0, 8.0, 5.0, 5.5]
    assert outcome.waited == pytest.approx(2 / 6)
    assert outcome.instance_hours == pytest.approx(20 / 3600)


def test_a_new_instance_helps_those_who_wait(monkeypatch):
    requests = [(0.0, 15.0)] * 4 + [(1.0, 1.0)]
    scaler = Told(1, at2=2)
    outcome, took = simulated(requests, scaler, monkeypatch=monkeypatch)
    assert took[-1] == 5.0
    assert scaler.started == [3.0]
    assert outcome.instance_hours == pytest.approx((20 + 18) / 3600)
    assert [view.starting for view in scaler.views[:5]] == [0, 0, 1, 1, 0]
    assert (scaler.views[1].queued, scaler.views[1].queue_wait_s, scaler.views[1].in_flight) == (1, 1.0, 4)


def test_a_retired_instance_finishes_what_it_has(monkeypatch):
    requests = [(0.0, 10.0)] * 5
    scaler = Told(2, at2=1)
    outcome, took = simulated(requests, scaler, monkeypatch=monkeypatch)
    assert took == [10.0] * 5
    assert outcome.instance_hours == pytest.approx((20 + 10) / 3600)
    assert [view.draining for view in scaler.views[1:11]] == [0] + [1] * 7 + [0] * 2


def test_starting_instances_are_given_up_first(monkeypatch):
    scaler = Told(1, at2=3, at4=1)
    outcome, _ = simulated([(0.0, 1.0)], scaler, start_s=10, monkeypatch=monkeypatch)
    assert outcome.instance_hours == pytest.approx((20 + 2 * 2) / 3600)
    assert scaler.started == []


def test_the_fixed_fleet():
    assert peak_size(SimpleNamespace(peak_rate=84.0)) == 14


def view(ready, cpu, starting=0):
    return View(ready, starting, 0, 0, 0, 0.0, 0.0, 0.5, cpu)


@pytest.mark.parametrize(
    ("ready", "starting", "cpu", "size"),
    [
        (4, 0, 75, 4),
        (4, 0, 82, 4),
        (4, 0, 84, 5),
        (4, 0, 100, 6),
        (4, 2, 100, 6),
        (4, 0, 20, 2),
        (20, 0, 100, 20),
    ],
)
def test_cpu_only(ready, starting, cpu, size):
    assert CpuOnly().size(view(ready, cpu, starting), 15.0) == size


def test_cpu_only_shrinks_to_the_largest_of_five_minutes():
    scaler = CpuOnly()
    assert scaler.size(view(8, 75), 15.0) == 8
    sizes = [scaler.size(view(8, 30), 15.0 * step) for step in range(2, 23)]
    assert sizes == [8] * 19 + [4] * 2


@pytest.mark.parametrize("make", [Fixed, lambda day: CpuOnly(), lambda day: Homeport()])
def test_a_thin_day(make):
    thin = day("bursts", 1, mean_rate=1.0)
    outcome = Simulation(thin, make(thin), 20).run()
    assert 24 <= outcome.instance_hours <= 60
    assert outcome.given_up == 0


def test_targets():
    def outcome(hours, p99):
        return Outcome(hours, p99, 0.0, 0.0, 0.0, 0, 0, 0, 0)

    runs = {FIXED: [outcome(100, 2.0)], CPU_ONLY: [outcome(48, 3.0)], HOMEPORT: [outcome(45, 2.5)]}
    found = verdicts(Results({Cell("smooth", 3.0): runs}))
    assert [(each.value, each.is_met) for each in found] == [
        (pytest.approx(0.45), True),
        (pytest.approx(1.25), False),
        (pytest.approx(0.9375), True),
        (pytest.approx(2.5 / 3), True),
    ]


def test_options():
    options = parse(["--shapes", "bursts", "--starts", "5", "--seeds", "1"])
    assert (options.shapes, options.starts, options.seeds, options.json) == (["bursts"], [5.0], 1, None)
