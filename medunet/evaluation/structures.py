"""Which structures are scored: names and the values in mask files that make them up.

They come from a medunet config, a model, a Decathlon or nnU-Net dataset.json, a plain YAML mapping, a
`liver=1,tumour=2+3` text, or Python. The name `ignore` gives the values of voxels that are left out of the scores.
Knows nothing of images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from medunet.config.derived import annotated_names
from medunet.config.load import read_layers
from medunet.config.pictures import as_colours
from medunet.config.terms import TermConfig
from medunet.errors import UsageError
from medunet.io.case import Reading
from medunet.labels import BACKGROUND, IGNORE, LabelMap, format_values

LabelsLike = str | Path | LabelMap | Mapping[str, int | Sequence[int]]
"""What `read_structures` understands."""

_FILES_IN_FOLDER = ("model.yaml", "config.yaml", "dataset.json")


@dataclass(frozen=True)
class Structures:
    """Structures to score.

    Attributes:
        values: name to the values in files; structures may overlap in any way (regions).
        background: values that are no structure; None where every other value is background.
        ignore: values of voxels of the reference that are left out.
        terms: what structures are called in DICOM objects, as a config or model says.
        annotated: patterns of case ids to the structures that these cases were annotated for; the others are not
            scored. Stated by the `data` section of a config.
        reading: how references that are pictures are read, as that section says.
    """

    values: Mapping[str, tuple[int, ...]]
    background: tuple[int, ...] | None
    ignore: tuple[int, ...] = ()
    annotated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    terms: Mapping[str, TermConfig] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)

    @property
    def labels(self) -> LabelMap:
        """The structures as labels.

        Raises:
            DataError: they cross, so that one mask cannot hold them.
        """
        mapping = {BACKGROUND: self.background or (0,), **self.values}
        return LabelMap.from_mapping(mapping | ({IGNORE: self.ignore} if self.ignore else {}))

    def of(self, case: str) -> dict[str, tuple[int, ...]]:
        """The structures that a case was annotated for."""
        known = annotated_names(case, self.annotated)
        return {name: members for name, members in self.values.items() if known is None or name in known}

    def others(self, present: Iterable[int]) -> list[int]:
        """The values of `present` that mean nothing: no structure, background or ignored; 0 is left out if open."""
        named = {*self.ignore, *(value for members in self.values.values() for value in members)}
        named.update((0,) if self.background is None else self.background)
        return sorted(set(present) - named)


def read_structures(labels: LabelsLike) -> Structures:
    """Find out which structures are meant.

    A list that names `background` is complete, and another value in a mask is an error; a list without
    it is a choice, and all other values count as background.

    Args:
        labels: a path (config or model YAML, dataset.json, a folder that holds one of them), a text such as
            `liver=1,tumour=2+3`, a `LabelMap`, or a mapping of names to a value or several.

    Raises:
        UsageError: no such file, or no usable labels in it.
    """
    if isinstance(labels, LabelMap):
        return _structures(labels.to_mapping(), "The label map")
    if isinstance(labels, Mapping):
        return _structures(labels, "The labels")
    path = Path(labels)
    if "=" in str(labels) and not path.exists():
        return _structures(_parse_list(str(labels)), "--labels")
    if path.is_dir():
        path = next((path / name for name in _FILES_IN_FOLDER if (path / name).is_file()), path / _FILES_IN_FOLDER[0])
    document = _read_file(path)
    structures = _structures(document.get("labels", document), str(path))
    return replace(
        structures,
        annotated=_annotated(document, structures),
        terms=_terms(document, structures, str(path)),
        reading=_reading(document, structures, str(path)),
    )


def _parse_list(text: str) -> dict[str, list[int]]:
    result: dict[str, list[int]] = {}
    for part in text.split(","):
        name, _, numbers = (piece.strip() for piece in part.partition("="))
        try:
            members = [int(number) for number in numbers.split("+")]
        except ValueError:
            members = []
        if not name or not members:
            raise UsageError(
                f'--labels holds "{part.strip()}"; each part must be NAME=VALUE with a whole number.',
                "For example: --labels liver=1,tumour=2+3 (2 and 3 together are the tumour).",
            )
        if name in result:
            raise UsageError(f'--labels names "{name}" twice.', f"Join the values with +: {name}=1+2.")
        result[name] = members
    return result


def _read_file(path: Path) -> dict[Any, Any]:
    """The content of a file whose labels, of its own or under the key "labels", are a mapping.

    A config is given with what it extends: labels and `data.annotated` may stand there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"The labels file {path} cannot be read: {error.strerror or error}.",
            "Give a config, model.yaml, dataset.json or a list such as liver=1,tumour=2.",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The labels file {path} is not text.", "Give a YAML or JSON file.") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"The labels file {path} is neither YAML nor JSON: {reason}.") from error
    if not isinstance(document, dict):
        raise UsageError(f"The labels file {path} holds no mapping of names to values.", "For example: liver: 1")
    if isinstance(document.get("extends"), str):
        document = dict(read_layers(path))
        if "labels" not in document:
            raise UsageError(
                f'{path} has no key "labels", nor has what it extends.', "Give the config.yaml of a run, for example."
            )
    if not isinstance(document.get("labels", {}), dict):
        raise UsageError(f'The key "labels" of {path} must map names to values.', "For example: labels: {liver: 1}")
    return document


