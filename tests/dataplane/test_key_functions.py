"""A site's own functions: what they see, how long they may take, and that they are called no more once they fail."""

import signal
import time
from dataclasses import replace

import pytest

from proxy.dataplane.key_functions import KeyFunctions, KeyRequest, find_functions, function_sources
from proxy.dataplane.request_head import parse_request
from proxy.key_function import BadFunction
from proxy.scoreboard import MAX_DEADLY, W_FUNCTION, Scoreboard
from proxy.snapshot import DataSpec, MatchSpec, RouteSpec, Snapshot, SourceSpec, SplitSpec

SOURCE = SourceSpec(function="m:f", timeout_s=0.05)
HEAD = parse_request(
    b"GET /a%20b/./c?x=%41 HTTP/1.1\r\nHost: h\r\nX-Id: one\r\nx-id: two\r\nX-E: \xc3\xa9\r\n\r\n",
    100,
    frozenset(),
)


@pytest.fixture
def told():
    return []


@pytest.fixture
def board():
    return Scoreboard(workers=2)


def made(told, board, worker=0):
    return KeyFunctions(lambda name, why: told.append((name, why)), board.worker_row(worker), board.deadly)


@pytest.fixture
def functions(told, board):
    before = signal.getsignal(signal.SIGALRM)
    yield made(told, board)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    signal.signal(signal.SIGALRM, before)


def snapshot(*sources):
    route = RouteSpec("r", MatchSpec(), SplitSpec((("c", 1),)), locality=DataSpec(keys=sources))
    return Snapshot(1, (), (), (route, RouteSpec("p", MatchSpec(), SplitSpec((("c", 1),)))))


def test_what_a_function_sees():
    request = KeyRequest(HEAD)
    assert (request.method, request.path, request.query) == ("GET", "/a b/c", "x=%41")
    assert request.headers["x-ID"] == "one, two" and request.headers["X-E"] == "é"
    assert request.headers.get("x-none") is None and "x-none" not in request.headers
    assert list(request.headers) == ["host", "x-id", "x-e"] and len(request.headers) == 3
    assert repr(request) == "<KeyRequest GET /a b/c>"
    with pytest.raises(AttributeError):
        request.path = "/other"


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (None, ()),
        ("a", ("a",)),
        (b"a", (b"a",)),
        (7, (7,)),
        (["a", b"b"], ("a", b"b")),
        (iter("xyz"), ("x", "y", "z")),
        ({"a": 1}, ("a",)),
        (range(1_000_000), tuple(range(17))),
    ],
)
def test_what_it_may_return(functions, told, returned, found):
    functions.add({SOURCE: lambda request: returned})
    assert functions.call(SOURCE, HEAD) == found
    assert told == []


def test_one_that_raises_is_called_once(functions, told, caplog):
    calls = []

    def raising(request):
        calls.append(request)
        raise SystemExit("no\nmore")

    functions.add({SOURCE: raising})
    assert functions.call(SOURCE, HEAD) is None and functions.call(SOURCE, HEAD) is None
    assert len(calls) == 1 and repr(functions) == "<KeyFunctions 1, 1 off>"
    ((name, why),) = told
    assert name == "m:f" and why.startswith("it raised SystemExit at ") and why.endswith("no\nmore")
    assert "test_key_functions.py:" in why
    assert caplog.text.count("key function m:f is switched off") == 1


def test_one_that_returns_what_is_no_list(functions, told):
    functions.add({SOURCE: lambda request: 1.5})
    assert functions.call(SOURCE, HEAD) is None
    assert "TypeError" in told[0][1]


def endless(request):
    while True:
        pass


def endless_in_the_result(request):
    while True:
        yield from ()


def endless_whatever_comes(request):
    for _ in range(3):
        try:
            endless(request)
        except BaseException:
            continue


def asleep(request):
    time.sleep(60)


@pytest.mark.parametrize("function", [endless, endless_in_the_result, endless_whatever_comes, asleep])
def test_one_that_takes_too_long_is_ended(functions, told, function):
    functions.add({SOURCE: function})
    before = time.monotonic()
    assert functions.call(SOURCE, HEAD) is None
    assert time.monotonic() - before < 30
    assert told == [("m:f", "it took longer than 50 ms")]
    assert functions.call(SOURCE, HEAD) is None and len(told) == 1


def test_an_alarm_between_two_calls_is_nothing(functions):
    functions.add({SOURCE: lambda request: "a"})
    signal.raise_signal(signal.SIGALRM)
    assert functions.call(SOURCE, HEAD) == ("a",)
    signal.raise_signal(signal.SIGALRM)


def test_off_until_its_settings_change(functions, told):
    functions.add({SOURCE: lambda request: 1 / 0})
    functions.call(SOURCE, HEAD)
    functions.keep(snapshot(SOURCE))
    assert functions.missing(snapshot(SOURCE)) == set() and functions.call(SOURCE, HEAD) is None
    other = SourceSpec(function="m:f", timeout_s=0.1)
    assert functions.missing(snapshot(SOURCE, other)) == {other}
    functions.add({other: lambda request: "a"})
    functions.keep(snapshot(other))
    assert functions.call(other, HEAD) == ("a",)
    # Not named for a while: another chance.
    assert functions.missing(snapshot(SOURCE)) == {SOURCE}
    assert functions.call(SOURCE, HEAD) is None and len(told) == 1


def test_functions_are_found_by_name(functions, told, caplog):
    good, bad = SourceSpec(function="os.path:basename"), SourceSpec(function="no_such:f")
    assert function_sources(snapshot(good, SourceSpec(header="x"), bad)) == {good, bad}
    found = find_functions([good, bad])
    assert isinstance(found[bad], BadFunction)
    functions.add(found)
    assert [name for name, _ in told] == ["no_such:f"]
    assert functions.call(bad, HEAD) is None


def test_one_that_a_worker_ends_in_is_called_no_more(functions, told, board):
    """By the workers that live, nor by one that begins."""
    running = []

    def deadly(request):
        running.append(board.worker_row(0)[W_FUNCTION])

    other = SourceSpec(function="m:g", timeout_s=0.05)
    functions.add({SOURCE: deadly, other: lambda request: "k"})
    assert functions.call(SOURCE, HEAD) == () and board.worker_row(0)[W_FUNCTION] == 0
    board.worker_row(1)[W_FUNCTION] = running[0]
    board.keep_function(1)
    assert functions.call(SOURCE, HEAD) is None and functions.call(other, HEAD) == ("k",)
    assert told == [("m:f", "a worker hung or ended while it ran")]
    begins = made(told, board, worker=1)
    begins.add({SOURCE: deadly})
    assert len(told) == 2 and begins.call(SOURCE, HEAD) is None and len(running) == 1
    slower = replace(SOURCE, timeout_s=0.1)
    begins.add({slower: deadly})
    assert begins.call(slower, HEAD) == (), "other settings are another chance"


def test_the_latest_that_workers_ended_in_are_remembered(board):
    board.keep_function(0)
    assert board.deadly.tolist() == [0] * MAX_DEADLY
    for number in (1, 2, 2, 3, 4, 5):
        board.worker_row(0)[W_FUNCTION] = number
        board.keep_function(0)
    assert board.deadly.tolist() == [5, 4, 3, 2]
