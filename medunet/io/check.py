"""Reads every case of a data set once, before anything is trained on it, and says all that is wrong.

Also returns what was seen (`CaseStatistics`): the planner and the report start from it. One case is in
memory at a time. Knows nothing of how cases are preprocessed.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.config.derived import annotated_labels
from medunet.errors import DataError, DatasetError, Problem
from medunet.geometry import format_shape
from medunet.io.case import Case
from medunet.io.fingerprint import fingerprint
from medunet.io.labelled import Remarks, read_case_image, read_case_label, sum_up
from medunet.io.mapped import blocks
from medunet.io.picture_masks import RESIZE, TURN
from medunet.io.pictures import about_channels
from medunet.io.structures import Extent, dimmest, extents
from medunet.io.volume import Volume
from medunet.labels import IGNORE, LabelMap, format_values

_LOG = logging.getLogger("medunet")

PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLES = 1_000_000
_BLOCK = 1 << 22
_MANY_VALUES = 1 << 16
_BORDER = 255  # between objects, in PASCAL VOC and data sets after it; white in masks of one structure


@dataclass(frozen=True)
class CaseStatistics:
    """What one case holds.

    Attributes:
        id: of the case.
        shape: voxels per array axis.
        spacing: millimetres per array axis.
        axcodes: letters of the array axes, for example "RAS".
        channels: number of image channels.
        minimum, maximum: smallest and largest value per channel.
        percentiles: the 0.5, 50 and 99.5 percentile per channel, over at most a million evenly spaced voxels.
        voxels: number of voxels per label name, background and `ignore` included, a label's with those of labels
            inside of it; empty without a mask.
        sha256: hash of its files, see `medunet.io.fingerprint`; empty where they cannot be read.
        tilt_degrees: how far the array axes are turned away from those of the patient.
        components: per structure that is there, its pieces (see `medunet.io.structures`).
        at_border: structures that touch the border of the image.
        dimmest: what 95 % of the voxels of each structure reach, in the first channel; None without a structure.
    """

    id: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    axcodes: str
    channels: int
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    percentiles: tuple[tuple[float, ...], ...]
    voxels: dict[str, int]
    sha256: str = ""
    tilt_degrees: float = 0.0
    components: dict[str, int] = field(default_factory=dict)
    at_border: tuple[str, ...] = ()
    dimmest: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As numbers, texts, lists and dicts."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CaseStatistics:
        """Inverse of `to_json`, also after a round trip through a JSON file."""
        fields: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        fields["percentiles"] = tuple(tuple(row) for row in value["percentiles"])
        return cls(**fields)


def check_cases(
    cases: Sequence[Case],
    labels: LabelMap,
    *,
    channels: int,
    annotated: Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[CaseStatistics]:
    """Read image and mask of each case once and check them.

    Per case: readable, finite, expected channels, not constant, mask on the image's grid, mask values named and no
    label that the case was not annotated for. Over all: one spatial rank, every label occurs somewhere, every pattern
    of `annotated` belongs to some case.

    Args:
        cases: with or without masks.
        labels: what mask values mean.
        channels: image channels that each case must have.
        annotated: `data.annotated`: patterns of case ids to the labels that they were annotated for.
        progress: called after each case with the number done and the number of all.

    Returns:
        Statistics in the order of `cases`.

    Raises:
        DatasetError: with every problem of every case.
    """
    problems: list[Problem] = []
    statistics: list[CaseStatistics] = []
    remarks: list[Remarks] = []
    for done, case in enumerate(cases, start=1):
        known = annotated_labels(case.id, annotated or {}, labels)
        found = _check_case(case, labels, channels, known, (problems, remarks))
        if found is not None:
            statistics.append(found)
        if progress is not None:
            progress(done, len(cases))
    for sentence in sum_up(remarks):
        _LOG.warning("%s", sentence)
    problems += _rank_problems(statistics)
    problems += _patterns_of_nobody(cases, annotated or {})
    if not problems:
        problems += _absent_labels(statistics, labels)
    if problems:
        bad = len({problem.where for problem in problems if problem.where})
        raise DatasetError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {bad or len(cases)} of {len(cases)} cases.",
            problems=problems,
        )
    return statistics


def _check_case(
    case: Case, labels: LabelMap, channels: int, known: Sequence[bool], told: tuple[list[Problem], list[Remarks]]
) -> CaseStatistics | None:
    """Append what is wrong and what was noticed to `told`; statistics if the image could be read.

    `known`: see `annotated_labels`.
    """
    problems, remarks = told
    try:
        volume = read_case_image(case, channels=channels)
    except DataError as error:
        problems.append(Problem(case.id, "image", error.message, hint=error.hint))
        return None
    if volume.channels != channels:
        rule = f"the config names {channels} (data.modality)."
        hint = about_channels(volume, channels)
        problems.append(Problem(case.id, "channels", rule, value=str(volume.channels), hint=hint))
    if volume.source.kind == "picture":  # those of DICOM differ from case to case
        remarks.append(Remarks(notes=volume.source.notes))
    statistics = _statistics(case, volume)
    flat = [a == b for a, b in zip(statistics.minimum, statistics.maximum, strict=True)]
    if all(flat):
        rule = f"every voxel is {statistics.minimum[0]:g}; nothing can be learned from it."
        problems.append(Problem(case.id, "image", rule))
    elif any(flat):
        _LOG.warning("%s: channel %d is constant.", case.id, flat.index(True))
    mask = _check_mask(case, volume, labels, told)
    if mask is None:
        return statistics
    problems += _label_problems(case, mask.counts, labels, known)
    return replace(
        statistics,
        voxels=_voxels(mask.counts, labels),
        components={name: extent.components for name, extent in mask.extents.items()},
        at_border=tuple(name for name, extent in mask.extents.items() if extent.at_border),
        dimmest=mask.dimmest if math.isfinite(mask.dimmest) else None,
    )


@dataclass(frozen=True)
class _Mask:
    """What a mask holds: voxels per value, the structures that are there, and how dim they are in the image."""

    counts: Counter[int]
    extents: dict[str, Extent]
    dimmest: float


def _check_mask(
    case: Case, volume: Volume, labels: LabelMap, told: tuple[list[Problem], list[Remarks]]
) -> _Mask | None:
    """Append what keeps the mask from being used, and what was noticed, to `told`; what it holds if it can be read."""
    problems, remarks = told
    if case.label is None:
        return None
    try:
        truth = read_case_label(case, volume, labels)
    except DataError as error:
        problems.append(Problem(case.id, "label", error.message, hint=error.hint))
        return None
    remarks.append(truth.remarks)
    mask, geometry = truth.values, truth.geometry
    difference = volume.geometry.difference(geometry)
    if difference:
        rule = f"it must lie on the grid of its image, but has {difference}."
        hint = f"Resample {case.label} to {case.images[0].name}."
        if volume.source.kind == "picture":
            hint = TURN if mask.shape == volume.geometry.shape[::-1] else RESIZE
        problems.append(Problem(case.id, "label", rule, hint=hint))
    counts = count_values(mask)
    unknown = [float(value) for value in sorted(counts) if value not in labels.values]
    if unknown:
        rule = f"it holds {format_values(unknown)}, which no label names; the labels are {labels.describe()}."
        hint = _about_border(counts, labels) if unknown == [_BORDER] else ""
        problems.append(Problem(case.id, "label", rule, hint=hint))
    members = [label.values for label in labels.foreground]
    there = {
        label.name: one for label, one in zip(labels.foreground, extents(mask, members), strict=True) if one is not None
    }
    return _Mask(counts, there, math.inf if difference else dimmest(volume.array[0], mask, members))


def _about_border(counts: Counter[int], labels: LabelMap) -> str:
    """What 255 is if no label names it: the structure where there is no other, else most likely a border."""
    structures = labels.foreground
    if len(structures) == 1 and not any(value in counts for value in structures[0].values):
        return f"If it is the structure, write {structures[0].name}: {_BORDER}."
    return "" if labels.ignore else f"If it marks pixels to leave out, add `ignore: {_BORDER}` to labels."


def _voxels(counts: Counter[int], labels: LabelMap) -> dict[str, int]:
    """Voxels per label name; `ignore` last, if there is one."""
    voxels = {label.name: sum(counts[value] for value in label.values) for label in labels.labels}
    if labels.ignore:
        voxels[IGNORE] = sum(counts[value] for value in labels.ignore)
    return voxels


def _label_problems(case: Case, counts: Counter[int], labels: LabelMap, known: Sequence[bool]) -> list[Problem]:
    """A mask that teaches nothing, or holds what its case is said not to have been annotated for."""
    present = {labels.index_of.get(value, -1) for value in counts}
    if present == {labels.ignore_index}:
        return [Problem(case.id, "label", "every voxel is marked to be ignored; nothing can be learned from it.")]
    if present <= {0, labels.ignore_index}:
        _LOG.info("%s: the mask holds background only.", case.id)
    strange = [label.name for label in labels.foreground if label.index in present and not known[label.index]]
    if not strange:
        return []
    rule = f"it holds {', '.join(strange)}, but by data.annotated the case was not annotated for that."
    return [Problem(case.id, "label", rule, hint="Name that in data.annotated too, or correct the mask.")]


def _patterns_of_nobody(cases: Sequence[Case], annotated: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Patterns of `data.annotated` that match no case: most likely a slip of the pen."""
    example = f" The first case is {cases[0].id}." if cases else ""
    return [
        Problem("", f"data.annotated.{pattern}", "it matches no case.", hint=f"Correct the pattern.{example}")
        for pattern in annotated
        if not any(fnmatchcase(case.id, pattern) for case in cases)
    ]


