"""Clean-up of a finished mask: largest component, small components, holes. Steps by name, in config order.

Works on label indices (*spatial); voxels that are removed become background. Components are connected through
faces, edges and corners (26 neighbours in 3D), as in nnU-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.schema import FillHolesConfig, LargestComponentConfig, PostprocessStep, RemoveSmallConfig
from medunet.labels import LabelMap

Labels = NDArray[np.generic]


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Component numbers (1, 2, ...) and voxels per component, entry 0 for none."""
    numbered, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    return numbered, sizes


def _largest(array: Labels, index: int, step: LargestComponentConfig, voxel_ml: float) -> Labels:  # noqa: ARG001
    mask = array == index
    numbered, sizes = _components(mask)
    if len(sizes) > 2:
        array[mask & (numbered != int(sizes.argmax()))] = 0
    return array


def _small(array: Labels, index: int, step: RemoveSmallConfig, voxel_ml: float) -> Labels:
    numbered, sizes = _components(array == index)
    small = (sizes > 0) & (sizes * voxel_ml < step.ml)
    array[small[numbered]] = 0
    return array


def _holes(array: Labels, index: int, step: FillHolesConfig, voxel_ml: float) -> Labels:  # noqa: ARG001
    mask = array == index
    filled = ndimage.binary_fill_holes(mask) & (array == 0)
    array[filled] = index
    return array


STEPS: dict[str, Callable[[Labels, int, Any, float], Labels]] = {
    "largest_component": _largest,
    "remove_small": _small,
    "fill_holes": _holes,
}


def postprocess(array: Labels, steps: Sequence[PostprocessStep], labels: LabelMap, voxel_ml: float) -> Labels:
    """Apply `steps` to label indices (*spatial); the input is not changed.

    Args:
        array: indices.
        steps: the `postprocess:` section; every label it names is in `labels`.
        labels: names to indices.
        voxel_ml: millilitres per voxel.
    """
    if not steps:
        return array
    result: Labels = array.copy()
    for step in steps:
        result = STEPS[step.name](result, labels.names.index(step.label), step, voxel_ml)
    return result
