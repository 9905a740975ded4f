"""What a snapshot is made of besides the configuration's text, kept current: addresses of names, certificates.

They belong to one configuration. A reload makes new ones beside the old, and the old go on until the new are served.
"""

import random
from collections.abc import Callable, Mapping, Set

from proxy.clock import Clock
from proxy.config.addresses import NamedAddress
from proxy.config.build import build_snapshot, unresolved_names
from proxy.config.endpoints import NOTHING_FOUND, Found
from proxy.config.material import NO_MATERIAL, TlsMaterial
from proxy.config.schema import Config
from proxy.config.slots import Slots
from proxy.controlplane.certificates import CertificateWatcher
from proxy.controlplane.resolver import Lookup, Resolver, WatchedName
from proxy.model import TcpAddress
from proxy.snapshot import Snapshot
from proxy.snapshot_codec import Legacy


class Sources:
    """The sources of one configuration; `on_change` is called when the next snapshot would differ.

    `known` are the last good addresses by `host:port`, `last_good` the last good certificates. Raises `ConfigError`
    when the files of other certificates are not right.
    """

    def __init__(
        self,
        config: Config,
        on_change: Callable[[], None],
        *,
        clock: Clock,
        rng: random.Random,
        lookup: Lookup,
        known: Mapping[str, tuple[TcpAddress, ...]],
        last_good: TlsMaterial = NO_MATERIAL,
    ) -> None:
        self.config = config
        self.certificates = CertificateWatcher(config, on_change, clock=clock, last_good=last_good)
        self.resolver = Resolver(
            watched_names(config), on_change, clock=clock, rng=rng, lookup=lookup, known=known
        )

    def __repr__(self) -> str:
        return f"Sources({self.resolver!r}, {self.certificates!r})"

    def start(self) -> None:
        """Keep them current from now on."""
        self.resolver.start()
        self.certificates.start()

    async def stop(self) -> None:
        """Stop that. Idempotent."""
        await self.resolver.stop()
        await self.certificates.stop()

    def build(
        self, generation: int, slots: Slots, found: Found = NOTHING_FOUND, awaited: Set[str] = frozenset()
    ) -> Snapshot:
        """The snapshot of this moment, with what has been `found`, and clusters that are `awaited`: see
        `build_snapshot`. Raises `ConfigError` when there are too many endpoints."""
        return build_snapshot(
            self.config,
            generation=generation,
            resolved=self.resolver.resolved,
            slots=slots,
            found=found,
            awaited=awaited,
            material=self.certificates.material,
        )


def watched_names(config: Config) -> list[WatchedName]:
    """The names to resolve; one that several clusters use is looked up as often as the most eager of them
    asks."""
    intervals: dict[tuple[str, int], list[float]] = {name: [] for name in unresolved_names(config)}
    for cluster in config.clusters:
        for endpoint in cluster.endpoints:
            if isinstance(endpoint.address, NamedAddress):
                key = (endpoint.address.host, endpoint.address.port)
                intervals[key].append(cluster.dns.refresh)
    return [
        WatchedName(host, port, min((each for each in found if each > 0), default=0.0))
        for (host, port), found in intervals.items()
    ]


def known_addresses(legacy: Legacy) -> Mapping[str, tuple[TcpAddress, ...]]:
    """What names resolved to before, by `host:port`: good until a lookup says otherwise."""
    return {
        name: tuple(TcpAddress(host, port) for host, port in found)
        for name, found in legacy.addresses.items()
    }
