"""What is wrong with TLS settings beyond single keys: keys that need each other, and the files they name.

As in `checks`, each rule takes what it understands and leaves the rest to the models; unlike there, files are read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from proxy.config.addresses import parse_address
from proxy.config.checks import Conflict, effective_name, items_at
from proxy.config.document import Document
from proxy.config.faults import BadValue, Path, path_text
from proxy.config.material import BadMaterial, read_cluster_tls, read_listener_tls
from proxy.config.tls_schema import ClusterTls, ListenerTls
from proxy.model import UnixAddress

_Model = TypeVar("_Model", bound=BaseModel)


def find_tls_conflicts(document: Document, directory: FilePath, now: float) -> Iterator[Conflict]:
    """Every broken rule, in no particular order. `directory` is where relative paths begin, `now` what certificates
    must be valid at, in seconds since the Unix epoch."""
    if not isinstance(document.data, dict):
        return
    listeners = items_at(document, ("listeners",))
    for path, _ in listeners:
        yield from _listener(document, (*path, "tls"), directory, now)
    for path, _ in items_at(document, ("clusters",)):
        yield from _cluster(document, (*path, "tls"), directory, now)
    yield from _redirects(document, listeners)


def _settings(document: Document, path: Path, model: type[_Model], directory: FilePath) -> _Model | None:
    """The TLS settings at `path`; `None` when there are none, or none that the models take."""
    try:
        return model.model_validate(document.get(path), context={"directory": directory})
    except ValidationError:
        return None


def _empty_keys(document: Document, path: Path, names: Sequence[str]) -> Iterator[Conflict]:
    """Keys that are there without a value would count as not given, and leave out what somebody meant to have."""
    settings = document.get(path)
    for name in names:
        if isinstance(settings, dict) and name in settings and settings[name] is None:
            yield Conflict((*path, name), "is empty", "a file, or no such key")


def _listener(document: Document, path: Path, directory: FilePath, now: float) -> Iterator[Conflict]:
    if _is_empty(document, path):
        yield Conflict(path, "is empty", "a mapping with certificates, or no such key")
    yield from _empty_keys(document, path, ("client_ca",))
    tls = _settings(document, path, ListenerTls, directory)
    if tls is None:
        return
    authenticates = tls.client_auth != "none"
    if authenticates and tls.client_ca is None:
        yield Conflict((*path, "client_ca"), f"is missing with client_auth {tls.client_auth}", "a file")
    for key, is_given in (("client_ca", tls.client_ca), ("forward_client_cert", tls.forward_client_cert)):
        if is_given and not authenticates:
            yield Conflict((*path, key), "has no effect without client_auth", "client_auth beside it")
    if tls.ciphers and tls.min_version == "1.3":
        yield Conflict((*path, "ciphers"), "has no effect with min_version 1.3", "no such key")
    yield from _files(path, read_listener_tls, tls, now)


def _cluster(document: Document, path: Path, directory: FilePath, now: float) -> Iterator[Conflict]:
    if _is_empty(document, path):
        yield Conflict(path, "is empty", "a mapping, or no such key")
    yield from _empty_keys(document, path, ("ca", "cert", "key"))
    tls = _settings(document, path, ClusterTls, directory)
    if tls is None:
        return
    if not tls.verify and tls.ca is not None:
        yield Conflict((*path, "ca"), "has no effect with verify false", "no such key")
    for key, given, other, missing in (
        ("cert", tls.cert, "key", tls.key),
        ("key", tls.key, "cert", tls.cert),
    ):
        if given is not None and missing is None:
            yield Conflict((*path, key), f"is there without {other}", "both cert and key, or neither")
    if tls.verify and not tls.server_name:
        yield from _nameless(document, path)
    yield from _files(path, read_cluster_tls, tls, now)


def _is_empty(document: Document, path: Path) -> bool:
    around = document.get(path[:-1])
    return isinstance(around, dict) and path[-1] in around and around[path[-1]] is None


def _nameless(document: Document, path: Path) -> Iterator[Conflict]:
    for endpoint_path, endpoint in items_at(document, (*path[:-1], "endpoints")):
        try:
            address = parse_address(endpoint.get("address"))
        except BadValue:
            continue
        if isinstance(address, UnixAddress):
            problem = f"is missing, though {path_text(endpoint_path)} is a Unix socket, which has no name"
            yield Conflict((*path, "server_name"), problem, "the name in its certificate, or verify: false")
            return


def _files(path: Path, read: Any, tls: ListenerTls | ClusterTls, now: float) -> Iterator[Conflict]:
    try:
        read(tls, now=now)
    except BadMaterial as error:
        for fault in error.faults:
            yield Conflict((*path, *fault.path), fault.problem, fault.expected)


def _redirects(document: Document, listeners: list[tuple[Path, dict[str, Any]]]) -> Iterator[Conflict]:
    """A redirect that changes the scheme alone goes in circles where the scheme is the same already."""
    secure = {
        effective_name(item, "listener", index)
        for index, (_, item) in enumerate(listeners)
        if item.get("tls") is not None
    }
    every = {effective_name(item, "listener", index) for index, (_, item) in enumerate(listeners)}
    for path, route in items_at(document, ("routes",)):
        redirect = route.get("redirect")
        if not isinstance(redirect, dict) or {"host", "path", "path_prefix"} & redirect.keys():
            continue
        reached = {"http": every - secure, "https": secure}.get(str(redirect.get("scheme")), set())
        listener = document.get((*path, "match", "listener"))
        circles = sorted(reached if listener is None else reached & {str(listener)})
        if circles:
            problem = f"sends requests of listener {circles[0]} back to where they came from"
            yield Conflict((*path, "redirect", "scheme"), problem, "a match.listener without it")
