"""Prometheus families of routing by data."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from proxy.policy.ignored import Ignored
from proxy.scoreboard import K_IGNORED, Scoreboard
from proxy.snapshot import Snapshot


def locality_families(board: Scoreboard, snapshot: Snapshot | None) -> Iterator[Metric]:
    """The families of `snapshot`'s clusters; a reason appears when it first occurs."""
    ignored = CounterMetricFamily(
        "homeport_cluster_ignored_data_values",
        "Values about data, in requests and answers, that make no sense and were left out, by what is wrong.",
        labels=("service_name", "reason"),
    )
    for cluster in snapshot.clusters if snapshot else ():
        words = board.cluster_sum(cluster.slot)[K_IGNORED : K_IGNORED + len(Ignored)]
        for why, count in zip(Ignored, words, strict=True):
            if count:
                ignored.add_metric((cluster.name, why.value), count)
    yield ignored
