"""Samples of load, from rows that are written by hand. Times are seconds."""

import pytest

from proxy import scoreboard as sb
from proxy.answer_words import latency_index
from proxy.controlplane.load import LoadMeter
from proxy.model import TcpAddress
from proxy.policy.wishes import Load
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec

A, B = (EndpointSpec(f"etl/{n}", n, TcpAddress("127.0.0.1", 9000 + n), str(n)) for n in (0, 1))
CLUSTER = ClusterSpec("etl", endpoints=(A, B), slot=2)


class World:
    def __init__(self):
        self.board = Scoreboard(workers=2, endpoints=4, clusters=4)
        for worker in (0, 1):
            self.board.worker_row(worker)[sb.W_HEARTBEAT_MS] = 1
        self.meter = LoadMeter(self.board)

    def count(self, spec, worker=0, **words):
        row = self.board.endpoint_row(worker, spec.slot)
        for name, value in words.items():
            row[getattr(sb, name)] += value

    def answered(self, spec, count, seconds, worker=0):
        row = self.board.endpoint_row(worker, spec.slot)
        row[sb.E_REUSED] += count
        row[latency_index(seconds)] += count
        row[sb.E_LATENCY_SUM_US] += int(count * seconds * 1e6)

    def queue(self, **words):
        row = self.board.cluster_row(1, CLUSTER.slot)
        for name, value in words.items():
            row[getattr(sb, name)] = value

    def sample(self, now, endpoints=(A, B), cluster=CLUSTER):
        return self.meter.sample(cluster, endpoints, 4, now=now)


def test_all_workers_count_together():
    world = World()
    world.answered(A, 100, 0.1)  # before anybody looked
    assert world.sample(0.0) is None
    world.answered(A, 6, 0.2)
    world.answered(B, 4, 0.2, worker=1)
    world.count(A, E_IN_FLIGHT=2)
    world.count(A, worker=1, E_IN_FLIGHT=1, E_CONNECTS=3)
    assert world.sample(2.0) == Load(3, 0, pytest.approx(0.6), 0.0, 6.5)


def test_time_spent_waiting_inside_an_instance_is_no_work():
    world = World()
    world.sample(0.0)
    world.count(A, E_IN_FLIGHT=16)
    world.sample(1.0)
    world.answered(A, 10, 0.4)
    load = world.sample(2.0)
    assert world.meter.request_s == pytest.approx(0.3)  # 32/3 in flight on average where there are 8 slots
    assert load.work_s == pytest.approx(16 * 0.3)


def test_an_instance_that_is_new_counts_from_nothing():
    world = World()
    world.sample(0.0, [A])
    world.answered(B, 5, 0.1)
    assert world.sample(1.0).arrivals_per_s == 5.0
    world.sample(2.0, [A])
    world.board.clear_endpoint(A.slot)  # another one in its row
    assert world.sample(3.0, [A]).arrivals_per_s == 0.0


def test_those_who_wait_and_those_who_were_turned_away_came_too():
    world = World()
    world.answered(A, 1, 0.5)
    world.sample(0.0)
    world.answered(A, 1, 0.5)
    world.queue(K_PENDING=4, K_QUEUE_REFUSED=2, K_WANT_SINCE_MS=13_000)
    first = world.sample(10.5)
    assert first.queued == 4 and first.arrivals_per_s == pytest.approx(7 / 10.5)
    assert first.queue_wait_s == 0.0, "nobody waited when it was looked at last"
    second = world.sample(11.0)
    assert second.queue_wait_s == 0.5 and second.work_s == pytest.approx(2.0)
    assert second.arrivals_per_s == 0.0
    world.queue(K_PENDING=3, K_WANT_SINCE_MS=14_800)  # of the usual urgency, so it came at 11.8
    assert world.sample(12.0).queue_wait_s == pytest.approx(0.2)


def test_without_workers_nothing_is_known():
    world = World()
    world.sample(0.0)
    for worker in (0, 1):
        world.board.clear_gauges(worker)
    assert world.sample(1.0) is None
    world.board.worker_row(0)[sb.W_HEARTBEAT_MS] = 1
    assert world.sample(2.0) is None and world.sample(3.0) is not None


def test_where_data_count_the_work_is_what_was_predicted():
    world = World()
    cluster = ClusterSpec("etl", "data_locality_aware", (A, B), ring=bytes(8), slot=2)
    world.sample(0.0, cluster=cluster)
    world.count(A, E_IN_FLIGHT=1, E_WORK_US=2_500_000)
    assert world.sample(1.0, cluster=cluster).work_s == 2.5
