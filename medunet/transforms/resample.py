"""Separable interpolation on a regular grid: nearest, linear and cubic, float32, one axis after the other.

Both grids cover the same field of view: outer voxel faces coincide, as in `Geometry.resampled`, in
`torch.nn.functional.interpolate(align_corners=False)` and in nnU-Net. torch has no cubic interpolation of
volumes, SciPy's needs a float64 copy of the whole volume, and MONAI's Spacing goes through one of the two.
The cubic kernel is Keys' (1981, a = -1/2, Catmull-Rom). Knows nothing of geometry or labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    lead = array.ndim - len(shape)
    sizes = array.shape[lead:]
    for axis in _order(sizes, shape):
        array = _along(array, lead + axis, list(taps(sizes[axis], int(shape[axis]), kind)))
    return array


def resample_rows(
    read: Callable[[int, int], Tensor],
    sizes: Sequence[int],
    shape: Sequence[int],
    kind: Kind,
    axis: int,
    first: int,
    stop: int,
) -> Tensor:
    """Rows `first` to `stop` along `axis` of what `resample` makes of a whole array, bit for bit.

    Args:
        read: gives (*sizes) float32, of which only the rows from one number to another along `axis`.
        sizes: of the whole array.
        shape: of the whole result.
        kind: of interpolation.
        axis: that of the rows.
        first, stop: the rows that are wanted.
    """
    if sizes[axis] == shape[axis]:
        array, known = read(first, stop), []
    else:
        known = [(index[first:stop], weight[first:stop]) for index, weight in taps(sizes[axis], shape[axis], kind)]
        low = min(int(index.min()) for index, _ in known)
        array = read(low, max(int(index.max()) for index, _ in known) + 1)
        known = [(index - low, weight) for index, weight in known]
    for number in _order(sizes, shape):
        pairs = known if number == axis else list(taps(sizes[number], int(shape[number]), kind))
        array = _along(array, number, pairs)
    return array


def _order(sizes: Sequence[int], shape: Sequence[int]) -> list[int]:
    """The axes that change, those that shrink most first."""
    axes = [axis for axis in range(len(shape)) if sizes[axis] != shape[axis]]
    return sorted(axes, key=lambda axis: shape[axis] / sizes[axis])


def _along(array: Tensor, axis: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The weighted sum of samples along one axis; a single pair only picks."""
    view = [1] * array.ndim
    view[axis] = -1
    result: Tensor | None = None
    for index, weight in pairs:
        part = array.index_select(axis, index.to(array.device))
        if len(pairs) == 1:
            return part
        factor = weight.to(array.device, array.dtype).view(view)
        result = part.mul_(factor) if result is None else result.addcmul_(part, factor)
    return array if result is None else result


class LinearRows:
    """Linear interpolation along the second axis of an array that comes piece by piece.

    Args:
        size: rows that will come.
        target: rows that they become.
    """

    def __init__(self, size: int, target: int) -> None:
        (self._low, self._low_weight), (self._high, self._high_weight) = taps(size, target, "linear")
        self._same = size == target
        self._target = target
        self._come = self._done = 0
        self._kept: Tensor | None = None

    def __call__(self, rows: Tensor, most: int) -> Iterator[tuple[int, Tensor]]:
        """Give what follows from the next rows (C, n, ...), at most `most` rows at a time, with the first's number."""
        before, self._come = self._come, self._come + rows.shape[1]
        if self._same:
            for first in range(0, rows.shape[1], most):
                yield before + first, rows[:, first : first + most]
            return
        ready = int(torch.searchsorted(self._high, self._come))
        while self._done < ready:
            stop = min(self._done + most, ready)
            low, high = (index[self._done : stop] for index in (self._low, self._high))
            begin, end = int(low[0]), int(high[-1]) + 1
            held = self._between(rows, before, begin, end)
            weights = [weight[self._done : stop] for weight in (self._low_weight, self._high_weight)]
            yield self._done, _along(held, 1, [(low - begin, weights[0]), (high - begin, weights[1])])
            self._done = stop
        if ready < self._target:
            self._kept = self._between(rows, before, int(self._low[ready]), self._come).clone()

    def _between(self, rows: Tensor, before: int, begin: int, end: int) -> Tensor:
        """Rows from one number to another, of those that just came and those that were kept."""
        fresh = rows[:, max(0, begin - before) : end - before]
        if begin >= before or self._kept is None:
            return fresh
        first = before - self._kept.shape[1]
        return torch.cat([self._kept[:, begin - first : end - first], fresh], dim=1)


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
