"""One door to labelled cases: the image of a case, and its mask in the values of the config, whatever it was drawn in.

A mask file is read as it is written. The structures of a DICOM segmentation or structure set are matched to the labels
by their names and drawn on the grid of the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError, DicomError, GeometryError
from medunet.geometry import Geometry, format_shape
from medunet.io.case import Case, Drawn
from medunet.io.files import read_mask
from medunet.io.naming import match
from medunet.io.picture_masks import RESIZE, SAME_PROPORTIONS, is_picture, read_binary, read_picture_mask, resized
from medunet.io.read import read_volume, reads_as_dicom
from medunet.io.volume import Volume
from medunet.labels import IGNORE, LabelMap

if TYPE_CHECKING:
    from medunet.io.dicom.objects import LabelObject
    from medunet.io.dicom.placing import Target


_SHOWN = 20


@dataclass(frozen=True)
class Remarks:
    """What was noticed while structures became labels.

    Attributes:
        unnamed: structures that no label has the name of; they count as background.
        contested: voxels that two labels claimed, by their names; the second got them.
        notes: sentences.
        smoothed: share of pixels on smoothed edges that went to the nearer of two values.
        resized: of each mask and region that was brought to the size of its picture, its path and the sizes where
            the proportions differ, else "".
    """

    unnamed: tuple[str, ...] = ()
    contested: Mapping[tuple[str, str], int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    smoothed: float = 0.0
    resized: tuple[str, ...] = ()


@dataclass(frozen=True)
class Truth:
    """A mask as the labels of a config mean it.

    Attributes:
        values: (*spatial) integers as in mask files.
        geometry: their grid.
        remarks: what was noticed.
    """

    values: NDArray[np.generic]
    geometry: Geometry
    remarks: Remarks = field(default_factory=Remarks)


def read_case_image(case: Case, *, channels: int | None = None) -> Volume:
    """The image of a case; where its folder holds several series, the one that the label refers to.

    Raises:
        DataError: as `read_volume`.
    """
    return read_volume(case.images, selection=case.selection, channels=channels, referred=_referred(case.label))


def _referred(label: Path | Drawn | None) -> tuple[str, ...]:
    if not isinstance(label, Path) or not reads_as_dicom(label):
        return ()
    from medunet.io.dicom.objects import label_object

    try:
        return label_object(label).series
    except DataError:
        return ()  # told when the label is read


def read_case_label(case: Case, volume: Volume, labels: LabelMap) -> Truth:
    """The mask of a case.

    Args:
        case: with a label: a mask file, a DICOM segmentation or structure set of any name, a folder that holds one, or
            what stands in a table or JSON file.
        volume: its image.
        labels: names and values of the config.

    Returns:
        Of a mask file, the values and the grid as written, but for what `case.reading` says of pictures; of others,
        those of the labels on the grid of the image. A label that no structure has the name of is absent. Outside of
        the region of the case all is `ignore`.

    Raises:
        ReadError: the label or the region cannot be read.
        DataError: no structure of a DICOM object has the name of a label; pictures that cannot be understood; a region
            without a label `ignore`. Values that are no labels' are not looked at.
        DicomError: it belongs to other images, or lies on no grid.
    """
    truth = _whole_label(case, volume, labels)
    if case.region is None:
        return truth
    return _within(truth, case.region, labels, resize=case.reading.resize_label)


def _whole_label(case: Case, volume: Volume, labels: LabelMap) -> Truth:
    label = case.label
    if isinstance(label, Drawn):
        from medunet.io.drawn import draw

        drawing = draw(label, volume.geometry.shape, labels, resize=case.reading.resize_label)
        remarks = Remarks(drawing.unnamed, drawing.contested, smoothed=drawing.smoothed, resized=drawing.resized)
        return Truth(drawing.values, volume.geometry, remarks)
    if label is None:
        raise DataError(f"Case {case.id} has no label.")
    if reads_as_dicom(label):
        return _dicom_label(label, volume, labels)
    if not is_picture(label):
        return Truth(*read_mask(label))
    values, geometry, smoothed = read_picture_mask(label, case.reading, labels)
    remarks = Remarks(smoothed=smoothed)
    if case.reading.resize_label and geometry.shape != volume.geometry.shape:
        values, words = resized(values, volume.geometry.shape, label)
        geometry, remarks = volume.geometry, replace(remarks, resized=(words,))
    return Truth(values, geometry, remarks)


def _within(truth: Truth, region: Path, labels: LabelMap, *, resize: bool) -> Truth:
    """Everything outside of a region becomes `ignore`."""
    if not labels.ignore:
        raise DataError(
            f"{region} says where nothing is learned, and no label stands for that.",
            "Add `ignore` to the labels, with a value that the masks do not use.",
        )
    inside, _ = read_binary(region)
    shape, remarks = truth.values.shape, truth.remarks
    if inside.shape != shape:
        if not resize:
            raise GeometryError(
                f"{region} has {format_shape(inside.shape)} pixels, and the mask has {format_shape(shape)}.",
                RESIZE if len(shape) == 2 else "",
            )
        inside, words = resized(inside, shape, region)
        remarks = replace(remarks, resized=(*remarks.resized, words))
    unknown = labels.ignore[0]
    wide = np.result_type(truth.values.dtype, np.min_scalar_type(unknown))
    values = np.where(inside, truth.values.astype(wide), np.asarray(unknown, wide))
    return replace(truth, values=values, remarks=remarks)


def _dicom_label(label: Path, volume: Volume, labels: LabelMap) -> Truth:
    from medunet.io.dicom.objects import label_object
    from medunet.io.dicom.placing import Target

    found, series = label_object(label), volume.source.series
    if volume.geometry.rank != 3:
        raise DicomError(f"{found.path.name} belongs to a volume, and the image is a picture.")
    target = Target(volume.geometry, "the image" if series is None else f"the series {series.title}", series)
    return draw_object(found, target, labels)


def draw_object(found: LabelObject, target: Target, labels: LabelMap, *, exact: bool = False) -> Truth:
    """Draw the structures of a DICOM object as labels.

    Args:
        found: the object.
        target: the grid that they are drawn on.
        labels: names and values.
        exact: refuse to resample.

    Raises:
        DataError: as `read_case_label`.
        GeometryError: it would have to be resampled.
    """
    from medunet.io.dicom.overlaps import Ranked
    from medunet.io.dicom.placing import place_contours, place_segments

    referred = False
    if target.series is not None:
        images = target.series.slices[0].identity
        found.check(images, target.title)
        referred = images.series_uid in found.series
    matched = match([*labels.names, *([IGNORE] if labels.ignore else [])], found.names, found.path.name)
    way = Ranked(labels)
    wanted = {number: way.rank(name) for number, name in matched.label.items()}
    if found.contours:
        ranks, notes = place_contours(found.path, wanted, target, way)
    else:
        ranks, notes = place_segments(found.path, wanted, target, way, referred=referred, exact=exact)
    contested = {(way.name(low), way.name(high)): voxels for (low, high), voxels in way.contested.items()}
    values = labels.to_values(way.to_indices(ranks))
    return Truth(values, target.geometry, Remarks(matched.unnamed, contested, notes))


def sum_up(remarks: Iterable[Remarks]) -> list[str]:
    """What was noticed in all cases, as sentences: one of each kind, not one per case."""
    several = list(remarks)
    unnamed = Counter(name for one in several for name in one.unnamed)
    sentences = []
    if unnamed:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(unnamed.items())[:_SHOWN])
        names += f", ... ({len(unnamed)} in all)" if len(unnamed) > _SHOWN else ""
        sentences.append(f"Structures that no label has the name of count as background (number of cases): {names}.")
    for pair in dict.fromkeys(pair for one in several for pair in one.contested):
        voxels = [one.contested[pair] for one in several if pair in one.contested]
        sentences.append(
            f"{pair[0]} and {pair[1]} overlap in {sum(voxels)} voxels of {_cases(len(voxels))}; "
            f"{pair[1]}, the later label, got them."
        )
    smoothed = [one.smoothed for one in several if one.smoothed]
    if smoothed:
        sentences.append(
            f"Smoothed edges of masks, up to {max(smoothed):.2%} of their pixels, went to the nearer of the two values "
            f"({_cases(len(smoothed))})."
        )
    sentences += _about_sizes([one.resized for one in several if one.resized])
    for note, count in Counter(note for one in several for note in one.notes).items():
        sentences.append(f"{note[:-1]} ({_cases(count)}).")
    return sentences


def _about_sizes(resized: Sequence[tuple[str, ...]]) -> list[str]:
    """Of the cases whose masks were resized."""
    if not resized:
        return []
    sentences = [f"Masks of another size than their picture were resized ({_cases(len(resized))})."]
    odd = [words for one in resized if (words := next(filter(None, one), ""))]
    if odd:
        sentences.append(
            f"Of these, masks whose proportions differ by more than {SAME_PROPORTIONS:.0%} were stretched "
            f"({_cases(len(odd))}); the first is {odd[0]}."
        )
    return sentences


def _cases(count: int) -> str:
    return f"{count} case{'s' if count != 1 else ''}"
