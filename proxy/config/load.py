"""From a file to a `Config`, or to all that is wrong with it at once.

Bytes → text → `document` (data with places, references replaced) → models and `checks`; each step adds
faults with line and column. The only I/O is reading: the file, and the files that it names.
Two loads that find the same give equal configurations, so a reload can compare them and do nothing.
"""

import os
import re
import types
from collections.abc import Callable, Mapping
from itertools import chain, islice
from pathlib import Path as FilePath
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from proxy.clock import SystemClock
from proxy.config.checks import Conflict, find_conflicts
from proxy.config.document import Document, Trouble, UnreadableDocument, read_document
from proxy.config.faults import BadValue, Fault, InvalidConfig, Mark, Path, path_text, printable, quoted
from proxy.config.interpolate import Interpolator, ReferredFiles, read_regular_file
from proxy.config.kinds import Kind, did_you_mean
from proxy.config.locality_checks import (
    find_function_conflicts,
    find_locality_conflicts,
    find_locality_doubts,
)
from proxy.config.log_checks import find_log_conflicts
from proxy.config.scaler_checks import find_scaler_conflicts
from proxy.config.schema import Config
from proxy.config.tls_checks import find_tls_conflicts
from proxy.config.values import Plain
from proxy.errors import ConfigError

# 1024 endpoints and as many routes, generously spelled out, are under 1 MiB.
MAX_FILE_BYTES = 4 * 1024 * 1024
# More than anybody reads. Of a larger number the first in the file are told.
MAX_FAULTS = 1000
# What YAML allows in a file (YAML 1.2 section 5.1); the byte order mark may only begin it.
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
# The admin token is a secret even when it stands in the file.
_SECRET_PATHS = {("admin", "token")}
_BARE = re.compile(r"-?[0-9][0-9.]*|true|false", re.IGNORECASE)


def load_file(
    path: FilePath,
    environment: Mapping[str, str] | None = None,
    wall: Callable[[], float] = SystemClock.wall,
) -> Config:
    """The configuration in `path`. Raises `InvalidConfig`. `environment` is the process's own unless
    given; `wall` tells the time, in seconds since the Unix epoch, at which certificates must be valid."""
    return load_bytes(read_file(path), str(path), path.parent, environment, wall)


def read_file(path: FilePath) -> bytes:
    """What `load_bytes` takes, from the file at `path`. Raises `InvalidConfig`."""
    try:
        return read_regular_file(path, MAX_FILE_BYTES)
    except BadValue as error:
        raise InvalidConfig([Fault(str(path), 1, 1, "", error.problem, None, error.expected)]) from error


def find_doubts(path: FilePath, environment: Mapping[str, str] | None = None) -> list[Fault]:
    """What in the good file at `path` can be meant, and hardly is: told by `homeport check` alone. Raises
    `InvalidConfig` when it cannot be read."""
    text = decode(read_file(path), str(path))
    interpolate = Interpolator(
        os.environ if environment is None else environment, path.parent, ReferredFiles().read
    )
    document = read_document(text, interpolate)
    doubts = [fault_of(str(path), _trouble(document, doubt)) for doubt in find_locality_doubts(document)]
    return sorted(doubts, key=lambda doubt: (doubt.line, doubt.column))


class ConfigFile:
    """The configuration's file, and those it refers to: what is in them now, and what was when they were last read."""

    def __init__(self, path: FilePath) -> None:
        self.path = path
        self._seen = b""
        self._referred = ReferredFiles()

    def __repr__(self) -> str:
        return f"ConfigFile({str(self.path)!r})"

    def read(self) -> tuple[bytes, Config]:
        """The file's text and what it says. Raises `InvalidConfig`. Takes about a second per MiB."""
        self._seen = b""  # a file that cannot be read is looked at, and complained of, once
        self._seen = read_file(self.path)
        self._referred = ReferredFiles()
        return self._seen, load_bytes(self._seen, str(self.path), self.path.parent, referred=self._referred)

    def parse_served(self, source: bytes) -> Config:
        """What `source` said in this file, whose certificates are served already and need not be right any more. Raises
        `InvalidConfig`."""
        return load_bytes(source, str(self.path), self.path.parent, wall=None)

    @property
    def paths(self) -> tuple[FilePath, ...]:
        """The file, and those that it referred to when it was last read."""
        return self.path, *self._referred.paths

    def is_new(self) -> bool:
        """Whether the file, or one it refers to, has other bytes than when it was last read; true when it cannot be
        read any more."""
        try:
            return read_file(self.path) != self._seen or self._referred.have_changed()
        except InvalidConfig:
            return bool(self._seen)


