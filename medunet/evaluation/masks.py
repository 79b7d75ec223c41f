"""A prediction and its reference as arrays of one grid, each from a mask file, a DICOM segmentation or a structure set.

Nothing is resampled. Of DICOM, segments whose pixels are voxels of the other's grid are put in their places, however
far they reach, and contours are filled on its slices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medunet.errors import DicomError, GeometryError
from medunet.evaluation.structures import Structures
from medunet.geometry import Geometry
from medunet.io.files import read_mask
from medunet.io.labelled import Remarks, Truth, draw_object
from medunet.io.picture_masks import is_picture, read_picture_mask
from medunet.io.read import reads_as_dicom


def read_pair(prediction: Path, reference: Path, structures: Structures | None) -> tuple[Truth, Truth]:
    """Read both on one grid: that of a mask file if there is one, the reference's if both are.

    Args:
        prediction, reference: files.
        structures: names and values, which DICOM objects need.

    Raises:
        ReadError, DataError: one cannot be read; no structure of a DICOM object has one of the names.
        GeometryError: the voxels of the two are not the same.
    """
    drawn = [reads_as_dicom(path) for path in (prediction, reference)]
    if not any(drawn):
        truth = _reference(reference, structures)
        return Truth(_on_grid(*read_mask(prediction), truth.geometry), truth.geometry), truth
    from medunet.io.dicom.objects import label_object
    from medunet.io.dicom.placing import Target
    from medunet.io.dicom.union import common_grid

    assert structures is not None  # noqa: S101  `evaluate` asks for names where there are DICOM objects
    labels = structures.labels
    if all(drawn):
        ours, theirs = label_object(prediction), label_object(reference)
        if ours.patient != theirs.patient and ours.patient and theirs.patient:
            raise DicomError(f"{prediction.name} and {reference.name} belong to different patients.")
        if ours.frames and theirs.frames and not ours.frames & theirs.frames:
            raise DicomError(f"{prediction.name} and {reference.name} lie in different frames of reference.")
        target = Target(common_grid([ours, theirs]), "the other mask")
        first, second = (draw_object(one, target, labels, exact=True) for one in (ours, theirs))
        return first, second
    file, other = (reference, prediction) if drawn[0] else (prediction, reference)
    values, geometry = read_mask(file)
    if geometry.rank != 3:
        raise DicomError(f"{other.name} belongs to a volume, and {file.name} is a picture.")
    truth = draw_object(label_object(other), Target(geometry, file.name), labels, exact=True)
    mask = Truth(values, geometry)
    return (truth, mask) if drawn[0] else (mask, truth)


def _reference(path: Path, structures: Structures | None) -> Truth:
    """A mask file; a picture is read as the data set of the config is."""
    if structures is None or structures.background is None or not is_picture(path):
        return Truth(*read_mask(path))
    if len(structures.values) > 1 and not structures.reading.colours:  # several values have no edges between two
        return Truth(*read_mask(path))
    values, geometry, smoothed = read_picture_mask(path, structures.reading, structures.labels)
    return Truth(values, geometry, Remarks(smoothed=smoothed))


def _on_grid(array: NDArray[Any], geometry: Geometry, wanted: Geometry) -> NDArray[Any]:
    """`array` with the axes of `wanted`; the same voxels may be stored in another axis order.

    Raises:
        GeometryError: the voxels are not the same.
    """
    difference = wanted.difference(geometry)
    if not difference:
        return array
    if geometry.rank == wanted.rank:
        change = geometry.reorientation(wanted.axcodes)
        if not wanted.difference(geometry.reoriented(change)):
            return change.apply(array)
    raise GeometryError(
        f"The prediction must lie on the grid of its reference, but it has {difference}.",
        "Write it on that grid; it is not resampled here, because that would change the scores.",
    )
