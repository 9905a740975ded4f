"""Locality as a state machine: whatever is asked, answered, given up and replaced, its books agree."""

from dataclasses import dataclass, field
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from proxy.model import RequestFacts
from proxy.policy.hashring import HashRing, ring_points
from proxy.policy.locality import LEAST_KEYS, Locality, LocalityParams
from proxy.policy.residency import MIN_GHOSTS
from proxy.policy.site import Placement, Site

TAGS = ("eu", "gpu")


@dataclass(eq=False)
class Member:
    number: int
    in_flight: int = 0
    site: Site = field(default_factory=Site)
    most_s: float = 0.0
    """Charged at once since it was idle."""


@dataclass
class Open:
    """A request in flight."""

    member: Member
    placement: Placement
    sent_at: float


facts = st.builds(
    RequestFacts,
    data_keys=st.lists(st.integers(0, 30).map(b"%d".__mod__), max_size=4, unique=True).map(tuple),
    tags=st.just(frozenset()),
    size_bytes=st.none() | st.sampled_from([1, 1000, 10**7, 2**50]),
    work_class=st.sampled_from([b"", b"etl", b"scan"]),
    require=st.sets(st.sampled_from(TAGS), max_size=1).map(frozenset),
    prefer=st.lists(st.tuples(st.sampled_from(TAGS), st.floats(0, 9)), max_size=2).map(tuple),
)
params = st.builds(
    LocalityParams,
    max_keys=st.sampled_from([1, 20, 50_000]),
    max_load_percent=st.sampled_from([0, 101, 300]),
    sizes=st.just(()) | st.just(((b"1", 10**6), (b"2", 2**50))),
)
# 20 endpoints at most, of which any may be there.
fleets = st.integers(1, 2**20 - 1)


