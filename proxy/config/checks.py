"""What one key alone cannot tell: references, duplicates, and keys that need or exclude each other.

These rules look at the data as it was read, not at the finished models: a file with a bad timeout and an
unknown cluster is to be told both. So each rule takes what it understands and leaves the rest to the
models, which have already refused it. Pure; nothing here raises.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from proxy.config.addresses import is_loopback, parse_address, parse_bind
from proxy.config.document import Document
from proxy.config.faults import BadValue, Path, path_text
from proxy.config.kinds import did_you_mean
from proxy.config.route_schema import Match
from proxy.config.schema import MAX_LISTENERS, Admin
from proxy.model import TcpAddress, UnixAddress
from proxy.policy.balancer import BALANCERS
from proxy.scoreboard import MAX_ENDPOINTS

ACTIONS = ("cluster", "split", "respond", "redirect")
# The closest name costs some 10 µs for each that it is compared with.
_COMPARED_NAMES = 100
_WILDCARDS = ("0.0.0.0", "::")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Conflict:
    """A rule that is broken: on what, and the texts of a fault."""

    path: Path
    problem: str
    expected: str


def find_conflicts(document: Document) -> Iterator[Conflict]:
    """Every broken rule, in no particular order."""
    if not isinstance(document.data, dict):
        return
    listeners, clusters, routes = (
        items_at(document, (name,)) for name in ("listeners", "clusters", "routes")
    )
    if not clusters and not routes:
        yield Conflict((), "has neither clusters nor routes", "at least one cluster or route")
    for section, items in (("listener", listeners), ("route", routes), ("cluster", clusters)):
        yield from _duplicate_names(section, items)
    yield from _binds(document, listeners)
    yield from _admin(document)
    yield from _endpoints(document, clusters)
    yield from _balancers(document, clusters)
    yield from _routes(document, routes)
    yield from _references(document, routes)
    yield from _twin_routes(routes)


def effective_name(item: Any, section: str, index: int) -> str:
    """The name of a listener or route in the file, or the default one by its position."""
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) and name else f"{section}-{index + 1}"


def items_at(document: Document, path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The mappings of the list at `path`, each with its own path."""
    found = document.get(path)
    items = enumerate(found if isinstance(found, list) else ())
    return [((*path, index), item) for index, item in items if isinstance(item, dict)]


def _duplicate_names(section: str, items: list[tuple[Path, dict[str, Any]]]) -> Iterator[Conflict]:
    first: dict[str, Path] = {}
    for path, item in items:
        if section == "cluster" and not isinstance(item.get("name"), str):
            continue
        index = path[-1]
        assert isinstance(index, int)
        name = effective_name(item, section, index)
        if name in first:
            problem = f"is the same name as that of {path_text(first[name])}"
            yield Conflict((*path, "name"), problem, "a name of its own")
        first.setdefault(name, path)


def _parsed(parse: Callable[[object], _T], value: object) -> _T | None:
    try:
        return parse(value)
    except BadValue:
        return None


def _binds(document: Document, listeners: list[tuple[Path, dict[str, Any]]]) -> Iterator[Conflict]:
    # The admin API comes first, so that the fault is on the listener, which the file has.
    default = Admin.model_fields["bind"].default
    binds: list[tuple[Path, Any]] = [(("admin", "bind"), document.get(("admin", "bind")) or default)]
    binds += [((*path, "bind"), item.get("bind")) for path, item in listeners[:MAX_LISTENERS]]
    seen: list[tuple[Path, TcpAddress | UnixAddress]] = []
    for path, value in binds:
        if (bind := _parsed(parse_bind, value)) is None:
            continue
        for other_path, other in seen:
            if _collide(bind, other):
                problem = f"takes the same address as {path_text(other_path)}"
                yield Conflict(path, problem, "an address of its own")
                break
        seen.append((path, bind))


def _collide(one: TcpAddress | UnixAddress, other: TcpAddress | UnixAddress) -> bool:
    """Whether the kernel would refuse to listen on both. A wildcard takes in every address of its family."""
    if one == other:
        return not (isinstance(one, TcpAddress) and one.port == 0)
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return False
    if one.port != other.port or one.port == 0:
        return False
    same_family = (":" in one.host) == (":" in other.host)
    return same_family and (one.host in _WILDCARDS or other.host in _WILDCARDS)


def _admin(document: Document) -> Iterator[Conflict]:
    admin = document.get(("admin",))
    if isinstance(admin, dict) and "token" in admin and admin["token"] is None:
        yield Conflict(("admin", "token"), "is empty", "a token, or no such key")
        return
    bind = _parsed(parse_bind, document.get(("admin", "bind")))
    if bind is not None and not is_loopback(bind) and document.get(("admin", "token")) is None:
        problem = "is missing, though admin.bind can be reached from other machines"
        yield Conflict(("admin", "token"), problem, "a token, or a bind on 127.0.0.1, [::1] or unix:")


def _endpoints(document: Document, clusters: list[tuple[Path, dict[str, Any]]]) -> Iterator[Conflict]:
    total = 0
    for path, _ in clusters:
        first: dict[object, Path] = {}
        for endpoint_path, endpoint in items_at(document, (*path, "endpoints")):
            total += 1
            if total == MAX_ENDPOINTS + 1:
                problem = f"is endpoint number {total} of the file"
                yield Conflict(endpoint_path, problem, f"at most {MAX_ENDPOINTS} endpoints in all clusters")
            address = _parsed(parse_address, endpoint.get("address"))
            if address is not None and address in first:
                problem = f"is the same address as that of {path_text(first[address])}"
                yield Conflict((*endpoint_path, "address"), problem, "each address once in a cluster")
            first.setdefault(address, endpoint_path)


