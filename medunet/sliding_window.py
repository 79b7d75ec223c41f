"""Inference over an image of any size, window by window: Gaussian weights, or the overlap-tile of the first U-Net.

Windows stand on a regular grid (nnU-Net's steps: at most `patch * (1 - overlap)`, evenly spread, the last one at
the edge). The weights are separable (sigma = patch / 8), and so is their sum: it is a product of one vector per
axis, never a volume. MONAI's function holds a count map, takes the input's precision and is blocky by default.

A network with valid convolutions gives no output for the margin of its window, and needs no weights: tiles adjoin, and
the border of the image is mirrored outwards (`overlap_tile`; MONAI has none).
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

from medunet.config.network_options import NetworkOptions
from medunet.errors import DataError
from medunet.mirror import mirrored

Forward = Callable[[Tensor], Tensor]
"""Patches (B, C_in, *patch) float32 to logits (B, C_out, *patch) float32, smaller by the margin where there is one."""


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


def tile_starts(size: int, tile: int, stride: int) -> list[int]:
    """First voxels of the tiles along one axis; they cover `size`, and the last may reach beyond it.

    They stand whole strides apart, so that all tiles are pooled on one grid: a voxel gets the same logits whichever
    tile sees it. Tiles smaller than the stride cannot; they adjoin.

    Args:
        size: voxels of the axis.
        tile: voxels that a window has output for.
        stride: of the network.
    """
    step = tile // stride * stride or tile
    return list(range(0, max(0, size - tile) + step, step))


@dataclass(frozen=True)
class TileGrid:
    """Where the outputs of windows lie that see more than they have output for (Ronneberger 2015, figure 2).

    Attributes:
        shape: of the image.
        patch: what a window sees.
        margin: voxels on each side of it without output.
        starts: first voxel with output, per axis and tile, in the image.
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    margin: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @classmethod
    def over(cls, shape: Sequence[int], patch: Sequence[int], margin: Sequence[int], stride: Sequence[int]) -> TileGrid:
        """The grid for an image of `shape`.

        Raises:
            DataError: the patch is all margin.
        """
        tile = [p - 2 * m for p, m in zip(patch, margin, strict=True)]
        if min(tile) < 1:
            raise DataError(
                f"A window of {tuple(patch)} is all margin: the network needs {tuple(margin)} voxels on each side.",
                "Use a larger patch_size.",
            )
        starts = tuple(tuple(tile_starts(n, t, s)) for n, t, s in zip(shape, tile, stride, strict=True))
        return cls(tuple(shape), tuple(patch), tuple(margin), starts)

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.starts)

    def seen(self, image: Tensor, corner: Sequence[int]) -> Tensor:
        """The window (C, *patch) of the image (C, *shape) whose output begins at `corner`; a view where it is inside.

        All axes are cut before one is mirrored, so that no copy is larger than a window.
        """
        mirrors: list[tuple[int, Tensor]] = []
        for axis, (first, m, p, n) in enumerate(zip(corner, self.margin, self.patch, self.shape, strict=True), start=1):
            voxels = torch.from_numpy(mirrored(first - m, first - m + p, n))
            low, high = int(voxels.min()), int(voxels.max())
            image = image.narrow(axis, low, high + 1 - low)
            if high + 1 - low < p or low != first - m:
                mirrors.append((axis, voxels - low))
        for axis, voxels in mirrors:
            image = image.index_select(axis, voxels.to(image.device))
        return image

    def kept(self, corner: Sequence[int]) -> tuple[slice, ...]:
        """The part of the image that the output at `corner` fills; what reaches beyond is dropped."""
        return tuple(
            slice(first, min(first + p - 2 * m, n))
            for first, p, m, n in zip(corner, self.patch, self.margin, self.shape, strict=True)
        )


def overlap_tile(image: Tensor, forward: Forward, grid: TileGrid, *, batch_size: int = 1) -> Tensor:
    """Logits for a whole image by a network with valid convolutions: the same as one pass over all of it.

    The border is mirrored outwards, without repeating the voxel at the edge. Only the windows at work are copied.

    Args:
        image: (C_in, *S) float32.
        forward: the network; its output is smaller than the window by the margin on each side.
        grid: where the windows stand.
        batch_size: windows per call of `forward`.

    Returns:
        (C_out, *S) float32 on the image's device.
    """
    total: Tensor | None = None
    corners = itertools.product(*grid.starts)
    while batch := list(itertools.islice(corners, batch_size)):
        logits = forward(torch.stack([grid.seen(image, corner) for corner in batch]))
        if total is None:
            total = _accumulator(logits, grid.shape, image.device)
        for corner, values in zip(batch, logits, strict=True):
            kept = grid.kept(corner)
            inside = values[_all_channels([slice(box.stop - box.start) for box in kept])]
            total[_all_channels(kept)] = inside.to(image.device)
    if total is None:
        raise ValueError("An image has at least one tile.")
    return total


def network_logits(
    image: Tensor,
    forward: Forward,
    patch: Sequence[int],
    *,
    overlap: float,
    batch_size: int,
    mirror_axes: Sequence[int],
    network: NetworkOptions | None = None,
) -> Tensor:
    """Logits of an image by a network of its own rank or one less: `sliding_window` or `overlap_tile`, with mirrors.

    Args:
        image: (C_in, *S) float32.
        forward: the network, for patches of `len(patch)` axes.
        patch: window size; one axis fewer than the image means slice by slice along the last axis.
        overlap, batch_size: see `sliding_window`; `overlap` means nothing where the network has a margin.
        mirror_axes: average over all mirrored views of these axes; none: one view.
        network: its options, for margin and stride; none: no margin.
    """
    forward = with_mirrors(forward, mirror_axes)
    margin, stride = (network.margin, network.stride) if network is not None else ((0,), (1,))
    if image.ndim - 1 > len(patch):
        patch, margin, stride = (*patch, 1), (*margin, 0), (*stride, 1)
        forward = _slicewise(forward)
    if any(margin):
        grid = TileGrid.over(image.shape[1:], patch, margin, stride)
        return overlap_tile(image, forward, grid, batch_size=batch_size)
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
