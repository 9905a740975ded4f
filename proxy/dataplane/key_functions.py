"""A site's own functions that find data keys: called with a request, within a time limit, and no more once they fail.

They run in the loop's thread, where nothing else runs meanwhile: a thread of their own would cost 50 µs and could not
be stopped. A timer's signal ends one that takes too long, by an exception in the midst of it. Python calls a signal's
handler between two of its own instructions, so code that never comes back to Python is not ended; such a worker beats
no more, and the parent replaces it. The timer is off while no function runs, so the loop never sees the signal. Which
function runs is a word of the scoreboard: the parent keeps that of a worker that ended, however it did, and no worker
calls it again until its settings change.

The limit is CPU time of the thread, or `_WALL` times as much on the clock: a machine that is busy with other things
would otherwise take functions for slow that are not.
"""

import logging
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from time import thread_time
from typing import Any

from proxy.dataplane.request_head import RequestHead
from proxy.key_function import BadFunction, KeyFunction, find_function
from proxy.policy.data_key import MAX_KEYS
from proxy.policy.path import routing_path
from proxy.scoreboard import W_FUNCTION, Row
from proxy.snapshot import Snapshot, SourceSpec

_log = logging.getLogger("homeport")

# Of what a function is allowed in CPU time, the multiple that it may take on the clock.
_WALL = 4
# A timer that is set to a limit may go off a little before so much CPU time was used.
_NEARLY = 0.9


class KeyHeaders(Mapping[str, str]):
    """The header fields of a request, whatever their case; several of a name are joined by `, `."""

    __slots__ = ("_head",)

    def __init__(self, head: RequestHead) -> None:
        self._head = head

    def __getitem__(self, name: str) -> str:
        value = self._head.field(name.lower().encode("latin-1", "replace"))
        if value is None:
            raise KeyError(name)
        return value.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        lines = self._head.low.split(b"\r\n")[1:-2]
        return iter(dict.fromkeys([line.partition(b":")[0].decode("latin-1") for line in lines]))

    def __len__(self) -> int:
        return len(list(iter(self)))


class KeyRequest:
    """What a key function sees of a request. Text is UTF-8; bytes that are none are lone surrogates."""

    __slots__ = ("_head",)

    def __init__(self, head: RequestHead) -> None:
        self._head = head

    def __repr__(self) -> str:
        return f"<KeyRequest {self.method} {self.path}>"

    @property
    def method(self) -> str:
        return self._head.method.decode("latin-1")

    @property
    def path(self) -> str:
        """Decoded once, without the query, as routes match it."""
        return routing_path(self._head.path)

    @property
    def query(self) -> str:
        """As it came, without its `?`; empty when there is none."""
        return self._head.query[1:].decode("utf-8", "surrogateescape")

    @property
    def headers(self) -> KeyHeaders:
        return KeyHeaders(self._head)


class _Overrun(BaseException):
    """Raised in a function that takes too long. Not an `Exception`, which a function may well catch."""


class _Function:
    """A function that requests of some route are given to."""

    __slots__ = ("call", "number", "why_off")

    def __init__(self, call: KeyFunction | None, source: SourceSpec) -> None:
        self.call = call
        self.number = _number(source)
        self.why_off = ""
        """Why it is not called; empty = it is."""


OnOff = Callable[[str, str], None]
"""Told the name of a function that is switched off, and why."""


def function_sources(snapshot: Snapshot) -> set[SourceSpec]:
    """The functions that the routes of `snapshot` name, with their settings."""
    data = [route.locality for route in snapshot.routes if route.locality is not None]
    return {source for spec in data for source in spec.keys if source.function}


