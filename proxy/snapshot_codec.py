"""A snapshot as bytes, for the way from control to the workers.

Pickle, because both ends are this very program and the bytes never leave the daemon's processes. After a re-exec they
may be another version's: a mark tells, so that no field is ever taken for another.
"""

import pickle
from dataclasses import fields, is_dataclass
from hashlib import blake2b

import proxy
from proxy import snapshot as snapshot_module
from proxy.errors import ProxyError
from proxy.snapshot import Snapshot


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


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The bytes of `snapshot`."""
    return MARK + pickle.dumps(snapshot, protocol=5)


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot that `encode_snapshot` encoded. Only for bytes of our own processes: unpickling others' would run
    their code. Raises `OtherVersion`."""
    if not data.startswith(MARK):
        raise OtherVersion("the snapshot is of another version")
    snapshot = pickle.loads(memoryview(data)[len(MARK) :])
    assert isinstance(snapshot, Snapshot)
    return snapshot
