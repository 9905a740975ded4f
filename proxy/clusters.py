"""From one snapshot's clusters to the next one's."""

from collections.abc import Mapping

from proxy.cluster import Cluster
from proxy.snapshot import Snapshot
from proxy.surroundings import Surroundings


def build_clusters(
    snapshot: Snapshot, previous: Mapping[str, Cluster], surroundings: Surroundings
) -> dict[str, Cluster]:
    """The clusters of `snapshot`; those of `previous` that are in it go on with what it says."""
    clusters = {}
    for spec in snapshot.clusters:
        cluster = previous.get(spec.name)
        # One that was away for long may come back in another slot.
        if cluster is None or cluster.spec.slot != spec.slot:
            cluster = Cluster(spec, surroundings)
        cluster.update(spec)
        clusters[spec.name] = cluster
    for name, cluster in previous.items():
        if clusters.get(name) is not cluster:
            cluster.on_removed()
    return clusters
