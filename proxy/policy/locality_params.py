"""What an operator says of a cluster's endpoints and data. A module of its own, because it is a part of snapshots: they
are pickled, which the compiled build does not do with the classes of its extension modules.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LocalityParams:
    """What is known of a cluster's endpoints and data beforehand. What is 0 is learned."""

    slots: int = 0
    """Requests that an endpoint works on at once; more of them wait in it."""
    cache_bytes: int = 0
    """Data that an endpoint holds."""
    bandwidth_bytes_per_s: float = 0.0
    """How fast an endpoint gets data that it does not hold."""
    sizes: tuple[tuple[bytes, int], ...] = ()
    """(data key, bytes); keys as `data_key.short_key` makes them."""
    zone_distance_s: tuple[tuple[str, float], ...] = ()
    """(zone, seconds by which its endpoints are farther away)."""
    max_keys: int = 50_000
    """Data keys that each worker remembers, and at least the 16 that one request may have; those not asked for longest
    are forgotten first. Each takes 0.4 to 0.6 KiB, and 80 bytes more for each further endpoint that holds it."""
    max_load_percent: int = 0
    """Requests in flight of one endpoint as a percentage of its fair share, beyond which it gets no more. Above 100;
    0 = 200."""
