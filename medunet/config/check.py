"""Checks plain data against the schema and the rules, and says all that is wrong at once.

Values that are wrong are reported, taken out and replaced by their defaults, so that the rules that join several keys
can still judge the rest. Nothing is said twice about one key.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from medunet.config.describe import (
    Alternatives,
    alternatives_at,
    choices,
    either,
    in_words,
    keys_at,
    sections_with,
    variant_name,
)
from medunet.config.document import Document, KeyPath, Place, as_written, dotted, read_value
from medunet.config.finding import Finding
from medunet.config.layers import holds, look_up, place_of
from medunet.config.rules import findings
from medunet.config.schema import Config
from medunet.config.tune_rules import tune_problems
from medunet.errors import Problem

_STAND_INS: dict[str, Any] = {
    "name": "unnamed",
    "labels": {"background": 0, "structure": 1},
    "label": "structure",
    "mm": 1.0,
    "probability": 0.5,
    "depth": 0.5,
    "above": 0.0,
    "layers": "*",
    "tracking_uri": "sqlite:///mlflow.db",
}
"""What takes the place of a required key that is missing or wrong while the rest is judged."""

_PAIRS = ("data", "pairs")

_UNUSED = -1_000_000
"""A label value that no file has."""

_ABSENT = object()

_OTHER_WORDS = {
    "learning_rate": "train.optimizer.lr",
    "roi_size": "train.patch_size",
    "max_epochs": "train.epochs",
    "features": "network.channels",
    "filters": "network.channels",
    "classes": "labels",
    "validation": "validate",
}
"""Names that other programs use, and where their value goes here."""


def checked(document: Document, default: Place) -> tuple[Config | None, list[Problem]]:
    """Check merged data.

    Args:
        document: all layers merged, paths expanded.
        default: where to point for a key that was written nowhere.

    Returns:
        The configuration, or None where there is no usable one, and every problem found.
    """
    bad = set(document.bad)
    data = copy.deepcopy(document.data)
    problems = list(document.problems)
    if data.pop("validation", _ABSENT) is not _ABSENT:  # the Python name of `validate`, which the schema takes as well
        problems.append(_problem(("validation",), "extra_forbidden", data, document, default))
    config: Config | None = None
    while config is None:
        try:
            config = Config.model_validate_json(json.dumps(data))
        except ValidationError as error:
            wrong = _errors_by_path(error, data)
            problems += [
                _problem(path, kind, data, document, default)
                for path, kind in wrong.items()
                if not _overlaps(path, bad)
            ]
            # Without its variant nothing can be said about the rest of a mapping.
            bad |= {path[:-1] if path[-1] == "name" and len(path) > 1 else path for path in wrong}
            for path, kind in wrong.items():
                _take_out(data, path, kind)
    for finding in findings(config):
        keys = [_written(key, document.data) for key in finding.keys]
        if not any(_overlaps(key, bad) for key in keys):
            problems.append(_from_rule(finding, keys, document, default))
    spaces = {key: space for key, space in config.tune.items() if not _overlaps(("tune", key), bad)}
    nowhere = Place("", Path())
    problems += tune_problems(spaces, data, document.places, lambda other: checked(other, nowhere)[1])
    return (None if problems else config), problems


def _overlaps(path: KeyPath, bad: set[KeyPath]) -> bool:
    return any(path[: len(other)] == other or other[: len(path)] == path for other in bad)


def _errors_by_path(error: ValidationError, data: Any) -> dict[KeyPath, str]:
    """One kind of error per key path; what every branch of a union said about a whole is dropped if a part is named."""
    wrong: dict[KeyPath, str] = {}
    for detail in error.errors(include_url=False, include_context=False):
        wrong.setdefault(_path(detail, data), detail["type"])
    return {
        path: kind
        for path, kind in wrong.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other in wrong)
    }


def _path(detail: ErrorDetails, data: Any) -> KeyPath:
    """The key path as written: names of types and variants, which pydantic puts between, are left out."""
    path: KeyPath = ()
    for part in detail["loc"]:
        if holds(data, part):
            path, data = (*path, part), data[part]
    if detail["type"] == "missing" and isinstance(data, dict):
        return (*path, detail["loc"][-1])
    if detail["type"].startswith("union_tag") and isinstance(data, dict):
        return (*path, "name")
    return path


def _take_out(data: dict[str, Any], path: KeyPath, kind: str) -> None:
    """Let the default, or a stand-in, take the place of what is at `path` (of the whole list for an entry of one)."""
    while isinstance(path[-1], int):
        path = path[:-1]
    try:
        section = look_up(data, path[:-1])
    except KeyError:
        return  # went with another one
    variants = choices(alternatives_at(path, data)) if path[-1] == "name" and len(path) > 1 else []
    if path[:2] == _PAIRS and kind != "extra_forbidden":
        del data["data"]["pairs"]  # a name alone says nothing
    elif kind == "extra_forbidden":
        del section[path[-1]]
    elif path[0] == "labels" and len(path) > 1:
        section[path[-1]] = _UNUSED - list(section).index(path[-1])
    elif variants:
        section["name"] = variants[0]
    elif path[-1] in _STAND_INS and path[-1] in keys_at(path[:-1], data) and not _is_group(path):
        # not a label of that name
        section[path[-1]] = copy.deepcopy(_STAND_INS[str(path[-1])])
    else:
        section.pop(path[-1], None)


def _is_group(path: KeyPath) -> bool:
    """Whether this is `labels` of a clean-up step, which may be left out, and not the section."""
    return path[-1] == "labels" and len(path) > 1


def _problem(path: KeyPath, kind: str, data: Any, document: Document, default: Place) -> Problem:
    where = place_of(document, path, default).where
    if kind == "extra_forbidden":
        section = dotted(path[:-1])
        rule = f"is not a key of {section}." if section else "is not a key of a configuration."
        return Problem(where, dotted(path), rule, hint=_key_hint(path, data))
    if len(path) == 2 and path[0] == "labels" and str(path[1]).isdecimal() and isinstance(data["labels"][path[1]], str):
        hint = f"Swap them: `{data['labels'][path[1]]}: {path[1]}`."
        return Problem(
            where, dotted(path), "must be the name, not the value in the mask files; the name comes first.", hint=hint
        )
    allowed = alternatives_at(path, data)
    words = choices(allowed) if path[-1] == "name" else []
    must = f"must be {either(words) if len(path) > 1 and words else in_words(allowed)}."
    try:
        value = look_up(data, path)
    except KeyError:
        return Problem(where, dotted(path), f"is missing; it {must}")
    return Problem(where, dotted(path), must, as_written(value), _value_hint(value, allowed))


def _key_hint(path: KeyPath, data: Any) -> str:
    key, section = str(path[-1]), tuple(path[:-1])
    here = ".".join(str(part) for part in section if isinstance(part, str))
    homes = [f"{home}.{key}" if home else key for home in sections_with().get(key, ()) if home != here]
    if homes and key != "name":
        return f"This key belongs elsewhere: {' or '.join(homes)}."
    keys = keys_at(section, data)
    near = difflib.get_close_matches(key, keys, n=1)
    if near:
        return f"Did you mean {near[0]}?"
    if key in _OTHER_WORDS:
        return f"Did you mean {_OTHER_WORDS[key]}?"
    return f"Its keys are {', '.join(keys)}." if section else f"The sections and keys are {', '.join(keys)}."


def _value_hint(value: Any, allowed: Alternatives) -> str:
    types = {schema.get("type") for schema in allowed}
    if isinstance(value, str):
        return _text_hint(value, allowed, types)
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        return f"Write {int(value)}."
    if isinstance(value, int | float) and "array" in types and "object" not in types:
        return f"Write a list with one number per axis, such as [{value}, {value}, {value}]."
    if value is None and "object" in types:
        return "Remove the line, or write keys below it."
    return ""


def _text_hint(value: str, allowed: Alternatives, types: set[Any]) -> str:
    near = difflib.get_close_matches(value.lower(), choices(allowed), n=1)
    if near:
        return f"Did you mean {near[0]}?"
    if value in [variant_name(schema) for schema in allowed]:
        return f"Write {{name: {value}}}."
    if value.lower() in ("none", "nil", "off") and "null" in types:
        return "Write null."
    if types & {"integer", "number"}:
        if re.fullmatch(r"[-+]?\d+,\d+", value):
            return "Write a decimal point, not a comma."
        if isinstance(read_value(value, Place("", Path()))[0], int | float):
            return "Remove the quotes."
    return ""


def _written(key: KeyPath, data: Any) -> KeyPath:
    """`("loss", 0, "beta")` as it stands in a file that holds one mapping instead of a list of one."""
    path: KeyPath = ()
    for part in key:
        if isinstance(part, int) and isinstance(data, dict):
            continue
        path = (*path, part)
        data = look_up(data, (part,)) if holds(data, part) else None
    return path


def _from_rule(finding: Finding, keys: Sequence[KeyPath], document: Document, default: Place) -> Problem:
    """Point to the first of the joined keys that somebody wrote."""
    written = [key for key in keys if key in document.places]
    place = document.places[written[0]] if written else place_of(document, keys[0], default)
    return Problem(place.where, dotted(keys[0]), finding.rule, finding.value, finding.hint)
