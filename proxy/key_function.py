"""Functions of a site's own that find data keys, by their name in the configuration: `module:function`."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from proxy.errors import ProxyError

KeyFunction = Callable[[Any], object]
"""Takes a `dataplane.key_functions.KeyRequest`."""


class BadFunction(ProxyError):
    """There is no such function, or it cannot be called with a request."""

    def __init__(self, problem: str, expected: str) -> None:
        super().__init__(problem, expected)
        self.problem = problem
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.problem}, expected {self.expected}"


def find_function(name: str) -> KeyFunction:
    """The function that `name` (`module:function`) stands for. Imports its module, which may take long and do anything.
    Raises `BadFunction`."""
    module_name, _, attribute = name.partition(":")
    try:
        module = import_module(module_name)
    except BaseException as error:  # a module's code may raise what it likes, SystemExit included
        if isinstance(error, ModuleNotFoundError) and error.name and is_within(module_name, error.name):
            raise BadFunction(
                "names a module that is not there", "one that is installed or on PYTHONPATH"
            ) from None
        problem = f"names a module that cannot be imported ({type(error).__name__}: {error})"
        raise BadFunction(problem, "a module that can be") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise BadFunction("names no function of that module", "a function of one argument, the request")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise BadFunction("is asynchronous", "a plain function: requests wait for it")
    try:
        inspect.signature(function).bind(None)
    except ValueError:
        pass  # some that are written in C do not tell
    except TypeError:
        raise BadFunction("cannot be called with one argument", "a function of the request") from None
    checked: KeyFunction = function
    return checked


def is_within(module: str, parent: str) -> bool:
    """Whether `parent` is `module`, or a package that it is in."""
    return f"{module}.".startswith(f"{parent}.")
