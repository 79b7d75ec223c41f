"""From logits on the network's grid to labels or probabilities on the original grid, a few rows at a time.

Logits are interpolated linearly before a label is chosen, as nnU-Net does, which holds all of them on the original grid
in float64; here no more than a few rows are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medunet.labels import LabelMap
from medunet.transforms.choose import resample_argmax, resample_nested
from medunet.transforms.preprocess import Record, box_of
from medunet.transforms.resample import (
    Line,
    LinearRows,
    along_lines,
    lines_over,
)

AT_ONCE = 1 << 22
"""Numbers that are interpolated at a time: 16 MB."""

Box = tuple[tuple[int, int], ...]
"""First voxel and last but one along each axis."""


@dataclass(frozen=True)
class Tile:
    """A part of the image that is segmented by itself, to hold fewer logits at a time.

    Attributes:
        native: what it covers of the box of the original grid that was kept (`Record.crop_shape`), reoriented.
        network: what that needs of the network's grid.
        lines: from the latter to the former, along each axis.
    """

    native: Box
    network: Box
    lines: tuple[Line, ...]

    @classmethod
    def of(cls, record: Record, native: Box, axis: int) -> Tile:
        """A part of the plane across `axis`, of which all is taken.

        Args:
            record: of the image.
            native: what to cover; along `axis` everything.
            axis: along which the logits will come.
        """
        lines = lines_over(record.network.shape, record.crop_shape, "linear")
        parts = [line.part(*side) for line, side in zip(lines, native, strict=True)]
        parts[axis] = (0, record.network.shape[axis], lines[axis])
        return cls(native, tuple((low, high) for low, high, _ in parts), tuple(line for *_, line in parts))

    @classmethod
    def whole(cls, record: Record, axis: int) -> Tile:
        """All of the image."""
        return cls.of(record, tuple((0, size) for size in record.crop_shape), axis)


def label_indices(
    logits: Tensor, lines: Sequence[Line], labels: LabelMap, least: Sequence[float] | None = None
) -> NDArray[np.generic]:
    """Indices from logits (C, *S) that are interpolated along `lines` first.

    The label with the largest logit, or, of nested structures, the innermost one whose logit is above 0 (see
    `resample_nested`).

    Args:
        logits: of the network.
        lines: how they are interpolated, along each axis.
        labels: what the channels mean.
        least: by channel, the probability without which a label is not chosen; None asks for none.
    """
    dtype = torch.int32 if labels.index_dtype.itemsize > 1 else torch.uint8
    if labels.nested:
        found = resample_nested(logits, lines, labels.levels, labels.membership, dtype, least)
    else:
        found = resample_argmax(logits, lines, dtype, least)
    return found.numpy().astype(labels.index_dtype, copy=False)


def same_labels(labels: LabelMap, one: Tensor, other: Tensor) -> bool:
    """Whether two arrays of logits (C, *S) mean the same labels."""
    lines = [Line(())] * (one.ndim - 1)
    first, second = (label_indices(logits.float().cpu(), lines, labels) for logits in (one, other))
    return np.array_equal(first, second)


class RestoredRows:
    """An array on the original grid that is filled from rows of logits, as the sliding window leaves them.

    Args:
        record: of the image.
        labels: what the channels mean.
        axis: spatial axis of the network's grid along which the rows come.
        tile: the part that they are of; None: all.
    """

    def __init__(
        self, result: NDArray[np.generic], record: Record, labels: LabelMap, axis: int, tile: Tile | None = None
    ) -> None:
        self.labels = labels
        self._axis = axis
        tile = Tile.whole(record, axis) if tile is None else tile
        lead = (slice(None),) * (result.ndim - len(record.crop_shape))
        crop = record.change.view(result)[lead + box_of(record.crop_start, record.crop_shape)]
        part = crop[lead + tuple(slice(*side) for side in tile.native)]
        self._target = np.moveaxis(part, len(lead) + axis, 0)
        self._rows = LinearRows(record.network.shape[axis], record.crop_shape[axis])
        self._lines = (*tile.lines[:axis], *tile.lines[axis + 1 :])

    def add(self, logits: Tensor) -> None:
        """The next rows (C, *S), of which a part along the axis."""
        rows = logits.movedim(self._axis + 1, 1)
        most = max(1, AT_ONCE // math.prod(self._target.shape[1:]))
        for first, stop, part, line in self._rows(rows, most):
            self.fill(self._target[first:stop], part, (line, *self._lines))

    def fill(self, target: NDArray[np.generic], logits: Tensor, lines: Sequence[Line]) -> None:
        """Put what follows from logits (C, rows, *plane), interpolated along `lines`, to (rows, ..., *plane)."""
        raise NotImplementedError


class LabelRows(RestoredRows):
    """Label indices (*spatial) of `labels.index_dtype`; what lies outside of the crop is left as it is.

    Args:
        least: see `label_indices`; the others as of the base.
    """

    def __init__(
        self,
        result: NDArray[np.generic],
        record: Record,
        labels: LabelMap,
        axis: int,
        tile: Tile | None = None,
        least: Sequence[float] | None = None,
    ) -> None:
        super().__init__(result, record, labels, axis, tile)
        self._least = least

    def fill(self, target: NDArray[np.generic], logits: Tensor, lines: Sequence[Line]) -> None:
        """See the base."""
        target[...] = label_indices(logits, lines, self.labels, self._least)


class MapRows(RestoredRows):
    """Maps (M, *spatial) float32 as they are, interpolated."""

    def fill(self, target: NDArray[np.generic], logits: Tensor, lines: Sequence[Line]) -> None:
        """See the base."""
        for number, row in enumerate(target):
            low, high, line = lines[0].part(number, number + 1)
            native = [along_lines(channel[low:high].contiguous(), (line, *lines[1:]))[0] for channel in logits]
            row[...] = self.changed(torch.stack(native)).cpu().numpy()

    def changed(self, native: Tensor) -> Tensor:
        """What is kept of a row (M, *plane) on the original grid."""
        return native


def probabilities(logits: Tensor, labels: LabelMap) -> Tensor:
    """By output of the network (C, *S): by softmax, background first; of nested structures by sigmoid."""
    return logits.sigmoid() if labels.nested else logits.softmax(0)


class ProbabilityRows(MapRows):
    """Probabilities (C, *spatial) float32, see `probabilities`.

    They are those of the interpolated logits, so that the largest is that of the label that was chosen,
    unless it was less than a threshold.
    """

    def changed(self, native: Tensor) -> Tensor:
        """See the base."""
        return probabilities(native, self.labels)


class HeightRows(MapRows):
    """Probabilities of some structures (M, *spatial) uint8, 255 for 1.

    Args:
        indices: of the structures; the others as of the base.
    """

    def __init__(
        self,
        result: NDArray[np.uint8],
        record: Record,
        labels: LabelMap,
        axis: int,
        tile: Tile | None = None,
        indices: Sequence[int] = (),
    ) -> None:
        super().__init__(result, record, labels, axis, tile)
        self._outputs = [index - labels.nested for index in indices]

    def changed(self, native: Tensor) -> Tensor:
        """See the base."""
        return (probabilities(native, self.labels)[self._outputs] * 255).round()


Zeros = Callable[[tuple[int, ...], Any], NDArray[Any]]
"""From shape and type to an array of zeros."""


def empty_labels(record: Record, labels: LabelMap, zeros: Zeros = np.zeros) -> NDArray[np.generic]:
    """Background (*spatial) on the original grid; of a picture its rows lie in memory one after the other."""
    shape = record.original.shape
    return zeros(shape, labels.index_dtype) if len(shape) > 2 else zeros(shape[::-1], labels.index_dtype).T


def empty_probabilities(record: Record, labels: LabelMap, zeros: Zeros = np.zeros) -> NDArray[np.float32]:
    """Probabilities (C, *spatial) of what lies outside of the crop: 1 for the background, 0 for all else."""
    result = zeros((labels.outputs, *record.original.shape), np.float32)
    if not labels.nested:
        result[0] = 1
    return result


def restore(
    logits: Tensor, record: Record, labels: LabelMap, least: Sequence[float] | None = None
) -> NDArray[np.generic]:
    """Label indices (*spatial) on the original grid from all logits (C, *S) on the network's grid.

    `least`: see `label_indices`.
    """
    result = empty_labels(record, labels)
    LabelRows(result, record, labels, 0, least=least).add(logits)
    return result


def restore_heights(
    logits: Tensor, record: Record, labels: LabelMap, indices: Sequence[int]
) -> dict[int, NDArray[np.uint8]]:
    """By index of a structure its probability (*spatial) on the original grid, 255 for 1, from logits (C, *S)."""
    if not indices:
        return {}
    result = np.zeros((len(indices), *record.original.shape), np.uint8)
    HeightRows(result, record, labels, 0, indices=indices).add(logits)
    return dict(zip(indices, result, strict=True))


def restore_probabilities(logits: Tensor, record: Record, labels: LabelMap) -> NDArray[np.float32]:
    """Probabilities (C, *spatial) on the original grid from all logits (C, *S) on the network's grid."""
    result = empty_probabilities(record, labels)
    ProbabilityRows(result, record, labels, 0).add(logits)
    return result
