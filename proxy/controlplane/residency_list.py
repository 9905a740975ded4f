"""What an endpoint says it holds, when it is asked.

    {"resident": [{"key": "customers", "bytes": 1048576}, "orders"],
     "complete": true, "slots": 4, "cache_bytes": 1073741824, "bandwidth": 125000000}

All but `resident` may be left out, as may `bytes`; the list of `resident` alone is an answer too. What is not in a
`complete` list is not there. Keys are as requests have them. An endpoint may be wrong, or lie: members of the list that
make no sense are left out, as are numbers that are none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.errors import ProxyError
from proxy.policy.data_key import MAX_SIZE_BYTES, good_key
from proxy.policy.data_reply import MAX_SLOTS
from proxy.policy.hashring import key_point
from proxy.policy.ignored import Ignored


class BadList(ProxyError):
    """Not such an answer."""


@dataclass(frozen=True, slots=True)
class ResidencyList:
    """What one answer says."""

    resident: dict[int, int]
    """Bytes by the key's point; 0 = it does not say how many."""
    is_complete: bool = True
    """It holds nothing else."""
    slots: int = 0
    """0 = it does not say, as for the next two."""
    cache_bytes: int = 0
    bandwidth_bytes_per_s: int = 0

    def most_bytes(self, cache_bytes: int) -> int:
        """What those keys have at most on average of which it does not say how many bytes, or a cache of `cache_bytes`
        would not hold them; 0 = who knows."""
        count = sum([not size for size in self.resident.values()])
        if not count or not cache_bytes:
            return 0
        return max((cache_bytes - sum(self.resident.values())) // count, 1)


def parse_list(body: bytes, max_keys: int) -> ResidencyList:
    """The list in `body`; its first `max_keys` keys are taken, and it is not complete if it has more. Raises
    `BadList`."""
    try:
        document = orjson.loads(body)
    except ValueError as error:
        raise BadList(f"its answer is not JSON: {error}") from error
    if isinstance(document, list):
        document = {"resident": document}
    members = document.get("resident") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise BadList("its answer has no list 'resident'")
    resident: dict[int, int] = {}
    is_complete = document.get("complete", True) is True
    for point, size in _known(members):
        if len(resident) >= max_keys and point not in resident:
            is_complete = False
            break
        resident[point] = size
    return ResidencyList(
        resident,
        is_complete,
        _number(document.get("slots"), MAX_SLOTS),
        _number(document.get("cache_bytes"), MAX_SIZE_BYTES),
        _number(document.get("bandwidth"), MAX_SIZE_BYTES),
    )


def _known(members: list[Any]) -> Iterator[tuple[int, int]]:
    for member in members:
        key, size = (member.get("key"), member.get("bytes")) if isinstance(member, dict) else (member, 0)
        if isinstance(key, str):
            name = good_key(key.encode(), _nobody)
            if name is not None:
                yield key_point(name), _number(size, MAX_SIZE_BYTES)


def _number(value: Any, high: int) -> int:
    return value if type(value) is int and 0 < value <= high else 0


def _nobody(why: Ignored) -> None:
    """Only what clients and answers to them say is counted by its faults."""
