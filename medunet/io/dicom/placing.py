"""Segmentations and contours of others, drawn as labels on the grid of an image.

Frames of a segmentation whose pixels are voxels of the grid are put in their places, whatever their order, their extent
and the frames that were left out because they are empty. Others are drawn on their own grid and resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DicomError, GeometryError
from medunet.geometry import RAS_FROM_LPS, Geometry
from medunet.io.dicom.contoured import LEFT_OUT, fill_regions
from medunet.io.dicom.overlaps import Layers
from medunet.io.dicom.planes import grid_of
from medunet.io.dicom.segments import Frames, frames_of
from medunet.io.dicom.series import Series
from medunet.io.dicom.sheets import Sheets
from medunet.io.dicom.slices import Plane
from medunet.io.sampling import labels_on_grid

_OFF_GRID = 0.1
_THICKER = 1.5

RESAMPLED = "The segmentation lies on another grid than its image and was resampled."
CUT_OFF = "Parts of the segmentation lie beyond the image and were left out."


@dataclass(frozen=True)
class Target:
    """Where labels are drawn.

    Attributes:
        geometry: the grid.
        title: what to call the image.
        series: the slices that it is made of, where it is a series.
    """

    geometry: Geometry
    title: str
    series: Series | None = None


def place_segments(
    path: Path, wanted: Mapping[int, int], target: Target, way: Layers, *, referred: bool = False, exact: bool = False
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Draw segments on a grid.

    Args:
        path: a DICOM SEG.
        wanted: what segments are called in the result, by their numbers.
        target: the grid.
        way: how they are drawn over each other.
        referred: the segmentation says that it was made on the slices of `target`.
        exact: refuse to resample.

    Returns:
        (columns, rows, slices) of the values of `wanted`, 0 elsewhere; sentences about what was noticed.

    Raises:
        ReadError: the file cannot be read.
        DicomError: its frames lie beyond the grid, or on no grid at all.
        GeometryError: it would have to be resampled.
    """
    with frames_of(path) as frames:
        series = target.series
        if series is not None and series.upright is not None and series.resampled:
            sheets = Sheets.of_series(series)
            homes = _homes(frames, lambda plane, size: _sheet_home(plane, size, sheets))
            if homes:
                array = np.zeros((*sheets.shape, len(sheets.planes)), np.uint16)
                notes = _draw(frames, wanted, homes, array, way)
                return series.upright.labels_of(array), notes
        homes = _homes(frames, lambda plane, size: _home(plane, size, target.geometry))
        if homes and (referred or not _thicker(frames, target.geometry)):
            array = np.zeros(target.geometry.shape, np.uint16)
            return array, _draw(frames, wanted, homes, array, way)
        if exact:
            raise GeometryError(
                f"The pixels of {path.name} are no voxels of {target.title}.",
                "It is not resampled here, because that would change the scores.",
            )
        return _resampled(frames, wanted, target, way)


def _resampled(
    frames: Frames, wanted: Mapping[int, int], target: Target, way: Layers
) -> tuple[NDArray[Any], tuple[str, ...]]:
    geometry, slices = frames.grid()
    drawn = np.zeros(geometry.shape, np.uint16)
    for frame, segment, where in frames.masks(wanted):
        way.add(drawn[:, :, slices[frame]], where, wanted[segment])
    array = labels_on_grid(drawn, geometry, target.geometry)
    if drawn.any() and not array.any():
        raise _beyond(frames)
    return array, (RESAMPLED,)


def _beyond(frames: Frames) -> DicomError:
    return DicomError(f"No frame of {frames.path.name} lies within the image.", "Give the image that it was made on.")


def _thicker(frames: Frames, geometry: Geometry) -> bool:
    """Whether the segmentation was made on slices farther apart than those of the grid: it would be left with gaps."""
    normal = RAS_FROM_LPS[:3, :3] @ frames.planes[0].normal
    axis = int(np.abs(np.asarray(geometry.direction).T @ normal).argmax())
    return (frames.spacing or 0.0) > _THICKER * geometry.spacing[axis]


