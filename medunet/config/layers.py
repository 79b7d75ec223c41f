"""Puts the layers of a configuration on top of each other: base files, the file itself, the command line.

Mappings merge key by key, everything else is replaced. Three kinds of mapping are one value and are replaced as a
whole: one whose `name` changes (`optimizer: {name: adamw}` over an SGD), `labels` with a background of their own, and
what a key in `tune` may be. Only
`network` keeps the options that the old and the new one share. Knows which keys are paths, but neither types nor
ranges.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medunet.config.document import Document, KeyPath, Place, as_written, dotted, read_value
from medunet.config.networks import shared_options
from medunet.config.schema import Config
from medunet.errors import Problem

PATH_KEYS: tuple[KeyPath, ...] = (
    ("data", "root"),
    ("data", "cache"),
    ("network", "encoder_weights"),
    ("train", "start_from"),
)
"""Keys that hold a path: `${VAR}` and `~` are expanded, a relative one starts at the file that holds it."""

_LABELS: KeyPath = ("labels",)
_NETWORK: KeyPath = ("network",)
_TUNE: KeyPath = ("tune",)
_VARIABLE = re.compile(r"\$?\$\{([^}]*)\}?")
_VARIABLE_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\Z", re.DOTALL)


def merged(base: Document, over: Document) -> Document:
    """`over` on top of `base`; every place is that of the layer which the value comes from."""
    data = _merged(base.data, over.data, ())
    places = {**base.places, **over.places}
    return Document(
        data=data,
        places={path: place for path, place in places.items() if _exists(data, path)},
        problems=base.problems + over.problems,
        bad=base.bad | over.bad,
        readable=base.readable and over.readable,
    )


def _merged(base: Any, over: Any, path: KeyPath) -> Any:
    if not isinstance(base, dict) or not isinstance(over, dict):
        return copy.deepcopy(over)
    if _replaces(base, over, path):
        return {**_kept(base, over.get("name"), path), **copy.deepcopy(over)}
    result = dict(base)
    for key, value in over.items():
        result[key] = _merged(base[key], value, (*path, key)) if key in base else copy.deepcopy(value)
    return result


def _replaces(base: dict[str, Any], over: dict[str, Any], path: KeyPath) -> bool:
    if path == _LABELS:
        return "background" in over
    if path[:-1] == _TUNE:
        return True
    return path != () and "name" in over and over["name"] != base.get("name")


def _kept(base: dict[str, Any], name: Any, path: KeyPath) -> dict[str, Any]:
    """What stays of `base` when its `name` becomes another."""
    if path != _NETWORK:
        return {}
    shared = shared_options(base.get("name", "unet"), name)
    return {key: copy.deepcopy(value) for key, value in base.items() if key in shared}


def holds(data: Any, part: str | int) -> bool:
    """Whether `part` is a key of the mapping or an index of the list `data`."""
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def look_up(data: Any, path: KeyPath) -> Any:
    """The value at a key path.

    Raises:
        KeyError: there is none.
    """
    for part in path:
        if not holds(data, part):
            raise KeyError(dotted(path))
        data = data[part]
    return data


def _exists(data: Any, path: KeyPath) -> bool:
    try:
        look_up(data, path)
    except KeyError:
        return False
    return True


def place_of(document: Document, path: KeyPath, default: Place) -> Place:
    """Where `path` was written, or the section around it, or `default`."""
    for length in range(len(path), 0, -1):
        place = document.places.get(path[:length])
        if place is not None:
            return place
    return default


class LayerError(Exception):
    """A key path that cannot be followed or a variable that has no value; the message is the rule."""


def apply_override(document: Document, text: str) -> None:
    """Apply one `key=value` of `--set`; problems go into the document."""
    place = Place(f"--set {text}", Path.cwd())
    key, equals, written = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        rule = "must be written as key=value, with dots between sections, for example train.batch_size=4."
        document.problems.append(Problem(place.where, "", rule))
        return
    if parts[0] == "extends":
        document.problems.append(Problem(place.where, "extends", "can only be set in a file."))
        return
    value, problems = read_value(written, place)
    document.problems.extend(problems)
    if problems:
        return
    try:
        set_value(document, parts, value, place)
    except LayerError as error:
        document.problems.append(Problem(place.where, dotted(parts), str(error)))


def set_value(document: Document, parts: list[str], value: Any, place: Place) -> None:
    """Put `value` at a key path such as `["loss", "0", "weight"]`; sections that are missing are made.

    Raises:
        LayerError: the path runs through a value, or past the end of a list.
    """
    document.data = copy.deepcopy(document.data)
    path: KeyPath = ()
    node: Any = document.data
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        step = _step(node, part, path)
        path = (*path, step)
        if following is not None:
            node = _entered(document, node, path, following, place)
            continue
        if step == "name" and len(path) > 1 and path[:-1] != _LABELS and value != node.get("name"):
            _keep_options(document, node, path[:-1], value)
        node[step] = value
    _mark(document, path, value, place)


def _step(node: Any, part: str, path: KeyPath) -> str | int:
    """The key or index that `part` means in `node`."""
    if isinstance(node, dict):
        return part
    if isinstance(node, list):
        if not part.isdecimal() or int(part) >= len(node):
            raise LayerError(f"{dotted(path)} has {len(node)} entries, counted from 0; there is no entry {part}.")
        return int(part)
    raise LayerError(f"{dotted(path)} is {as_written(node)}, so it has no key {part}.")


def _keep_options(document: Document, node: dict[str, Any], path: KeyPath, name: Any) -> None:
    """Drop the keys of another variant, as a file on top would, but for those given on the command line."""
    kept = _kept(node, name, path)
    for key in list(node):
        option = (*path, key)
        place = document.places.get(option)
        if key not in kept and not (place is not None and place.where.startswith("--")):
            del node[key]


def _entered(document: Document, node: Any, path: KeyPath, following: str, place: Place) -> Any:
    """The container below the last step of `path`; made from the default where the file has none."""
    step = path[-1]
    if isinstance(node, list) or node.get(step) is not None:
        if following.isdecimal() and isinstance(node[step], dict) and isinstance(default_at(path), list):
            _make_list(document, node, path)
        return node[step]
    node[step] = _bare(default_at(path))
    _mark(document, path, node[step], place)
    return node[step]


def _bare(default: Any) -> Any:
    """A default section, or list of them, with no key but `name`: the others are defaults of the variant."""
    if isinstance(default, list):
        return [_bare(entry) if isinstance(entry, Mapping) else entry for entry in default]
    if isinstance(default, Mapping):
        return {"name": default["name"]} if "name" in default else {}
    return {} if default is None else default


def _make_list(document: Document, node: Any, path: KeyPath) -> None:
    """Turn the mapping that stands for a list of one into that list; places keep their lines."""
    node[path[-1]] = [node[path[-1]]]
    length = len(path)
    document.places = {
        (*path, 0, *other[length:]) if other[:length] == path and len(other) > length else other: at
        for other, at in document.places.items()
    }
    first = (*path, 0)
    document.places[first] = document.places[path]


def _mark(document: Document, path: KeyPath, value: Any, place: Place) -> None:
    """Say that `path` and all below it was written at `place`."""
    document.bad = {other for other in document.bad if other[: len(path)] != path}
    document.places = {other: at for other, at in document.places.items() if other[: len(path)] != path}
    pending: list[tuple[KeyPath, Any]] = [(path, value)]
    while pending:
        here, below = pending.pop()
        document.places[here] = place
        entries = below.items() if isinstance(below, dict) else enumerate(below) if isinstance(below, list) else ()
        pending.extend(((*here, key), entry) for key, entry in entries)


def default_at(path: KeyPath) -> Any:
    """The default at a key path as plain data; None where there is none."""
    config = Config.model_validate({"name": "default", "labels": {"background": 0, "structure": 1}})
    data = config.model_dump(mode="json", by_alias=True, exclude={"name", "labels"})
    try:
        return look_up(data, path)
    except KeyError:
        return None


def expand_paths(document: Document, *, skip: KeyPath | None = None) -> None:
    """Expand `${VAR}`, `${VAR:-default}` and `~` in all path values and make them absolute; problems are added."""
    for path in PATH_KEYS:
        if path == skip or path in document.bad or not _exists(document.data, path):
            continue
        section = look_up(document.data, path[:-1])
        value, place = section[path[-1]], document.places[path]
        if not isinstance(value, str) or not value:
            continue
        try:
            section[path[-1]] = absolute(expanded(value), place.folder)
        except LayerError as error:
            hint = "Give --data or set the variable." if path == ("data", "root") else "Set the variable."
            document.problems.append(Problem(place.where, dotted(path), str(error), as_written(value), hint))
            document.bad.add(path)


def expanded(text: str) -> str:
    """`${VAR}` and `${VAR:-default}` replaced from the environment; `$${` stands for a literal `${`.

    Raises:
        LayerError: a variable is not set or empty, or the braces hold no name.
    """

    def replace(match: re.Match[str]) -> str:
        whole = match.group(0)
        if whole.startswith("$$"):
            return whole[1:]
        found = _VARIABLE_NAME.match(match.group(1)) if whole.endswith("}") else None
        if found is None:
            raise LayerError(f"{whole} is no variable; write ${{NAME}} or ${{NAME:-default}}.")
        name, default = found.groups()
        value = os.environ.get(name) or default
        if value is None:
            state = "empty" if name in os.environ else "not set"
            raise LayerError(f"the environment variable {name} is {state}.")
        return str(value)

    if "\0" in text:
        raise LayerError("a path cannot hold the character NUL.")
    return _VARIABLE.sub(replace, text)


def escaped(text: str) -> str:
    """Inverse of `expanded` for text that holds `${` itself."""
    return text.replace("${", "$${")


def absolute(text: str, folder: Path) -> str:
    """An absolute path without `..`; links are not followed; `~` is the home folder."""
    return os.path.abspath(folder / os.path.expanduser(text))  # noqa: PTH100, PTH111 - no error for an unknown ~user
