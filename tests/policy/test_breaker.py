"""Circuit words and what workers make of them. Times are seconds."""

import pytest

from proxy.policy.breaker import (
    BreakerParams,
    Circuit,
    CircuitState,
    LocalCircuit,
    Permission,
    generation_of,
    hurried_s,
    is_reported,
    is_stale,
    permission,
    unpack,
)

CLOSED, SUSPECT, OPEN, HALF_OPEN = CircuitState
SEND, TRIAL, REFUSE = Permission


def test_new_memory_is_a_closed_circuit():
    assert unpack(0) == Circuit(CLOSED, 0, 0.0)
    assert Circuit().pack() == 0


@pytest.mark.parametrize(
    ("circuit", "word"),
    [
        (Circuit(OPEN, 0, 0.0), 2),
        (Circuit(HALF_OPEN, 1, 0.0), 0b111),
        (Circuit(SUSPECT, 5, 0.0), 5 * 4 + 1),
        (Circuit(OPEN, 3, 2.5), (2500 << 22) + 3 * 4 + 2),
        (Circuit(HALF_OPEN, 2**20 - 1, (2**41 - 1) / 1000), 2**63 - 1),
    ],
)
def test_words(circuit, word):
    assert circuit.pack() == word
    assert unpack(word) == circuit


def test_nobody_is_let_through_too_early():
    word = Circuit(OPEN, 0, 1.0001).pack()
    assert unpack(word).until == 1.001
    assert Circuit(OPEN, 0, -5).pack() == 2
    assert unpack(Circuit(OPEN, 0, 1e30).pack()).until == (2**41 - 1) / 1000


@pytest.mark.parametrize(
    ("state", "now", "expected"),
    [
        (CLOSED, 0, SEND),
        (SUSPECT, 0, SEND),
        (OPEN, 59, REFUSE),
        (OPEN, 60, TRIAL),
        (HALF_OPEN, 59, REFUSE),
        (HALF_OPEN, 60, TRIAL),
        (HALF_OPEN, 600, TRIAL),
    ],
)
def test_permission(state, now, expected):
    assert permission(Circuit(state, 7, 60).pack(), now) is expected


def test_generations():
    """Only what stops or starts requests makes results in flight stale."""
    circuit = Circuit()
    seen = []
    for state in (SUSPECT, CLOSED, SUSPECT, OPEN, HALF_OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED):
        circuit = circuit.changed(state, until=9.0)
        seen.append(circuit.generation)
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert Circuit(CLOSED, 2**20 - 1).changed(OPEN).generation == 0


def test_stale_results():
    word = Circuit(OPEN, 8).pack()
    assert generation_of(word) == 8
    assert not is_stale(8, word)
    assert is_stale(7, word)


@pytest.mark.parametrize("state", CircuitState)
def test_what_control_is_told(state):
    word = Circuit(state, 3, 5).pack()
    assert is_reported(False, word)
    assert is_reported(True, word) == (state is not CLOSED)


PARAMS = BreakerParams(failure_threshold=3, recovery_timeout_s=10)


def local(results, word=0, generation=0):
    """`-` is a failure, `+` a success, one a second from 0."""
    circuit = LocalCircuit()
    for second, result in enumerate(results):
        circuit.record(result == "+", generation, word, now=second)
    return circuit


@pytest.mark.parametrize(
    ("results", "silent_s", "now", "expected"),
    [
        ("---", 1.0, 3, SEND),  # control is there
        ("---", 1.1, 3, REFUSE),
        ("---", 99, 11, REFUSE),
        ("---", 99, 12, TRIAL),
        ("--", 99, 3, SEND),
        ("--+--", 99, 5, SEND),  # in a row
        ("---+", 99, 4, SEND),  # a trial passed
        ("----", 99, 12, REFUSE),  # a trial failed at 3 s
    ],
)
def test_when_control_is_silent(results, silent_s, now, expected):
    assert local(results).permission(0, PARAMS, control_silent_s=silent_s, now=now) is expected


def test_the_word_of_a_silent_control_still_counts():
    word = Circuit(OPEN, 0, 20).pack()
    assert local("").permission(word, PARAMS, control_silent_s=99, now=19) is REFUSE
    assert local("").permission(word, PARAMS, control_silent_s=99, now=20) is TRIAL
    assert local("---", word).permission(word, PARAMS, control_silent_s=99, now=3) is REFUSE


def test_what_control_knew_of_is_not_held_against_the_endpoint():
    """It opened the circuit for these failures and closed it again, before it fell silent."""
    circuit = local("---")
    closed_again = Circuit(CLOSED, 2).pack()
    assert circuit.permission(closed_again, PARAMS, control_silent_s=99, now=4) is SEND
    circuit.record(False, 2, closed_again, now=5)
    assert repr(circuit) == "LocalCircuit(1 failures, generation 2)"


def test_results_of_an_earlier_generation_are_not_counted():
    word = Circuit(CLOSED, 1).pack()
    assert repr(local("-----", word, generation=0)) == "LocalCircuit(0 failures, generation 0)"


@pytest.mark.parametrize(
    ("recovery_s", "failed", "expected"),
    [(60, 0, 1), (60, 1, 2), (60, 5, 32), (60, 6, 60), (60, 10**9, 60), (0.5, 0, 0.5), (0, 3, 0)],
)
def test_when_all_are_open_trials_come_sooner(recovery_s, failed, expected):
    assert hurried_s(BreakerParams(recovery_timeout_s=recovery_s), failed) == expected


def test_a_threshold_of_0_is_off():
    off = BreakerParams(failure_threshold=0)
    assert local("-" * 50).permission(0, off, control_silent_s=99, now=50) is SEND
