"""What can be wrong with a configuration, and how it is told: one line a fault, with its place in the file.

A fault is a value, not an exception, because a file may have many and a person wants to see all of them at
once. `InvalidConfig` carries them across a call. Nothing in a rendered fault can break the line or the
terminal: control characters are escaped and long values cut.
"""

from dataclasses import dataclass

from proxy.errors import ConfigError

Path = tuple[str | int, ...]
"""Where in the configuration: keys and list positions (from 0), outermost first."""

# Enough to recognise a value by, short enough to keep a fault on one line of a terminal.
_SHOWN_CHARACTERS = 60


class BadValue(ValueError):
    """A value that cannot be used: what is wrong with it, what was expected. Neither text repeats the
    value."""

    def __init__(self, problem: str, expected: str) -> None:
        super().__init__(problem, expected)
        self.problem = problem
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.problem}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `str()` gives `FILE:LINE:COL: path.in.config: what, got VALUE, expected …`."""

    file: str
    line: int
    column: int
    path: str
    """`clusters[0].timeouts.connect`; empty when the file as a whole is meant."""
    message: str
    value: str | None
    """As shown to people: never a secret. `None` when there is none, as for a missing key."""
    expected: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: "
        subject = f"{self.path}: " if self.path else ""
        got = "" if self.value is None else f", got {self.value}"
        return printable(f"{place}{subject}{self.message}{got}, expected {self.expected}")


class InvalidConfig(ConfigError):
    """A configuration with at least one fault; `str()` has a line for each."""

    def __init__(self, faults: list[Fault]) -> None:
        assert faults
        super().__init__(faults[0].path, faults[0].value, faults[0].expected)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


def path_text(path: Path) -> str:
    """`("clusters", 0, "name")` as `clusters[0].name`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{shortened(part)}" if text else shortened(part)
    return text


def printable(text: str) -> str:
    """`text` with what is not printable (line ends, control characters, lone surrogates) escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shortened(text: str) -> str:
    """`text` cut to a length that a line can show."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def quoted(text: str) -> str:
    """`text` in quotes, cut and escaped."""
    return f"'{printable(shortened(text))}'"