def locate(error: ConfigError, content: bytes, file: str) -> Fault:
    """The place in `content` of a fault that showed only when the configuration was put to use."""
    mark = Mark(1, 1)
    try:
        marks = read_document(decode(content, file), lambda text: text).marks
    except (InvalidConfig, UnreadableDocument):
        marks = {}
    for path in sorted(marks, key=len):
        # The nearest thing around it, when it is not in the file itself.
        if error.path.startswith(path_text(path)):
            mark = marks[path]
    value = None if error.value is None else str(error.value)
    return Fault(file, mark.line, mark.column, error.path, "cannot be used", value, error.expected)


def load_bytes(
    content: bytes,
    file: str,
    directory: FilePath,
    environment: Mapping[str, str] | None = None,
    wall: Callable[[], float] | None = SystemClock.wall,
    referred: ReferredFiles | None = None,
) -> Config:
    """The configuration in `content`. Raises `InvalidConfig`.

    `file` is the name in faults; `directory` is where relative paths begin. Without a `wall` the files of certificates
    are not looked at. `referred` takes note of the files that `${file:…}` brings in.
    """
    text = decode(content, file)
    interpolate = Interpolator(
        os.environ if environment is None else environment, directory, (referred or ReferredFiles()).read
    )
    try:
        document = read_document(text, interpolate)
    except UnreadableDocument as error:
        raise InvalidConfig([fault_of(file, error.trouble)]) from error
    config, troubles = _judge(document, directory.absolute(), wall() if wall is not None else None)
    if troubles:
        # The same value may be seen through several aliases, and by a model and a rule.
        faults = {fault_of(file, trouble) for trouble in troubles}
        order = sorted(faults, key=lambda fault: (fault.line, fault.column, fault.path, fault.message))
        raise InvalidConfig(order[:MAX_FAULTS])
    assert config is not None
    return config