class Books(RuleBasedStateMachine):
    opens = Bundle("opens")

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.known = [self.made(number) for number in range(20)]
        self.members = tuple(self.known[:3])
        self.locality = Locality(LocalityParams(), Random(1))
        self.open = []
        self.update(LocalityParams(), 0b111, 0)

    @staticmethod
    def made(number):
        member = Member(number)
        member.site.tags = frozenset(tag for bit, tag in enumerate(TAGS) if number >> bit & 1)
        member.site.distance_s = 0.01 * (number % 3)
        return member

    @rule(params=params, fleet=fleets, replaced=fleets)
    def update(self, params, fleet, replaced):
        """Others are there, some of them new at an old place."""
        for number, member in enumerate(self.known):
            if replaced >> number & 1 and not member.in_flight:
                self.known[number] = self.made(number)
        self.members = tuple(member for member in self.known if fleet >> member.number & 1)
        ring = HashRing(
            ring_points(tuple(str(each.number) for each in self.members)), [1] * len(self.members)
        )
        self.locality.update(params, self.members, ring)
        self.locality.refresh(self.members)

    @rule(seconds=st.sampled_from([-1.0, 0.001, 0.1, 5.0]))
    def pass_time(self, seconds):
        self.now += seconds
        self.locality.refresh(self.members)

    @rule(
        number=st.integers(0, 19),
        slots=st.sampled_from([0, 1, 4]),
        cache_bytes=st.sampled_from([0, 1, 10**7, 10**9]),
        speed=st.sampled_from([0.0, 1.0, 1e8]),
    )
    def say(self, number, slots, cache_bytes, speed):
        self.known[number].site.update(slots=slots, cache_bytes=cache_bytes, bandwidth_bytes_per_s=speed)

    @rule(target=opens, facts=facts, among=fleets, times=st.integers(1, 20))
    def send(self, facts, among, times):
        candidates = tuple(member for member in self.members if among >> member.number & 1)
        allowed = [member for member in candidates if facts.require <= member.site.tags]
        sent = []
        for _ in range(times):
            chosen = self.locality.choose(candidates, facts, now=self.now)
            if not allowed:
                assert chosen is None
                return multiple()
            assert chosen in allowed
            sent.append(self.placed(chosen, facts))
        return multiple(*sent)

    @rule(target=opens, facts=facts, number=st.integers(0, 19))
    def send_by_others_choice(self, facts, number):
        """As stickiness does."""
        return self.placed(self.members[number % len(self.members)], facts)

    def placed(self, member, facts):
        placement = self.locality.place(member, facts, now=self.now)
        member.in_flight += 1
        self.open.append(Open(member, placement, self.now))
        return self.open[-1]

    @rule(
        which=consumes(opens),
        took_s=st.none() | st.sampled_from([0.0, 0.02, 0.1, 60.0]),
        is_hit=st.sampled_from([None, True, False]),
        is_failed=st.booleans(),
    )
    def end(self, which, took_s, is_hit, is_failed):
        self.open.remove(which)
        which.member.in_flight -= 1
        if took_s is not None:
            found = self.locality.on_answer(which.placement, took_s, is_hit, now=self.now)
            assert is_hit is None or found is is_hit
        self.locality.on_end(which.placement, is_failed, now=self.now)

    @rule(facts=facts)
    def explain(self, facts):
        for member in self.members:
            forecast = self.locality.forecast(member, facts, now=self.now)
            assert min(forecast.terms) >= 0.0
            assert 0.0 < forecast.success <= 1.0
            assert forecast.score_s() >= forecast.score_s(is_trusted=False) >= 0.0

    @rule(facts=facts, one=st.integers(0, 19), other=st.integers(0, 19))
    def choose_as_explained(self, facts, one, other):
        """Of two all are looked at, and what is chosen is what `forecast` says is best."""
        count = len(self.members)
        candidates = tuple(dict.fromkeys((self.members[one % count], self.members[other % count])))
        allowed = [each for each in candidates if facts.require <= each.site.tags]
        if allowed and len(facts.data_keys) == 0:
            chosen = self.locality.choose(candidates, facts, now=self.now)
            scores = {each: self.score(each, facts) for each in allowed}
            is_overloaded, score_s = min(scores.values())
            assert scores[chosen] <= (is_overloaded, score_s * (1 + 1e-9))

    def score(self, member, facts):
        """What is compared."""
        forecast = self.locality.forecast(member, facts, now=self.now)
        return forecast.is_overloaded, forecast.score_s(self.locality.learning.is_trusted)

    @invariant()
    def charges_are_released(self):
        for member in self.known:
            charged = sum(each.placement.charge_s for each in self.open if each.member is member)
            member.most_s = max(member.most_s, charged) if member.in_flight else 0.0
            # Up to 2^50 bytes at a byte a second are added and taken away.
            assert abs(member.site.work_s - charged) <= 1e-12 * member.most_s
            if not member.in_flight:
                assert not member.site._line

    @invariant()
    def holders_and_lists_agree(self):
        residency = self.locality.residency
        present = {member.site.holdings for member in self.members}
        keys = list(residency)
        assert len(keys) <= max(residency.max_keys, LEAST_KEYS)
        assert {key.point for key in keys} == residency._keys.keys()
        for holdings in {member.site.holdings for member in self.known}:
            assert set(holdings.kept) == {key for key in keys if holdings in key.holders}
            total = sum(key.size_bytes for key in holdings.kept)
            assert abs(holdings.held_bytes - total) <= 1e-9 * 2**50
            assert all(key.size_bytes > 0.0 for key in holdings.kept)
            if len(holdings.kept) > 1 and holdings.capacity_bytes:
                assert holdings.held_bytes <= holdings.capacity_bytes
            assert len(holdings._ghosts) <= max(MIN_GHOSTS, 2 * len(keys))
            assert not holdings._ghosts.keys() & holdings.kept.keys()
        for key in keys:
            assert len(set(key.holders)) == len(key.holders)
            assert present.issuperset(key.holders)

    @invariant()
    def what_is_learned_makes_sense(self):
        learning = self.locality.learning
        assert learning.typical_bytes > 0.0
        for member in self.known:
            assert member.site.s_per_byte > 0.0
            assert member.site.pace.service_s > 0.0
            assert member.site.pace.slots >= 1

    def teardown(self):
        for each in list(self.open):
            self.end(each, None, None, False)
        self.charges_are_released()


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=80, stateful_step_count=30, deadline=None, derandomize=True)
