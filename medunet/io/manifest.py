"""Data sets: the cases of a folder, a `dataset.json` or a CSV, checked as far as paths go.

Every problem is collected and raised at once. What the files hold is `io.check`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medunet.config.schema import DataConfig
from medunet.config.series import SeriesRules
from medunet.errors import DatasetError, Problem, UsageError
from medunet.io.case import Case, Listing, Reading
from medunet.io.detection import detect, locate
from medunet.io.folds import fold_problems, grouped
from medunet.io.layouts.coco import read_coco
from medunet.io.layouts.decathlon import read_decathlon
from medunet.io.layouts.folders import read_folders
from medunet.io.layouts.nnunet import read_nnunet
from medunet.io.layouts.pairs import read_pairs
from medunet.io.layouts.rle import read_rle
from medunet.io.layouts.studies import read_studies
from medunet.io.layouts.tables import read_table
from medunet.io.layouts.voc import read_voc
from medunet.io.selection import Selection

__all__ = ["FORMATS", "Case", "Manifest", "detect", "read_manifest"]

_LOG = logging.getLogger("medunet")

FORMATS: dict[str, Callable[[Path, DataConfig], Listing]] = {
    "decathlon": lambda source, _: read_decathlon(source),
    "nnunet": lambda source, _: read_nnunet(source),
    "csv": lambda source, _: read_table(source),
    "folders": lambda source, _: read_folders(source),
    "dicom": lambda source, _: read_studies(source),
    "pairs": lambda source, options: read_pairs(source, options.pairs),
    "voc": lambda source, options: read_voc(source, lists=options.lists),
    "coco": lambda source, options: read_coco(source, options.images),
    "rle": lambda source, options: read_rle(source, options.rle, options.images),
}
"""Reader per layout, of what `io.detection.locate` gives."""


@dataclass(frozen=True)
class Manifest:
    """The cases of a data set.

    Attributes:
        cases: sorted by id.
        label_names: names to a value in files, or to several, as the data set states them; None where it does not.
        modality: name per channel as the data set states them; empty where it does not.
        root: folder that holds the data set.
        format: layout that was read, one of `FORMATS`.
        notes: sentences about what was left out, or found out.
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


def read_manifest(
    root: Path,
    format: str = "auto",
    *,
    channels: int | None = 1,
    require_labels: bool = True,
    log_notes: bool = True,
    options: DataConfig | None = None,
) -> Manifest:
    """Read and check a data set; no image is opened.

    Args:
        root, format, channels, require_labels, options: as in `survey`.
        log_notes: log the notes of the manifest as warnings.

    Raises:
        UsageError: `root` or `format` does not exist.
        DatasetError: with every problem that was found.
    """
    manifest, problems = survey(root, format, channels=channels, require_labels=require_labels, options=options)
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
    root: Path,
    format: str = "auto",
    *,
    channels: int | None = 1,
    require_labels: bool = True,
    options: DataConfig | None = None,
) -> tuple[Manifest, list[Problem]]:
    """Read a data set with everything that is wrong with its listing; no image is opened.

    Args:
        root: the folder, or its `dataset.json` or CSV.
        format: one of `FORMATS`, or "auto".
        channels: image channels that are expected; a case has one file for all of them or one for each. None: any.
        require_labels: refuse cases without a mask.
        options: `data:`, for how files are named and masks are read; its root and format are not looked at.

    Raises:
        UsageError: `root` or `format` does not exist.
        DatasetError: the listing cannot be read at all.
    """
    if format not in ("auto", *FORMATS):
        raise UsageError(f'There is no data set format "{format}"; known are auto, {", ".join(FORMATS)}.')
    options = options or DataConfig()
    try:
        layout, source = locate(root, "pairs" if format == "auto" and options.pairs else format)
        listing = FORMATS[layout](source, options)
    except OSError as error:
        raise DatasetError(
            f"The data set {root} cannot be read: {error.strerror}.", "Check its permissions."
        ) from error
    reading = Reading(tuple(options.colours.items()), options.resize_label, options.grey_edges)
    listing.cases[:] = [replace(case, reading=reading) for case in listing.cases]
    if options.group is not None:
        listing.cases[:], misfits = grouped(listing.cases, options.group)
        listing.problems += misfits
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


def _same_id(first: Case, case: Case) -> Problem:
    if first.images == case.images:
        rule = f"it is listed twice: two rows name {case.images[0]}."
        return Problem(case.id, "image", rule, hint="Keep one of them.")
    rule = f"two cases have this id: {first.images[0]} and {case.images[0]}."
    return Problem(case.id, "id", rule, hint="Rename one, or state an id for each.")


def _case_problems(cases: Sequence[Case], channels: int | None, require_labels: bool) -> list[Problem]:
    problems: list[Problem] = []
    ids: dict[str, Case] = {}
    files: dict[str, Case] = {}
    for case in cases:
        first = ids.setdefault(case.id, case)
        if first is not case:
            problems.append(_same_id(first, case))
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
    if case.label is None and require_labels:
        problems.append(Problem(case.id, "label", f"there is no mask for {case.images[0]}."))
    images = {os.path.realpath(image) for image in case.images}
    for what, paths in (("label", case.label_files), ("region", (case.region,) if case.region else ())):
        for path in paths:
            if not path.exists():
                problems.append(Problem(case.id, what, "there is no such file.", value=str(path)))
            elif path.is_file() and os.path.realpath(path) in images:
                problems.append(Problem(case.id, what, "it is the image itself.", value=str(path)))
    if len(set(case.images)) < len(case.images):
        problems.append(Problem(case.id, "images", "one file is listed for two channels."))
    return problems
