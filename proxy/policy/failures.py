"""How an endpoint can fail a request, in words that circuits, outlier detection, retries and the log share. Pure.

Only what is the endpoint's doing counts: a client that left, a request that was refused by us or an answer with a
status below 500 says nothing against it. 501 and 505 are answers about the request; 500, 502, 503, 504 and others from
500 on are failures. 429 is one when it comes with Retry-After: the endpoint itself asks to be left alone for a while.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from proxy.errors import Reason


class FailureKind(Enum):
    """What went wrong; the value is its name in the configuration, metrics and logs."""

    CONNECT = "connect_failure"
    """No connection came about, in time or at all: nothing was sent."""
    TIMEOUT = "timeout"
    """It did not answer in time."""
    RESET = "reset"
    """The connection was reset before an answer."""
    CLOSED = "closed"
    """The connection was closed without an answer."""
    BAD_REPLY = "bad_reply"
    """The answer was malformed, or cut in the middle."""
    STATUS = "5xx"
    """An answer that says that the endpoint failed."""
    RATE_LIMITED = "429"
    """An answer 429 with Retry-After."""


EVERY_KIND = frozenset(FailureKind)

_KINDS = {
    Reason.CONNECT_FAILED: FailureKind.CONNECT,
    Reason.CONNECT_TIMEOUT: FailureKind.CONNECT,
    Reason.TLS_FAILED: FailureKind.CONNECT,
    Reason.CERTIFICATE_INVALID: FailureKind.CONNECT,
    Reason.RESPONSE_TIMEOUT: FailureKind.TIMEOUT,
    Reason.IDLE_TIMEOUT: FailureKind.TIMEOUT,
    Reason.UPSTREAM_RESET: FailureKind.RESET,
    Reason.UPSTREAM_CLOSED: FailureKind.CLOSED,
    Reason.BAD_REPLY: FailureKind.BAD_REPLY,
    Reason.REPLY_HEADER_TOO_LARGE: FailureKind.BAD_REPLY,
    Reason.REPLY_CUT: FailureKind.BAD_REPLY,
}

# Answers about the request, not about the endpoint.
_NOT_FAILED = frozenset({501, 505})


MAX_RETRY_AFTER_S = 300
"""Seconds that an endpoint is left alone at most because it asks for it: a mistake must not take it out for days."""

_RETRY_AFTER = re.compile(rb"\nretry-after:[ \t]*([0-9]{1,9})[ \t]*\r")


def retry_after_s(head: bytes) -> int:
    """Seconds that an answer with this head, in lower case, asks to be left alone, at most `MAX_RETRY_AFTER_S`; 0 =
    it does not say, or says a date (RFC 9110 10.2.3), which clocks may not agree upon."""
    match = _RETRY_AFTER.search(head)
    return min(int(match[1]), MAX_RETRY_AFTER_S) if match is not None else 0


def kind_of_reason(reason: Reason) -> FailureKind | None:
    """What an exchange that ended with `reason` says against its endpoint; `None` = nothing."""
    return _KINDS.get(reason)


def kind_of_status(status: int, *, has_retry_after: bool = False) -> FailureKind | None:
    """What an answer with `status` says against its endpoint; `None` = nothing."""
    if status >= 500:
        return None if status in _NOT_FAILED else FailureKind.STATUS
    if status == 429 and has_retry_after:
        return FailureKind.RATE_LIMITED
    return None


@dataclass(frozen=True, slots=True)
class RetryOn:
    """After which failures a request is tried elsewhere."""

    kinds: frozenset[FailureKind] = frozenset({FailureKind.CONNECT, FailureKind.RESET, FailureKind.CLOSED})
    statuses: frozenset[int] = frozenset({502, 503, 504})
    """Of answers, 400 to 599."""


_WORDS = {
    "connect_failure": frozenset({FailureKind.CONNECT}),
    # One word for both, as in Envoy: whether the kernel says reset or end of file depends on timing alone.
    "reset": frozenset({FailureKind.RESET, FailureKind.CLOSED}),
    "timeout": frozenset({FailureKind.TIMEOUT}),
    "bad_reply": frozenset({FailureKind.BAD_REPLY}),
}
RETRY_WORDS: tuple[str, ...] = tuple(_WORDS)
"""The words that `on` of a retry policy knows besides statuses."""


def retry_on(words: Iterable[str | int]) -> RetryOn:
    """The meaning of `on: [connect_failure, reset, 502]`. Raises `ValueError` for what is no word and no status."""
    kinds: set[FailureKind] = set()
    statuses: set[int] = set()
    for word in words:
        if isinstance(word, str) and word in _WORDS:
            kinds |= _WORDS[word]
        elif isinstance(word, int) and 400 <= word <= 599:
            statuses.add(word)
        else:
            raise ValueError(
                f"{word!r} is neither a status from 400 to 599 nor one of {', '.join(RETRY_WORDS)}"
            )
    return RetryOn(frozenset(kinds), frozenset(statuses))
