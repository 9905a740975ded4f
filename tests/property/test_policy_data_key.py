"""Whatever bytes a request has: no error, and what is kept of it has its bound."""

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import RequestFacts
from proxy.policy.data_key import MAX_KEYS, MAX_SHORT_KEY_BYTES, MAX_SIZE_BYTES, MAX_TAGS, DataKeys
from proxy.policy.ignored import Ignored
from proxy.snapshot import DataSpec, SourceSpec

KEYS = DataKeys(
    DataSpec(
        keys=(
            SourceSpec(header="k"),
            SourceSpec(query="q"),
            SourceSpec(path="/d/{a}/{b}.x"),
            SourceSpec(cookie="c"),
            SourceSpec(json="/a/0"),
            SourceSpec(json="/a"),
            SourceSpec(function="m:f"),
        ),
        size=SourceSpec(header="s"),
        tags=SourceSpec(header="t"),
        work_class=SourceSpec(query="w"),
    )
)
# What tends to matter to parsers, among anything else.
text = st.lists(
    st.sampled_from([b",", b";", b"=", b"%", b"%2", b"&q=", b"?q=", b"/d/", b"a", b"1", b"\0", b" ", b"c="])
    | st.binary(max_size=80),
    max_size=30,
).map(b"".join)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.sampled_from("a0"), inner, max_size=2),
)


class Request:
    def __init__(self, path, query, fields):
        self.path, self.query, self.fields = path, query, fields

    def field(self, name):
        return self.fields.get(name)


@settings(deadline=None)
@given(
    text, text, st.dictionaries(st.sampled_from([b"k", b"s", b"t", b"cookie"]), text), documents, documents
)
def test_no_request_is_an_error(path, query, fields, body, returned):
    left_out = []
    returned = returned if isinstance(returned, list) else [returned]
    facts = KEYS.facts(
        Request(b"/d/" + path, b"?q=" + query, fields),
        left_out.append,
        body=body,
        body_bytes=10,
        call=lambda spec, request: returned,
    )
    assert isinstance(facts, RequestFacts)
    keys = facts.data_keys
    assert len(keys) == len(set(keys)) <= MAX_KEYS
    assert all(0 < len(key) <= MAX_SHORT_KEY_BYTES for key in keys)
    assert facts.size_bytes is None or 0 < facts.size_bytes <= MAX_SIZE_BYTES
    assert len(facts.tags) <= MAX_TAGS and len(facts.work_class) <= 64
    assert all(isinstance(why, Ignored) for why in left_out)
