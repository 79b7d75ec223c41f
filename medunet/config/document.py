"""YAML text as plain data, with the place of every key; and plain data as YAML text.

Values are typed as in YAML 1.2 (`1e-3` is a number, `yes`, `on` and `2020-01-01` are text, only `true` and `false` are
booleans). Tags that would build objects are refused, keys written twice are reported, and the size is limited, so that
no file can run code or exhaust memory. Knows nothing of the keys of a configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from medunet.errors import Problem

KeyPath = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000
MAX_DEPTH = 40

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"(?:[-+]?[0-9]{1,18}|0o[0-7]{1,18}|0x[0-9a-fA-F]{1,15})\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_RESOLVERS = (
    ("null", _NULL, ["~", "n", "N", ""]),
    ("bool", _BOOL, list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
    ("merge", re.compile(r"<<\Z"), ["<"]),
)

_SYNTAX_HINTS = (
    ("cannot start any token", "Indent with spaces, not tabs, and put quotes around text that begins with @, ` or %."),
    ("mapping values are not allowed", "Look for a second colon in this line, or indentation that differs."),
    ("could not find expected ':'", "A key is followed by a colon and a space."),
    ("block end", "The indentation of this line does not fit the lines above."),
    ("expected ',' or", "A bracket or brace is not closed, or a comma is missing."),
    ("single document", "One file holds one configuration; remove the line ---."),
)


@dataclass(frozen=True)
class Place:
    """Where a value was written.

    Attributes:
        where: `file:line`, or the command-line option.
        folder: the folder from which relative paths in the value start.
    """

    where: str
    folder: Path


@dataclass
class Document:
    """Plain data and where it came from.

    Attributes:
        data: str, int, float, bool, None, lists, and mappings with str keys.
        places: place of every key path below `data`; list items have one too.
        problems: what is wrong with the text itself.
        bad: key paths that a problem has been reported about already; their value is a placeholder.
        readable: False if there is no data because the text could not be read.
    """

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    bad: set[KeyPath] = field(default_factory=set)
    readable: bool = True


def dotted(path: Iterable[str | int]) -> str:
    """`("loss", 0, "weight")` to `"loss.0.weight"`."""
    return ".".join(str(part) for part in path)


class _Loader(yaml.SafeLoader):
    """Composes nodes with the types of YAML 1.2; nothing is ever constructed by it."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either YAML 1.1 or 1.2 would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Write everything out; anchors surprise readers."""
        return True


for _kind, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_TAG + _kind, _pattern, _first)
    _Dumper.add_implicit_resolver(_TAG + _kind, _pattern, _first)


def _represent_list(dumper: _Dumper, items: list[Any]) -> Node:
    return dumper.represent_sequence(f"{_TAG}seq", items, flow_style=not any(isinstance(i, dict) for i in items))


def _represent_text(dumper: _Dumper, text: str) -> Node:
    # PyYAML would write these three line breaks bare, and read them back as spaces.
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)


