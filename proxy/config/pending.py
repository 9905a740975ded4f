"""What a configuration asks for that this version checks and does not do yet: told, because silence would be a lie."""

from collections.abc import Iterator

from proxy.config.schema import Config


def pending(config: Config) -> Iterator[str]:
    """A line for each section that nothing acts on."""
    for cluster in config.clusters:
        if cluster.scaler is not None and cluster.scaler.driver == "docker":
            yield f"cluster {cluster.name!r}: scaler is checked, but this version does not act on it yet"
