"""Workers that tell each other what they see of data end up with the same holders, and so does control."""

from hypothesis import given
from hypothesis import strategies as st
from support.fleet import Fleet, World, cluster, endpoint

from proxy.controlplane.residency_list import ResidencyList
from proxy.data_news import NEWS_S
from proxy.model import Outcome, RequestFacts
from proxy.policy.data_reply import DataReply
from proxy.policy.hashring import key_point, ring_points
from proxy.policy.locality import LocalityParams
from proxy.policy.mirror import Mirror
from proxy.policy.news import list_messages, parse_news
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
                self.mirror.on_news(parsed[1], "given" in body, now=self.world.now)

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


def say(team, worker, slot, *resident):
    """The endpoint in `slot` tells that worker what it holds."""
    routing = team.workers[worker].clusters["c"]
    routing.data._on_said(routing.endpoints[slot], DataReply(hit=True, resident=resident))


def test_sizes_that_endpoints_give_are_given_for_all():
    team = Team()
    say(team, 0, 1, (b"k", SIZE), (b"unsized", 0))
    team.check()
    for fleet in team.workers:
        residency = fleet.clusters["c"].data.locality.residency
        key, unsized = residency.find(key_point(b"k")), residency.find(key_point(b"unsized"))
        assert (key.size_bytes, key.is_given, unsized.is_given) == (SIZE, True, False)
    assert team.mirror.residency.find(key_point(b"k")).is_given


def test_sizes_that_cannot_be_are_believed_by_nobody():
    team = Team()
    for worker in range(2):
        say(team, worker, 1, (b"k", 2**50))
        team.check()
    residencies = [fleet.clusters["c"].data.locality.residency for fleet in team.workers]
    for residency in (*residencies, team.mirror.residency):
        key = residency.find(key_point(b"k"))
        assert (key.size_bytes, key.is_given) == (100e6, False)


def test_one_wrong_size_attracts_no_load():
    """400 requests, 100 at a time: who says that its data are 2^50 bytes gets no more than twice its share."""
    team = Team()
    team.workers = team.workers[:1]
    team.members(3)
    routing = team.workers[0].clusters["c"]
    say(team, 0, 0, (b"k", 2**50))
    facts, leases, counts = RequestFacts(data_keys=(b"k",)), [], [0, 0, 0]
    for _ in range(400):
        if len(leases) == 100:
            lease = leases.pop(0)
            lease.on_answer(200, None, now=team.world.now)
            lease.release(Outcome.OK, None, now=team.world.now)
        team.world.run(0.002)
        leases.append(routing.acquire(facts, now=team.world.now))
        counts[leases[-1].endpoint.spec.slot] += 1
    assert max(counts) < 280 and min(counts) > 0, counts


def test_invented_keys_drive_out_none_that_are_asked_for():
    team = Team()
    data = team.workers[0].clusters["c"].data
    data.locality.residency.limit(20)
    for name in KEYS:
        team.send(0, name)
        team.answer("hit or miss")
    for number in range(18):
        say(team, 0, 1, *((b"%d-%d" % (number, one), SIZE) for one in range(60)))
    team.settle()
    known = {key.point for key in data.locality.residency}
    assert len(known) == 20 and known >= {key_point(name) for name in KEYS}


def test_a_request_given_up_takes_nothing_from_others():
    team = Team()
    team.send(0, KEYS[0])
    team.send(0, KEYS[0])
    given_up = team.open.pop(0)
    team.answer("hit or miss")
    team.open.append(given_up)
    team.answer("fails")
    team.check()
    assert key_point(KEYS[0]) in {point for _, point in team.holders(1)}


def poll(team, slot, said):
    """Control asked the endpoint in `slot`, which answered with a complete list; the workers are told."""
    most_bytes = said.most_bytes(said.cache_bytes)
    for fleet in team.workers:
        data = fleet.clusters["c"].data
        data.on_report(slot, 0, said.cache_bytes, 0)
        for body in list_messages(fleet.clusters["c"].spec.slot, slot, said.resident, most_bytes):
            fleet.on_news(body)


def points_at(team, worker, slot):
    return {point for one, point in team.holders(worker) if one == slot}


def test_a_list_without_sizes_is_believed_whole():
    """1000 keys in 1 GiB have 1 MiB each: none is driven out by a guess of 10 MB."""
    team = Team()
    said = ResidencyList({key_point(b"l%d" % number): 0 for number in range(1000)}, cache_bytes=2**30)
    for _ in range(2):
        poll(team, 1, said)
        for worker in range(2):
            assert points_at(team, worker, 1) == set(said.resident)


def test_a_list_corrects_what_workers_believe():
    """What was let go of is told again; what is not in the list, though nobody told control of it, is dropped."""
    team = Team()
    said = ResidencyList({key_point(b"l%d" % number): 10 for number in range(3000)})
    poll(team, 1, said)
    data = team.workers[0].clusters["c"].data
    site = data._by_slot[1].site
    for key in list(site.holdings.kept)[::7]:
        site.holdings.drop(key)
    for number in range(50):
        site.holdings.touch(data.locality.residency.key(key_point(b"stale%d" % number)), 0.0)
    coming = data.locality.residency.key(key_point(b"coming"))
    site.holdings.touch(coming, 9.0)
    poll(team, 1, said)
    assert points_at(team, 0, 1) == {*said.resident, coming.point}
    poll(team, 1, ResidencyList({}))
    assert points_at(team, 0, 1) == {coming.point} and not points_at(team, 1, 1)
