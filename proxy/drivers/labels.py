"""The labels of containers: those that Homeport writes, and those that it reads. Pure."""

from proxy.drivers.spec import Pairs, Selector

CLUSTER = "homeport.cluster"
"""The cluster that a container belongs to; written, and read where no other labels are asked for."""
OWNER = "homeport.owner"
"""Which Homeport started it, and may stop it."""
SPEC = "homeport.spec"
"""Digest of the spec that it was made from."""
PORT = "homeport.port"
"""The port that it serves at."""


def select(selectors: tuple[Selector, ...], labels: dict[str, str]) -> Selector | None:
    """The first selector that takes a container with these labels."""
    for selector in selectors:
        if all(name in labels and value in ("", labels[name]) for name, value in selector.labels):
            return selector
    return None


def own_labels(cluster: str, owner: str, digest: str, others: Pairs) -> dict[str, str]:
    """The labels of a container that `owner` starts."""
    return {**dict(others), CLUSTER: cluster, OWNER: owner, SPEC: digest}
