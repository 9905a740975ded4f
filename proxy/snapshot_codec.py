"""A snapshot as bytes, for the way from control to the workers, and to the next control.

    FORMAT · length of the rows' JSON (8 bytes) · rows · MARK · pickle

Pickle, because both ends are this very program and the bytes never leave the daemon's processes. After a re-exec they
may be another version's: a mark tells, so that no field is ever taken for another. Which rows of the scoreboard belong
to whom can be read by every version: old workers still write to them.
"""

import json
import pickle
from dataclasses import dataclass, fields, is_dataclass
from hashlib import blake2b

import proxy
from proxy import snapshot as snapshot_module
from proxy.errors import ProxyError
from proxy.snapshot import Snapshot

FORMAT = b"homeport rows 1\n"
_LENGTH_BYTES = 8


class OtherVersion(ProxyError):
    """The snapshot was made by another version of Homeport."""


def _mark() -> bytes:
    """Changes with the version and with the fields of any part of a snapshot."""
    shapes = [
        (name, [field.name for field in fields(part)])
        for name, part in sorted(vars(snapshot_module).items())
        if isinstance(part, type) and is_dataclass(part)
    ]
    return blake2b(repr((proxy.__version__, shapes)).encode(), digest_size=16).digest()


MARK = _mark()


@dataclass(frozen=True, slots=True)
class Rows:
    """Which row of the scoreboard belongs to which endpoint (by id) and which cluster (by name)."""

    endpoints: dict[str, int]
    clusters: dict[str, int]


def rows_of(snapshot: Snapshot) -> Rows:
    """The rows that `snapshot` names."""
    return Rows(
        {spec.id: spec.slot for cluster in snapshot.clusters for spec in cluster.endpoints},
        {cluster.name: cluster.slot for cluster in snapshot.clusters},
    )


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The bytes of `snapshot`."""
    rows = rows_of(snapshot)
    names = json.dumps([rows.endpoints, rows.clusters]).encode()
    size = len(names).to_bytes(_LENGTH_BYTES, "big")
    return b"".join((FORMAT, size, names, MARK, pickle.dumps(snapshot, protocol=5)))


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot that `encode_snapshot` encoded. Only for bytes of our own processes: unpickling others' would run
    their code. Raises `OtherVersion`."""
    _, end = _rows_at(data)
    if not data.startswith(MARK, end):
        raise OtherVersion("the snapshot is of another version")
    snapshot = pickle.loads(memoryview(data)[end + len(MARK) :])
    assert isinstance(snapshot, Snapshot)
    return snapshot


def decode_rows(data: bytes) -> Rows:
    """The rows that an encoded snapshot names, whatever version it is of. Raises `OtherVersion` when even that is
    written otherwise."""
    start, end = _rows_at(data)
    endpoints, clusters = json.loads(data[start:end])
    return Rows(endpoints, clusters)


def _rows_at(data: bytes) -> tuple[int, int]:
    """Where the rows begin and end."""
    start = len(FORMAT) + _LENGTH_BYTES
    if not data.startswith(FORMAT) or len(data) < start:
        raise OtherVersion("the snapshot is of another version")
    return start, start + int.from_bytes(data[len(FORMAT) : start], "big")
