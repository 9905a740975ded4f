"""What is known from afar: news of workers, lists of endpoints, what a new worker is told, what would be lost."""

import random
from math import exp

import pytest

from proxy.policy.mirror import HEAT_S, Mirror
from proxy.policy.news import GONE, LOST, NEWS_AT_ONCE, messages, parse_news

A, B = 3, 7


@pytest.fixture
def mirror():
    mirror = Mirror(100)
    mirror.update(100, {A, B})
    return mirror


def held(mirror):
    return sorted((slot, point) for point, slot, _ in mirror.news())


def test_news_make_the_picture(mirror):
    mirror.on_news([[1, A, 10], [2, A, 0], [1, B, 10], [9, 5, 10]], now=0.0)
    assert list(mirror.news()) == [(2, A, 0), (1, A, 10), (1, B, 10)]
    assert repr(mirror) == "Mirror(Residency(2 of 100 keys), 2 endpoints)"
    mirror.on_news([[2, A, 30], [1, A, GONE], [77, A, GONE]], now=1.0)
    assert list(mirror.news()) == [(1, B, 10), (2, A, 30)]
    mirror.on_news([[0, B, LOST], [2, B, 0]], now=2.0)
    assert list(mirror.news()) == [(2, A, 30), (2, B, 30)]


def test_what_was_told_of_last_is_told_last(mirror):
    mirror.on_news([[1, A, 1], [2, A, 1], [3, A, 1], [1, A, 1]], now=0.0)
    assert [point for point, _, _ in mirror.news()] == [2, 3, 1]


def test_it_is_bounded():
    mirror = Mirror(10)
    mirror.update(10, {A})
    mirror.on_news([[point, A, 5] for point in range(1000)], now=0.0)
    assert [point for point, _, _ in mirror.news()] == list(range(990, 1000))
    mirror.update(3, {A})
    assert [point for point, _, _ in mirror.news()] == [997, 998, 999]


def test_a_cache_has_a_size(mirror):
    mirror.on_news([[point, A, 10] for point in range(5)], now=0.0)
    mirror.limit(A, 30)
    assert held(mirror) == [(A, 2), (A, 3), (A, 4)]
    mirror.on_news([[8, A, 10]], now=0.0)
    assert held(mirror) == [(A, 3), (A, 4), (A, 8)]


def test_endpoints_that_leave_are_forgotten(mirror):
    mirror.on_news([[1, A, 10], [1, B, 10]], now=0.0)
    mirror.update(100, {B})
    assert held(mirror) == [(B, 1)]
    mirror.on_news([[1, A, 10]], now=0.0)
    assert held(mirror) == [(B, 1)]
    mirror.update(100, {A, B})  # another one in that slot
    assert held(mirror) == [(B, 1)]
    mirror.update(100, ())
    assert held(mirror) == [] and mirror.cost_of_losing(B, now=0.0) == 0.0


def test_what_changes_while_it_is_told(mirror):
    mirror.on_news([[1, A, 10], [2, A, 10], [3, A, 10]], now=0.0)
    news = mirror.news()
    assert next(news) == (1, A, 10)
    mirror.on_news([[2, A, GONE], [3, B, 0], [4, A, 1]], now=0.0)
    mirror.update(3, {A, B})
    assert list(news) == [(3, A, 10), (3, B, 10)]


# ---------------------------------------------------------------------- what endpoints say themselves


def test_a_list_corrects(mirror):
    mirror.on_news([[1, A, 10], [2, A, 10], [3, A, 0]], now=0.0)
    assert mirror.on_list(A, {2: 0, 3: 30, 4: 40}, True) == [(1, A, GONE), (3, A, 30), (4, A, 40)]
    assert held(mirror) == [(A, 2), (A, 3), (A, 4)]
    assert mirror.on_list(A, {2: 0, 3: 30, 4: 40}, True) == []
    assert mirror.on_list(A, {5: 0}, False) == [(5, A, 0)]
    assert mirror.on_list(99, {1: 1}, True) == []
    # Sizes that it gave are not learned any more.
    mirror.on_news([[4, A, 1234]], now=0.0)
    assert (4, A, 40) in list(mirror.news())


def test_a_list_takes_no_room():
    mirror = Mirror(4)
    mirror.update(4, {A, B})
    mirror.on_news([[1, A, 10], [2, A, 10], [3, A, 10]], now=0.0)
    assert mirror.on_list(B, {point: 10 for point in range(3, 100)}, True) == [(3, B, 10), (4, B, 10)]
    assert len(mirror.residency) == 4


# ---------------------------------------------------------------------- what would be lost


