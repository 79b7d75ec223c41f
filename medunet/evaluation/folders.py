"""Scores the masks of one folder against those of another.

A case that cannot be scored (another grid, a damaged file, a value that no label names) becomes a row that
says why; the others are scored. Nothing is resampled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from medunet.atomic import make_folder
from medunet.errors import DataError, DatasetError, MedunetError, UsageError
from medunet.evaluation.masks import read_pair
from medunet.evaluation.matching import Matching, Pair, match_files
from medunet.evaluation.structures import LabelsLike, Structures, read_structures
from medunet.evaluation.summary import FAILED, MISSING, Evaluation, Row, summarise
from medunet.io.labelled import Remarks, sum_up
from medunet.io.read import reads_as_dicom
from medunet.labels import format_values
from medunet.metrics import PartitionScore, StructureScore, score_partition, score_values

_MOST_VALUES = 256
"""More values than this, without a list of labels, are taken for an image."""

_ABSENT = StructureScore(*(None,) * 8, prediction_ml=0.0, reference_ml=0.0, volume_difference_ml=0.0, ravd_percent=None)

logger = logging.getLogger("medunet")


@dataclass
class _Case:
    """What one case gave: its scores, or why there are none."""

    pair: Pair
    scores: dict[str, StructureScore] = field(default_factory=dict)
    partitions: dict[str, PartitionScore] = field(default_factory=dict)
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unnamed: list[int] = field(default_factory=list)
    ignored: bool = False
    remarks: list[Remarks] = field(default_factory=list)
    status: str = ""
    message: str = ""


def evaluate(
    predictions: Path | str,
    references: Path | str,
    out: Path | str | None = None,
    *,
    labels: LabelsLike | None = None,
    objects: Sequence[str] = (),
    tolerance_mm: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score predictions against references, in the references' own grids.

    Args:
        predictions: a folder of masks, or one mask: files of images, DICOM segmentations, RT structure sets.
        references: likewise. Cases are matched by file name without ending and `_seg`; two files always match.
        out: folder for `per_case.csv` and `summary.json`; None writes nothing.
        labels: which values are which structure, see `read_structures`. None: every value but 0 that occurs
            is a structure, `label_1`, `label_2`, ... Voxels of the reference with a value of `ignore` are left out;
            a structure that a config says a case was not annotated for has no row.
        objects: structures whose objects (connected components) are to be told apart, such as cells: they get Rand
            scores and the pixel error, too; see `metrics.partitions`.
        tolerance_mm: of the surface Dice.
        progress: called with (cases done, cases in all).

    Returns:
        Rows and summary. Cases that could not be scored are rows too: see `Evaluation.problems`.

    Raises:
        UsageError: paths that do not exist or have no case in common, unusable labels or tolerance, no labels for
            DICOM.
        DatasetError: several files of one case, or no structure in any mask.
        OutputError: `out` cannot be written.
    """
    if not isfinite(tolerance_mm) or tolerance_mm < 0:
        raise UsageError(f"The tolerance is {tolerance_mm:g} mm; it must be 0 or more.")
    structures = None if labels is None else read_structures(labels)
    _check_objects(objects, structures)
    matching = match_files(Path(predictions), Path(references))
    if structures is None:
        _refuse_names(matching)
    if out is not None:
        make_folder(Path(out))
    cases = []
    for done, pair in enumerate(matching.pairs, start=1):
        cases.append(_score(pair, structures, objects, tolerance_mm))
        if progress is not None:
            progress(done, len(matching.pairs))
    settings = {"predictions": str(predictions), "references": str(references), "tolerance_mm": tolerance_mm}
    if structures is not None and structures.ignore:
        settings["ignore"] = list(structures.ignore)
    result = _result(cases, structures, settings)
    result.summary["cases"]["without_reference"] = list(matching.without_reference)
    if out is not None:
        result.save(Path(out))
    return result


def _refuse_names(matching: Matching) -> None:
    """DICOM objects have names instead of values; without labels nothing says which is which."""
    for pair in matching.pairs:
        for path in (pair.prediction, pair.reference):
            if path is not None and reads_as_dicom(path):
                raise UsageError(
                    f"{path} is DICOM, whose structures have names, and no labels are given.",
                    "Name them: --labels CONFIG, or --labels liver=1,tumour=2.",
                )