def to_yaml(data: Any) -> str:
    """Plain data as YAML text that `read_text` and other YAML readers read back; key order is kept."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def as_written(value: Any) -> str:
    """A value in one short line, for messages; text is in quotes."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def read_file(path: Path, name: str) -> Document:
    """Read a YAML file; problems are in the result, none is raised.

    Args:
        path: an existing file.
        name: what the file is called in messages.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        return _unreadable(name, "", f"cannot be read: {error.strerror or error}.")
    if len(raw) > MAX_BYTES:
        return _unreadable(name, "", f"is larger than {MAX_BYTES // 1024} KiB; that is no configuration.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return _unreadable(
            f"{name}:{line}", "", "is not UTF-8 text.", "Save the file as UTF-8; it may not be YAML at all."
        )
    return read_text(text, name, path.absolute().parent)


def read_text(text: str, name: str, folder: Path) -> Document:
    """Read YAML text that must be a mapping; problems are in the result, none is raised."""
    node, problem = _compose(text, name)
    if problem is not None:
        return Document(problems=[problem], readable=False)
    if node is None:
        return _unreadable(name, "", "is empty; a configuration needs at least name and labels.")
    if not isinstance(node, MappingNode):
        return _unreadable(
            f"{name}:{_line(node)}", "", "holds no keys; a configuration is made of lines such as `name: ct_liver`."
        )
    document = Document()
    try:
        data = _Builder(document, name, folder).value(node, (), 0)
    except _TooLargeError as error:
        return _unreadable(name, "", str(error))
    document.data = data or {}
    document.readable = data is not None
    return document


def read_value(text: str, place: Place) -> tuple[Any, list[Problem]]:
    """Read one value as written after `--set key=`, typed as in a file."""
    node, problem = _compose(text, place.where, numbered=False)
    if problem is not None:
        return None, [problem]
    if node is None:
        return None, []
    document = Document()
    builder = _Builder(document, place.where, place.folder, numbered=False)
    try:
        return builder.value(node, (), 0), document.problems
    except _TooLargeError as error:
        return None, [Problem(place.where, "", str(error))]


def _unreadable(where: str, what: str, rule: str, hint: str = "") -> Document:
    return Document(problems=[Problem(where, what, rule, hint=hint)], readable=False)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _compose(text: str, name: str, *, numbered: bool = True) -> tuple[Node | None, Problem | None]:
    line: int | None = None
    try:
        return yaml.compose(text, _Loader), None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        said = (error.problem or error.context or "cannot be read").replace("character '\\t'", "a tab")
        rule = f"this is not valid YAML: {said}."
        hint = next((hint for words, hint in _SYNTAX_HINTS if words in f"{said} {error.context}"), "")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        rule, hint = f"holds the control character {error.character:#04x}; a configuration is plain text.", ""
    except RecursionError:
        rule, hint = f"is nested deeper than {MAX_DEPTH} levels.", ""
    where = f"{name}:{line}" if numbered and line is not None else name
    return None, Problem(where, "", rule, hint=hint)


class _TooLargeError(Exception):
    """The document is larger than any configuration."""


class _Builder:
    """Turns nodes into plain data, filling places and problems of a document."""

    def __init__(self, document: Document, name: str, folder: Path, *, numbered: bool = True) -> None:
        self.document = document
        self.name = name
        self.folder = folder
        self.numbered = numbered
        self.count = 0

    def _where(self, node: Node) -> str:
        return f"{self.name}:{_line(node)}" if self.numbered else self.name

    def _problem(self, node: Node, path: KeyPath, rule: str, hint: str = "") -> None:
        self.document.problems.append(Problem(self._where(node), dotted(path), rule, hint=hint))

    def value(self, node: Node, path: KeyPath, depth: int) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise _TooLargeError(
                f"holds more than {MAX_VALUES} values (aliases written out); that is no configuration."
            )
        if depth > MAX_DEPTH:
            raise _TooLargeError(f"is nested deeper than {MAX_DEPTH} levels.")
        if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return self.mapping(node, path, depth)
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._placed(item, item, (*path, i), depth) for i, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        return self._refuse_tag(node, path)

    def _placed(self, key: Node, node: Node, path: KeyPath, depth: int) -> Any:
        self.document.places[path] = Place(self._where(key), self.folder)
        return self.value(node, path, depth + 1)

    def mapping(self, node: MappingNode, path: KeyPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._problem(key, path, "a key must be a single word.")
            elif key.tag == f"{_TAG}merge":
                inherited = self._merged(value, path, depth)
                result = {**inherited, **result}
            else:
                name = self._text(key, (*path, "?"))
                if name in seen:
                    self._problem(
                        key, (*path, name), f"is written twice; the first time in line {seen[name]}.", "Keep one."
                    )
                seen[name] = _line(key)
                result[name] = self._placed(key, value, (*path, name), depth)
        return result

    def _merged(self, node: Node, path: KeyPath, depth: int) -> dict[str, Any]:
        """What `<<: *anchor` (or a list of them) brings in; the mapping's own keys win."""
        result: dict[str, Any] = {}
        places = dict(self.document.places)
        parts = node.value if isinstance(node, SequenceNode) else [node]
        for part in reversed(parts):  # the first one wins
            if isinstance(part, MappingNode):
                result.update(self.value(part, path, depth + 1) or {})
            else:
                self._problem(part, path, "<< must name one mapping or a list of mappings.")
        self.document.places = {**self.document.places, **places}
        return result

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        text, kind = str(node.value), node.tag.removeprefix(_TAG)
        match kind:
            case "str" | "merge":
                return self._text(node, path)
            case "null" if _NULL.match(text):
                return None
            case "bool" if _BOOL.match(text):
                return text.lower() == "true"
            case "int" if _INT.match(text):
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            case "float" if _FLOAT.match(text):
                return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))
        return self._refuse_tag(node, path)

    def _text(self, node: ScalarNode, path: KeyPath) -> str:
        raw = str(node.value).encode("utf-16", "surrogatepass")  # JSON writes one letter as two escapes
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError:
            self.document.bad.add(path)
            self._problem(node, path, "holds half of a surrogate pair, which is no character.")
            return raw.decode("utf-16", "replace")

    def _refuse_tag(self, node: Node, path: KeyPath) -> None:
        self.document.bad.add(path)
        tag = node.tag.replace(_TAG, "!!")
        self._problem(
            node, path, f"the tag {tag} is not allowed here; values are plain text, numbers, lists and mappings."
        )
