"""Sizes, speeds, processing types and trust, learned from answers. One endpoint's hits take 20 ms."""

from random import Random

import pytest

from proxy.policy.learning import (
    CLASS_WEIGHT,
    FIRST_TRANSFER_S,
    JUDGED_AFTER,
    LEARN_S,
    LEAST_CLASS,
    LEVEL_EVERY,
    MOST_CLASSES,
    MOST_RATIO,
    SIZE_WEIGHT,
    SIZE_WEIGHT_WAITED,
    Learning,
)
from proxy.policy.pace import LEAST_S
from proxy.policy.residency import LOST_AFTER, Residency
from proxy.policy.site import FIRST_BANDWIDTH, Placement, Site, Terms

WORK_S = 0.02


class World:
    """A cluster whose endpoints are known to need 20 ms."""

    def __init__(self, endpoints=2, slots=1):
        self.residency = Residency(10_000)
        self.learning = Learning(self.residency)
        self.sites = [Site() for _ in range(endpoints)]
        for site in self.sites:
            site.pace.limit(slots)
            site.pace.service_s = WORK_S
            site.pace.is_known = True
        self.learning.sites = self.sites

    def key(self, point, size_bytes=10e6, samples=0, is_given=False):
        key = self.residency.key(point)
        self.residency.resize(key, size_bytes)
        key.samples, key.is_given = samples, is_given
        return key

    def place(
        self, *keys, site=0, now=0.0, missing=None, others=0, work_class=b"", joining=False, terms=None
    ):
        """As the choice does; `missing` are by default those that are not held, `terms` what was seen then."""
        site = self.sites[site]
        lacking = [key for key in keys if key not in site.holdings.kept] if missing is None else missing
        transfer_s = sum(key.size_bytes for key in lacking) * site.s_per_byte
        terms = terms or Terms(0.0, transfer_s, 0.0, 0.0, site.service_s(work_class))
        placement = Placement(site, others, keys, work_class, terms)
        for key in keys:
            if key in lacking:
                placement.missing.append(key)
                placement.had_left |= site.holdings.has_left(key)
            site.holdings.touch(key, now + transfer_s)
        placement.is_joining = joining
        site.on_sent(placement, now=now)
        return placement

    def answer(self, placement, took_s, is_hit=None, sent_at=0.0):
        placement.site.learn_at = (
            0.0  # every answer teaches here; that most do not have to is a test of its own
        )
        found = self.learning.on_answer(placement, took_s, is_hit, now=sent_at + took_s)
        placement.site.on_ended(placement, now=sent_at + took_s)
        return found


@pytest.fixture
def world():
    return World()


def test_expected_answers_teach_now_and_then(world):
    key = world.key(1)
    world.answer(world.place(key), 0.12, is_hit=False)
    first, second, third = (world.place(key) for _ in range(3))
    before = world.learning.judged
    for placement, now in ((first, 1.0), (second, 1.0 + LEARN_S / 2), (third, 1.0 + LEARN_S)):
        assert world.learning.on_answer(placement, 0.02, True, now=now)
    assert world.learning.judged == before + 2
    # What is not as expected always does.
    for number in range(3):
        assert not world.learning.on_answer(world.place(key), 0.12, False, now=1.0 + LEARN_S)
        assert world.learning.judged == before + 3 + number


def test_at_first():
    learning = Learning(Residency(1))
    assert learning.typical_bytes == FIRST_TRANSFER_S * FIRST_BANDWIDTH == 1e7
    assert learning.is_trusted
    assert repr(learning) == "Learning(error 0.0000 s, plain 0.0000 s, 0 judged)"


# ---------------------------------------------------------------------- sizes


def test_the_first_miss_says_the_size(world):
    """120 ms instead of 20: 100 ms at 100 MB/s are 10 MB, whatever was guessed."""
    key = world.key(1, size_bytes=77e6)
    assert world.answer(world.place(key), 0.12, False) is False
    assert key.size_bytes == pytest.approx(10e6)
    assert key.samples == 1
    assert world.sites[0].s_per_byte == 1 / FIRST_BANDWIDTH  # nothing to compare with
    assert world.sites[0].holdings.held_bytes == key.size_bytes


