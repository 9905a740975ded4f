"""YAML text to plain data, with the line and column of every key and value.

The tree is built from parser events and not by `yaml.safe_load`: that keeps neither marks nor duplicate
keys, types scalars by YAML 1.1, and follows aliases and nesting without bound. Here scalars stay text
(`Plain` when unquoted) and their field decides what they are; depth, size and the growth by aliases are
limited; and a broken value does not hide the faults of the others. Tags are refused. Anchors, aliases and
the merge key `<<` work.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from proxy.config.faults import BadValue, Mark, Path, quoted
from proxy.config.values import Plain

# The deepest path of the schema has 8 levels; the rest is room for merges.
_MAX_DEPTH = 32
# 1024 endpoints with every key are about 12 000 values; aliases count each time they are used.
_MAX_VALUES = 100_000
_NULLS = ("", "~", "null", "Null", "NULL")
# The C parser is some 10 times faster; both give the same events and marks.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault without its file: where, on what, and the texts of `Fault`."""

    mark: Mark
    path: Path
    message: str
    value: str | None
    expected: str


class UnreadableDocument(Exception):
    """The text is no YAML that we read at all; nothing else can be said about it."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble)
        self.trouble = trouble


@dataclass(slots=True)
class Document:
    """The data of a file and where each part of it stands."""

    data: Any = None
    """`dict`, `list`, `Plain`, `str` or `None`, nested."""
    marks: dict[Path, Mark] = field(default_factory=dict)
    """Where each value begins."""
    key_marks: dict[Path, Mark] = field(default_factory=dict)
    """Where each key begins, by the path of its value."""
    sources: dict[Path, str] = field(default_factory=dict)
    """As written in the file, the values that interpolation made; what they became is not for showing."""
    troubles: list[Trouble] = field(default_factory=list)
    """Faults that were found on the way."""
    broken: set[Path] = field(default_factory=set)
    """Values that could not be made; further faults of theirs mean nothing."""

    def mark(self, path: Path) -> Mark:
        """Where `path`, or the nearest thing around it, begins."""
        for length in range(len(path), -1, -1):
            if (mark := self.marks.get(path[:length])) is not None:
                return mark
        return Mark(1, 1)

    def get(self, path: Path) -> Any:
        """The value at `path`, or `None`."""
        value = self.data
        for part in path:
            if isinstance(value, dict) and isinstance(part, str):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value


def read_document(
    text: str,
    interpolate: Callable[[str], str],
    expected: str = "a mapping with listeners, clusters and routes",
) -> Document:
    """Read one YAML document. `interpolate` replaces `${…}` in values and raises `BadValue`; `expected` is what should
    be in it.

    Raises `UnreadableDocument` where reading cannot go on; everything else is in the document's `troubles`.
    """
    try:
        root = _Composer(text).compose(expected)
    except yaml.YAMLError as error:
        raise UnreadableDocument(_syntax_trouble(error)) from error
    document = Document()
    _Converter(document, interpolate).convert(root, ())
    return document


@dataclass(slots=True)
class _Node:
    mark: Mark


@dataclass(slots=True)
class _Scalar(_Node):
    text: str
    plain: bool


@dataclass(slots=True)
class _Sequence(_Node):
    items: list[_Node] = field(default_factory=list)


@dataclass(slots=True)
class _Mapping(_Node):
    entries: list[tuple[_Node, _Node]] = field(default_factory=list)


class _Composer:
    """Events to nodes. Aliases share the node of their anchor."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self._anchors: dict[str, _Node] = {}
        self._left = _MAX_VALUES

    def compose(self, expected: str) -> _Node:
        next(self._events)  # StreamStart
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            raise _unreadable(Mark(1, 1), "is empty", expected)
        root = self._node(next(self._events), 0)
        next(self._events)  # DocumentEnd
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _unreadable(_mark(event.start_mark), "has a second document", "one document")
        return root

    def _node(self, event: Any, depth: int) -> _Node:
        mark = _mark(event.start_mark)
        self._left -= 1
        if self._left < 0:
            raise _unreadable(mark, "has too many values", f"at most {_MAX_VALUES}")
        if depth > _MAX_DEPTH:
            raise _unreadable(mark, "is nested too deeply", f"at most {_MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            # An anchor counts once its value is complete, so a value cannot contain itself.
            if event.anchor not in self._anchors:
                raise _unreadable(mark, "has an alias without an anchor before it", "an anchor such as &name")
            return self._anchors[event.anchor]
        if event.tag is not None:
            raise _unreadable(mark, "has a tag", "a value without a tag; quote what must be a string")
        node = self._content(event, mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _content(self, event: Any, mark: Mark, depth: int) -> _Node:
        if isinstance(event, yaml.ScalarEvent):
            return _Scalar(mark, event.value, not event.style)
        if isinstance(event, yaml.SequenceStartEvent):
            sequence = _Sequence(mark)
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                sequence.items.append(self._node(event, depth + 1))
            return sequence
        mapping = _Mapping(mark)
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            mapping.entries.append((key, self._node(next(self._events), depth + 1)))
        return mapping


class _Converter:
    """Nodes to the data and marks of a document; here aliases are spelled out, and counted."""

    def __init__(self, document: Document, interpolate: Callable[[str], str]) -> None:
        self._document = document
        self._interpolate = interpolate
        self._left = _MAX_VALUES

    def convert(self, root: _Node, path: Path) -> None:
        self._document.data = self._value(root, path)

    def _value(self, node: _Node, path: Path) -> Any:
        self._count(node)
        self._document.marks[path] = node.mark
        if isinstance(node, _Mapping):
            return self._mapping(node, path)
        if isinstance(node, _Sequence):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.items)]
        assert isinstance(node, _Scalar)
        return self._scalar(node, path)

    def _count(self, node: _Node) -> None:
        self._left -= 1
        if self._left < 0:
            raise _unreadable(node.mark, "has too many values through aliases", f"at most {_MAX_VALUES}")

    def _scalar(self, node: _Scalar, path: Path) -> Any:
        if node.plain and node.text in _NULLS:
            return None
        if "${" not in node.text:
            return Plain(node.text) if node.plain else node.text
        self._document.sources[path] = node.text
        try:
            return Plain(self._interpolate(node.text))
        except BadValue as error:
            self._document.broken.add(path)
            self._trouble(node.mark, path, error.problem, quoted(node.text), error.expected)
            return Plain(node.text)

    def _mapping(self, node: _Mapping, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[_Mapping] = []
        for key_node, value_node in node.entries:
            if not isinstance(key_node, _Scalar):
                message = "has a key that is no single value"
                self._trouble(key_node.mark, path, message, None, "a name as the key")
            elif key_node.text == "<<" and key_node.plain:
                merged += self._merged(value_node, path)
            else:
                self._entry(data, key_node, value_node, path)
        for mapping in merged:
            for key_node, value_node in mapping.entries:
                self._count(key_node)
                if isinstance(key_node, _Scalar) and key_node.text not in data:
                    self._entry(data, key_node, value_node, path)
        return data

    def _entry(self, data: dict[str, Any], key: _Scalar, value: _Node, path: Path) -> None:
        child = (*path, key.text)
        if key.text in data:
            first = self._document.key_marks[child].line
            message = f"is a duplicate key, first given in line {first}"
            self._trouble(key.mark, child, message, None, "each key once")
            return
        self._document.key_marks[child] = key.mark
        data[key.text] = self._value(value, child)

    def _merged(self, node: _Node, path: Path) -> list[_Mapping]:
        """The mappings that `<<` names; the first wins (yaml.org/type/merge.html)."""
        nodes = node.items if isinstance(node, _Sequence) else [node]
        mappings = [item for item in nodes if isinstance(item, _Mapping)]
        if len(mappings) < len(nodes):
            self._trouble(node.mark, path, "merges what is no mapping", None, "<<: *anchor of a mapping")
        return mappings

    def _trouble(self, mark: Mark, path: Path, message: str, value: str | None, expected: str) -> None:
        self._document.troubles.append(Trouble(mark, path, message, value, expected))


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _unreadable(mark: Mark, message: str, expected: str) -> UnreadableDocument:
    return UnreadableDocument(Trouble(mark, (), message, None, expected))


def _syntax_trouble(error: yaml.YAMLError) -> Trouble:
    mark = Mark(1, 1)
    message = "is not valid YAML"
    if isinstance(error, yaml.MarkedYAMLError):
        if (place := error.problem_mark or error.context_mark) is not None:
            mark = _mark(place)
        told = [text for text in (error.context, error.problem) if text]
        message += f": {', '.join(told)}" if told else ""
    return Trouble(
        mark, (), message, None, "YAML; values with ': ' or ' #', and ${…} inside braces, need quotes"
    )
