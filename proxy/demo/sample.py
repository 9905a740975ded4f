"""The deterministic content that sample services send and the load checks: pure functions of what was asked.

Every service answers the same, so that a reply can be checked without knowing which endpoint it came from.
"""

import hashlib
from collections.abc import Iterator

MAX_BYTES = 1 << 30
"""Largest `/bytes/N`: enough to watch streaming, too little to be a nuisance."""

# A prime, so that bytes lost, repeated or swapped at the power-of-two borders of buffers change the content.
_PERIOD = 65_521
_CHUNK = 1 << 16
_PATTERN = hashlib.shake_256(b"homeport sample bytes").digest(_PERIOD)
_WINDOW = memoryview((_PATTERN * 3)[: _PERIOD + _CHUNK])


def chunks(length: int) -> Iterator[memoryview]:
    """The first `length` bytes of the endless sample content, in pieces of at most 64 KiB."""
    for offset in range(0, length, _CHUNK):
        start = offset % _PERIOD
        yield _WINDOW[start : start + min(_CHUNK, length - offset)]


def content(length: int) -> bytes:
    """The first `length` bytes of the sample content at once."""
    return b"".join(chunks(length))


def digest(length: int) -> str:
    """SHA-256 of the first `length` bytes, in hexadecimal."""
    sha256 = hashlib.sha256()
    for chunk in chunks(length):
        sha256.update(chunk)
    return sha256.hexdigest()


def dataset_bytes(dataset: str) -> int:
    """The invented size of a dataset: 8 to 40 MiB, by its name alone."""
    return (8 << 20) + int.from_bytes(hashlib.sha256(dataset.encode()).digest()[-4:]) % (32 << 20)


def query_result(dataset: str) -> dict[str, object]:
    """The invented result of a query over `dataset`: depends on its name alone."""
    seed = hashlib.sha256(dataset.encode()).digest()
    return {"rows": int.from_bytes(seed[:3]), "fingerprint": seed[3:11].hex()}
