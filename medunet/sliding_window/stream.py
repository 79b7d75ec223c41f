"""Logits of an image of any size, slab by slab: what windows still touch is held, what they have left is handed on.

Windows are visited in the order of one axis, the `axis` of the stream. Rows of the image across that axis which no
later window sees are final, and leave. So memory is that of one window's depth, however long the image is. MONAI and
nnU-Net hold the logits of the whole volume, the former twice. Knows nothing of files, labels or devices beyond the
tensors it is given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from medunet.sliding_window.spans import Span, Spans

Forward = Callable[[Tensor], Tensor]
"""Patches (B, C_in, *patch) float32 to logits (B, C_out, *patch) float32, smaller by the margin where there is one."""


class Image(Protocol):
    """What windows are cut from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""

    def rows(self, axis: int, low: int, high: int) -> Tensor:
        """(C_in, *shape) float32, of which only `low` to `high` along the spatial `axis`."""


class HeldImage:
    """An image (C_in, *S) float32 that is in memory as a whole."""

    def __init__(self, array: Tensor) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(self.array.shape[1:])

    def rows(self, axis: int, low: int, high: int) -> Tensor:
        """A view of the rows."""
        return self.array.narrow(axis + 1, low, high - low)


class Known(Protocol):
    """Windows whose logits are known without the network."""

    def answer(self, forward: Forward, patch: Tensor) -> Tensor | None:
        """Logits (C_out, *patch) of a window (C_in, *patch); None of one that the network has to see."""


Window = tuple[Span, ...]
"""A span per axis."""


def stream_logits(
    image: Image,
    forward: Forward,
    grid: Sequence[Spans],
    axis: int,
    *,
    batch_size: int = 1,
    known: Known | None = None,
) -> Iterator[Tensor]:
    """Logits of the rows of an image, in order.

    Args:
        image: what the windows are cut from.
        forward: the network.
        grid: the windows, along each axis; those of a part of the image give the logits of that part (`within`).
        axis: the spatial axis to go along.
        batch_size: windows per call of `forward`, at most; those of one slab go together.
        known: windows that `forward` is not called for.

    Yields:
        (C_out, *S) float32 on the device of the logits, of which the next few rows along `axis`: the weighted mean
        over the windows that see each voxel. It is a view that is good until the next one is asked for.
    """
    slab: Tensor | None = None
    shape = [spans[-1].stop for spans in grid]
    ends = [*(span.first for span in grid[axis][1:]), shape[axis]]
    for span, end in zip(grid[axis], ends, strict=True):
        rows = image.rows(axis, span.low, span.high)
        windows = itertools.product(*(grid[:axis]), (span,), *grid[axis + 1 :])
        for window, values in _answers(rows, windows, axis, forward, batch_size, known):
            if slab is None:
                slab = _slab(values, shape, axis, max(each.stop - each.first for each in grid[axis]))
            _add(slab, values, window, axis)
            del values  # or the logits of one batch would be held while the next is computed
        if slab is None:
            raise ValueError("An axis has at least one window.")
        yield slab.narrow(axis + 1, 0, end - span.first)
        _move_on(slab, axis + 1, end - span.first)


def _answers(
    rows: Tensor,
    windows: Iterable[Window],
    axis: int,
    forward: Forward,
    batch_size: int,
    known: Known | None,
) -> Iterator[tuple[Window, Tensor]]:
    """Windows and their logits (C_out, *S), in order; those that are known take no place in a batch."""
    waiting: list[tuple[Window, Tensor | None]] = []
    patches: list[Tensor] = []
    for window in windows:
        patch = _cut(rows, window, axis)
        logits = None if known is None else known.answer(forward, patch)
        waiting.append((window, logits))
        if logits is None:
            patches.append(patch)
        if len(patches) == batch_size:
            yield from _computed(forward, patches, waiting)
            waiting, patches = [], []
    yield from _computed(forward, patches, waiting)


def _computed(
    forward: Forward, patches: list[Tensor], waiting: Sequence[tuple[Window, Tensor | None]]
) -> Iterator[tuple[Window, Tensor]]:
    """Windows with their logits, of which those of `patches` are missing."""
    found = iter(forward(torch.stack(patches)) if patches else ())
    for window, logits in waiting:
        yield window, next(found) if logits is None else logits


