"""Position, orientation, pixel spacing and rescaling out of a data set or of functional groups.

The three come from one data set in classic objects and from three sequences in enhanced ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DicomError, GeometryError
from medunet.geometry import RAS_FROM_LPS, Geometry
from medunet.io.dicom.elements import number, numbers
from medunet.io.dicom.slices import Plane

_UNIT_TOLERANCE = 1e-2
_SPACING_MM = (1e-6, 1e3)
_FARTHEST_MM = 1e6
_LARGEST_FACTOR = 1e30


def plane_of(position: Any, orientation: Any, measures: Any) -> tuple[Plane | None, str]:
    """The plane of an image, or None and why there is none.

    Args:
        position: data set with Image Position (Patient), or None.
        orientation: data set with Image Orientation (Patient), or None.
        measures: data set with Pixel Spacing, or None.

    Raises:
        ValueError: a value is no finite number.
    """
    where = numbers(position, "ImagePositionPatient") if position is not None else ()
    cosines = numbers(orientation, "ImageOrientationPatient") if orientation is not None else ()
    spacing = numbers(measures, "PixelSpacing") if measures is not None else ()
    missing = [
        name
        for name, values, size in (
            ("Image Position (Patient)", where, 3),
            ("Image Orientation (Patient)", cosines, 6),
            ("Pixel Spacing", spacing, 2),
        )
        if len(values) != size
    ]
    if missing:
        return None, f"no {', '.join(missing)} in the header, so where its pixels lie is unknown"
    if min(spacing) < _SPACING_MM[0] or max(spacing) > _SPACING_MM[1]:
        return None, f"a pixel spacing of {spacing[0]:g} x {spacing[1]:g} mm is impossible"
    if max(abs(value) for value in where) > _FARTHEST_MM:
        return None, f"its position is {max(where, key=abs):g} mm away, which is impossible"
    row, column = np.clip(cosines[:3], -2, 2), np.clip(cosines[3:], -2, 2)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(row @ column))) > _UNIT_TOLERANCE:
        shown = ", ".join(f"{value:g}" for value in cosines)
        return None, f"Image Orientation (Patient) [{shown}] is not two perpendicular unit vectors"
    return (
        Plane(
            spacing=(spacing[0], spacing[1]),
            row=_triple(row / lengths[0]),
            column=_triple(column / lengths[1]),
            position=_triple(where),
        ),
        "",
    )


def grid_of(plane: Plane, shape: Sequence[int], origin: NDArray[np.float64], step: NDArray[np.float64]) -> Geometry:
    """The grid of parallel planes: array axis i is the column index, j the row index, k the slice.

    Args:
        plane: one of them.
        shape: columns, rows, slices.
        origin: LPS millimetres of the first pixel of the first slice.
        step: LPS millimetres from one slice to the next.

    Raises:
        DicomError: such axes are no grid.
    """
    flip = RAS_FROM_LPS[:3, :3]
    gap = float(np.linalg.norm(step))
    direction = flip @ np.column_stack([plane.row, plane.column, step / gap])
    try:
        return Geometry(
            shape=tuple(shape),
            spacing=(plane.spacing[1], plane.spacing[0], gap),
            origin=tuple(float(value) for value in flip @ origin),
            direction=tuple(tuple(float(value) for value in row) for row in direction),
        )
    except GeometryError as error:
        raise DicomError(error.message, error.hint) from error


def _triple(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def rescale_of(dataset: Any) -> tuple[float, float]:
    """Rescale Slope and Intercept; 1 and 0 where they are not stated.

    Raises:
        ValueError: they are no numbers, or the slope is 0.
    """
    if dataset is None:
        return 1.0, 0.0
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if slope == 0:
        raise ValueError("its Rescale Slope is 0, which makes all values equal")
    if max(abs(slope or 0), abs(intercept or 0)) > _LARGEST_FACTOR:
        raise ValueError(f"its Rescale Slope {slope} and Intercept {intercept} are beyond all measure")
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def thickness_of(dataset: Any) -> float | None:
    """Slice Thickness, else Spacing Between Slices, in mm; None if neither is a possible one."""
    for keyword in ("SliceThickness", "SpacingBetweenSlices"):
        try:
            value = number(dataset, keyword)
        except ValueError:  # both are remarks, used for single slices and notes only
            value = None
        if value is not None and _SPACING_MM[0] <= value <= _SPACING_MM[1]:
            return value
    return None
