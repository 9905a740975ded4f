"""From the sections of `locality_schema` to what pickers and workers go by. Pure."""

from proxy.config.locality_schema import KeySource, Locality, Residency, RouteLocality, Source, TagSource
from proxy.policy.data_key import short_key
from proxy.policy.locality import LocalityParams
from proxy.snapshot import DataSpec, ResidencySpec, SourceSpec


def locality_params(section: Locality) -> LocalityParams:
    """What is known of a cluster beforehand."""
    return LocalityParams(
        slots=section.slots,
        cache_bytes=section.cache,
        bandwidth_bytes_per_s=float(section.bandwidth),
        sizes=tuple((short_key(key.encode()), size) for key, size in section.sizes.items()),
        zone_distance_s=tuple(section.zones.items()),
        max_keys=section.max_keys,
        max_load_percent=section.max_load_percent,
    )


def residency_spec(section: Residency | None) -> ResidencySpec | None:
    """How endpoints are asked what they hold."""
    if section is None:
        return None
    return ResidencySpec(section.path, section.interval, section.timeout)


def data_spec(section: RouteLocality) -> DataSpec:
    """What tells which data the requests of a route need."""
    tags = section.tags
    return DataSpec(
        keys=tuple(_key_source(source) for source in section.data_key),
        size=_source(section.size),
        tags=_source(tags),
        requires_tags=tags is not None and tags.use == "require",
        tag_distance_s=tags.distance if tags is not None else 0.0,
        work_class=_source(section.processing_type),
        require=frozenset(section.require),
        prefer=tuple(section.prefer.items()),
    )


def _source(section: Source | TagSource | None) -> SourceSpec | None:
    if section is None:
        return None
    return SourceSpec(
        header=section.header.lower(), query=section.query, path=section.path, cookie=section.cookie
    )


def _key_source(section: KeySource) -> SourceSpec:
    return SourceSpec(
        header=section.header.lower(),
        query=section.query,
        path=section.path,
        cookie=section.cookie,
        json=section.pointer,
        function=section.function,
        max_body_bytes=section.max_body,
        timeout_s=section.timeout,
    )
