"""Rise and fall of active checks. Times are seconds; `+` is a passed check, `-` a failed one."""

from random import Random

import pytest

from proxy.policy.health import NO_WORD, Health, HealthParams, HealthState, ServiceWord, service_word

EXACT = HealthParams(
    interval_s=30, unhealthy_interval_s=5, unhealthy_after=3, healthy_after=2, jitter_percent=0
)


def checked(checks, params=EXACT):
    health = Health(params, Random(1), now=0)
    flips = [health.record(check == "+", now=second) for second, check in enumerate(checks)]
    return health, flips


@pytest.mark.parametrize(
    ("checks", "state", "flipped_at"),
    [
        ("", HealthState.UNKNOWN, []),
        ("+", HealthState.HEALTHY, [0]),  # the first decides alone
        ("-", HealthState.UNHEALTHY, [0]),
        ("+--", HealthState.HEALTHY, [0]),
        ("+---", HealthState.UNHEALTHY, [0, 3]),
        ("+--+--", HealthState.HEALTHY, [0]),  # in a row
        ("+----", HealthState.UNHEALTHY, [0, 3]),
        ("-+", HealthState.UNHEALTHY, [0]),
        ("-++", HealthState.HEALTHY, [0, 2]),
        ("-+-++", HealthState.HEALTHY, [0, 4]),
        ("+---++---", HealthState.UNHEALTHY, [0, 3, 5, 8]),
    ],
)
def test_rise_and_fall(checks, state, flipped_at):
    health, flips = checked(checks)
    assert health.state is state
    assert [second for second, flipped in enumerate(flips) if flipped] == flipped_at


@pytest.mark.parametrize(
    ("checks", "pause_s"),
    [("+", 30), ("+-", 5), ("+-+", 30), ("+---", 5), ("+---+", 5), ("+---++", 30), ("-", 5)],
)
def test_checks_come_sooner_while_in_doubt(checks, pause_s):
    health, _ = checked(checks)
    assert health.next_at() == len(checks) - 1 + pause_s


def test_the_first_check_is_due_at_once():
    assert Health(HealthParams(), Random(1), now=7).next_at() == 7


def test_jitter_spreads_both_ways():
    """2 000 pauses of 30 s ± 10 %: the odds that a tenth of the range stays empty are below 1e-90."""
    health = Health(HealthParams(), Random(1), now=0)
    pauses = []
    for _ in range(2000):
        health.record(True, now=100)
        pauses.append(health.next_at() - 100)
    assert 27 <= min(pauses) < 27.6
    assert 32.4 < max(pauses) <= 33


def test_new_parameters_keep_what_was_learned():
    health, _ = checked("+--")
    health.update(
        HealthParams(interval_s=9, unhealthy_interval_s=1, unhealthy_after=3, jitter_percent=0), now=3
    )
    assert (health.state, health.next_at()) == (HealthState.HEALTHY, 4)
    assert health.record(False, now=4)
    health.update(EXACT, now=4)
    assert health.next_at() == 5  # a longer interval puts nothing off
    assert repr(health) == "Health(unhealthy, 0 passes, 3 failures)"


def test_a_services_own_word():
    health, _ = checked("+")
    assert health.word == NO_WORD
    assert not health.record(
        True, ServiceWord(is_draining=True, load=0.9), now=1
    )  # draining is not unhealthy
    assert health.word == ServiceWord(is_draining=True, load=0.9)
    health.record(False, now=2)
    assert health.word == NO_WORD


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"draining": true, "load": 0.7}', ServiceWord(True, 0.7)),
        (b' \n{"load": 2}', ServiceWord(False, 2.0)),
        (b'{"draining": "yes", "load": "0.7"}', NO_WORD),
        (b'{"draining": 1, "load": true}', NO_WORD),
        (b'{"load": -1}', NO_WORD),
        (b'{"load": NaN}', NO_WORD),
        (b'{"load": 1e999}', NO_WORD),
        (b'{"load": %s}' % (b"9" * 400), NO_WORD),
        (b'{"status": "ok"}', NO_WORD),
        (b"{", NO_WORD),
        (b"[true]", NO_WORD),
        (b"OK", NO_WORD),
        (b"", NO_WORD),
        (b'{"draining": true, "load": "\xff"}', NO_WORD),
        (b'{"a":' + b"[" * 16_000, NO_WORD),
        (b'{"draining": true' + b" " * 20_000 + b"}", NO_WORD),
    ],
)
def test_words_of_services(body, word):
    assert service_word(body) == word


def test_one_that_still_starts_is_waited_for():
    """Its failed checks say nothing, until it passes one or should long have done so."""
    health = Health(HealthParams(unhealthy_after=2), Random(1), now=100.0, starts_until=130.0)
    assert not health.record(False, now=110.0) and not health.record(False, now=129.0)
    assert health.state is HealthState.UNKNOWN
    assert health.record(False, now=130.0) and health.state is HealthState.UNHEALTHY
    health = Health(HealthParams(unhealthy_after=2), Random(1), now=100.0, starts_until=130.0)
    assert health.record(True, now=101.0) and health.state is HealthState.HEALTHY
    assert not health.record(False, now=102.0) and health.record(False, now=103.0)