def _cut(rows: Tensor, window: Window, axis: int) -> Tensor:
    """The window (C_in, *patch) of rows that begin at its own first one.

    All axes are cut before one is mirrored, so that no copy is larger than a window.
    """
    for number, span in enumerate(window):
        rows = rows.narrow(number + 1, 0 if number == axis else span.low, span.high - span.low)
    for number, span in enumerate(window, start=1):
        if span.index is not None:
            rows = rows.index_select(number, span.index.to(rows.device))
    pads = [side for span in reversed(window) for side in span.pad]
    return torch.nn.functional.pad(rows, pads) if any(pads) else rows


def _add(slab: Tensor, values: Tensor, window: Window, axis: int) -> None:
    """Add the output (C_out, *patch) of a window to the rows, of which the first is its own first one."""
    for number, span in enumerate(window):
        length = span.stop - span.first
        slab = slab.narrow(number + 1, 0 if number == axis else span.first, length)
        values = values.narrow(number + 1, span.skip, length)
    slab.addcmul_(values, outer([span.share.to(slab.device) for span in window]))


def outer(vectors: Sequence[Tensor]) -> Tensor:
    """Product of one vector per axis as an array."""
    return reduce(lambda a, b: a.unsqueeze(-1) * b, vectors)


def _slab(logits: Tensor, shape: Sequence[int], axis: int, depth: int) -> Tensor:
    """Zeros (C, *shape), `depth` deep along `axis`, in the memory order of `logits` (C, *patch).

    Adding across orders costs three times as much.
    """
    size = (*shape[:axis], depth, *shape[axis + 1 :])
    channels = len(logits)
    if channels > 1 and logits.stride(0) == 1:
        return torch.zeros((*size, channels), device=logits.device).movedim(-1, 0)
    return torch.zeros((channels, *size), device=logits.device)


def _move_on(slab: Tensor, axis: int, step: int) -> None:
    """Drop the first `step` rows, move the others up and put zeros after them."""
    depth = slab.shape[axis]
    for first in range(0, depth - step, step):  # parts no longer than the step, so that none overlaps where it goes
        length = min(step, depth - step - first)
        slab.narrow(axis, first, length).copy_(slab.narrow(axis, first + step, length))
    slab.narrow(axis, depth - step, step).zero_()


def rows_together(streams: Sequence[Iterator[Tensor]], axis: int) -> Iterator[list[Tensor]]:
    """Rows of several streams along the same axis of one image, whose pieces may end at different rows.

    Yields:
        The same rows of each; views that are good until the next ones are asked for.
    """
    heads = [next(stream) for stream in streams]
    while heads:
        length = min(head.shape[axis + 1] for head in heads)
        yield [head.narrow(axis + 1, 0, length) for head in heads]
        rests = [head.narrow(axis + 1, length, head.shape[axis + 1] - length) for head in heads]
        pairs = zip(rests, streams, strict=True)
        following = (rest if rest.shape[axis + 1] else next(stream, None) for rest, stream in pairs)
        heads = [head for head in following if head is not None]


def mean_of(parts: Sequence[Tensor]) -> Tensor:
    """The mean, in the memory of the first."""
    first, *others = parts
    for part in others:
        first += part
    return first.div_(len(parts)) if others else first


def with_mirrors(forward: Forward, axes: Sequence[int], batch_size: int = 1) -> Forward:
    """Average `forward` over all 2^n mirrored views of the spatial `axes` (0 first); no axes: `forward` itself.

    The mean is of logits, as in nnU-Net. As many views of a patch go together as `batch_size` takes patches.
    """
    if not axes:
        return forward
    views = [[axis + 2 for axis in subset] for n in range(len(axes) + 1) for subset in itertools.combinations(axes, n)]

    def averaged(patches: Tensor) -> Tensor:
        together = max(1, batch_size // len(patches))
        total: Tensor | None = None
        for first in range(0, len(views), together):
            some = views[first : first + together]
            logits = forward(torch.cat([patches.flip(dims) for dims in some]))
            for dims, part in zip(some, logits.split(len(patches)), strict=True):
                total = part.flip(dims) if total is None else total.add_(part.flip(dims))
        if total is None:
            raise ValueError("There is at least one view.")
        return total.div_(len(views))

    return averaged
