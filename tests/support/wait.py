"""Waiting for a condition with a generous limit, instead of sleeping for time to pass."""

import time
from collections.abc import Callable
from typing import TypeVar

LIMIT_S = 15.0
"""Longest wait for anything that should happen at once; far above what a busy machine needs."""

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str = "", limit_s: float = LIMIT_S) -> T:
    """The first true value of `condition`; fails with `what` after `limit_s` seconds."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {limit_s} s: {what or condition}")
        time.sleep(0.01)
