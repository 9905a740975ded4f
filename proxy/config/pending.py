"""What a configuration asks for that this version checks and does not do yet: told, because silence would be a lie."""

from collections.abc import Iterator

from proxy.config.schema import Config


def pending(config: Config) -> Iterator[str]:
    """A line for each section that nothing acts on."""
    for cluster in config.clusters:
        for name in ("discovery", "scaler"):
            if getattr(cluster, name) is not None:
                yield f"cluster {cluster.name!r}: {name} is checked, but this version does not act on it yet"
