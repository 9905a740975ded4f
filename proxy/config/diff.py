"""What differs between two configurations, for the log and for whoever asked for a reload. Pure.

Values may be secrets, or come from places that are (`${ENV_VAR}`): numbers, switches and the words of the few keys that
only name things are told; of all else, that it changed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.config.kinds import Kind
from proxy.config.section import Section

# Keys whose texts are told.
_OPEN_KEYS = frozenset(("address", "balancer", "bind", "cluster", "listener", "sink", "zone"))
# What tells items of a list apart, the first that an item has.
_IDENTITIES = ("name", "address")
# More than anybody reads in a log; the rest is counted.
MAX_CHANGES = 50


def describe_changes(old: Section, new: Section, notes: Mapping[str, str] | None = None) -> list[str]:
    """A line for each difference, in the order of the models: `clusters[etl].endpoints[10.0.0.2:9000]: added`,
    `timeouts.keep_alive: 75s → 30s`, `admin.token: changed`. At most `MAX_CHANGES`, then how many more.

    `notes` are what is to be said of a key if it differs: `workers: 1 → 3, without effect beside --workers 2`.
    """
    found: list[str] = []
    _compare("", "", old, new, found)
    for key, note in (notes or {}).items():
        found = [f"{line}, {note}" if line.startswith(f"{key}:") else line for line in found]
    if len(found) > MAX_CHANGES:
        found[MAX_CHANGES:] = [f"and {len(found) - MAX_CHANGES} more"]
    return found


def _compare(
    path: str, key: str, old: Any, new: Any, found: list[str], show: Callable[[Any], str] = str
) -> None:
    if old == new:
        return
    if isinstance(old, Section) and type(old) is type(new):
        for name, field in type(old).model_fields.items():
            below = f"{path}.{name}" if path else name
            kind = next((each for each in field.metadata if isinstance(each, Kind)), None)
            shown = str if kind is None else kind.show
            _compare(below, name, getattr(old, name), getattr(new, name), found, shown)
    elif _is_sections(old) and _is_sections(new):
        _compare_items(path, old, new, found)
    elif old is None or new is None:
        found.append(f"{path}: {'added' if old is None else 'removed'}")
    elif _is_open(key, old) and _is_open(key, new):
        found.append(f"{path}: {show(old)} → {show(new)}")
    else:
        found.append(f"{path}: changed")


def _compare_items(path: str, old: Sequence[Section], new: Sequence[Section], found: list[str]) -> None:
    before, after = _by_identity(old), _by_identity(new)
    for name, item in before.items():
        if name not in after:
            found.append(f"{path}[{name}]: removed")
        else:
            _compare(f"{path}[{name}]", "", item, after[name], found)
    found += [f"{path}[{name}]: added" for name in after if name not in before]
    kept = [name for name in before if name in after]
    if kept != [name for name in after if name in before]:
        found.append(f"{path}: in another order")


def _by_identity(items: Sequence[Section]) -> dict[str, Section]:
    """The items by what they are known by; by position where that is nothing or not unique."""
    found: dict[str, Section] = {}
    for index, item in enumerate(items):
        known = (str(getattr(item, name, "")) for name in _IDENTITIES)
        name = next((each for each in known if each), "")
        found[name if name and name not in found else str(index)] = item
    return found


def _is_sections(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, Section) for item in value)


def _is_open(key: str, value: Any) -> bool:
    return isinstance(value, int | float) or key in _OPEN_KEYS
