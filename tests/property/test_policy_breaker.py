"""Circuit words keep what they are given."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.breaker import Circuit, CircuitState, Permission, permission, unpack

circuits = st.builds(
    Circuit,
    st.sampled_from(CircuitState),
    st.integers(0, 2**20 - 1),
    st.integers(0, 2**41 - 1).map(lambda ms: ms / 1000),
)


@given(circuits)
def test_pack_and_unpack(circuit):
    word = circuit.pack()
    assert 0 <= word < 2**63
    assert unpack(word).state is circuit.state
    assert unpack(word).generation == circuit.generation
    # Beyond 2⁵³ microseconds a float of seconds no longer holds every millisecond.
    assert 0 <= unpack(word).until - circuit.until <= 0.001


@given(circuits, st.floats(0, 2**31))
def test_only_a_circuit_that_lets_pass_sends_without_a_trial(circuit, now):
    allowed = permission(circuit.pack(), now)
    assert (allowed is Permission.SEND) == circuit.state.lets_pass
    if allowed is Permission.TRIAL:
        assert now >= circuit.until - 1e-6
