"""Workers that tell each other what they see of data end up with the same holders, and so does control."""

from hypothesis import given
from hypothesis import strategies as st
from support.fleet import Fleet, World, cluster, endpoint

from proxy.data_news import NEWS_S
from proxy.model import Outcome, RequestFacts
from proxy.policy.data_reply import DataReply
from proxy.policy.hashring import key_point, ring_points
from proxy.policy.locality import LocalityParams
from proxy.policy.mirror import Mirror
from proxy.policy.news import parse_news
from proxy.policy.residency import LOST_AFTER

KEYS = [b"k%d" % number for number in range(6)]
ENDPOINTS = [endpoint(name, slot) for slot, name in enumerate("abd")]
SIZE = 1000


def spec(count):
    members = ENDPOINTS[:count]
    ring = ring_points(tuple(one.id for one in members))
    # Sizes of caches are each worker's own to learn; that of these is given, and large.
    locality = LocalityParams(cache_bytes=10**12)
    return cluster(*members, balancer="data_locality_aware", ring=ring, locality=locality)


class Team:
    """Two workers and control, and services that hold what they were sent."""

    def __init__(self):
        self.world = World(workers=2)
        self.workers = [Fleet(number, self.world) for number in range(2)]
        self.mirror = Mirror(1000)
        self.truth = {slot: set() for slot in range(3)}
        self.open = []
        self.last = 0
        self.members(3)

    def members(self, count):
        self.settle()
        # Those that come later are other instances.
        for slot in range(count, 3):
            self.truth[slot] = set()
        for fleet in self.workers:
            fleet.apply(spec(count))
        self.mirror.update(1000, range(count))

    def settle(self):
        """Let all be told that there is to tell."""
        self.world.run(2 * NEWS_S)
        reported, self.world.reported[:] = list(self.world.reported), []
        for body in reported:
            if "data" in body:
                assert (parsed := parse_news(body)) is not None
                self.mirror.on_news(parsed[1], now=self.world.now)

    def turn(self, worker):
        """What one does before it heard of what the other did is settled by the next request."""
        if worker != self.last:
            self.settle()
            self.last = worker
        return self.workers[worker].clusters["c"]

    def send(self, worker, name):
        lease = self.turn(worker).acquire(
            RequestFacts(data_keys=(name,), size_bytes=SIZE), now=self.world.now
        )
        self.open.append((worker, name, lease))

    def answer(self, said):
        """The oldest request is answered, or fails."""
        worker, name, lease = self.open.pop(0)
        self.turn(worker)
        held, now = self.truth[lease.endpoint.spec.slot], self.world.now + 0.001
        if said == "fails":
            lease.release(Outcome.UPSTREAM_FAILED, None, now=now)
            return
        if said == "unsaid":
            reply = None
            held.add(name)
        else:
            reply = DataReply(hit=name in held)
            held.add(name)
            if said == "evicted":
                gone = next(one for one in sorted(held))
                held.discard(gone)
                reply = reply._replace(evicted=(gone,))
            elif said == "resident":
                held.add(KEYS[0])
                reply = reply._replace(resident=((KEYS[0], SIZE),))
        if reply is not None:
            lease.on_data(reply, now=now)
        lease.on_answer(200, None, now=now)
        lease.release(Outcome.OK, None, now=now)

    def holders(self, worker):
        data = self.workers[worker].clusters["c"].data
        return {(slot, key.point) for slot, one in data._by_slot.items() for key in one.site.holdings.kept}

    def check(self):
        self.settle()
        assert self.holders(0) == self.holders(1)
        assert {(slot, point) for point, slot, _ in self.mirror.news()} == self.holders(0)


words = st.sampled_from(["hit or miss", "hit or miss", "unsaid", "fails", "evicted", "resident"])
steps = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(KEYS), words, st.integers(0, 30)), max_size=60)


@given(steps, st.integers(1, 3))
def test_all_end_up_with_the_same_holders(steps, most_open):
    team = Team()
    for worker, name, said, what in steps:
        if what == 0:
            team.members(2)
        elif what == 1:
            team.members(3)
        team.send(worker, name)
        while len(team.open) >= most_open:
            team.answer(said)
    while team.open:
        team.answer("hit or miss")
    team.check()


def test_a_cache_that_one_found_lost_is_lost_for_all():
    team = Team()
    point = key_point(KEYS[0])
    for _ in range(2):
        team.send(0, KEYS[0])
        team.answer("hit or miss")
        team.world.run(1.0)
    (slot,) = [slot for slot, known in team.holders(0) if known == point]
    for name in KEYS[1:]:
        reply = DataReply(hit=True, resident=((name, SIZE),))
        team.workers[1].clusters["c"].data._on_said(team.workers[1].clusters["c"].endpoints[slot], reply)
    team.check()
    assert {known for one, known in team.holders(1) if one == slot} == {key_point(name) for name in KEYS}
    team.truth[slot] = set()
    for _ in range(LOST_AFTER):
        team.truth[slot].discard(KEYS[0])
        team.send(0, KEYS[0])
        assert team.open[0][2].endpoint.spec.slot == slot
        team.answer("hit or miss")
    team.check()
    assert {known for one, known in team.holders(1) if one == slot} == {point}
