"""What an operator has drained: what it is called, what is said back, and what holds for whoever comes by that name."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from proxy.config.endpoints import called
from proxy.controlplane.standings import Member
from proxy.errors import ProxyError
from proxy.snapshot import Snapshot

MAX_SUGGESTED = 5
"""Names in an error's text."""

MAX_DRAINED = 1024
"""Names of drained endpoints that are remembered, the last ones: containers that were drained and removed never come
back."""


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


@dataclass(frozen=True, slots=True)
class Drains:
    """What is drained, by names that hold while nobody is there who has them."""

    listeners: frozenset[str] = frozenset()
    endpoints: tuple[str, ...] = ()
    """Ids, or `CLUSTER/NAME`."""

    def with_endpoints(
        self, name: str, found: Sequence[Member], members: Iterable[Member], is_drained: bool
    ) -> "Drains":
        """An operator drains the endpoints called `name`, or ends that: those that were `found`, of all `members`.

        Who drains an address or an id means that one; who drains a name means all that have it, now and later.
        """
        ids = {member.spec.id for member in found}
        names = {called(member.cluster.name, member.spec) for member in found}
        if is_drained:
            is_one = any(name in _addresses_of(member) for member in found)
            added = ids if is_one else names
        else:
            # The others of that name stay drained.
            ended = names.intersection(self.endpoints)
            added = {
                member.spec.id
                for member in members
                if member.is_drained and called(member.cluster.name, member.spec) in ended
            } - ids
        dropped = added if is_drained else ids | names | {name}
        kept = [each for each in self.endpoints if each not in dropped]
        return replace(self, endpoints=tuple([*kept, *sorted(added)][-MAX_DRAINED:]))

    def apply_to(self, snapshot: Snapshot) -> Snapshot:
        """`snapshot` with what is drained; names of listeners that it does not have do not matter."""
        return replace(
            snapshot,
            listeners=tuple(spec for spec in snapshot.listeners if spec.name not in self.listeners),
            drained_listeners=tuple(spec.name for spec in snapshot.listeners if spec.name in self.listeners),
            drained_endpoints=self.endpoints,
        )


def find_endpoints(members: Iterable[Member], name: str, away: Collection[str] = ()) -> list[Member]:
    """The endpoints called `name`: an id, a cluster with an address or a name (`CLUSTER/query-1:9000`), which may have
    several addresses, or an address or name that only one cluster has. Nobody need have a name that is among those
    `away`.

    Raises `UnknownTarget`, with what may have been meant.
    """
    known: dict[str, list[Member]] = {}
    clusters: dict[str, set[str]] = {}
    for member in members:
        spec, cluster = member.spec, member.cluster.name
        for alias in {called(cluster, spec), spec.name, *_addresses_of(member)}:
            known.setdefault(alias, []).append(member)
            clusters.setdefault(alias, set()).add(cluster)
    found = known.get(name)
    if found is None and name in away:
        return []
    if found is None:
        close = get_close_matches(name, known, n=MAX_SUGGESTED)
        ids = sorted({member.spec.id for found in known.values() for member in found})
        problem = f"there is no endpoint {name!r}"
        raise UnknownTarget(problem, sorted(close, key=lambda one: -len(one))[:2], ids)
    if len(clusters[name]) > 1:
        names = sorted(f"{cluster}/{name}" for cluster in clusters[name])[:MAX_SUGGESTED]
        raise UnknownTarget(f"several clusters have an endpoint {name!r}", names)
    return found


def _addresses_of(member: Member) -> tuple[str, ...]:
    """What means this endpoint and no other that has its name."""
    spec = member.spec
    return spec.id, str(spec.address), f"{member.cluster.name}/{spec.address}"


def check_listener(names: Sequence[str], name: str) -> None:
    """Raise `UnknownTarget` unless `name` is among the configured listeners' `names`."""
    if name not in names:
        raise UnknownTarget(f"there is no listener {name!r}", get_close_matches(name, names, n=1), names)