def test_later_misses_move_size_and_speed(world):
    """A transfer of 200 ms where 100 were foretold. The speed is the first sample's half: 1 + 1/2 · (2 - 1) = 1.5 times
    slower; at that it was 10 · 2/1.5 MB, of which 3 parts of 10 are believed."""
    key = world.key(1, samples=1)
    world.answer(world.place(key), WORK_S + 0.2, False)
    assert world.sites[0].s_per_byte == pytest.approx(1.5 / FIRST_BANDWIDTH)
    assert key.size_bytes == pytest.approx(10e6 * (1 + SIZE_WEIGHT * (2 / 1.5 - 1)))
    assert key.samples == 2


@pytest.mark.parametrize(("samples", "weight"), [(0, SIZE_WEIGHT), (1, SIZE_WEIGHT_WAITED)])
def test_a_request_that_waited_says_less(world, samples, weight):
    """All slots were taken when it came; it had one from 1 to 1.22 s."""
    key = world.key(1, samples=samples)
    first = world.place()
    placement = world.place(key, others=1)
    world.answer(first, 1.0)
    world.answer(placement, 1.22, False)
    assert key.size_bytes == pytest.approx(10e6 * (1 + weight * (2 - 1)))
    assert world.sites[0].s_per_byte == 1 / FIRST_BANDWIDTH  # and nothing of the speed


def test_a_given_size_stays(world):
    key = world.key(1, is_given=True)
    for _ in range(30):
        world.answer(world.place(key, missing=[key]), WORK_S + 0.4, False)
    assert key.size_bytes == 10e6
    assert world.sites[0].s_per_byte == pytest.approx(4 / FIRST_BANDWIDTH, rel=0.01)


@pytest.mark.parametrize("size_bytes", [1.0, 2.0**50])
def test_a_given_size_that_is_a_lie_is_learned(world, size_bytes):
    """A transfer of 100 ms: 10 MB. Nothing is learned of the endpoint."""
    key = world.key(1, size_bytes, is_given=True)
    world.answer(world.place(key), WORK_S + 0.1, False)
    assert (key.size_bytes, key.is_given, key.samples) == (pytest.approx(10e6), False, 1)
    assert world.sites[0].s_per_byte == 1 / FIRST_BANDWIDTH
    assert world.learning.typical_bytes == pytest.approx(10e6)


@pytest.mark.parametrize(
    ("said", "unseen", "seen"),
    [
        (1.0, 1.0, 10e6),
        (9e3, 9e3, 10e6),
        (11e3, 11e3, 11e3),
        (1.1e6, 1.1e6, 1.1e6),
        (40e6, 40e6, 40e6),
        (9e9, 100e6, 9e9),
        (11e9, 100e6, 10e6),
        (2.0**50, 100e6, 10e6),
    ],
)
def test_what_counts_of_a_size_that_is_said(world, said, unseen, seen):
    """At most ten times the typical 10 MB before a transfer was seen; then what is within 1000 times."""
    key = world.key(1)
    assert world.learning.believed_bytes(key, said) == unseen
    world.answer(world.place(key), WORK_S + 0.1, False)
    assert world.learning.believed_bytes(key, said) == pytest.approx(seen)


@pytest.mark.parametrize(("size_bytes", "transfer_s"), [(90e6, 1e-6), (2e6, 50.0)])
def test_a_given_size_that_is_typical_is_no_lie(world, size_bytes, transfer_s):
    """What is thousands of times off then is the speed."""
    key = world.key(1, size_bytes, is_given=True)
    before = world.sites[0].s_per_byte
    world.answer(world.place(key), WORK_S + transfer_s, False)
    assert (key.size_bytes, key.is_given) == (size_bytes, True)
    assert (world.sites[0].s_per_byte < before) is (transfer_s < 1)


def test_a_size_that_takes_no_time_may_still_be_what_it_is(world):
    """Where transfers seem free all sizes seem to be next to nothing; up to 100 MB may still be said."""
    key = world.key(1, 100.0, samples=9)
    assert world.learning.believed_bytes(key, 5e6) == 5e6
    assert world.learning.believed_bytes(key, 101e6) == 100.0


def test_a_given_size_that_is_seen_counts_as_seen(world):
    key = world.key(1, is_given=True)
    world.answer(world.place(key), WORK_S + 0.1, False)
    assert (key.is_given, key.samples) == (True, 1)


def test_of_several_keys_those_that_were_given_may_be_the_lie(world):
    lie, seen = world.key(1, 2.0**50, is_given=True), world.key(2, samples=5)
    world.answer(world.place(lie, seen), WORK_S + 0.2, False)
    assert (lie.is_given, seen.samples) == (False, 6)
    assert lie.size_bytes < 1e9