def _result(cases: list[_Case], structures: Structures | None, settings: dict[str, Any]) -> Evaluation:
    values = _values_found(cases) if structures is None else structures.values
    if not values and any(not case.status for case in cases):
        raise DatasetError("No mask holds any value but 0; there is nothing to score.", "Name what to score in labels.")
    rows = [row for case in cases for row in _rows(case, values, structures)]
    named = {name: list(members) for name, members in values.items()}
    return Evaluation(tuple(rows), summarise(rows, values, {**settings, "labels": named}, _notes(cases, structures)))


def _check_objects(objects: Sequence[str], structures: Structures | None) -> None:
    unknown = [name for name in objects if structures is None or name not in structures.values]
    if unknown:
        named = "none, for no labels are given" if structures is None else ", ".join(structures.values)
        raise UsageError(
            f'The objects of "{unknown[0]}" cannot be scored: the structures are {named}.',
            "Name a structure: --labels cell=255 --objects cell.",
        )


def _score(pair: Pair, structures: Structures | None, objects: Sequence[str], tolerance_mm: float) -> _Case:
    case = _Case(pair)
    if pair.prediction is None:
        case.status, case.message = MISSING, "There is no prediction of this name."
        return case
    try:
        found, truth = read_pair(pair.prediction, pair.reference, structures)
        case.remarks = [found.remarks, truth.remarks]
        prediction, reference, geometry = found.values, truth.values, truth.geometry
        present = sorted({int(value) for array in (prediction, reference) for value in np.unique(array)})
        ignore: tuple[int, ...] = ()
        if structures is None:
            case.values = _every_value(present)
        else:
            case.values, ignore = structures.of(pair.case), structures.ignore
            case.unnamed = _values_left_out(structures, present)
            case.ignored = bool(np.isin(reference, ignore).any()) if ignore else False
        case.scores = score_values(
            prediction, reference, case.values, geometry.spacing, ignore=ignore, tolerance_mm=tolerance_mm
        )
        for name in (name for name in objects if name in case.values):
            known = ~np.isin(reference, ignore)
            ours, theirs = (np.isin(array, case.values[name]) & known for array in (prediction, reference))
            case.partitions[name] = score_partition(ours, theirs)
    except MedunetError as error:
        case.status, case.message = FAILED, str(error)
        logger.warning("%s: %s", pair.case, error)
    return case


def _every_value(present: list[int]) -> dict[str, tuple[int, ...]]:
    if len(present) > _MOST_VALUES:
        raise DataError(
            f"The masks of this case hold {len(present)} different values; that looks like an image, not a mask.",
            "Name the labels to score if it is one.",
        )
    return {f"label_{value}": (value,) for value in present if value != 0}


def _values_left_out(structures: Structures, present: list[int]) -> list[int]:
    others = structures.others(present)
    if others and structures.background is not None:
        named = ", ".join(f"{name} {'/'.join(map(str, members))}" for name, members in structures.values.items())
        raise DataError(
            f"The masks hold {format_values(others)}, which no label names.",
            f"The labels are {named}. Name the value too, or choose structures without a background: NAME=VALUE,...",
        )
    return others


def _values_found(cases: list[_Case]) -> dict[str, tuple[int, ...]]:
    found = {name: members for case in cases for name, members in case.values.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _rows(case: _Case, values: Mapping[str, tuple[int, ...]], structures: Structures | None) -> list[Row]:
    if case.status:
        return [Row(case.pair.case, "", case.status, message=case.message)]
    wanted = values if structures is None else case.values
    scores = {name: case.scores.get(name, _ABSENT) for name in wanted}
    found = case.partitions
    return [Row(case.pair.case, name, score.outcome, score, "", found.get(name)) for name, score in scores.items()]


def _notes(cases: list[_Case], structures: Structures | None) -> list[str]:
    notes = []
    unnamed = sorted({value for case in cases for value in case.unnamed})
    if unnamed:
        number = sum(bool(case.unnamed) for case in cases)
        notes.append(
            f"No label names {format_values(unnamed)} ({number} of {len(cases)} cases): counted as background."
        )
    ignored = sum(case.ignored for case in cases)
    if ignored and structures is not None:
        notes.append(
            f"Voxels whose reference is {format_values(structures.ignore)} were left out ({ignored} of {len(cases)} "
            "cases)."
        )
    partly = sum(len(case.values) < len(structures.values) for case in cases if not case.status) if structures else 0
    if partly:
        notes.append(f"{partly} of {len(cases)} cases were scored for those structures only that data.annotated names.")
    notes += sum_up(remarks for case in cases for remarks in case.remarks)
    for note in notes:
        logger.info("%s", note)
    return notes
