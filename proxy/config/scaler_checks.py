"""What is wrong with discovery and scaling beyond single sections: sources that are missing, containers that may do
more than is allowed, ports that two instances would fight over. As in `checks`."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from proxy.config.checks import Conflict, items_at
from proxy.config.container_values import (
    parse_absolute_path,
    parse_capability,
    parse_cpus,
    parse_device,
    parse_memory,
    parse_mount,
    parse_port_mapping,
)
from proxy.config.document import Document
from proxy.config.faults import BadValue, Path, quoted
from proxy.config.values import parse_boolean, parse_integer
from proxy.drivers.labels import CLUSTER

_T = TypeVar("_T")
_SECTIONS = (
    ("discovery",),
    ("discovery", "docker"),
    ("discovery", "dns"),
    ("discovery", "file"),
    ("scaler",),
    ("scaler", "container"),
    ("scaler", "container", "health_check"),
    ("scaler", "process"),
)
_DEFAULT_MAX_INSTANCES = 20


def find_scaler_conflicts(document: Document) -> Iterator[Conflict]:
    """Every broken rule, in no particular order."""
    if not isinstance(document.data, dict):
        return
    yield from _selectors(document)
    for path, cluster in items_at(document, ("clusters",)):
        yield from _empty_sections(document, path)
        yield from _sources(path, cluster)
        scaler = cluster.get("scaler")
        if isinstance(scaler, dict):
            yield from _drivers((*path, "scaler"), scaler)
            yield from _ports(document, path)
            yield from _power(document, (*path, "scaler", "container"))
            yield from _budget(document, (*path, "scaler"))


def _empty_sections(document: Document, path: Path) -> Iterator[Conflict]:
    for section in _SECTIONS:
        own = (*path, *section)
        if own in document.marks and document.get(own) is None:
            yield Conflict(own, "is empty", "a mapping, or no such key")


def _sources(path: Path, cluster: dict[str, Any]) -> Iterator[Conflict]:
    if not {"endpoints", "discovery", "scaler"} & cluster.keys():
        expected = "one of them; endpoints: [] for a cluster that has none yet"
        yield Conflict(path, "has no endpoints, no discovery and no scaler", expected)
    discovery, scaler = cluster.get("discovery"), cluster.get("scaler")
    if isinstance(scaler, dict) and isinstance(discovery, dict):
        others = [name for name in ("dns", "file") if name in discovery]
        for name in others:
            problem = "finds no instance of the scaler"
            yield Conflict((*path, "discovery", name), problem, "docker, or no discovery")
        if scaler.get("driver") == "process" and "docker" in discovery:
            problem = "finds no process of the scaler"
            yield Conflict((*path, "discovery", "docker"), problem, "driver: docker, or no discovery")


def _selectors(document: Document) -> Iterator[Conflict]:
    """A container belongs to the first cluster whose labels it has."""
    before: list[tuple[str, dict[str, str]]] = []
    for path, cluster in items_at(document, ("clusters",)):
        section = document.get((*path, "discovery", "docker"))
        labels = section.get("labels", {}) if isinstance(section, dict) else None
        name = cluster.get("name")
        if not isinstance(labels, dict) or not isinstance(name, str):
            continue
        labels = labels or {CLUSTER: name}
        for other, wider in before:
            if all(key in labels and value in ("", labels[key]) for key, value in wider.items()):
                problem = f"takes no container that cluster {quoted(other)}, which comes first, does not take"
                yield Conflict((*path, "discovery", "docker"), problem, "other labels, or another order")
                break
        before.append((name, labels))


def _drivers(path: Path, scaler: dict[str, Any]) -> Iterator[Conflict]:
    driver = scaler.get("driver", "docker")
    kinds = {"docker": "container", "process": "process"}
    if driver not in kinds:
        return
    wanted = kinds[driver]
    if wanted not in scaler:
        example = "{image: …}" if wanted == "container" else "{command: …}"
        expected = f"what instances are made from: {wanted}: {example}"
        yield Conflict((*path, wanted), f"is missing, though the driver is {driver}", expected)
    for other in set(kinds.values()) - {wanted}:
        if other in scaler:
            yield Conflict((*path, other), f"has no effect with driver: {driver}", f"no {other}")


def _ports(document: Document, path: Path) -> Iterator[Conflict]:
    """Instances have to be told apart by address, and be reachable at all."""
    container = (*path, "scaler", "container")
    section = document.get(container)
    if not isinstance(section, dict):
        return
    limit = _parsed(
        lambda value: parse_integer(value, 1, None), document.get((*path, "scaler", "max_instances"))
    )
    many = (_DEFAULT_MAX_INSTANCES if limit is None else limit) > 1
    found = False
    for own, value in _items(document, (*container, "ports")):
        port = _parsed(parse_port_mapping, value)
        if port is None:
            found = True  # a fault of its own
            continue
        found |= port.protocol == "tcp"
        if port.host_port and many:
            problem = "is a fixed port of the host, which only one instance can have"
            yield Conflict(own, problem, f"{port.port}, or max_instances: 1")
    if not found and document.get((*path, "discovery", "docker", "port")) is None:
        expected = "the port that instances serve at: ports: [8000], or discovery: {docker: {port: 8000}}"
        yield Conflict((*container, "ports"), "names no TCP port", expected)


def _power(document: Document, container: Path) -> Iterator[Conflict]:
    """What gives a container power over the host has to be allowed by name."""
    allow: Path = ("docker", "allow")
    for key, allowed in (("privileged", "privileged"), ("host_pid", "host_pid")):
        own = (*container, key)
        if _is_true(document.get(own)) and not _is_true(document.get((*allow, allowed))):
            yield _refusal(own, f"docker.allow.{allowed}: true")
    for own, value in [*_items(document, (*container, "network")), _single(document, container)]:
        if value == "host" and not _is_true(document.get((*allow, "host_network"))):
            yield _refusal(own, "docker.allow.host_network: true")
    capabilities = _allowed(document, (*allow, "capabilities"), parse_capability)
    for own, value in _items(document, (*container, "cap_add")):
        capability = _parsed(parse_capability, value)
        if capability is not None and capability not in capabilities:
            yield _refusal(own, f"{capability} in docker.allow.capabilities")
    devices = _allowed(document, (*allow, "devices"), parse_absolute_path)
    for own, value in _items(document, (*container, "resources", "devices")):
        device = _parsed(parse_device, value)
        if device is not None and device.host_path not in devices:
            yield _refusal(own, f"{device.host_path} in docker.allow.devices")
    mounts = _allowed(document, (*allow, "mounts"), parse_absolute_path)
    for own, value in _items(document, (*container, "volumes")):
        mount = _parsed(parse_mount, value)
        if mount is None or not mount.is_host_path:
            continue
        source = mount.source.rstrip("/") + "/"
        if not any(source.startswith(allowed.rstrip("/") + "/") for allowed in mounts):
            yield _refusal(own, f"{mount.source}, or a directory around it, in docker.allow.mounts")


def _budget(document: Document, scaler: Path) -> Iterator[Conflict]:
    """A budget counts what instances claim by their limits, so they must have some."""
    container: Path = (*scaler, "container")
    limits: list[tuple[str, Path, Callable[[object], float]]] = [
        ("cpus", (*container, "resources"), parse_cpus),
        ("memory", (*container, "resources"), parse_memory),
    ]
    if document.get((*scaler, "driver")) == "process":
        container = (*scaler, "process")
        limits = [("memory", container, parse_memory)]
    if not isinstance(document.get(container), dict):
        return
    for key, section, parse in limits:
        budget = _parsed(parse, document.get(("host_budget", key)))
        if budget and not document.get((*section, key)):
            yield Conflict((*section, key), "is missing, though host_budget counts it", f"a limit of {key}")


def _refusal(path: Path, expected: str) -> Conflict:
    return Conflict(path, "gives a container power over the host", f"{expected} to allow it")


def _items(document: Document, path: Path) -> list[tuple[Path, Any]]:
    """The values of the list at `path`, each with its own path."""
    found = document.get(path)
    return [((*path, index), item) for index, item in enumerate(found if isinstance(found, list) else ())]


def _single(document: Document, container: Path) -> tuple[Path, Any]:
    own = (*container, "network")
    return own, document.get(own)


def _allowed(document: Document, path: Path, parse: Callable[[object], str]) -> set[str]:
    values = (_parsed(parse, value) for _, value in _items(document, path))
    return {value for value in values if value is not None}


def _is_true(value: object) -> bool:
    return value is not None and _parsed(parse_boolean, value) is True


def _parsed(parse: Callable[[object], _T], value: object) -> _T | None:
    if value is None:
        return None
    try:
        return parse(value)
    except BadValue:
        return None
