"""Which label a voxel gets from logits that are interpolated first: the largest, or the innermost structure.

Goes box by box, so that no array of all channels on the target grid is ever made. Knows nothing of geometry or files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medunet.transforms.resample import Line, along_lines, keep_largest

Interpolate = Callable[[Tensor], Tensor]
"""From samples (N, *S) to others (N, *T)."""


def resample_argmax(
    logits: Tensor, lines: Sequence[Line], dtype: torch.dtype = torch.uint8, least: Sequence[float] | None = None
) -> Tensor:
    """Interpolate logits (C, *spatial) and take the largest, without the array of all channels.

    Equal to `along_lines(logits, lines).argmax(0)`: a channel whose largest logit in a box is below the smallest of
    another there cannot win in it, and is not interpolated. Where a logit is NaN or infinite, any label may be chosen.

    Args:
        logits: the first channel is the background.
        lines: how, along each axis.
        dtype: of the result.
        least: by channel, 0 to 1: the softmax probability without which it cannot be taken; the largest of the others
            is. The background is taken where nothing else can be.

    Returns:
        Indices (*shape) of `dtype` on the CPU.
    """
    choose = _largest if least is None or not any(least) else partial(_largest_allowed, least=least)
    return _by_boxes(logits, lines, dtype, choose)


def _largest(block: Tensor, interpolate: Interpolate, dtype: torch.dtype) -> Tensor:
    channels = _that_can_win(block)
    if len(channels) == 1:
        return channels.to(dtype)
    _, found = interpolate(block[channels]).max(0)
    return channels.to(dtype)[found]


def _that_can_win(block: Tensor) -> Tensor:
    """Channels of logits (C, *S) that may be the largest somewhere between the samples.

    What is interpolated lies between the smallest and the largest sample, but for rounding.
    """
    low, high = torch.aminmax(block.flatten(1), dim=1)
    slack = 1e-5 * torch.maximum(low.abs().max(), high.abs().max())
    hopeless = high < low.max() - slack  # beside a NaN none is
    return (~hopeless).nonzero().flatten()


def _largest_allowed(block: Tensor, interpolate: Interpolate, dtype: torch.dtype, *, least: Sequence[float]) -> Tensor:
    """As `_largest`; channels that need a probability come last, when the sum of all is known."""
    values = interpolate(block)
    total = values.logsumexp(0)
    best = values[0].clone()
    if least[0]:
        best.masked_fill_(best - total < math.log(least[0]), -math.inf)
    result = torch.zeros(best.shape, dtype=dtype, device=best.device)
    for index in range(1, len(block)):
        if not least[index]:
            keep_largest(values[index], index, best, result)
    for index in (index for index in range(1, len(block)) if least[index]):
        value = values[index]
        wins = (value > best) | ((value == best) & (result > index))  # as if the channels had come in their order
        wins &= value - total >= math.log(least[index])
        result.masked_fill_(wins, index)
        best = torch.where(wins, value, best)
    return result


def resample_nested(
    logits: Tensor,
    lines: Sequence[Line],
    levels: Sequence[Sequence[int]],
    membership: NDArray[np.bool_],
    dtype: torch.dtype = torch.uint8,
    least: Sequence[float] | None = None,
) -> Tensor:
    """Interpolate logits (C, *spatial) of nested structures, and paint outer ones first.

    A structure is where its probability is above 1/2 (its logit above 0), or above what `least` says. It is painted
    over the background and over what lies around it, whatever the logit of that, as nnU-Net's regions are; over
    anything else, which lies beside it, only if its logit is larger. (nnU-Net paints over that too, so that a spleen
    that is sure would lose to a tumour of the liver that is barely there.) Of structures of one level the one with the
    largest logit is painted.

    Args:
        logits: channel c belongs to index c + 1.
        lines: how, along each axis.
        levels: indices by how many others they lie in, outermost first.
        membership: (L, L), entry [i, j] tells whether i is j or lies around it.
        dtype: of the result.
        least: by channel, between 0 and 1: the probability above which the structure is there.

    Returns:
        Indices (*shape) on the CPU, 0 where no structure is.
    """
    floors = [math.log(share / (1 - share)) for share in least or (0.5,) * len(logits)]
    choose = partial(_innermost, levels=levels, membership=membership, floors=floors)
    return _by_boxes(logits, lines, dtype, choose)


def _innermost(
    block: Tensor,
    interpolate: Interpolate,
    dtype: torch.dtype,
    *,
    levels: Sequence[Sequence[int]],
    membership: NDArray[np.bool_],
    floors: Sequence[float],
) -> Tensor:
    logits, ground = interpolate(block), min(floors)
    height = torch.full_like(logits[0], ground)
    result = torch.zeros(height.shape, dtype=dtype, device=height.device)
    for level in levels:
        values = ((index, floors[index - 1], logits[index - 1]) for index in level)
        height = _painted(values, result, height, membership, ground)
    return result


def _painted(
    values: Iterable[tuple[int, float, Tensor]],
    part: Tensor,
    height: Tensor,
    membership: NDArray[np.bool_],
    ground: float,
) -> Tensor:
    """Paint the structures of a level into `part`.

    Args:
        values: indices, the logits above which they are there, and their interpolated logits.
        part: what the levels around have painted; changed.
        height: the logit of what is painted, `ground` for the background.
        membership: see `resample_nested`.
        ground: the least logit above which any structure is there.

    Returns:
        The height afterwards.
    """
    below, best = part.clone(), torch.full_like(height, ground)
    for index, floor, value in values:
        bar = height.clone()
        for outer in np.flatnonzero(membership[:, index]).tolist():
            bar.masked_fill_(below == outer, ground)
        if floor > ground:
            bar.clamp_(min=floor)
        keep_largest(value.masked_fill(value <= bar, ground), index, best, part)
    return torch.where(best > ground, best, height)


_Choice = Callable[[Tensor, Interpolate, torch.dtype], Tensor]
_BOX, _DEVICE_BOX = 1 << 15, 1 << 22  # voxels of a box on a processor, and on a device, where each step costs a launch


def boxes_bytes(channels: int) -> int:
    """Memory that choosing labels from so many channels takes on a processor, beside the logits and the labels."""
    return 3 * 4 * channels * _BOX * torch.get_num_threads()


def _by_boxes(logits: Tensor, lines: Sequence[Line], dtype: torch.dtype, choose: _Choice) -> Tensor:
    """Box by box of the result: all that is computed of a box then stays in the processor's cache."""
    on_processor = logits.device.type == "cpu"
    shape = [line.target(size) for line, size in zip(lines, logits.shape[1:], strict=True)]
    result = torch.empty(shape, dtype=dtype, device=logits.device)
    sizes = _box_of(shape, _BOX if on_processor else _DEVICE_BOX)
    sides = [list(_pieces(*each)) for each in zip(lines, shape, sizes, strict=True)]

    def fill(box: Sequence[_Piece]) -> None:
        where = (slice(None), *(piece.source for piece in box))
        interpolate: Interpolate = partial(along_lines, lines=[piece.line for piece in box])
        if on_processor:
            interpolate = partial(_by_matrices, matrices=[piece.matrix for piece in box])
        result[tuple(piece.target for piece in box)] = choose(logits[where].contiguous(), interpolate, dtype)

    workers = torch.get_num_threads() if on_processor else 1  # one step is too small for two of them
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(fill, itertools.product(*sides)))
    return result.cpu()


