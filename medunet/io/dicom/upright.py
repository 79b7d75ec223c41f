"""Slices that lie on no regular grid (a tilted gantry, unequal gaps, a missing slice) on an upright one, and back.

The slices have one orientation; each lies at its own height along their normal and may be shifted within its plane.
The grid has their rows, columns and normal as axes, the same pixels, and slices no farther apart than the closest two,
as far as that does not make it many times larger. A value is interpolated linearly between the two slices around it.
Way back, a pixel of a slice gets the label with the largest share of the voxels around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medunet.errors import DicomError
from medunet.geometry import Geometry
from medunet.io.dicom.grouping import positions
from medunet.io.dicom.planes import grid_of
from medunet.io.dicom.slices import Slice
from medunet.io.sampling import labels_on_plane

_WIDEST_GAP = 4.0
_MOST_SLICES = 4
_SNAP = 1e-3


@dataclass(frozen=True)
class Upright:
    """The grid, and where the slices lie on it.

    Attributes:
        geometry: the grid (columns, rows, slices) in RAS.
        heights: position of each slice along the third axis, in voxels, rising.
        shifts: (slices, 2) column and row of each slice's first pixel, in voxels, not negative.
    """

    geometry: Geometry
    heights: tuple[float, ...]
    shifts: tuple[tuple[float, float], ...]

    def values(self, planes: Iterator[NDArray[np.generic]]) -> NDArray[np.float32]:
        """Interpolate slices.

        Args:
            planes: (rows, columns) of values, in the order of `heights`; two are held at a time.

        Returns:
            (slices, rows, columns) of the grid; the smallest value stands where nothing was imaged.
        """
        columns, rows, count = self.geometry.shape
        result = np.empty((count, rows, columns), dtype=np.float32)
        number, upper = 0, self._shifted(next(planes), 0)
        lower = upper
        for k in range(count):
            while self.heights[number] < k - _SNAP and number + 1 < len(self.heights):
                number += 1
                lower, upper = upper, self._shifted(next(planes), number)
            result[k] = _between(lower, upper, self._share(number, k))
        holes = np.isnan(result)
        result[holes] = np.nanmin(result)
        return result

    def labels_of(self, drawn: NDArray[np.generic]) -> NDArray[np.generic]:
        """Labels of the slices on the grid: each label's share is interpolated by itself, and the largest wins.

        Args:
            drawn: labels (columns, rows, slices), in the order of `heights`.

        Returns:
            Labels (columns, rows, slices) of the grid; 0 where nothing was imaged.
        """
        best = np.zeros(self.geometry.shape[::-1], dtype=np.float32)
        result = np.zeros(best.shape, dtype=drawn.dtype)
        for label in np.unique(drawn):
            share = self.values((plane == label).T for plane in np.moveaxis(drawn, 2, 0))
            wins = share > best
            result[wins], best[wins] = label, share[wins]
        labels: NDArray[np.generic] = result.transpose(2, 1, 0)
        return labels

    def _share(self, number: int, k: int) -> float:
        """Weight of slice `number` against the one below at height `k`."""
        if number == 0:
            return 1.0
        low, high = self.heights[number - 1], self.heights[number]
        return _snap(min(1.0, max(0.0, (k - low) / (high - low))))

    def _shifted(self, plane: NDArray[np.generic], number: int) -> NDArray[np.float32]:
        """A slice in its place within the plane of the grid; NaN where it does not reach."""
        columns, rows, _ = self.geometry.shape
        shift = [_snap(self.shifts[number][axis]) for axis in (1, 0)]
        if not any(shift) and plane.shape == (rows, columns):
            return plane.astype(np.float32)
        result: NDArray[np.float32] = ndimage.affine_transform(
            plane.astype(np.float32), [1.0, 1.0], [-step for step in shift], (rows, columns), order=1, cval=np.nan
        )
        return result

    def labels(self, array: NDArray[np.generic], number: int, shape: tuple[int, int]) -> NDArray[np.generic]:
        """Labels of a slice.

        Args:
            array: labels (columns, rows, slices) on the grid.
            number: which slice.
            shape: its rows and columns.

        Returns:
            (rows, columns).
        """
        to_grid = np.eye(4)
        to_grid[:3, 3] = *self.shifts[number], self.heights[number]
        labels: NDArray[np.generic] = labels_on_plane(array, to_grid, shape[::-1]).T
        return labels


def upright(slices: Sequence[Slice]) -> Upright:
    """Find the grid.

    Args:
        slices: of one orientation and size, in the order of their positions along the normal, each at its own.

    Raises:
        DicomError: they are too far apart, or shifted too far, for what lies between them to be guessed.
    """
    plane = slices[0].plane
    if plane is None or len(slices) < 2:
        raise DicomError("where the slices lie is not stated")
    where = positions(slices)
    along = (where - where[0]) @ np.column_stack([plane.row, plane.column, plane.normal])
    gaps, usual = np.diff(along[:, 2]), float(np.median(np.diff(along[:, 2])))
    if gaps.max() > _WIDEST_GAP * usual:
        raise DicomError(
            f"a gap of {gaps.max():.4g} mm is more than {_WIDEST_GAP:g} times the usual {usual:.4g} mm, too wide to "
            "fill by interpolation"
        )
    height = float(along[-1, 2])
    steps = min(max(1, round(height / gaps.min())), _MOST_SLICES * len(slices))
    per_column, per_row = plane.spacing[1], plane.spacing[0]
    low = along[:, :2].min(axis=0)
    shifts = (along[:, :2] - low) / (per_column, per_row)
    extra = np.ceil(shifts.max(axis=0) - _SNAP)
    if extra[0] > slices[0].columns or extra[1] > slices[0].rows:
        raise DicomError(f"the slices are shifted by up to {extra.max():g} pixels against each other")
    origin = where[0] + low @ np.stack([plane.row, plane.column])
    shape = (slices[0].columns + int(extra[0]), slices[0].rows + int(extra[1]), steps + 1)
    return Upright(
        geometry=grid_of(plane, shape, origin, plane.normal * (height / steps)),
        heights=tuple(float(value) for value in along[:, 2] / height * steps),
        shifts=tuple((float(column), float(row)) for column, row in shifts),
    )


def _between(lower: NDArray[np.float32], upper: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """The blend of two slices; where only one reaches, that one."""
    if share in (0.0, 1.0):
        return upper if share else lower
    blend: NDArray[np.float32] = (1 - share) * lower + share * upper
    return np.where(np.isnan(lower), upper, np.where(np.isnan(upper), lower, blend))


def _snap(value: float) -> float:
    """Whole numbers that rounding has moved are whole again."""
    return float(round(value)) if abs(value - round(value)) < _SNAP else value
