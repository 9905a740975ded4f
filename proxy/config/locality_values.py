"""From the text of one scalar to where data keys are found and what they are. See `values`."""

import re

from proxy.config.faults import BadValue
from proxy.config.values import scalar_text

MAX_KEY_BYTES = 1024
"""What requests may name, and so what is worth a size of its own (`policy.data_key`)."""

# At most one `{name}` in a segment: a second one would make the match a guess.
_SEGMENT = re.compile(r"[^{}]*(?:\{[A-Za-z_][A-Za-z0-9_]{0,31}\}[^{}]*)?")
_MAX_TEMPLATE_CHARACTERS = 1024
TEMPLATE_EXPECTED = "a path such as /datasets/{dataset}, at most one {name} between two slashes"
POINTER_EXPECTED = "a JSON pointer such as /dataset or /query/tables/0"
_BAD_ESCAPE = re.compile(r"~(?![01])")
FUNCTION_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
FUNCTION_EXPECTED = "module:function, such as site_keys:keys_of"
_FUNCTION = re.compile(FUNCTION_PATTERN[1:-1])


def parse_path_template(value: object) -> str:
    """The beginning of a path with at least one `{name}`, which stands for a segment or a part of one. A last `/…` says
    that more may follow, as it always may, and is left out."""
    text = scalar_text(value, TEMPLATE_EXPECTED).removesuffix("/…")
    if not text.startswith("/") or not text.isprintable() or "?" in text or "#" in text:
        raise BadValue("is not a path template", TEMPLATE_EXPECTED)
    if len(text) > _MAX_TEMPLATE_CHARACTERS:
        raise BadValue("is too long", f"at most {_MAX_TEMPLATE_CHARACTERS} characters")
    segments = text[1:].split("/")
    if any(not _SEGMENT.fullmatch(segment) or segment in (".", "..") for segment in segments):
        raise BadValue("is not a path template", TEMPLATE_EXPECTED)
    if "{" not in text:
        raise BadValue("has no {name}, so it would name the same data for all", TEMPLATE_EXPECTED)
    return text


def parse_json_pointer(value: object) -> str:
    """A pointer of RFC 6901 to a part of the document, not to all of it."""
    text = scalar_text(value, POINTER_EXPECTED)
    if not text.startswith("/") or not text.isprintable() or len(text) > 1024:
        raise BadValue("is not a JSON pointer", POINTER_EXPECTED)
    if _BAD_ESCAPE.search(text):
        raise BadValue("has a ~ that is no escape", "~0 for ~ and ~1 for /")
    return str(text)


def parse_function(value: object) -> str:
    """`module:function`; whether they are there is looked at elsewhere."""
    text = scalar_text(value, FUNCTION_EXPECTED)
    if len(text) > 256 or not _FUNCTION.fullmatch(text):
        raise BadValue("is not a function's name", FUNCTION_EXPECTED)
    return str(text)


def parse_data_key(value: object) -> str:
    """A data key as requests name it."""
    expected = f"1 to {MAX_KEY_BYTES} bytes without control characters"
    text = scalar_text(value, expected)
    if not text or not text.isprintable() or len(text.encode()) > MAX_KEY_BYTES:
        raise BadValue("is not a data key", expected)
    return str(text)
