"""Data sets: the cases of a folder, a `dataset.json` or a CSV, checked as far as paths go.

Every problem is collected and raised at once. What the files hold is `io.check`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medunet.config.series import SeriesRules
from medunet.errors import DatasetError, Problem, UsageError
from medunet.io.case import Case, Listing
from medunet.io.folds import fold_problems
from medunet.io.layouts.dataset_json import is_path, load_json, resolve
from medunet.io.layouts.decathlon import read_decathlon
from medunet.io.layouts.folders import find_pair, read_folders
from medunet.io.layouts.nnunet import read_nnunet
from medunet.io.layouts.studies import holds_studies, read_studies
from medunet.io.layouts.tables import read_table
from medunet.io.selection import Selection

__all__ = ["FORMATS", "Case", "Manifest", "detect", "read_manifest"]

_LOG = logging.getLogger("medunet")

FORMATS: dict[str, Callable[[Path], Listing]] = {
    "decathlon": read_decathlon,
    "nnunet": read_nnunet,
    "csv": read_table,
    "folders": read_folders,
    "dicom": read_studies,
}
"""Reader per layout: a `dataset.json` for the first two, a CSV, a folder for the others."""


@dataclass(frozen=True)
class Manifest:
    """The cases of a data set.

    Attributes:
        cases: sorted by id.
        label_names: names to a value in files, or to several, as the data set states them; None where it does not.
        modality: name per channel as the data set states them; empty where it does not.
        root: folder that holds the data set.
        format: layout that was read, one of `FORMATS`.
        notes: sentences about what was left out.
    """

    cases: tuple[Case, ...]
    label_names: dict[str, int | list[int]] | None
    modality: tuple[str, ...]
    root: Path
    format: str
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Case]:
        """The cases by id."""
        return iter(self.cases)

    def by_rules(self, rules: SeriesRules | None) -> Manifest:
        """The same cases, of whose DICOM folders the series is read that fits `data.series`."""
        cases = tuple(replace(case, selection=Selection(rules=rules)) for case in self.cases)
        return replace(self, cases=cases)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.cases)


def detect(root: Path) -> tuple[str, Path] | None:
    """Layout of `root` and the file or folder that its reader takes; None if it looks like no data set.

    Args:
        root: the folder, its JSON file or its CSV.

    Raises:
        DatasetError: a `dataset.json` that is no JSON object, or several CSV files and nothing else.
    """
    if root.is_file():
        suffix = root.suffix.lower()
        return _json_layout(root) if suffix == ".json" else ("csv", root) if suffix in (".csv", ".tsv") else None
    if (root / "dataset.json").is_file():
        return _json_layout(root / "dataset.json")
    images, labels = find_pair(root)
    if images is not None and labels is not None and images.name == "imagesTr":
        return "folders", root
    tables = _tables(root)
    if len(tables) == 1:
        return "csv", tables[0]
    if images is not None and labels is not None:
        return "folders", root
    if tables:
        names = ", ".join(path.name for path in tables)
        raise DatasetError(f"{root} holds several tables: {names}.", "Give the path of the one that lists the cases.")
    return ("dicom", root) if holds_studies(root) else None


def _tables(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*.csv") if path.is_file() and not path.name.startswith("."))


def _json_layout(file: Path) -> tuple[str, Path] | None:
    data = load_json(file)
    if "file_ending" in data or "channel_names" in data or isinstance(data.get("dataset"), dict):
        return "nnunet", file
    if "training" not in data:
        return None
    entries = data["training"]
    first = entries[0] if isinstance(entries, list) and entries else None
    image = first.get("image") if isinstance(first, dict) else None
    if is_path(image) and str(image).endswith(".nii.gz"):
        # nnU-Net v1 lists CASE.nii.gz but stores CASE_0000.nii.gz
        path = resolve(file.parent, str(image))
        if not path.exists() and path.with_name(path.name[:-7] + "_0000.nii.gz").exists():
            return "nnunet", file
    return "decathlon", file


def _locate(root: Path, layout: str) -> tuple[str, Path]:
    """Layout and input of its reader, as asked for or detected."""
    if not root.exists():
        raise UsageError(f"There is no file or folder {root}.", "Check the path of the data set (data.root, --data).")
    if layout == "auto":
        found = detect(root)
        if found is None:
            raise DatasetError(
                f"{root} looks like no data set.",
                "Known are dataset.json (Decathlon, nnU-Net), a CSV with the columns image and label, "
                "the folders images and labels (or masks, or imagesTr and labelsTr), and folders of DICOM images, each "
                "with a segmentation or structure set.",
            )
        return found
    if layout not in FORMATS:
        raise UsageError(f'There is no data set format "{layout}"; known are auto, {", ".join(FORMATS)}.')
    if layout in ("folders", "dicom"):
        return layout, root if root.is_dir() else root.parent
    if root.is_file():
        return layout, root
    if layout == "csv":
        tables = _tables(root)
        if len(tables) != 1:
            raise DatasetError(
                f"{root} holds {len(tables)} CSV files; one is needed.",
                "Give the path of the one that lists the cases.",
            )
        return layout, tables[0]
    if not (root / "dataset.json").is_file():
        raise DatasetError(f"{root} holds no dataset.json.", "Give the path of the JSON file, or another data.format.")
    return layout, root / "dataset.json"


def read_manifest(
    root: Path,
    format: str = "auto",
    *,
    channels: int | None = 1,
    require_labels: bool = True,
    log_notes: bool = True,
) -> Manifest:
    """Read and check a data set; no image is opened.

    Args:
        root, format, channels, require_labels: as in `survey`.
        log_notes: log the notes of the manifest as warnings.

    Raises:
        UsageError: `root` or `format` does not exist.
        DatasetError: with every problem that was found.
    """
    manifest, problems = survey(root, format, channels=channels, require_labels=require_labels)
    if problems:
        raise unusable(root, manifest, problems)
    for note in manifest.notes if log_notes else ():
        _LOG.warning("%s", note)
    return manifest


def unusable(root: Path, manifest: Manifest, problems: Sequence[Problem]) -> DatasetError:
    """The error that lists `problems`."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return DatasetError(f"The data set {root} cannot be used ({count}, read as {manifest.format}).", problems=problems)


