"""The frames of a segmentation: arrays that highdicom takes, where they lie, which images they are derived from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from medunet.errors import UsageError
from medunet.export.dicom.origin import Origin, image_reference, plane_of
from medunet.geometry import RAS_FROM_LPS, Geometry
from medunet.io.dicom.slices import Slice
from medunet.labels import LabelMap

FULL = 255
"""Stored value of the probability 1."""


def in_frames(origin: Origin) -> bool:
    """Whether the slices are frames of files, of which highdicom takes one only, with all frames that it holds."""
    return origin.series.slices[0].frame is not None


def label_frames(origin: Origin) -> NDArray[Any]:
    """Label indices (slices, rows, columns)."""
    return np.stack([plane.astype(_dtype(origin)) for _, plane in origin.planes()])


def grid_frames(origin: Origin) -> NDArray[Any]:
    """Label indices (slices, rows, columns) on the grid of the series."""
    result: NDArray[Any] = origin.on_grid().transpose(2, 1, 0).astype(_dtype(origin))
    return result


def _dtype(origin: Origin) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if len(origin.segmentation.labels) < 256 else np.uint16


def stacked(pixels: NDArray[Any], labels: LabelMap) -> NDArray[np.uint8]:
    """(slices, rows, columns, labels) of 0 and 1."""
    members = labels.membership
    result = np.empty((*pixels.shape, len(labels) - 1), dtype=np.uint8)
    for label in labels.foreground:
        result[..., label.index - 1] = members[label.index][pixels]
    return result


def fractions(
    origin: Origin, probabilities: NDArray[np.floating[Any]]
) -> dict[tuple[int, str, int | None], NDArray[np.uint8]]:
    """Probabilities as bytes, 255 for 1, of every frame that holds more than nothing.

    Args:
        origin: the segmentation, on the grid of its series.
        probabilities: (C, columns, rows, slices) on the same grid, may lie on the disk; one slice is taken at a time.

    Returns:
        (rows, columns) by label index, SOP Instance UID and frame index of the image.

    Raises:
        UsageError: they are on another grid.
    """
    labels, series = origin.segmentation.labels, origin.series
    grid = series.geometry
    if grid is None or grid.difference(origin.segmentation.geometry) or probabilities.shape[1:] != grid.shape:
        raise UsageError("Probabilities can be written on the grid that they were computed on only.")
    result = {}
    for label in labels.foreground:
        channel = probabilities[label.index - labels.nested]
        for number, item in enumerate(series.slices):
            plane = _on_slice(origin, channel, number, item)
            stored = np.rint(np.clip(plane, 0.0, 1.0) * FULL).astype(np.uint8)
            if stored.any():
                result[label.index, item.sop_uid, item.frame] = stored
    return result


def _on_slice(origin: Origin, channel: NDArray[Any], number: int, item: Slice) -> NDArray[Any]:
    """(rows, columns) of a slice, interpolated where the slices lie on no regular grid."""
    upright = origin.series.upright
    if not origin.series.resampled or upright is None:
        plane: NDArray[Any] = channel[:, :, number].T
        return plane
    height, (right, down) = upright.heights[number], upright.shifts[number]
    low = min(max(int(np.floor(height)), 0), channel.shape[2] - 1)
    slab = np.asarray(channel[:, :, low : low + 2], dtype=np.float32)
    shape = (item.columns, item.rows, 1)
    offset = (right, down, min(height - low, slab.shape[2] - 1))
    moved = ndimage.affine_transform(slab, np.ones(3), offset, shape, order=1, mode="nearest")
    result: NDArray[Any] = moved[:, :, 0].T
    return result


def with_fractions(seg: Any, origin: Origin, found: dict[tuple[int, str, int | None], NDArray[np.uint8]]) -> Any:
    """A segmentation as `one_pixel_frames` describes it, with the values of all pixels."""
    first, pixels = origin.series.slices[0], bytearray()
    seg.Rows, seg.Columns = first.rows, first.columns
    for frame in seg.PerFrameFunctionalGroupsSequence:
        number = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        index = int(source.ReferencedFrameNumber) - 1 if "ReferencedFrameNumber" in source else None
        stored = found.get((number, str(source.ReferencedSOPInstanceUID), index))
        pixels += bytes(seg.Rows * seg.Columns) if stored is None else stored.tobytes()
    seg.PixelData = bytes(pixels) + b"\0" * (len(pixels) % 2)
    seg.SegmentsOverlap = "UNDEFINED"
    return seg


def one_pixel_frames(
    origin: Origin, images: Sequence[Any], found: dict[tuple[int, str, int | None], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """(frames, 1, 1, labels) that are 1 where a frame holds something; the images are made to have one pixel, too.

    highdicom describes the frames from it; probabilities themselves it would copy and sort as floats.
    """
    for image in images:
        image.Rows = image.Columns = 1
    count = len(origin.segmentation.labels) - 1
    places = {(item.sop_uid, item.frame): number for number, item in enumerate(origin.series.slices)}
    holds = np.zeros((len(places), count), dtype=np.uint8)
    for index, uid, frame in found:
        holds[places[uid, frame], index - 1] = 1
    return holds[:, None, None, :]


def grid_places(geometry: Geometry) -> dict[str, Any]:
    """Where the slices of a grid lie, as highdicom takes it."""
    lps = RAS_FROM_LPS @ geometry.affine
    steps = np.asarray(geometry.spacing)
    row, column = lps[:3, 0] / steps[0], lps[:3, 1] / steps[1]
    positions = [lps[:3, 3] + number * lps[:3, 2] for number in range(geometry.shape[2])]
    return _places(positions, (*row, *column), (steps[1], steps[0]), steps[2], steps[2])


def slice_places(origin: Origin) -> dict[str, Any]:
    """Where the slices of a series lie, as highdicom takes it."""
    planes = [plane_of(item) for item in origin.series.slices]
    first = planes[0]
    thickness = origin.series.slices[0].thickness or origin.gap
    orientation = (*first.row, *first.column)
    return _places([plane.position for plane in planes], orientation, first.spacing, thickness, None)


def _places(
    positions: Sequence[Any],
    orientation: Sequence[float],
    spacing: Sequence[float],
    thickness: float,
    step: float | None,
) -> dict[str, Any]:
    import highdicom

    def rounded(values: Sequence[float]) -> list[float]:
        return [round(float(value), 6) for value in values]

    return {
        "plane_positions": [highdicom.PlanePositionSequence("PATIENT", rounded(each)) for each in positions],
        "plane_orientation": highdicom.PlaneOrientationSequence("PATIENT", [float(value) for value in orientation]),
        "pixel_measures": highdicom.PixelMeasuresSequence(
            rounded(spacing), round(thickness, 6), None if step is None else round(step, 6)
        ),
    }


def refer(seg: Any, origin: Origin) -> None:
    """Make each frame refer to the image that it lies on, by its position."""
    where = np.asarray([plane_of(item).position for item in origin.series.slices])
    for frame in seg.PerFrameFunctionalGroupsSequence:
        position = np.asarray(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        nearest = int(np.linalg.norm(where - position, axis=1).argmin())
        frame.DerivationImageSequence = [_derived_from(origin.series.slices[nearest])]


def unrefer(seg: Any) -> None:
    """Let no frame refer to an image: there is none at its place."""
    for frame in seg.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence = []


def _derived_from(item: Slice) -> Dataset:
    result, source = Dataset(), image_reference(item)
    source.PurposeOfReferenceCodeSequence = list(_coded("121322", "Source Image for Image Processing Operation"))
    source.SpatialLocationsPreserved = "YES"
    result.SourceImageSequence = [source]
    result.DerivationCodeSequence = list(_coded("113076", "Segmentation"))
    return result


def _coded(value: str, meaning: str) -> Iterator[Dataset]:
    result = Dataset()
    result.CodeValue, result.CodingSchemeDesignator, result.CodeMeaning = value, "DCM", meaning
    yield result