def _box_of(shape: Sequence[int], voxels: int) -> list[int]:
    """Sides of a box of about so many voxels, as near to a cube as the shape lets it be."""
    sides, left = list(shape), float(voxels)
    for place, axis in enumerate(sorted(range(len(shape)), key=lambda axis: shape[axis])):
        sides[axis] = min(shape[axis], max(1, round(left ** (1 / (len(shape) - place)))))
        left /= sides[axis]
    return sides


@dataclass(frozen=True)
class _Piece:
    """A box along one axis: samples of the result, those that they depend on, and the line between.

    The line also as a matrix, which all boxes of this piece share; None: the samples stay.
    """

    target: slice
    source: slice
    line: Line
    matrix: Tensor | None


def _pieces(line: Line, size: int, side: int) -> Iterator[_Piece]:
    """`size` samples of a result, `side` at a time."""
    for first in range(0, size, side):
        stop = min(first + side, size)
        low, high, part = line.part(first, stop)
        yield _Piece(slice(first, stop), slice(low, high), part, part.matrix(high - low) if part.pairs else None)


def _by_matrices(array: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """As `along_lines`, for small arrays (N, *S) of finite numbers on a processor, where it is ten times as fast.

    The matrices are nearly all zeros; picking samples one by one takes longer than to multiply by them.
    """
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is None:
            continue
        before, size, after = array.shape[:axis], array.shape[axis], array.shape[axis + 1 :]
        if after:
            array = matrix @ array.reshape(math.prod(before), size, math.prod(after))
        else:
            array = array.reshape(-1, size) @ matrix.T
        array = array.reshape(*before, len(matrix), *after)
    return array
