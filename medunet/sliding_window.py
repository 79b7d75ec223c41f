"""Sliding-window inference over a volume of any size, with Gaussian weights.

Windows stand on a regular grid (nnU-Net's steps: at most `patch * (1 - overlap)`, evenly spread, the last one at
the edge). The weights are separable (sigma = patch / 8), and so is their sum: it is a product of one vector per
axis, never a volume. MONAI's function holds a count map, takes the input's precision and is blocky by default.
Knows nothing of files, labels or devices beyond the tensors it is given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]
"""Patches (B, C_in, *patch) float32 to logits (B, C_out, *patch) float32."""


def window_starts(size: int, patch: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis; they cover `size` and end at it.

    Args:
        size: voxels of the (padded) axis, at least `patch`.
        patch: voxels of a window.
        overlap: 0 to below 1, share of the patch that neighbours have in common at least.
    """
    if size <= patch:
        return [0]
    step = max(1.0, patch * (1 - overlap))
    count = math.ceil((size - patch) / step - 1e-9) + 1  # float noise in the step must not add a window
    return [round(index * (size - patch) / (count - 1)) for index in range(count)]


def gaussian_weights(patch: int) -> Tensor:
    """Weights (patch,) of one axis: a Gaussian of sigma patch / 8 around the centre, at most 1."""
    position = torch.arange(patch, dtype=torch.float64) - (patch - 1) / 2
    return torch.exp(-0.5 * (position / (patch / 8)) ** 2).float()