def _annotated(document: Mapping[Any, Any], structures: Structures) -> dict[str, tuple[str, ...]]:
    """`data.annotated` of a config, as far as it speaks of the structures; empty for other files."""
    data = document.get("data")
    stated = data.get("annotated") if isinstance(data, dict) and "labels" in document else None
    if not isinstance(stated, dict):
        return {}
    return {
        str(pattern): tuple(name for name in names if name in structures.values)
        for pattern, names in stated.items()
        if isinstance(names, list)
    }


def _terms(document: Mapping[Any, Any], structures: Structures, where: str) -> dict[str, TermConfig]:
    """The section `terms` of a config or model."""
    stated = document.get("terms") if "labels" in document else None
    if not isinstance(stated, dict):
        return {}
    try:
        return {
            str(name): TermConfig.model_validate_json(json.dumps(entry))
            for name, entry in stated.items()
            if name in structures.values
        }
    except (ValueError, TypeError) as error:
        raise UsageError(f'The key "terms" of {where} is not understood.', "See: medunet config check FILE.") from error


def _reading(document: Mapping[Any, Any], structures: Structures, where: str) -> Reading:
    """`data.colours` and `data.grey_edges` of a config."""
    data = document.get("data") if "labels" in document else None
    if not isinstance(data, dict):
        return Reading()
    stated = data.get("colours") or {}
    colours = {str(name): as_colours(entry) for name, entry in stated.items()} if isinstance(stated, dict) else {}
    words = [word for entry in colours.values() for word in (entry if isinstance(entry, tuple) else (entry,))]
    good = all(isinstance(word, str) and re.fullmatch("#[0-9a-f]{6}", word) for word in words)
    if not isinstance(stated, dict) or not good or set(colours) - {BACKGROUND, IGNORE, *structures.values}:
        raise UsageError(f"data.colours of {where} is not understood.", "See: medunet config check FILE.")
    return Reading(tuple(colours.items()), grey_edges=data.get("grey_edges") is not False)


def _names_first(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """Names to values; Decathlon's dataset.json has it the other way round: `{"0": "background", "1": "liver"}`."""
    turned = all(isinstance(name, str) and re.fullmatch(r"-?\d+", str(key)) for key, name in mapping.items())
    if not turned:
        return {str(name): value for name, value in mapping.items()}
    result: dict[str, Any] = {}
    for key, name in mapping.items():
        value = int(key)
        result.setdefault(BACKGROUND if value == 0 else name, []).append(value)
    return result


def _structures(mapping: Mapping[Any, Any], where: str) -> Structures:
    values: dict[str, tuple[int, ...]] = {}
    special: dict[str, tuple[int, ...]] = {}
    for name, value in _names_first(mapping).items():
        members = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if not members or not all(isinstance(member, int) and not isinstance(member, bool) for member in members):
            raise UsageError(
                f'{where} gives "{name}" the value {value!r}; a label needs a whole number or a list of them.'
            )
        target = special if name.lower() in (BACKGROUND, IGNORE) else values
        target[name.lower() if target is special else name] = members
    if not values:
        raise UsageError(f"{where} names no structure.", "Give at least one, for example liver=1.")
    ignore, background = special.get(IGNORE, ()), special.get(BACKGROUND)
    named = {*(background or ()), *(value for members in values.values() for value in members)}
    both = sorted(named & set(ignore))
    if both:
        raise UsageError(
            f"{where} wants {format_values(both)} to be ignored, but gives it to another label too.",
            "Take it out of one of the two.",
        )
    return Structures(values, background, ignore)
