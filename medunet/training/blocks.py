"""Arrays in blocks: a box is read from the disk by touching the blocks that it meets, and no others.

In the order of a plain array, a slice across the last axis of a CT touches every page of the file, and a small box
some twenty times its bytes. Blocks are not compressed: reading them costs no arithmetic, and the pages that the system
keeps in memory serve all processes. (nnU-Net compresses its blocks with blosc2 and pays with processor time.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEEP = (32, 32, 32)
FLAT = (64, 64, 1)
PLANE = (128, 128)
"""Voxels of a block, of volumes for 3D networks, of volumes for 2D networks, of pictures: 64 or 128 KiB of float32."""


def block_limit(rank: int, *, flat: bool) -> tuple[int, ...]:
    """The largest block for images of `rank` axes; `flat`: slices across the last axis are read."""
    if rank == len(PLANE):
        return PLANE
    return FLAT if flat else DEEP


def to_blocks(array: NDArray[Any], limit: Sequence[int]) -> NDArray[Any]:
    """(C, *S) as (*n, C, *b): n blocks of equal size b along each axis, the last ones filled up with 0.

    Args:
        array: (C, *S).
        limit: no block is larger; they are as small as makes them equal, so that little is filled up.
    """
    number = [math.ceil(size / most) for size, most in zip(array.shape[1:], limit, strict=True)]
    block = [math.ceil(size / n) for size, n in zip(array.shape[1:], number, strict=True)]
    result = np.zeros((*number, array.shape[0], *block), array.dtype)
    for index in itertools.product(*map(range, number)):
        box = (slice(None), *(slice(i * b, (i + 1) * b) for i, b in zip(index, block, strict=True)))
        part = array[box]
        inside = tuple(slice(length) for length in part.shape)
        result[index][inside] = part
    return result


class BlockedArray:
    """Reads (C, *S) out of blocks.

    Args:
        blocks: (*n, C, *b) from `to_blocks`, memory-mapped or not.
        shape: S.

    Raises:
        ValueError: `blocks` are not those of such an array.

    Attributes:
        shape: (C, *S).
        dtype: of the values.
        limit: size of a block.
    """

    def __init__(self, blocks: NDArray[Any], shape: Sequence[int]) -> None:
        rank = len(shape)
        if blocks.ndim != 2 * rank + 1 or 0 in blocks.shape:
            raise ValueError(f"blocks {blocks.shape} cannot be an image {tuple(shape)}")
        self._blocks = blocks
        self.limit = tuple(blocks.shape[rank + 1 :])
        number = tuple(math.ceil(size / b) for size, b in zip(shape, self.limit, strict=True))
        if number != blocks.shape[:rank]:
            raise ValueError(f"blocks {blocks.shape} cannot be an image {tuple(shape)}")
        self.shape = (blocks.shape[rank], *shape)
        self.dtype = blocks.dtype

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """A copy of a box; one slice per axis, channels first, without steps."""
        channels, *inner = box
        spans = [part.indices(size)[:2] for part, size in zip(inner, self.shape[1:], strict=True)]
        count = len(range(*channels.indices(self.shape[0])))
        result = np.empty((count, *(max(0, stop - start) for start, stop in spans)), self.dtype)
        if result.size == 0:
            return result
        met = (range(a // b, (z - 1) // b + 1) for (a, z), b in zip(spans, self.limit, strict=True))
        for index in itertools.product(*met):
            source, target = [channels], [slice(None)]
            for (start, stop), place, b in zip(spans, index, self.limit, strict=True):
                low, high = max(start, place * b), min(stop, (place + 1) * b)
                source.append(slice(low - place * b, high - place * b))
                target.append(slice(low - start, high - start))
            result[tuple(target)] = self._blocks[index][tuple(source)]
        return result

    def whole(self) -> NDArray[Any]:
        """All of it, (C, *S), C-contiguous."""
        return self[tuple(slice(None) for _ in self.shape)]