def _balancers(document: Document, clusters: list[tuple[Path, dict[str, Any]]]) -> Iterator[Conflict]:
    for path, cluster in clusters:
        name = cluster.get("balancer", "round_robin")
        hashes = "consistent_hashing" in (name, cluster.get("shadow"))
        for key in ("hash", "sticky"):
            if key in cluster and cluster[key] is None:
                yield Conflict((*path, key), "is empty", "a mapping, or no such key")
        if hashes and "hash" not in cluster:
            kind = "balancer" if name == "consistent_hashing" else "shadow"
            problem = f"is missing, though the {kind} is consistent_hashing"
            yield Conflict((*path, "hash"), problem, "what to hash, such as {header: X-Dataset-Id}")
        elif "hash" in cluster and not hashes and name in BALANCERS:
            yield Conflict((*path, "hash"), f"has no effect with {name}", "balancer: consistent_hashing")
        own = document.get((*path, "sticky", "cookie"))
        if own is not None and own == document.get((*path, "hash", "cookie")):
            problem = "is the cookie of sticky, which stands for an endpoint"
            yield Conflict((*path, "hash", "cookie"), problem, "another cookie")


def _routes(document: Document, routes: list[tuple[Path, dict[str, Any]]]) -> Iterator[Conflict]:
    for path, route in routes:
        given = [action for action in ACTIONS if action in route]
        expected = f"exactly one of {', '.join(ACTIONS)}"
        if not given:
            yield Conflict(path, "has no action", expected)
        for action in given[1:]:
            yield Conflict((*path, action), f"is a second action beside {given[0]}", expected)
        for action in given[:1]:
            if action in ("respond", "redirect") and route[action] is None:
                yield Conflict((*path, action), "is empty", "a mapping")
        if "rewrite" in route and given and given[0] in ("respond", "redirect"):
            yield Conflict((*path, "rewrite"), f"has no effect with {given[0]}", "no rewrite")
        if isinstance(route.get("split"), list):
            yield from _split(document, (*path, "split"))
        yield from _prefixes(document, path)


def _split(document: Document, path: Path) -> Iterator[Conflict]:
    parts = items_at(document, path)
    if all(part.get("weight", 1) in ("0", 0) for _, part in parts):
        problem = "sends nothing anywhere" if parts else "is empty"
        yield Conflict(path, problem, "at least one cluster with a weight above 0")
    seen = set()
    for part_path, part in parts:
        name = part.get("cluster")
        if isinstance(name, str) and name in seen:
            yield Conflict((*part_path, "cluster"), "is in the split twice", "each cluster once")
        seen.add(name if isinstance(name, str) else None)


def _prefixes(document: Document, path: Path) -> Iterator[Conflict]:
    """What is stripped or replaced must be in front of everything that the route matches."""
    matched = document.get((*path, "match", "path_prefix"))
    exact = document.get((*path, "match", "path"))
    strip = document.get((*path, "rewrite", "strip_prefix"))
    if isinstance(strip, str):
        inside = [text for text in (matched, exact) if isinstance(text, str)]
        if not any(f"{text}/".startswith(strip.removesuffix("/") + "/") for text in inside):
            expected = "match.path_prefix, or the beginning of it"
            yield Conflict((*path, "rewrite", "strip_prefix"), "is not what the route matches", expected)
    replace = (*path, "redirect", "path_prefix")
    if document.get(replace) is not None and matched is None:
        yield Conflict(replace, "has nothing to replace", "a match.path_prefix in the same route")


def _references(document: Document, routes: list[tuple[Path, dict[str, Any]]]) -> Iterator[Conflict]:
    clusters = _names(document, "cluster")
    listeners = _names(document, "listener")
    for path, _ in routes:
        parts = items_at(document, (*path, "split"))
        for reference in ((*path, "cluster"), *((*part_path, "cluster") for part_path, _ in parts)):
            yield from _reference(document, reference, "cluster", clusters)
        yield from _reference(document, (*path, "match", "listener"), "listener", listeners)


def _names(document: Document, section: str) -> dict[str, bool]:
    """Names of a section, and whether they may be shown: those from the environment or a file may not."""
    names = {}
    for index, item in enumerate(document.get((f"{section}s",)) or ()):
        if section == "listener" or (isinstance(item, dict) and isinstance(item.get("name"), str)):
            name_path = (f"{section}s", index, "name")
            names[effective_name(item, section, index)] = name_path not in document.sources
    return names


def _reference(document: Document, path: Path, section: str, names: dict[str, bool]) -> Iterator[Conflict]:
    name = document.get(path)
    if isinstance(name, str) and name not in names:
        known = [each for each, may_show in names.items() if may_show]
        hint = "" if path in document.sources else did_you_mean(name, known[:_COMPARED_NAMES])
        yield Conflict(path, f"is no {section} of this file", f"the name of a {section}{hint}")


def _twin_routes(routes: list[tuple[Path, dict[str, Any]]]) -> Iterator[Conflict]:
    first: dict[object, Path] = {}
    for path, route in routes:
        try:
            match = Match.model_validate(route.get("match", {}))
        except ValidationError:
            continue
        key = _match_key(match)
        if key in first:
            problem = f"is the same as that of {path_text(first[key])}, so this route gets no request"
            yield Conflict((*path, "match"), problem, "a match of its own")
        first.setdefault(key, path)


def _match_key(match: Match) -> object:
    """Equal for two matches that hold for the same requests as far as one can see."""
    headers = frozenset((name.lower(), value) for name, value in match.headers.items())
    host = "" if match.host == "*" else match.host
    prefix = match.path_prefix.removesuffix("/")
    return match.listener, host, match.path, prefix, frozenset(match.methods), headers