def decode(content: bytes, file: str) -> str:
    """The text of a file called `file`. Raises `InvalidConfig`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = _place(content[: error.start].decode("utf-8-sig"))
        trouble = Trouble(mark, (), "is not UTF-8", f"byte 0x{content[error.start]:02x}", "UTF-8 text")
        raise InvalidConfig([fault_of(file, trouble)]) from error
    if (match := _UNPRINTABLE.search(text)) is not None:
        mark, value = _place(text[: match.start()]), f"U+{ord(match[0]):04X}"
        trouble = Trouble(mark, (), "has a control character", value, "printable text")
        raise InvalidConfig([fault_of(file, trouble)])
    return text


def _place(before: str) -> Mark:
    """Line and column of what follows `before`."""
    return Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _judge(document: Document, directory: FilePath, now: float | None) -> tuple[Config | None, list[Trouble]]:
    troubles = list(document.troubles)
    config = None
    found: list[Trouble] = []
    try:
        config = Config.model_validate(document.data, context={"directory": directory})
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False)[:MAX_FAULTS]:
            context = each.get("ctx", {})
            found.append(model_trouble(document, each["loc"], each["type"], context, each["msg"]))
    conflicts = chain(
        find_conflicts(document), find_locality_conflicts(document), find_scaler_conflicts(document)
    )
    if now is not None:
        conflicts = chain(
            conflicts,
            find_tls_conflicts(document, directory, now),
            find_function_conflicts(document),
            find_log_conflicts(document),
        )
    for conflict in islice(conflicts, MAX_FAULTS):
        found.append(_trouble(document, conflict))
    # A value that could not be made has its fault already.
    return config, troubles + [trouble for trouble in found if trouble.path not in document.broken]


def _trouble(document: Document, conflict: Conflict) -> Trouble:
    path = conflict.path
    return Trouble(document.mark(path), path, conflict.problem, _shown(document, path), conflict.expected)


def model_trouble(
    document: Document,
    loc: tuple[int | str, ...],
    kind: str,
    context: Mapping[str, Any],
    text: str,
    root: type[BaseModel] = Config,
) -> Trouble:
    """What a pydantic error means to the author of the file. `root` is the model that paths begin in."""
    path: Path = loc
    if path and path[-1] == "[key]" and path not in document.marks:
        key = path[-2]
        mark = document.key_marks.get(path[:-1]) or document.mark(path)
        return Trouble(mark, path[:-1], context["problem"], quoted(str(key)), context["expected"])
    mark = document.mark(path)
    if kind == "extra_forbidden":
        mark = document.key_marks.get(path) or mark
        return Trouble(mark, path, "is not a known key", quoted(str(path[-1])), _expected_keys(path, root))
    if kind == "missing":
        return Trouble(mark, path, "is missing", None, _expected_field(path, root))
    if kind == "fault":
        if context["key"]:
            path = (*path, context["key"])
            mark = document.mark(path)
        shown = "(hidden)" if context["secret"] else _shown(document, path)
        return Trouble(mark, path, context["problem"], shown, context["expected"])
    shown = _shown(document, path)
    if kind in ("model_type", "dict_type"):
        return Trouble(mark, path, "is not a mapping", shown, "a mapping")
    if kind == "tuple_type":
        return Trouble(mark, path, "is not a list", shown, "a list")
    return Trouble(mark, path, "is not valid", shown, text)


def _shown(document: Document, path: Path) -> str | None:
    """The value at `path` as people may see it: as it was written, if interpolation made it."""
    value = document.get(path)
    if path in document.sources:
        return quoted(document.sources[path])
    if path in _SECRET_PATHS and isinstance(value, str):
        return "(hidden)"
    if isinstance(value, Plain) and _BARE.fullmatch(value):
        return printable(value[:60])
    if isinstance(value, str):
        return quoted(value)
    if value is None:
        return "nothing" if path in document.marks else None
    return "a mapping" if isinstance(value, dict) else "a list"


def fault_of(file: str, trouble: Trouble) -> Fault:
    """`trouble` in a file called `file`."""
    mark = trouble.mark
    path = path_text(trouble.path)
    return Fault(file, mark.line, mark.column, path, trouble.message, trouble.value, trouble.expected)


# --- What the schema says about a path


def _expected_keys(path: Path, root: type[BaseModel]) -> str:
    model = model_at(path[:-1], root)
    fields = model.model_fields if model is not None else {}
    known = sorted(field.alias or name for name, field in fields.items())
    return f"one of {', '.join(known)}{did_you_mean(str(path[-1]), known)}"


def _expected_field(path: Path, root: type[BaseModel]) -> str:
    model = model_at(path[:-1], root)
    field = model.model_fields.get(str(path[-1])) if model is not None else None
    for note in field.metadata if field is not None else ():
        if isinstance(note, Kind):
            return note.expected
    is_list = field is not None and get_origin(field.annotation) is tuple
    return "a list" if is_list else "a mapping"


def model_at(path: Path, root: type[BaseModel] = Config) -> type[BaseModel] | None:
    """The model of the mapping at `path`, which begins in `root`; `None` where the schema has none."""
    model: type[BaseModel] | None = root
    for part in path:
        if isinstance(part, str):
            field = model.model_fields.get(part) if model is not None else None
            model = _model_in(field.annotation) if field is not None else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((model for each in get_args(annotation) if (model := _model_in(each)) is not None), None)
