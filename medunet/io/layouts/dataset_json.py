"""The fields that `dataset.json` of the Decathlon and of nnU-Net have in common.

Both write labels and channels as small tables, one from number to name, the other from name to number;
here either is understood. Knows nothing of cases.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medunet.errors import DatasetError, Problem
from medunet.io.case import Listing
from medunet.labels import clashes


def load_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        DatasetError: it cannot be read, is no JSON, or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _unusable(file, str(file), f"it cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise _unusable(file, str(file), "it is not text in UTF-8.") from error
    except json.JSONDecodeError as error:
        raise _unusable(file, f"{file}:{error.lineno}", f"it is not valid JSON: {error.msg}.") from error
    except RecursionError as error:
        raise _unusable(file, str(file), "it is nested too deeply.") from error
    if not isinstance(value, dict):
        raise _unusable(file, str(file), "it must hold one JSON object ({...}).")
    return value


def _unusable(file: Path, where: str, rule: str) -> DatasetError:
    return DatasetError(f"The data set {file} cannot be read.", problems=[Problem(where, "", rule)])


def is_path(value: Any) -> bool:
    """Whether a value can be the path of a file: text without impossible characters, no part over 255 bytes."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        parts = [len(part.encode()) for part in value.replace("\\", "/").split("/")]
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return max(parts) <= 255 and sum(parts) + len(parts) < 4096


def shown(value: Any) -> str:
    """A value from a file, short and safe to print."""
    return str(value).encode("utf-8", "backslashreplace").decode()[:80]


def resolve(folder: Path, text: str) -> Path:
    """Path of an entry: absolute as written, else relative to `folder`; backslashes separate folders too."""
    return folder / text.replace("\\", "/")


def state_labels(listing: Listing, raw: Any, where: str) -> None:
    """Fill `label_names` from `{"0": "background"}` (Decathlon, nnU-Net v1) or `{"background": 0}` (nnU-Net v2).

    nnU-Net's regions are lists of values, and may overlap; those that a `LabelMap` cannot hold leave `label_names`
    empty, with a note.
    """
    if raw is None:
        return
    if not isinstance(raw, dict):
        listing.problems.append(Problem(where, "labels", 'it must be a table such as {"background": 0, "liver": 1}.'))
        return
    names: dict[str, int | list[int]] = {}
    for key, value in raw.items():
        name, stated = (value, key) if isinstance(value, str) and _number(key) is not None else (key, value)
        entry = _values(stated)
        if entry is None or name in names or entry in names.values():
            rule = "each name and each whole number may occur once."
            listing.problems.append(Problem(where, "labels", rule, value=shown(f"{key!r}: {value!r}")))
            continue
        names[name] = entry
    crossing = clashes({name: [entry] if isinstance(entry, int) else entry for name, entry in names.items()})
    if not crossing:
        listing.label_names = names
    for clash in crossing[:1]:
        listing.notes.append(f"{where}: {clash.label} {clash.rule} Name the values under `labels` in the config.")


def _values(stated: Any) -> int | list[int] | None:
    """A value, or the values of a region; None for anything else."""
    if not isinstance(stated, list):
        return _number(stated)
    numbers = [number for number in map(_number, stated) if number is not None]
    return numbers if numbers and len(numbers) == len(stated) == len(set(numbers)) else None


def _number(value: Any) -> int | None:
    """A whole number, also when written as text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    try:
        return int(value) if isinstance(value, str) and len(value) < 20 else None
    except ValueError:
        return None


def state_modality(listing: Listing, raw: Any, where: str) -> None:
    """Fill `modality` from `{"0": "CT"}`, `["CT"]` or `"CT"`; channels must count 0, 1, 2, ..."""
    if raw is None:
        return
    if isinstance(raw, str):
        raw = [raw]
    if isinstance(raw, list):
        raw = dict(enumerate(raw))
    if isinstance(raw, dict):
        names = {_number(key): str(value) for key, value in raw.items()}
        if set(names) == set(range(len(names))) and len(names) == len(raw):
            listing.modality = tuple(names[index] for index in range(len(names)))
            return
    rule = 'channels must be numbered from 0, as in {"0": "T1", "1": "T2"}.'
    listing.problems.append(Problem(where, "channels", rule, value=shown(raw)))
