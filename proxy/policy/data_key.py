"""Which data a request needs, by what its route says of it."""

from hashlib import blake2b

MAX_SHORT_KEY_BYTES = 64
"""Longer keys are known by a digest, so that what is remembered of a key has a bound."""


def short_key(key: bytes) -> bytes:
    """What stands for `key` everywhere: itself, or its 16-byte blake2b digest when it is longer than 64 bytes."""
    return key if len(key) <= MAX_SHORT_KEY_BYTES else blake2b(key, digest_size=16).digest()
