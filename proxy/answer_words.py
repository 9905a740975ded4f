"""Which words of an endpoint's row of the scoreboard count an answer."""

from bisect import bisect_left

from proxy.columns import LATENCY_BOUNDS_S, METHOD_INDEX, METHODS, OTHER_METHOD, STATUS_COLUMNS, STATUS_INDEX
from proxy.scoreboard import E_LATENCY, E_REQUESTS


def latency_index(seconds: float) -> int:
    """Word of an endpoint's row that counts an answer which took `seconds`."""
    return E_LATENCY + bisect_left(LATENCY_BOUNDS_S, seconds)


def request_index(method: bytes, status: int) -> int:
    """Word of an endpoint's row that counts answers with `status` (0–999) to `method`."""
    return _REQUEST_WORDS.get(method, _OTHER_WORDS)[status]


# By method and status, worked out once: the request path asks for each answer.
_REQUEST_WORDS = {
    method: tuple(E_REQUESTS + index * STATUS_COLUMNS + STATUS_INDEX[status] for status in range(1000))
    for method, index in METHOD_INDEX.items()
}
_OTHER_WORDS = _REQUEST_WORDS[METHODS[OTHER_METHOD].encode()]
