"""What the compiled build asks of the modules in it, checked in their sources; both builds behave the same then.

The integration tests pass with either build (README, "Development"); these tell sooner what would not.
"""

import ast
import dataclasses
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.snapshot import Snapshot

ROOT = Path(__file__).resolve().parents[1]
_WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
COMPILED: list[str] = [path.removeprefix("/") for path in _WHEEL["hooks"]["mypyc"]["include"]]


def _parts(kind: object, seen: set[type]) -> set[type]:
    """Dataclasses that a field of type `kind` can hold, with theirs."""
    for inner in typing.get_args(kind):
        _parts(inner, seen)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in seen:
        seen.add(kind)
        for hint in typing.get_type_hints(kind).values():
            _parts(hint, seen)
    return seen


def _functions(path: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_names_modules_that_are_there() -> None:
    assert COMPILED == sorted(set(COMPILED))
    assert [path for path in COMPILED if not (ROOT / path).is_file()] == []


def test_is_not_made_unless_asked_for() -> None:
    assert _WHEEL["hooks"]["mypyc"]["enable-by-default"] is False


def test_snapshots_are_of_python_classes() -> None:
    """A frozen dataclass of an extension module cannot be unpickled."""
    modules = {one.__module__.replace(".", "/") + ".py" for one in _parts(Snapshot, set())}
    assert "proxy/policy/locality_params.py" in modules
    assert modules.isdisjoint(COMPILED)


def test_what_runs_as_a_program_is_not_compiled() -> None:
    """`python -m` needs its code, and those who edit a program in place its source."""
    for path in COMPILED:
        assert "__main__" not in (ROOT / path).read_text()


@pytest.mark.parametrize("path", COMPILED)
def test_a_name_caught_has_one_type(path: str) -> None:
    """Two `except … as error` of one function are one variable there, of the first one's type."""
    for function in _functions(path):
        caught: dict[str, set[str]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                caught.setdefault(node.name, set()).add(ast.unparse(node.type))
        assert {name: types for name, types in caught.items() if len(types) > 1} == {}, function.name