def survey(
    root: Path, format: str = "auto", *, channels: int | None = 1, require_labels: bool = True
) -> tuple[Manifest, list[Problem]]:
    """Read a data set with everything that is wrong with its listing; no image is opened.

    Args:
        root: the folder, or its `dataset.json` or CSV.
        format: one of `FORMATS`, or "auto".
        channels: image channels that are expected; a case has one file for all of them or one for each. None: any.
        require_labels: refuse cases without a mask.

    Raises:
        UsageError: `root` or `format` does not exist.
        DatasetError: the listing cannot be read at all.
    """
    try:
        layout, source = _locate(root, format)
        listing = FORMATS[layout](source)
    except OSError as error:
        raise DatasetError(
            f"The data set {root} cannot be read: {error.strerror}.", "Check its permissions."
        ) from error
    problems = [*listing.problems, *_case_problems(listing.cases, channels, require_labels)]
    if not problems and not listing.cases:
        problems.append(Problem(str(source), "", "it lists no case."))
    manifest = Manifest(
        cases=tuple(sorted(listing.cases, key=lambda case: case.id)),
        label_names=listing.label_names,
        modality=listing.modality,
        root=source if source.is_dir() else source.parent,
        format=layout,
        notes=tuple(listing.notes),
    )
    return manifest, problems


def _case_problems(cases: Sequence[Case], channels: int | None, require_labels: bool) -> list[Problem]:
    problems: list[Problem] = []
    ids: dict[str, Case] = {}
    files: dict[str, Case] = {}
    for case in cases:
        first = ids.setdefault(case.id, case)
        if first is not case:
            rule = f"two cases have this id: {first.images[0]} and {case.images[0]}."
            problems.append(Problem(case.id, "id", rule, hint="Rename one, or state an id for each."))
        if not _safe_name(case.id):
            rule = "an id becomes part of file names; it needs printable characters without / and \\."
            problems.append(Problem(str(case.images[0]), "id", rule, value=repr(case.id)))
        problems += _path_problems(case, require_labels)
        if channels is not None and len(case.images) not in (1, channels):
            rule = f"the config names {channels} channel{'s' if channels > 1 else ''} (data.modality)."
            problems.append(Problem(case.id, "images", rule, value=f"{len(case.images)} files"))
        for path in case.images:
            owner = files.setdefault(os.path.realpath(path), case)
            if owner is not case and owner.id != case.id:
                rule = f"it is an image of case {owner.id} too; one image in two folds would spoil the validation."
                problems.append(Problem(case.id, "image", rule, value=str(path)))
    return [*problems, *fold_problems(cases)]


def _safe_name(name: str) -> bool:
    return name.isprintable() and name.strip(" .") == name and name != "" and not set(name) & set('/\\:*?"<>|')


def _path_problems(case: Case, require_labels: bool) -> list[Problem]:
    problems = [
        Problem(case.id, "image", "there is no such file.", value=str(path))
        for path in case.images
        if not path.exists()
    ]
    if case.label is None:
        if require_labels:
            problems.append(Problem(case.id, "label", f"there is no mask for {case.images[0]}."))
    elif not case.label.exists():
        problems.append(Problem(case.id, "label", "there is no such file.", value=str(case.label)))
    elif case.label.is_file() and os.path.realpath(case.label) in map(os.path.realpath, case.images):
        problems.append(Problem(case.id, "label", "it is the image itself.", value=str(case.label)))
    if len(set(case.images)) < len(case.images):
        problems.append(Problem(case.id, "images", "one file is listed for two channels."))
    return problems
