"""Separable interpolation on a regular grid: nearest, linear, cubic and area, float32, one axis after the other.

Both grids cover the same field of view: outer voxel faces coincide, as in `Geometry.resampled`, in
`torch.nn.functional.interpolate(align_corners=False)` and in nnU-Net. torch has no cubic interpolation of
volumes, SciPy's needs a float64 copy of the whole volume, and MONAI's Spacing goes through one of the two.
The cubic kernel is Keys' (1981, a = -1/2, Catmull-Rom). Of the four, area alone looks at all samples of an axis that
shrinks, as Pillow does: linear weights as wide as the new samples lie apart. Knows nothing of geometry or labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["nearest", "linear", "cubic", "area"]


def taps(size: int, target: int, kind: Kind) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of (source index, weight), each of shape (target,), that interpolate `size` to `target` samples.

    Samples beyond the edge repeat the edge voxel. Weights sum to 1.
    """
    position = (torch.arange(target, dtype=torch.float64) + 0.5) * (size / target) - 0.5
    if kind == "nearest":
        # Half up with a little slack, so that float noise in the position cannot decide a tie.
        yield (position + 0.5 + 1e-6).floor().long().clamp(0, size - 1), torch.ones(target)
        return
    if kind == "area" and target < size:
        yield from _wide_taps(position, size / target, size)
        return
    base = (position + 1e-9).floor()
    t = (position - base).clamp(0, 1)
    if kind in ("linear", "area"):
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


def _wide_taps(position: Tensor, step: float, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As `taps`: weights fall linearly to 0 at a distance of `step`; nothing lies beyond the edge."""
    first = (position - step).ceil()
    indices = [first + offset for offset in range(int(2 * step) + 2)]
    weights = [(1 - (index - position).abs() / step).clamp(min=0) for index in indices]
    inside = [
        torch.where((index >= 0) & (index < size), weight, 0.0) for index, weight in zip(indices, weights, strict=True)
    ]
    total = torch.stack(inside).sum(0)
    for index, weight in zip(indices, inside, strict=True):
        yield index.long().clamp(0, size - 1), (weight / total).float()


@dataclass(frozen=True)
class Line:
    """How the samples along one axis become others: weighted sums of picked ones; without pairs they stay.

    Attributes:
        pairs: source indices and weights, (target,) each; what they give is added up.
        growth: samples of the whole result over those of the whole source.
    """

    pairs: tuple[tuple[Tensor, Tensor], ...]
    growth: float = 1.0

    @classmethod
    def over(cls, size: int, target: int, kind: Kind) -> Line:
        """From `size` samples to `target`."""
        return cls((), 1.0) if size == target else cls(tuple(taps(size, target, kind)), target / size)

    def target(self, size: int) -> int:
        """Samples that `size` of them become."""
        return len(self.pairs[0][0]) if self.pairs else size

    def matrix(self, size: int) -> Tensor:
        """The same as a matrix (target, size)."""
        result = torch.zeros(self.target(size), size)
        for index, weight in self.pairs:
            result[torch.arange(len(index)), index] += weight
        return result

    def part(self, first: int, stop: int) -> tuple[int, int, Line]:
        """First and last but one of the sources that targets `first` to `stop` need, and the line between the two."""
        if not self.pairs:
            return first, stop, self
        picked = [(index[first:stop], weight[first:stop]) for index, weight in self.pairs]
        low = min(int(index.min()) for index, _ in picked)
        high = max(int(index.max()) for index, _ in picked) + 1
        return low, high, Line(tuple((index - low, weight) for index, weight in picked), self.growth)


def lines_over(sizes: Sequence[int], shape: Sequence[int], kind: Kind) -> tuple[Line, ...]:
    """A line per axis."""
    return tuple(Line.over(size, int(target), kind) for size, target in zip(sizes, shape, strict=True))


def resample(array: Tensor, shape: Sequence[int], kind: Kind) -> Tensor:
    """Interpolate the last `len(shape)` axes of a float array (..., *spatial) to `shape`."""
    return along_lines(array, lines_over(array.shape[array.ndim - len(shape) :], shape, kind))


def along_lines(array: Tensor, lines: Sequence[Line]) -> Tensor:
    """Interpolate the last `len(lines)` axes of a float array (..., *spatial).

    Axes that shrink go first, so that later ones have less to do. An axis that keeps its size is untouched.
    """
    lead = array.ndim - len(lines)
    for axis in sorted(range(len(lines)), key=lambda axis: lines[axis].growth):
        array = _along(array, lead + axis, lines[axis].pairs)
    return array


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
        self._line = Line.over(size, target, "linear")
        self._target = target
        self._come = self._done = 0
        self._kept: Tensor | None = None

    def __call__(self, rows: Tensor, most: int) -> Iterator[tuple[int, int, Tensor, Line]]:
        """What can be told after the next rows (C, n, ...), at most `most` target rows at a time.

        Yields:
            First and last but one of some targets, the rows that they depend on, and the line from these to those.
            The rows are views but for the few that depend on earlier rows, too.
        """
        before, self._come = self._come, self._come + rows.shape[1]
        ready, on_kept = self._come, self._done
        if self._line.pairs:
            lower, upper = (index for index, _ in self._line.pairs)
            ready = int(torch.searchsorted(upper, self._come))
            on_kept = min(ready, int(torch.searchsorted(lower, before)))
        first = self._done
        while first < ready:
            stop = min(first + most, on_kept if first < on_kept else ready)
            low, high, line = self._line.part(first, stop)
            yield first, stop, self._between(rows, before, low, high), line
            first = stop
        self._done = ready
        if self._line.pairs and ready < self._target:
            low, _, _ = self._line.part(ready, ready + 1)
            self._kept = self._between(rows, before, low, self._come).clone()

    def _between(self, rows: Tensor, before: int, low: int, high: int) -> Tensor:
        """Rows `low` to `high`, of those that just came, from number `before` on, and of those that were kept."""
        fresh = rows[:, max(0, low - before) : high - before]
        if low >= before or self._kept is None:
            return fresh
        first = before - self._kept.shape[1]
        return torch.cat([self._kept[:, low - first : high - first], fresh], dim=1)


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
        keep_largest(resample((labels == index).float(), shape, "linear"), index, best, result)
    return result


def keep_largest(value: Tensor, index: int, best: Tensor, result: Tensor) -> None:
    """Put `index` where `value` exceeds `best`, and raise `best` to it; a tie stays with what was there."""
    result.masked_fill_(value > best, index)
    torch.maximum(best, value, out=best)
