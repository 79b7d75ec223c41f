"""Separable interpolation on a regular grid: nearest, linear and cubic, float32, one axis after the other.

Both grids cover the same field of view: outer voxel faces coincide, as in `Geometry.resampled`, in
`torch.nn.functional.interpolate(align_corners=False)` and in nnU-Net. torch has no cubic interpolation of
volumes, SciPy's needs a float64 copy of the whole volume, and MONAI's Spacing goes through one of the two.
The cubic kernel is Keys' (1981, a = -1/2, Catmull-Rom). Knows nothing of geometry or labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Kind = Literal["nearest", "linear", "cubic"]


def taps(size: int, target: int, kind: Kind) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of (source index, weight), each of shape (target,), that interpolate `size` to `target` samples.

    Samples beyond the edge repeat the edge voxel. Weights sum to 1.
    """
    position = (torch.arange(target, dtype=torch.float64) + 0.5) * (size / target) - 0.5
    if kind == "nearest":
        # Half up with a little slack, so that float noise in the position cannot decide a tie.
        yield (position + 0.5 + 1e-6).floor().long().clamp(0, size - 1), torch.ones(target)
        return
    base = (position + 1e-9).floor()
    t = (position - base).clamp(0, 1)
    if kind == "linear":
        weights = {0: 1 - t, 1: t}
    else:
        weights = {
            -1: ((-0.5 * t + 1.0) * t - 0.5) * t,
            0: (1.5 * t - 2.5) * t * t + 1.0,
            1: ((-1.5 * t + 2.0) * t + 0.5) * t,
            2: (0.5 * t - 0.5) * t * t,
        }
    for offset, weight in weights.items():
        yield (base.long() + offset).clamp(0, size - 1), weight.float()


def resample(array: Tensor, shape: Sequence[int], kind: Kind) -> Tensor:
    """Interpolate the last `len(shape)` axes of a float array (..., *spatial) to `shape`.

    Axes that shrink go first, so that later ones have less to do. An axis that keeps its size is untouched.
    """
    rank = len(shape)
    lead = array.ndim - rank
    order = sorted(range(rank), key=lambda axis: shape[axis] / array.shape[lead + axis])
    for axis in order:
        size, target = array.shape[lead + axis], int(shape[axis])
        if size == target:
            continue
        view = [1] * array.ndim
        view[lead + axis] = target
        result: Tensor | None = None
        for index, weight in taps(size, target, kind):
            part = array.index_select(lead + axis, index.to(array.device))
            if kind == "nearest":
                result = part
                break
            factor = weight.to(array.device, array.dtype).view(view)
            result = part.mul_(factor) if result is None else result.addcmul_(part, factor)
        array = array if result is None else result
    return array


def resample_labels(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate indices (*spatial) to `shape`: each index linearly, then the largest share wins.

    Unlike nearest neighbour this keeps boundaries where they are to a fraction of a voxel. Indices are taken
    one at a time, so memory does not grow with their number; that of ignored voxels is one more.
    """
    if tuple(labels.shape) == tuple(shape):
        return labels
    best = torch.zeros(tuple(shape))
    result = torch.zeros(tuple(shape), dtype=labels.dtype)
    for index in torch.unique(labels).tolist():
        _keep_largest(resample((labels == index).float(), shape, "linear"), index, best, result)
    return result


def _keep_largest(value: Tensor, index: int, best: Tensor, result: Tensor) -> None:
    """Put `index` where `value` exceeds `best`, and raise `best` to it; a tie stays with what was there."""
    result.masked_fill_(value > best, index)
    torch.maximum(best, value, out=best)


def resample_argmax(logits: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> Tensor:
    """Interpolate logits (C, *spatial) linearly to `shape` and take the largest, one channel at a time.

    Equal to `resample(logits, shape, "linear").argmax(0)`, without the (C, *shape) array.

    Returns:
        Indices (*shape) of `dtype` on the CPU.
    """
    result = torch.zeros(tuple(shape), dtype=dtype, device=logits.device)
    for part, block in _blocks(logits, shape, result):
        best = _channel(block, 0, part.shape).clone()
        for index in range(1, len(block)):
            _keep_largest(_channel(block, index, part.shape), index, best, part)
    return result.cpu()


def resample_nested(
    logits: Tensor,
    shape: Sequence[int],
    levels: Sequence[Sequence[int]],
    membership: NDArray[np.bool_],
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    """Interpolate logits (C, *spatial) of nested structures linearly to `shape`, and paint outer ones first.

    A structure is where its logit is above 0 (probability above 1/2). It is painted over the background and over what
    lies around it, whatever the logit of that, as nnU-Net's regions are; over anything else, which lies beside it,
    only if its logit is larger. (nnU-Net paints over that too, so that a spleen that is sure would lose to a tumour of
    the liver that is barely there.) Of structures of one level the one with the largest logit is painted.

    Args:
        logits: channel c belongs to index c + 1.
        shape: target size.
        levels: indices by how many others they lie in, outermost first.
        membership: (L, L), entry [i, j] tells whether i is j or lies around it.
        dtype: of the result.

    Returns:
        Indices (*shape) on the CPU, 0 where no structure is.
    """
    result = torch.zeros(tuple(shape), dtype=dtype, device=logits.device)
    for part, block in _blocks(logits, shape, result):
        height = torch.zeros(part.shape, dtype=logits.dtype, device=logits.device)
        for level in levels:
            height = _painted(block, part, height, level, membership)
    return result.cpu()


def _painted(
    block: Tensor, part: Tensor, height: Tensor, level: Sequence[int], membership: NDArray[np.bool_]
) -> Tensor:
    """Paint the structures of a level into `part`.

    Args:
        block: (C, *spatial), see `resample_nested`.
        part: what the levels around have painted; changed.
        height: the logit of what is painted, 0 for the background.
        level, membership: see `resample_nested`.

    Returns:
        The height afterwards.
    """
    below, best = part.clone(), torch.zeros_like(height)
    for index in level:
        bar = height.clone()
        for outer in np.flatnonzero(membership[:, index]).tolist():
            bar.masked_fill_(below == outer, 0)
        value = _channel(block, index - 1, part.shape)
        _keep_largest(value.masked_fill(value <= bar, 0), index, best, part)
    return torch.where(best > 0, best, height)


def _blocks(logits: Tensor, shape: Sequence[int], result: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of the result and the logits they follow from: planes if the size stays, else the whole.

    By planes it takes a tenth of the time: they fit into the processor's cache.
    """
    if tuple(logits.shape[1:]) == tuple(shape):
        yield from ((result[plane], logits[:, plane]) for plane in range(len(result)))
    else:
        yield result, logits


def _channel(logits: Tensor, channel: int, shape: Sequence[int]) -> Tensor:
    return resample(logits[channel].contiguous(), shape, "linear")
