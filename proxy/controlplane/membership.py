"""What sources say of clusters: the endpoints that discovery finds and the scaler starts, besides those of the
configuration.

It belongs to control rather than to a configuration, and begins with what the snapshot of the control before had. So a
source is believed until it says something else: over reloads, while it cannot be asked, and after a restart.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from proxy.config.endpoints import NO_SLOT, merge
from proxy.controlplane.events import EventLog, EventType
from proxy.snapshot import EndpointSpec, Snapshot

AWAIT_S = 60.0
"""Seconds that requests wait for an instance of a cluster that lost its last one: a restart takes less, of the engine
too. How long each of them waits is its queue's limit."""

Said = tuple[EndpointSpec, ...]


class Membership:
    """The last word of each source on each cluster. `on_change` is called when there is another one; `previous` is the
    snapshot that is served already."""

    def __init__(self, on_change: Callable[[], None], previous: Snapshot | None = None) -> None:
        self._on_change = on_change
        self._said: dict[str, dict[str, Said]] = {}
        """By cluster, then by source."""
        self._answered: set[tuple[str, str]] = set()
        self._lost: dict[str, float | None] = {}
        """Clusters whose last instance is gone, and since when as far as was looked; `None` = since the last look."""
        for cluster in previous.clusters if previous is not None else ():
            for spec in cluster.endpoints:
                if spec.source:
                    said = self._said.setdefault(cluster.name, {})
                    said[spec.source] = (*said.get(spec.source, ()), replace(spec, slot=NO_SLOT))
            if cluster.is_awaited and cluster.name not in self._said:
                self._lost[cluster.name] = None

    def __repr__(self) -> str:
        counts = {cluster: {one: len(said) for one, said in by.items()} for cluster, by in self._said.items()}
        return f"Membership({counts})"

    @property
    def found(self) -> Mapping[str, Said]:
        """What all sources say, by cluster."""
        return {
            cluster: tuple(spec for source in sorted(by) for spec in by[source])
            for cluster, by in self._said.items()
        }

    def put(self, source: str, cluster: str, found: Iterable[EndpointSpec]) -> None:
        """`source` says that these are the endpoints of `cluster`, in place of all that it said before."""
        said = tuple(replace(spec, source=source) for spec in sorted(found, key=lambda spec: spec.id))
        self._answered.add((source, cluster))
        by_source = self._said.setdefault(cluster, {})
        last = by_source.get(source, ())
        if last == said:
            return
        by_source[source] = said
        if said:
            self._lost.pop(cluster, None)
        elif any(spec.instance for spec in last):
            self._lost[cluster] = None
        self._on_change()

    @property
    def awaited(self) -> frozenset[str]:
        """Clusters that have instances, or lost the last one less than a minute ago: it may be on its way back."""
        with_instances = {
            cluster for cluster, said in self.found.items() if any(spec.instance for spec in said)
        }
        return frozenset(with_instances | self._lost.keys())

    def sweep(self, *, now: float) -> None:
        """Await no longer what has been gone for long. Call it every few seconds."""
        gone = [own for own, since in self._lost.items() if since is not None and now - since >= AWAIT_S]
        self._lost = {own: since or now for own, since in self._lost.items() if own not in gone}
        if gone:
            self._on_change()

    def of(self, source: str, cluster: str) -> Said:
        """What `source` last said of `cluster`."""
        return self._said.get(cluster, {}).get(source, ())

    def has_answered(self, source: str, cluster: str) -> bool:
        """Whether `source` has said something of `cluster` since this control began."""
        return (source, cluster) in self._answered

    def keep(self, clusters: Iterable[str]) -> None:
        """Forget what is said of clusters that are not among these."""
        kept = set(clusters)
        self._said = {cluster: by for cluster, by in self._said.items() if cluster in kept}
        self._answered = {(source, cluster) for source, cluster in self._answered if cluster in kept}
        self._lost = {cluster: since for cluster, since in self._lost.items() if cluster in kept}

    def departures(self, present: Iterable[EndpointSpec]) -> dict[str, str]:
        """Why endpoints, out of those that are `present`, get nothing new from now on, by id: they leave, or no source
        names them any more. Those of a cluster that others take over altogether go on until the next snapshot brings
        these."""
        present = tuple(present)
        named: dict[str, str] = {}
        for said in self.found.values():
            named |= {spec.id: spec.leaving for spec in merge(said)}
        staying = {spec.id for spec in present if not spec.source or named.get(spec.id) == ""}
        coming = {own for own, leaving in named.items() if not leaving} - staying
        replaced = set(map(_cluster_of, coming)) - set(map(_cluster_of, staying))
        found = {spec.id: named[spec.id] for spec in present if named.get(spec.id)}
        for spec in present:
            if spec.source and spec.id not in named and _cluster_of(spec.id) not in replaced:
                found[spec.id] = "it is gone"
        return found


def tell_of_membership(events: EventLog, before: Snapshot | None, now: Snapshot) -> None:
    """Tell which endpoints of sources have come, and which have gone."""
    last, present = _found_in(before), _found_in(now)
    for own in sorted(last.keys() - present.keys()):
        events.tell(EventType.GONE, own, f"{last[own].name}, by {last[own].source}")
    for own in sorted(present.keys() - last.keys()):
        spec = present[own]
        events.tell(EventType.FOUND, own, f"{spec.name} at {spec.address}, by {spec.source}")


def _found_in(snapshot: Snapshot | None) -> dict[str, EndpointSpec]:
    clusters = snapshot.clusters if snapshot is not None else ()
    return {spec.id: spec for cluster in clusters for spec in cluster.endpoints if spec.source}


def _cluster_of(endpoint_id: str) -> str:
    return endpoint_id.partition("/")[0]
