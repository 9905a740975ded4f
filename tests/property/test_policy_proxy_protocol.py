"""The PROXY parser on cut and mutated bytes: what it says does not depend on how the bytes come."""

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import DownstreamError, Reason
from proxy.policy.proxy_protocol import parse

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LINES = [
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4321 443\r\nGET / HTTP/1.1\r\n\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 4321 443\r\n\r\n",
    b"PROXY UNKNOWN some thing\r\nGET",
    b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n",
]
v2 = st.builds(
    lambda command, protocol, length, block: (
        SIGNATURE + bytes([command, protocol]) + length.to_bytes(2, "big") + block
    ),
    st.sampled_from([0x20, 0x21, 0x21, 0x11]),
    st.sampled_from([0x00, 0x11, 0x11, 0x12, 0x21, 0x31, 0x41, 0x13]),
    st.integers(0, 60) | st.sampled_from([216, 4096, 4097, 65535]),
    st.binary(max_size=64),
)


@st.composite
def mutated(draw):
    data = bytearray(draw(st.sampled_from(LINES) | v2))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(
            st.binary(max_size=2) | st.sampled_from([b" ", b"\r", b"0"])
        )
    return bytes(data)


def answer(data):
    try:
        return parse(data)
    except DownstreamError as error:
        return error.reason


@settings(max_examples=300, deadline=None)
@given(mutated() | st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"PROXY " + tail))
def test_prefix_consistent(data):
    final = None
    for cut in range(len(data) + 1):
        now = answer(data[:cut])
        if final is None:
            final = now
        assert now == final
        if now is not None and now is not Reason.BAD_PROXY_PROTOCOL:
            assert now.consumed <= cut
            assert (now.source is None) == (now.source_port is None) == (now.destination is None)
