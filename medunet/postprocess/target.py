"""Which voxels a step is for, what they may become, and where they lie. Knows nothing of what the steps do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.postprocess import PostprocessStep, ThresholdConfig, WatershedConfig, misfits, nameable
from medunet.errors import UsageError
from medunet.labels import LabelMap

Labels = NDArray[np.generic]
"""Label indices (*spatial)."""


@dataclass(frozen=True)
class Target:
    """The structures that a step treats as one.

    Attributes:
        group: their indices.
        members: indices of the voxels that belong to one of them.
        around: by index, that of the smallest label around a voxel of this index that is no member; 0 for none.
        owner: by index, which of the group (0, 1, ...) is the innermost that it belongs to; -1 if it is no member.
        fillable: for each of the group, what may become it: the background and labels around it.
    """

    group: tuple[int, ...]
    members: tuple[int, ...]
    around: NDArray[np.intp]
    owner: NDArray[np.intp]
    fillable: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, group: Sequence[int], labels: LabelMap) -> Target:
        """The target of a step for the structures with these indices."""
        inside = labels.membership[list(group)]
        member: NDArray[np.bool_] = np.any(inside, axis=0)
        # Of those of the group that hold an index the innermost is the one that holds the fewest.
        owner = np.where(inside, inside.sum(axis=1, keepdims=True), len(labels) + 1).argmin(axis=0)
        return cls(
            group=tuple(group),
            members=tuple(np.flatnonzero(member).tolist()),
            around=np.asarray([_outside(index, member, labels) for index in range(len(labels))]),
            owner=np.where(member, owner, -1),
            fillable=tuple((0, *_enclosing(index, labels)) for index in group),
        )

    @property
    def outcomes(self) -> frozenset[int]:
        """Indices that a step may write."""
        return frozenset((*self.group, *self.around[list(self.members)].tolist()))

    def mask(self, array: Labels) -> NDArray[np.bool_]:
        """Where the structures are."""
        return any_of(array, self.members)

    def remove(self, array: Labels, where: NDArray[np.bool_]) -> None:
        """Let voxels fall back to what is around them."""
        array[where] = self.around[array[where]]


def _outside(index: int, member: NDArray[np.bool_], labels: LabelMap) -> int:
    while member[index]:
        index = labels.enclosing[index]
    return index


def _enclosing(index: int, labels: LabelMap) -> list[int]:
    return [other for other in np.flatnonzero(labels.membership[:, index]).tolist() if other != index]


def any_of(array: Labels, indices: Sequence[int]) -> NDArray[np.bool_]:
    """Where one of some indices is; a look-up in a table takes 8 bytes per voxel."""
    mask: NDArray[np.bool_] = array == indices[0]
    for index in indices[1:]:
        mask |= array == index
    return mask


def indices_of(step: PostprocessStep, labels: LabelMap) -> tuple[int, ...]:
    """Indices of the structures that a step names.

    Raises:
        UsageError: it names what is no structure, or its keys do not fit together.
    """
    for misfit in misfits(step):
        raise UsageError(f'The post-processing step {step.name}: "{misfit.keys[0]}" {misfit.rule}', misfit.hint)
    known = nameable(step, labels.names[1:], nested=labels.nested)
    for name in step.structures:
        if name not in known:
            raise UsageError(
                f'The post-processing step {step.name} names "{name}", which is no structure.',
                f"The labels are {labels.describe()}.",
            )
    return tuple(labels.names.index(name) for name in step.structures)


def least_probabilities(steps: Sequence[PostprocessStep], labels: LabelMap) -> tuple[float, ...] | None:
    """By output of the network, the probability without which its label is not chosen (see `restore.label_indices`).

    Args:
        steps: the `postprocess:` section.
        labels: names to indices.

    Returns:
        None if no step is a threshold.

    Raises:
        UsageError: a threshold for what is no structure.
    """
    thresholds = [step for step in steps if isinstance(step, ThresholdConfig)]
    if not thresholds:
        return None
    least = [0.5 if labels.nested else 0.0] * labels.outputs
    for step in thresholds:
        (index,) = indices_of(step, labels)
        least[index - labels.nested] = step.probability
    return tuple(least)


def needed_heights(steps: Sequence[PostprocessStep], labels: LabelMap) -> tuple[int, ...]:
    """Indices of the structures whose probability a watershed looks at, each once.

    Raises:
        UsageError: a watershed of what is no structure.
    """
    return tuple(
        dict.fromkeys(
            index for step in steps if isinstance(step, WatershedConfig) for index in indices_of(step, labels)
        )
    )


Box = tuple[slice, ...]
"""One slice per axis, with a start and a stop."""


class Boxes:
    """Where each index lies, found in one pass however many there are.

    They are at least as large as needed: what was removed does not shrink them.

    Args:
        array: indices.
        count: how many indices there are, the background included.
    """

    def __init__(self, array: Labels, count: int) -> None:
        self._found: list[Box | None] = [None, *ndimage.find_objects(array, count - 1)]

    def around(self, indices: Iterable[int]) -> Box | None:
        """A box around all voxels of some indices; None if there is no such voxel."""
        return _joined(box for index in indices if (box := self._found[index]) is not None)

    def grow(self, indices: Iterable[int], box: Box) -> None:
        """Say that voxels in `box` may have become one of some indices."""
        for index in set(indices) - {0}:
            old = self._found[index]
            self._found[index] = box if old is None else _joined((old, box))


def _joined(boxes: Iterable[Box]) -> Box | None:
    """The smallest box around others; None if there is none."""
    axes = list(zip(*boxes, strict=True))
    return tuple(slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in axes) or None
