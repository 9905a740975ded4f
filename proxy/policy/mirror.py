"""What is known from afar of who holds which data in a cluster: for processes to come, and for what would be lost.

Workers tell what they place and what they find gone, and this is the same picture, made of the same parts
(`residency`), by somebody who sends nothing himself. A key that is asked for is told of about once a second, so being
told says how recently and how steadily it is used: the tellings of the last minutes, the older ones counting less, are
its heat. A thousand requests a second make a key no hotter than one does, and that is as it should be: what is lost
with its only holder is fetched again once, however many ask for it then.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from math import exp

from proxy.policy.learning import FIRST_BYTES, MOST_RATIO
from proxy.policy.news import GONE, LOST, News
from proxy.policy.residency import DataKey, Holdings, Residency

# Seconds after which a telling counts e times less; as long as instances take to be missed again after scaling in.
HEAT_S = 300.0


class Mirror:
    """Of one cluster."""

    __slots__ = ("_holdings", "_slots", "residency")

    def __init__(self, max_keys: int) -> None:
        self.residency = Residency(max_keys)
        self._holdings: dict[int, Holdings] = {}
        """By slot of the endpoint."""
        self._slots: dict[Holdings, int] = {}

    def __repr__(self) -> str:
        return f"Mirror({self.residency}, {len(self._holdings)} endpoints)"

    def update(self, max_keys: int, slots: Collection[int]) -> None:
        """These endpoints there are from now on; what others held is forgotten."""
        self.residency.limit(max_keys)
        for slot in self._holdings.keys() - slots:
            gone = self._holdings.pop(slot)
            gone.forget()
            del self._slots[gone]
        for slot in slots:
            if slot not in self._holdings:
                holdings = self._holdings[slot] = Holdings()
                self._slots[holdings] = slot

    def limit(self, slot: int, cache_bytes: int) -> None:
        """The endpoint in `slot` holds so many bytes at most; 0 = no end of it is known."""
        self._holdings[slot].limit(cache_bytes)

    def on_news(self, news: Iterable[News], is_given: bool = False, *, now: float) -> None:
        """A worker tells something; `is_given` = endpoints told it so."""
        residency = self.residency
        for point, slot, size in news:
            holdings = self._holdings.get(slot)
            if holdings is None:
                continue  # it is in no snapshot any more, or not in ours yet
            if size == LOST:
                holdings.forget()
            elif size == GONE:
                found = residency.find(point)
                if found is not None:
                    holdings.drop(found)
            elif is_given:
                self._on_named(holdings, point, size)
            else:
                key = residency.key(point)
                key.heat = _heat(key, now) + 1.0
                key.told_at = now
                if size and not key.is_given:
                    residency.resize(key, float(size))
                holdings.touch(key, 0.0)

    def on_list(self, slot: int, resident: Mapping[int, int], is_complete: bool) -> list[News]:
        """The endpoint in `slot` itself says what it holds: bytes by point, 0 = not known. Returns what is new in that.

        It takes no room from what is asked for: when as many keys are known as may be, others are not taken in. What it
        says of sizes counts more than what workers learned, unless it is more than ten times that.
        """
        holdings = self._holdings.get(slot)
        if holdings is None:
            return []
        news: list[News] = []
        if is_complete:
            for key in [key for key in holdings.kept if key.point not in resident]:
                holdings.drop(key)
                news.append((key.point, slot, GONE))
        for point, size in resident.items():
            if self._on_named(holdings, point, size):
                news.append((point, slot, size))
        return news

    def _on_named(self, holdings: Holdings, point: int, size: int) -> bool:
        """An endpoint itself says that it holds the key at `point`, of `size` bytes; 0 = it does not say. Returns
        whether that is new."""
        key = self.residency.mentioned(point)
        if key is None:
            return False
        is_new = size > 0 and self._hear_size(key, float(size))
        if key not in holdings.kept:
            holdings.touch(key, 0.0)
            is_new = True
        return is_new

    def _hear_size(self, key: DataKey, size_bytes: float) -> bool:
        """An endpoint says that `key` has so many bytes, > 0. Returns whether that is new."""
        # Workers see transfers, so what they tell of a size is a measure of what can be.
        most = MOST_RATIO * max(FIRST_BYTES, 0.0 if key.is_given else key.size_bytes)
        is_given = key.is_given or size_bytes <= most
        if size_bytes > most:
            size_bytes = key.size_bytes or most
        is_new = (size_bytes, is_given) != (key.size_bytes, key.is_given)
        key.is_given = is_given
        self.residency.resize(key, size_bytes)
        return is_new

    def news(self) -> Iterator[News]:
        """All that is known, as it is when it is asked for; what was not asked for the longest comes first, so that
        whoever takes it in forgets in the same order."""
        for point in [key.point for key in self.residency]:
            key = self.residency.find(point)
            if key is not None:
                for holdings in key.holders:
                    yield point, self._slots[holdings], int(key.size_bytes)

    def cost_of_losing(self, slot: int, staying: Collection[int] | None = None, *, now: float) -> float:
        """Bytes that would be fetched again if the endpoint in `slot` went: of what nobody else holds who is `staying`
        (`None` = all others stay), each key's size times the odds that it is asked for within `HEAT_S`, if it is asked
        for at random and as often as of late.

        A key of unknown size counts as the mean of the others there; if there are none, as a byte.
        """
        holdings = self._holdings.get(slot)
        if holdings is None or not holdings.kept:
            return 0.0
        known = [key.size_bytes for key in holdings.kept if key.size_bytes]
        typical = sum(known) / len(known) if known else 1.0
        return sum(
            [
                (key.size_bytes or typical) * (1.0 - exp(-_heat(key, now)))
                for key in holdings.kept
                if not self._is_held_elsewhere(key, holdings, staying)
            ]
        )

    def _is_held_elsewhere(self, key: DataKey, holdings: Holdings, staying: Collection[int] | None) -> bool:
        if staying is None or len(key.holders) == 1:
            return len(key.holders) > 1
        return any(self._slots[other] in staying for other in key.holders if other is not holdings)


def _heat(key: DataKey, now: float) -> float:
    """Tellings of late."""
    return key.heat * exp(-max(now - key.told_at, 0.0) / HEAT_S) if key.heat else 0.0