class KeyFunctions:
    """The functions of one worker. For its main thread alone: others get no signals."""

    def __init__(self, on_off: OnOff, row: Row, deadly: Row) -> None:
        """`row` is the worker's in the scoreboard, `deadly` are `Scoreboard.deadly`."""
        self._on_off = on_off
        self._row = row
        self._deadly = deadly
        self._known_deadly: list[int] = []
        self._functions: dict[SourceSpec, _Function] = {}
        self._has_handler = False
        self._is_running = False
        self._began_s = 0.0
        self._timeout_s = 0.0
        self._alarms = 0
        self._has_overrun = False

    def __repr__(self) -> str:
        off = sum(bool(function.why_off) for function in self._functions.values())
        return f"<KeyFunctions {len(self._functions)}, {off} off>"

    def missing(self, snapshot: Snapshot) -> set[SourceSpec]:
        """What `snapshot` names that is not known yet. One that was switched off is known."""
        return function_sources(snapshot) - self._functions.keys()

    def add(self, found: Mapping[SourceSpec, KeyFunction | BadFunction]) -> None:
        """Know what `find_functions` found."""
        for source, function in found.items():
            if isinstance(function, BadFunction):
                self._switch_off(source, _Function(None, source), str(function))
            else:
                self._functions[source] = _Function(function, source)
        self._switch_off_deadly()
        if self._functions and not self._has_handler:
            signal.signal(signal.SIGALRM, self._on_alarm)
            self._has_handler = True

    def keep(self, snapshot: Snapshot) -> None:
        """Forget what `snapshot` does not name: when it is named again it gets another chance."""
        sources = function_sources(snapshot)
        self._functions = {source: known for source, known in self._functions.items() if source in sources}

    def call(self, source: SourceSpec, head: RequestHead) -> Sequence[object] | None:
        """What the function returned for a request; `None` when it failed, or is off. Takes 6 µs and the function's own
        time."""
        if self._deadly.tolist() != self._known_deadly:
            self._switch_off_deadly()
        function = self._functions.get(source)
        if function is None or function.call is None or function.why_off:
            return None
        found: Sequence[object] = ()
        why = ""
        self._timeout_s = timeout_s = source.timeout_s
        self._alarms = 0
        self._has_overrun = False
        self._began_s = thread_time()
        self._row[W_FUNCTION] = function.number
        self._is_running = True
        try:
            signal.setitimer(signal.ITIMER_REAL, timeout_s, timeout_s)
            try:
                found = _listed(function.call(KeyRequest(head)))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                self._is_running = False
        except BaseException as error:  # it is anybody's code, and must not end ours
            why = f"it raised {type(error).__name__}{_place(error)}: {error}"
        self._is_running = False
        self._row[W_FUNCTION] = 0
        if self._has_overrun:
            why = f"it took longer than {timeout_s * 1000:g} ms"
        if why:
            self._switch_off(source, function, why)
            return None
        return found

    def _on_alarm(self, number: int, frame: object) -> None:
        if not self._is_running:
            return
        self._alarms += 1
        used_s = thread_time() - self._began_s
        if used_s >= _NEARLY * self._timeout_s or self._alarms >= _WALL:
            self._has_overrun = True
            raise _Overrun

    def _switch_off_deadly(self) -> None:
        self._known_deadly = self._deadly.tolist()
        for source, function in list(self._functions.items()):
            if function.number in self._known_deadly and not function.why_off:
                self._switch_off(source, function, "a worker hung or ended while it ran")

    def _switch_off(self, source: SourceSpec, function: _Function, why: str) -> None:
        function.why_off = why[:500]
        self._functions[source] = function
        _log.error("key function %s is switched off: %s", source.function, function.why_off)
        self._on_off(source.function, function.why_off)


def _number(source: SourceSpec) -> int:
    """What stands for a function and its settings in the scoreboard, not 0."""
    told = f"{source.function} {source.timeout_s!r}".encode()
    return int.from_bytes(blake2b(told, digest_size=7).digest(), "big") or 1


def find_functions(sources: Iterable[SourceSpec]) -> dict[SourceSpec, KeyFunction | BadFunction]:
    """The functions that `sources` name, or what is wrong with them. Imports modules, so better not in the loop."""
    found: dict[SourceSpec, KeyFunction | BadFunction] = {}
    for source in sources:
        try:
            found[source] = find_function(source.function)
        except BadFunction as error:
            found[source] = error
    return found


def _listed(returned: Any) -> Sequence[object]:
    """What a function returned, one by one; enough of it to see that it is too much."""
    if returned is None:
        return ()
    if isinstance(returned, str | bytes | int):
        return (returned,)
    return tuple(islice(returned, MAX_KEYS + 1))


def _place(error: BaseException) -> str:
    """Where `error` was raised, if that was in the function."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
