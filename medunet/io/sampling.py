"""Labels at points of a grid that are no voxel centres."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from medunet.geometry import Geometry

_SNAP = 1e-3


def labels_at(array: NDArray[np.generic], where: NDArray[np.float64]) -> NDArray[np.generic]:
    """The label with the largest share of the voxels around each point, weighted as for linear interpolation.

    That is what interpolating each label by itself and taking the largest gives, without a volume per label. At a
    voxel's centre it is that voxel's label.

    Args:
        array: labels (i, j, k); outside of it lies 0.
        where: (3, n) voxel coordinates; within a thousandth of a whole number they are taken for it.

    Returns:
        (n,) labels.
    """
    whole = np.rint(where)
    where = np.where(np.abs(where - whole) < _SNAP, whole, where)
    low = np.floor(where)
    part = where - low
    shape = np.asarray(array.shape)[:, None]
    labels = np.zeros((8, where.shape[1]), dtype=array.dtype)
    weights = np.empty((8, where.shape[1]), dtype=np.float32)
    for number, corner in enumerate(product((0, 1), repeat=3)):
        step = np.asarray(corner)[:, None]
        index = low + step
        weights[number] = np.where(step == 1, part, 1 - part).prod(axis=0)
        inside = ((index >= 0) & (index < shape)).all(axis=0) & (weights[number] > 0)
        i, j, k = index[:, inside].astype(np.intp)
        labels[number, inside] = array[i, j, k]
    result: NDArray[np.generic] = labels[weights.argmax(axis=0), np.arange(where.shape[1])]
    torn = np.flatnonzero(((labels != result) & (weights > 0)).any(axis=0))
    if len(torn):
        labels, weights = labels[:, torn], weights[:, torn]
        shares = np.stack([((labels == label) * weights).sum(axis=0) for label in labels])
        result[torn] = labels[shares.argmax(axis=0), np.arange(len(torn))]
    return result


def labels_on_plane(
    array: NDArray[np.generic], to_array: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.generic]:
    """Labels at the points (i, j, 0) of another grid.

    Args:
        array: labels (i, j, k); outside of it lies 0.
        to_array: (4, 4), from the other grid's indices to those of `array`.
        shape: points along i and j.

    Returns:
        Labels of that shape; see `labels_at`.
    """
    i, j = np.indices(shape).reshape(2, -1)
    where = to_array[:3, :1] * i + to_array[:3, 1:2] * j + to_array[:3, 3:]
    return labels_at(array, where).reshape(shape)


def labels_on_grid(array: NDArray[np.generic], geometry: Geometry, wanted: Geometry) -> NDArray[np.generic]:
    """Labels of one volume on the grid of another, plane by plane.

    Args:
        array: labels (i, j, k); outside of it lies 0.
        geometry: its grid.
        wanted: the other.

    Returns:
        Labels of its shape; see `labels_at`.
    """
    to_array = np.linalg.inv(geometry.affine) @ wanted.affine
    to_slice, result = np.eye(4), np.empty(wanted.shape, dtype=array.dtype)
    for k in range(wanted.shape[2]):
        to_slice[2, 3] = k
        result[:, :, k] = labels_on_plane(array, to_array @ to_slice, wanted.shape[:2])
    return result
