"""What control asks a worker to explain, and what it answers: as messages, of which neither believes a word unseen.

Rows of numbers go without their names, so that 128 endpoints with all their terms take about 30 of the 64 KiB that a
message may have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.model import RequestFacts

MAX_CANDIDATES = 128
"""Endpoints in an answer, those first that a request would rather go to."""

Row = Mapping[str, Any]
"""One of the rows below, by the names of its fields."""

_Types = tuple[type, ...]
_FLAG: _Types = (bool,)
_COUNT: _Types = (int,)
_NUMBER: _Types = (int, float)
_TEXT: _Types = (str,)
_MAYBE: _Types = (int, float, type(None))

CANDIDATE_FIELDS: tuple[tuple[str, _Types], ...] = (
    ("slot", _COUNT),
    ("is_candidate", _FLAG),
    ("note", _TEXT),
    ("held_keys", _COUNT),
    ("ring_rank", _COUNT),
    ("is_sure", _FLAG),
    ("in_flight", _COUNT),
    ("score_s", _NUMBER),
    ("wait_s", _NUMBER),
    ("transfer_s", _NUMBER),
    ("crowding_s", _NUMBER),
    ("eviction_s", _NUMBER),
    ("service_s", _NUMBER),
    ("success", _NUMBER),
    ("penalty_s", _NUMBER),
    ("is_overloaded", _FLAG),
    ("work_s", _NUMBER),
    ("slots", _COUNT),
    ("hit_service_s", _MAYBE),
    ("bandwidth_bytes_per_s", _MAYBE),
    ("cache_bytes", _MAYBE),
    ("held_bytes", _NUMBER),
    ("held_count", _COUNT),
)
"""An endpoint; `held_keys` has a bit for each of the request's keys, from the lowest; what is `None` is not known."""

KEY_FIELDS: tuple[tuple[str, _Types], ...] = (
    ("is_known", _FLAG),
    ("size_bytes", _MAYBE),
    ("is_size_given", _FLAG),
    ("holder_count", _COUNT),
)
"""One of the request's keys."""

ANSWER_FIELDS: tuple[tuple[str, _Types], ...] = (
    ("explained", _COUNT),
    ("worker", _COUNT),
    ("is_trusted", _FLAG),
    ("error_s", _NUMBER),
    ("plain_error_s", _NUMBER),
    ("judged", _COUNT),
    ("winner", _COUNT),
    ("why", _TEXT),
    ("reason", _TEXT),
    ("shadow", _COUNT),
    ("left_out", _COUNT),
    ("keys", (list,)),
    ("candidates", (list,)),
)
"""An answer. `winner` and `shadow`, the choice of the cluster's shadow, are slots, -1 = none; `left_out` is how many
endpoints there was no room for."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Where would this request go, and why?"""

    number: int
    cluster: int
    """Its slot."""
    facts: RequestFacts
    """Of which keys, size, processing type and tags to require or prefer are asked for."""

    def message(self) -> dict[str, Any]:
        """For a worker."""
        facts = self.facts
        return {
            "explain": self.number,
            "cluster": self.cluster,
            "keys": [key.hex() for key in facts.data_keys],
            "size": facts.size_bytes,
            "type": facts.work_class.hex(),
            "require": sorted(facts.require),
            "prefer": [[tag, seconds] for tag, seconds in facts.prefer],
        }


def parse_inquiry(body: Mapping[str, Any]) -> Inquiry | None:
    """What `Inquiry.message` made; `None` for anything else."""
    try:
        facts = RequestFacts(
            data_keys=tuple([bytes.fromhex(key) for key in body["keys"]]),
            size_bytes=None if body["size"] is None else int(body["size"]),
            work_class=bytes.fromhex(body["type"]),
            require=frozenset([str(tag) for tag in body["require"]]),
            prefer=tuple([(str(tag), float(seconds)) for tag, seconds in body["prefer"]]),
        )
        return Inquiry(int(body["explain"]), int(body["cluster"]), facts)
    except (KeyError, TypeError, ValueError):
        return None


def parse_answer(body: Mapping[str, Any]) -> Row | None:
    """An answer as the fields above say, its rows by name; `None` for anything else."""
    answer = _row([body.get(name) for name, _ in ANSWER_FIELDS], ANSWER_FIELDS)
    if answer is None:
        return None
    keys = [_row(each, KEY_FIELDS) for each in answer["keys"]]
    candidates = [_row(each, CANDIDATE_FIELDS) for each in answer["candidates"]]
    if None in keys or None in candidates or len(candidates) > MAX_CANDIDATES:
        return None
    return {**answer, "keys": keys, "candidates": candidates}


def _row(values: object, fields: Sequence[tuple[str, _Types]]) -> Row | None:
    if not isinstance(values, list) or len(values) != len(fields):
        return None
    if any(type(value) not in types for value, (_, types) in zip(values, fields, strict=True)):
        return None
    return {name: value for value, (name, _) in zip(values, fields, strict=True)}


def row_values(row: Row, fields: Sequence[tuple[str, _Types]]) -> list[Any]:
    """`row` as it travels."""
    return [row[name] for name, _ in fields]