def test_several_keys_share_a_transfer(world):
    """30 MB seen where 10 and 5 were believed: twice as much of each."""
    one, two = world.key(1, 10e6), world.key(2, 5e6)
    world.answer(world.place(one, two), WORK_S + 0.3, False)
    assert (one.size_bytes, two.size_bytes) == (pytest.approx(20e6), pytest.approx(10e6))
    assert world.learning.typical_bytes == pytest.approx(15e6)


def test_only_those_that_were_missing_are_measured(world):
    here, there = world.key(1), world.key(2)
    world.sites[0].holdings.touch(here, 0.0)
    world.answer(world.place(here, there), WORK_S + 0.3, False)
    assert (here.size_bytes, here.samples) == (10e6, 0)
    assert there.size_bytes == pytest.approx(30e6)


def test_a_miss_as_fast_as_a_hit_has_next_to_no_data(world):
    key = world.key(1)
    world.answer(world.place(key), 0.001, False)
    assert key.size_bytes == pytest.approx(LEAST_S * FIRST_BANDWIDTH)
    for _ in range(200):
        world.answer(world.place(key, missing=[key]), 0.001, False)
    assert key.size_bytes >= 1.0
    assert world.sites[0].s_per_byte > 0.0


def test_what_is_typical(world):
    """The first miss replaces the guess, then each counts like the others until 2 % is more."""
    for point, took_s in enumerate([0.1, 0.3, 0.2]):
        world.answer(world.place(world.key(point)), WORK_S + took_s, False)
    assert world.learning.typical_bytes == pytest.approx(20e6)


# ---------------------------------------------------------------------- speeds


def test_one_sample_says_no_more_than_ten_times(world):
    key = world.key(1, samples=1)
    world.answer(world.place(key), WORK_S + 1e6, False)
    assert world.sites[0].s_per_byte == pytest.approx((1 + 0.5 * (MOST_RATIO - 1)) / FIRST_BANDWIDTH)
    world = World()
    key = world.key(1, samples=1)
    world.answer(world.place(key), WORK_S, False)
    assert world.sites[0].s_per_byte == pytest.approx((1 + 0.5 * (1 / MOST_RATIO - 1)) / FIRST_BANDWIDTH)


def test_a_given_speed_stays(world):
    site = world.sites[0]
    site.update(slots=1, cache_bytes=0, bandwidth_bytes_per_s=1e6)
    key = world.key(1, samples=1)
    for _ in range(40):
        world.answer(world.place(key, missing=[key]), WORK_S + 3.0, False)
    assert site.s_per_byte == 1e-6
    assert key.size_bytes == pytest.approx(3e6, rel=0.01)


def learn(world, sizes, seconds_per_byte, rounds=60, seed=1, is_given=lambda key: False):
    """Misses in random order, of each key at each endpoint."""
    rng = Random(seed)
    keys = [
        world.key(point, size if is_given(point) else 10e6, is_given=is_given(point))
        for point, size in enumerate(sizes)
    ]
    for _ in range(rounds):
        pairs = [(key, site) for key in keys for site in range(len(world.sites))]
        rng.shuffle(pairs)
        for key, site in pairs:
            noise = rng.uniform(0.8, 1.2)
            took_s = WORK_S + sizes[key.point] * seconds_per_byte[site] * noise
            world.answer(world.place(key, site=site, missing=[key]), took_s, False)
    return keys


def test_a_slow_endpoint_is_told_from_large_data():
    """One of four gets data at a quarter of the speed; sizes differ by 1 : 8. Only ratios can be known."""
    world = World(endpoints=4)
    sizes = [5e6, 10e6, 20e6, 40e6]
    keys = learn(world, sizes, [2e-8, 2e-8, 2e-8, 8e-8])
    speeds = [site.s_per_byte for site in world.sites]
    assert speeds[3] / speeds[0] == pytest.approx(4, rel=0.2)
    assert keys[3].size_bytes / keys[0].size_bytes == pytest.approx(8, rel=0.2)
    for key, size in zip(keys, sizes, strict=True):
        assert key.size_bytes * speeds[0] == pytest.approx(size * 2e-8, rel=0.2)
    assert sorted(speeds)[1] == pytest.approx(1 / FIRST_BANDWIDTH, rel=0.3)  # it does not drift


