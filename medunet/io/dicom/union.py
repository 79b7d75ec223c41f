"""A grid that holds several segmentations and structure sets without an image: `common_grid`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DicomError
from medunet.geometry import RAS_FROM_LPS, Geometry
from medunet.io.dicom.contoured import contour_points
from medunet.io.dicom.objects import LabelObject
from medunet.io.dicom.segments import frames_of

_LARGEST = 2**31


def common_grid(objects: Sequence[LabelObject]) -> Geometry:
    """The grid of the segmentation with the closest slices, as far as all the objects reach.

    Raises:
        DicomError: structure sets only, which have no grid; frames on no regular grid; objects that lie far apart.
        ReadError: a file cannot be read.
    """
    grids = []
    for one in objects:
        if not one.contours:
            with frames_of(one.path) as frames:
                grids.append(frames.grid()[0])
    if not grids:
        raise DicomError(
            f"{' and '.join(one.path.name for one in objects)} are contours, which lie on no grid.",
            "Turn one of them into a mask first: medunet convert CONTOURS -o MASK.nii.gz --reference SERIES.",
        )
    finest = min(grids, key=lambda grid: grid.spacing[2])
    points = [_corners(grid) for grid in grids]
    points += [contour_points(one.path) @ RAS_FROM_LPS[:3, :3] for one in objects if one.contours]
    inverse = np.linalg.inv(finest.affine)
    where = np.rint(np.concatenate(points) @ inverse[:3, :3].T + inverse[:3, 3])
    low, high = where.min(axis=0), where.max(axis=0)
    if np.prod(high - low + 1) > _LARGEST:
        raise DicomError("The objects lie too far apart to belong to one image.", "Compare those of the same scan.")
    return finest.cropped([int(value) for value in low], [int(value) for value in high - low + 1])


def _corners(grid: Geometry) -> NDArray[np.float64]:
    """RAS millimetres of the first and the last voxel of a grid, which span it on any parallel one."""
    ends = np.asarray([[0, 0, 0], np.asarray(grid.shape) - 1])
    corners: NDArray[np.float64] = ends @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return corners
