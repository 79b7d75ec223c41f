"""Which prediction belongs to which reference: by case id, the file name without ending, `_seg`, `_mask`, `_rtstruct`.

Pictures in sub-folders are `sub/name`, as `predict` keeps them; they count where both sides have such a case.

Looks at names, and of files without the ending of an image at the first bytes; reads no image.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import DatasetError, Problem, ReadError, UsageError
from medunet.io.files import ENDINGS, image_ending, stem

_SUFFIX, _PICTURE, _CONTOURS = "_seg", "_mask", "_rtstruct"
_OVERLAY = "_overlay"
_DEEPER = "/"
_TABLES = (".csv", ".json", ".tsv")
_SHOWN = 5

logger = logging.getLogger("medunet")


@dataclass(frozen=True)
class Pair:
    """One case; `prediction` is None where there is none."""

    case: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True)
class Matching:
    """All references with their predictions, by case id, and the predictions left over."""

    pairs: tuple[Pair, ...]
    without_reference: tuple[str, ...] = ()


def case_id(path: Path) -> str:
    """`liver_01_seg.nii.gz` and `liver_01.nrrd` are both `liver_01`."""
    name = _as_mask(path)
    return name.removesuffix(_SUFFIX).removesuffix(_PICTURE) or name


def _as_mask(path: Path) -> str:
    """Name without ending; contours are called as the mask beside them is."""
    name = stem(path)
    return name.removesuffix(_CONTOURS) + _SUFFIX if name.endswith(_CONTOURS) else name


def match_files(predictions: Path, references: Path) -> Matching:
    """Pair the files of two folders, or two files whatever their names.

    Raises:
        UsageError: a path that does not exist, a file beside a folder, or nothing in common.
        DatasetError: several files of one folder have the same case id.
        ReadError: a folder that cannot be listed.
    """
    for path, option in ((predictions, "predictions"), (references, "references")):
        if not path.exists():
            raise UsageError(f"The {option} path {path} does not exist.", "Check the path.")
    if predictions.is_file() and references.is_file():
        return Matching((Pair(case_id(references), references, predictions),))
    if predictions.is_file() or references.is_file():
        file, folder = (predictions, references) if predictions.is_file() else (references, predictions)
        what = f"{file} is a file and {folder} is a folder."
        if file.suffix.lower() in _TABLES:
            hint = "Masks that stand in a table are scored by training alone (RUN/validation); write them as PNG files."
            raise UsageError(what, f"Give two files or two folders of masks. {hint}")
        raise UsageError(what, "Give two files or two folders.")
    files, masks = _groups(predictions), _groups(references)
    deep = any(_DEEPER in case for case in files.keys() & masks.keys())
    found, wanted = (
        _one_each(folder, _meant(groups, deep)) for folder, groups in ((predictions, files), (references, masks))
    )
    common = found.keys() & wanted.keys()
    if not common:
        raise UsageError(
            f"No prediction matches a reference by name: {predictions} holds {_examples(found)}, "
            f"{references} holds {_examples(wanted)}.",
            f"A case has the same file name (and sub-folder) in both, with or without {_SUFFIX} or {_PICTURE}; the "
            f"endings are {', '.join(ENDINGS)}, "
            "or any of DICOM.",
        )
    missing, left_over = (tuple(sorted(keys)) for keys in (wanted.keys() - common, found.keys() - common))
    if missing:
        logger.warning("No prediction for %d of %d references: %s.", len(missing), len(wanted), _examples(missing))
    if left_over:
        logger.warning("No reference for %d of %d predictions: %s.", len(left_over), len(found), _examples(left_over))
    pairs = tuple(Pair(case, wanted[case], found.get(case)) for case in sorted(wanted))
    return Matching(pairs, left_over)


def _groups(folder: Path) -> dict[str, list[Path]]:
    """By case: images and label objects in DICOM directly in `folder`, and images in its sub-folders as `sub/name`."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and _is_mask(path))
        files += _deeper(folder)
    except OSError as error:
        raise ReadError(
            f"The folder {error.filename or folder} cannot be listed: {error.strerror or error}."
        ) from error
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault((path.parent.relative_to(folder) / case_id(path)).as_posix(), []).append(path)
    return groups


def _deeper(folder: Path) -> Iterator[Path]:
    """Images in visible sub-folders, at any depth."""

    def fail(error: OSError) -> None:
        raise error

    for name, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        paths = [Path(name, file) for file in sorted(files)] if Path(name) != folder else []
        yield from (path for path in paths if image_ending(path) and _is_mask(path))


def _meant(groups: dict[str, list[Path]], deep: bool) -> dict[str, list[Path]]:
    """Those directly in the folder, unless sub-folders are meant; they stay where there is nothing else."""
    flat = {case: paths for case, paths in groups.items() if _DEEPER not in case}
    return groups if deep or not flat else flat


def _one_each(folder: Path, groups: dict[str, list[Path]]) -> dict[str, Path]:
    """Of one mask in several formats the first of `ENDINGS` counts, then a segmentation, then contours.

    Raises:
        DatasetError: several masks of one case.
    """
    clashes = [
        Problem(where=case, what=", ".join(path.name for path in paths), rule="one case has one mask.")
        for case, paths in groups.items()
        if len({_as_mask(path) for path in paths}) > 1
    ]
    if clashes:
        raise DatasetError(
            f"{folder} holds several files of one case id (the name without ending and {_SUFFIX}).",
            "Move the others away.",
            clashes,
        )
    return {case: min(paths, key=_preference) for case, paths in groups.items()}


def _is_mask(path: Path) -> bool:
    if image_ending(path):
        return not stem(path).endswith(_OVERLAY)
    from medunet.io.dicom.objects import is_label

    return not path.name.startswith(".") and is_label(path)


def _preference(path: Path) -> tuple[int, bool]:
    ending = image_ending(path)
    return ENDINGS.index(ending) if ending else len(ENDINGS), stem(path).endswith(_CONTOURS)


def _examples(cases: Iterable[str]) -> str:
    names = sorted(cases)
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "no image"