def test_given_sizes_make_speeds_true():
    world = World(endpoints=2)
    learn(world, [5e6, 10e6, 20e6], [2e-9, 8e-9], is_given=lambda point: True)
    assert [site.s_per_byte for site in world.sites] == pytest.approx([2e-9, 8e-9], rel=0.2)


def test_some_given_sizes_make_the_others_true():
    """Half of the keys have a size: speeds are not brought back to a typical one that nobody needs to make up."""
    world = World(endpoints=2)
    sizes = [5e6, 10e6, 20e6, 40e6]
    keys = learn(world, sizes, [2e-9, 8e-9], is_given=lambda point: point % 2 == 0)
    assert [site.s_per_byte for site in world.sites] == pytest.approx([2e-9, 8e-9], rel=0.25)
    assert [key.size_bytes for key in keys] == pytest.approx(sizes, rel=0.25)


def test_one_given_speed_makes_the_others_true():
    world = World(endpoints=2)
    world.sites[0].update(slots=1, cache_bytes=0, bandwidth_bytes_per_s=5e8)
    sizes = [5e6, 10e6, 20e6]
    keys = learn(world, sizes, [2e-9, 1e-9])
    assert world.sites[1].s_per_byte == pytest.approx(1e-9, rel=0.25)
    assert [key.size_bytes for key in keys] == pytest.approx(sizes, rel=0.25)


def test_nothing_is_levelled_without_endpoints(world):
    world.learning.sites = ()
    key = world.key(1)
    for _ in range(LEVEL_EVERY):
        world.answer(world.place(key, missing=[key]), WORK_S + 0.1, False)
    assert world.learning.sites == ()


def test_where_all_speeds_are_given_none_is_levelled(world):
    for site in world.sites:
        site.update(slots=1, cache_bytes=0, bandwidth_bytes_per_s=5e6)
    key = world.key(1)
    for _ in range(LEVEL_EVERY):
        world.answer(world.place(key, missing=[key]), WORK_S + 0.1, False)
    assert {site.s_per_byte for site in world.sites} == {2e-7}


# ---------------------------------------------------------------------- hits and misses


def test_a_hit_teaches_the_pace(world):
    world.sites[0].pace.is_known = False
    key = world.key(1, samples=1)
    world.sites[0].holdings.touch(key, 0.0)
    assert world.answer(world.place(key), 0.5, True) is True
    assert world.sites[0].pace.service_s == pytest.approx(0.5)


def test_a_request_without_keys_teaches_the_pace(world):
    for is_hit in (None, True, False):  # what it says of data that nobody named means nothing
        world.answer(world.place(), 0.5, is_hit)
    assert world.sites[0].pace.service_s == pytest.approx(0.5)
    assert world.learning.typical_bytes == 1e7


def test_what_waited_for_data_on_their_way_teaches_nothing(world):
    key = world.key(1, samples=1)
    world.sites[0].holdings.touch(key, 9.0)
    world.answer(world.place(key, joining=True), 5.0, True)
    assert world.sites[0].pace.service_s == WORK_S
    assert world.sites[0].holdings.kept[key] == 0.0  # but they are there now


def test_an_unexpected_miss_shortens_the_list(world):
    key, other = world.key(1, samples=1), world.key(2)
    holdings = world.sites[0].holdings
    holdings.touch(key, 0.0)
    holdings.touch(other, 0.0)
    world.answer(world.place(key), WORK_S + 0.1, False)
    assert holdings.capacity_bytes == 15e6


def test_an_expected_miss_does_not(world):
    holdings = world.sites[0].holdings
    world.answer(world.place(world.key(1)), WORK_S + 0.1, False)
    assert holdings.capacity_bytes == 0.0


def test_an_unexpected_hit_lengthens_the_list(world):
    holdings = world.sites[0].holdings
    first, second = world.key(1), world.key(2)
    for key in (first, second):
        holdings.touch(key, 0.0)
    holdings.on_miss(second)  # 15 MB: the first leaves
    assert holdings.has_left(first)
    world.answer(world.place(first), WORK_S, True)
    assert holdings.capacity_bytes == 30e6


def test_misses_of_data_on_their_way_are_no_surprise(world):
    """Services that fetch for each request alone say `miss` to all that come while the first one fetches."""
    holdings = world.sites[0].holdings
    others = [world.key(point) for point in range(100, 110)]
    for other in others:
        holdings.touch(other, 0.0)
    key = world.key(1)
    first = world.place(key)
    joined = [world.place(key, joining=True, others=number) for number in range(1, 2 * LOST_AFTER)]
    for placement in (first, *joined):
        world.answer(placement, WORK_S + 0.1, False)
    assert holdings.capacity_bytes == 0.0
    assert all(other in holdings.kept for other in others)


