"""Whatever an endpoint says of its data: no error, and what is kept of it has its bound."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy.data_key import MAX_SHORT_KEY_BYTES, MAX_SIZE_BYTES
from proxy.policy.data_reply import DATA_FIELDS, MAX_REPLY_KEYS, MAX_SLOTS, data_reply
from proxy.policy.ignored import Ignored

value = st.lists(
    st.sampled_from([b",", b";", b'"', b"\\", b"bytes=", b";bytes=1", b"a", b"hit", b" ", b"\t"])
    | st.binary(max_size=30),
    max_size=80,
).map(lambda parts: b"".join(parts).replace(b"\r", b"").replace(b"\n", b""))
lines = st.lists(st.tuples(st.sampled_from(sorted(DATA_FIELDS)), value), max_size=8)


@settings(deadline=None)
@given(lines)
def test_no_answer_is_an_error(fields):
    raw = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"
    left_out = []
    reply = data_reply(SimpleNamespace(raw=raw, low=raw.lower()), left_out.append)
    assert (reply is None) == (not fields)
    assert all(isinstance(why, Ignored) for why in left_out)
    if reply is not None:
        assert len(reply.resident) <= MAX_REPLY_KEYS and len(reply.evicted) <= MAX_REPLY_KEYS
        for key, size in reply.resident:
            assert 0 < len(key) <= MAX_SHORT_KEY_BYTES and 0 <= size <= MAX_SIZE_BYTES
        assert 0 <= reply.slots <= MAX_SLOTS and 0 <= reply.cache_bytes <= MAX_SIZE_BYTES
        assert 0 <= reply.bandwidth_bytes_per_s <= MAX_SIZE_BYTES
