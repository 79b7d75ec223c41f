"""Clean-up of a finished mask: largest component, small components, holes. Steps by name, in config order.

Works on label indices (*spatial). A step sees all voxels that belong to its label, those of labels inside of it
included. What it removes falls back to the label around it, or to the background: a removed spot of the tumour's core
becomes plain tumour, and a removed spot of the whole tumour takes core and all with it. A hole is filled where nothing
but the background or a label around is in it.

Components are connected through faces, edges and corners (26 neighbours in 3D), as in nnU-Net. Each step sees the
bounding box of its label only, which changes no result and keeps time and memory those of the structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Target:
    """The label a step is for.

    Attributes:
        index: its own.
        members: indices of the voxels that belong to it.
        around: index of the label that encloses it, 0 for none.
        fillable: indices that a hole may be made of: background and labels around.
    """

    index: int
    members: tuple[int, ...]
    around: int
    fillable: tuple[int, ...]

    @classmethod
    def of(cls, index: int, labels: LabelMap) -> _Target:
        inside, around = labels.membership[index], labels.membership[:, index]
        fillable = [0, *(int(other) for other in np.flatnonzero(around) if other != index)]
        return cls(index, tuple(np.flatnonzero(inside).tolist()), labels.enclosing[index], tuple(fillable))


def _any_of(array: Labels, indices: Sequence[int]) -> NDArray[np.bool_]:
    """Where one of some indices is; a look-up in a table takes 8 bytes per voxel."""
    mask: NDArray[np.bool_] = array == indices[0]
    for index in indices[1:]:
        mask |= array == index
    return mask


def _largest(array: Labels, target: _Target, step: LargestComponentConfig, voxel_ml: float) -> None:  # noqa: ARG001
    mask = _any_of(array, target.members)
    numbered, sizes = _components(mask)
    if len(sizes) > 2:
        array[mask & (numbered != int(sizes.argmax()))] = target.around


def _small(array: Labels, target: _Target, step: RemoveSmallConfig, voxel_ml: float) -> None:
    numbered, sizes = _components(_any_of(array, target.members))
    small = (sizes > 0) & (sizes * voxel_ml < step.ml)
    array[small[numbered]] = target.around


def _holes(array: Labels, target: _Target, step: FillHolesConfig, voxel_ml: float) -> None:  # noqa: ARG001
    filled = ndimage.binary_fill_holes(_any_of(array, target.members)) & _any_of(array, target.fillable)
    array[filled] = target.index


STEPS: dict[str, Callable[[Labels, _Target, Any, float], None]] = {
    "largest_component": _largest,
    "remove_small": _small,
    "fill_holes": _holes,
}
"""Each changes the array it is given."""


def postprocess(array: Labels, steps: Sequence[PostprocessStep], labels: LabelMap, voxel_ml: float) -> Labels:
    """Apply `steps` to label indices (*spatial) of a prediction; the input is not changed.

    Args:
        array: indices.
        steps: the `postprocess:` section; every label it names is a structure of `labels`.
        labels: names to indices.
        voxel_ml: millilitres per voxel.

    Raises:
        UsageError: a step names no structure of `labels`.
    """
    if not steps:
        return array
    result: Labels = array.copy()
    structures = {label.name: label.index for label in labels.foreground}
    for step in steps:
        if step.label not in structures:
            raise UsageError(
                f'The post-processing step {step.name} names "{step.label}", which is no structure.',
                f"The labels are {labels.describe()}.",
            )
        target = _Target.of(structures[step.label], labels)
        box = bounding_box(_any_of(result, target.members))
        if box is not None:
            STEPS[step.name](result[box], target, step, voxel_ml)
    return result