# ---------------------------------------------------------------------- answers that say nothing


@pytest.mark.parametrize(
    ("transfer_s", "expected"), [(0.0, True), (0.059, True), (0.061, False), (0.1, False), (50.0, False)]
)
def test_silent_answers_by_their_time(world, transfer_s, expected):
    """Data that should be there, 100 ms to fetch: from 60 % of that on they were not."""
    key = world.key(1, samples=1)
    world.sites[0].holdings.touch(key, 0.0)
    assert world.answer(world.place(key), WORK_S + transfer_s) is expected


def test_silent_answers_where_data_are_not_expected(world):
    key = world.key(1)
    assert world.answer(world.place(key), WORK_S) is False


def test_silent_answers_with_data_that_had_left(world):
    holdings = world.sites[0].holdings
    for is_late, expected in ((False, True), (True, False)):
        key, other = world.key(1, samples=1), world.key(2, samples=1)
        holdings.limit(15e6)
        holdings.touch(key, 0.0)
        holdings.touch(other, 0.0)
        assert holdings.has_left(key)
        assert world.answer(world.place(key), WORK_S + 0.1 * is_late) is expected


def test_silent_answers_of_unknown_size_or_after_a_wait_are_taken_for_hits(world):
    unknown, known = world.key(1), world.key(2, samples=1)
    for key in (unknown, known):
        world.sites[0].holdings.touch(key, 0.0)
    assert world.answer(world.place(unknown), 5.0) is True
    assert world.answer(world.place(known, others=1), 5.0) is True


# ---------------------------------------------------------------------- processing types


def test_a_processing_type_takes_its_time(world):
    """Three times as long as the others, in steps of a tenth of the difference."""
    site = world.sites[0]
    world.answer(world.place(work_class=b"etl"), 3 * WORK_S)
    assert site.classes[b"etl"] == pytest.approx(1 + CLASS_WEIGHT * 2)
    for _ in range(100):
        world.answer(world.place(work_class=b"etl"), 3 * site.pace.service_s)
    assert site.classes[b"etl"] == pytest.approx(3, rel=0.05)
    assert site.service_s(b"etl") == pytest.approx(3 * site.pace.service_s, rel=0.05)


def test_what_a_type_takes_elsewhere_is_the_first_guess(world):
    world.learning._classes[b"etl"] = 5.0
    world.answer(world.place(site=1, work_class=b"etl"), 5 * WORK_S)
    assert world.sites[1].classes[b"etl"] == pytest.approx(5)


def test_an_unknown_pace_is_no_measure_for_types(world):
    world.sites[0].pace.is_known = False
    world.answer(world.place(work_class=b"etl"), 9.0)
    assert world.sites[0].classes == {b"etl": 1.0}
    assert world.sites[0].pace.service_s == pytest.approx(9.0)


def test_types_have_a_floor(world):
    for _ in range(200):
        world.answer(world.place(work_class=b"noop"), 0.0)
        world.sites[0].pace.service_s = 1e6
    assert world.sites[0].classes[b"noop"] == LEAST_CLASS


def test_types_are_bounded(world):
    for number in range(3 * MOST_CLASSES):
        world.answer(world.place(work_class=b"%d" % number), WORK_S)
    assert len(world.learning._classes) == len(world.sites[0].classes) == MOST_CLASSES
    assert world.learning.forgotten_types == 2 * MOST_CLASSES


def test_invented_types_take_nothing_from_those_in_use(world):
    for number in range(3 * MOST_CLASSES):
        world.answer(world.place(work_class=b"%d" % number), WORK_S)
        if number % 20 == 0:
            world.answer(world.place(work_class=b"slow"), 10 * WORK_S)
    assert world.sites[0].classes[b"slow"] > 3.0


@pytest.mark.parametrize("said", [1.0, 2.0**50])
@pytest.mark.parametrize("samples", [0, 5])
def test_a_speed_that_is_a_lie_is_learned(world, said, samples):
    """Transfers of 100 ms, of 10 MB each: 100 MB/s."""
    site = world.sites[0]
    site.hear_speed(said)
    for point in range(40):
        site.hear_speed(said)
        key = world.key(point, samples=samples)
        world.answer(world.place(key), WORK_S + 0.1, False)
        assert 1e6 < key.size_bytes < 1e8
    assert not site.is_speed_given
    assert site.s_per_byte == pytest.approx(1 / FIRST_BANDWIDTH)
    assert world.learning.typical_bytes == pytest.approx(10e6)


