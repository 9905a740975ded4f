"""The bench of news: workers know what each other sent, and overflow is counted."""

import pytest

from loadtests.news import Exchange, _Clock, key_bytes, run
from proxy.policy.news import NEWS_AT_ONCE
from proxy.scoreboard import K_NEWS_DROPPED, K_NEWS_SENT


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_all_are_told(workers):
    clock = _Clock()
    exchange = Exchange(workers, clock)
    assert run(exchange, clock, keys=50, zipf=1.0, rate=500.0, seconds=1.0) > 0
    clock.now += 1.0
    exchange.turn()
    known = {len(one.data.locality.residency) for one in exchange.clusters}
    known.add(len(exchange.control.mirror(0).residency))
    assert len(known) == 1
    assert exchange.words(K_NEWS_SENT) >= len(known) and exchange.words(K_NEWS_DROPPED) == 0
    exchange.close()


def test_what_does_not_fit_is_counted():
    clock = _Clock()
    exchange = Exchange(1, clock)
    run(exchange, clock, keys=100_000, zipf=0.0, rate=100_000.0, seconds=0.06)
    clock.now += 1.0
    exchange.turn()
    sent, dropped = exchange.words(K_NEWS_SENT), exchange.words(K_NEWS_DROPPED)
    assert sent >= NEWS_AT_ONCE and dropped > 1000 and sent + dropped > 5000
    assert len(exchange.control.mirror(0).residency) <= sent
    exchange.close()


def test_memory_of_a_key():
    """The configuration says 400 to 600 bytes."""
    assert 300 < key_bytes(2_000) < 600
