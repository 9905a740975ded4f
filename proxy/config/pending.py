"""What a configuration asks for that this version checks and does not do yet: told, because silence would be a lie."""

from collections.abc import Iterator

from proxy.config.schema import Config


def pending(config: Config) -> Iterator[str]:
    """A line for each section that nothing acts on."""
    for cluster in config.clusters:
        unused = ["discovery"] if cluster.discovery is not None else []
        if cluster.scaler is not None and cluster.scaler.driver == "docker":
            unused.append("scaler")
        for name in unused:
            yield f"cluster {cluster.name!r}: {name} is checked, but this version does not act on it yet"
