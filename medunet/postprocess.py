"""Clean-up of a finished mask: largest component, small components, holes. Steps by name, in config order.

Works on label indices (*spatial); voxels that are removed become background. Components are connected through
faces, edges and corners (26 neighbours in 3D), as in nnU-Net. Each step sees the bounding box of its label only,
which changes no result and keeps time and memory those of the structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.schema import FillHolesConfig, LargestComponentConfig, PostprocessStep, RemoveSmallConfig
from medunet.errors import UsageError
from medunet.geometry import bounding_box
from medunet.labels import LabelMap

Labels = NDArray[np.generic]


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Component numbers (1, 2, ...) and voxels per component, entry 0 for none."""
    numbered, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    return numbered, sizes


def _largest(array: Labels, index: int, step: LargestComponentConfig, voxel_ml: float) -> None:  # noqa: ARG001
    mask = array == index
    numbered, sizes = _components(mask)
    if len(sizes) > 2:
        array[mask & (numbered != int(sizes.argmax()))] = 0


def _small(array: Labels, index: int, step: RemoveSmallConfig, voxel_ml: float) -> None:
    numbered, sizes = _components(array == index)
    small = (sizes > 0) & (sizes * voxel_ml < step.ml)
    array[small[numbered]] = 0


def _holes(array: Labels, index: int, step: FillHolesConfig, voxel_ml: float) -> None:  # noqa: ARG001
    mask = array == index
    filled = ndimage.binary_fill_holes(mask) & (array == 0)
    array[filled] = index


STEPS: dict[str, Callable[[Labels, int, Any, float], None]] = {
    "largest_component": _largest,
    "remove_small": _small,
    "fill_holes": _holes,
}
"""Each changes the array it is given."""


def postprocess(array: Labels, steps: Sequence[PostprocessStep], labels: LabelMap, voxel_ml: float) -> Labels:
    """Apply `steps` to label indices (*spatial); the input is not changed.

    Args:
        array: indices.
        steps: the `postprocess:` section; every label it names is in `labels`.
        labels: names to indices.
        voxel_ml: millilitres per voxel.

    Raises:
        UsageError: a step names a label that is not in `labels`.
    """
    if not steps:
        return array
    result: Labels = array.copy()
    for step in steps:
        if step.label not in labels.names:
            raise UsageError(
                f'The post-processing step {step.name} names "{step.label}", which is no label.',
                f"The labels are {labels.describe()}.",
            )
        index = labels.names.index(step.label)
        box = bounding_box(result == index)
        if box is not None:
            STEPS[step.name](result[box], index, step, voxel_ml)
    return result
