"""A snapshot as bytes, for the way from control to the workers, and to the next control.

    FORMAT · length of the legacy's JSON (8 bytes) · legacy · MARK · pickle

The pickle holds the routes, and each cluster, as pickles of their own. Whoever decodes one snapshot after the other
looks at those alone that have changed: most snapshots are about one cluster, because a name has another address, and a
worker serves nobody while it decodes.

Pickle, because both ends are this very program and the bytes never leave the daemon's processes. After a re-exec they
may be another version's: a mark tells, so that no field is ever taken for another. What a control of any version goes
on from can be read by every version: names it does not know are left, and those that are missing are empty.
"""

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from hashlib import blake2b
from typing import Any

import proxy
from proxy import snapshot as snapshot_module
from proxy.errors import ProxyError
from proxy.model import TcpAddress
from proxy.snapshot import Snapshot

FORMAT = b"homeport legacy 1\n"
_LENGTH_BYTES = 8
_PICKLE_FORMAT = 2
"""How the pickle is made up."""


class OtherVersion(ProxyError):
    """The snapshot was made by another version of Homeport."""


def _mark() -> bytes:
    """Changes with the version and with the fields of any part of a snapshot."""
    shapes = [
        (name, [field.name for field in fields(part)])
        for name, part in sorted(vars(snapshot_module).items())
        if isinstance(part, type) and is_dataclass(part)
    ]
    return blake2b(repr((proxy.__version__, _PICKLE_FORMAT, shapes)).encode(), digest_size=16).digest()


MARK = _mark()


@dataclass(frozen=True, slots=True)
class Legacy:
    """What a control of any version goes on from."""

    endpoints: dict[str, int] = field(default_factory=dict)
    """Which row of the scoreboard belongs to which endpoint, by id: old workers still write to it."""
    clusters: dict[str, int] = field(default_factory=dict)
    """The same of clusters, by name."""
    drained_listeners: list[str] = field(default_factory=list)
    drained_endpoints: list[str] = field(default_factory=list)
    """As in a snapshot."""
    addresses: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """What names of endpoints resolved to: (IP address, port) by `host:port`."""


def legacy_of(snapshot: Snapshot) -> Legacy:
    """What the control after the one that made `snapshot` goes on from."""
    addresses: dict[str, dict[tuple[str, int], None]] = {}
    for cluster in snapshot.clusters:
        for spec in cluster.endpoints:
            if isinstance(spec.address, TcpAddress) and not spec.source and spec.name != str(spec.address):
                addresses.setdefault(spec.name, {})[spec.address.host, spec.address.port] = None
    return Legacy(
        {spec.id: spec.slot for cluster in snapshot.clusters for spec in cluster.endpoints},
        {cluster.name: cluster.slot for cluster in snapshot.clusters},
        list(snapshot.drained_listeners),
        list(snapshot.drained_endpoints),
        {name: list(found) for name, found in addresses.items()},
    )


class _Pickler(pickle.Pickler):
    """Has dataclasses made by their constructors, which takes a third of the time that setting their fields does."""

    def reducer_override(self, made: Any) -> Any:
        if is_dataclass(made) and not isinstance(made, type):
            return type(made), tuple([getattr(made, part.name) for part in fields(made)])
        return NotImplemented


def _pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The bytes of `snapshot`."""
    left = legacy_of(snapshot)
    legacy = json.dumps({part.name: getattr(left, part.name) for part in fields(left)}).encode()
    size = len(legacy).to_bytes(_LENGTH_BYTES, "big")
    parts = (
        replace(snapshot, routes=(), clusters=()),
        _pickled(snapshot.routes),
        [_pickled(cluster) for cluster in snapshot.clusters],
    )
    return b"".join((FORMAT, size, legacy, MARK, _pickled(parts)))


class SnapshotDecoder:
    """Decodes one snapshot after the other; routes and clusters that have not changed stay the same objects."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}
        """The routes and clusters of the last one, by digests of their bytes."""

    def decode(self, data: bytes) -> Snapshot:
        """The snapshot that `data` encodes. Only for bytes of our own processes: unpickling others' would run their
        code. Raises `OtherVersion`."""
        _, end = _legacy_at(data)
        if not data.startswith(MARK, end):
            raise OtherVersion("the snapshot is of another version")
        snapshot: Snapshot
        snapshot, routes, clusters = pickle.loads(memoryview(data)[end + len(MARK) :])
        before, self._known = self._known, {}
        routes, *clusters = [self._part(part, before) for part in (routes, *clusters)]
        return replace(snapshot, routes=routes, clusters=tuple(clusters))

    def _part(self, data: bytes, before: Mapping[bytes, Any]) -> Any:
        digest = blake2b(data, digest_size=16).digest()
        part = self._known[digest] = before[digest] if digest in before else pickle.loads(data)
        return part


def decode_snapshot(data: bytes) -> Snapshot:
    """One snapshot alone, as by `SnapshotDecoder`."""
    return SnapshotDecoder().decode(data)


def decode_legacy(data: bytes) -> Legacy:
    """The legacy in an encoded snapshot, whatever version it is of. Raises `OtherVersion` when even that is written
    otherwise."""
    start, end = _legacy_at(data)
    found = json.loads(data[start:end])
    return Legacy(**{part.name: found[part.name] for part in fields(Legacy) if part.name in found})


def _legacy_at(data: bytes) -> tuple[int, int]:
    """Where the legacy begins and ends."""
    start = len(FORMAT) + _LENGTH_BYTES
    if not data.startswith(FORMAT) or len(data) < start:
        raise OtherVersion("the snapshot is of another version")
    return start, start + int.from_bytes(data[len(FORMAT) : start], "big")
