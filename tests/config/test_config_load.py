"""Good files: what they become, and that no bytes whatever make loading do anything but answer."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.config import document
from proxy.config.faults import InvalidConfig, path_text, printable
from proxy.config.load import ConfigFile, load_bytes, load_file
from proxy.config.schema import Config

EXAMPLES = Path(__file__).parents[2] / "config"


def load(text: str, directory: Path = Path("/nonexistent"), **environment: str) -> Config:
    return load_bytes(text.encode(), "f", directory, environment)


def route(text: str) -> str:
    return (
        f"listeners: [{{bind: '127.0.0.1:80'}}]\nclusters: [{{name: a, endpoints: []}}]\nroutes:\n- {text}\n"
    )


def test_scalars_are_what_their_field_says():
    config = load(
        route("{cluster: a, name: 12, match: {headers: {x-a: 1.10, x-b: on, x-c: 012, x-d: 12:30, x-e: no}}}")
        + "access_log: {sink: off}\nlimits: {connections: 5, body_bytes: 512}"
    )
    headers = config.routes[0].match.headers
    assert headers == {"x-a": "1.10", "x-b": "on", "x-c": "012", "x-d": "12:30", "x-e": "no"}
    assert {type(value) for value in headers.values()} == {str}
    assert config.routes[0].name == "12"
    assert config.access_log.sink == "off"
    assert (config.limits.connections, config.limits.body_bytes) == (5, 512)


def test_a_byte_order_mark_and_json_are_fine():
    text = '\ufeff{"listeners": [{"bind": "127.0.0.1:80"}], "clusters": [{"name": "a", "endpoints": []}]}'
    assert load(text).clusters[0].name == "a"


def test_anchors_and_merges():
    config = load(
        "listeners: [{bind: '127.0.0.1:80'}]\n"
        "clusters:\n"
        "- {name: a, timeouts: &slow {connect: 1s, idle: 2s}, pool: &pool {max_idle: 1}, endpoints: []}\n"
        "- {name: b, timeouts: {<<: *slow, idle: 3s}, pool: *pool, endpoints: []}\n"
        "- {name: c, timeouts: {<<: [{total: 9s, connect: 8s}, *slow]}, endpoints: []}\n"
    )
    first, second, third = (cluster.timeouts for cluster in config.clusters)
    assert (first.connect, first.idle) == (1.0, 2.0)
    assert (second.connect, second.idle) == (1.0, 3.0)
    assert (third.connect, third.idle, third.total) == (8.0, 2.0, 9.0)
    assert config.clusters[1].pool.max_idle == 1


def test_equal_files_give_equal_configurations():
    text = route("{cluster: a}")
    assert load(text) == load(f"# a comment\n{text}")
    assert load(text) != load(route("{cluster: a, name: b}"))


def test_a_configuration_is_frozen():
    config = load(route("{cluster: a}"))
    with pytest.raises(ValueError, match="frozen"):
        config.drain_timeout = 5.0  # type: ignore[misc]


# --- Interpolation


def test_variables_defaults_and_escapes():
    text = route('{cluster: a, rewrite: {request_headers: {set: {x-a: "${A}-${B:-b}-${C:-}-$${A}-$A-$"}}}}')
    config = load(text, A="1", C="")
    assert config.routes[0].rewrite.request_headers.set == {"x-a": "1-b--${A}-$A-$"}


def test_a_default_stands_in_for_an_empty_variable_as_in_a_shell():
    config = load(route("{cluster: a}") + "drain_timeout: ${D:-7s}\n", D="")
    assert config.drain_timeout == 7.0


def test_interpolated_scalars_are_typed_by_their_field_with_and_without_quotes():
    for value in ("${N}", '"${N}"', "'${N}'"):
        config = load(route("{cluster: a}") + f"limits:\n  connections: {value}\n", N="7")
        assert config.limits.connections == 7
    config = load(
        "listeners: [{bind: '127.0.0.1:80', proxy_protocol: '${P}'}]\nclusters: [{name: a, endpoints: []}]",
        P="true",
    )
    assert config.listeners[0].proxy_protocol is True


def test_what_a_variable_holds_is_not_looked_at_again():
    config = load(route("{cluster: a}") + "admin: {token: '${A}'}\n", A="${B}", B="secret")
    assert config.admin.token == "${B}"
    assert "secret" not in repr(config) and "token" not in repr(config)


@pytest.mark.parametrize("content, token", [(b"abc", "abc"), (b"abc\n", "abc"), (b"abc\r\n", "abc")])
def test_files_lose_their_last_line_end(tmp_path, content, token):
    (tmp_path / "token").write_bytes(content)
    (tmp_path / "homeport.yaml").write_text(route("{cluster: a}") + "admin: {token: '${file:token}'}\n")
    assert load_file(tmp_path / "homeport.yaml", {}).admin.token == token
    absolute = route("{cluster: a}") + f"admin: {{token: '${{file:{tmp_path}/token}}'}}\n"
    assert load(absolute).admin.token == token


@pytest.mark.parametrize(
    "content, problem",
    [(b"x" * 65537, "is too large"), (b"\xff", "is not UTF-8"), (b"a\nb", "is not a valid token")],
)
def test_files_that_cannot_be_used(tmp_path, content, problem):
    (tmp_path / "token").write_bytes(content)
    text = route("{cluster: a}") + "admin: {token: '${file:token}'}\n"
    with pytest.raises(InvalidConfig, match=problem) as caught:
        load(text, tmp_path)
    assert len(caught.value.faults) == 1
    with pytest.raises(InvalidConfig, match="is a directory"):
        load(text.replace("file:token", "file:."), tmp_path)


def test_variables_cannot_fill_the_memory():
    text = route(f"{{respond: {{body: '{'${A}' * 100}'}}}}")
    with pytest.raises(InvalidConfig, match="brings in too much"):
        load(text, A="x" * 60_000)


def test_a_variable_that_is_not_utf8_is_a_fault():
    with pytest.raises(InvalidConfig, match="the environment variable A, which is not UTF-8"):
        load(route("{respond: {body: '${A}'}}"), A="\udcff")


# --- Anything at all

# Other work on the machine must not fail a test, and the first text that is generated takes seconds.
_CALM = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_WORDS = st.sampled_from(
    """listeners clusters routes admin limits timeouts name bind address endpoints match cluster split respond
    redirect rewrite host path path_prefix methods headers set remove token weight status << *a &a !!x ${A} ${file:/}
    127.0.0.1:80 unix:/a [::1]:80 5s 1KiB 5 true null ~ GET / /a a etl 'a' "a" - ? : | > # , [ ] { } --- ...""".split()
)
_SPACES = st.sampled_from([" ", "\n", "\n  ", "\n- ", ": ", ", ", "", "\t"])
_SOUP = st.lists(st.tuples(_WORDS, _SPACES), max_size=60).map(lambda parts: "".join(a + b for a, b in parts))
_KEYS = st.sampled_from(
    """listeners clusters routes admin limits timeouts workers upgrades access_log drain_timeout name bind address
    endpoints match cluster split respond redirect rewrite host path path_prefix methods headers token weight status
    strip_prefix prefix request_headers set remove sink connect idle listener body pool dns refresh zone tags""".split()
)
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["a", "127.0.0.1:80", "5s", "1KiB", "/a", "*.a", "GET", "${A}", "${", "$${", "unix:/a"]),
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_KEYS | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=40,
)


