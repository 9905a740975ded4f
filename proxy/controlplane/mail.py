"""Control's mailbox: what workers write to it, read in the turn of the loop in which it comes.

Any process of the daemon can write to it, one of another version too, so nothing in a message is believed: what is not
understood is counted and left.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from proxy.config.faults import printable
from proxy.mailbox import Channel
from proxy.policy.failures import MAX_RETRY_AFTER_S, FailureKind

_log = logging.getLogger(__name__)

AT_ONCE = 256
"""Messages read in one turn: what a full mailbox holds, about; other work of the loop gets its turn after so many."""

OnResult = Callable[[int, int, FailureKind | None, int], bool]
"""Slot of the endpoint, generation of its circuit, what failed (`None` = nothing), seconds that the endpoint asks to be
left alone; false when it does not count."""

OnFunctionOff = Callable[[str, int, str], None]
"""Name of a key function, the worker that has switched it off, and why."""

Taker = Callable[[Mapping[str, Any]], bool]
"""Takes in a message; false when it was of no use."""


class ControlMail:
    """Reads the mailbox and hands each message to the first of `takers` whose word is in it; `on_dropped` is called for
    each that was of no use."""

    def __init__(self, mailbox: Channel, takers: Mapping[str, Taker], on_dropped: Callable[[], None]) -> None:
        self._mailbox = mailbox
        self._takers = takers
        self._on_dropped = on_dropped

    def __repr__(self) -> str:
        return f"ControlMail({self._mailbox!r})"

    def start(self) -> None:
        """Read what comes, and what came while nobody read."""
        asyncio.get_running_loop().add_reader(self._mailbox.fileno(), self._on_readable)

    def stop(self) -> None:
        """Leave what comes to the next control. Idempotent."""
        asyncio.get_running_loop().remove_reader(self._mailbox.fileno())

    def _on_readable(self) -> None:
        for _ in range(AT_ONCE):
            try:
                message = self._mailbox.receive()
            except (EOFError, OSError) as error:
                # The parent holds an end for as long as it lives.
                _log.error("the mailbox cannot be read: %s", error)
                self.stop()
                return
            except ValueError:
                self._on_dropped()
                continue
            if message is None:
                return
            message.close()
            if not self._take(message.body):
                self._on_dropped()

    def _take(self, body: Mapping[str, Any]) -> bool:
        taker = next((take for word, take in self._takers.items() if word in body), None)
        try:
            return taker is not None and taker(body)
        except Exception:
            # Whatever one message leads to, the next ones are read.
            _log.exception("a message cannot be taken in")
            return False


def taker_of_results(on_result: OnResult) -> Taker:
    """Takes in messages `{"result": …}`."""

    def take(body: Mapping[str, Any]) -> bool:
        result = parse_result(body)
        return result is not None and on_result(*result)

    return take


def taker_of_functions(on_function_off: OnFunctionOff) -> Taker:
    """Takes in messages `{"key_function": …}`."""

    def take(body: Mapping[str, Any]) -> bool:
        off = parse_function_off(body)
        if off is not None:
            on_function_off(*off)
        return off is not None

    return take


def parse_result(body: Any) -> tuple[int, int, FailureKind | None, int] | None:
    """What `{"result": SLOT, "circuit": GENERATION, "kind": WORD}` says, perhaps with `"retry_after": SECONDS`; `None`
    = it says nothing."""
    if not isinstance(body, dict):
        return None
    slot, generation, word = body.get("result"), body.get("circuit"), body.get("kind")
    wait_s = body.get("retry_after", 0)
    if type(slot) is not int or type(generation) is not int or type(wait_s) is not int:
        return None
    if not isinstance(word, str):
        return None
    try:
        return slot, generation, FailureKind(word) if word else None, min(max(wait_s, 0), MAX_RETRY_AFTER_S)
    except ValueError:
        return None


def parse_function_off(body: Any) -> tuple[str, int, str] | None:
    """What `{"key_function": NAME, "worker": SLOT, "why": TEXT}` says; `None` = it says nothing."""
    if not isinstance(body, dict):
        return None
    name, worker, why = body.get("key_function"), body.get("worker"), body.get("why")
    if not isinstance(name, str) or type(worker) is not int or not isinstance(why, str):
        return None
    return printable(name), worker, printable(why)
