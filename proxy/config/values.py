"""From the text of one scalar to a value: durations, sizes, numbers, names.

Every parser takes what the YAML file holds and returns a value or raises `BadValue`, which says what is
wrong and what was expected but never repeats the value: it may be a secret. A scalar that was not quoted
arrives as `Plain`, still as text, and the field decides what it is. So `12:30`, `on`, `1.10` and `8080`
are never guessed to be something else, as YAML 1.1 does, and a header value of `1.10` stays `1.10`.
"""

import re
from pathlib import Path

from proxy.config.faults import BadValue


class Plain(str):
    """A scalar without quotes, or one made by interpolation: it may stand for a number or a boolean."""

    __slots__ = ()


DURATION_PATTERN = r"^(0|[0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h))$"
SIZE_PATTERN = r"^[0-9]{1,15}(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?$"
NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$"

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?")
# Longer than anything sensible, and far below where an event loop's timers overflow.
MAX_DURATION_S = 366 * 24 * 3600.0
DURATION_EXPECTED = "a duration such as 250ms, 30s, 5m or 1h"

_SIZE = re.compile(r"([0-9]{1,15})([KMGT]i?B|B)?")
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SIZE_EXPECTED = "a size such as 512B, 64KiB, 10MB or 2GiB"
# What a signed 64-bit word of the scoreboard holds with room to spare.
MAX_SIZE_BYTES = 2**50

# PATH_MAX of Linux.
_MAX_PATH_CHARACTERS = 4096

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NAME = re.compile(NAME_PATTERN[1:-1])


def scalar_text(value: object, expected: str) -> str:
    """The text of a single value: a string, or a number from code that did not go through YAML."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise BadValue("is empty" if value is None else "is of the wrong type", expected)


def parse_duration(value: object) -> float:
    """Seconds: `250ms`, `30s`, `5m`, `1.5h`, or `0`. A bare number is refused: its unit would be a guess."""
    text = scalar_text(value, DURATION_EXPECTED)
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        bare = re.fullmatch(r"[0-9]+(\.[0-9]+)?", text)
        raise BadValue("has no unit" if bare else "is not a duration", DURATION_EXPECTED)
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > MAX_DURATION_S:
        raise BadValue("is too long", "at most 8784h")
    return seconds


def duration_text(seconds: float) -> str:
    """`seconds` (≥ 0) as one would write them: in the largest unit of which they are a whole number, else in
    milliseconds: `1h`, `90s`, `1500ms`, `0`."""
    if not seconds:
        return "0"
    unit = next((unit for unit in ("h", "m", "s") if seconds % _SECONDS[unit] == 0), "ms")
    return f"{seconds / _SECONDS[unit]:.6f}".rstrip("0").rstrip(".") + unit


def parse_size(value: object, low: int = 0, high: int = MAX_SIZE_BYTES) -> int:
    """Bytes from `low` to `high`: `64KiB` (powers of 1024), `10MB` (powers of 1000), `512B` or `512`."""
    match = _SIZE.fullmatch(scalar_text(value, SIZE_EXPECTED))
    if match is None:
        raise BadValue("is not a size", SIZE_EXPECTED)
    size = int(match[1]) * _BYTES[match[2] or "B"]
    if not low <= size <= high:
        raise BadValue("is out of range", f"{size_text(low)} to {size_text(high)}")
    return size


def size_text(size: int) -> str:
    """`size` bytes in the largest binary unit that divides it."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def parse_integer(value: object, low: int, high: int | None) -> int:
    """A whole number from `low` to `high` (`None` = no upper bound), written in decimal without quotes."""
    expected = integer_expected(low, high)
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, Plain) and _INTEGER.fullmatch(value):
        number = int(value)
    else:
        scalar_text(value, expected)
        raise BadValue("is not a whole number", expected)
    if number < low or (high is not None and number > high):
        raise BadValue("is out of range", expected)
    return number


def parse_number(value: object, low: float, high: float) -> float:
    """A number from `low` to `high`, with or without decimals, written without quotes."""
    expected = number_expected(low, high)
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, Plain) and _NUMBER.fullmatch(value):
        number = float(value)
    else:
        scalar_text(value, expected)
        raise BadValue("is not a number", expected)
    if not low <= number <= high:
        raise BadValue("is out of range", expected)
    return number


def number_expected(low: float, high: float) -> str:
    """What `parse_number` takes."""
    return f"a number from {low:g} to {high:g}"


def integer_expected(low: int, high: int | None) -> str:
    """What `parse_integer` takes."""
    return f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"


def parse_boolean(value: object) -> bool:
    """`true` or `false`, as YAML 1.2 has them; `yes` and `on` are words."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Plain) and value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    scalar_text(value, "true or false")
    raise BadValue("is not a boolean", "true or false")


def parse_text(value: object, high: int = 64 * 1024) -> str:
    """Any text of up to `high` characters."""
    text = scalar_text(value, "a text")
    if not text.isprintable() and any("\ud800" <= char <= "\udfff" for char in text):
        raise BadValue("has a lone surrogate", "Unicode text")
    if len(text) > high:
        raise BadValue("is too long", f"at most {high} characters")
    return str(text)


def parse_name(value: object) -> str:
    """A name for listeners, clusters, routes, zones and tags."""
    expected = "1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit"
    text = scalar_text(value, expected)
    if not _NAME.fullmatch(text):
        raise BadValue("is not a valid name", expected)
    return str(text)


def parse_token(value: object) -> str:
    """A secret that is sent in a header: visible ASCII."""
    expected = "1 to 1024 visible ASCII characters"
    text = scalar_text(value, expected)
    if not 1 <= len(text) <= 1024 or not all("!" <= char <= "~" for char in text):
        raise BadValue("is not a valid token", expected)
    return str(text)


def parse_sink(value: object) -> str:
    """Where a log goes: `off`, `stdout`, or an absolute path."""
    expected = "off, stdout or an absolute path"
    text = scalar_text(value, expected)
    if text in ("off", "stdout"):
        return str(text)
    if not text.startswith("/") or text.endswith("/") or not text.isprintable():
        raise BadValue("is not a place for a log", expected)
    return str(text)


def parse_file(value: object) -> Path:
    """The path of a file, absolute or relative."""
    text = scalar_text(value, "the path of a file")
    if not text or text.endswith("/") or not text.isprintable() or len(text) > _MAX_PATH_CHARACTERS:
        raise BadValue("is not the path of a file", "the path of a file")
    return Path(str(text))
