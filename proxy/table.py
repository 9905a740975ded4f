"""What a worker serves from: one snapshot, compiled. Swapped as a whole by replacing one reference."""

from collections.abc import Mapping

from proxy.cluster import Cluster
from proxy.policy.route import RouteTable
from proxy.snapshot import Snapshot


class Table:
    """Routes and clusters of one snapshot."""

    __slots__ = ("clusters", "generation", "limits", "routes", "snapshot", "timeouts", "upgrades")

    def __init__(
        self, snapshot: Snapshot, clusters: Mapping[str, Cluster], previous: "Table | None" = None
    ) -> None:
        """Routes that are those of `previous` are not compiled again. Raises `ValueError` for one with an impossible
        header field."""
        self.snapshot = snapshot
        self.generation = snapshot.generation
        self.clusters = clusters
        if previous is not None and previous.snapshot.routes is snapshot.routes:
            self.routes: RouteTable = previous.routes
        else:
            self.routes = RouteTable(snapshot.routes)
        self.limits = snapshot.limits
        self.timeouts = snapshot.timeouts
        self.upgrades = snapshot.upgrades

    def __repr__(self) -> str:
        return f"Table(generation={self.generation}, {len(self.clusters)} clusters)"