@dataclass(frozen=True)
class WindowGrid:
    """Where the windows stand on a volume, and how they are weighted.

    Attributes:
        shape: of the volume.
        patch: of a window.
        pad: voxels added before each axis so that a small volume fills one window (centred).
        starts: first voxels per axis, in the padded volume.
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    pad: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @classmethod
    def over(cls, shape: Sequence[int], patch: Sequence[int], overlap: float) -> WindowGrid:
        """The grid for a volume of `shape`."""
        padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
        return cls(
            shape=tuple(shape),
            patch=tuple(patch),
            pad=tuple((big - n) // 2 for big, n in zip(padded, shape, strict=True)),
            starts=tuple(tuple(window_starts(n, p, overlap)) for n, p in zip(padded, patch, strict=True)),
        )

    @property
    def padded(self) -> tuple[int, ...]:
        """Shape of the padded volume."""
        return tuple(max(n, p) for n, p in zip(self.shape, self.patch, strict=True))

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.starts)

    def windows(self) -> Iterator[tuple[slice, ...]]:
        """Slices into the padded volume, last axis fastest."""
        for corner in itertools.product(*self.starts):
            yield tuple(slice(start, start + size) for start, size in zip(corner, self.patch, strict=True))

    def shares(self) -> list[dict[int, Tensor]]:
        """Per axis and first voxel: weights (patch,) of that window, divided by the sum over all windows there.

        The product over axes is the share that a window has in each voxel; shares add up to 1.
        """
        return [
            {start: gaussian_weights(patch) / sums[start : start + patch] for start in starts}
            for patch, starts, sums in zip(self.patch, self.starts, self.axis_sums(), strict=True)
        ]

    def axis_sums(self) -> list[Tensor]:
        """Per axis: sum of the window weights at each voxel; the product over axes is the sum over windows."""
        sums = []
        for size, patch, starts in zip(self.padded, self.patch, self.starts, strict=True):
            total = torch.zeros(size)
            weights = gaussian_weights(patch)
            for start in starts:
                total[start : start + patch] += weights
            sums.append(total)
        return sums


def outer(vectors: Sequence[Tensor]) -> Tensor:
    """Product of one vector per axis as an array."""
    return reduce(lambda a, b: a.unsqueeze(-1) * b, vectors)


def sliding_window(
    image: Tensor, forward: Forward, patch: Sequence[int], *, overlap: float = 0.5, batch_size: int = 1
) -> Tensor:
    """Logits for a whole volume.

    Args:
        image: (C_in, *S) float32; smaller axes than the patch are padded with 0.
        forward: the network; its output has the patch's size.
        patch: window size.
        overlap: see `window_starts`.
        batch_size: windows per call of `forward`.

    Returns:
        (C_out, *S) float32 on the image's device, the weighted mean over the windows that see each voxel.
    """
    grid = WindowGrid.over(image.shape[1:], patch, overlap)
    image = pad_to(image, grid)
    shares = [{start: share.to(image.device) for start, share in axis.items()} for axis in grid.shares()]
    total: Tensor | None = None
    windows = grid.windows()
    while batch := list(itertools.islice(windows, batch_size)):
        logits = forward(torch.stack([image[_all_channels(window)] for window in batch]))
        if total is None:
            total = _accumulator(logits, grid.padded, image.device)
        for window, values in zip(batch, logits, strict=True):
            share = outer([axis[box.start] for axis, box in zip(shares, window, strict=True)])
            total[_all_channels(window)].addcmul_(values.to(image.device), share)
    if total is None:
        raise ValueError("A volume has at least one window.")
    inside = tuple(slice(p, p + n) for p, n in zip(grid.pad, grid.shape, strict=True))
    return total[_all_channels(inside)]


def network_logits(
    image: Tensor,
    forward: Forward,
    patch: Sequence[int],
    *,
    overlap: float,
    batch_size: int,
    mirror_axes: Sequence[int],
) -> Tensor:
    """Logits of an image by a network of its own rank or one less: `sliding_window` with mirrors.

    Args:
        image: (C_in, *S) float32.
        forward: the network, for patches of `len(patch)` axes.
        patch: window size; one axis fewer than the image means slice by slice along the last axis.
        overlap, batch_size: see `sliding_window`.
        mirror_axes: average over all mirrored views of these axes; none: one view.
    """
    forward = with_mirrors(forward, mirror_axes)
    if image.ndim - 1 > len(patch):
        patch, forward = (*patch, 1), _slicewise(forward)
    return sliding_window(image, forward, patch, overlap=overlap, batch_size=batch_size)


def _slicewise(forward: Forward) -> Forward:
    def run(patches: Tensor) -> Tensor:
        return forward(patches.squeeze(-1)).unsqueeze(-1)

    return run


def _all_channels(box: Sequence[slice]) -> tuple[slice, ...]:
    return (slice(None), *box)


def _accumulator(logits: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Zeros (C, *shape) in the memory order of `logits`: adding across orders costs three times as much."""
    channels = logits.shape[1]
    if channels > 1 and logits.stride(1) == 1:
        return torch.zeros((*shape, channels), device=device).movedim(-1, 0)
    return torch.zeros((channels, *shape), device=device)


def pad_to(image: Tensor, grid: WindowGrid) -> Tensor:
    """Centre (C, *S) in the padded volume, zeros around."""
    if grid.padded == grid.shape:
        return image
    result = torch.zeros((image.shape[0], *grid.padded), dtype=image.dtype, device=image.device)
    inside = tuple(slice(p, p + n) for p, n in zip(grid.pad, grid.shape, strict=True))
    result[_all_channels(inside)] = image
    return result


def with_mirrors(forward: Forward, axes: Sequence[int]) -> Forward:
    """Average `forward` over all 2^n mirrored views of the spatial `axes` (0 first); no axes: `forward` itself.

    The mean is of logits, as in nnU-Net.
    """
    if not axes:
        return forward
    views = [subset for n in range(len(axes) + 1) for subset in itertools.combinations(axes, n)]

    def mirrored(patches: Tensor) -> Tensor:
        total = torch.zeros((), device=patches.device)
        for view in views:
            dims = [axis + 2 for axis in view]
            total = total + forward(patches.flip(dims)).flip(dims)
        return total / len(views)

    return mirrored
