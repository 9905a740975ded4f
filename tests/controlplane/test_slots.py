"""When a scoreboard row may serve another endpoint."""

from proxy.config.slots import SlotAllocator, Slots
from proxy.controlplane.slots import KEEP_S, SlotReaper
from proxy.model import TcpAddress
from proxy.scoreboard import E_CONNECTIONS, E_IN_FLIGHT, E_RETRIES, K_PENDING, K_RETRIES, Scoreboard
from proxy.snapshot import ClusterSpec, EndpointSpec, Snapshot


class World:
    def __init__(self):
        self.board = Scoreboard(workers=2, endpoints=2)
        self.slots = SlotAllocator(2)
        self.clusters = SlotAllocator(2)
        self.reaper = SlotReaper(Slots(self.slots, self.clusters), self.board)

    def show(self, generation, *ids, now):
        specs = tuple(
            EndpointSpec(each, self.slots.slot(each), TcpAddress("10.0.0.1", 1), each) for each in ids
        )
        snapshot = Snapshot(generation, (), (ClusterSpec("c", endpoints=specs),), ())
        self.reaper.on_snapshot(snapshot, now=now)


def test_a_row_is_released_when_idle_long_gone_and_no_longer_served():
    world = World()
    world.show(1, "a", "b", now=0)
    row = world.board.endpoint_row(1, world.slots.slot("a"))
    row[E_IN_FLIGHT], row[E_CONNECTIONS], row[E_RETRIES] = 1, 1, 7
    world.show(2, "b", now=10)
    sweep = world.reaper.sweep
    assert sweep(applied_generation=2, now=10 + KEEP_S + 1) == []  # still works
    row[E_IN_FLIGHT] = 0
    assert sweep(applied_generation=2, now=10 + KEEP_S + 1) == []  # still connected
    row[E_CONNECTIONS] = 0
    assert sweep(applied_generation=2, now=10 + KEEP_S - 1) == []  # too soon
    assert sweep(applied_generation=1, now=10 + KEEP_S) == []  # a worker may still pick it
    assert "a" in world.slots and row[E_RETRIES] == 7
    assert sweep(applied_generation=2, now=10 + KEEP_S) == ["a"]
    assert "a" not in world.slots and row[E_RETRIES] == 0
    assert sweep(applied_generation=2, now=1000) == []
    assert world.slots.slot("c") == 0


def test_an_endpoint_that_comes_back_keeps_its_counters():
    world = World()
    world.show(1, "a", now=0)
    row = world.board.endpoint_row(0, 0)
    row[E_RETRIES] = 7
    world.show(2, now=1)
    world.show(3, "a", now=2)
    assert world.reaper.sweep(applied_generation=3, now=1000) == [] and row[E_RETRIES] == 7
    world.show(4, now=2000)
    world.show(5, now=2050)  # gone since 2000, not since 2050
    assert world.reaper.sweep(applied_generation=5, now=2000 + KEEP_S) == ["a"]


def test_time_that_goes_backwards_releases_nothing():
    world = World()
    world.show(1, "a", now=100)
    world.show(2, now=100)
    assert world.reaper.sweep(applied_generation=2, now=0) == []


def test_a_clusters_row_is_released_when_nobody_waits_in_it():
    world = World()
    slot = world.clusters.slot("c")
    world.show(1, now=0)
    row = world.board.cluster_row(1, slot)
    row[K_PENDING], row[K_RETRIES] = 1, 5
    world.reaper.on_snapshot(Snapshot(2, (), (), ()), now=10)
    assert world.reaper.sweep(applied_generation=2, now=10 + KEEP_S) == []
    row[K_PENDING] = 0
    assert world.reaper.sweep(applied_generation=2, now=10 + KEEP_S) == ["c"]
    assert "c" not in world.clusters and row[K_RETRIES] == 0
