"""`${ENV_VAR}`, `${ENV_VAR:-default}` and `${file:PATH}` in values, for secrets and for what differs by
machine.

`$${` stands for `${` itself; any other `$` is left alone. What came in is not looked at again, so a
variable's value cannot bring in another one. What goes wrong is told without the values of variables and
files.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from proxy.config.faults import BadValue

# A secret is a line or a key; 64 KiB hold any.
_MAX_FILE_BYTES = 64 * 1024
# All that comes in together, as much as the configuration file itself may have: one long variable used a
# hundred thousand times must not fill the memory.
_MAX_TOTAL_CHARACTERS = 4 * 1024 * 1024
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<inner>[^{}]*)\}|\$\{")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_FORMS = "${ENV_VAR}, ${ENV_VAR:-default} or ${file:PATH}; $${ for a literal ${"


class Interpolator:
    """Replaces references by the variables of `environment` and by files, which are relative to
    `directory` and read by `read`."""

    def __init__(
        self,
        environment: Mapping[str, str],
        directory: Path,
        read: Callable[[Path, int], bytes] | None = None,
    ) -> None:
        self._environment = environment
        self._directory = directory
        self._read = read or read_regular_file
        self._left = _MAX_TOTAL_CHARACTERS

    def __call__(self, text: str) -> str:
        """`text` with its references replaced. Raises `BadValue`."""
        return _REFERENCE.sub(self._replacement, text)

    def _replacement(self, match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        inner = match["inner"]
        if inner is None:
            raise BadValue("has a '${' without its '}'", _FORMS)
        value = self._file(inner[5:]) if inner.startswith("file:") else self._variable(inner)
        self._left -= len(value)
        if self._left < 0:
            raise BadValue("brings in too much", f"at most {_MAX_TOTAL_CHARACTERS} characters in all")
        return value

    def _variable(self, inner: str) -> str:
        match = _VARIABLE.fullmatch(inner)
        if match is None:
            raise BadValue("has a reference that is not understood", _FORMS)
        name, default = match["name"], match["default"]
        # As in a shell, `:-` also stands in for a variable that is empty.
        value = self._environment.get(name, "") or default
        if value is None:
            value = self._environment.get(name)
        if value is None:
            raise BadValue(f"needs the environment variable {name}, which is not set", "it set, or a default")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadValue(f"needs the environment variable {name}, which is not UTF-8", "UTF-8") from error
        return value

    def _file(self, name: str) -> str:
        if not name:
            raise BadValue("has a reference without a file", _FORMS)
        try:
            text = self._read(self._directory / name, _MAX_FILE_BYTES).decode()
        except UnicodeDecodeError as error:
            raise BadValue("refers to a file that is not UTF-8", "UTF-8 text") from error
        except BadValue as error:
            raise BadValue(f"refers to a file that {error.problem}", error.expected) from error
        return text.removesuffix("\n").removesuffix("\r")


class ReferredFiles:
    """The files that a configuration refers to, and whether they are as they were when they were read. Of what is in
    them, often a secret, only a digest is kept."""

    def __init__(self) -> None:
        self._digests: dict[Path, bytes] = {}

    def __repr__(self) -> str:
        return f"ReferredFiles({[str(path) for path in self.paths]})"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where they are, as far as one can tell also those that could not be read."""
        return tuple(self._digests)

    def read(self, path: Path, limit_bytes: int) -> bytes:
        """As `read_regular_file`."""
        self._digests[path] = b""
        content = read_regular_file(path, limit_bytes)
        self._digests[path] = _digest(content)
        return content

    def have_changed(self) -> bool:
        """Whether any has other bytes than when it was read, can be read again, or no more."""
        return any(self._present(path) != digest for path, digest in list(self._digests.items()))

    def _present(self, path: Path) -> bytes:
        try:
            return _digest(read_regular_file(path, _MAX_FILE_BYTES))
        except BadValue:
            return b""


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def read_regular_file(path: Path, limit_bytes: int) -> bytes:
    """What `path` holds. Raises `BadValue` for anything that is not a readable regular file of up to
    `limit_bytes`.

    Blocks like any file; never on a pipe, because a reload must not wait for a writer.
    """
    expected = f"a readable file of at most {limit_bytes // 1024}KiB"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise BadValue("is a directory" if stat.S_ISDIR(mode) else "is not a regular file", expected)
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(limit_bytes + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        if isinstance(error, BadValue):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "invalid name"
        raise BadValue(f"cannot be read ({reason.lower()})", expected) from error
    if len(content) > limit_bytes:
        raise BadValue("is too large", expected)
    return content