def answer(content: bytes) -> None:
    """Load `content`; the answer is a configuration or faults that each are one line with a place in the file."""
    try:
        config = load_bytes(content, "f", Path("/nonexistent"), {"A": "secret-value"})
    except InvalidConfig as error:
        lines = content.count(b"\n") + content.count(b"\r") + content.count("\u2028".encode()) + 2
        assert error.faults
        assert str(error).count("\n") == len(error.faults) - 1
        for fault in error.faults:
            assert (
                1 <= fault.line <= lines + content.count("\x85".encode()) + content.count("\u2029".encode())
            )
            assert fault.column >= 1
            assert str(fault).isprintable()
            assert "secret-value" not in str(fault)
    else:
        assert config.listeners


@_CALM
@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf")
@example(b"a: \xed\xa0\x80")
def test_any_bytes_are_answered(content):
    answer(content)


@_CALM
@given(_SOUP)
@example("? [a]\n: b")
@example("&a a: *a")
@example('"\\ud800": 1')
@example("<<: {<<: {a: 1}}")
def test_any_soup_of_yaml_is_answered(text):
    answer(text.encode())


@_CALM
@given(st.dictionaries(_KEYS, _TREES, max_size=8))
def test_any_tree_is_answered(tree):
    answer(json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@_CALM
@given(st.data())
def test_a_mutated_example_is_answered(data):
    content = bytearray((EXAMPLES / "full.yaml").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 12)))
        content[start:end] = data.draw(st.binary(max_size=6) | _SOUP.map(lambda text: text[:20].encode()))
    answer(bytes(content))


@_CALM
@given(st.text())
def test_printable_text_is_one_line(text):
    assert printable(text).isprintable()


def test_paths_in_words():
    assert path_text(("clusters", 0, "timeouts", "connect")) == "clusters[0].timeouts.connect"
    assert path_text(()) == ""


def test_the_python_parser_gives_the_same_marks(monkeypatch):
    text = (EXAMPLES / "full.yaml").read_text()
    fast = document.read_document(text, lambda value: value)
    monkeypatch.setattr(document, "_LOADER", document.yaml.SafeLoader)
    slow = document.read_document(text, lambda value: value)
    assert (fast.data, fast.marks, fast.key_marks) == (slow.data, slow.marks, slow.key_marks)


def test_a_file_that_is_gone_is_new_once(tmp_path):
    """Whoever looks every few seconds would complain of it every few seconds."""
    path = tmp_path / "f.yaml"
    path.write_bytes((EXAMPLES / "minimal.yaml").read_bytes())
    file = ConfigFile(path)
    assert file.is_new()
    file.read()
    assert not file.is_new()
    path.unlink()
    assert file.is_new()
    with pytest.raises(InvalidConfig):
        file.read()
    assert not file.is_new()
    path.write_bytes((EXAMPLES / "minimal.yaml").read_bytes())
    assert file.is_new()
    file.read()
    assert not file.is_new()


def test_a_file_that_it_refers_to_is_looked_at_too(tmp_path):
    """Also one that was not there: it may come. What is in it is told nobody."""
    path, secret = tmp_path / "f.yaml", tmp_path / "secrets" / "token"
    path.write_text((EXAMPLES / "minimal.yaml").read_text() + "admin: {token: '${file:secrets/token}'}\n")
    file = ConfigFile(path)
    with pytest.raises(InvalidConfig):
        file.read()
    assert file.paths == (path, secret) and not file.is_new()
    secret.parent.mkdir()
    for word in ("open-sesame", "shut-sesame"):
        secret.write_text(word)
        assert file.is_new()
        assert file.read()[1].admin.token == word
        assert not file.is_new()
        assert word not in repr(file._referred)
    secret.unlink()
    assert file.is_new()
    with pytest.raises(InvalidConfig):
        file.read()
    assert not file.is_new()