def count_values(mask: NDArray[np.generic]) -> Counter[int]:
    """Number of voxels per value of an integer array, block by block, without a sorted copy of the whole."""
    counts: Counter[int] = Counter()
    flat = mask.ravel(order="K")
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        if block.dtype.kind in "iu" and block.min() >= 0 and block.max() < _MANY_VALUES:
            numbers = np.bincount(block)  # ten times faster than sorting
            values = np.flatnonzero(numbers)
            numbers = numbers[values]
        else:
            values, numbers = np.unique(block, return_counts=True)
        counts.update({int(value): int(number) for value, number in zip(values, numbers, strict=True)})
    return counts


def sampled_percentiles(channel: NDArray[np.generic]) -> tuple[float, ...]:
    """`PERCENTILES` of an array over at most a million evenly spaced voxels."""
    step = -(-channel.size // _SAMPLES) | 1  # odd: never in step with the rows of the image
    samples, before = [], 0
    for part in blocks(channel):
        samples.append(part.ravel(order="K")[-before % step :: step].astype(np.float64))
        before += part.size
    return tuple(float(value) for value in np.percentile(np.concatenate(samples), PERCENTILES))


def _statistics(case: Case, volume: Volume) -> CaseStatistics:
    array = volume.array
    return CaseStatistics(
        id=case.id,
        shape=volume.geometry.shape,
        spacing=volume.geometry.spacing,
        axcodes=volume.geometry.axcodes,
        channels=volume.channels,
        minimum=tuple(float(channel.min()) for channel in array),
        maximum=tuple(float(channel.max()) for channel in array),
        percentiles=tuple(sampled_percentiles(channel) for channel in array),
        voxels={},
        sha256=_hash(case),
        tilt_degrees=volume.geometry.tilt_degrees,
    )


def _hash(case: Case) -> str:
    """Of the files, which were just read; empty where one is missing, which is told elsewhere."""
    try:
        return fingerprint(case)
    except OSError:
        return ""


def _rank_problems(statistics: Sequence[CaseStatistics]) -> list[Problem]:
    """Pictures among volumes, or the other way round."""
    if not statistics:
        return []
    ((rank, _),) = Counter(len(case.shape) for case in statistics).most_common(1)
    rule = f"most cases have {rank} axes, and all must have the same number."
    return [
        Problem(case.id, "image", rule, value=format_shape(case.shape))
        for case in statistics
        if len(case.shape) != rank
    ]


def _absent_labels(statistics: Sequence[CaseStatistics], labels: LabelMap) -> list[Problem]:
    """Labels that no mask holds; nothing to say where there are no masks at all."""
    masks = [case.voxels for case in statistics if case.voxels]
    absent = [label for label in labels.foreground if not any(voxels[label.name] for voxels in masks)]
    if not masks or not absent:
        return []
    if len(absent) == len(labels.foreground):
        rule = f"every mask is empty; none of {labels.describe()} occurs."
        return [Problem("", "labels", rule, hint="Check the values under `labels`.")]
    return [
        Problem(
            "", f"label {label.name}", "it occurs in no mask.", value="/".join(map(str, label.values)),
            hint="Correct its value or leave it out.",
        )
        for label in absent
    ]  # fmt: skip