def test_only_sole_copies_are_lost(mirror):
    mirror.on_news([[1, A, 100], [2, A, 100], [2, B, 100]], now=0.0)
    assert mirror.cost_of_losing(A, now=0.0) == pytest.approx(100 * (1 - exp(-1)))
    assert mirror.cost_of_losing(B, now=0.0) == 0.0
    assert mirror.cost_of_losing(99, now=0.0) == 0.0


def test_copies_of_those_that_go_too_do_not_count(mirror):
    mirror.on_news([[1, A, 100], [1, B, 100]], now=0.0)
    assert mirror.cost_of_losing(A, {B}, now=0.0) == 0.0
    assert mirror.cost_of_losing(A, set(), now=0.0) == mirror.cost_of_losing(B, set(), now=0.0) > 0.0


def test_what_nobody_asks_for_costs_little(mirror):
    mirror.on_news([[1, A, 100]], now=0.0)
    mirror.on_news([[1, A, 100]], now=HEAT_S)
    heat = 1 + exp(-1)
    assert mirror.cost_of_losing(A, now=HEAT_S) == pytest.approx(100 * (1 - exp(-heat)))
    # Time that goes back changes nothing.
    assert mirror.cost_of_losing(A, now=0.0) == pytest.approx(100 * (1 - exp(-heat)))
    assert mirror.cost_of_losing(A, now=20 * HEAT_S) < 1e-5
    # What an endpoint lists, and nobody asked for, costs nothing.
    mirror.on_list(B, {5: 10**9}, True)
    assert mirror.cost_of_losing(B, now=HEAT_S) == 0.0


def test_steady_use_costs_the_whole_size(mirror):
    for second in range(60):
        mirror.on_news([[1, A, 100]], now=float(second))
    assert mirror.cost_of_losing(A, now=60.0) == pytest.approx(100.0)


def test_unknown_sizes_are_typical(mirror):
    mirror.on_news([[1, A, 0]], now=0.0)
    odds = 1 - exp(-1)
    assert mirror.cost_of_losing(A, now=0.0) == pytest.approx(odds)
    mirror.on_news([[2, A, 10], [3, A, 30]], now=0.0)
    assert mirror.cost_of_losing(A, now=0.0) == pytest.approx(odds * (20 + 10 + 30))


# ---------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": 1},
        {"data": "1", "news": []},
        {"data": True, "news": []},
        {"data": 1, "news": {}},
        {"data": 1, "news": [1]},
        {"data": 1, "news": ["abc"]},
        {"data": 1, "news": [[1, 2]]},
        {"data": 1, "news": [[1, 2, 3, 4]]},
        {"data": 1, "news": [[1, 2, 3], [1, 2, 3.0]]},
        {"data": 1, "news": [[True, 2, 3]]},
        {"data": 1, "news": [[1, None, 3]]},
        {"data": 1, "news": [[-1, 2, 3]]},
        {"data": 1, "news": [[2**64, 2, 3]]},
        {"data": 1, "news": [[1, 2, -3]]},
        {"data": 1, "news": [[1, 2, 2**50 + 1]]},
    ],
)
def test_nothing_is_believed(body):
    assert parse_news(body) is None


def test_messages():
    assert parse_news({"data": 4, "news": [[2**64 - 1, -1, -2], [0, 10**30, 2**50]]}) == (
        4,
        [[2**64 - 1, -1, -2], [0, 10**30, 2**50]],
    )
    news = [(point, A, 1) for point in range(NEWS_AT_ONCE + 1)]
    assert list(messages(2, iter(news))) == [{"data": 2, "news": news[:-1]}, {"data": 2, "news": news[-1:]}]
    assert list(messages(2, iter(()))) == []


def test_any_news():
    """Whatever comes, keys and holders agree and nothing grows."""
    rng = random.Random(5)
    mirror = Mirror(20)
    for step in range(3000):
        mirror.update(rng.choice((10, 20)), rng.sample(range(6), rng.randrange(6)))
        sizes = (GONE, LOST, 0, 1, 50)
        mirror.on_news(
            [[rng.randrange(30), rng.randrange(8), rng.choice(sizes)] for _ in range(4)], now=step / 10
        )
        slots = list(mirror._holdings)
        if slots and step % 3 == 0:
            listed = {rng.randrange(30): rng.choice((0, 7)) for _ in range(5)}
            mirror.on_list(rng.choice(slots), listed, rng.random() < 0.5)
            mirror.limit(rng.choice(slots), rng.choice((0, 60)))
        assert len(mirror.residency) <= 20
        assert len(list(mirror.news())) == sum(len(one.kept) for one in mirror._holdings.values())
        for holdings in mirror._holdings.values():
            assert holdings.held_bytes == pytest.approx(sum(key.size_bytes for key in holdings.kept))
            assert all(mirror.residency.find(key.point) is key for key in holdings.kept)
        assert all(mirror.cost_of_losing(slot, now=step / 10) >= 0.0 for slot in range(8))