def test_a_speed_that_is_about_true_stays_as_it_is_said(world):
    site = world.sites[0]
    site.hear_speed(3e8)
    for point in range(40):
        # One in three is far off, as when others take the network.
        worked_s = 1.0 if point % 3 == 0 else 0.05
        world.answer(world.place(world.key(point, samples=5)), WORK_S + worked_s, False)
    assert site.is_speed_given and site.s_per_byte == 1 / 3e8


def test_types_do_not_blur_the_slots():
    """Half of the requests take 100 ms and half 10; one slot, known times with it. The wait is everybody's: only the
    work is divided by how much longer the type takes."""
    world = World(endpoints=1, slots=0)
    site, rng = world.sites[0], Random(1)
    site.pace.slots = 1
    for _ in range(1500):
        queue = [rng.choice([0.01, 0.1]) for _ in range(rng.randrange(1, 6))]
        placements = [
            world.place(others=number, work_class=b"long" if work_s > 0.05 else b"short")
            for number, work_s in enumerate(queue)
        ]
        ends = 0.0
        for placement, work_s in zip(placements, queue, strict=True):
            ends += work_s
            world.answer(placement, ends)
    assert site.pace.slots == 1
    assert site.service_s(b"long") == pytest.approx(0.1, rel=0.25)
    assert site.service_s(b"short") == pytest.approx(0.01, rel=0.5)


# ---------------------------------------------------------------------- trust


def test_errors_by_hand(world):
    """Foretold 20 ms of work: errors of 0, 40 and 20 ms have a mean of 20. Taken for the mean of those before: 40 and
    0, which has the weights 1/2 and 1/3."""
    for took_s in (0.02, 0.06, 0.04):
        world.answer(world.place(terms=Terms(0.0, 0.0, 0.0, 0.0, 0.02)), took_s)
    learning = world.learning
    assert learning.error_s == pytest.approx(0.02)
    assert learning.plain_s == pytest.approx(0.04)
    assert learning.plain_error_s == pytest.approx(0.04 / 2 * 2 / 3)
    assert learning.judged == 3


def test_one_wild_prediction_does_not_outweigh_hundreds(world):
    """A year where 20 ms were right counts ten times what the plain model is wrong by."""
    rng = Random(1)
    for _ in range(200):
        told(world, rng, is_right=True)
    world.answer(world.place(terms=Terms(0.0, 3e7, 0.0, 0.0, WORK_S)), 0.12)
    assert world.learning.is_trusted
    assert world.learning.error_s < 0.02 * 10 * 0.08


def told(world, rng, *, is_right):
    """An answer of 20 or 120 ms, which was foretold rightly or the other way round."""
    is_long = rng.random() < 0.5
    transfer_s = 0.1 if is_long == is_right else 0.0
    world.answer(world.place(terms=Terms(0.0, transfer_s, 0.0, 0.0, WORK_S)), 0.12 if is_long else 0.02)


def test_predictions_that_are_worse_than_none_are_left_out_until_they_are_better(world):
    rng = Random(1)
    for _ in range(JUDGED_AFTER - 1):
        told(world, rng, is_right=False)
        assert world.learning.is_trusted
    told(world, rng, is_right=False)
    assert not world.learning.is_trusted
    for _ in range(100):
        told(world, rng, is_right=True)
    assert world.learning.is_trusted


def test_predictions_that_are_right_are_trusted(world):
    rng = Random(1)
    for _ in range(300):
        told(world, rng, is_right=True)
        assert world.learning.is_trusted
    assert world.learning.error_s == pytest.approx(0, abs=1e-9)


def test_predictions_that_are_a_little_worse_stay_in_but_do_not_come_back(world):
    """Between as good and 1.25 times as bad nothing changes."""
    learning = world.learning
    for is_trusted in (True, False):
        learning.judged, learning.is_trusted = 1000, is_trusted
        learning.error_s, learning.plain_error_s, learning.plain_s = 0.0112, 0.0100, 0.02
        world.answer(world.place(), 0.02)
        assert learning.is_trusted is is_trusted
