"""What an operator names when something is to be drained, and what is said back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from proxy.controlplane.standings import Member
from proxy.errors import ProxyError
from proxy.snapshot import Snapshot

MAX_SUGGESTED = 5
"""Names in an error's text."""


class UnknownTarget(ProxyError):
    """There is nothing of that name, or more than one thing."""

    def __init__(self, problem: str, names: Sequence[str] = (), known: Sequence[str] = ()) -> None:
        super().__init__(problem, names, known)
        self.problem = problem
        self.names = names
        """What may have been meant."""
        self.known = known
        """What there is; told when nobody knows what was meant."""

    def __str__(self) -> str:
        if self.names:
            return f"{self.problem}; did you mean {' or '.join(self.names)}?"
        if not self.known:
            return self.problem
        shown = ", ".join(self.known[:MAX_SUGGESTED])
        more = len(self.known) - MAX_SUGGESTED
        return f"{self.problem}; there {'is' if len(self.known) == 1 else 'are'} {shown}" + (
            f" and {more} more" if more > 0 else ""
        )


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What is drained now, or not any more."""

    targets: tuple[str, ...]
    """Ids of endpoints, or the name of a listener."""
    changed: tuple[str, ...]
    """Those for which that is new."""
    is_drained: bool
    is_pending: bool = False
    """Not every worker knows of it yet."""

    def document(self) -> dict[str, Any]:
        """As the admin API has it."""
        return {
            "drained": self.is_drained,
            "targets": list(self.targets),
            "changed": list(self.changed),
            "pending": self.is_pending,
        }


def find_endpoints(members: Iterable[Member], name: str) -> list[Member]:
    """The endpoints called `name`: an id (`CLUSTER/ADDRESS`), a cluster with a configured name
    (`CLUSTER/query-1:9000`), which may have several addresses, or an address or configured name that only one cluster
    has.

    Raises `UnknownTarget`, with what may have been meant.
    """
    known: dict[str, list[Member]] = {}
    clusters: dict[str, set[str]] = {}
    for member in members:
        spec, cluster = member.spec, member.cluster.name
        for alias in {spec.id, f"{cluster}/{spec.name}", str(spec.address), spec.name}:
            known.setdefault(alias, []).append(member)
            clusters.setdefault(alias, set()).add(cluster)
    found = known.get(name)
    if found is None:
        close = get_close_matches(name, known, n=MAX_SUGGESTED)
        ids = sorted({member.spec.id for found in known.values() for member in found})
        problem = f"there is no endpoint {name!r}"
        raise UnknownTarget(problem, sorted(close, key=lambda one: -len(one))[:2], ids)
    if len(clusters[name]) > 1:
        names = sorted(f"{cluster}/{name}" for cluster in clusters[name])[:MAX_SUGGESTED]
        raise UnknownTarget(f"several clusters have an endpoint {name!r}", names)
    return found


def check_listener(names: Sequence[str], name: str) -> None:
    """Raise `UnknownTarget` unless `name` is among the configured listeners' `names`."""
    if name not in names:
        raise UnknownTarget(f"there is no listener {name!r}", get_close_matches(name, names, n=1), names)


def without_listeners(snapshot: Snapshot, drained: Iterable[str]) -> Snapshot:
    """`snapshot` without the listeners that are `drained`; names that it does not have do not matter."""
    names = set(drained)
    return replace(
        snapshot,
        listeners=tuple(spec for spec in snapshot.listeners if spec.name not in names),
        drained_listeners=tuple(spec.name for spec in snapshot.listeners if spec.name in names),
    )
