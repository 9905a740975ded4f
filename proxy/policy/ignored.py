"""What requests and answers say about data, and what is left out of it because it makes no sense."""

from collections.abc import Callable
from enum import Enum


class Ignored(Enum):
    """Why something that a request, or an answer, says about data was left out. The value is the metric's label."""

    KEY_TOO_LONG = "key_too_long"
    KEY_CONTROL_BYTES = "key_control_bytes"
    TOO_MANY_KEYS = "too_many_keys"
    SIZE = "size"
    TAG = "tag"
    TYPE = "processing_type"
    TOO_MANY_TYPES = "too_many_processing_types"
    """What was learned of the one unused for longest is forgotten for another."""
    BODY = "body"
    """It is no JSON, or what is in its place is no key."""
    BODY_TOO_LARGE = "body_too_large"
    FUNCTION = "function"
    """It raised, overran, returned what is no key, or is switched off."""
    REPLY_CACHE = "reply_cache"
    REPLY_RESIDENT = "reply_resident"
    REPLY_EVICTED = "reply_evicted"
    REPLY_ENDPOINT = "reply_endpoint"


OnIgnored = Callable[[Ignored], None]
"""Counts what was left out."""