@dataclass(frozen=True)
class _Home:
    """Where the pixels (columns, rows) of a frame lie in an array.

    Attributes:
        axes: of the array: along columns, along rows, across.
        signs: whether the first two run with (1) or against (-1) them.
        first: index of the first pixel on these axes.
    """

    axes: tuple[int, int, int]
    signs: tuple[int, int]
    first: tuple[int, int, int]

    def draw(self, array: NDArray[Any], where: NDArray[np.bool_], value: int, way: Layers) -> bool:
        """Draw pixels; whether all of them lie in the array."""
        turned = array.transpose(self.axes)
        if not 0 <= self.first[2] < turned.shape[2]:
            return not where.any()
        where = where[:: self.signs[0], :: self.signs[1]]
        lows = [
            first if sign > 0 else first - size + 1
            for first, sign, size in zip(self.first[:2], self.signs, where.shape, strict=True)
        ]
        ends = [low + size for low, size in zip(lows, where.shape, strict=True)]
        along, down = (slice(max(low, 0), max(end, 0)) for low, end in zip(lows, ends, strict=True))
        plane = turned[along, down, self.first[2]]
        there = [side.start - low for side, low in zip((along, down), lows, strict=True)]
        inside = where[there[0] : there[0] + plane.shape[0], there[1] : there[1] + plane.shape[1]]
        way.add(plane, inside, value)
        return bool(np.count_nonzero(inside) == np.count_nonzero(where))


def _draw(
    frames: Frames, wanted: Mapping[int, int], homes: Sequence[_Home], array: NDArray[Any], way: Layers
) -> tuple[str, ...]:
    """Draw all frames in their places."""
    if not any(0 <= home.first[2] < array.shape[home.axes[2]] for home in homes):
        raise _beyond(frames)
    whole = True
    for frame, segment, where in frames.masks(wanted):
        whole = homes[frame].draw(array, where, wanted[segment], way) and whole
    return () if whole else (CUT_OFF,)


def _homes(frames: Frames, find: Callable[[Plane, tuple[int, int]], _Home | None]) -> list[_Home]:
    """Where every frame lies; [] if one of them has no place."""
    homes = [home for plane in frames.planes if (home := find(plane, frames.size)) is not None]
    return homes if len(homes) == len(frames.planes) else []


def _home(plane: Plane, size: tuple[int, int], geometry: Geometry) -> _Home | None:
    """Where the pixels of a frame lie among the voxels of a grid; None if they are none of them, within or beyond it.

    Args:
        plane: of the frame.
        size: its columns and rows.
        geometry: the grid.
    """
    frame = grid_of(plane, (*size, 1), np.asarray(plane.position), plane.normal)
    change = np.linalg.inv(geometry.affine) @ frame.affine
    steps, first = np.rint(change[:3, :2]), np.rint(change[:3, 3])
    if (np.abs(steps).sum(axis=0) != 1).any() or (np.abs(steps).sum(axis=1) > 1).any():
        return None
    corners = np.asarray([(i, j) for i in (0, size[0] - 1) for j in (0, size[1] - 1)])
    off = (change[:3, :2] - steps) @ corners.T + (change[:3, 3] - first)[:, None]
    if np.abs(off).max() > _OFF_GRID:
        return None
    along, down = (int(axis) for axis in np.abs(steps).argmax(axis=0))
    axes = (along, down, 3 - along - down)
    signs = (int(steps[along, 0]), int(steps[down, 1]))
    return _Home(axes, signs, (int(first[axes[0]]), int(first[axes[1]]), int(first[axes[2]])))


def _sheet_home(plane: Plane, size: tuple[int, int], sheets: Sheets) -> _Home | None:
    """Where the pixels of a frame lie on the sheets of an irregular series."""
    number = sheets.nearest(float(sheets.height(np.asarray([plane.position]))[0]))
    if number is None:
        return None
    sheet = sheets.planes[number]
    alone = grid_of(sheet, (*sheets.shape, 1), np.asarray(sheet.position), sheet.normal * sheets.gap)
    home = _home(plane, size, alone)
    if home is None or (home.axes[2], home.first[2]) != (2, 0):
        return None
    return _Home(home.axes, home.signs, (home.first[0], home.first[1], number))


def place_contours(
    path: Path, wanted: Mapping[int, int], target: Target, way: Layers
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Fill contours on the slices of an image; arguments and result are those of `place_segments`.

    Raises:
        ReadError: the file cannot be read.
        DicomError: contours that are not parallel to the slices, or none.
    """
    series = target.series
    sheets = Sheets.of_series(series) if series is not None else Sheets.of_grid(target.geometry, target.title)
    array = np.zeros((*sheets.shape, len(sheets.planes)), np.uint16)
    left_out = fill_regions(path, wanted, sheets, array, way)
    notes = (LEFT_OUT,) if left_out else ()
    if series is not None and series.upright is not None and series.resampled:
        return series.upright.labels_of(array), notes
    return array, notes
