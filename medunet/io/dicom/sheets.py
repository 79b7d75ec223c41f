"""The slices of an image as sheets that something is drawn on: `Sheets`. Regular or not, of a series or of any grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medunet.geometry import RAS_FROM_LPS, Geometry
from medunet.io.dicom.series import Series
from medunet.io.dicom.slices import Plane

_FLIP = RAS_FROM_LPS[:3, :3]


@dataclass(frozen=True)
class Sheets:
    """Parallel slices of one size.

    Attributes:
        planes: where they lie, in order; each may be shifted within its plane.
        shape: columns, rows.
        gap: usual distance in mm.
        title: what to call the images.
    """

    planes: tuple[Plane, ...]
    shape: tuple[int, int]
    gap: float
    title: str

    @classmethod
    def of_series(cls, series: Series) -> Sheets:
        """The slices of a volume as they came, whether it is resampled or not."""
        first, geometry = series.slices[0], series.geometry
        assert geometry is not None  # noqa: S101  a volume has one
        planes = tuple(item.plane for item in series.slices if item.plane is not None)
        result = cls(planes, (first.columns, first.rows), geometry.spacing[2], f"the series {series.title}")
        return result if not series.resampled else cls(planes, result.shape, result._usual_gap, result.title)

    @classmethod
    def of_grid(cls, geometry: Geometry, title: str) -> Sheets:
        """The planes across the last axis of a grid."""
        lps = _FLIP @ np.asarray(geometry.direction)
        row, column, up = (_triple(lps[:, axis]) for axis in range(3))
        step, start = np.asarray(up) * geometry.spacing[2], _FLIP @ np.asarray(geometry.origin)
        spacing = (geometry.spacing[1], geometry.spacing[0])
        planes = (Plane(spacing, row, column, _triple(start + k * step)) for k in range(geometry.shape[2]))
        return cls(tuple(planes), (geometry.shape[0], geometry.shape[1]), geometry.spacing[2], title)

    def height(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Millimetres of LPS points (n, 3) along the normal of the sheets."""
        heights: NDArray[np.float64] = (points - self.planes[0].position) @ self.planes[0].normal
        return heights

    @cached_property
    def heights(self) -> NDArray[np.float64]:
        """Those of the sheets."""
        return self.height(np.asarray([plane.position for plane in self.planes]))

    @property
    def _usual_gap(self) -> float:
        return float(np.median(np.abs(np.diff(self.heights))))

    def nearest(self, height: float) -> int | None:
        """The sheet at a height; None if it lies more than half a gap beyond the last one."""
        place = int(np.abs(self.heights - height).argmin())
        low, high = float(self.heights.min()), float(self.heights.max())
        return place if low - self.gap / 2 <= height <= high + self.gap / 2 else None


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
