"""Functions that a file names: what is wrong with them, and where."""

import sys
from pathlib import Path

import pytest

from proxy.config.faults import InvalidConfig
from proxy.config.load import load_bytes
from proxy.key_function import BadFunction, find_function

MODULE = """
async def later(request): ...
def none(): ...
def keys_of(request): return request.path
class Keys:
    def __init__(self, request): ...
number = 7
"""


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "site_keys.py").write_text(MODULE)
    (tmp_path / "broken_keys.py").write_text("import site_keys\nraise SystemExit('no')\n")
    (tmp_path / "lacking_keys.py").write_text("import no_such_module_at_all\n")
    yield
    for name in ("site_keys", "broken_keys", "lacking_keys"):
        sys.modules.pop(name, None)


def test_a_function_that_is_there():
    assert find_function("site_keys:keys_of").__name__ == "keys_of"
    assert find_function("site_keys:Keys").__name__ == "Keys"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_module:f", "names a module that is not there"),
        ("no_such.package:f", "names a module that is not there"),
        ("site_keys.inner:f", "names a module that is not there"),
        ("broken_keys:f", "names a module that cannot be imported (SystemExit: no)"),
        (
            "lacking_keys:f",
            "names a module that cannot be imported (ModuleNotFoundError: No module named 'no_such_m",
        ),
        ("site_keys:f", "names no function of that module"),
        ("site_keys:number", "names no function of that module"),
        ("site_keys:later", "is asynchronous"),
        ("site_keys:none", "cannot be called with one argument"),
    ],
)
def test_functions_that_are_not(name, problem):
    with pytest.raises(BadFunction) as error:
        find_function(name)
    assert error.value.problem.startswith(problem)


def load(keys, wall):
    text = f"""\
listeners: [{{bind: "127.0.0.1:8080"}}]
clusters: [{{name: etl, balancer: data_locality_aware, endpoints: []}}]
routes: [{{cluster: etl, locality: {{data_key: {keys}}}}}]
"""
    return load_bytes(text.encode(), "f", Path("/nonexistent"), {}, wall)


def test_faults_have_their_place():
    with pytest.raises(InvalidConfig) as error:
        load('[{function: "site_keys:keys_of"}, {header: a}, {function: "site_keys:f"}]', lambda: 0.0)
    assert str(error.value) == (
        "f:3:104: routes[0].locality.data_key[2].function: names no function of that module, got 'site_keys:f',"
        " expected a function of one argument, the request"
    )
    with pytest.raises(InvalidConfig, match="routes.0..locality.data_key.function: is asynchronous, got"):
        load('{function: "site_keys:later"}', lambda: 0.0)
    assert load('{function: "site_keys:keys_of"}', lambda: 0.0).routes[0].locality is not None


def test_what_is_served_already_is_not_looked_at_again():
    assert load('{function: "site_keys:f"}', None).routes[0].locality is not None
