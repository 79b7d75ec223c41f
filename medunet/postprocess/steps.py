"""Clean-up of a finished mask: components, holes, surfaces, objects that touch. Steps by name, in config order.

Works on label indices (*spatial). A step sees all voxels that belong to its structure, those of labels inside of it
included; several structures that it names as a group are one to it. What it removes falls back to the label around it,
or to the background: a removed spot of the tumour's core becomes plain tumour, and a removed spot of the whole tumour
takes core and all with it. What it adds takes the place of nothing but the background or a label around.

Components are connected through faces, edges and corners (26 neighbours in 3D), as in nnU-Net. Each step sees the
bounding box of its structure only, and that slab by slab (`components`, `surface`), which changes no result and keeps
time and memory those of the structure and of a slab. A watershed takes a component as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.config.postprocess import (
    FillHolesConfig,
    LargestComponentConfig,
    PostprocessStep,
    RemoveSmallConfig,
    SmoothConfig,
    ThresholdConfig,
    WatershedConfig,
)
from medunet.labels import LabelMap
from medunet.postprocess.components import Components, slab_axis
from medunet.postprocess.surface import blurred, reach
from medunet.postprocess.target import Box, Boxes, Labels, Target, any_of, indices_of
from medunet.postprocess.watershed import HIGHEST, cuts

_SLACK = 1e-6
"""Spacings come from headers in float32: volumes that differ by less than this share are equal."""


@dataclass(frozen=True)
class _Site:
    """What a step works on.

    Attributes:
        array: all label indices (*spatial); changed.
        box: where the structure lies.
        target: which structure.
        spacing: mm per axis.
        heights: by index, how likely a structure is (*spatial), see `postprocess`.
    """

    array: Labels
    box: Box
    target: Target
    spacing: tuple[float, ...]
    heights: Mapping[int, NDArray[np.uint8]]

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel; a picture counts as 1 mm thick."""
        return float(np.prod(self.spacing))

    @property
    def rows(self) -> Labels:
        """The box, with the axis of the slabs in front; a view."""
        part = self.array[self.box]
        return np.moveaxis(part, slab_axis(part.shape), 0)


def _largest(site: _Site, step: LargestComponentConfig) -> None:  # noqa: ARG001
    rows = site.rows
    found = Components(rows, site.target.mask, corners=True)
    if len(found) > 1:
        _remove(site, rows, found, np.arange(len(found)) != found.sizes.argmax())


def _small(site: _Site, step: RemoveSmallConfig) -> None:
    rows = site.rows
    found = Components(rows, site.target.mask, corners=True)
    least_mm3 = step.mm3 if step.mm3 is not None else 1000.0 * (step.ml or 0.0)
    _remove(site, rows, found, found.sizes * site.voxel_mm3 < least_mm3 * (1 - _SLACK))


def _remove(site: _Site, rows: Labels, found: Components, which: NDArray[np.bool_]) -> None:
    for part, numbers in found.parts(which):
        site.target.remove(rows[part], numbers > 0)


def _holes(site: _Site, step: FillHolesConfig) -> None:  # noqa: ARG001
    rows, target = site.rows, site.target
    outside = Components(rows, lambda part: ~target.mask(part), corners=False)
    holes = ~outside.at_edge
    filling = np.concatenate([[-1], _touched_most(rows, outside, holes, target)])
    for part, numbers in outside.parts(holes):
        slab, chosen = rows[part], filling[numbers]
        for place, index in enumerate(target.group):
            slab[(chosen == place) & any_of(slab, target.fillable[place])] = index


def _touched_most(rows: Labels, outside: Components, holes: NDArray[np.bool_], target: Target) -> NDArray[np.intp]:
    """By component, which of the group has most faces in common with it; the first named of several; (N,)."""
    faces: NDArray[np.int64] = np.zeros((len(outside), len(target.group)), np.int64)
    if len(target.group) == 1:
        return np.zeros(len(outside), np.intp)
    for part, numbers in outside.parts(holes):
        low, high = max(0, part.start - 1), part.stop + 1
        owner = target.owner[rows[low:high]]
        hole = np.zeros(owner.shape, np.intp)
        hole[part.start - low : part.stop - low] = numbers
        for axis in range(rows.ndim):
            inner, outer = np.moveaxis(hole, axis, 0), np.moveaxis(owner, axis, 0)
            for one, other in ((inner[:-1], outer[1:]), (inner[1:], outer[:-1])):
                meet = (one > 0) & (other >= 0)
                np.add.at(faces, (one[meet] - 1, other[meet]), 1)
    most: NDArray[np.intp] = faces.argmax(axis=1)
    return most


def _smooth(site: _Site, step: SmoothConfig) -> None:
    """A blurred mask is above 1/2 inside of the bounding box only: there the kernel's heavier half can lie."""
    target, axis = site.target, slab_axis(site.array[site.box].shape)
    sigma = [step.mm / mm for mm in site.spacing]
    region = [
        slice(max(0, side.start - reach(s)), side.stop + reach(s)) for side, s in zip(site.box, sigma, strict=True)
    ]
    region[axis] = slice(None)
    rows = np.moveaxis(site.array[tuple(region)], axis, 0)
    sigma.insert(0, sigma.pop(axis))
    for part, mask, share in blurred(rows, target.mask, sigma, site.box[axis]):
        slab = rows[part]
        gained = ~mask & (share > 0.5) & any_of(slab, target.fillable[0])
        target.remove(slab, mask & (share < 0.5))
        slab[gained] = target.group[0]


def _watershed(site: _Site, step: WatershedConfig) -> None:
    part = site.array[site.box]
    heights = site.heights[site.target.group[0]][site.box]
    for box, line in cuts(site.target.mask(part), heights, max(1, round(step.depth * HIGHEST))):
        site.target.remove(part[box], line)


STEPS: dict[str, Callable[[_Site, Any], None]] = {
    "largest_component": _largest,
    "remove_small": _small,
    "fill_holes": _holes,
    "smooth": _smooth,
    "watershed": _watershed,
}
"""Each changes the array it is given. Thresholds are no clean-up of a mask: see `least_probabilities`."""


def postprocess(
    array: Labels,
    steps: Sequence[PostprocessStep],
    labels: LabelMap,
    spacing: Sequence[float],
    heights: Mapping[int, NDArray[np.uint8]] | None = None,
) -> None:
    """Apply `steps` to label indices (*spatial) of a prediction, which are changed in place.

    Thresholds are left out: they decide as logits become labels (`least_probabilities`).

    Args:
        array: indices.
        steps: the `postprocess:` section; every label it names is a structure of `labels`.
        labels: names to indices.
        spacing: mm between voxels per axis.
        heights: by index of a structure its probability (*spatial), 255 for 1 (`restore.HeightRows`); of all that
            `needed_heights` names.

    Raises:
        UsageError: a step names no structure of `labels`, or its keys do not fit together.
    """
    named = [(step, indices_of(step, labels)) for step in steps]
    changing = [(step, indices) for step, indices in named if not isinstance(step, ThresholdConfig)]
    if not changing:
        return
    boxes = Boxes(array, len(labels))
    for step, indices in changing:
        target = Target.of(indices, labels)
        box = boxes.around(target.members)
        if box is not None:
            STEPS[step.name](_Site(array, box, target, tuple(spacing), heights or {}), step)
            boxes.grow(target.outcomes, box)
