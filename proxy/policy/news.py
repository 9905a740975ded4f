"""What processes tell each other of who holds which data.

    {"data": CLUSTER, "news": [[POINT, ENDPOINT, SIZE], …]}

CLUSTER and ENDPOINT are slots of the scoreboard, POINT is the key's (`hashring.key_point`), and SIZE its bytes: 0 = not
known, `GONE` = it is not there, `LOST` = nothing is there any more, whatever the point. There may be more:

    "given": 1                            endpoints said so themselves
    "reports": [[ENDPOINT, SLOTS, CACHE_BYTES, BANDWIDTH], …]
                                          what they say of themselves; 0 = nothing
    "listed": MOST                        control asked for it; sizes that are not known are MOST bytes on average at
                                          most, or the cache would not hold them all; 0 = who knows
    "only": [ENDPOINT, LOW, HIGH]         of the points from LOW to HIGH nothing is there but what is in the news
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from proxy.policy.data_key import MAX_SIZE_BYTES

# News of one message: with 20 digits for a point and 16 for a size they take 45 bytes each at most, and a message has
# room for 64 KiB.
NEWS_AT_ONCE = 1200
GONE = -1
LOST = -2

_MAX_POINT = 2**64 - 1

News = Sequence[int]
"""Point, slot of the endpoint, size."""


def parse_news(body: Mapping[str, Any]) -> tuple[int, list[News]] | None:
    """The cluster and the news of a message; `None` when anything in it is not as it should be."""
    cluster, news = body.get("data"), body.get("news")
    if type(cluster) is not int or not isinstance(news, list):
        return None
    return (cluster, news) if all([_is_news(one) for one in news]) else None


def _is_news(one: Any) -> bool:
    if type(one) is not list or len(one) != 3:
        return False
    point, slot, size = one
    return (
        type(point) is int
        and type(slot) is int
        and type(size) is int
        and 0 <= point <= _MAX_POINT
        and LOST <= size <= MAX_SIZE_BYTES
    )


def messages(cluster: int, news: Iterator[News], **more: Any) -> Iterator[dict[str, Any]]:
    """Messages with all of `news`, each made when it is asked for; `more` is in each."""
    while some := list(islice(news, NEWS_AT_ONCE)):
        yield {"data": cluster, "news": some, **more}


def list_messages(
    cluster: int, slot: int, resident: Mapping[int, int], most_bytes: int
) -> Iterator[dict[str, Any]]:
    """Messages with all that the endpoint in `slot` holds, bytes by point; see above for `most_bytes`."""
    points, low = sorted(resident), 0
    for start in range(0, len(points) or 1, NEWS_AT_ONCE):
        some = points[start : start + NEWS_AT_ONCE]
        high = some[-1] if start + NEWS_AT_ONCE < len(points) else _MAX_POINT
        news = [[point, slot, resident[point]] for point in some]
        yield {"data": cluster, "news": news, "given": 1, "listed": most_bytes, "only": [slot, low, high]}
        low = high + 1
