"""What is wrong with settings about data beyond single keys: who would look at them. As in `checks`."""

from collections.abc import Iterator
from typing import Any

from proxy.config.checks import Conflict, items_at
from proxy.config.document import Document
from proxy.config.faults import BadValue, Path
from proxy.config.locality_values import parse_function
from proxy.config.values import parse_size
from proxy.key_function import BadFunction, find_function
from proxy.policy.balancer import BALANCERS, balancer

LEAST_CACHE_BYTES = 4096
"""A page: a cache of less is no cache of data."""


def find_locality_conflicts(document: Document) -> Iterator[Conflict]:
    """Every broken rule, in no particular order."""
    if not isinstance(document.data, dict):
        return
    clusters = items_at(document, ("clusters",))
    for path, cluster in clusters:
        yield from _cluster(path, cluster)
    names = {cluster.get("name"): cluster for _, cluster in clusters if isinstance(cluster.get("name"), str)}
    for path, route in items_at(document, ("routes",)):
        if "locality" in route:
            yield from _route(document, path, route, names)


def find_locality_doubts(document: Document) -> Iterator[Conflict]:
    """What can be meant, and hardly is. Of clusters whose endpoints are found, or started, nobody knows what they will
    have."""
    if not isinstance(document.data, dict):
        return
    clusters = items_at(document, ("clusters",))
    for path, cluster in clusters:
        yield from _small_caches(document, path)
        if _is_listed(cluster):
            yield from _empty_zones(document, path)
    listed = {
        cluster["name"]: [_tags(endpoint) for _, endpoint in items_at(document, (*path, "endpoints"))]
        for path, cluster in clusters
        if isinstance(cluster.get("name"), str)
        and _is_listed(cluster)
        and "data_locality_aware" in _balancers(cluster)[:1]
    }
    for path, route in items_at(document, ("routes",)):
        own = (*path, "locality", "require")
        required = {tag for tag in _list(document.get(own)) if isinstance(tag, str)}
        for name in _used_clusters(document, path, route):
            if required and name in listed and not any(required <= tags for tags in listed[name]):
                problem = f"has tags that no endpoint of cluster {name} has together, so none may have such a request"
                yield Conflict(own, problem, "tags of one of its endpoints")


def _is_listed(cluster: dict[str, Any]) -> bool:
    """Whether all its endpoints are in the file."""
    return cluster.get("discovery") is None and cluster.get("scaler") is None


def _small_caches(document: Document, path: Path) -> Iterator[Conflict]:
    owners = [(*path, "locality"), *(each for each, _ in items_at(document, (*path, "endpoints")))]
    for own in [(*owner, "cache") for owner in owners]:
        try:
            cache = parse_size(document.get(own), 0)
        except BadValue:
            continue  # as the models say, or there is none
        if 0 < cache < LEAST_CACHE_BYTES:
            yield Conflict(
                own, "holds next to no data", "the bytes of data that an endpoint holds, or 0 = learned"
            )


def _empty_zones(document: Document, path: Path) -> Iterator[Conflict]:
    zones = document.get((*path, "locality", "zones"))
    there = {endpoint.get("zone") for _, endpoint in items_at(document, (*path, "endpoints"))}
    for zone in zones if isinstance(zones, dict) else ():
        if zone not in there:
            own = (*path, "locality", "zones", zone)
            yield Conflict(own, "is the distance of a zone that no endpoint is in", "the zone of an endpoint")


def _tags(endpoint: dict[str, Any]) -> set[str]:
    return {tag for tag in _list(endpoint.get("tags")) if isinstance(tag, str)}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def find_function_conflicts(document: Document) -> Iterator[Conflict]:
    """Functions that are not there. Imports the modules that the file names."""
    if not isinstance(document.data, dict):
        return
    for path, _ in items_at(document, ("routes",)):
        keys = (*path, "locality", "data_key")
        for own in (keys, *(source for source, _ in items_at(document, keys))):
            try:
                find_function(parse_function(document.get((*own, "function"))))
            except BadFunction as error:
                yield Conflict((*own, "function"), error.problem, error.expected)
            except BadValue:
                pass  # none, or no name of one, as the models say


def _balancers(cluster: dict[str, Any]) -> list[str]:
    """The balancers that pick in a cluster, as far as they are known."""
    names = (cluster.get("balancer", "round_robin"), cluster.get("shadow"))
    return [name for name in names if isinstance(name, str) and name in BALANCERS]


def _sees_data(cluster: dict[str, Any]) -> bool:
    """Whether a balancer of the cluster goes by data; also when it is none that is known, which is a fault already."""
    known = _balancers(cluster)
    return any(balancer(name).sees_data for name in known) or len(known) < 1 + ("shadow" in cluster)


def _cluster(path: Path, cluster: dict[str, Any]) -> Iterator[Conflict]:
    name = cluster.get("balancer", "round_robin")
    if "shadow" in cluster and cluster["shadow"] == name:
        yield Conflict((*path, "shadow"), "is the balancer itself", "another balancer, or no such key")
    if cluster.get("locality") is not None and not _sees_data(cluster):
        yield Conflict((*path, "locality"), f"has no effect with {name}", "balancer: data_locality_aware")


def _used_clusters(document: Document, path: Path, route: dict[str, Any]) -> list[str]:
    """Names of the clusters that a route sends requests to."""
    used = [route.get("cluster"), *(part.get("cluster") for _, part in items_at(document, (*path, "split")))]
    return [name for name in used if isinstance(name, str)]


def _route(
    document: Document, path: Path, route: dict[str, Any], clusters: dict[Any, dict[str, Any]]
) -> Iterator[Conflict]:
    own = (*path, "locality")
    section = route["locality"]
    if section is None:
        yield Conflict(own, "is empty", "a mapping, or no such key")
        return
    if section == {}:
        yield Conflict(
            own, "names nothing", "where the data key is, such as data_key: {header: X-Dataset-Id}"
        )
        return
    for action in ("respond", "redirect"):
        if action in route:
            yield Conflict(own, f"has no effect with {action}", "no locality")
            return
    found = [clusters[name] for name in _used_clusters(document, path, route) if name in clusters]
    if found and not any(map(_sees_data, found)):
        names = ", ".join(dict.fromkeys(_balancers(cluster)[0] for cluster in found))
        problem = f"has no effect: its cluster's balancer is {names}"
        yield Conflict(own, problem, "balancer: data_locality_aware in that cluster, or no such key")
